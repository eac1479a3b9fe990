package optim_test

import (
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
)

func TestStageMomentum(t *testing.T) {
	// arXiv 2505.01099: the stage without delay keeps 0.9; the first of four has 0.9 + 0.09*3/4.
	spec := job.Optimizer{Name: "nadam", LR: 0.01, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, StageMomentum: true}
	step := func(s job.Optimizer, d optim.Delay) float32 {
		o, err := optim.New(s, 1, d)
		if err != nil {
			t.Fatal(err)
		}
		p := []float32{1}
		o.Step(p, []float32{0.5}, s.LR)
		o.Step(p, []float32{-0.25}, s.LR)
		return p[0]
	}
	plain := spec
	plain.StageMomentum = false
	if step(spec, optim.Delay{Stage: 3, Stages: 4}) != step(plain, optim.Delay{}) {
		t.Error("the last stage, which has no delay, does not use momentum 0.9")
	}
	plain.Betas[0] = 0.9 + 0.09*3/4.0
	if step(spec, optim.Delay{Stage: 0, Stages: 4}) != step(plain, optim.Delay{}) {
		t.Error("the first of four stages does not use momentum 0.9675")
	}
}
