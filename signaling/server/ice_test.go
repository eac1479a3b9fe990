package server

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// A tab that has called a name gets the address that it has reached, too, where that means the
// same machine at both ends; behind a proxy and for native providers only what was called counts.
func TestAddressesOfTheRelay(t *testing.T) {
	udp, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Token: "t", RelayUDP: udp})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(t.Context()) }()
	for _, c := range []struct {
		name, host, from, to string
		tab, proxy           bool
		public               string
		want                 bool // the address to is named
	}{
		{name: "a public address", host: "train.example", from: "198.51.100.7:9", to: "203.0.113.5:443", tab: true, want: true},
		{name: "of IPv6", host: "train.example", from: "[2001:db8::7]:9", to: "[2001:db8::1]:443", tab: true, want: true},
		{name: "mapped", host: "train.example", from: "[::ffff:198.51.100.7]:9", to: "[::ffff:203.0.113.5]:443", tab: true, want: true},
		{name: "within a home", host: "nas", from: "192.168.1.7:9", to: "192.168.1.2:8090", tab: true, want: true},
		{name: "a port that a router forwards", host: "train.example", from: "198.51.100.7:9", to: "192.168.1.2:443", tab: true},
		{name: "within a carrier's network", host: "train.example", from: "198.51.100.7:9", to: "100.64.1.2:443", tab: true},
		{name: "link-local", host: "nas", from: "[fe80::7%eth0]:9", to: "[fe80::1%eth0]:8090", tab: true},
		{name: "native", host: "train.example", from: "198.51.100.7:9", to: "203.0.113.5:443"},
		{name: "a proxy", host: "train.example", from: "198.51.100.7:9", to: "203.0.113.5:443", tab: true, proxy: true},
	} {
		s.cfg.Proxy = c.proxy
		to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.to))
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(to)), "GET", "/v1/join", nil)
		r.Host, r.RemoteAddr = c.host, c.from
		ice := s.ice(r, "m", c.tab)
		if len(ice) != 2 {
			t.Fatalf("%s: %v", c.name, ice)
		}
		for i, scheme := range []string{"stun:", "turn:"} {
			if !strings.HasPrefix(ice[i].URLs[0], scheme+c.host+":") {
				t.Errorf("%s: %v does not begin with what was called", c.name, ice[i].URLs)
			}
			at := to.AddrPort().Addr().Unmap().String()
			if to.IP.To4() == nil {
				at = "[" + at + "]"
			}
			if got := slices.ContainsFunc(ice[i].URLs, func(u string) bool { return strings.HasPrefix(u, scheme+at+":") }); got != c.want {
				t.Errorf("%s: %v names %s: %v, want %v", c.name, ice[i].URLs, at, got, c.want)
			}
		}
		for _, x := range ice {
			for _, u := range x.URLs {
				if _, err := url.Parse(u); err != nil || strings.Contains(u, "127.0.0.1") || strings.Contains(u, "%") {
					t.Errorf("%s: %q", c.name, u)
				}
			}
		}
	}
	// Who calls the address itself needs no second copy of it.
	r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(203, 0, 113, 5), Port: 443})), "GET", "/v1/join", nil)
	s.cfg.Proxy, r.Host, r.RemoteAddr = false, "203.0.113.5:443", "198.51.100.7:9"
	if ice := s.ice(r, "m", true); len(ice[1].URLs) != 2 {
		t.Errorf("an address called by itself: %v", ice)
	}
}
