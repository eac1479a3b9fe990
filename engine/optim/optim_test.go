package optim_test

import (
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/optim"
)

func TestStageMomentum(t *testing.T) {
	// arXiv 2505.01099: the stage without delay keeps 0.9; the first of four has 0.9 + 0.09*3/4.
	spec := job.Optimizer{Name: "nadam", LR: 0.01, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3, StageMomentum: true}
	step := func(s job.Optimizer, d optim.Delay) float32 {
		o, err := optim.New(s, 1, d)
		if err != nil {
			t.Fatal(err)
		}
		p := []float32{1}
		o.Step(nil, p, []float32{0.5}, s.LR)
		o.Step(nil, p, []float32{-0.25}, s.LR)
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

func TestStepOnThreads(t *testing.T) {
	team := kernel.NewTeam(3)
	defer team.Close()
	const n = 3<<16 + 5
	draw := func(node uint32) []float32 {
		x := make([]float32, n)
		kernel.Normal(x, kernel.NewStream(1, kernel.DomainTest, 0, node))
		return x
	}
	for _, spec := range []job.Optimizer{
		{Name: "sgd"},
		{Name: "sgd", Momentum: 0.9, Nesterov: true, WeightDecay: 0.01},
		{Name: "adam", Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01},
		{Name: "adamw", Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01},
		{Name: "nadam", Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3},
		{Name: "lamb", Betas: [2]float64{0.9, 0.999}, Eps: 1e-6, WeightDecay: 0.01},
	} {
		var p [2][]float32
		for i, team := range []*kernel.Team{nil, team} {
			o, err := optim.New(spec, n, optim.Delay{}, optim.Tensor{To: 1 << 16, Decay: true}, optim.Tensor{From: 1 << 16, To: 3 << 16}, optim.Tensor{From: 3 << 16, To: n, Decay: true})
			if err != nil {
				t.Fatal(err)
			}
			p[i] = draw(0)
			for step := range uint32(3) {
				o.Step(team, p[i], draw(1+step), 0.01)
			}
		}
		if !slices.Equal(p[0], p[1]) {
			t.Errorf("%+v: three threads differ from one", spec)
		}
	}
}

// TestRewind: the scalars behind so many updates are those that the updates make, and finding them
// ends long before the updates of the longest run.
func TestRewind(t *testing.T) {
	spec := job.Optimizer{Name: "nadam", LR: 0.01, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3}
	steps, rewound := must(t, spec), must(t, spec)
	for n := range 9000 {
		if n == 100 || n == 8999 {
			if rewound.Rewind(n); rewound.State().Mu != steps.State().Mu {
				t.Errorf("after %d updates the product is %v, and rewound %v", n, steps.State().Mu, rewound.State().Mu)
			}
		}
		steps.Step(nil, []float32{1}, []float32{1}, 0.01)
	}
	if rewound.Rewind(1 << 40); rewound.State().Mu > 1e-320 || rewound.State().Updates != 1<<40 {
		t.Errorf("far away it is at %+v", rewound.State())
	}
}

func must(t *testing.T, spec job.Optimizer) *optim.Optimizer {
	t.Helper()
	o, err := optim.New(spec, 1, optim.Delay{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}
