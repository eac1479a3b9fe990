package wire

import (
	"bytes"
	"errors"
	"testing"
)

// frames cuts a message as a link does.
func frames(id uint32, h Header, payload []byte) [][]byte {
	h.Seal(payload)
	msg := append(h.Append(nil), payload...)
	n := Chunks(len(msg))
	var fs [][]byte
	for i := range n {
		f := Frame{Type: Data, ID: id, Index: uint32(i), Count: uint32(n), Total: uint32(len(msg)), Body: msg[i*chunk : min((i+1)*chunk, len(msg))]}
		fs = append(fs, f.Append(nil))
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

func TestMessages(t *testing.T) {
	a := &Assembler{Max: MaxTransfer}
	for i, n := range []int{0, 1, chunk - MessageHeader - 1, chunk - MessageHeader, chunk - MessageHeader + 1, chunk, 3*chunk + 7} {
		p := bytes.Repeat([]byte{byte(i + 1), 7, 3}, n/3+1)[:n]
		h := Header{Kind: Gradient, Edge: 9, Rows: 64, Seq: 1 << 40, Elems: uint32(n)}
		fs := frames(uint32(i), h, p)
		for k, b := range fs {
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
				a.Recycle(m)
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
		"reserved":         change(0, 2, 1),
		"transfer id":      change(1, 4, 9),
		"index":            change(1, 8, 2),
		"count":            change(0, 12, 9),
		"total":            change(0, 19, 0x7f),
		"length":           change(0, 20, 1),
		"message kind":     change(0, FrameHeader, 9),
		"message bytes":    change(0, FrameHeader+20, 1),
		"payload":          change(2, FrameHeader+3, 1),
		"first chunk lost": func() [][]byte { return good[1:] },
		"chunk lost":       func() [][]byte { return [][]byte{good[0], good[2]} },
		"chunk twice":      func() [][]byte { return [][]byte{good[0], good[0]} },
		"cut short":        func() [][]byte { return [][]byte{good[0][:len(good[0])-1]} },
		"no header":        func() [][]byte { return [][]byte{good[0][:10]} },
	} {
		a := &Assembler{Max: 4 * chunk}
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
	a := &Assembler{Max: chunk}
	if _, err := add(a, good[0]); !errors.Is(err, ErrProtocol) {
		t.Errorf("over the limit: got %v", err)
	}
}

func FuzzAssemble(f *testing.F) {
	for _, b := range frames(1, Header{Kind: Activation, Seq: 3}, make([]byte, 100)) {
		f.Add(b)
	}
	f.Add((&Frame{Type: Cancel, ID: 1}).Append(nil))
	f.Add((&Frame{Type: Bye, Body: []byte("done")}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &Assembler{Max: 1 << 20}
		for range 2 {
			fr, err := ParseFrame(b)
			if err != nil {
				return
			}
			if fr.Type != Data && fr.Type != Cancel {
				return
			}
			m, err := a.Add(fr)
			if err != nil {
				return
			}
			if m != nil && len(m.Payload) > len(b) {
				t.Fatal("a message larger than what arrived")
			}
			if cap(a.buf) > 4*MaxFrame {
				t.Fatal("more is allocated than has arrived")
			}
		}
	})
}
