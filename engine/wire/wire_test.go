package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// frames cuts a message as a link does.
func frames(id uint32, h Header, payload []byte) [][]byte {
	h.Seal(payload)
	head := h.Append(nil)
	var fs [][]byte
	for i := range Chunks(len(head) + len(payload)) {
		fs = append(fs, Frame{Number: uint16(i), ID: id}.AppendChunk(nil, i, head, payload))
	}
	return fs
}

func add(a *Assembler, b []byte) (*Message, error) {
	f, err := ParseFrame(b)
	if err != nil {
		return nil, err
	}
	return a.Add(f)
}

// TestLayout holds the bytes: what is released stays readable.
func TestLayout(t *testing.T) {
	payload := []byte("123456789") // the check value of CRC-32C is of these
	h := Header{Kind: Gradient, Edge: 0x0102, Rows: 64, Seq: 0x0807060504030201, Elems: 7}
	h.Seal(payload)
	got := Frame{Number: 5, Generation: 7, ID: 9}.AppendChunk(nil, 0, h.Append(nil), payload)
	want := "02010500" + "07000000" + "09000000" + "00000000" + "01000000" + "25000000" + "25000000" +
		"0200" + "0201" + "40000000" + "0102030405060708" + "07000000" + "09000000" + "839206e3" + hex.EncodeToString(payload)
	if hex.EncodeToString(got) != want {
		t.Errorf("a message is\n%x, want\n%s", got, want)
	}
	if len(got) != FrameHeader+MessageHeader+len(payload) {
		t.Errorf("%d bytes", len(got))
	}
	for _, tc := range []struct {
		f    Frame
		want string
	}{
		{Frame{Type: Credit, Number: 1, Generation: 258, Total: 100}, "02020100" + "02010000" + "00000000" + "00000000" + "00000000" + "64000000" + "00000000"},
		{Frame{Type: Cancel, Number: 1, ID: 3}, "02030100" + "00000000" + "03000000" + "00000000" + "00000000" + "00000000" + "00000000"},
		{Frame{Type: Bye, Body: []byte("ok")}, "02040000" + "00000000" + "00000000" + "00000000" + "00000000" + "00000000" + "02000000" + "6f6b"},
		{NewAssembler(1<<20, 1<<16).Hello(), "02050000" + "00000000" + "00000000" + "00000100" + "00000000" + "00001000" + "00000000"},
	} {
		b := tc.f.Append(nil)
		if hex.EncodeToString(b) != tc.want {
			t.Errorf("%s is\n%x, want\n%s", tc.f.Type, b, tc.want)
		}
		f, err := ParseFrame(b)
		if err != nil || f.Type != tc.f.Type || f.Number != tc.f.Number || f.Generation != tc.f.Generation || f.ID != tc.f.ID || f.Index != tc.f.Index || f.Total != tc.f.Total || !bytes.Equal(f.Body, tc.f.Body) {
			t.Errorf("%s came back as %+v, %v", tc.f.Type, f, err)
		}
	}
}

