package stage_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// TestZeroBubble: backward passes in two halves give every loss, validation, weight and
// statistic of one process: with batch norm, dropout, attention and tensors that skip stages,
// over any number of stages and micro-batches, kept or computed again.
func TestZeroBubble(t *testing.T) {
	zb := func(micro int, again string) func(*job.Spec) {
		return func(j *job.Spec) { j.Schedule, j.MicroBatches, j.Recompute = job.ZB, micro, again }
	}
	cuts := func(w *world) [][]int {
		var cs [][]int
		for _, n := range []int{1, 2, 3, 5} {
			cs = append(cs, w.starts(n))
		}
		return cs
	}
	for micro := 1; micro <= 8; micro++ {
		if testing.Short() && micro%3 != 2 {
			continue
		}
		again := job.Recomputes[micro%len(job.Recomputes)]
		for _, c := range []struct {
			w    *world
			g    *graph.Graph
			cuts [][]int
		}{
			{w: cnn(zb(micro, again))},
			{w: small(func(j *job.Spec) { zb(micro, again)(j); j.UpdateFrequency = 1 + micro%2 })},
			{newWorld(zb(micro, again)), skip(t), [][]int{{0}, {0, 3}, {0, 3, 5}, {0, 3, 5, 8}, {0, 4, 6, 7}}},
		} {
			if c.g != nil {
				c.w.g = c.g
			} else {
				c.cuts = cuts(c.w)
			}
			want, dict := c.w.local(t)
			for _, starts := range c.cuts {
				got, d, err := c.w.pipeline(t, starts, mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%s, %d micro-batches, recompute %q, %v", c.w.g.Name, micro, again, starts), got, want, d, dict)
			}
		}
	}
}

// cnn has batch norm, which takes no micro-batch of one row: none of the parts of 24 and 20
// rows that these tests make is one.
func cnn(change func(*job.Spec)) *world {
	w := newWorld(change)
	w.job.BatchSize = 24
	w.tx, w.ty = table{w.tx.(table).v[:68*64], 64}, table{w.ty.(table).v[:68*10], 10}
	return w
}

// TestZeroBubblePromise: what a stage in the middle of a pipeline has allocated when it has
// trained is what was promised, for all three schedules: slots for the micro-batches that are
// in flight, gradients that wait for the second half, versions, messages.
func TestZeroBubblePromise(t *testing.T) {
	rest := codecs() + 160<<10
	for _, sched := range job.Schedules {
		w := newWorld(func(j *job.Spec) {
			j.Loss, j.Epochs, j.BatchSize, j.MicroBatches, j.Schedule = "cross_entropy", 1, 128, 4, sched
		})
		w.g = zoo.GPT(zoo.GPTSorter)
		w.tx, w.vx = integers(256, 11, 0, 3, 1), integers(128, 11, 0, 3, 2)
		w.ty, w.vy = integers(256, 33, 0, 2, 3), integers(128, 33, 0, 2, 4)
		starts := w.starts(3)
		cut, err := w.g.Cut(starts)
		if err != nil {
			t.Fatal(err)
		}
		// The stages run one after the other in one process: what all of them have is what
		// all of them promise.
		promised, in := 0, 0
		for _, s := range cut {
			c, err := stage.Compile(w.job, s, stage.Placement{})
			if err != nil {
				t.Fatal(err)
			}
			promised, in = promised+c.Memory().Total(), in+c.Memory().In
		}
		w.light = true
		before := heap()
		if _, _, err := w.pipeline(t, starts, mem.Faults{}, nil); err != nil {
			t.Fatal(err)
		}
		got := heap() - before
		runtime.KeepAlive(w)
		// Windows are as large as a fast neighbour may fill them, which these do not.
		if got > promised+3*rest || got < promised-in {
			t.Errorf("%s: %d bytes in use, %d promised, %d of them for messages", sched, got, promised, in)
		}
		w.stages, w.kept, w.logs = nil, nil, nil
	}
}
