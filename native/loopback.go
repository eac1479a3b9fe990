// Telling whether others are on this machine.

package native

import (
	"net"
	"strings"

	"github.com/ravnest/ravnest/signaling/client"
)

// Loopback tells whether the host at addr is reached over this machine's loopback
// interface. A host behind a forwarded port looks like that as well; Network tells such
// machines apart.
func Loopback(addr string) bool {
	u, err := client.ParseURL(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && ip.IsLoopback()
}
