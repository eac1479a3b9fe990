package stage_test

import (
	"runtime"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
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
			allocated := func(replicas int) int {
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
			got, want := allocated(5)-allocated(1), stage.ReplicaBytes(j, &l)
			// Names, headers and vectors of a few bytes come on top, whatever the model's size.
			if extra := got - want; extra < -4096 || extra > 96<<10 {
				t.Errorf("%d bytes are allocated, %d were announced", got, want)
			}
		})
	}
}
