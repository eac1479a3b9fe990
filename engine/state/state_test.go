package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func sample() Dict {
	return Dict{
		{Name: "w", Shape: []int{2, 3}, F32: []float32{1, -2, 3, 0, 5, float32(math.NaN())}},
		{Name: "bn.num_batches_tracked", Shape: []int{}, I64: []int64{17}},
		{Name: "empty", Shape: []int{0, 4}, F32: []float32{}},
	}
}

func TestElems(t *testing.T) {
	for _, c := range []struct {
		shape []int
		n     int
		ok    bool
	}{
		{nil, 1, true},
		{[]int{2, 3, 4}, 24, true},
		{[]int{0}, 0, true},
		{[]int{1 << 20, 1 << 20}, 1 << 40, true},
		{[]int{1 << 20, 1 << 20, 2}, 0, false},
		{[]int{1 << 62, 4}, 0, false},          // overflows to 0
		{[]int{0, 1 << 40, 1 << 40}, 0, false}, // empty, and its strides overflow
		{[]int{-1}, 0, false},
		{[]int{-1, -1}, 0, false},
		{[]int{1, 1, 1, 1, 1, 1, 1, 1}, 1, true},
		{[]int{1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, false},
	} {
		n, err := Elems(c.shape)
		if (err == nil) != c.ok || n != c.n {
			t.Errorf("Elems(%v) = %d, %v; want %d, ok %v", c.shape, n, err, c.n, c.ok)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("Elems(%v): %v does not wrap ErrInvalid", c.shape, err)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := sample().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, d := range map[string]Dict{
		"without a name": {{F32: []float32{1}}},
		"1025 bytes":     {{Name: strings.Repeat("a", 1025), F32: []float32{1}}},
		"not UTF-8":      {{Name: "\xff", F32: []float32{1}}},
		`"a" must hold`:  {{Name: "a"}},
		`"b" must hold`:  {{Name: "b", F32: []float32{1}, I64: []int64{1}}},
		"holds 1":        {{Name: "a", Shape: []int{2}, F32: []float32{1}}},
		"negative":       {{Name: "a", Shape: []int{-2}, F32: []float32{1}}},
		"occurs twice":   {{Name: "a", F32: []float32{1}}, {Name: "a", I64: []int64{1}}},
		"65537 tensors":  make(Dict, 65537),
	} {
		if err := d.Validate(); err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// Every change that Equal sees must change the hash, and nothing else may.
func TestEqualHash(t *testing.T) {
	a := sample()
	if b := a.Clone(); !a.Equal(b) || a.Hash() != b.Hash() {
		t.Fatal("a clone differs")
	}
	for name, change := range map[string]func(Dict) Dict{
		"order":    func(d Dict) Dict { slices.Reverse(d); return d },
		"name":     func(d Dict) Dict { d[0].Name = "v"; return d },
		"shape":    func(d Dict) Dict { d[0].Shape = []int{3, 2}; return d },
		"element":  func(d Dict) Dict { d[0].F32[4] = math.Nextafter32(5, 6); return d },
		"zero":     func(d Dict) Dict { d[0].F32[3] = float32(math.Copysign(0, -1)); return d },
		"nan bits": func(d Dict) Dict { d[0].F32[5] = math.Float32frombits(0x7fc00001); return d },
		"int":      func(d Dict) Dict { d[1].I64[0]++; return d },
		"type":     func(d Dict) Dict { d[2].F32, d[2].I64 = nil, []int64{}; return d },
		"fewer":    func(d Dict) Dict { return d[:2] },
	} {
		b := change(a.Clone())
		if a.Equal(b) || b.Equal(a) || a.Hash() == b.Hash() {
			t.Errorf("%s: not seen", name)
		}
	}
	if got := a.Names(); !slices.Equal(got, []string{"w", "bn.num_batches_tracked", "empty"}) {
		t.Errorf("names %v", got)
	}
	if g, ok := a.Get("bn.num_batches_tracked"); !ok || g.I64[0] != 17 {
		t.Error("Get did not find the counter")
	}
	if _, ok := a.Get("bn"); ok {
		t.Error("Get found a tensor that is not there")
	}
}

// The canonical form is spelled out by hand here, and crosses the hash's buffer.
func TestHashForm(t *testing.T) {
	v := make([]float32, 20000)
	for i := range v {
		v[i] = float32(i)
	}
	d := Dict{{Name: "a", Shape: []int{20000}, F32: v}, {Name: "n", I64: []int64{-1}}}
	b := []byte("ravnest state 1\n\x02\x00\x00\x00" + "\x01\x00\x00\x00a\x00\x01" + "\x20\x4e\x00\x00\x00\x00\x00\x00")
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	b = append(b, "\x01\x00\x00\x00n\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff"...)
	want, got := sha256.Sum256(b), d.Hash()
	if got != want {
		t.Errorf("hash %s, want %s", hex.EncodeToString(got[:]), hex.EncodeToString(want[:]))
	}
}
