package server

// The gate protects the host from strangers: it bounds the number of connections and closes
// those that do not keep moving.
//
// A connection that has not shown a token yet may be anybody's. There is room for a fixed
// number of those. When it is full, a new connection is not refused but replaces another:
// the one idle for longest at the address with the most connections. An address with more than
// its share makes room for itself. So an attacker who
// fills the room loses their own connections first, and behind a reverse proxy, where all
// addresses look the same, active connections stay. Providers that have joined do not count.

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// writePiece is how many bytes must go out within the idle timeout. A peer that takes less
// is not reading.
const writePiece = 64 << 10

type gate struct {
	limit int           // on connections that are not members'
	share func() int    // on those of one address
	stall time.Duration // time allowed for sending writePiece bytes

	mu      sync.Mutex
	conns   map[*gated]struct{} // without those of members
	evicted int64
}

func newGate(limit int, share func() int, stall time.Duration) *gate {
	return &gate{limit: limit, share: share, stall: stall, conns: map[*gated]struct{}{}}
}

// gated is a connection that the gate watches.
type gated struct {
	net.Conn
	g     *gate
	from  netip.Addr   // under the gate's lock
	known bool         // from is the sender's, and not a proxy's
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

// Write sends b in pieces, each with a deadline of its own, so that a long answer may take
// its time but must keep moving.
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

// enter adds a connection, and closes another one if there are too many, in all or of its
// address. proxied: which that is will be known from its requests.
func (g *gate) enter(conn net.Conn, proxied bool) *gated {
	c := &gated{Conn: conn, g: g, from: addrOf(conn.RemoteAddr()), known: !proxied}
	c.touch()
	share := g.share()
	g.mu.Lock()
	g.conns[c] = struct{}{}
	out := g.crowded(c, share)
	g.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
	return c
}

// belongs notes the address that a proxy's connection serves.
func (g *gate) belongs(c *gated, from netip.Addr) {
	share := g.share()
	g.mu.Lock()
	if c.known && c.from == from {
		g.mu.Unlock()
		return
	}
	c.from, c.known = from, true
	out := g.crowded(c, share)
	g.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
}

// crowded takes out the connection that has to make room for c; nil: none. g.mu is held.
func (g *gate) crowded(c *gated, share int) *gated {
	held := map[netip.Addr]int{}
	for o := range g.conns {
		held[o.from]++
	}
	if c.known && held[c.from] > share {
		clear(held)
		held[c.from] = share // the most: it is one of its own
	} else if len(g.conns) <= g.limit {
		return nil
	}
	out := g.stalest(held)
	delete(g.conns, out)
	g.evicted++
	return out
}

// stalest returns the connection idle for longest among those of the address that has the
// most.
func (g *gate) stalest(held map[netip.Addr]int) *gated {
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

// addrOf returns the address by which connections are counted: an IPv4 address, or the /64
// from which an IPv6 host can choose its addresses freely.
func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return networkOf(ap.Addr())
}

func networkOf(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
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
	return &front{gated: l.s.gate.enter(c, l.s.cfg.Proxy), s: l.s}, nil
}
