package server

// One port serves all: HTTP, TLS and TURN over TCP are told apart by their first
// byte. Also here: by which name the host is known outside, and whom to believe
// about that.

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
)

// First bytes of connections (RFC 8446, section 5.1; RFC 8489, section 5). Those of
// HTTP requests are capital letters.
const (
	tlsHandshake = 0x16
	stunRequests = 0x01 // the highest first byte of a STUN request
)

// front is a connection whose first byte decides what it is.
type front struct {
	*gated // as it came
	s      *Server

	once    sync.Once
	decided atomic.Bool // what follows is set
	io      net.Conn    // where bytes are read and written: below, or TLS on it
	tls     bool
	away    bool // the relay has it
	err     error
}

// gone tells whether the relay has it: its end and its deadlines are the relay's then.
func (f *front) gone() bool { return f.decided.Load() && f.away }

// prefixed gives bytes back that were read to look at them.
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

// peek reads one byte and returns a connection that still has it.
func peek(c net.Conn) (byte, net.Conn, error) {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, c, err
	}
	return b[0], &prefixed{c, b[:]}, nil
}

// decide looks at the first byte. It runs in the goroutine of the connection, under the
// deadline for a request's header.
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

// frontKey finds a request's connection in its context.
type frontKey struct{}

// withConn is the http.Server's ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, frontKey{}, c)
}

// letIn takes the request's connection out of the strangers' room for good: it is a
// member's.
func letIn(r *http.Request) {
	if f, ok := r.Context().Value(frontKey{}).(*front); ok {
		f.g.forget(f.gated)
	}
}

// secure tells whether a request came by TLS of this host.
func secure(r *http.Request) bool {
	f, ok := r.Context().Value(frontKey{}).(*front)
	return ok && f.tls
}

