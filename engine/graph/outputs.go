// Models with several outputs that losses look at, and with several inputs.

package graph

import (
	"errors"
	"fmt"
	"slices"
)

func init() { registry["outputs"] = func() Op { return &Outputs{} } }

// Outputs puts rows of several values side by side: a row of the result holds the elements of a
// row of each input, one after the other. It ends a model whose job has several losses.
type Outputs struct{ stateless }

// Kind implements Op.
func (*Outputs) Kind() string { return "outputs" }

// Infer implements Op.
func (*Outputs) Infer(in []Shape) (Shape, error) {
	if len(in) == 0 {
		return nil, errors.New("takes at least 1 input, has none")
	}
	n := 0
	for _, x := range in {
		n += x.Elems()
	}
	return Shape{n}, nil
}

// Cost implements Op.
func (*Outputs) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// Gather is a copy of the graph whose answer is the values of the given names, side by side. A
// name may be listed once.
func (g *Graph) Gather(names []string) (*Graph, error) {
	f := &Graph{Name: g.Name, Inputs: g.Inputs, Nodes: slices.Clone(g.Nodes), Output: "outputs"}
	for i, n := range names {
		v, ok := g.index[n]
		switch {
		case !ok:
			return nil, fmt.Errorf("the model has no output %q; its answer is %q", n, g.Output)
		case v < len(g.Inputs):
			return nil, fmt.Errorf("%q is an input of the model, not an output", n)
		case slices.Contains(names[:i], n):
			return nil, fmt.Errorf("the output %q is listed twice", n)
		}
	}
	for k := 2; ; k++ {
		if _, taken := g.index[f.Output]; !taken {
			break
		}
		f.Output = fmt.Sprintf("outputs_%d", k)
	}
	f.Nodes = append(f.Nodes, Node{Name: f.Output, Op: &Outputs{}, Inputs: slices.Clone(names)})
	return f, f.Check()
}

// Answers are the values that the model answers: those that Gather has put side by side, or the
// output alone.
func (g *Graph) Answers() []int {
	if i := g.output - len(g.Inputs); i >= 0 {
		if _, ok := g.Nodes[i].Op.(*Outputs); ok {
			return slices.Clone(g.args[i])
		}
	}
	return []int{g.output}
}

// AnswerShapes are the shapes of one row of each of Answers.
func (g *Graph) AnswerShapes() [][]int {
	var s [][]int
	for _, v := range g.Answers() {
		s = append(s, g.shapes[v])
	}
	return s
}

// InputShapes are the shapes of one row of each input.
func (g *Graph) InputShapes() [][]int {
	var s [][]int
	for _, in := range g.Inputs {
		s = append(s, in.Shape)
	}
	return s
}

// InputElems is the number of elements of a row of all inputs together.
func (g *Graph) InputElems() int {
	n := 0
	for _, in := range g.Inputs {
		n += in.Shape.Elems()
	}
	return n
}
