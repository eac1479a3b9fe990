package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

// shelf keeps shards.
type shelf struct {
	mu    sync.Mutex
	blobs map[[sha256.Size]byte][]byte
	fail  func() error
	got   int
}

func (s *shelf) put(sum [sha256.Size]byte, b []byte) error {
	if s.blobs == nil {
		s.blobs = map[[sha256.Size]byte][]byte{}
	}
	s.blobs[sum] = b
	return nil
}

func (s *shelf) fetch(_ context.Context, sh Shard) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got++
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return nil, err
		}
	}
	if b, ok := s.blobs[sh.SHA256]; ok {
		return bytes.Clone(b), nil
	}
	return nil, errors.New("no such shard")
}

// rawOf is values of a file's type, by their bytes.
func rawOf(dtype state.DType, shape []int, v ...float64) *Raw {
	var b []byte
	le := binary.LittleEndian
	for _, x := range v {
		switch dtype {
		case state.U8:
			b = append(b, uint8(x))
		case state.U16:
			b = le.AppendUint16(b, uint16(x))
		case state.I64:
			b = le.AppendUint64(b, uint64(int64(x)))
		default:
			b = le.AppendUint32(b, math.Float32bits(float32(x)))
		}
	}
	n := max(product(shape), 1)
	return &Raw{Rows: len(v) / n, Shape: shape, DType: dtype, R: bytes.NewReader(b)}
}

// rows is a set of n rows: inputs of two values that tell the row, classes of 3.
func rows(n int, dtype state.DType) (x, y *Raw) {
	var xs, ys []float64
	for i := range n {
		xs, ys = append(xs, float64(i), float64(i%7)), append(ys, float64(i%3))
	}
	return rawOf(dtype, []int{2}, xs...), rawOf(state.I64, nil, ys...)
}

