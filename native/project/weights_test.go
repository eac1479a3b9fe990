package project_test

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/project"
)

// begun returns a job with initial weights: the walkthrough's, whose PyTorch model also has a
// mask and a second name for its first weights.
func begun(t *testing.T) (*project.Project, *project.Fit) {
	t.Helper()
	p := open(t, fresh(t))
	whole, err := p.Fit(state.Dict{}, project.FitOptions{})
	if whole == nil || err == nil {
		t.Fatalf("an empty checkpoint fits: %v", err)
	}
	return p, whole
}

// TestRest checks that entries of PyTorch's state dict which the graph lacks survive import and
// export, and that a checkpoint may use either name of tied weights.
func TestRest(t *testing.T) {
	p, fit := begun(t)
	first := fit.Weights[0]
	begin := &project.Begin{Weights: fit.Weights, Rest: project.Rest{
		State: state.Dict{{Name: "mask", Shape: []int{2}, I64: []int64{1, 2}}},
		Tied:  map[string]string{"again": first.Name},
	}}
	dir := filepath.Join(t.TempDir(), "job")
	j := job.Default()
	j.Name, j.Model, j.Data = "tied", "model.json", "digits"
	if err := project.Create(dir, j, p.Graph, 3, nil, begin, nil); err != nil {
		t.Fatal(err)
	}
	q := open(t, dir)
	rest, err := q.ReadRest()
	if err != nil {
		t.Fatal(err)
	}
	all, err := rest.Complete(q.Weights)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(all) - len(fit.Weights); n != 2 {
		t.Errorf("the whole state dict has %d tensors more than the graph", n)
	}
	again, ok := all.Get("again")
	first.Name = "again"
	if !ok || !(state.Dict{again}).Equal(state.Dict{first}) {
		t.Error("tied weights differ")
	}

	// With the other name only, as safetensors of tied models are written, and another mask.
	var other state.Dict
	for _, x := range all.Clone() {
		switch x.Name {
		case fit.Weights[0].Name:
			continue
		case "mask":
			x.I64[1] = 9
		case "again":
			x.F32[0] = 5
		}
		other = append(other, x)
	}
	f, err := q.Fit(other, project.FitOptions{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.BeginWith(&f.Begin); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir)
	if rest, err = q.ReadRest(); err != nil || rest.State[0].I64[1] != 9 || q.Weights[0].F32[0] != 5 {
		t.Errorf("the job begins with %v, %v: %v", q.Weights[0].F32[0], rest, err)
	}
	// With both names and different values.
	other = append(other, all[0])
	if _, err = q.Fit(other, project.FitOptions{}); !errors.Is(err, project.ErrFit) || !strings.Contains(err.Error(), "are one tensor") {
		t.Errorf("two values for one tensor: %v", err)
	}
}

// TestFitRefuses checks that values that are not finite, wrong types, colliding names and bad
// patterns are refused.
func TestFitRefuses(t *testing.T) {
	p, fit := begun(t)
	for _, c := range []struct {
		want   string
		change func(d state.Dict) state.Dict
		o      project.FitOptions
	}{
		{"is NaN", func(d state.Dict) state.Dict { d[0].F32[0] = float32(math.NaN()); return d }, project.FitOptions{}},
		{"integers where", func(d state.Dict) state.Dict {
			d[0].F32, d[0].I64 = nil, make([]int64, len(d[0].F32))
			return d
		}, project.FitOptions{}},
		{"two of its tensors", func(d state.Dict) state.Dict {
			x := d[0]
			x.Name = "p." + x.Name
			return append(d, x)
		}, project.FitOptions{Strip: "p."}},
		{"--ignore", func(d state.Dict) state.Dict { return d }, project.FitOptions{Ignore: []string{"["}}},
		{"has none of its 1", func(state.Dict) state.Dict { return state.Dict{{Name: "x", Shape: []int{}, F32: []float32{1}}} }, project.FitOptions{}},
	} {
		if _, err := p.Fit(c.change(fit.Weights.Clone()), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want an error with %q, got %v", c.want, err)
		}
	}
	if _, err := p.Fit(fit.Weights, project.FitOptions{Strict: true}); err != nil {
		t.Error(err)
	}
}

// TestCheckInputs checks that invalid rows are refused before they reach a kernel.
func TestCheckInputs(t *testing.T) {
	e, err := zoo.Find("char-gpt")
	if err != nil {
		t.Fatal(err)
	}
	in := e.Graph.Inputs[0].Shape
	n := in.Elems()
	for _, c := range []struct {
		want string
		x    *data.Table
	}{
		{"", &data.Table{Rows: 1, Shape: in, I32: make([]int32, n)}},
		{"a row is", &data.Table{Rows: 1, Shape: []int{n + 1}, I32: make([]int32, n+1)}},
		{"token", &data.Table{Rows: 1, Shape: in, I32: append(make([]int32, n-1), 1<<20)}},
		{"elements", &data.Table{Rows: 2, Shape: in, I32: make([]int32, n)}},
	} {
		if err := project.CheckInputs(e.Graph, c.x); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}
