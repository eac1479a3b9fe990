package server

// One port serves everything: HTTP, TLS and TURN over TCP are told apart by their first
// byte.

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// First bytes of connections (RFC 8446, section 5.1; RFC 8489, section 5). HTTP requests
// begin with a capital letter.
const (
	tlsHandshake = 0x16
	stunRequests = 0x01 // the highest first byte of a STUN request
)

// front is a connection whose first byte decides which protocol it speaks.
type front struct {
	*gated // the connection as accepted
	s      *Server

	once    sync.Once
	decided atomic.Bool // the fields below are set
	io      net.Conn    // for reading and writing: the connection, or TLS over it
	tls     bool
	away    bool // handed to the relay
	err     error
}

// gone reports whether the relay has taken the connection over, with its deadlines and end.
func (f *front) gone() bool { return f.decided.Load() && f.away }

// prefixed is a connection that first returns bytes that were already read from it.
type prefixed struct {
	net.Conn
	head []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// peek returns the first byte of c, and a connection from which it can still be read.
func peek(c net.Conn) (byte, net.Conn, error) {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, c, err
	}
	return b[0], &prefixed{c, b[:]}, nil
}

// decide chooses the protocol by the first byte. It runs in the goroutine of the connection,
// under the deadline for a request's header.
func (f *front) decide() {
	defer f.decided.Store(true)
	f.io = f.gated
	first, c, err := peek(f.gated)
	if err == nil && first == tlsHandshake && f.s.cfg.TLS != nil {
		f.tls = true
		f.io = tls.Server(c, f.s.cfg.TLS)
		if first, c, err = peek(f.io); err == nil {
			f.io = c
		}
	} else if err == nil {
		f.io = c
	}
	if err != nil {
		f.err = err
		return
	}
	if first <= stunRequests && f.s.relay != nil {
		f.away, f.err = true, io.EOF
		_ = f.gated.SetDeadline(time.Time{})
		f.s.relay.Take(f.io, func() { f.g.forget(f.gated) })
	}
}

func (f *front) Read(b []byte) (int, error) {
	f.once.Do(f.decide)
	if f.err != nil {
		return 0, f.err
	}
	return f.io.Read(b)
}

func (f *front) Write(b []byte) (int, error) {
	if !f.decided.Load() || f.away {
		return 0, net.ErrClosed
	}
	return f.io.Write(b)
}

func (f *front) Close() error {
	switch {
	case f.gone():
		return nil
	case f.decided.Load():
		return f.io.Close()
	}
	return f.gated.Close()
}

func (f *front) SetDeadline(t time.Time) error {
	if f.gone() {
		return nil
	}
	return f.gated.SetDeadline(t)
}

func (f *front) SetReadDeadline(t time.Time) error {
	if f.gone() {
		return nil
	}
	return f.gated.SetReadDeadline(t)
}

func (f *front) SetWriteDeadline(t time.Time) error {
	if f.gone() {
		return nil
	}
	return f.gated.SetWriteDeadline(t)
}

// frontKey is the context key of a request's connection.
type frontKey struct{}

// withConn is the http.Server's ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, frontKey{}, c)
}

// letIn marks the request's connection as a member's: it no longer counts as a stranger's.
func letIn(r *http.Request) {
	if f, ok := r.Context().Value(frontKey{}).(*front); ok {
		f.g.forget(f.gated)
	}
}

// secure reports whether a request came over TLS that this host terminates.
func secure(r *http.Request) bool {
	f, ok := r.Context().Value(frontKey{}).(*front)
	return ok && f.tls
}
