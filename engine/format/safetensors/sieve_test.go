package safetensors

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

// sieved is a file's tensors that keep names, however it comes.
func sieved(t *testing.T, file []byte, keep func(string) bool, most int64, piece func() int) (state.Dict, error) {
	t.Helper()
	s := NewSieve(int64(len(file)), keep, most)
	for at := 0; at < len(file); {
		k := min(piece(), len(file)-at)
		if n, err := s.Write(file[at : at+k]); err != nil {
			return nil, err
		} else if n != k {
			t.Fatalf("%d of %d bytes written, and no error", n, k)
		}
		at += k
	}
	return s.Dict()
}

// TestSieve: what a sieve keeps is what Parse reads, in whatever pieces a file comes.
func TestSieve(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var d state.Dict
	for i := range 20 {
		x := state.Tensor{Name: string(rune('a' + i)), Shape: []int{i}, F32: make([]float32, i)}
		for k := range x.F32 {
			x.F32[k] = rng.Float32()
		}
		if i%5 == 4 {
			x.Shape, x.F32, x.I64 = []int{}, nil, []int64{int64(i)}
		}
		d = append(d, x)
	}
	var file bytes.Buffer
	if err := Write(&file, d, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	for _, names := range []string{"", "a", "bej", "t", "abcdefghijklmnopqrst"} {
		for _, most := range []int{1, 7, 100, 1 << 20} {
			keep := func(name string) bool { return strings.Contains(names, name) }
			got, err := sieved(t, file.Bytes(), keep, 1<<20, func() int { return 1 + rng.IntN(most) })
			if err != nil || len(got) != len(names) {
				t.Fatalf("%q in pieces of up to %d: %d tensors, %v", names, most, len(got), err)
			}
			for _, x := range got {
				i := slices.IndexFunc(d, func(o state.Tensor) bool { return o.Name == x.Name })
				if !slices.Equal(x.F32, d[i].F32) || !slices.Equal(x.I64, d[i].I64) || !slices.Equal(x.Shape, d[i].Shape) {
					t.Errorf("%q in pieces of up to %d: %+v, want %+v", names, most, x, d[i])
				}
			}
		}
	}
	all, whole := func(string) bool { return true }, func() int { return 1 << 20 }
	if _, err := sieved(t, file.Bytes(), all, 100, whole); err == nil || !strings.Contains(err.Error(), "more than 100 bytes") {
		t.Errorf("tensors beyond the limit: %v", err)
	}
	for n := range file.Len() {
		s := NewSieve(int64(file.Len()), all, 1<<20)
		if _, err := s.Write(file.Bytes()[:n]); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Dict(); err == nil {
			t.Fatalf("%d of %d bytes are read as a file", n, file.Len())
		}
	}
	if _, err := sieved(t, make([]byte, 9), all, 100, whole); err == nil {
		t.Error("a file without a header is read")
	}
	if _, err := sieved(t, []byte("\xff\xff\xff\xff\xff\xff\xff\x7f{}"), all, 100, whole); err == nil {
		t.Error("a header that is longer than the file is read")
	}
}

// FuzzSieve: a sieve accepts what Parse accepts, and keeps the same.
func FuzzSieve(f *testing.F) {
	var file bytes.Buffer
	if err := Write(&file, state.Dict{{Name: "a", Shape: []int{2}, F32: []float32{1, 2}}, {Name: "n", Shape: []int{}, I64: []int64{3}}}, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes(), uint8(3))
	f.Fuzz(func(t *testing.T, file []byte, piece uint8) {
		want, _, err := Parse(file)
		got, serr := sieved(t, file, func(string) bool { return true }, 1<<40, func() int { return 1 + int(piece) })
		if (err == nil) != (serr == nil) || len(got) != len(want) {
			t.Fatalf("Parse: %d tensors, %v; sieve: %d tensors, %v", len(want), err, len(got), serr)
		}
	})
}
