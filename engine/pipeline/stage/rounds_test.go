package stage_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// TestRoundsOverEpochs: rounds, and updates of several batches, that run on through the ends of
// epochs are the same in one process, in one pipeline and in several clusters, and where they are
// stopped between two rounds and go on in others, in the middle of an epoch too. The learning rate
// changes with every epoch.
func TestRoundsOverEpochs(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int
		opens    []uint64 // the first rounds
		change   func(*job.Spec)
	}{
		"three of two batches, validated": {3, []uint64{0, 12, 15, 27}, func(j *job.Spec) { j.UpdateFrequency, j.ValEvery = 2, 3 }},
		"three of two batches, never":     {3, []uint64{0, 12, 24}, func(j *job.Spec) { j.UpdateFrequency, j.ValEvery, j.SaveEvery = 2, 0, 0 }},
		"saved":                           {2, []uint64{0, 6, 10, 16, 20, 26}, func(j *job.Spec) { j.ReduceFactor, j.ValEvery, j.SaveEvery = 3, 0, 2 }},
		"kept":                            {4, []uint64{0, 8, 15, 23}, func(j *job.Spec) { j.ValEvery = 3; j.Average.Optimizer = job.KeepState }},
		"reset and clipped":               {4, []uint64{0, 8, 15, 23}, func(j *job.Spec) { j.ValEvery, j.ClipNorm = 3, 0.05; j.Average.Optimizer = job.ResetState }},
		"divided": {2, []uint64{0, 36, 72}, func(j *job.Spec) {
			j.ReduceFactor, j.BatchSize, j.ValEvery, j.SaveEvery = 0, 4, 4, 0
		}},
		"outer, ends within": {3, []uint64{0, 6, 12, 18, 24}, func(j *job.Spec) {
			j.ValEvery, j.Steps, j.Average.Outer.Name = 0, 28, "nesterov"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(func(j *job.Spec) {
				j.Epochs, j.SaveEvery, j.Replicas, j.ReduceFactor = 6, 6, job.Count(c.replicas), 2
				j.LR = job.LR{Name: "step", StepSize: 1, Gamma: 0.5}
				c.change(j)
			})
			if err := w.job.Check(); err != nil {
				t.Fatal(err)
			}
			run, opens := w.job.Order(w.tx.Len(), w.vx.Len()), []uint64(nil)
			for step := range uint64(run.Total()) {
				if run.Opens(step) {
					opens = append(opens, step)
				}
			}
			if !slices.Equal(opens, c.opens) {
				t.Fatalf("rounds open at %v, want %v", opens, c.opens)
			}
			want, dict := w.local(t)
			n := run.Batches(run.Train)
			for i, l := range want.losses {
				if l.Step != uint64(i) || l.Epoch != i/n {
					t.Fatalf("loss %d is %+v", i, l)
				}
			}
			for i, p := range []int{1, 3} {
				w.job.Schedule = []string{job.Sync, job.ZB}[i]
				got, d, err := w.pipeline(t, w.starts(p), mem.Faults{}, at(1, order.Checkpoint))
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%d stages", p), got, want, d, dict)
			}
			w.job.Schedule = job.Sync
			m := w.shareOut(w.starts(2), w.starts(1))
			got, err := m.run(t, at(0, order.Checkpoint), nil)
			if err != nil {
				t.Fatal(err)
			}
			m.check(t, "two clusters", got, want, dict)
			for i := range len(opens) - 1 {
				before, err := m.run(t, at(i, order.Stop), nil)
				if err != nil {
					t.Fatal(err)
				}
				parts := m.saved(t)
				if pos := parts[0].Position; pos.Step != opens[i+1] || pos.Epoch != int(pos.Step)/n || pos.Batch != int(pos.Step)%n {
					t.Fatalf("stopped at the end of round %d, it stands at %+v", i, pos)
				}
				join := func(after *log) *log {
					return &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}
				}
				o := w.shareOut(w.starts(1), w.starts(3))
				after, err := o.run(t, nil, parts)
				if err != nil {
					t.Fatal(err)
				}
				o.check(t, fmt.Sprintf("taken up at step %d by other clusters", opens[i+1]), join(after), want, dict)
				alone, own := w.takeUp(t, parts)
				equal(t, fmt.Sprintf("taken up at step %d by one process", opens[i+1]), join(alone), want, own, dict)
			}
		})
	}
}
