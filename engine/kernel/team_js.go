//go:build !purego

// The cores of a browser: workers that share this program's memory and compute parts of
// products (wasm/kernel/team.ts). Go itself runs on one thread.

package kernel

import (
	"runtime"
	"unsafe"
)

// startWorkers passes the control block to the workers that the loader has started and
// returns their number.
//
//go:wasmimport kernel start
func startWorkers(ctl unsafe.Pointer) int32

//go:wasmimport kernel run
//go:noescape
func runRound(ctl unsafe.Pointer)

// control is the block that all workers poll. The module relies on these offsets.
type control struct {
	word    uint64 // round << 32 | unclaimed jobs
	done    int32
	count   int32
	jobs    uint32
	size    int32
	scratch uint32 // of worker 1
	stride  int32  // bytes from one worker's scratch to the next
	broken  int32  // a worker has trapped
	asleep  int32  // sleeping workers
	_       [24]byte
}

// round is the memory of a round of jobs. It is allocated once and never moves.
var round = new(struct {
	control
	list    [2 * maxThreads]gemmJob
	scratch []float32
})

// helpers is the number of workers besides this thread.
var helpers = func() int32 {
	n := startWorkers(unsafe.Pointer(&round.control))
	if n > 0 {
		each := GemmScratch(stripRows, nBlock, kBlock)
		round.scratch = make([]float32, int(n)*each)
		round.control.scratch, round.stride = address(round.scratch), int32(4*each)
		round.jobs, round.size = uint32(uintptr(unsafe.Pointer(&round.list))), int32(unsafe.Sizeof(gemmJob{}))
	}
	return n
}()

// Cores is the most threads that a team can have here.
func Cores() int { return int(helpers) + 1 }

func mostThreads() int { return min(Cores(), maxThreads) }

// inModule runs the stripes of the task on all workers. It reports false if there is only
// one.
func (j *gemmTask) inModule() bool {
	if helpers == 0 || j.tiles > len(round.list) {
		return false
	}
	for i := range j.tiles {
		g := j.stripe(i)
		round.list[i].set(&g, j.scratch)
	}
	round.count = int32(j.tiles)
	runRound(unsafe.Pointer(&round.control))
	runtime.KeepAlive(j)
	return true
}
