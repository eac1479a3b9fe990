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
