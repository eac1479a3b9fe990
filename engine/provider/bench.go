// What a provider can do, measured: the planner balances stages by these figures.

package provider

import (
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Bench is the speed of the tensor engine in GFLOP/s.
type Bench struct {
	GEMM float64 // 256³
	Conv float64 // 8x32x28x28, 3x3, 32 -> 32
}

// benchTime bounds each of the two measurements.
const benchTime = 60 * time.Millisecond

// Benchmark measures a GEMM and a convolution for a moment each.
func Benchmark(team *kernel.Team, now func() time.Duration) Bench {
	const n = 256
	g := kernel.GemmArgs{M: n, N: n, K: n, A: make([]float32, n*n), RS: n, KS: 1, B: make([]float32, n*n), BK: n, BJ: 1, C: make([]float32, n*n), LDC: n}
	kernel.Fill(g.A, 0.5)
	kernel.Fill(g.B, 0.25)
	scratch := make([]float32, kernel.GemmScratch(n, n, n))
	b := Bench{GEMM: rate(now, 2*n*n*n, func() { kernel.Gemm(team, &g, scratch) })}

	c := kernel.Conv{N: 8, C: 32, H: 28, W: 28, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1}
	x, y, w := make([]float32, c.N*c.C*c.H*c.W), make([]float32, c.N*c.O*c.H*c.W), make([]float32, c.O*c.C*9)
	kernel.Fill(x, 0.5)
	kernel.Fill(w, 0.25)
	scratch = make([]float32, kernel.ConvScratch(&c))
	b.Conv = rate(now, 2*float64(len(y))*float64(c.C*9), func() { kernel.ConvForward(team, &c, y, x, w, nil, false, scratch) })
	return b
}

// rate repeats f for benchTime after one warm-up and returns the best GFLOP/s of a
// call: the best is what the machine can do, the rest is other people's work.
func rate(now func() time.Duration, flops float64, f func()) float64 {
	f()
	best := time.Duration(1 << 62)
	for begin := now(); now()-begin < benchTime; {
		t := now()
		f()
		best = min(best, max(now()-t, 1))
	}
	return flops / best.Seconds() / 1e9
}
