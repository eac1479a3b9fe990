package repair

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

// dataPacket returns a packet with one chunk of 1000 bytes of data for each number.
func dataPacket(tsns ...uint32) []byte {
	b := make([]byte, commonHeader)
	for _, tsn := range tsns {
		c := make([]byte, dataHeader+1000)
		binary.BigEndian.PutUint16(c[2:], uint16(len(c)))
		binary.BigEndian.PutUint32(c[4:], tsn)
		b = append(b, c...)
	}
	return b
}

// sackPacket acknowledges all up to sum, and gaps, which are first and last offsets from it.
func sackPacket(sum, window uint32, gaps ...uint16) []byte {
	b := make([]byte, commonHeader+sackHeader)
	b[commonHeader] = typeSack
	binary.BigEndian.PutUint16(b[commonHeader+2:], uint16(sackHeader+2*len(gaps)))
	binary.BigEndian.PutUint32(b[commonHeader+4:], sum)
	binary.BigEndian.PutUint32(b[commonHeader+8:], window)
	binary.BigEndian.PutUint16(b[commonHeader+12:], uint16(len(gaps)/2))
	for _, g := range gaps {
		b = binary.BigEndian.AppendUint16(b, g)
	}
	return b
}

// sacked returns a SACK's sum, window and number of gaps.
func sacked(b []byte) (sum, window uint32, gaps uint16) {
	c := b[commonHeader:]
	return binary.BigEndian.Uint32(c[4:]), binary.BigEndian.Uint32(c[8:]), binary.BigEndian.Uint16(c[12:])
}

// sent returns a path on which packets with the numbers from base to base+n-1 were sent, a
// millisecond apart.
func sent(t *testing.T, base uint32, n int) *Path {
	t.Helper()
	p := New(1200)
	for i := range n {
		if !p.Out(time.Duration(i)*ms, dataPacket(base+uint32(i))) {
			t.Fatalf("packet %d is not to be sent", i)
		}
	}
	return p
}

// in hands a packet to a path and returns what SCTP sees and what is sent again.
func in(p *Path, now time.Duration, raw []byte) (up []byte, again [][]byte) {
	up = p.In(now, raw)
	return up, next(p, now)
}

// next returns what is sent again.
func next(p *Path, now time.Duration) (again [][]byte) {
	for raw := p.Next(now); raw != nil; raw = p.Next(now) {
		again = append(again, raw)
	}
	return again
}

// tick is Tick, and returns what is sent again.
func tick(p *Path, now time.Duration) [][]byte {
	p.Tick(now)
	return next(p, now)
}

// TestLost checks that a lost packet is sent again, and its lost repetition too, and that SCTP
// sees neither; around the end of the numbers.
func TestLost(t *testing.T) {
	base := ^uint32(0) - 3 // the numbers begin anew among these
	p := sent(t, base, 8)
	up, again := in(p, 50*ms, sackPacket(base, 1<<20, 2, 7)) // all but the second have arrived
	if len(again) != 1 || !bytes.Equal(again[0], dataPacket(base+1)) {
		t.Fatalf("%d packets are sent again, want the second", len(again))
	}
	sum, window, gaps := sacked(up)
	if sum != base || gaps != 0 || window != uint32(p.Window()+6000) {
		t.Errorf("SCTP sees %d, a window of %d and %d gaps; want %d, %d and none", sum, window, gaps, base, p.Window()+6000)
	}
	for i := range uint32(4) {
		p.Out(60*ms, dataPacket(base+8+i))
	}
	_, again = in(p, 110*ms, sackPacket(base, 1<<20, 2, 11))
	if len(again) != 1 || !bytes.Equal(again[0], dataPacket(base+1)) {
		t.Fatalf("the lost repetition: %d packets are sent again, want it alone", len(again))
	}
	up, again = in(p, 160*ms, sackPacket(base+11, 1<<20))
	if _, window, _ := sacked(up); len(again) > 0 || window != uint32(p.Window()) {
		t.Errorf("at the end %d packets are sent again, a window of %d", len(again), window)
	}
	if s := p.Stats(); s != (Stats{Sent: 12, Repeated: 2}) || p.Due() != 0 || p.inflight != 0 {
		t.Errorf("%+v, due %v, %d bytes in flight", s, p.Due(), p.inflight)
	}
}

