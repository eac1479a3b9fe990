package project_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// TestAdapter: an adapter's files have PEFT's names and shapes, and a model into which adapters
// are merged answers as the one that has them beside it.
func TestAdapter(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.OpenModelWith(dir, func(j *job.Spec) { j.LoRA = job.LoRA{R: 2, Alpha: 3, Target: []string{"dense*"}} })
	if err != nil {
		t.Fatal(err)
	}
	l := exec.NewLayout(p.Graph, 0)
	s := l.NewState()
	l.Init(s, 7)
	for _, x := range l.View(s) {
		for i := range x.F32 { // an adapter that has learned something
			if x.F32[i] == 0 {
				x.F32[i] = float32(i%7-3) / 64
			}
		}
	}
	d := l.Export(s)
	to := filepath.Join(dir, "adapter")
	if _, err := p.WriteAdapter(to, d); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(to, project.AdapterConfig))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"peft_type": "LORA", "r": 2.0, "lora_alpha": 3.0, "bias": "none", "fan_in_fan_out": false} {
		if c[key] != want {
			t.Errorf("%s is %v, want %v", key, c[key], want)
		}
	}
	if b, err = os.ReadFile(filepath.Join(to, project.AdapterWeights)); err != nil {
		t.Fatal(err)
	}
	ad, _, err := safetensors.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range p.Adapters {
		w, _ := d.Get(a.Weight)
		x, okA := ad.Get("base_model.model." + a.Module + ".lora_A.weight")
		y, okB := ad.Get("base_model.model." + a.Module + ".lora_B.weight")
		if !okA || !okB || !slices.Equal(x.Shape, []int{2, w.Shape[1]}) || !slices.Equal(y.Shape, []int{w.Shape[0], 2}) {
			t.Errorf("the adapter of %s: %v, %v", a.Module, x.Shape, y.Shape)
		}
	}
	if len(ad) != 2*len(p.Adapters) || len(ad) == 0 {
		t.Errorf("%d tensors of %d adapters", len(ad), len(p.Adapters))
	}
	merged, err := p.Merge(d)
	if err != nil {
		t.Fatal(err)
	}
	beside := answer(t, p, d)
	base, err := project.OpenModel(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range answer(t, base, merged) {
		if math.Abs(float64(v-beside[i])) > 1e-5 {
			t.Errorf("answer %d is %v merged and %v beside", i, v, beside[i])
		}
	}
	if _, err := base.WriteAdapter(to, d); err == nil {
		t.Error("a job without adapters wrote some")
	}
}

// answer is what a model says about a row of ones.
func answer(t *testing.T, p *project.Project, d state.Dict) []float32 {
	t.Helper()
	plan, err := exec.Compile(p.Graph, 0, exec.Config{Rows: 1, Outputs: []int{p.Graph.OutputValue()}})
	if err != nil {
		t.Fatal(err)
	}
	s := plan.Layout.NewState()
	if err := plan.Layout.Import(s, d); err != nil {
		t.Fatal(err)
	}
	e := plan.New(nil)
	x := e.Value(0, 0, 1)
	for i := range x {
		x[i] = 1
	}
	e.Forward(0, exec.Batch{Rows: 1}, s.Params, &s)
	return slices.Clone(e.Value(0, p.Graph.OutputValue(), 1))
}
