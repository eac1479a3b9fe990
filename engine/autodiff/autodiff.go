// Package autodiff derives the backward pass of a graph: which gradients are needed,
// in which order they are computed, and where they add up.
//
// The gradient of an operation's inputs and that of its parameters are separate
// instructions from the start: a stage owes the first to its upstream neighbour at
// once and may do the second whenever it has time (ZB-H1, arXiv 2401.10241). Both
// orders give the same bits, because each parameter belongs to one node and each
// value's gradient is added up in one fixed order.
package autodiff

import "github.com/ravnest/ravnest/engine/graph"

// Kind is what an instruction computes.
type Kind uint8

// The kinds of backward instructions.
const (
	GradInput  Kind = iota // the gradient of one input of a node
	GradParams             // the gradients of a node's parameters
)

// Instr is one backward instruction.
type Instr struct {
	Kind  Kind
	Node  int
	Arg   int  // GradInput: which input
	First bool // GradInput: the value has no gradient yet: store, else add
}

// Backward is the backward pass of a graph.
type Backward struct {
	// Instrs is the joined order: nodes from last to first, for each its parameters
	// and then its inputs. Taking one Kind first keeps the bits.
	Instrs []Instr
	// Needs tells for every value whether its gradient is computed.
	Needs []bool
}

// Derive builds the backward pass of g. The gradients of the values in seeds come
// from outside (the loss, later stages) before the first instruction. inputs tells
// whether the gradients of the graph's inputs are wanted.
//
// The gradient of a value that several nodes read is added up from its last reader
// to its first; what comes from outside comes before all of them. As later stages
// hold later readers, a cut graph adds in the order of the whole one provided that
// a value's gradient passes through its reading stages from last to first.
func Derive(g *graph.Graph, seeds []int, inputs bool) Backward {
	depends := g.Varying(inputs)
	b := Backward{Needs: make([]bool, g.Values())}
	has := make([]bool, g.Values()) // some gradient has been computed
	for _, v := range seeds {
		if depends[v] {
			has[v], b.Needs[v] = true, true
		}
	}
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		if !has[g.Result(i)] {
			continue // nothing downstream of this node reaches a loss
		}
		if g.ParamCount(i, i+1) > 0 {
			b.Instrs = append(b.Instrs, Instr{Kind: GradParams, Node: i})
		}
		for k, v := range g.Args(i) {
			if !depends[v] || !graph.HasGrad(g.Nodes[i].Op, k) {
				continue
			}
			b.Instrs = append(b.Instrs, Instr{Kind: GradInput, Node: i, Arg: k, First: !has[v]})
			has[v], b.Needs[v] = true, true
		}
	}
	return b
}
