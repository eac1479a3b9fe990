package codec

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestInt8Bound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 7, 100, quantBlock} {
		for _, exp := range []int{-100, -99, -20, 0, 3, 100, 127} {
			x := make([]float32, n)
			var a float64
			for i := range x {
				x[i] = float32(math.Ldexp(r.Float64()*2-1, exp))
				if i == 0 { // keeps the block's largest at or above minScale
					x[i] = float32(math.Ldexp(1+r.Float64()*0.99, exp))
				}
				a = max(a, math.Abs(float64(x[i])))
			}
			y, z := make([]float32, n), make([]float32, n)
			roundTrip(INT8, y, x)
			// The step is a/127. On top of half of it: 127/a, its product with x
			// and x' are each rounded to 24 bits, in steps 3*127*2^-24.
			limit := a / 254 * (1 + 6*127.0/(1<<24))
			for i := range x {
				if d := math.Abs(float64(x[i]) - float64(y[i])); !(d <= limit) {
					t.Fatalf("n=%d 2^%d: %v became %v, off by %g, allowed %g", n, exp, x[i], y[i], d, limit)
				}
				if math.Abs(float64(x[i])) == a && x[i] != y[i] {
					t.Fatalf("the largest, %v, became %v", x[i], y[i])
				}
			}
			roundTrip(INT8, z, y)
			for i := range y {
				if y[i] != z[i] {
					t.Fatalf("quantised again, %v became %v", y[i], z[i])
				}
			}
		}
	}
}

// Halves of a step go to the even neighbour.
func TestInt8Ties(t *testing.T) {
	x := []float32{127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 125.5}
	want := []float32{127, 0, 2, 2, 0, -2, -2, 126, -126, 126}
	roundTrip(INT8, x, x)
	for i := range x {
		if x[i] != want[i] {
			t.Errorf("element %d is %v, want %v", i, x[i], want[i])
		}
	}
}

// A block that holds what a scale cannot express travels as it is; its
// neighbours are quantised all the same.
func TestInt8Escape(t *testing.T) {
	for _, odd := range []float32{
		float32(math.NaN()), math.Float32frombits(0x7f800001), math.Float32frombits(0xffc12345),
		float32(math.Inf(1)), float32(math.Inf(-1)),
	} {
		x := make([]float32, 3*quantBlock+5)
		for i := range x {
			x[i] = float32(i%1000) * 0.37
		}
		x[quantBlock+17] = odd
		y := make([]float32, len(x))
		roundTrip(INT8, y, x)
		for i := range x[quantBlock : 2*quantBlock] {
			i += quantBlock
			if math.Float32bits(x[i]) != math.Float32bits(y[i]) {
				t.Fatalf("element %d of the escaped block: %v became %v", i, x[i], y[i])
			}
		}
		changed := false
		for i := range quantBlock {
			changed = changed || x[i] != y[i]
		}
		if !changed {
			t.Fatal("the block before it is not quantised")
		}
	}
	tiny := []float32{math.SmallestNonzeroFloat32, 0, -1e-40, 5e-31}
	y := make([]float32, len(tiny))
	roundTrip(INT8, y, tiny)
	for i := range y {
		if y[i] != tiny[i] {
			t.Errorf("tiny block: %v became %v", tiny[i], y[i])
		}
	}
}
