package kernel

import (
	"encoding/binary"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"testing"
)

// TestUnaryBits: every function and its gradient, and arithmetic with broadcasting, have the
// same bits on every machine.
func TestUnaryBits(t *testing.T) {
	x, dy := make([]float32, 1000), make([]float32, 1000)
	Normal(x, NewStream(1, DomainTest, 0, 1))
	Normal(dy, NewStream(1, DomainTest, 0, 2))
	Scale(x[:500], x[:500], 4)
	copy(x, []float32{0, float32(math.Copysign(0, -1)), 1, -1, 3, -3, 6, 1e-30, -1e-30, 1e4, -1e4})
	h := fnv.New64a()
	put := func(v []float32) {
		for _, f := range v {
			u := math.Float32bits(f)
			if f != f {
				u = nanBits // its sign and payload are the machine's
			}
			h.Write(binary.LittleEndian.AppendUint32(nil, u))
		}
	}
	y, dx := make([]float32, len(x)), make([]float32, len(x))
	for _, name := range slices.Sorted(maps.Keys(Unaries)) {
		u := Unaries[name]
		u.F(y, x, 0.7, 1.3)
		put(y)
		if !u.Flat {
			u.G(dx, dy, x, y, 0.7, 1.3)
			put(dx)
		}
	}
	for op := ArithAdd; op <= ArithMask; op++ {
		l := NewBroadcast(op, []int{4, 5, 10}, []int{4, 1, 10}, []int{5, 1}, 40, 0)
		l.Forward(y, x, x[500:], 5)
		put(y)
		clear(dx)
		l.Grad(dx[:200], dy, x, x[500:], 0, 5)
		l.Grad(dx[200:205], dy, x, x[500:], 1, 5)
		put(dx)
	}
	for _, w := range [][]float32{nil, x[20:32]} {
		r := Resample{In: 4, Out: 6, Taps: 2, Inner: 5, Index: []uint32{3, 0, 1, 1, 2, 3, 0, 2, 3, 3, 1, 0}, Weight: w}
		r.Forward(y, x, 20)
		put(y[:600])
		r.Grad(dx, dy, 20)
		put(dx[:400])
	}
	const want = 0xd2de66766bdcb243
	if got := h.Sum64(); got != want {
		t.Errorf("the bits hash to %#x, want %#x", got, uint64(want))
	}
}
