// Telling whether a host is this machine.

package native

import (
	"net"
	"strings"

	"github.com/ravnest/ravnest/signaling/client"
)

// Loopback tells whether the host at addr is reached over this machine's loopback
// interface, so that everyone who joined it is on this machine too. A host behind a
// forwarded port looks like that as well: its providers must then be here.
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
