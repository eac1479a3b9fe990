package kernel

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// gemmTCount counts how often each tile is done.
type gemmTCount struct {
	done []atomic.Int32
}

func (c *gemmTCount) Tile(_, i int) { c.done[i].Add(1) }

func (c *gemmTCount) check(t *testing.T) {
	t.Helper()
	for i := range c.done {
		if n := c.done[i].Swap(0); n != 1 {
			t.Fatalf("tile %d of %d was done %d times", i, len(c.done), n)
		}
	}
}

// TestTeamDoesEveryTileOnce over many jobs in a row, with pauses in which the threads
// fall asleep.
func TestTeamDoesEveryTileOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		team := NewTeam(threads)
		if team.Threads() != min(threads, mostThreads()) {
			t.Errorf("%d threads of %d", team.Threads(), threads)
		}
		for round := range 2000 {
			c := gemmTCount{done: make([]atomic.Int32, round%17)}
			team.Run(len(c.done), &c)
			c.check(t)
			if round%500 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		team.Close()
	}
}

// gathering is a task whose first tiles wait until every thread has one.
type gathering struct {
	gemmTCount
	threads int32
	here    atomic.Int32
	came    [maxThreads]atomic.Bool
	all     chan struct{}
}

func (g *gathering) Tile(worker, i int) {
	if g.came[worker].CompareAndSwap(false, true) && g.here.Add(1) == g.threads {
		close(g.all)
	}
	select {
	case <-g.all:
	case <-time.After(time.Minute):
	}
	g.gemmTCount.Tile(worker, i)
}

// TestTeamSharesWork: tiles that block are done by all threads, woken from sleep.
func TestTeamSharesWork(t *testing.T) {
	if alone {
		t.Skip("a browser's workers do products only")
	}
	team := NewTeam(4)
	defer team.Close()
	time.Sleep(time.Millisecond)
	g := gathering{gemmTCount: gemmTCount{done: make([]atomic.Int32, 40)}, threads: 4, all: make(chan struct{})}
	team.Run(40, &g)
	g.check(t)
	if n := g.here.Load(); n != 4 {
		t.Errorf("%d threads of 4 did something", n)
	}
}

func TestTeamNil(t *testing.T) {
	var team *Team
	c := gemmTCount{done: make([]atomic.Int32, 5)}
	team.Run(5, &c)
	c.check(t)
	if team.Threads() != 1 {
		t.Error("a nil team is one thread")
	}
	team.Close()
}

func TestTeamCloseEndsThreads(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 50 {
		team := NewTeam(5)
		c := gemmTCount{done: make([]atomic.Int32, 3)}
		team.Run(3, &c)
		team.Close()
	}
	for range 10_000 { // a goroutine that is done counts until it has returned
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

// TestTeamSleeps: a team with nothing to do leaves the loop that looks for work.
func TestTeamSleeps(t *testing.T) {
	if alone {
		t.Skip("a browser's workers do products only")
	}
	team := NewTeam(3)
	defer team.Close()
	c := gemmTCount{done: make([]atomic.Int32, 6)}
	team.Run(6, &c)
	asleep := func() int {
		return len(slices.DeleteFunc([]int{0, 1}, func(i int) bool { return !team.workers[i].asleep.Load() }))
	}
	for range 10_000 {
		if asleep() == 2 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d of 2 threads asleep after ten seconds", asleep())
}

func BenchmarkTeam(b *testing.B) {
	for name, pause := range map[string]time.Duration{"at once": 0, "asleep": time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			team := NewTeam(2)
			defer team.Close()
			c := gemmTCount{done: make([]atomic.Int32, 4)}
			var in time.Duration
			for b.Loop() {
				time.Sleep(pause)
				at := time.Now()
				team.Run(4, &c)
				in += time.Since(at)
			}
			b.ReportMetric(float64(in.Nanoseconds())/float64(b.N), "ns/run")
		})
	}
}
