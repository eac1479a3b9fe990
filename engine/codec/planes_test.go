package codec

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLoops compares the machine's loops with the portable code, and both with where
// they started from.
func TestLoops(t *testing.T) {
	defer func(v bool) { vector = v }(vector)
	r := rand.New(rand.NewPCG(5, 6))
	own := vector
	for range 400 {
		n, p := r.IntN(300), 1+r.IntN(40)
		w := make([]uint32, n)
		rows := new(columns)
		for i := range p {
			rows.words[i] = r.Uint32N(3)
		}
		rows.repeat(p)
		for i := range w {
			w[i] = r.Uint32()
			if r.IntN(3) > 0 {
				w[i] = rows.words[i%p]
			}
		}
		width := 1 << r.IntN(3)
		type result struct {
			packed, back, merged []uint32
			bitmap, planes       []byte
		}
		run := func() (s result) {
			s.bitmap, s.packed = make([]byte, (n+7)/8), slices.Clone(w)
			s.packed = s.packed[:pack(s.bitmap, s.packed, rows)]
			s.back = append(slices.Clone(s.packed), make([]uint32, n-len(s.packed))...)
			unpack(s.back, s.bitmap, len(s.packed), rows)
			s.planes = make([]byte, n*width)
			split(s.planes, w, width)
			var p [maxPlanes][]byte
			for i := range width {
				p[i] = s.planes[i*n:][:n]
			}
			s.merged = make([]uint32, n)
			merge(s.merged, &p, width)
			return s
		}
		vector = false
		want := run()
		vector = own
		got := run()
		if !slices.Equal(got.packed, want.packed) || !slices.Equal(got.bitmap, want.bitmap) || !slices.Equal(got.planes, want.planes) {
			t.Fatalf("%d words of %d bytes, period %d: the loops pack %x, want %x", n, width, p, got, want)
		}
		for _, s := range []result{got, want} {
			for i, v := range w {
				if s.back[i] != v || s.merged[i] != v&(1<<(8*width)-1) {
					t.Fatalf("%d words of %d bytes, period %d: word %d is %x unpacked and %x merged, was %x", n, width, p, i, s.back[i], s.merged[i], v)
				}
			}
		}
	}
}
