package graph_test

import (
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
)

// TestOperands: what crosses a cut as an operand of products only, forwards and backwards. With
// names after their op; "conv" has no bias, "convb" has one.
func TestOperands(t *testing.T) {
	three, one := graph.Pair{3, 3}, graph.Pair{1, 1}
	conv := func(bias bool) graph.Op {
		return &graph.Conv2d{In: 4, Out: 4, Kernel: three, Padding: one, Bias: bias}
	}
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	g := &graph.Graph{Name: "g", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4, 8, 8}}}, Output: "out", Nodes: []graph.Node{
		n("conv", conv(false), "x"), n("bn", &graph.BatchNorm{Features: 4, Eps: 1e-5, Momentum: 0.1, Rank: 3}, "conv"), n("relu", &graph.ReLU{}, "bn"),
		n("conv2", conv(false), "relu"), n("relu2", &graph.ReLU{}, "conv2"), n("pool", &graph.MaxPool2d{Kernel: graph.Pair{2, 2}}, "relu2"),
		n("convb", conv(true), "pool"), n("res", &graph.Add{}, "pool", "convb"),
		n("flat", &graph.Flatten{}, "res"), n("out", &graph.Linear{In: 64, Out: 3, Bias: true}, "flat"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cut         string
		value, grad bool
	}{
		{"bn", false, true},    // a norm reads the value, a convolution the gradient
		{"relu", false, false}, // norm | ReLU
		{"conv2", true, false}, // ReLU behind a norm | convolution
		{"relu2", false, true}, // convolution | ReLU
		{"pool", false, true},  // convolution, ReLU | pool: positions of maxima may change, masked gradients do not
		{"flat", true, false},  // a sum | product behind a view
	} {
		for i, node := range g.Nodes {
			if node.Name != c.cut {
				continue
			}
			stages, err := g.Cut([]int{0, i})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range stages[1].In {
				if e.Operand != c.value || e.GradOperand != c.grad {
					t.Errorf("cut before %s: the value is an operand: %v, its gradient: %v; want %v, %v", c.cut, e.Operand, e.GradOperand, c.value, c.grad)
				}
			}
		}
	}
	// Two readers in the later stage, a product and a sum: it adds up their gradients before it
	// sends the sum to where a product alone reads it.
	stages, err := g.Cut([]int{0, 6})
	if err != nil {
		t.Fatal(err)
	}
	if e := stages[1].In[0]; e.Operand || !e.GradOperand {
		t.Errorf("what a sum reads and a product computes: %+v", e)
	}
	out, back := 0, 0
	for _, u := range g.Units() {
		out, back = out+u.OutOperands, back+u.BackOperands
	}
	if out != 320 || back != 320 {
		t.Errorf("units send %d elements forwards and %d backwards as operands, want 320 and 320", out, back)
	}
}
