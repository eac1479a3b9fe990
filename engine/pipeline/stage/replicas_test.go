package stage_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// averages are jobs that average in different ways.
var averages = map[string]func(*job.Spec){
	"parameters":      func(*job.Spec) {},
	"keep":            func(j *job.Spec) { j.Average.Optimizer = job.KeepState },
	"outer, 8 bits":   func(j *job.Spec) { j.Average.Outer.Name, j.Average.Bits = "nesterov", 8 },
	"grouped updates": func(j *job.Spec) { j.UpdateFrequency = 2 },
	"gradients":       func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 },
}

// TestReplicaBytes: what replicas allocate, their first average included, is what is said.
func TestReplicaBytes(t *testing.T) {
	g := zoo.GPT(zoo.GPTSorter)
	l := exec.NewLayout(g, 0)
	for name, change := range averages {
		t.Run(name, func(t *testing.T) {
			allocated := func(replicas job.Count) int {
				j := job.Default()
				j.ReduceFactor = 2
				change(&j)
				j.Replicas = replicas
				if replicas == 1 {
					j.Average = job.Average{}
				}
				var a, b runtime.MemStats
				runtime.ReadMemStats(&a)
				r, err := stage.NewReplicas(j, j.Order(1000, 0), &l, optim.Delay{})
				if err != nil {
					t.Fatal(err)
				}
				if replicas > 1 {
					seq, err := order.NewSequence(j.Order(1000, 0), order.Position{})
					if err != nil {
						t.Fatal(err)
					}
					r.Open(seq.Next())
					if err := r.Average(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				runtime.ReadMemStats(&b)
				return int(b.TotalAlloc - a.TotalAlloc)
			}
			j := job.Default()
			j.ReduceFactor = 2
			change(&j)
			j.Replicas = 5
			got, want := allocated(5)-allocated(1), stage.ReplicaBytes(j, &l, stage.Placement{})
			// Names, headers and vectors of a few bytes come on top, whatever the model's size.
			if extra := got - want; extra < -4096 || extra > 96<<10 {
				t.Errorf("%d bytes are allocated, %d were announced", got, want)
			}
		})
	}
}

// replicated changes a job to one of n replicas that are averaged in one of the averages.
func replicated(n int, how string) func(*job.Spec) {
	return func(j *job.Spec) {
		j.Replicas, j.ReduceFactor = job.Count(n), 2
		averages[how](j)
	}
}

// TestReplicasAreOneProcess: any number of replicas over any number of stages, with any number
// of units in flight and batch norm among them, has every loss, validation and weight of one
// process that computes them one after the other.
func TestReplicasAreOneProcess(t *testing.T) {
	stages, flights := []int{1, 2, 3, 5}, []int{0, 1, 2, 3}
	for i, how := range slices.Sorted(maps.Keys(averages)) {
		for k, n := range []int{2, 4, 6} {
			t.Run(fmt.Sprintf("%s/%d", how, n), func(t *testing.T) {
				w := newWorld(replicated(n, how))                // 5 batches an epoch, the last one short
				if (i+k)%3 == 0 || how == "gradients" && n > 2 { // batch norm needs two rows
					w = small(replicated(n, how))
				}
				want, dict := w.local(t)
				if len(want.vals) == 0 || len(want.losses) != w.job.Total(w.tx.Len()) {
					t.Fatalf("%d validations, %d losses", len(want.vals), len(want.losses))
				}
				for m, p := range stages {
					w.job.InFlight = flights[(i+k+m)%len(flights)]
					w.job.Schedule = []string{job.Sync, job.Sync, job.ZB}[(i+m)%3]
					got, d, err := w.pipeline(t, w.starts(p), mem.Faults{}, nil)
					if err != nil {
						t.Fatal(err)
					}
					equal(t, fmt.Sprintf("%d stages, %s, %d in flight", p, w.job.Schedule, w.job.InFlight), got, want, d, dict)
				}
			})
		}
	}
}

// TestReplicasResumeInStages: replicas in a pipeline that is stopped between two rounds go on
// in one that is cut differently, and in one process; a checkpoint changes no bit.
func TestReplicasResumeInStages(t *testing.T) {
	for how := range averages {
		t.Run(how, func(t *testing.T) {
			w := newWorld(replicated(3, how))
			want, dict := w.local(t)
			got, d, err := w.pipeline(t, w.starts(3), mem.Faults{}, at(1, order.Checkpoint))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "with a checkpoint", got, want, d, dict)
			for i, stop := range []int{1, 2} {
				before, _, err := w.pipeline(t, w.starts(2+i), mem.Faults{}, at(stop, order.Stop))
				if err != nil {
					t.Fatal(err)
				}
				parts := w.parts(-1)
				if len(before.losses) == 0 || parts[0].Position.Step != uint64(len(before.losses)) {
					t.Fatalf("stopped before round %d: %d losses, %+v", stop, len(before.losses), parts[0].Position)
				}
				after, d, err := w.resume(t, w.starts(5-2*i), mem.Faults{}, nil, parts)
				if err != nil {
					t.Fatal(err)
				}
				joined := &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}
				equal(t, fmt.Sprintf("stopped before round %d, other stages", stop), joined, want, d, dict)
				alone, own := w.takeUp(t, parts)
				joined = &log{losses: slices.Concat(before.losses, alone.losses), vals: slices.Concat(before.vals, alone.vals)}
				equal(t, fmt.Sprintf("stopped before round %d, one process", stop), joined, want, own, dict)
			}
		})
	}
}

// TestPartsOfReplicas: a part has the tensors that Tensors says.
func TestPartsOfReplicas(t *testing.T) {
	for how := range averages {
		w := newWorld(replicated(3, how))
		if _, _, err := w.pipeline(t, w.starts(2), mem.Faults{}, at(1, order.Stop)); err != nil {
			t.Fatal(err)
		}
		cut, err := w.g.Cut(w.starts(2))
		if err != nil {
			t.Fatal(err)
		}
		for k, p := range w.parts(-1) {
			want := map[string]bool{}
			for _, x := range stage.Tensors(w.job, cut[k], stage.Placement{}) {
				want[x.Name] = true
			}
			have := map[string]bool{}
			for _, x := range p.State {
				have[x.Name] = true
			}
			for _, s := range p.Optimizer.Slots {
				for _, x := range s.Tensors {
					have[snapshot.Name(s.Name, x.Name)] = true
				}
			}
			if !maps.Equal(have, want) {
				t.Errorf("%s, stage %d: %d tensors, Tensors says %d", how, k, len(have), len(want))
			}
		}
	}
}

// BenchmarkAverage is the end of a round of four replicas of a GPT, by parameter.
func BenchmarkAverage(b *testing.B) {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 3, Heads: 4, Width: 96, Tokens: 64, Vocab: 96})
	l := exec.NewLayout(g, 0)
	for _, bits := range []int{28, 8} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			j := job.Default()
			j.Replicas, j.ReduceFactor, j.Average.Bits = 4, 8, bits
			run := j.Order(10000, 0)
			r, err := stage.NewReplicas(j, run, &l, optim.Delay{})
			if err != nil {
				b.Fatal(err)
			}
			seq, err := order.NewSequence(run, order.Position{})
			if err != nil {
				b.Fatal(err)
			}
			r.Open(seq.Next())
			for b.Loop() {
				for k := range 4 {
					for i, p := range r.Of(k).State.Params {
						r.Of(k).State.Params[i] = p + float32(i%97*(k+1))*1e-6
					}
				}
				if err := r.Average(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(l.Trainable), "ns/param")
		})
	}
}
