package autodiff_test

import (
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/zoo"
)

func TestRootSkipsTheDataGradient(t *testing.T) {
	g := zoo.CNN()
	b := autodiff.Derive(g, []int{g.OutputValue()}, false)
	last := b.Instrs[len(b.Instrs)-1]
	if last.Kind != autodiff.GradParams || last.Node != 0 {
		t.Errorf("ends with %+v, want the parameters of the first convolution", last)
	}
	if b.Needs[0] {
		t.Error("the data's gradient is computed though nobody wants it")
	}
	with := autodiff.Derive(g, []int{g.OutputValue()}, true)
	if len(with.Instrs) != len(b.Instrs)+1 || !with.Needs[0] {
		t.Error("wanting the input's gradient does not add exactly one instruction")
	}
}

// TestAccumulationOrder: a value with three readers gets its gradient from the last
// reader first, and from outside before that.
func TestAccumulationOrder(t *testing.T) {
	lin := func() graph.Op { return &graph.Linear{In: 3, Out: 3} }
	g := &graph.Graph{Name: "fan", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{3}}}, Output: "d", Nodes: []graph.Node{
		{Name: "a", Op: lin(), Inputs: []string{"x"}},
		{Name: "b", Op: lin(), Inputs: []string{"a"}},
		{Name: "c", Op: &graph.Add{}, Inputs: []string{"a", "b"}},
		{Name: "d", Op: &graph.Add{}, Inputs: []string{"c", "a"}},
		{Name: "unused", Op: lin(), Inputs: []string{"a"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	order := func(b autodiff.Backward) (nodes []int, firsts []bool) {
		for _, in := range b.Instrs {
			if in.Kind == autodiff.GradInput && g.Args(in.Node)[in.Arg] == g.Result(0) {
				nodes, firsts = append(nodes, in.Node), append(firsts, in.First)
			}
		}
		return
	}
	b := autodiff.Derive(g, []int{g.OutputValue()}, false)
	nodes, firsts := order(b)
	if !slices.Equal(nodes, []int{3, 2, 1}) || !slices.Equal(firsts, []bool{true, false, false}) {
		t.Errorf("a's gradient from nodes %v (first %v), want 3, 2, 1 with the first storing", nodes, firsts)
	}
	_, firsts = order(autodiff.Derive(g, []int{g.Result(0), g.OutputValue()}, false))
	if slices.Contains(firsts, true) {
		t.Error("a gradient from outside is overwritten")
	}
}
