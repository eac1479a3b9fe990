package native

import (
	"net"
	"testing"
)

func TestReachable(t *testing.T) {
	at := func(ip string) string { return Reachable(&net.TCPAddr{IP: net.ParseIP(ip), Port: 8090}) }
	if got := at("127.0.0.1"); got != "127.0.0.1:8090" {
		t.Errorf("loopback: %s", got)
	}
	for _, all := range []string{"0.0.0.0", "::"} {
		host, port, err := net.SplitHostPort(at(all))
		if ip := net.ParseIP(host); err != nil || port != "8090" || ip == nil || ip.IsUnspecified() {
			t.Errorf("all addresses, %s: %s:%s, which nobody can open (%v)", all, host, port, err)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		has  []string
		six  bool
		want string
	}{
		{[]string{"127.0.0.1/8", "::1/128", "fe80::1/64", "10.9.0.1/24", "fd09::1/64"}, true, "10.9.0.1"},
		{[]string{"127.0.0.1/8", "::1/128", "fd09::1/64", "10.9.0.1/24"}, true, "10.9.0.1"},
		{[]string{"127.0.0.1/8", "::1/128", "fe80::1/64", "fd09::1/64", "2001:db8::1/64"}, true, "fd09::1"},
		{[]string{"127.0.0.1/8", "fd09::1/64"}, false, "127.0.0.1"}, // the listener accepts IPv4 only
		{[]string{"::1/128", "fe80::1/64"}, true, "127.0.0.1"},
		{nil, true, "127.0.0.1"},
	} {
		var addrs []net.Addr
		for _, s := range c.has {
			ip, n, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			n.IP = ip
			addrs = append(addrs, n)
		}
		if got := choose(addrs, c.six); got.String() != c.want {
			t.Errorf("%v, IPv6 %v: %s, want %s", c.has, c.six, got, c.want)
		}
	}
}
