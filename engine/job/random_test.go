package job_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

// random is the JSON of a job with fields left out, zero, usual, extreme and wrong.
func random(r *rand.Rand) []byte {
	pick := func(vs ...any) any { return vs[r.IntN(len(vs))] }
	some := func(m map[string]any, key string, vs ...any) {
		if r.IntN(3) > 0 {
			m[key] = pick(vs...)
		}
	}
	m := map[string]any{"version": 1}
	some(m, "name", "a", "ünï cödé", "-x", "", "a/b")
	some(m, "loss", "mse", "cross_entropy", "bce_with_logits", "huber", "output")
	if r.IntN(3) == 0 {
		o := map[string]any{}
		some(o, "ignore_index", -100, 0, 255, -1)
		some(o, "label_smoothing", 0, 0.1, 1, 2)
		some(o, "class_weights", []float64{1, 0.5}, []float64{}, []float64{0})
		some(o, "delta", 0, 0.5)
		m["loss_options"] = o
	}
	some(m, "metrics", []string{}, []string{"top5"}, []string{"mae", "f1"}, []string{"perplexity", "accuracy"}, []string{"f1", "f1"})
	some(m, "epochs", 1, 2, 0, 1<<20)
	some(m, "steps", 0, 1, 5)
	some(m, "batch_size", 1, 2, 7, 64)
	some(m, "micro_batches", 0, 1, 2, 3)
	some(m, "val_every", 0, 1, 3)
	some(m, "update_frequency", 1, 2, 7)
	some(m, "seed", 0, uint64(1<<64-1))
	some(m, "replicas", 0, 1, 2, 4)
	some(m, "reduce_factor", 0, 1, 3)
	some(m, "in_flight", 0, 2)
	if r.IntN(3) == 0 {
		a := map[string]any{}
		some(a, "of", "parameters", "gradients")
		some(a, "bits", 4, 8, 28, 0)
		some(a, "optimizer", "average", "keep", "reset")
		some(a, "outer", map[string]any{"name": "nesterov"}, map[string]any{"name": "none"}, map[string]any{"name": "nesterov", "momentum": 0.5}, map[string]any{})
		m["average"] = a
	}
	if r.IntN(4) > 0 {
		o := map[string]any{"name": pick("sgd", "adam", "adamw", "nadam", "lion")}
		some(o, "lr", 0, 0.1, 1e-3, 1e6, -1)
		some(o, "weight_decay", 0, 0.1, 1)
		if r.IntN(3) == 0 {
			some(o, "betas", []float64{0, 0}, []float64{0.9, 0.99}, []float64{1, 1})
			some(o, "eps", 0, 1e-8, 1)
			some(o, "momentum", 0, 0.9, 1)
			some(o, "dampening", 0, 0.1)
			some(o, "nesterov", true, false)
			some(o, "momentum_decay", 0, 4e-3)
		}
		m["optimizer"] = o
	}
	if r.IntN(4) > 0 {
		l := map[string]any{"name": pick("constant", "step", "exponential", "cosine", "linear")}
		some(l, "gamma", 0, 0.5)
		if r.IntN(2) == 0 {
			some(l, "step_size", 0, 1, 3)
			some(l, "t_max", 0, 1, 3)
			some(l, "eta_min", 0, 0.1)
			some(l, "start", 0, 0.5, 1)
			some(l, "end", 0, 0.5, 1)
			some(l, "total", 0, 1, 5)
		}
		m["lr_schedule"] = l
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// TestRandomJobs checks that a job that is accepted comes back from its own JSON as it was,
// fields left out and explicit zeros included.
func TestRandomJobs(t *testing.T) {
	accepted := 0
	for seed := range uint64(4000) {
		b := random(rand.New(rand.NewPCG(seed, 0)))
		s, err := job.Parse(b)
		if err != nil {
			continue
		}
		accepted++
		first := s.JSON()
		again, err := job.Parse(first)
		if err != nil || !reflect.DeepEqual(again, s) || !bytes.Equal(again.JSON(), first) {
			t.Fatalf("%s\nis read as\n%s\nand that as\n%s (%v)", b, first, again.JSON(), err)
		}
	}
	if accepted < 100 {
		t.Errorf("only %d jobs were accepted: the test tries nothing", accepted)
	}
}

// TestDefaults compares what is left out with PyTorch's signatures.
func TestDefaults(t *testing.T) {
	for text, want := range map[string]job.Optimizer{
		`{"name": "sgd"}`:                      {Name: "sgd", LR: 1e-3},
		`{"name": "sgd", "lr": 0}`:             {Name: "sgd"},
		`{"name": "adam"}`:                     {Name: "adam", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8},
		`{"name": "adam", "eps": 0}`:           {Name: "adam", LR: 1e-3, Betas: [2]float64{0.9, 0.999}},
		`{"name": "adam", "betas": [0, 0]}`:    {Name: "adam", LR: 1e-3, Eps: 1e-8},
		`{"name": "adamw"}`:                    {Name: "adamw", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01},
		`{"name": "adamw", "weight_decay": 0}`: {Name: "adamw", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8},
		`{"name": "nadam"}`:                    {Name: "nadam", LR: 2e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3},
	} {
		s, err := job.Parse([]byte(`{"version": 1, "optimizer": ` + text + `}`))
		if err != nil || !reflect.DeepEqual(s.Optimizer, want) {
			t.Errorf("%s: %+v, %v", text, s.Optimizer, err)
		}
	}
	for text, want := range map[string]job.LR{
		`{"name": "step", "step_size": 2}`:             {Name: "step", StepSize: 2, Gamma: 0.1},
		`{"name": "step", "step_size": 2, "gamma": 0}`: {Name: "step", StepSize: 2},
		`{"name": "cosine", "t_max": 9}`:               {Name: "cosine", TMax: 9},
		`{"name": "linear"}`:                           {Name: "linear", Start: 1.0 / 3, End: 1, Total: 5},
		`{"name": "linear", "end": 0, "total": 7}`:     {Name: "linear", Start: 1.0 / 3, Total: 7},
		`{"name": "constant"}`:                         {Name: "constant"},
		`{"name": "exponential", "gamma": 0}`:          {Name: "exponential"},
	} {
		s, err := job.Parse([]byte(`{"version": 1, "lr_schedule": ` + text + `}`))
		if err != nil || !reflect.DeepEqual(s.LR, want) {
			t.Errorf("%s: %+v, %v", text, s.LR, err)
		}
	}
}