// TestPaged: rows that come by shards are those of the table, with any room, in the order of
// the job, whatever the type, and no shard of a group is fetched twice in an epoch.
func TestPaged(t *testing.T) {
	for _, dtype := range []state.DType{state.U8, state.U16, state.I64, state.F32} {
		const n = 103
		x, y := rows(n, dtype)
		if dtype == state.F32 {
			x = rawOf(dtype, []int{2}, append(slices.Repeat([]float64{0.5, -3}, n-1), 1, 2)...)
		}
		s := &shelf{}
		p, err := Pack(x, y, 9*5, true, s.put, nil)
		if err != nil {
			t.Fatal(err)
		}
		set, err := FromShards("d", p, nil, 3, []int{1, 2}, &Want{Output: []int{3}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(set.Train.InputShape(), []int{1, 2}) || !slices.Equal(set.Train.TargetShape(), []int{3}) || set.Val.Len() != 0 {
			t.Fatalf("%v %v", set.Train.InputShape(), set.Train.TargetShape())
		}
		// The whole tables, in the shards' order.
		var whole [2]*Table
		for i, head := range []*Table{set.Train.X(), set.Train.Y()} {
			whole[i] = &Table{Kind: head.Kind, Shape: head.Shape, Classes: head.Classes}
			ix, err := DecodeIndex(head.Index.Encode())
			if err != nil {
				t.Fatal(err)
			}
			var raw []byte
			for k := range ix.Shards {
				b, err := s.fetch(t.Context(), ix.Shards[k])
				if err != nil {
					t.Fatal(err)
				}
				part, err := ix.open(nil, b, k)
				if err != nil {
					t.Fatal(err)
				}
				raw = append(raw, part...)
			}
			whole[i].Rows = n
			whole[i].fill(ix.dtype, raw)
			if err := whole[i].Check(); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Sorted(slices.Values(all(whole[0]))); !slices.Equal(got, slices.Sorted(slices.Values(values(t, x)))) {
			t.Fatalf("%v: packing lost rows: %v", dtype, got)
		}
		for _, most := range []int{1, 2, 5, 100} {
			checkPaged(t, fmt.Sprint(dtype, most), set, whole, s, most)
		}
	}
}

func values(t *testing.T, r *Raw) []float32 {
	t.Helper()
	tab, err := ReadTable(Inputs, r.DType, append([]int{r.Rows}, r.Shape...), r.R.(*bytes.Reader))
	if err != nil {
		t.Fatal(err)
	}
	return all(tab)
}

func checkPaged(t *testing.T, name string, set *Set, whole [2]*Table, s *shelf, most int) {
	t.Helper()
	const batch, epochs = 10, 3
	l := set.Train.X().Index.Layout
	order := NewShuffle(l, 5)
	px := NewPaged(t.Context(), set.Train.X().Index, NewShuffle(l, 5), most, batch, s.fetch)
	py := NewPaged(t.Context(), set.Train.Y().Index, NewShuffle(l, 5), most, batch, s.fetch)
	defer px.Close()
	defer py.Close()
	rows := make([]int32, batch)
	for epoch := range epochs {
		for from := 0; from < l.Rows; from += batch {
			rows := rows[:min(batch, l.Rows-from)]
			order.Rows(rows, epoch, from)
			for i, p := range []*Paged{px, py} {
				if err := p.Hold(t.Context(), epoch, from, rows); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got, want := make([]float32, len(rows)*p.Elems()), make([]float32, len(rows)*p.Elems())
				p.Gather(got, rows)
				whole[i].Gather(want, rows)
				if !slices.Equal(got, want) {
					t.Fatalf("%s: rows %v are %v, want %v", name, rows, got, want)
				}
			}
			lab, want := make([]int32, len(rows)), make([]int32, len(rows))
			py.Labels(lab, rows)
			whole[1].Labels(want, rows)
			if !slices.Equal(lab, want) {
				t.Fatalf("%s: labels %v, want %v", name, lab, want)
			}
		}
		// And a pass in the rows' order, as validation is.
		for from := 0; from < l.Rows; from += batch {
			rows := rows[:min(batch, l.Rows-from)]
			for i := range rows {
				rows[i] = int32(from + i)
			}
			if err := px.Hold(t.Context(), -1, from, rows); err != nil {
				t.Fatal(err)
			}
			got, want := make([]float32, 2*len(rows)), make([]float32, 2*len(rows))
			px.Gather(got, rows)
			if whole[0].Gather(want, rows); !slices.Equal(got, want) {
				t.Fatalf("%s: rows %v in order are %v, want %v", name, rows, got, want)
			}
		}
	}
	py.Close()
	fetched := py.Fetched()
	switch {
	case most >= l.Shards() && fetched != l.Shards():
		t.Errorf("%s: %d fetches of %d shards that all fit", name, fetched, l.Shards())
	case most >= set.Train.X().Index.LeastShards(true) && fetched > epochs*l.Shards()+most:
		t.Errorf("%s: %d fetches in %d epochs of %d shards", name, fetched, epochs, l.Shards())
	}
}

// TestPagedFails: what cannot be fetched is an error of whoever needs it, and may come later; a
// shard that is not what the index names is one, too.
func TestPagedFails(t *testing.T) {
	x, y := rows(40, state.U8)
	s := &shelf{}
	p, err := Pack(x, y, 3*4, true, s.put, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := FromShards("d", p, nil, 2, []int{2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ix := set.Train.X().Index
	down := errors.New("down")
	failing := true
	s.fail = func() error {
		if failing {
			return down
		}
		return nil
	}
	r := NewPaged(t.Context(), ix, nil, 3, 8, s.fetch)
	defer r.Close()
	if err := r.Hold(t.Context(), -1, 0, iota32(8)); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	s.mu.Lock()
	failing = false
	s.mu.Unlock()
	if err := r.Hold(t.Context(), -1, 0, iota32(8)); err != nil {
		t.Errorf("got %v", err)
	}
	r.Close()
	for sum, b := range s.blobs {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		s.blobs[sum] = b
	}
	bad := NewPaged(t.Context(), ix, nil, 3, 8, s.fetch)
	defer bad.Close()
	if err := bad.Hold(t.Context(), -1, 0, iota32(8)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	slow := NewPaged(t.Context(), ix, nil, 3, 8, func(ctx context.Context, _ Shard) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	defer slow.Close()
	if err := slow.Hold(ctx, -1, 0, iota32(8)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestPackRefuses: what a set in memory may not hold, one in shards may not either.
func TestPackRefuses(t *testing.T) {
	x, y := rows(9, state.U8)
	put := (&shelf{}).put
	for _, c := range []struct {
		x, y *Raw
		want string
	}{
		{x, rawOf(state.I64, nil, 1), "but 1 of targets"},
		{rawOf(state.F32, []int{1}, 1, math.NaN()), rawOf(state.I64, nil, 1, 2), "row 1: NaN"},
		{rawOf(state.I64, []int{1}, 1, 1<<25), rawOf(state.I64, nil, 1, 2), "row 1 holds"},
		{&Raw{Rows: 50, Shape: x.Shape, DType: x.DType, R: x.R}, &Raw{Rows: 50, DType: state.U8, R: y.R}, "EOF"},
		{&Raw{Rows: 1, Shape: []int{1 << 20, 1 << 20}, DType: state.U8, R: x.R}, &Raw{Rows: 1, DType: state.U8, R: y.R}, "values"},
	} {
		if _, err := Pack(c.x, c.y, 100, true, put, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	p, err := Pack(x, rawOf(state.I64, nil, 0, 1, 2, 3, 4, NoClass, 0, 0, 0), 12, true, put, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromShards("d", p, nil, 2, []int{2}, &Want{Output: []int{4}}); err == nil || !strings.Contains(err.Error(), "0 to 4") {
		t.Errorf("got %v", err)
	}
	set, err := FromShards("d", p, nil, 2, []int{2}, &Want{Output: []int{5}})
	if err != nil || set.Train.Y().Classes != 5 {
		t.Fatal(err)
	}
	if err := set.Train.X().CheckTokens(9, 0, 2); err != nil {
		t.Error(err)
	}
	if err := set.Train.X().CheckTokens(8, 0, 2); err == nil {
		t.Error("a token too large is not refused")
	}
	if err := set.Train.X().CheckTokens(7, 1, 2); err != nil {
		t.Error(err)
	}
}

// FuzzIndex: an index is refused or is what it encodes to, and no shard that does not belong to
// it is taken.
func FuzzIndex(f *testing.F) {
	x, y := rows(40, state.U8)
	s := &shelf{}
	p, err := Pack(x, y, 3*4, true, s.put, nil)
	if err != nil {
		f.Fatal(err)
	}
	set, err := FromShards("d", p, nil, 2, []int{2}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(set.Train.X().Index.Encode(), []byte("RVND"))
	f.Add(set.Train.Y().Index.Encode(), s.blobs[set.Train.Y().Index.Shards[0].SHA256])
	f.Add(set.Val.Y().Index.Encode(), []byte{})
	f.Fuzz(func(t *testing.T, b, blob []byte) {
		ix, err := DecodeIndex(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(ix.Encode(), b) {
			t.Errorf("%+v encodes to something else", ix)
		}
		if len(ix.Shards) > 0 {
			ix.Shards[0].SHA256 = sha256.Sum256(blob)
			if raw, err := ix.open(nil, blob, 0); err == nil && len(raw) != ix.Layout.Len(0)*ix.RowBytes() {
				t.Errorf("%d bytes", len(raw))
			}
		}
	})
}
