// Detecting whether a host is on this machine.

package native

import (
	"net"
	"strings"

	"github.com/ravnest/ravnest/signaling/client"
)

// Loopback reports whether the host at addr is reached over this machine's loopback interface.
// That is also true of a host behind a forwarded port; Network distinguishes such machines.
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
