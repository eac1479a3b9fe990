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
	// benchTime is how long a measurement takes in each round if the clock is fine enough.
	benchTime = 5 * time.Millisecond
	// coarse and fine are the shortest times over which a rate is computed, by the clock: the shorter,
	// the likelier is one in which no other program ran. A clock is fine that moves within so many reads.
	coarse, fine = 16 * time.Millisecond, time.Millisecond
	fineReads    = 1000
	// Rounds end when so many agree on every rate so closely, or after that time, so that what others do
	// for a while, such as measure themselves, does not count. In between the machine is theirs.
	agreeing   = 3
	agreement  = 0.03
	mostRounds = 400 * time.Millisecond
	between    = 20 * time.Millisecond
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

// Benchmark measures the speed of a matrix product, of a convolution and of loops over elements, in rounds,
// until it is clear that no other program disturbs it or for some hundred milliseconds. It takes as long
// as the clock's resolution requires: in browsers that can be 1 ms or 100 ms. A result is 0
// if now stands still or repeatedly gives an impossible rate.
func Benchmark(team *kernel.Team, now func() time.Duration) Bench {
	const n = 256
	g := kernel.GemmArgs{M: n, N: n, K: n, A: make([]float32, n*n), RS: n, KS: 1, B: make([]float32, n*n), BK: n, BJ: 1, C: make([]float32, n*n), LDC: n}
	kernel.Fill(g.A, 0.5)
	kernel.Fill(g.B, 0.25)
	scratch := make([]float32, kernel.GemmScratch(n, n, n))
	gemm := &speed{most: Peak(team.Threads()), count: 2 * n * n * n, f: func() { kernel.Gemm(team, &g, scratch) }}

	c := kernel.Conv{N: 8, C: 32, H: 28, W: 28, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1}
	x, y, w := make([]float32, c.N*c.C*c.H*c.W), make([]float32, c.N*c.O*c.H*c.W), make([]float32, c.O*c.C*9)
	kernel.Fill(x, 0.5)
	kernel.Fill(w, 0.25)
	room := make([]float32, kernel.ConvScratch(&c))
	conv := &speed{most: gemm.most, count: 2 * float64(len(y)) * float64(c.C*9), f: func() { kernel.ConvForward(team, &c, y, x, w, nil, false, room) }}

	const rows, cols = 512, 64
	in, out := make([]float32, rows*cols), make([]float32, rows*cols)
	kernel.Normal(in, kernel.NewStream(1, kernel.DomainTest, 0, 0))
	ones, zeros, mean, invstd := make([]float32, cols), make([]float32, cols), make([]float32, rows), make([]float32, rows)
	kernel.Fill(ones, 1)
	vector := &speed{most: VectorPeak(1), count: rows * cols, f: func() {
		kernel.LayerNorm(out, in, ones, zeros, mean, invstd, rows, cols, 1e-5)
		kernel.GELUTanh(out, out)
		kernel.Softmax(out, out, rows, cols)
	}}

	all, alone := []*speed{gemm, conv, vector}, gemm
	if team.Threads() > 1 {
		alone = &speed{most: Peak(1), count: gemm.count, f: func() { kernel.Gemm(nil, &g, scratch) }}
		all = append(all, alone)
	}
	rounds(now, all)
	b := Bench{GEMM: gemm.best, Conv: conv.best, Vector: vector.best, Alone: min(alone.best, gemm.best)}
	if b.Alone > 0 {
		b.Vector *= b.GEMM / b.Alone
	}
	return b
}

// speed is a rate that is measured, in operations a nanosecond.
type speed struct {
	most  float64 // more is impossible
	count float64 // operations of a call
	f     func()
	best  float64 // of all rounds
	rates []float64
}

// rounds measures all speeds, each for a while and again.
func rounds(now func() time.Duration, all []*speed) {
	for _, s := range all {
		s.f() // warms up
	}
	short := window(now)
	for begin := now(); ; time.Sleep(between) {
		agree := true
		for _, s := range all {
			r := rate(now, short, s.most, s.count, s.f)
			s.rates, s.best = append(s.rates, r), max(s.best, r)
			agree = agree && s.settled()
		}
		if agree || now()-begin >= mostRounds {
			return
		}
	}
}

// settled tells whether enough rounds agree with the best, or none measures anything.
func (s *speed) settled() bool {
	n := 0
	for _, r := range s.rates {
		if r >= s.best*(1-agreement) {
			n++
		}
	}
	return s.best == 0 || n >= agreeing
}

// window is the time over which rates are computed by a clock.
func window(now func() time.Duration) time.Duration {
	at := now()
	for range fineReads {
		if t := now(); t != at {
			return min(max(50*(t-at), fine), coarse)
		}
	}
	return coarse
}

// rate repeats f for benchTime and returns the operations a nanosecond of the best
// window, the one least disturbed by other programs. It measures again if the result
// exceeds most, and returns 0 if all tries do.
func rate(now func() time.Duration, window time.Duration, most, count float64, f func()) float64 {
	for range tries {
		if r := measure(now, window, count, f); r <= most {
			return r
		}
	}
	return 0
}

// measure counts the calls between two ticks of the clock, so that even with a coarse clock
// the error is at most one call and not one tick.
func measure(now func() time.Duration, window time.Duration, count float64, f func()) float64 {
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
			best = max(best, float64(n)*count/d.Seconds()/1e9)
		}
	}
	if calls >= giveUp {
		return 0
	}
	return best
}
