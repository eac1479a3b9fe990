package window

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// end is one side of a session over a connection that carries messages in order until it
// breaks, and then loses what is on its way.
type end struct {
	out  Out
	in   In
	way  [][]byte // to the other side; the first byte tells what it is
	got  []uint64 // numbered messages, in the order in which they came
	sent uint64
}

const (
	numbered = iota
	plain
	ack
)

func (e *end) say() {
	e.sent++
	e.out.Add(binary.LittleEndian.AppendUint64([]byte{numbered}, e.sent), false)
}

func (e *end) acknowledge() {
	e.out.Add(binary.LittleEndian.AppendUint64([]byte{ack}, e.in.Ack()), true)
}

// write brings one message to the connection.
func (e *end) write() bool {
	it, b := e.out.Next()
	if it == nil {
		return false
	}
	e.way = append(e.way, b)
	e.out.Written(it)
	return true
}

// read takes one message that the other side has written.
func (e *end) read(t *testing.T, from *end) bool {
	if len(from.way) == 0 {
		return false
	}
	b := from.way[0]
	from.way = from.way[1:]
	switch b[0] {
	case numbered:
		e.got = append(e.got, binary.LittleEndian.Uint64(b[1:]))
		if e.in.Take(len(b)) {
			e.acknowledge()
		}
	case ack:
		if err := e.out.Ack(binary.LittleEndian.Uint64(b[1:])); err != nil {
			t.Fatal(err)
		}
	}
	return true
}

// reconnect breaks the connection and makes another one.
func reconnect(t *testing.T, a, b *end) {
	a.way, b.way = nil, nil
	if err := a.out.Resume(b.in.Ack()); err != nil {
		t.Fatal(err)
	}
	if err := b.out.Resume(a.in.Ack()); err != nil {
		t.Fatal(err)
	}
}

// walk does what script says to two sides, one byte a step, and checks that everything
// comes once and in order.
func walk(t *testing.T, script []byte) {
	a, b := new(end), new(end)
	for _, s := range script {
		x, y := a, b
		if s&1 != 0 {
			x, y = b, a
		}
		switch s >> 1 % 8 {
		case 0, 1:
			x.say()
		case 2:
			x.out.Add([]byte{plain}, true)
		case 3, 4:
			x.write()
		case 5, 6:
			x.read(t, y)
		case 7:
			if s>>4 < 12 {
				x.acknowledge()
			} else {
				reconnect(t, a, b)
			}
		}
		if n, size := x.out.Held(); n < 0 || size < n || n > len(x.out.items) {
			t.Fatalf("%d messages of %d bytes are held in %d places", n, size, len(x.out.items))
		}
	}
	reconnect(t, a, b)
	for moved := true; moved; {
		moved = false
		for _, p := range [2][2]*end{{a, b}, {b, a}} {
			moved = p[0].write() || moved
			moved = p[1].read(t, p[0]) || moved
		}
	}
	for _, p := range [2][2]*end{{a, b}, {b, a}} {
		if len(p[1].got) != int(p[0].sent) {
			t.Fatalf("%d messages came of %d", len(p[1].got), p[0].sent)
		}
		for i, n := range p[1].got {
			if n != uint64(i+1) {
				t.Fatalf("message %d came in the place of %d", n, i+1)
			}
		}
	}
	reconnect(t, a, b)
	for _, x := range []*end{a, b} {
		if n, size := x.out.Held(); n != 0 || size != 0 || len(x.out.items) != 0 {
			t.Fatalf("%d messages of %d bytes are kept although all have come", n, size)
		}
	}
}

func TestRandomWalk(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		script := make([]byte, 20+rng.IntN(2000))
		for i := range script {
			script[i] = byte(rng.Uint32())
		}
		walk(t, script)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte{0, 6, 255, 0, 6, 10, 14})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 1<<14 {
			return
		}
		walk(t, script)
	})
}

// TestLies: acknowledgements that cannot be are errors and change nothing.
func TestLies(t *testing.T) {
	var o Out
	for range 5 {
		o.Add([]byte("x"), false)
	}
	for it, _ := o.Next(); it != nil; it, _ = o.Next() {
	}
	if err := o.Ack(3); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{0, 2, 6, 1 << 63} {
		if o.Ack(n) == nil || o.Resume(n) == nil {
			t.Errorf("%d of 5 messages, after 3, are taken for acknowledged", n)
		}
	}
	if n, _ := o.Held(); n != 2 {
		t.Errorf("%d are kept, want 2", n)
	}
}

// TestEarly: what is acknowledged while it is being written keeps its bytes until then, and counts
// as sent even if the write fails.
func TestEarly(t *testing.T) {
	var o Out
	o.Add([]byte("one"), false)
	it, b := o.Next()
	if err := o.Resume(1); err != nil {
		t.Fatal(err)
	}
	if string(b) != "one" || !it.Sent {
		t.Errorf("%q, sent: %v", b, it.Sent)
	}
	if n, size := o.Held(); n != 0 || size != 0 {
		t.Errorf("%d messages of %d bytes are kept", n, size)
	}
	if it, _ := o.Next(); it != nil {
		t.Error("it is given out again")
	}
	o.Written(it) // late
	if n, size := o.Held(); n != 0 || size != 0 {
		t.Errorf("%d messages of %d bytes are kept afterwards", n, size)
	}
}

// TestAcknowledgedUnsent: who acknowledges what waits behind a heartbeat is sent the heartbeat alone,
// and no empty message in the place of the other.
func TestAcknowledgedUnsent(t *testing.T) {
	var o Out
	o.Add([]byte("ping"), true)
	o.Add([]byte("one"), false)
	o.Add([]byte("two"), false)
	if err := o.Ack(1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ping", "two"} {
		it, b := o.Next()
		if it == nil || string(b) != want {
			t.Fatalf("%q is sent, want %q", b, want)
		}
		o.Written(it)
	}
	if it, b := o.Next(); it != nil {
		t.Errorf("%q is sent, too", b)
	}
	if err := o.Ack(2); err != nil {
		t.Fatal(err)
	}
	if n, size := o.Held(); n != 0 || size != 0 || len(o.items) != 0 {
		t.Errorf("%d messages of %d bytes are kept", n, size)
	}
}

// TestDue: what comes is acknowledged before the other side's window is full.
func TestDue(t *testing.T) {
	var i In
	n := 1
	for !i.Take(10) {
		n++
	}
	if n != dueCount || i.Ack() != dueCount {
		t.Errorf("the first acknowledgement is due after %d", n)
	}
	if !i.Take(dueBytes) {
		t.Error("a large message is not acknowledged at once")
	}
}
