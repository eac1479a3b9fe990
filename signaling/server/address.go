package server

// The addresses of the host and of those who ask it: its public one, what a reverse proxy says, and
// where its relay is reached.

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
)

// outside adapts a handler to Config.Public: requests may have its path as a prefix or not,
// as proxies either pass it on or strip it. A host with TLS of its own redirects plain
// requests to https.
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

// origins returns the origins of pages that may connect to the host, beside the one that the
// request itself names as host.
func (s *Server) origins(r *http.Request) []string {
	var o []string
	if s.cfg.Public != nil {
		o = append(o, s.cfg.Public.Host)
	}
	if h := s.forwardedHost(r); h != "" {
		o = append(o, h)
	}
	return append(o, s.sisterOrigins()...)
}

// forwardedHost returns the host name that a trusted proxy was asked for, or "".
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

// forwarded returns a parameter of the last element of the Forwarded header (RFC 7239), the
// one that the nearest proxy added.
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

// from returns the address that a request comes from, according to a trusted proxy if any.
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

// hostname returns the name or address in a "host:port" or a host alone, with brackets
// around an IPv6 address, and whether it is valid.
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

// ice returns the addresses of the host's relay as the sender of this request can reach them. A
// tab gets addresses beside the name that it has called: browsers look the name of a relay up with
// a dot at its end, which neither a file of hosts nor the names of a home network know, and
// wait for more than ten seconds where no DNS answers.
func (s *Server) ice(r *http.Request, id string, tab bool) []proto.ICEServer {
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
	user, credential := s.relay.Admit(id, time.Now())
	udp := s.cfg.RelayUDP.LocalAddr().(*net.UDPAddr).AddrPort()
	at := host + ":" + strconv.Itoa(int(udp.Port()))
	asks := []string{"stun:" + at}
	urls := []string{"turn:" + at + "?transport=udp", "turn:" + at + "?transport=tcp"}
	if s.cfg.TLS != nil {
		urls = append(urls, "turns:"+at+"?transport=tcp")
	}
	if tab {
		called, public := s.addresses(r, udp.Addr())
		for _, a := range append(called, public...) {
			if at := netip.AddrPortFrom(a, udp.Port()).String(); !slices.Contains(asks, "stun:"+at) {
				asks = append(asks, "stun:"+at)
			}
		}
		for _, a := range called {
			if at := netip.AddrPortFrom(a, udp.Port()).String(); urls[0] != "turn:"+at+"?transport=udp" {
				urls = append(urls, "turn:"+at+"?transport=udp", "turn:"+at+"?transport=tcp")
			}
		}
	}
	return []proto.ICEServer{{URLs: asks}, {URLs: urls, Username: user, Credential: credential}}
}

// addresses returns addresses of the relay's socket, which is bound to at: the one at which
// the request has come, and some public ones of other families.
func (s *Server) addresses(r *http.Request, at netip.Addr) (called, public []netip.Addr) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if err == nil && ok && !s.cfg.Proxy {
		if to, err := netip.ParseAddrPort(local.String()); err == nil {
			a := to.Addr().Unmap()
			// Behind a translation the address here is one of the host's own network.
			if reaches(from.Addr().Unmap(), a) && serves(at, a) {
				called = append(called, a)
			}
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return called, nil
	}
	for _, o := range own {
		p, err := netip.ParsePrefix(o.String())
		if err != nil {
			continue
		}
		a := p.Addr().Unmap()
		same := func(b netip.Addr) bool { return a.Is4() == b.Is4() }
		if len(public) < maxPublic && reaches(netip.Addr{}, a) && serves(at, a) && !slices.ContainsFunc(called, same) {
			public = append(public, a)
		}
	}
	return called, public
}

// reaches reports whether an address means the same machine here and where from is: a public
// one does, a private one within its network.
func reaches(from, a netip.Addr) bool {
	return a.IsGlobalUnicast() && a.Zone() == "" && (!private(a) || private(from))
}

// maxPublic is how many addresses a tab is told that it has not called.
const maxPublic = 4

// carriers is what providers of access give their customers behind a translation (RFC 6598).
var carriers = netip.MustParsePrefix("100.64.0.0/10")

func private(a netip.Addr) bool { return a.IsPrivate() || carriers.Contains(a) }

// serves reports whether a socket bound to at takes what is sent to an address of this machine.
func serves(at, a netip.Addr) bool {
	at = at.Unmap().WithZone("")
	return at == a || at == netip.IPv6Unspecified() || at == netip.IPv4Unspecified() && a.Is4()
}

// Credentials for trying out the relay last tryFor; at most maxTries are valid at a time.
const (
	tryFor   = time.Minute
	maxTries = 64
)

// try gives out credentials with which a machine can examine its network without joining.
func (s *Server) try(w http.ResponseWriter, r *http.Request) {
	if s.tries.Add(1) > maxTries {
		s.tries.Add(-1)
		httpError(w, http.StatusServiceUnavailable, &proto.Error{Code: proto.Full, Message: "too many machines are testing their network at the moment", Hint: "try again in a minute"})
		return
	}
	id := "t" + hexBytes(8)
	t := proto.Try{ICE: s.ice(r, id, false), Time: time.Now().UnixMilli()}
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

// Relayed returns the statistics of the host's relay, or nil if there is none.
func (s *Server) Relayed() *relay.Stats {
	if s.relay == nil {
		return nil
	}
	st := s.relay.Stats()
	return &st
}

// ListenUDP opens the relay's UDP socket at the same address as a listener. It returns nil
// without an error for a loopback listener: local providers need no relay.
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
	return answering(c), nil
}

// ParsePublic parses the URL by which a host is known outside.
func ParsePublic(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the public address %q is not valid: give it like https://train.example.org or https://example.org/train", s)
	}
	if _, ok := hostname(u.Host); !ok {
		return nil, fmt.Errorf("the public address %q has no host name", s)
	}
	return u, nil
}
