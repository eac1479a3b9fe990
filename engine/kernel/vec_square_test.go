package kernel_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/ravnest/ravnest/engine/kernel"
)

// TestSumSquares holds the sum against exact arithmetic, over all lengths of a remainder, with
// numbers whose squares a float32 cannot hold.
func TestSumSquares(t *testing.T) {
	for n := range 40 {
		x := make([]float32, n)
		kernel.Normal(x, kernel.NewStream(3, kernel.DomainTest, uint64(n), 0))
		for i := range x {
			x[i] *= []float32{1, 1e30, 1e-30}[i%3]
		}
		want := new(big.Float).SetPrec(400)
		for _, v := range x {
			f := new(big.Float).SetPrec(400).SetFloat64(float64(v))
			want.Add(want, f.Mul(f, f))
		}
		w, _ := want.Float64()
		if got := kernel.SumSquares(x); math.Abs(got-w) > 1e-14*w {
			t.Errorf("%d elements: %v, want %v", n, got, w)
		}
	}
	if got := kernel.SumSquares([]float32{3e38, 3e38}); math.IsInf(got, 0) {
		t.Errorf("two large numbers: %v", got)
	}
}