func TestMessages(t *testing.T) {
	a := NewAssembler(1<<20, MaxTransfer)
	for i, n := range []int{0, 1, chunk - MessageHeader - 1, chunk - MessageHeader, chunk - MessageHeader + 1, chunk, 3*chunk + 7, 40 * chunk} {
		p := bytes.Repeat([]byte{byte(i + 1), 7, 3}, n/3+1)[:n]
		h := Header{Kind: Gradient, Edge: 9, Rows: 64, Seq: 1 << 40, Elems: uint32(n)}
		fs := frames(uint32(i), h, p)
		if i%2 == 1 { // one is begun and cancelled before
			if _, err := add(a, frames(99, h, make([]byte, 2*chunk))[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Add(Frame{Type: Cancel, ID: 99}); err != nil {
				t.Fatal(err)
			}
		}
		for k, b := range fs {
			if len(b) > MaxFrame {
				t.Fatalf("a frame of %d bytes", len(b))
			}
			m, err := add(a, b)
			if err != nil {
				t.Fatal(err)
			}
			if (m != nil) != (k == len(fs)-1) {
				t.Fatalf("%d bytes: message after chunk %d of %d", n, k, len(fs))
			}
			if m != nil {
				h.Seal(p)
				if m.Header != h || !bytes.Equal(m.Payload, p) {
					t.Errorf("%d bytes: message changed on the way: %+v", n, m.Header)
				}
				a.Release(m)
			}
		}
	}
}

// TestLies: every field that can lie is caught before it costs anything.
func TestLies(t *testing.T) {
	p := make([]byte, 2*chunk)
	good := frames(1, Header{Kind: Activation}, p)
	change := func(k, at int, v byte) func() [][]byte {
		return func() [][]byte {
			fs := frames(1, Header{Kind: Activation}, p)
			fs[k][at] = v
			return fs
		}
	}
	for name, mk := range map[string]func() [][]byte{
		"version":          change(0, 0, 9),
		"type":             change(0, 1, 77),
		"type zero":        change(0, 1, 0),
		"transfer id":      change(1, 8, 9),
		"index":            change(1, 12, 2),
		"count":            change(0, 16, 9),
		"count later":      change(1, 16, 9),
		"total":            change(0, 23, 0x7f),
		"total, top bit":   change(0, 23, 0xff),
		"total later":      change(1, 20, 1),
		"length":           change(0, 24, 1),
		"message kind":     change(0, FrameHeader, 9),
		"message reserved": change(0, FrameHeader+1, 9),
		"message bytes":    change(0, FrameHeader+20, 1),
		"payload":          change(2, FrameHeader+3, 1),
		"checksum":         change(0, FrameHeader+24, 1),
		"first chunk lost": func() [][]byte { return good[1:] },
		"chunk lost":       func() [][]byte { return [][]byte{good[0], good[2]} },
		"chunk twice":      func() [][]byte { return [][]byte{good[0], good[0]} },
		"after the end":    func() [][]byte { return [][]byte{good[0], good[1], good[2], good[2]} },
		"cut short":        func() [][]byte { return [][]byte{good[0][:len(good[0])-1]} },
		"too long":         func() [][]byte { return [][]byte{append(bytes.Clone(good[0]), 0)} },
		"no header":        func() [][]byte { return [][]byte{good[0][:10]} },
		"nothing":          func() [][]byte { return [][]byte{{}} },
		"empty chunk":      func() [][]byte { return [][]byte{(&Frame{Type: Data, Count: 1, Total: MessageHeader}).Append(nil)} },
		"no message": func() [][]byte {
			return [][]byte{(&Frame{Type: Data, Count: 1, Total: 3, Body: []byte("abc")}).Append(nil)}
		},
		"cancel nothing":   func() [][]byte { return [][]byte{(&Frame{Type: Cancel, ID: 1}).Append(nil)} },
		"cancel another":   func() [][]byte { return [][]byte{good[0], (&Frame{Type: Cancel, ID: 2}).Append(nil)} },
		"a foreign frame":  func() [][]byte { return [][]byte{(&Frame{Type: Credit, Total: 2}).Append(nil)} },
		"credit with body": func() [][]byte { return [][]byte{(&Frame{Type: Credit, Body: []byte("x")}).Append(nil)} },
		"long reason": func() [][]byte {
			return [][]byte{(&Frame{Type: Bye, Body: bytes.Repeat([]byte("x"), MaxReason+1)}).Append(nil)}
		},
		"small window": func() [][]byte {
			return [][]byte{(&Frame{Type: Hello, Total: FirstWindow - 1, Index: 1 << 20}).Append(nil)}
		},
	} {
		a := NewAssembler(0, 4*chunk)
		var err error
		for _, b := range mk() {
			if _, err = add(a, b); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v, want a protocol error", name, err)
		}
	}
	if _, err := add(NewAssembler(0, chunk), good[0]); !errors.Is(err, ErrProtocol) {
		t.Errorf("over the limit: got %v", err)
	}
	_, err := ParseFrame(append([]byte{7}, good[0][1:]...))
	if err == nil || !strings.Contains(err.Error(), "version 7") || !strings.Contains(err.Error(), fmt.Sprintf("version %d", Version)) {
		t.Errorf("another version: %v names not both", err)
	}
}

// TestWindow: a sender that obeys its account never breaks the receiver's, one that
// does not is caught, and the two never wait for one another.
func TestWindow(t *testing.T) {
	const window = 1 << 20
	rng := rand.New(rand.NewPCG(1, 2))
	var w Window
	a := NewAssembler(window, MaxTransfer)
	if err := w.Hello(a.Hello()); err != nil {
		t.Fatal(err)
	}
	if err := w.Hello(a.Hello()); !errors.Is(err, ErrProtocol) {
		t.Errorf("a second hello: %v", err)
	}
	payload := make([]byte, 3*window)
	var held []*Message
	stalls, grants := 0, 0
	for i := range 800 {
		n := int(float64(window) / 3 * rng.ExpFloat64() * rng.Float64())
		if n = min(n, len(payload)); i%100 == 99 {
			n = len(payload) // more than the whole window
		}
		for !w.Take(MessageHeader + n) {
			stalls++
			if len(held) == 0 {
				t.Fatalf("message %d of %d bytes cannot go though everything is released", i, n)
			}
			k := rng.IntN(len(held))
			f, ok := a.Release(held[k])
			held = append(held[:k], held[k+1:]...)
			if ok {
				grants++
				if err := w.Credit(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, b := range frames(uint32(i), Header{Kind: Control}, payload[:n]) {
			m, err := add(a, b)
			if err != nil {
				t.Fatalf("message %d of %d bytes: %v", i, n, err)
			}
			if m != nil {
				held = append(held, m)
			}
		}
	}
	if stalls == 0 || grants == 0 || grants > stalls {
		t.Errorf("%d stalls, %d grants: the test has not tested", stalls, grants)
	}
	if err := w.Credit(Frame{Total: 1 << 31}); !errors.Is(err, ErrProtocol) {
		t.Errorf("a credit for more than is in use: %v", err)
	}

	// A flood of empty messages is a flood too.
	a = NewAssembler(0, MaxTransfer)
	flood := frames(1, Header{Kind: Control}, nil)[0]
	n := 0
	for ; n < FirstWindow; n++ {
		if _, err := add(a, flood); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Error(err)
			}
			break
		}
	}
	if n > FirstWindow/MessageCost {
		t.Errorf("%d empty messages fit a window of %d bytes", n, FirstWindow)
	}
}

// TestBytes: whatever a sender sends and in whatever order its messages are released, the
// buffers stay within what Bytes says.
func TestBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 0))
	for range 6 {
		window, most := FirstWindow<<r.IntN(3), MessageHeader+1+r.IntN(1<<20)
		a := NewAssembler(window, most)
		var held []*Message
		peak := 0
		for id := range uint32(200) {
			n := r.IntN(most - MessageHeader)
			if r.IntN(2) == 0 {
				n = r.IntN(min(n+1, 100))
			}
			for !fits(a.held+a.owed, cost(n+MessageHeader), a.window) && len(held) > 0 {
				i := r.IntN(len(held))
				a.Release(held[i])
				held[i] = held[len(held)-1]
				held = held[:len(held)-1]
				a.owed = 0 // granted at once
			}
			for _, b := range frames(id, Header{Kind: Activation}, make([]byte, n)) {
				m, err := add(a, b)
				if err != nil {
					t.Fatal(err)
				}
				bytes := a.spare
				for _, h := range held {
					bytes += cap(h.buf)
				}
				if a.cur != nil {
					bytes += cap(a.cur.buf)
				}
				if m != nil {
					bytes += cap(m.buf)
					held = append(held, m)
				}
				peak = max(peak, bytes)
			}
		}
		if peak > Bytes(window, most) || peak < most/2 {
			t.Errorf("window %d, largest message %d: %d bytes at most, Bytes says %d", window, most, peak, Bytes(window, most))
		}
	}
}

