// The address at which others reach a listener.

package native

import "net"

// Reachable returns an address at which others on the network reach a listener: its own, or
// one of this machine's if it listens on all. IPv4 is preferred, as it is easy to type; IPv6
// is used if the machine has nothing else.
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

// choose picks the address to tell others. If six is set, it may be an IPv6 address.
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