// TestOvertaken checks that packets which overtake each other are not taken for lost once that
// has been seen, but are a quarter of a round trip later.
func TestOvertaken(t *testing.T) {
	p := sent(t, 1, 8)
	in(p, 50*ms, sackPacket(0, 1<<20, 2, 2)) // the second before the first
	in(p, 51*ms, sackPacket(2, 1<<20))
	_, again := in(p, 55*ms, sackPacket(2, 1<<20, 2, 6))
	if len(again) != 0 {
		t.Fatal("a packet that was overtaken is sent again at once")
	}
	due := p.Due()
	if due <= 55*ms || due > 75*ms {
		t.Fatalf("the third packet counts as lost at %v", due)
	}
	if again := tick(p, due); len(again) != 1 || !bytes.Equal(again[0], dataPacket(3)) {
		t.Errorf("%d packets are sent again, want the third", len(again))
	}
}

// TestSilence checks that the first and the last packet are sent again when nothing is heard,
// more and more seldom, and that SCTP's own repetitions add nothing.
func TestSilence(t *testing.T) {
	p := sent(t, 1, 20)
	last, before := time.Duration(0), 19*ms
	for range 6 {
		now := p.Due()
		if now-before < last {
			t.Fatalf("probes after %v and then after %v", last, now-before)
		}
		last, before = now-before, now
		again := tick(p, now)
		if len(again) != 2 || !bytes.Equal(again[0], dataPacket(1)) {
			t.Fatalf("%d packets, want the first and the last", len(again))
		}
		if p.Out(now, dataPacket(1, 2, 3)) {
			t.Error("SCTP's own repetition is sent too")
		}
	}
	if last < firstProbe || last > 2*lastProbe {
		t.Errorf("the last probe after %v", last)
	}
	if s := p.Stats(); s.Probes != 12 {
		t.Errorf("%+v, want 12 probes", s)
	}
}

// TestMoved checks that what was sent while there was no path is probed as soon as there is one
// again, and that the time without one counts for no round trip.
func TestMoved(t *testing.T) {
	p := sent(t, 1, 1)
	in(p, 5*ms, sackPacket(1, 1<<20))
	now := 10 * ms
	for i := range uint32(5) {
		p.Out(now, dataPacket(2+i))
	}
	for range 8 { // nothing arrives
		now = p.Due()
		tick(p, now)
	}
	now += 10 * ms
	if p.Due() < now+time.Second {
		t.Fatalf("the next probe is due in %v, want it far off", p.Due()-now)
	}
	p.Moved(now)
	if again := next(p, now); len(again) != 2 {
		t.Fatalf("%d packets are sent at once, want the first and the last", len(again))
	}
	now += 100 * ms
	// Those between arrived long ago; what told so was lost.
	in(p, now, sackPacket(6, 1<<20))
	if p.Due() != 0 || p.inflight != 0 || p.srtt != 0 || p.minRTT != 0 {
		t.Errorf("due %v, %d bytes in flight, round trips %v and %v", p.Due(), p.inflight, p.srtt, p.minRTT)
	}
	p.Out(now, dataPacket(7))
	if in(p, now+100*ms, sackPacket(7, 1<<20)); p.srtt != 100*ms || p.minRTT != 100*ms {
		t.Errorf("a round trip of %v and %v on the new path, want 100ms", p.srtt, p.minRTT)
	}
	check(t, p)
}

// TestUnexpected checks that what the rules do not know passes as it is.
func TestUnexpected(t *testing.T) {
	for name, packet := range map[string][]byte{
		"acknowledges what was not sent": sackPacket(100, 1<<20),
		"a gap beyond what was sent":     sackPacket(2, 1<<20, 2, 60),
		"a gap that ends before it":      sackPacket(2, 1<<20, 4, 3),
		"a gap of nothing":               sackPacket(2, 1<<20, 0, 3),
		"cut off":                        sackPacket(2, 1<<20, 2, 3)[:commonHeader+6],
	} {
		p := sent(t, 1, 8)
		want := bytes.Clone(packet)
		up, again := in(p, 50*ms, packet)
		if !bytes.Equal(up, want) || len(again) > 0 {
			t.Errorf("%s: changed", name)
		}
	}
	p := sent(t, 1, 3)
	if !p.Out(ms, dataPacket(9)) || !p.Out(ms, dataPacket(1)) || p.Due() != 0 {
		t.Error("after a number was left out, packets are held back")
	}
}