// TestSteadyState: nothing is allocated once the buffers are there.
func TestSteadyState(t *testing.T) {
	a := NewAssembler(8<<20, MaxTransfer)
	fs := frames(1, Header{Kind: Activation}, make([]byte, 100_000))
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range fs {
			m, err := add(a, b)
			if err != nil {
				t.Fatal(err)
			}
			if m != nil {
				a.Release(m)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, b := range frames(1, Header{Kind: Activation, Seq: 3}, make([]byte, 100)) {
		f.Add(b)
	}
	for _, x := range []Frame{{Type: Cancel, ID: 1}, {Type: Bye, Body: []byte("done")}, {Type: Credit, Total: 9}, NewAssembler(0, 99).Hello()} {
		f.Add(x.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseFrame(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if again := x.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// FuzzAssemble feeds a stream of frames, each behind its length.
func FuzzAssemble(f *testing.F) {
	stream := func(fs ...[]byte) (s []byte) {
		for _, b := range fs {
			s = binary.LittleEndian.AppendUint32(s, uint32(len(b)))
			s = append(s, b...)
		}
		return s
	}
	one := frames(1, Header{Kind: Activation, Seq: 3}, make([]byte, 100))
	f.Add(stream(one...))
	f.Add(stream(append(one, one...)...))
	f.Add(stream(frames(1, Header{Kind: Gradient}, make([]byte, chunk+5))...))
	f.Add(stream(frames(1, Header{Kind: Gradient}, make([]byte, chunk+5))[0], (&Frame{Type: Cancel, ID: 1}).Append(nil)))
	f.Fuzz(func(t *testing.T, s []byte) {
		a := NewAssembler(0, 1<<20)
		arrived := 0
		for len(s) >= 4 {
			n := int(binary.LittleEndian.Uint32(s)) % (MaxFrame + 2)
			s = s[4:]
			n = min(n, len(s))
			b := s[:n]
			s = s[n:]
			arrived += n
			m, err := add(a, b)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("an error of another kind: %v", err)
				}
				return
			}
			if m != nil {
				if len(m.Payload) > arrived {
					t.Fatal("a message larger than what arrived")
				}
				h := m.Header
				h.Seal(m.Payload)
				if h != m.Header {
					t.Fatal("a header that does not match its payload")
				}
				a.Release(m)
			}
			if a.cur != nil && cap(a.cur.buf) > 2*chunk+2*arrived {
				t.Fatal("more is allocated than has arrived")
			}
		}
	})
}

func BenchmarkMessage64K(b *testing.B) {
	payload := make([]byte, 64_000)
	a := NewAssembler(8<<20, MaxTransfer)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	var head, buf []byte
	for range b.N {
		h := Header{Kind: Activation}
		h.Seal(payload)
		head = h.Append(head[:0])
		buf = Frame{ID: 1}.AppendChunk(buf[:0], 0, head, payload)
		m, err := add(a, buf)
		if err != nil {
			b.Fatal(err)
		}
		a.Release(m)
	}
}
