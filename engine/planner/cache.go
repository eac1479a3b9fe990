// What compiling has told of stages. Clusters of a large pool have many in common, and the layers
// of a transformer are alike, so a stage is known by what it computes and not by where it is.

package planner

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

type cache struct {
	g      *graph.Graph
	kinds  []int        // by node: nodes of one kind take the same memory, with names of the same length
	tied   map[int]bool // nodes that share parameters with others
	work   []work       // of the nodes before each
	params map[*graph.Stage]int
	stages map[string][]*graph.Stage
	known  map[*graph.Stage]string // forms
	bytes  map[shape]int
}

// shape is what the memory of a stage depends on: its form and the place it has, the
// number of micro-batches and of units in flight, and whether backward passes are in two halves.
type shape struct {
	form                     string
	index, of, micro, flight int
	own                      int
	halves                   bool
	cuts                     string // of all clusters, where there are several
}

func newCache(g *graph.Graph) *cache {
	c := &cache{
		g: g, tied: map[int]bool{}, stages: map[string][]*graph.Stage{},
		known: map[*graph.Stage]string{}, bytes: map[shape]int{}, params: map[*graph.Stage]int{},
		work: make([]work, 1, len(g.Nodes)+1),
	}
	varies := g.Varying(false)
	for i := range g.Nodes {
		w := nodeWork(g, varies, i, i+1)
		c.work = append(c.work, c.work[i].plus(w))
	}
	for _, nodes := range g.Shared() {
		for _, i := range nodes {
			c.tied[i] = true
		}
	}
	roles, names := map[int][]graph.Role{}, make([]int, len(g.Nodes))
	for _, p := range g.Params() {
		roles[p.Node] = append(roles[p.Node], p.Role)
		names[p.Node] += len(p.Full)
	}
	number := map[string]int{}
	for i := range g.Nodes {
		op, err := json.Marshal(g.Nodes[i].Op)
		if err != nil {
			op = fmt.Append(nil, i) // of a kind of its own
		}
		kind := fmt.Sprint(g.Nodes[i].Op.Kind(), string(op), g.ArgShapes(i), g.Shape(g.Result(i)), roles[i], names[i], len(g.Nodes[i].Name))
		if _, ok := number[kind]; !ok {
			number[kind] = len(number)
		}
		c.kinds = append(c.kinds, number[kind])
	}
	return c
}

// form describes what a stage computes: the kinds of its nodes, what each of them reads by how
// far back it is or by its edge, and the edges. Where parameters are tied, what they take depends on where
// all of their holders are, so the form is the place.
func (c *cache) form(s *graph.Stage) string {
	if f, ok := c.known[s]; ok {
		return f
	}
	var b []byte
	add := func(ns ...int) {
		for _, n := range ns {
			b = binary.AppendVarint(b, int64(n))
		}
	}
	n := len(s.Graph.Nodes)
	for i := s.First; i < s.First+n; i++ {
		if c.tied[i] {
			b = fmt.Appendf(nil, "at %d, %d", s.First, n)
			c.known[s] = string(b)
			return string(b)
		}
		add(c.kinds[i], len(c.g.Args(i)))
		for _, v := range c.g.Args(i) {
			if k, edge := slices.BinarySearchFunc(s.In, v, func(e graph.Edge, v int) int { return e.Value - v }); edge {
				add(-1 - k)
			} else {
				add(c.g.Result(i) - v)
			}
		}
	}
	first := c.g.Result(s.First)
	ends := func(e graph.Edge) {
		add(e.From-s.Index, len(e.To), len(e.Back))
		for _, to := range slices.Concat(e.To, e.Back) {
			add(to - s.Index)
		}
	}
	for _, e := range s.In {
		add(e.Shape.Elems(), min(e.From, 0))
		if !e.Constant { // its gradient goes back through all that read it
			ends(e)
		}
		b = fmt.Append(b, e.Constant, e.Operand, e.GradOperand)
	}
	b = append(b, '/')
	for _, e := range s.Out {
		add(e.Shape.Elems(), e.Value-first)
		ends(e)
		b = fmt.Append(b, e.Constant, e.Operand, e.GradOperand)
	}
	b = fmt.Append(b, s.Last)
	c.known[s] = string(b)
	return string(b)
}

// trains is the number of a stage's trainable elements, and what it computes for a row.
func (c *cache) trains(s *graph.Stage) (params int, w work) {
	n := len(s.Graph.Nodes)
	params, ok := c.params[s]
	if !ok {
		params = s.Graph.ParamCount(0, n)
		c.params[s] = params
	}
	before, after := c.work[s.First], c.work[s.First+n]
	return params, work{after.passes.plus(before.passes.times(-1)), after.far.minus(before.far), after.edge.plus(before.edge.times(-1))}
}

// cut is graph.Cut.
func (c *cache) cut(starts []int) ([]*graph.Stage, error) {
	key := fmt.Sprint(starts)
	if s, ok := c.stages[key]; ok {
		return s, nil
	}
	s, err := c.g.Cut(starts)
	if err == nil {
		c.stages[key] = s
	}
	return s, err
}

// memory is stage.Bytes.
func (c *cache) memory(j job.Spec, s *graph.Stage, p stage.Placement) (int, error) {
	// Gradients pass through the readers of a skip, so the place matters where there are any;
	// otherwise only the distance to the end does, and whether the stage is the first.
	key := shape{form: c.form(s), index: s.Index, of: s.Of, micro: j.Micro(), flight: j.InFlight, halves: j.Schedule == job.ZB}
	if len(p.Clusters) > 1 {
		key.own, key.cuts = len(p.Clusters[p.Cluster].Replicas), fmt.Sprint(p.Cluster, s.First)
		moves := false
		for _, cl := range p.Clusters {
			key.cuts += fmt.Sprint(cl.Starts)
			moves = moves || cl.Room > 0
		}
		key.cuts += fmt.Sprint(p.Clusters[p.Cluster].Room, moves)
	}
	if chain(s) {
		key.index, key.of = min(s.Index, 1), s.Of-s.Index
	}
	if n, ok := c.bytes[key]; ok {
		return n, nil
	}
	n, err := stage.Bytes(j, s, p)
	if err == nil {
		c.bytes[key] = n
	}
	return n, err
}

// chain tells whether all tensors with a gradient that the stage takes and gives stop at its
// neighbours.
func chain(s *graph.Stage) bool {
	for _, e := range s.In {
		if !e.Constant && (len(e.Back) > 1 || e.From >= 0 && e.From != s.Index-1) {
			return false
		}
	}
	for _, e := range s.Out {
		if !e.Constant && (len(e.Back) > 1 || e.Back[0] != s.Index+1) {
			return false
		}
	}
	return true
}
