package stage_test

import (
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// learning are settings of how a job learns.
var learning = map[string]func(*job.Spec){
	"smooth, weighted cross entropy": func(j *job.Spec) {
		j.Loss, j.Metrics = "cross_entropy", []string{"top5", "f1", "perplexity"}
		j.LossOptions = job.LossOptions{LabelSmoothing: 0.1, ClassWeights: []float64{1, 2, 3, 1, 1, 1, 0.5, 1, 1, 1}}
	},
	"binary cross entropy": func(j *job.Spec) {
		j.Loss, j.LossOptions = "bce_with_logits", job.LossOptions{PosWeight: []float64{9}}
	},
	"huber":  func(j *job.Spec) { j.Loss, j.Metrics = "huber", []string{"mae", "f1"} },
	"output": func(j *job.Spec) { j.Loss = "output" },
}

// TestLearningIsOneProcess: however a job learns, any cut, schedule and number of replicas has the
// losses, metrics and weights of one process.
func TestLearningIsOneProcess(t *testing.T) {
	for name, change := range learning {
		for _, replicas := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d replicas", name, replicas), func(t *testing.T) {
				w := newWorld(func(j *job.Spec) {
					j.Epochs, j.UpdateFrequency, j.Replicas, j.ReduceFactor = 2, 2, replicas, 2
					change(j)
				})
				want, dict := w.local(t)
				for _, v := range want.vals {
					if v.Loss == 0 || len(w.job.Metrics) > len(v.Metrics) {
						t.Fatalf("validation %+v", v)
					}
				}
				for i, n := range []int{2, 3, 5} {
					if w.job.Schedule = []string{job.Sync, job.ZB, job.Sync}[i]; replicas > 1 {
						w.job.Schedule = []string{job.ZB, job.Sync, job.ZB}[i]
					}
					got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, func() order.Mark { return order.Continue })
					if err != nil {
						t.Fatal(err)
					}
					equal(t, fmt.Sprintf("%d stages, %s", n, w.job.Schedule), got, want, d, dict)
				}
			})
		}
	}
}
