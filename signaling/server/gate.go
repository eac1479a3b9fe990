package server

// The gate is what strangers meet first: it counts the host's connections and
// keeps each of them moving.
//
// A connection that has not shown a token yet may be anybody's. There is room for
// a fixed number of those, and when it is full a new one is not turned away: it
// takes the place of the one that has stood still the longest at the address that
// holds the most. So an attacker who fills the room loses their own connections
// first, and where a reverse proxy makes all addresses one, whoever moves stays.
// Providers that have been let in do not count: they always have room.

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// writePiece is what has to go out within the idle timeout: a peer that takes
// less is not reading.
const writePiece = 64 << 10

type gate struct {
	limit int           // connections that are not members'
	stall time.Duration // for writePiece to be taken

	mu      sync.Mutex
	conns   map[*gated]struct{} // not those of members
	evicted int64
}

func newGate(limit int, stall time.Duration) *gate {
	return &gate{limit: limit, stall: stall, conns: map[*gated]struct{}{}}
}

// gated is a connection that the gate watches.
type gated struct {
	net.Conn
	g     *gate
	from  netip.Addr
	moved atomic.Int64 // when bytes last moved, Unix nanoseconds
}

func (c *gated) touch() { c.moved.Store(time.Now().UnixNano()) }

func (c *gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.touch()
	}
	return n, err
}

// Write gives every piece a deadline of its own, so that a long answer may take
// its time but not stand still.
func (c *gated) Write(b []byte) (n int, err error) {
	for {
		piece := b[n:min(len(b), n+writePiece)]
		if err := c.SetWriteDeadline(time.Now().Add(c.g.stall)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(piece)
		n += m
		if m > 0 {
			c.touch()
		}
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

func (c *gated) Close() error {
	c.g.forget(c)
	return c.Conn.Close()
}

func (g *gate) forget(c *gated) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
}

// enter takes a connection in and closes another one if the room is full.
func (g *gate) enter(conn net.Conn) *gated {
	c := &gated{Conn: conn, g: g, from: addrOf(conn.RemoteAddr())}
	c.touch()
	g.mu.Lock()
	g.conns[c] = struct{}{}
	var out *gated
	if len(g.conns) > g.limit {
		out = g.stalest()
		delete(g.conns, out)
		g.evicted++
	}
	g.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
	return c
}

// stalest is the connection that has stood still the longest among those of the
// address that has the most.
func (g *gate) stalest() *gated {
	held := map[netip.Addr]int{}
	for c := range g.conns {
		held[c.from]++
	}
	var out *gated
	for c := range g.conns {
		switch {
		case out == nil || held[c.from] > held[out.from]:
			out = c
		case held[c.from] == held[out.from] && c.moved.Load() < out.moved.Load():
			out = c
		}
	}
	return out
}

// addrOf is a connection's other end as a share is counted by: an IPv4 address,
// or the /64 that an IPv6 host may choose its addresses from.
func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		p, _ := ip.Prefix(64)
		return p.Addr()
	}
	return ip
}

// gateListener puts accepted connections behind the gate.
type gateListener struct {
	net.Listener
	s *Server
}

func (l gateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &front{gated: l.s.gate.enter(c), s: l.s}, nil
}
