// The address at which others reach a listener.

package native

import "net"

// Reachable is where others on the network reach a listener: its own address, or one of
// this machine's where it listens on all of them.
func Reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	at := *tcp
	at.IP, at.Zone = net.IPv4(127, 0, 0, 1), ""
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return at.String()
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			at.IP = n.IP
			break
		}
	}
	return at.String()
}
