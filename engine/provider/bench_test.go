package provider

import (
	"math"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
)

// A clock of any resolution gives the right rate, and an impossible clock gives none.
func TestRateByCoarseClocks(t *testing.T) {
	const flops = 2 * 256 * 256 * 256
	for _, call := range []time.Duration{90 * time.Microsecond, 350 * time.Microsecond, 3 * time.Millisecond, 40 * time.Millisecond} {
		want := flops / call.Seconds() / 1e9
		for _, res := range []time.Duration{1, 5 * time.Microsecond, time.Millisecond, 16 * time.Millisecond, 100 * time.Millisecond} {
			var real time.Duration
			now := func() time.Duration { return real / res * res }
			got := rate(now, window(now), Peak(1), flops, func() { real += call })
			// The error is one call per window, or one tick if the clock is finer than a call.
			slack := 0.02 + max(float64(call)/float64(max(res, coarse)), 0)*btoi(res > call/50)
			if math.Abs(got/want-1) > slack {
				t.Errorf("calls of %v, ticks of %v: %.1f GFLOP/s, want %.1f", call, res, got, want)
			}
			if real > 3*time.Second {
				t.Errorf("calls of %v, ticks of %v: took %v", call, res, real)
			}
		}
	}
	if got := rate(func() time.Duration { return time.Second }, coarse, Peak(1), flops, func() {}); got != 0 {
		t.Errorf("a clock that stands still: %v", got)
	}
	var at time.Duration
	if got := rate(func() time.Duration { at++; return at }, coarse, Peak(4), flops, func() {}); got != 0 {
		t.Errorf("a clock that hardly moves: %v GFLOP/s", got)
	}
	// An impossible result is measured again: here the clock is slow at first.
	var real time.Duration
	n := 0
	got := rate(func() time.Duration { return real }, coarse, Peak(1), flops, func() {
		if n++; n < 2000 {
			real += time.Microsecond
		} else {
			real += time.Millisecond
		}
	})
	if want := flops / 1e-3 / 1e9; math.Abs(got/want-1) > 0.01 {
		t.Errorf("a clock that was slow at first: %v GFLOP/s, want %v", got, want)
	}
}

// By a clock that moves a millisecond with each call, every rate is what a call computes, by however
// many threads.
func TestBenchmarkMeasuresAll(t *testing.T) {
	two := kernel.NewTeam(2)
	defer two.Close()
	for _, team := range []*kernel.Team{nil, two} {
		var at time.Duration
		got := Benchmark(team, func() time.Duration { at += time.Millisecond; return at })
		const product = 2 * 256 * 256 * 256 / 1e6
		want := Bench{GEMM: product, Conv: 2 * 8 * 32 * 28 * 28 * 32 * 9 / 1e6, Vector: 512 * 64 / 1e6, Alone: product}
		near := func(a, b float64) bool { return math.Abs(a/b-1) < 1e-9 }
		if !near(got.Alone, want.Alone) || !near(got.GEMM, want.GEMM) || !near(got.Conv, want.Conv) || !near(got.Vector, want.Vector) {
			t.Errorf("%d threads: %+v, want %+v", team.Threads(), got, want)
		}
		if at > 300*time.Millisecond {
			t.Errorf("%d threads: measuring takes %v", team.Threads(), at)
		}
	}
}

// What disturbs for a while does not count, what never agrees is measured for a bounded time, and an idle
// machine not for longer than it needs.
func TestBenchmarkLooksAgain(t *testing.T) {
	var at time.Duration
	now := func() time.Duration { at += time.Nanosecond; return at }
	measured := func(call func() time.Duration) (best float64, took time.Duration) {
		at = 0
		s := &speed{most: Peak(1), count: 1e5, f: func() { at += call() }}
		rounds(now, []*speed{s})
		return s.best, at
	}
	const idle = 100 * time.Microsecond // 1 GFLOP/s
	if best, took := measured(func() time.Duration { return idle }); math.Abs(best-1) > 0.01 || took > 8*agreeing*time.Millisecond {
		t.Errorf("an idle machine: %v GFLOP/s in %v", best, took)
	}
	if best, _ := measured(func() time.Duration {
		if at < 12*time.Millisecond {
			return 3 * idle
		}
		return idle
	}); math.Abs(best-1) > 0.01 {
		t.Errorf("disturbed at first: %v GFLOP/s", best)
	}
	// Others take turns of the processor that are shorter than a measurement.
	n := 0
	if best, _ := measured(func() time.Duration {
		if n++; n%30 == 0 {
			return idle + 4*time.Millisecond
		}
		return idle
	}); math.Abs(best-1) > 0.01 {
		t.Errorf("disturbed now and then: %v GFLOP/s", best)
	}
	if _, took := measured(func() time.Duration { n++; return idle + time.Duration(n) }); took > mostRounds+50*time.Millisecond {
		t.Errorf("slower and slower: measured for %v", took)
	}
	if best, took := measured(func() time.Duration { return 0 }); best != 0 || took > time.Second {
		t.Errorf("a clock that hardly moves: %v GFLOP/s in %v", best, took)
	}
}

func btoi(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
