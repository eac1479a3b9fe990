package server

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/relay"
)

// The relay of a host that listens at all of its addresses answers from the one that was called.
// A connected socket takes packets from nobody else, like a router or a browser.
func TestAnswersFromTheAddressThatWasCalled(t *testing.T) {
	for _, at := range []string{"0.0.0.0:0", "[::]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Skipf("listening at %s: %v", at, err)
		}
		defer ln.Close()
		udp, err := ListenUDP(ln)
		if err != nil {
			t.Fatal(err)
		}
		r, err := relay.New(relay.Config{}, udp)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		port := udp.LocalAddr().(*net.UDPAddr).Port
		calls := []string{"127.0.0.1", "127.0.0.2", "127.9.9.9"}
		if at == "[::]:0" {
			calls = append(calls, "::1")
		}
		for _, ip := range calls {
			a := netip.MustParseAddr(ip)
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port))))
			if err != nil {
				if a.Is6() {
					continue // this machine has no IPv6
				}
				t.Fatal(err)
			}
			defer c.Close()
			binding := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, "transaction!"...)
			answered := false
			for end := time.Now().Add(time.Minute); !answered && time.Now().Before(end); {
				if _, err := c.Write(binding); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				n, err := c.Read(make([]byte, 200))
				answered = err == nil && n >= 20
			}
			if !answered {
				t.Errorf("%s, called at %s, does not answer from there", at, ip)
			}
		}
	}
}

// Of strangers who forge addresses a bounded number is remembered, and who is heard stays known.
func TestCallersAreForgotten(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, ok := answering(c).(*sourced)
	if !ok {
		t.Skip("this system does not tell which address was called")
	}
	at, member := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddrPort("198.51.100.1:7")
	for i := range 5 * remembered {
		s.note(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 9), at)
		if i%remembered == 0 {
			s.note(member, at)
		}
		if got, ok := s.find(member); !ok || got != at {
			t.Fatalf("after %d strangers the member is answered from %v", i, got)
		}
	}
	if n := len(s.called) + len(s.old); n > 2*remembered {
		t.Errorf("%d callers are remembered, want %d at most", n, 2*remembered)
	}
}