// TestRandomLosses sends over a path of 40 ms that loses a fifth both ways: all arrives, only
// lost packets are repeated, and the lists stay consistent.
func TestRandomLosses(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type event struct {
		at  time.Duration
		raw []byte
	}
	p := New(1200)
	var there, back []event // in order
	got := map[uint32]bool{}
	sum, following := uint32(0), uint32(1)
	const total = 2000
	lost := 0
	transmit := func(now time.Duration, raw []byte) {
		if rng.Float64() < 0.2 {
			lost++
			return
		}
		there = append(there, event{now + 20*ms, raw})
	}
	now := time.Duration(0)
	for ; sum < total && now < 5*time.Minute; now += ms / 4 {
		for following <= total && p.inflight+1000 <= p.Window() {
			raw := dataPacket(following)
			p.Out(now, raw)
			transmit(now, raw)
			following++
		}
		heard := false
		for len(there) > 0 && there[0].at <= now {
			got[binary.BigEndian.Uint32(there[0].raw[commonHeader+4:])] = true
			there, heard = there[1:], true
		}
		for got[sum+1] {
			sum++
		}
		if heard && rng.Float64() >= 0.2 {
			var gaps []uint16
			for k := sum + 1; k < following; k++ {
				if off := uint16(k - sum); got[k] && len(gaps) > 0 && gaps[len(gaps)-1] == off-1 {
					gaps[len(gaps)-1] = off
				} else if got[k] {
					gaps = append(gaps, off, off)
				}
			}
			back = append(back, event{now + 20*ms, sackPacket(sum, 1<<20, gaps...)})
		}
		for len(back) > 0 && back[0].at <= now {
			_, again := in(p, now, back[0].raw)
			back = back[1:]
			for _, raw := range again {
				transmit(now, raw)
			}
		}
		if due := p.Due(); due > 0 && due <= now {
			for _, raw := range tick(p, now) {
				transmit(now, raw)
			}
		}
		check(t, p)
	}
	s := p.Stats()
	t.Logf("%v, %+v, %d lost", now, s, lost)
	if sum < total {
		t.Fatalf("%d of %d arrived in %v", sum, total, now)
	}
	if s.Sent != total || s.Repeated > lost || s.Repeated+s.Probes > lost+lost/4 || s.Probes > s.Repeated/4 {
		t.Errorf("%+v for %d lost ones", s, lost)
	}
}

// check checks that the lists agree.
func check(t *testing.T, p *Path) {
	t.Helper()
	bytes, left := 0, map[*packet]int{}
	for _, k := range p.chunks {
		if k != nil {
			left[k]++
		}
	}
	n := 0
	for k := p.head; k != nil; k = k.next {
		n++
		bytes += k.size
		if k.left != left[k] || k.next != nil && k.next.seq <= k.seq {
			t.Fatalf("packet %d with %d chunks left of %d", k.seq, k.left, left[k])
		}
	}
	sum := 0
	for _, s := range p.sizes {
		sum += s
	}
	if n != len(left) || bytes != p.inflight || sum != p.unacked {
		t.Fatalf("%d packets of %d, %d bytes of %d, %d unacknowledged of %d", n, len(left), bytes, p.inflight, sum, p.unacked)
	}
}

func FuzzIn(f *testing.F) {
	f.Add(sackPacket(1, 1<<20, 2, 5), uint8(10))
	f.Add(sackPacket(9, 0), uint8(10))
	f.Add(append(dataPacket(4), sackPacket(3, 5)[commonHeader:]...), uint8(6))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		p := New(1200)
		for i := range int(n) {
			p.Out(time.Duration(i)*ms, dataPacket(uint32(2*i)+1, uint32(2*i)+2))
		}
		for i := range 3 {
			up, _ := in(p, time.Duration(i+300)*ms, bytes.Clone(raw))
			if len(up) > len(raw)+3 {
				t.Fatalf("%d bytes have become %d", len(raw), len(up))
			}
			if !p.blind {
				check(t, p)
			}
			p.Out(time.Duration(i+301)*ms, dataPacket(uint32(2*int(n)+i)+1))
			p.Tick(time.Duration(i+1000) * ms)
		}
		if w := p.Window(); w < 4*1200 || w > Ceiling {
			t.Fatalf("a window of %d", w)
		}
	})
}
