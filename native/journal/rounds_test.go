package journal

import (
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

// TestRounds: the rounds, units and learning rates that a run of replicas tells of are those of rounds
// and updates that run on through epochs, up to a validation.
func TestRounds(t *testing.T) {
	p := opened(t, "cnn", 3) // 17 batches an epoch
	j := &p.Job
	j.Replicas, j.ReduceFactor, j.UpdateFrequency, j.ValEvery, j.SaveEvery, j.Epochs = 3, 2, 2, 3, 0, 6
	j.LR = job.LR{Name: "step", StepSize: 1, Gamma: 0.5}
	r := New(p, "serve", nil)
	r.at, r.share, r.clusters = make([]int64, 1), []int{3}, make([]ClusterSummary, 1)
	for step := range int64(51) { // four rounds of 12 batches, and one of 3
		r.Trained(0, step)
	}
	if got := r.clusters[0].Units; got != 15 {
		t.Errorf("%d units, want 15", got)
	}
	for steps, want := range map[int64]int64{0: 0, 11: 0, 12: 1, 17: 1, 48: 4, 51: 5, 63: 6, 102: 10} {
		if got := r.rounds(steps); got != want {
			t.Errorf("%d rounds are over after %d batches, want %d", got, steps, want)
		}
	}
	// Batches 14 and 17 make one update of replica 2.
	for step, times := range map[int64]float64{13: 1, 14: 0.5, 15: 1, 16: 1, 17: 0.5} {
		if got := r.rate(step); got != j.Optimizer.LR*times {
			t.Errorf("the learning rate of batch %d is %v, want %v", step, got, j.Optimizer.LR*times)
		}
	}
}
