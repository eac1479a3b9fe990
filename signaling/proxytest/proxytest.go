// Package proxytest is a TCP proxy for tests, whose connections can be cut: what a proxy that
// restarts or a phone that changes its network does to a connection.
package proxytest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy forwards connections to an address.
type Proxy struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	to     string
	closed bool
	conns  map[net.Conn]bool // accepted
}

// New starts a proxy on a port of the loopback interface, which forwards to the address to
// and is closed when the test ends.
func New(t testing.TB, to string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, to: to, conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.forward(in) })
		}
	})
	t.Cleanup(func() {
		p.Close()
		p.wg.Wait()
	})
	return p
}

// Addr returns the proxy's own address.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Redirect forwards the connections that are made from now on to another address.
func (p *Proxy) Redirect(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// Cut resets all connections, so that data in transit is lost, and returns their number.
// Clients may connect again.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.conns)
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(p.conns)
	return n
}

// Close cuts all connections and accepts no more.
func (p *Proxy) Close() {
	p.ln.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
}

// forward copies in both directions until one ends.
func (p *Proxy) forward(in net.Conn) {
	defer in.Close()
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[in] = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range [2][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(c[0], c[1])
			in.Close()
			out.Close()
		})
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, in)
	p.mu.Unlock()
}
