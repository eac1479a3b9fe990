package server

// A socket of a machine with several addresses answers from the one that was called. Left to the
// system, an answer comes from the address of the route to who asked, and whoever called another
// one drops it: browsers and routers take no packets from strangers.

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// remembered is of how many callers it is known at least which address they have called. A caller
// that has been forgotten is answered as the system likes until its next packet.
const remembered = 1 << 14

// sourced is a socket of all addresses, which answers from the one that was called.
type sourced struct {
	*net.UDPConn
	oob []byte // what the reading goroutine receives beside a packet

	mu          sync.Mutex
	called, old map[netip.AddrPort]netip.Addr
}

// answering makes a socket of all addresses answer from the one that was called.
func answering(c *net.UDPConn) net.PacketConn {
	at := c.LocalAddr().(*net.UDPAddr)
	raw, err := c.SyscallConn()
	if err != nil || !at.IP.IsUnspecified() {
		return c
	}
	// A socket of IPv6 has the option of IPv6 alone, for both kinds of packets.
	opt := error(nil)
	err = raw.Control(func(fd uintptr) {
		if opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); opt != nil {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	if err != nil || opt != nil {
		return c
	}
	return &sourced{UDPConn: c, oob: make([]byte, 128), called: map[netip.AddrPort]netip.Addr{}}
}

// ReadFrom implements net.PacketConn. It is for one goroutine at a time.
func (s *sourced) ReadFrom(b []byte) (int, net.Addr, error) {
	n, m, _, from, err := s.ReadMsgUDPAddrPort(b, s.oob)
	if err != nil {
		return n, nil, err
	}
	if at, ok := destination(s.oob[:m]); ok {
		s.note(from, at)
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo implements net.PacketConn.
func (s *sourced) WriteTo(b []byte, to net.Addr) (int, error) {
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return s.UDPConn.WriteTo(b, to)
	}
	if at, ok := s.find(ua.AddrPort()); ok {
		if n, _, err := s.WriteMsgUDPAddrPort(b, source(at), ua.AddrPort()); err == nil {
			return n, nil
		} // the address may have gone
	}
	return s.UDPConn.WriteTo(b, to)
}

// note remembers which address was called. There are two maps: when the newer one is full, what
// was not seen since it was begun is forgotten.
func (s *sourced) note(from netip.AddrPort, at netip.Addr) {
	from = plain(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.called[from]; ok && was == at {
		return
	}
	if len(s.called) >= remembered {
		s.old, s.called = s.called, map[netip.AddrPort]netip.Addr{}
	}
	s.called[from] = at
}

func (s *sourced) find(to netip.AddrPort) (netip.Addr, bool) {
	to = plain(to)
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.called[to]
	if !ok {
		at, ok = s.old[to]
	}
	return at, ok
}

// plain is an address as it is compared.
func plain(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// destination finds the address to which a packet was sent, in the form that the socket's kind has.
func destination(oob []byte) (netip.Addr, bool) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}, false
		}
		switch {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(body) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(body)), true
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(body) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(body[8:])), true // its last field, the header's destination
		}
		oob = rest
	}
	return netip.Addr{}, false
}

// source asks for an answer from an address.
func source(at netip.Addr) []byte {
	if at.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: at.As4()}) // the interface is the route's
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: at.As16()})
}
