package server

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// Shares by a virtual clock: what an address needs is there at once, more comes with time, and
// neither other addresses nor their number change that.
func TestShares(t *testing.T) {
	g := newGuests()
	now := time.Unix(1e9, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	burst := func(at netip.Addr) (n int) {
		for g.take(now, at, hellos, 1) == 0 {
			n++
		}
		return n
	}
	want := minGuests * int(needs[hellos].amount)
	if n := burst(a); n != want {
		t.Errorf("%d hellos at once, want %d", n, want)
	}
	if n := burst(b); n != want {
		t.Errorf("another address: %d hellos, want %d", n, want)
	}
	wait := g.take(now, a, hellos, 1)
	if wait < time.Second || wait > 2*time.Second {
		t.Errorf("told to come again in %v", wait)
	}
	if g.take(now, a, requests, 1) != 0 {
		t.Error("hellos are counted as requests")
	}
	now = now.Add(wait)
	if g.take(now, a, hellos, 1) != 0 {
		t.Error("refused after the time that it was told to wait")
	}
	now = now.Add(time.Hour)
	if n := burst(a); n != want {
		t.Errorf("after an hour: %d hellos, want %d", n, want)
	}
	// The limits follow from how many are expected.
	g.expect(100)
	if n := burst(a) + burst(b); n < want {
		t.Errorf("100 expected: only %d more hellos", n)
	}
	// What is too large for one share is let through once, and paid for.
	c := netip.MustParseAddr("192.0.2.3")
	if g.take(now, c, pages, 1e12) != 0 || g.take(now, c, pages, 1) == 0 {
		t.Error("a large answer is not let through, or not counted")
	}
	g.add(now, c, pages, -1e12)
	if g.take(now, c, pages, 1) != 0 {
		t.Error("what is given back still counts")
	}
	leave := g.join(now, c)
	for i := range uint32(3 * maxGuests) {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 0x0a000000+i)
		g.take(now.Add(time.Duration(i)), netip.AddrFrom4(ip), requests, 1)
	}
	if len(g.at) > maxGuests {
		t.Errorf("%d addresses are remembered", len(g.at))
	}
	if !g.hosts(c) {
		t.Error("the address of a provider was forgotten")
	}
	leave()
	if g.hosts(c) {
		t.Error("the address of who left counts as a provider's")
	}
}
