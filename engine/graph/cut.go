// Cutting a graph into stages: what crosses between them, and the
// piece that each stage runs.

package graph

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrCut is wrapped by every error that says a list of cuts does not fit a graph.
var ErrCut = errors.New("invalid cut")

// Edge is a value that crosses into or out of a stage.
type Edge struct {
	Value int   // in the whole graph
	Shape Shape // of one row
	From  int   // stage that it comes from; -1: a graph input, in the first stage
	To    []int // other stages that read it, ascending
	// Back are those of To that have a gradient of it, which goes through them from the last to
	// the first: others read it where no gradient passes, as a mask.
	Back []int
	// Constant: no gradient of it is sent, because no parameter has a part in it or Back is empty;
	// as an input of a stage, because that one is not in Back.
	Constant bool
	// Exact: it steers what is computed, as a position or a condition does, so no gradient could go
	// through it whatever is trained, and rounding it would change more than its last digits.
	Exact bool
	// Operand: the other stages read it as an operand of products only. GradOperand: so does stage
	// From with the gradient that the first of them sends.
	Operand, GradOperand bool
}

// Stage is one piece of a cut graph.
type Stage struct {
	Index, Of int
	First     int // its first node in the whole graph: names its random streams
	// ModelInputs is the number of inputs of the whole graph: node n is its value
	// ModelInputs+n.
	ModelInputs int
	Graph       *Graph // its nodes; the inputs are the edges in In, in that order
	In, Out     []Edge
	Last        bool // holds the model's answer
	Parted      bool // several stages of the cut hold a tied parameter, though not this one perhaps
}

// Role names the stage's place as Ravnest does: root, stem or leaf.
func (s *Stage) Role() string {
	switch {
	case s.Index == 0:
		return "root"
	case s.Index == s.Of-1:
		return "leaf"
	}
	return "stem"
}

// Local is the value in the stage's own graph that goes out as e.
func (s *Stage) Local(e Edge) int {
	if e.Value < s.ModelInputs {
		return e.Value // only the first stage passes inputs on, and it has all of them
	}
	return s.Graph.Result(e.Value - s.ModelInputs - s.First)
}

// Cut splits the graph at the given first nodes of the stages; starts[0] is 0 and
// the rest ascend. Any node may start a stage, though planners use Units. The first stage
// has all inputs of the graph and passes on those that later stages read.
func (g *Graph) Cut(starts []int) ([]*Stage, error) {
	if len(starts) == 0 || starts[0] != 0 {
		return nil, fmt.Errorf("%w: the first stage starts at node 0", ErrCut)
	}
	for k, s := range starts {
		if s >= len(g.Nodes) || (k > 0 && s <= starts[k-1]) {
			return nil, fmt.Errorf("%w: starts %v do not ascend within %d nodes", ErrCut, starts, len(g.Nodes))
		}
	}
	of := make([]int, len(g.Nodes)) // the stage of each node
	for k, i := 0, 0; i < len(of); i++ {
		if k+1 < len(starts) && starts[k+1] == i {
			k++
		}
		of[i] = k
	}
	stageOf := func(node int) int { return of[node] }
	if err := g.checkTogether(stageOf, len(starts)); err != nil {
		return nil, err
	}
	inside := make([]bool, len(g.Nodes))
	g.within(inside)
	for _, s := range starts {
		if inside[s] {
			return nil, fmt.Errorf("%w: a stage that begins with node %q would be given a value of the whole batch", ErrCut, g.Nodes[s].Name)
		}
	}
	stages := make([]*Stage, len(starts))
	for k := range starts {
		stages[k] = &Stage{Index: k, Of: len(starts), First: starts[k], ModelInputs: len(g.Inputs), Last: k == len(starts)-1}
	}
	readers, varying, reaches := g.readers(), g.Varying(false), g.reaches()
	ops := newOperands(g, readers)
	for v := range g.Values() {
		e := g.edge(v, readers[v], varying[v], reaches, stageOf)
		if v < len(g.Inputs) {
			root := e
			root.From, root.To = -1, append([]int{0}, e.To...)
			stages[0].In = append(stages[0].In, root)
		}
		if v >= len(g.Inputs) && len(e.To) > 0 {
			from := starts[e.From+1]
			e.Operand, e.GradOperand = ops.value(v, from), ops.grad(v, from)
		}
		back := e.Back // of To, which is as ascending
		for _, k := range e.To {
			in := e
			if in.Constant = len(back) == 0 || back[0] != k; !in.Constant {
				back = back[1:]
			}
			stages[k].In = append(stages[k].In, in)
		}
		if len(e.To) > 0 {
			stages[e.From].Out = append(stages[e.From].Out, e)
		}
	}
	for k, s := range stages {
		to := len(g.Nodes)
		if k+1 < len(starts) {
			to = starts[k+1]
		}
		if err := g.piece(s, to); err != nil {
			return nil, err
		}
	}
	g.tie(stages, stageOf)
	return stages, nil
}

