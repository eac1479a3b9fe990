package graph_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
)

// block is two layers, a named one and the answer.
func block(t *testing.T) *graph.Graph {
	t.Helper()
	n := func(name string, op graph.Op, in string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: []string{in}}
	}
	q := n("view_1", &graph.Linear{In: 4, Out: 6, Bias: true}, "x")
	q.Names = map[string]string{"weight": "h.0.q_proj.weight", "bias": "h.0.q_proj.bias"}
	g := &graph.Graph{Name: "block", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4}}}, Output: "head", Nodes: []graph.Node{
		q, n("r", &graph.ReLU{}, "view_1"), n("h.0.mlp", &graph.Linear{In: 6, Out: 6, Bias: true}, "r"), n("head", &graph.Linear{In: 6, Out: 3, Bias: true}, "h.0.mlp"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestAdapt: chosen layers get adapters, all that the model had is frozen and keeps its names,
// and the graph comes back from its JSON.
func TestAdapt(t *testing.T) {
	for _, c := range []struct {
		targets, modules []string
	}{
		{nil, []string{"h.0.q_proj", "h.0.mlp"}},
		{[]string{"q_proj"}, []string{"h.0.q_proj"}},
		{[]string{"h.*", "head"}, []string{"h.0.q_proj", "h.0.mlp", "head"}},
	} {
		g := block(t)
		a, as, err := g.Adapt(graph.LoRA{Rank: 2, Scale: 2, Targets: c.targets})
		if err != nil {
			t.Fatal(err)
		}
		var modules []string
		for _, x := range as {
			modules = append(modules, x.Module)
			if x.A != x.Module+".lora_A.weight" || x.B != x.Module+".lora_B.weight" || x.Weight != x.Module+".weight" {
				t.Errorf("adapter %+v", x)
			}
		}
		if !slices.Equal(modules, c.modules) {
			t.Errorf("targets %q: adapters of %q, want %q", c.targets, modules, c.modules)
		}
		b, err := a.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if a, err = graph.Parse(b); err != nil {
			t.Fatal(err)
		}
		var frozen, trained []string
		for _, p := range a.Params() {
			if p.Role == graph.Trainable {
				trained = append(trained, p.Full)
			} else {
				frozen = append(frozen, p.Full)
			}
		}
		if len(trained) != 2*len(as) {
			t.Errorf("%q train", trained)
		}
		var had []string
		for _, p := range g.Params() {
			had = append(had, p.Full)
		}
		if !slices.Equal(frozen, had) {
			t.Errorf("%q are frozen, the model has %q", frozen, had)
		}
	}
	if _, _, err := block(t).Adapt(graph.LoRA{Rank: 2, Scale: 1, Targets: []string{"k_proj"}}); !errors.Is(err, graph.ErrLoRA) {
		t.Errorf("a target that is not there: %v", err)
	}
}

// TestFreeze: patterns freeze by name, and those that match nothing or everything are errors.
func TestFreeze(t *testing.T) {
	g := block(t)
	f, err := g.Freeze([]string{"h.*.weight"})
	if err != nil {
		t.Fatal(err)
	}
	if n, want := f.ParamCount(0, 4), g.ParamCount(0, 4)-24-36; n != want {
		t.Errorf("%d parameters train, want %d", n, want)
	}
	if v := f.Varying(false); !v[f.Result(0)] {
		t.Error("the bias of the first layer gets no gradient")
	}
	if f, err = g.Freeze([]string{"h.0.q_proj.*"}); err != nil {
		t.Fatal(err)
	}
	if v := f.Varying(false); v[f.Result(0)] {
		t.Error("a frozen layer's answer gets a gradient")
	}
	for _, bad := range [][]string{{"x.*"}, {"*"}} {
		if _, err := g.Freeze(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestAdaptWhole: modules that are named train whole and get no adapter, and adapters drop what
// they read in training.
func TestAdaptWhole(t *testing.T) {
	g := block(t)
	l := graph.LoRA{Rank: 2, Scale: 2, Dropout: 0.25, Save: []string{"head", "mlp"}}
	a, as, err := g.Adapt(l)
	if err != nil {
		t.Fatal(err)
	}
	if len(as) != 1 || as[0].Module != "h.0.q_proj" {
		t.Errorf("adapters %+v", as)
	}
	var trained []string
	drops := 0
	for _, p := range a.Params() {
		if p.Role == graph.Trainable {
			trained = append(trained, p.Full)
		}
	}
	for i, n := range a.Nodes {
		if d, ok := n.Op.(*graph.Dropout); ok && d.P == 0.25 && a.Nodes[i+1].Inputs[0] == n.Name && n.Inputs[0] == "x" {
			drops++
		}
	}
	want := []string{"h.0.q_proj.lora_A.weight", "h.0.q_proj.lora_B.weight", "h.0.mlp.weight", "h.0.mlp.bias", "head.weight", "head.bias"}
	if !slices.Equal(trained, want) || drops != 1 {
		t.Errorf("%q train, want %q; %d drop", trained, want, drops)
	}
	if s := g.Saved(l); len(s) != 2 || !slices.Equal(s["head"], []string{"head.weight", "head.bias"}) || !slices.Equal(s["h.0.mlp"], []string{"h.0.mlp.weight", "h.0.mlp.bias"}) {
		t.Errorf("saved %q", s)
	}
	l.Save = []string{"nothing"}
	if _, _, err := g.Adapt(l); !errors.Is(err, graph.ErrLoRA) {
		t.Errorf("a module that is not there: %v", err)
	}
}

// TestAdaptShared: a layer that the model calls several times adds its one adapter at each call, as
// PEFT does, which wraps the module.
func TestAdaptShared(t *testing.T) {
	shared := map[string]string{"weight": "layer.weight", "bias": "layer.bias"}
	lin := func() graph.Op { return &graph.Linear{In: 4, Out: 4, Bias: true} }
	g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{4}},
		graph.Node{Name: "a", Op: lin(), Names: shared}, graph.Node{Name: "b", Op: lin(), Names: shared}, graph.Node{Name: "head", Op: lin()})
	if err != nil {
		t.Fatal(err)
	}
	a, as, err := g.Adapt(graph.LoRA{Rank: 2, Scale: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(as) != 1 || as[0].Module != "layer" {
		t.Errorf("adapters %+v, want one", as)
	}
	for _, name := range []string{as[0].A, as[0].B} {
		if nodes := a.Shared()[name]; len(nodes) != 2 {
			t.Errorf("%s is in nodes %v, want two", name, nodes)
		}
	}
}