// outside makes a handler fit the address that Config.Public says: its path may be on
// requests or not, as a proxy passes it on or takes it off; and with TLS of its own the
// host answers plain requests with where to go instead.
func (s *Server) outside(next http.Handler) http.Handler {
	prefix := ""
	if s.cfg.Public != nil {
		prefix = strings.TrimRight(s.cfg.Public.Path, "/")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.TLS != nil && !secure(r) {
			w.Header().Set("Connection", "close")
			http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusPermanentRedirect)
			return
		}
		switch rest, ok := strings.CutPrefix(r.URL.Path, prefix); {
		case prefix == "" || !ok:
		case rest == "":
			http.Redirect(w, r, prefix+"/", http.StatusPermanentRedirect)
			return
		case rest[0] == '/':
			u := *r.URL
			u.Path, u.RawPath = rest, ""
			r2 := *r
			r2.URL = &u
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

// origins are those of pages that may speak to the host, beside the one that the request
// names as its own host.
func (s *Server) origins(r *http.Request) []string {
	var o []string
	if s.cfg.Public != nil {
		o = append(o, s.cfg.Public.Host)
	}
	if h := s.forwardedHost(r); h != "" {
		o = append(o, h)
	}
	return o
}

// forwardedHost is the host's name that a trusted proxy was asked for; "" without one.
func (s *Server) forwardedHost(r *http.Request) string {
	if !s.cfg.Proxy {
		return ""
	}
	h := r.Header.Get("X-Forwarded-Host")
	if h == "" {
		h = forwarded(r, "host")
	}
	if _, ok := hostname(h); !ok {
		return ""
	}
	return h
}

// forwarded is a parameter of the last element of Forwarded (RFC 7239): the one that the
// nearest proxy has added.
func forwarded(r *http.Request, name string) string {
	vs := r.Header.Values("Forwarded")
	if len(vs) == 0 {
		return ""
	}
	all := strings.Split(vs[len(vs)-1], ",")
	for pair := range strings.SplitSeq(all[len(all)-1], ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if strings.EqualFold(k, name) {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// from is the address that a request comes from, as a trusted proxy says it.
func (s *Server) from(r *http.Request) string {
	if !s.cfg.Proxy {
		return r.RemoteAddr
	}
	a := forwarded(r, "for")
	if vs := r.Header.Values("X-Forwarded-For"); len(vs) > 0 {
		all := strings.Split(vs[len(vs)-1], ",")
		a = strings.TrimSpace(all[len(all)-1])
	}
	if ip, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil {
		return netip.AddrPortFrom(ip.WithZone(""), 0).String()
	}
	if ap, err := netip.ParseAddrPort(a); err == nil {
		return ap.String()
	}
	return r.RemoteAddr
}

// hostname is the name or address in a "host:port", or a host alone; an IPv6 address comes
// in brackets. False where it is none.
func hostname(hostport string) (string, bool) {
	h := hostport
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		h = host
	}
	h = strings.Trim(h, "[]")
	if ip, err := netip.ParseAddr(h); err == nil {
		if ip.Is6() {
			return "[" + h + "]", ip.Zone() == ""
		}
		return h, true
	}
	if h == "" || len(h) > 253 {
		return "", false
	}
	for _, c := range h {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", c) {
			return "", false
		}
	}
	return h, true
}

// ice is what a provider that came by this request is told of the host's relay.
func (s *Server) ice(r *http.Request, id string) []proto.ICEServer {
	if s.relay == nil {
		return nil
	}
	host, ok := "", false
	switch {
	case s.cfg.Public != nil:
		host, ok = hostname(s.cfg.Public.Host)
	case s.forwardedHost(r) != "":
		host, ok = hostname(s.forwardedHost(r))
	default:
		host, ok = hostname(r.Host)
	}
	if !ok {
		return nil
	}
	at := host + ":" + strconv.Itoa(s.cfg.RelayUDP.LocalAddr().(*net.UDPAddr).Port)
	user, credential := s.relay.Admit(id, time.Now())
	urls := []string{"turn:" + at + "?transport=udp", "turn:" + at + "?transport=tcp"}
	if s.cfg.TLS != nil {
		urls = append(urls, "turns:"+at+"?transport=tcp")
	}
	return []proto.ICEServer{{URLs: []string{"stun:" + at}}, {URLs: urls, Username: user, Credential: credential}}
}

// Credentials to try the relay with last tryFor; there are at most maxTries at a time.
const (
	tryFor   = time.Minute
	maxTries = 64
)

// try lets a machine look at its own network without joining.
func (s *Server) try(w http.ResponseWriter, r *http.Request) {
	if s.tries.Add(1) > maxTries {
		s.tries.Add(-1)
		httpError(w, http.StatusServiceUnavailable, &proto.Error{Code: proto.Full, Message: "too many machines look at their network just now", Hint: "try again in a minute"})
		return
	}
	id := "t" + hexBytes(8)
	t := proto.Try{ICE: s.ice(r, id), Time: time.Now().UnixMilli()}
	time.AfterFunc(tryFor, func() {
		if t.ICE != nil {
			s.relay.Drop(id)
		}
		s.tries.Add(-1)
	})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(t)
}

// Relayed is what the host's relay has done; nil without one.
func (s *Server) Relayed() *relay.Stats {
	if s.relay == nil {
		return nil
	}
	st := s.relay.Stats()
	return &st
}

// ListenUDP opens the relay's socket beside a listener: the same address, UDP. Nil, without
// an error, where the listener is for this machine only: who is here needs no relay.
func ListenUDP(ln net.Listener) (net.PacketConn, error) {
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return nil, nil
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: tcp.IP, Port: tcp.Port, Zone: tcp.Zone})
	if err != nil {
		return nil, fmt.Errorf("the relay's port: %w: choose another port with --listen, or do without the relay with --no-relay", err)
	}
	_ = c.SetReadBuffer(4 << 20)
	_ = c.SetWriteBuffer(4 << 20)
	return c, nil
}

// ParsePublic reads the address by which a host is known outside.
func ParsePublic(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the public address %q is none: give it like https://train.example.org or https://example.org/train", s)
	}
	if _, ok := hostname(u.Host); !ok {
		return nil, fmt.Errorf("the public address %q has no host name", s)
	}
	return u, nil
}

// Certificate serves a certificate from files, and reads them again when they change.
type Certificate struct {
	certFile, keyFile string

	mu     sync.Mutex
	looked time.Time
	stamp  [2]time.Time
	cert   *tls.Certificate
}

// LoadCertificate reads the files, PEM both.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Certificate) load() error {
	var stamp [2]time.Time
	for i, f := range []string{c.certFile, c.keyFile} {
		st, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("the TLS certificate: %w", err)
		}
		stamp[i] = st.ModTime()
	}
	if c.cert != nil && stamp == c.stamp {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("the TLS certificate %s with the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.cert, c.stamp = &cert, stamp
	return nil
}

// certEvery is how often the files are looked at, at most.
const certEvery = time.Second

// TLS is a configuration that serves the certificate. While files that have changed cannot
// be read, the one before is served.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if now := time.Now(); now.Sub(c.looked) >= certEvery {
				c.looked = now
				_ = c.load()
			}
			if c.cert == nil {
				return nil, errors.New("no certificate")
			}
			return c.cert, nil
		},
	}
}
