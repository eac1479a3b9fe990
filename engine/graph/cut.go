// Cutting a graph into stages: where it may be cut, what crosses a cut, and the
// piece that each stage runs.

package graph

import (
	"errors"
	"fmt"
	"slices"
)

// ErrCut is wrapped by every error that says a list of cuts does not fit a graph.
var ErrCut = errors.New("invalid cut")

// Unit is a run of nodes that is never cut: a node with parameters and the nodes
// without any that follow it. The first unit also holds whatever precedes. Every unit
// reads something from before it and computes something that is used after it, so that
// any of them can begin a stage: what could not is part of its neighbour.
type Unit struct {
	From, To int    // nodes [From, To)
	Name     string // of the node with parameters
	Weight   string // its first state-dict name
	Params   int    // trainable elements
	Cost     Cost   // per row
	Out      int    // elements per row that cross a cut after this unit, forwards
	Back     int    // elements per row of gradients that cross it, backwards
	Largest  int    // elements per row of the largest tensor that crosses it
	// Of Out and Back, what is read as operands of products only.
	OutOperands, BackOperands int
}

// Units lists the graph's units in order: a stage begins at a unit.
func (g *Graph) Units() []Unit {
	readers := g.readers()
	first := func(i int) *Spec {
		if ps := g.Nodes[i].Op.Params(); len(ps) > 0 {
			return &ps[0]
		}
		return nil
	}
	// outside: whether some node of [from, to) reads a value from before from.
	outside := func(from, to int) bool {
		for i := from; i < to; i++ {
			for _, v := range g.args[i] {
				if v < g.Result(from) {
					return true
				}
			}
		}
		return false
	}
	used := func(from, to int) bool { // whether a node from to on reads a value of [from, to)
		for i := from; i < to; i++ {
			if r := readers[g.Result(i)]; len(r) > 0 && r[len(r)-1] >= to {
				return true
			}
		}
		return false
	}
	parted := g.parts(false)
	var us []Unit
	begin, named := 0, false // of the unit that grows, and whether it has parameters
	for i := 1; i <= len(g.Nodes); i++ {
		named = named || first(i-1) != nil
		switch {
		case i == len(g.Nodes):
		case parted[i] || first(i) == nil || !named || i > g.output-len(g.Inputs):
			continue // the unit goes on
		case !used(begin, i):
			continue
		}
		if len(us) > 0 && !outside(begin, i) {
			us[len(us)-1].To = i
		} else {
			us = append(us, Unit{From: begin, To: i})
		}
		begin, named = i, false
	}
	varying, ops := g.Varying(false), newOperands(g, readers)
	for k := range us {
		u := &us[k]
		u.Name = g.Nodes[u.From].Name
		for i := u.From; i < u.To; i++ {
			if p := first(i); p != nil {
				u.Name, u.Weight = g.Nodes[i].Name, g.Nodes[i].Full(p.Name)
				break
			}
		}
		u.Params, u.Cost = g.ParamCount(u.From, u.To), g.Cost(u.From, u.To)
		for v := range g.Result(u.To-1) + 1 {
			if r := readers[v]; len(r) > 0 && r[len(r)-1] >= u.To {
				u.Out += g.shapes[v].Elems()
				u.Largest = max(u.Largest, g.shapes[v].Elems())
				if ops.value(v, u.To) {
					u.OutOperands += g.shapes[v].Elems()
				}
				if varying[v] {
					u.Back += g.shapes[v].Elems()
				}
				if varying[v] && ops.gradient(v, u.To) {
					u.BackOperands += g.shapes[v].Elems()
				}
			}
		}
	}
	return us
}

// Join makes one unit of neighbouring units, which must not be empty.
func (g *Graph) Join(us ...Unit) Unit {
	u := us[0]
	for _, v := range us[1:] {
		if u.Weight == "" {
			u.Name, u.Weight = v.Name, v.Weight
		}
		u.To, u.Out, u.Back, u.Largest, u.OutOperands, u.BackOperands = v.To, v.Out, v.Back, v.Largest, v.OutOperands, v.BackOperands
	}
	u.Params, u.Cost = g.ParamCount(u.From, u.To), g.Cost(u.From, u.To)
	return u
}

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
	stageOf := func(node int) int {
		k := len(starts) - 1
		for starts[k] > node {
			k--
		}
		return k
	}
	if err := g.checkTogether(stageOf, len(starts)); err != nil {
		return nil, err
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
			e.Operand, e.GradOperand = ops.value(v, from), ops.gradient(v, from)
		}
		for _, k := range e.To {
			in := e
			in.Constant = !slices.Contains(e.Back, k)
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
	for name, nodes := range g.shared(func(r Role) bool { return r == Buffer }) {
		if a, b := nodes[0], nodes[len(nodes)-1]; stageOf(a) != stageOf(b) {
			return fmt.Errorf("%w: nodes %q and %q move the same statistics %q and must be in one stage", ErrCut, g.Nodes[a].Name, g.Nodes[b].Name, name)
		}
	}
	return nil
}

// piece makes the graph of a stage, which ends before node to.
func (g *Graph) piece(s *Stage, to int) error {
	sub := &Graph{Name: fmt.Sprintf("%s.%d", g.Name, s.Index), Nodes: g.Nodes[s.First:to], Output: g.Output, unlimited: true}
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

// edge is a value with the stages that it crosses to. readers are the nodes that read it, ascending.
func (g *Graph) edge(v int, readers []int, varying bool, reaches []bool, stageOf func(node int) int) Edge {
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
	for _, i := range readers {
		e.To = add(e.To, stageOf(i))
		if !reaches[i] || !g.passes(i, v) {
			continue
		}
		if e.Exact = false; varying {
			e.Back = add(e.Back, stageOf(i))
		}
	}
	e.Constant = len(e.Back) == 0
	return e
}
