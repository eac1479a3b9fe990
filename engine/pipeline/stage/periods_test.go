package stage_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// attempts train a world's job, whose number of replicas is open, in attempts: each has another
// number of replicas than the one before, or the same, trains in random clusters, and goes on
// from what that kept. It returns the record of the numbers, and all that was reported.
func (w *world) attempts(t *testing.T, r *rand.Rand) (record []order.Period, all *log, trained []state.Dict, resumed []*snapshot.Part) {
	t.Helper()
	all = &log{}
	open := w.job
	defer func() { w.job = open }()
	var parts []*snapshot.Part
	var at order.Position
	for n := range 40 {
		if k := []int{3, 1, 4, 2, 5, 1, 2}[(n+r.IntN(2))%7]; len(record) == 0 || record[len(record)-1].Replicas != k {
			record = append(record, order.Period{Step: at.Step, Replicas: k})
		}
		var err error
		if w.job, err = open.In(slices.Clone(record)); err != nil {
			t.Fatal(err)
		}
		mark := func() order.Mark { return order.Continue }
		if n < 8 {
			mark = stopAt(r.IntN(2))
		}
		var got *log
		if c := 1 + r.IntN(min(3, w.job.Replica())); c == 1 {
			var d state.Dict
			if got, d, err = w.resume(t, w.starts(1+r.IntN(3)), mem.Faults{}, mark, parts); err != nil {
				t.Fatal(err)
			}
			trained, parts = []state.Dict{d}, nil
			for _, l := range w.logs {
				parts = append(parts, l.saved[len(l.saved)-1].Part)
			}
		} else {
			var cuts [][]int
			for range c {
				cuts = append(cuts, w.starts(1+r.IntN(3)))
			}
			m := w.shareOut(cuts...)
			if got, err = m.run(t, mark, parts); err != nil {
				t.Fatal(err)
			}
			trained, parts = m.states, m.saved(t)
		}
		all.losses, all.vals = append(all.losses, got.losses...), append(all.vals, got.vals...)
		if at = parts[0].Position; at.Step == uint64(w.job.Total(w.tx.Len())) {
			return record, all, trained, resumed
		}
		if n <= 2 {
			resumed = parts
		}
	}
	t.Fatal("the run does not end")
	return nil, nil, nil, nil
}

// stopAt is a mark that stops the run when it is asked for the n-th time, from 0.
func stopAt(n int) func() order.Mark {
	return func() order.Mark {
		if n--; n < 0 {
			return order.Stop
		}
		return order.Continue
	}
}

// TestPeriods: attempts with other numbers of replicas, clusters and cuts, each going on from what
// the one before kept, have every loss, validation and weight of one process with the record of
// the numbers; and that has them again when it is taken up in the middle.
func TestPeriods(t *testing.T) {
	ways := maps.Clone(averages)
	ways["reset"] = func(j *job.Spec) { j.Average.Optimizer = job.ResetState }
	ways["keep, nadam, outer"] = func(j *job.Spec) {
		j.Optimizer = job.DefaultOptimizer("nadam")
		j.Average = job.Average{Optimizer: job.KeepState, Outer: job.Outer{Name: "nesterov"}}
	}
	ways["plain, outer"] = func(j *job.Spec) {
		j.Optimizer = job.DefaultOptimizer("sgd")
		j.Average.Outer.Name = "nesterov"
	}
	ways["warmup"] = func(j *job.Spec) { j.LR = job.LR{Name: "warmup_linear", Warmup: 5} }
	for i, how := range slices.Sorted(maps.Keys(ways)) {
		t.Run(how, func(t *testing.T) {
			change := func(j *job.Spec) {
				j.ReduceFactor = 1 + i%2
				j.Replicas, j.Epochs, j.BatchSize = job.Auto, 6, 8
				j.ValEvery = []int{1, 3, 0}[i/2%3] // with 3 and 0 rounds run on through epochs
				ways[how](j)
			}
			w := newWorld(change)
			if i%3 == 0 || how == "gradients" { // batch norm needs two rows
				w = small(change)
			}
			if err := w.job.Check(); err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for range 2 {
				record, got, trained, parts := w.attempts(t, r)
				if len(record) < 3 {
					t.Fatalf("the number of replicas hardly changed: %v", record)
				}
				w.record = record
				want, dict := w.local(t)
				for c, d := range trained {
					equal(t, fmt.Sprintf("%v, cluster %d", record, c), got, want, d, dict)
				}
				alone, own := w.takeUp(t, parts)
				from := parts[0].Position.Step
				want.losses = want.losses[from:]
				want.vals = slices.DeleteFunc(want.vals, func(v stage.Validation) bool { return v.Step <= from })
				equal(t, fmt.Sprintf("%v, taken up at step %d", record, from), alone, want, own, dict)
				w.record = nil
			}
		})
	}
}
