// Threads that split one kernel. They take tiles of the output, never parts of a dot
// product, so their number cannot change a bit.

package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// maxThreads bounds a team.
const maxThreads = 256

// spins is how often a thread looks for work, or for the end of it, before it sleeps: some
// hundred microseconds, longer than what is not shared between two kernels takes. Where
// threads sleep in between, waking them up costs a small model half of its speed.
const spins = 1 << 18

// alone says that Go runs on one thread, whatever helps it with products: a browser.
const alone = runtime.GOOS == "js"

// Task is work cut into tiles, which may be done in any order and at once.
type Task interface {
	// Tile does tile i on thread worker, 0 <= worker < Threads().
	Tile(worker, i int)
}

// Team is a group of threads, the caller's included. A nil Team is the caller alone.
// A team serves one caller at a time.
//
// Its threads look for work a little longer than the gaps between kernels last and
// then sleep; a team that has nothing to do costs nothing.
type Team struct {
	workers []worker
	alive   sync.WaitGroup
	closed  atomic.Bool
	spins   int

	// The current job. A tile is claimed by counting word down, and only who has
	// claimed one may read task and tiles: they change when all tiles are done. A
	// thread that wakes up late finds another number in the upper half and claims
	// nothing.
	task  Task
	tiles int
	word  atomic.Uint64 // job number << 32 | unclaimed tiles
	done  atomic.Int64  // tiles
	sleep sleeper       // the caller, waiting for the last tile

	gemm   gemmTask
	group  groupTask
	copies copyTask
	lanes  depthwiseTask
	norms  normTask
	round  roundTask
	line   lineTask
}

// worker is a thread of a team but the caller's; on a cache line of its own.
type worker struct {
	sleeper
	scratch []float32
	_       [88]byte
}

// sleeper is a thread that can be woken. Who turns asleep off owes it one token, or is
// the thread itself.
type sleeper struct {
	asleep atomic.Bool
	token  chan struct{}
}

// wait sleeps until woken, unless ready already holds. It may return early.
func (s *sleeper) wait(ready func() bool) {
	s.asleep.Store(true)
	if ready() && s.asleep.CompareAndSwap(true, false) {
		return
	}
	<-s.token
}

func (s *sleeper) wake() bool {
	if !s.asleep.CompareAndSwap(true, false) {
		return false
	}
	s.token <- struct{}{}
	return true
}

// NewTeam starts threads-1 goroutines. threads is held between 1 and 256, and in a browser
// to the workers that there are.
func NewTeam(threads int) *Team {
	threads = min(max(threads, 1), mostThreads())
	t := &Team{workers: make([]worker, threads-1), spins: spins}
	switch n := runtime.GOMAXPROCS(0); {
	case n == 1:
		t.spins = 0 // whoever is waited for could not run
	case n < threads:
		t.spins >>= 5 // might not run
	}
	t.sleep.token = make(chan struct{}, 1)
	for i := range t.workers {
		t.workers[i].token = make(chan struct{}, 1)
		if !alone {
			t.alive.Go(func() { t.serve(i + 1) })
		}
	}
	return t
}

// Close ends the team's threads and waits for them. The team must be idle.
func (t *Team) Close() {
	if t == nil {
		return
	}
	t.closed.Store(true)
	for i := range t.workers {
		t.workers[i].wake()
	}
	t.alive.Wait()
	t.workers = nil
}

// Threads is the size of the team.
func (t *Team) Threads() int {
	if t == nil {
		return 1
	}
	return len(t.workers) + 1
}

// Run does tiles 0 to tiles-1 of the task on all threads, the caller's among them, and
// returns when all are done. It allocates nothing if task is a pointer. A tile must not
// call Run on the same team.
func (t *Team) Run(tiles int, task Task) {
	if alone || t.Threads() == 1 || tiles == 1 {
		for i := range tiles {
			task.Tile(0, i)
		}
		return
	}
	if tiles <= 0 {
		return
	}
	t.task, t.tiles = task, tiles
	t.done.Store(0)
	t.word.Store((t.word.Load()>>32+1)<<32 | uint64(tiles))
	for i, n := 0, tiles-1; i < len(t.workers) && n > 0; i++ {
		if t.workers[i].wake() {
			n--
		}
	}
	t.work(0)
	for range t.spins {
		if t.finished() {
			break
		}
	}
	for !t.finished() {
		t.sleep.wait(t.finished)
	}
	t.task = nil
}

func (t *Team) finished() bool { return t.done.Load() == int64(t.tiles) }

// idle says that there is nothing to claim and reason to stay.
func (t *Team) idle() bool { return uint32(t.word.Load()) == 0 && !t.closed.Load() }

// work does tiles until none is left to claim.
func (t *Team) work(worker int) {
	for {
		w := t.word.Load()
		left := int(uint32(w))
		if left == 0 {
			return
		}
		if !t.word.CompareAndSwap(w, w-1) {
			continue
		}
		tiles := t.tiles
		t.task.Tile(worker, tiles-left)
		if t.done.Add(1) == int64(tiles) && worker > 0 {
			t.sleep.wake()
		}
	}
}

// serve is the life of a worker.
func (t *Team) serve(worker int) {
	me := &t.workers[worker-1]
	for !t.closed.Load() {
		t.work(worker)
		for range t.spins {
			if !t.idle() {
				break
			}
		}
		if t.idle() {
			me.wait(func() bool { return !t.idle() })
		}
	}
}

// Reserve gives each thread but the caller's n floats of scratch, if it has less: the most
// that a kernel takes as the caller's scratch is all that it takes of a thread. A kernel
// whose threads have enough allocates nothing, whoever does what.
func (t *Team) Reserve(n int) {
	if t == nil || alone { // a browser's workers have their own
		return
	}
	for i := range t.workers {
		if w := &t.workers[i]; len(w.scratch) < n {
			w.scratch = make([]float32, n)
		}
	}
}

// scratch is the memory of a thread: the caller's own, or n floats that a worker keeps.
func (t *Team) scratch(worker, n int, callers []float32) []float32 {
	if worker == 0 {
		return callers
	}
	w := &t.workers[worker-1]
	if len(w.scratch) < n {
		w.scratch = make([]float32, n)
	}
	return w.scratch
}
