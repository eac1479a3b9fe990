package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// bf16TEdges has every upper half of a float32 with a lower half that decides its rounding, and
// around the ends of the range with all such.
func bf16TEdges() []float32 {
	lows := []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff}
	var x []float32
	for high := range uint32(1 << 16) {
		x = append(x, math.Float32frombits(high<<16|lows[high*7%6]))
		for _, at := range []uint32{0, bf16Least >> 16, bf16Infinite >> 16, infBits >> 16} {
			if d := high&0x7fff - at; d+3 < 6 {
				for _, low := range lows {
					x = append(x, math.Float32frombits(high<<16|low))
				}
			}
		}
	}
	return x
}

// bf16TSame tells whether a and b have the same bits, or are both NaN.
func bf16TSame(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// TestPackBF16: what is unpacked are the operands, and ReLU's gradient sees the signs of what
// was packed, subnormal or not. Sizes end a block in all ways.
func TestPackBF16(t *testing.T) {
	edges := bf16TEdges()
	team := NewTeam(2)
	defer team.Close()
	vecTForms(func(name string) {
		for _, n := range []int{len(edges), 1, 2, 3, 31, 33, 1023, 1024, 1025, 1026, 2047, 3000} {
			threads := team
			if n%2 == 1 {
				threads = nil
			}
			bf16TPack(t, fmt.Sprintf("%s, %d elements", name, n), threads, edges[len(edges)-n:])
		}
	})
}

func bf16TPack(t *testing.T, what string, team *Team, x []float32) {
	want := make([]float32, len(x))
	RoundBF16(nil, want, x)
	for _, round := range []bool{false, true} {
		in, w, got := append([]float32(nil), x...), make([]uint32, PackedBF16(len(x))), make([]float32, len(x))
		PackBF16(team, w, in, round)
		UnpackBF16(team, got, w)
		for i := range x {
			if !bf16TSame(got[i], want[i]) {
				t.Fatalf("%s: %g (%#08x) was kept as %g, want %g", what, x[i], math.Float32bits(x[i]), got[i], want[i])
			}
			if after := in[i]; round && !bf16TSame(after, want[i]) || !round && math.Float32bits(after) != math.Float32bits(x[i]) {
				t.Fatalf("%s: packing left %g of %g", what, after, x[i])
			}
		}
		for _, from := range []int{0, len(x) / 3} {
			if round && from > 0 {
				break
			}
			dy, dx, grad := make([]float32, len(x)-from), make([]float32, len(x)-from), make([]float32, len(x)-from)
			for i := range dy {
				dy[i] = float32(i + 1)
			}
			ReLUGrad(grad, dy, x[from:])
			ReLUGradBF16(dx, dy, w, from)
			gemmTBits(t, what+", gradient", dx, grad)
			ReLUGradBF16(dy, dy, w, from)
			gemmTBits(t, what+", gradient in place", dy, grad)
		}
	}
}

// TestKeptRanges: any range of what is kept is that of the whole.
func TestKeptRanges(t *testing.T) {
	edges := bf16TEdges()
	r := rand.New(rand.NewPCG(41, 42))
	team := NewTeam(2)
	defer team.Close()
	for range 200 {
		n := 1 + r.IntN(5000)
		if r.IntN(20) == 0 {
			n += smallCopy // shared by threads
		}
		x, w := append([]float32(nil), edges[r.IntN(1000):][:n]...), make([]uint32, PackedBF16(n))
		PackBF16(nil, w, x, false)
		want := make([]float32, n)
		UnpackBF16(nil, want, w)
		from := r.IntN(n)
		at := from + r.IntN(n-from)
		got := make([]float32, r.IntN(n-at)+1)
		keptTensor{w: w, n: n, from: from}.read(team, got, at-from)
		gemmTBits(t, fmt.Sprintf("%d elements from element %d of %d on", len(got), at, n), got, want[at:][:len(got)])
	}
}

// FuzzPackBF16 compares the loops with their portable form on any bits.
func FuzzPackBF16(f *testing.F) {
	f.Add(uint32(0x3f800000), uint32(0x00000001), uint16(1000))
	f.Add(uint32(0x80000001), uint32(0x5f7fffff), uint16(1025))
	f.Fuzz(func(t *testing.T, a, step uint32, n uint16) {
		x := make([]float32, int(n)%5000)
		for i := range x {
			x[i] = math.Float32frombits(a + uint32(i)*step)
		}
		w, got := make([]uint32, PackedBF16(len(x))), make([]float32, len(x))
		PackBF16(nil, w, x, false)
		UnpackBF16(nil, got, w)
		for i, v := range x {
			if want := operandBF16(keptBF16(v)); math.Float32bits(got[i]) != math.Float32bits(want) {
				t.Fatalf("%#08x was kept as %#08x, want %#08x", math.Float32bits(v), math.Float32bits(got[i]), math.Float32bits(want))
			}
		}
	})
}
