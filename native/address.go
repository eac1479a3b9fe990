// The address at which others reach a listener.

package native

import "net"

// Reachable is where others on the network reach a listener: its own address, or one of
// this machine's where it listens on all of them. IPv4 is preferred, since everyone can
// type it; a machine that has IPv6 alone is reached by that.
func Reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		addrs = nil
	}
	return (&net.TCPAddr{IP: choose(addrs, tcp.IP.To4() == nil), Port: tcp.Port}).String()
}

// choose picks the address to be told to others; six: IPv6 will do.
func choose(addrs []net.Addr, six bool) net.IP {
	var found net.IP
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || !n.IP.IsGlobalUnicast():
		case n.IP.To4() != nil:
			return n.IP
		case six && found == nil:
			found = n.IP
		}
	}
	if found == nil {
		found = net.IPv4(127, 0, 0, 1)
	}
	return found
}
