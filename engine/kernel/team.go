// Threads that split one kernel. They take tiles of the output, never parts of a dot
// product, so their number cannot change a bit.

package kernel

import (
	"sync"
	"sync/atomic"
)

// maxThreads bounds a team.
const maxThreads = 256

// Team is a group of threads, the caller's included. A nil Team is the caller alone.
// A team serves one caller at a time.
type Team struct {
	n    int
	wake []chan struct{}
	wg   sync.WaitGroup // workers alive

	job  gemmJob
	next atomic.Int64
	busy sync.WaitGroup // workers in the current job
	pack [][]float32    // by worker: packing buffer
}

// NewTeam starts threads-1 workers, which sleep when there is nothing to do.
func NewTeam(threads int) *Team {
	t := &Team{n: min(max(threads, 1), maxThreads)}
	t.pack = make([][]float32, t.n)
	for i := 1; i < t.n; i++ {
		c := make(chan struct{}, 1)
		t.wake = append(t.wake, c)
		t.wg.Go(func() {
			for range c {
				t.work(i)
				t.busy.Done()
			}
		})
	}
	return t
}

// Close ends the workers and waits for them.
func (t *Team) Close() {
	if t == nil {
		return
	}
	for _, c := range t.wake {
		close(c)
	}
	t.wake = nil
	t.wg.Wait()
}

// Threads is the size of the team.
func (t *Team) Threads() int {
	if t == nil {
		return 1
	}
	return t.n
}

// run does the job's tiles on all threads and returns when all are done. The caller
// takes part.
func (t *Team) run() {
	t.next.Store(0)
	n := min(len(t.wake), t.job.tiles-1)
	t.busy.Add(n)
	for _, c := range t.wake[:n] {
		c <- struct{}{}
	}
	t.work(0)
	t.busy.Wait()
}

// work takes tiles until none is left.
func (t *Team) work(worker int) {
	for {
		i := int(t.next.Add(1)) - 1
		if i >= t.job.tiles {
			return
		}
		if need := t.job.scratch; len(t.pack[worker]) < need {
			t.pack[worker] = make([]float32, need)
		}
		t.job.tile(i, t.pack[worker])
	}
}
