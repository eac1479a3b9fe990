//go:build !purego

// The cores of a browser: workers that share this program's memory and take parts of
// products (wasm/kernel/team.ts). Go itself runs on one.

package kernel

import (
	"runtime"
	"unsafe"
)

// startWorkers tells the workers that the loader has started where the control block is,
// and returns how many they are.
//
//go:wasmimport kernel start
func startWorkers(ctl unsafe.Pointer) int32

//go:wasmimport kernel run
//go:noescape
func runRound(ctl unsafe.Pointer)

// control is the block that all workers watch. The module knows these offsets.
type control struct {
	word    uint64 // round << 32 | jobs that nobody has taken
	done    int32
	count   int32
	jobs    uint32
	size    int32
	scratch uint32 // of the first worker beside this one
	stride  int32  // to the next one's, in bytes
	broken  int32  // a worker has trapped
	asleep  int32  // workers that want to be woken
	_       [24]byte
}

// round has what a round of jobs needs; everything stays where it is.
var round = new(struct {
	control
	list    [2 * maxThreads]gemmJob
	scratch []float32
})

// helpers is the number of workers beside this one.
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

// Cores is how many threads a team may have here.
func Cores() int { return int(helpers) + 1 }

func mostThreads() int { return min(Cores(), maxThreads) }

// inModule does the task's stripes on all workers; false where there is but one.
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
