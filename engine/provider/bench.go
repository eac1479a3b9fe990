// Measuring a provider's speed, by which the planner balances the stages.

package provider

import (
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Bench is the speed of the tensor engine.
type Bench struct {
	GEMM   float64 // GFLOP/s, 256³
	Conv   float64 // GFLOP/s, 8x32x28x28, 3x3, 32 -> 32
	Vector float64 // elements a nanosecond through layer norm, GELU and softmax, 512 rows of 64
	// Alone is GEMM on one thread. Vector is measured on one and thought to gain as much from all.
	Alone float64
}

const (
	// benchTime is how long each of the four measurements takes if the clock is fine enough.
	benchTime = 30 * time.Millisecond
	// window is the shortest time over which a rate is computed.
	window = 8 * time.Millisecond
	// giveUp bounds the calls of a measurement, in case the clock stands still.
	giveUp = 50_000
	// tries is how often an impossible result is measured again.
	tries = 3
	// peak is a generous bound on the speed of one thread: two 512-bit fused multiply-adds
	// per cycle at 6.5 GHz.
	peak = 416 // GFLOP/s
	// vectorPeak bounds the elements: the three loops read and write each some ten times.
	vectorPeak = 8 // a nanosecond
)

// Peak returns a rate in GFLOP/s that no machine with this many threads can exceed. Higher
// measurements are errors of the clock.
func Peak(threads int) float64 { return peak * float64(max(threads, 1)) }

// VectorPeak is Peak for Bench.Vector.
func VectorPeak(threads int) float64 { return vectorPeak * float64(max(threads, 1)) }

// Benchmark measures the speed of a matrix product, of a convolution and of loops over elements. It takes as long
// as the clock's resolution requires: in browsers that can be 1 ms or 100 ms. A result is 0
// if now stands still or repeatedly gives an impossible rate.
func Benchmark(team *kernel.Team, now func() time.Duration) Bench {
	const n = 256
	g := kernel.GemmArgs{M: n, N: n, K: n, A: make([]float32, n*n), RS: n, KS: 1, B: make([]float32, n*n), BK: n, BJ: 1, C: make([]float32, n*n), LDC: n}
	kernel.Fill(g.A, 0.5)
	kernel.Fill(g.B, 0.25)
	scratch := make([]float32, kernel.GemmScratch(n, n, n))
	b := Bench{GEMM: rate(now, Peak(team.Threads()), 2*n*n*n, func() { kernel.Gemm(team, &g, scratch) })}

	b.Alone = b.GEMM
	if team.Threads() > 1 {
		b.Alone = min(b.GEMM, rate(now, Peak(1), 2*n*n*n, func() { kernel.Gemm(nil, &g, scratch) }))
	}

	c := kernel.Conv{N: 8, C: 32, H: 28, W: 28, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1}
	x, y, w := make([]float32, c.N*c.C*c.H*c.W), make([]float32, c.N*c.O*c.H*c.W), make([]float32, c.O*c.C*9)
	kernel.Fill(x, 0.5)
	kernel.Fill(w, 0.25)
	scratch = make([]float32, kernel.ConvScratch(&c))
	b.Conv = rate(now, Peak(team.Threads()), 2*float64(len(y))*float64(c.C*9), func() { kernel.ConvForward(team, &c, y, x, w, nil, false, scratch) })

	const rows, cols = 512, 64
	in, out := make([]float32, rows*cols), make([]float32, rows*cols)
	kernel.Normal(in, kernel.NewStream(1, kernel.DomainTest, 0, 0))
	ones, zeros, mean, invstd := make([]float32, cols), make([]float32, cols), make([]float32, rows), make([]float32, rows)
	kernel.Fill(ones, 1)
	b.Vector = rate(now, VectorPeak(1), rows*cols, func() {
		kernel.LayerNorm(out, in, ones, zeros, mean, invstd, rows, cols, 1e-5)
		kernel.GELUTanh(out, out)
		kernel.Softmax(out, out, rows, cols)
	})
	if b.Alone > 0 {
		b.Vector *= b.GEMM / b.Alone
	}
	return b
}

// rate repeats f for benchTime after one warm-up call and returns the operations a nanosecond of the best
// window, the one least disturbed by other programs. It measures again if the result
// exceeds most, and returns 0 if all tries do.
func rate(now func() time.Duration, most, flops float64, f func()) float64 {
	f()
	for range tries {
		if r := measure(now, flops, f); r <= most {
			return r
		}
	}
	return 0
}

// measure counts the calls between two ticks of the clock, so that even with a coarse clock
// the error is at most one call and not one tick.
func measure(now func() time.Duration, flops float64, f func()) float64 {
	best, calls := 0.0, 0
	t := now()
	tick := func() (n int, at time.Duration) { // calls until the clock has moved
		for at = t; at <= t && calls < giveUp; n++ {
			f()
			calls++
			at = now()
		}
		return n, at
	}
	_, t = tick()
	for begin, first := t, true; calls < giveUp && (first || t-begin < benchTime); first = false {
		from, n := t, 0
		for t-from < window && calls < giveUp {
			k, at := tick()
			n, t = n+k, at
		}
		if d := t - from; d > 0 {
			best = max(best, float64(n)*flops/d.Seconds()/1e9)
		}
	}
	if calls >= giveUp {
		return 0
	}
	return best
}
