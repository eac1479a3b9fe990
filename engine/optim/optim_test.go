package optim_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
)

// parse reads a golden case's job.Optimizer JSON, zero fields left out.
func parse(t *testing.T, meta string) job.Optimizer {
	t.Helper()
	var o job.Optimizer
	if err := json.Unmarshal([]byte(meta), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestUpdatesArePyTorchs: five steps of every rule and option on PyTorch's gradients.
// PyTorch fuses some products, hence the tolerance of a few roundings.
func TestUpdatesArePyTorchs(t *testing.T) {
	f := golden.MustOpen(t, "optim")
	n := 0
	for name, meta := range f.Meta {
		if !f.Has(name + ".p") {
			continue
		}
		n++
		spec := parse(t, meta)
		p, grads, want := f.F32("p0"), f.F32("grads"), f.F32(name+".p")
		o, err := optim.New(spec, len(p), optim.Delay{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for step := range 5 {
			o.Step(p, grads[step*len(p):][:len(p)], spec.LR)
			golden.Near(t, name, p, want[step*len(p):][:len(p)], 3e-6)
		}
	}
	if n < 8 {
		t.Errorf("only %d cases in the golden file", n)
	}
}

// TestRatesArePyTorchs: the learning rate of every epoch under every schedule, to
// float64 accuracy less a few roundings.
func TestRatesArePyTorchs(t *testing.T) {
	f := golden.MustOpen(t, "optim")
	n := 0
	for name, meta := range f.Meta {
		if !strings.HasPrefix(name, "lr.") {
			continue
		}
		var c struct {
			Base     float64   `json:"base"`
			Schedule *job.LR   `json:"schedule"`
			LR       []float64 `json:"lr"`
		}
		if err := json.Unmarshal([]byte(meta), &c); err != nil || c.Schedule == nil {
			continue
		}
		if ok := map[string]bool{"constant": true, "step": true, "exponential": true, "cosine": true, "linear": true}[c.Schedule.Name]; !ok {
			continue
		}
		n++
		for epoch, want := range c.LR {
			if got := optim.Rate(*c.Schedule, c.Base, epoch); math.Abs(got-want) > 1e-12*math.Abs(c.Base) {
				t.Errorf("%s: epoch %d: %v, PyTorch has %v", name, epoch, got, want)
			}
		}
	}
	if n < 4 {
		t.Errorf("only %d schedules in the golden file", n)
	}
}

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