// checkTogether refuses cuts between what must be in one stage.
func (g *Graph) checkTogether(stageOf func(node int) int, stages int) error {
	if stageOf(g.output-len(g.Inputs)) != stages-1 {
		return fmt.Errorf("%w: the output %q must be in the last stage", ErrCut, g.Output)
	}
	for _, t := range g.ties {
		for _, nodes := range t.Groups {
			if a, b := nodes[0], nodes[len(nodes)-1]; stageOf(a) != stageOf(b) {
				return fmt.Errorf("%w: nodes %q and %q share the parameter %q and must be in one stage", ErrCut, g.Nodes[a].Name, g.Nodes[b].Name, t.Name)
			}
		}
	}
	statistics := g.shared(func(r Role) bool { return r == Buffer })
	for _, name := range slices.Sorted(maps.Keys(statistics)) {
		nodes := statistics[name]
		if a, b := nodes[0], nodes[len(nodes)-1]; stageOf(a) != stageOf(b) {
			return fmt.Errorf("%w: nodes %q and %q move the same statistics %q and must be in one stage", ErrCut, g.Nodes[a].Name, g.Nodes[b].Name, name)
		}
	}
	return nil
}

// piece makes the graph of a stage, which ends before node to.
func (g *Graph) piece(s *Stage, to int) error {
	sub := &Graph{Name: fmt.Sprintf("%s.%d", g.Name, s.Index), Nodes: g.Nodes[s.First:to], Output: g.Output, unlimited: true, samples: g.samples}
	for _, e := range s.In {
		sub.Inputs = append(sub.Inputs, Input{Name: g.ValueName(e.Value), Shape: e.Shape, Constant: e.Constant})
	}
	if len(sub.Inputs) == 0 {
		return fmt.Errorf("%w: stage %d (from node %q) reads nothing", ErrCut, s.Index, g.Nodes[s.First].Name)
	}
	if !s.Last {
		// Values are in order, so what the stage computes comes after its inputs.
		if n := len(s.Out); n == 0 || s.Out[n-1].Value < len(g.Inputs) {
			return fmt.Errorf("%w: nothing that stage %d (from node %q) computes is used after it", ErrCut, s.Index, g.Nodes[s.First].Name)
		}
		sub.Output = g.ValueName(s.Out[len(s.Out)-1].Value)
	}
	if err := sub.Check(); err != nil {
		return fmt.Errorf("%w: stage %d: %w", ErrCut, s.Index, err)
	}
	s.Graph, sub.idle = sub, g.idle
	return nil
}

// edge is a value with the stages that it crosses to.
func (g *Graph) edge(v int, readers []reader, varying bool, reaches []bool, stageOf func(node int) int) Edge {
	e := Edge{Value: v, Shape: g.shapes[v], Exact: true}
	if v >= len(g.Inputs) {
		e.From = stageOf(v - len(g.Inputs))
	}
	add := func(to []int, k int) []int {
		if k == e.From || len(to) > 0 && to[len(to)-1] == k {
			return to
		}
		return append(to, k)
	}
	for _, r := range readers {
		k := stageOf(r.node)
		e.To = add(e.To, k)
		if !reaches[r.node] || !HasGrad(g.Nodes[r.node].Op, r.arg) {
			continue
		}
		if e.Exact = false; varying {
			e.Back = add(e.Back, k)
		}
	}
	e.Constant = len(e.Back) == 0
	return e
}
