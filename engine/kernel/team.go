// Threads that share a kernel. They take tiles of the output, never parts of a dot product,
// so their number cannot change a bit.

package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// maxThreads bounds a team.
const maxThreads = 256

// spins is how often a thread polls for work, or for its completion, before it sleeps: some
// hundred microseconds, longer than the serial code between two kernels takes. If threads
// slept in between, waking them would cost a small model half its speed.
const spins = 1 << 18

// alone is true in browsers: Go runs on one thread there, whatever computes its products.
const alone = runtime.GOOS == "js"

// Task is work split into tiles, which may be done in any order and concurrently.
type Task interface {
	// Tile does tile i on thread worker, 0 <= worker < Threads().
	Tile(worker, i int)
}

// Team is a group of threads, the caller's included. A nil Team is the caller alone.
// A team serves one caller at a time.
//
// Its threads poll for work a little longer than the gaps between kernels last and then
// sleep, so an idle team costs nothing.
type Team struct {
	workers []worker
	alive   sync.WaitGroup
	closed  atomic.Bool
	spins   int

	// The current job. A thread claims a tile by decrementing word, and may read task and
	// tiles only while it holds one: they change once all tiles are done. A thread that wakes
	// up late finds another number in the upper half and claims nothing.
	task  Task
	tiles int
	word  atomic.Uint64 // job number << 32 | unclaimed tiles
	done  atomic.Int64  // tiles
	sleep sleeper       // the caller, waiting for the last tile

	gemm   gemmTask
	group  groupTask
	copies copyTask
	turn   turnTask
	rows   rowsTask
	lanes  depthwiseTask
	norms  normTask
	round  roundTask
	keep   packTask
	kept   keptTask
	line   lineTask
}

// worker is a thread of a team other than the caller's, on cache lines of its own.
type worker struct {
	sleeper
	scratch []float32
	_       [88]byte
}

// sleeper is a thread that can be woken. Whoever clears asleep must send one token, unless it
// is the thread itself.
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

// NewTeam starts threads-1 goroutines. threads is limited to 1..256, and in a browser to the
// number of workers.
func NewTeam(threads int) *Team {
	threads = min(max(threads, 1), mostThreads())
	t := &Team{workers: make([]worker, threads-1), spins: spins}
	switch n := runtime.GOMAXPROCS(0); {
	case n == 1:
		t.spins = 0 // the thread that is waited for could not run
	case n < threads:
		t.spins >>= 5 // it might not run
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

// Run runs tiles 0 to tiles-1 of the task on all threads including the caller's, and returns
// when all are done. It does not allocate if task is a pointer. A tile must not call Run on
// the same team.
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

// idle reports whether there is nothing to claim and the team is open.
func (t *Team) idle() bool { return uint32(t.word.Load()) == 0 && !t.closed.Load() }

// work runs tiles until none is left to claim.
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

// serve is the main loop of a worker.
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

// Reserve gives each thread but the caller's at least n floats of scratch. A kernel takes no
// more of a thread than of its caller, so with the caller's largest scratch reserved no
// kernel allocates, whichever thread runs which tile.
func (t *Team) Reserve(n int) {
	if t == nil || alone { // workers in a browser have their own
		return
	}
	for i := range t.workers {
		if w := &t.workers[i]; len(w.scratch) < n {
			w.scratch = make([]float32, n)
		}
	}
}

// scratch is the scratch of a thread: callers for the caller, else n floats of the worker.
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
