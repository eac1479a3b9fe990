// Tied weights: parameters that several nodes share, and how their gradients add up however
// the graph is cut.

package graph

import "slices"

// MaxGroups is the largest number of groups that the holders of a tied parameter form. Each
// group keeps a gradient of its own between two updates, so MaxGroups bounds the memory of
// recurrent models, and of models that use one layer many times.
const MaxGroups = 6

// maxTies is the number of ties that a message's header can distinguish.
const maxTies = 1<<16 - 1

// Tie is a parameter that several nodes hold. Its holders, in the order of the nodes, form at
// most MaxGroups groups of equal size; the graph may be cut between two groups, never within
// one.
//
// Each group adds up its gradient as if the parameter were its own, and an update sums the
// gradients of the groups from the last to the first. So the sum does not depend on the cut.
type Tie struct {
	Name   string  // in the state dict
	Number int     // index among the ties of the whole model
	Groups [][]int // nodes of this graph, by group; empty if another stage has them
	Stages []int   // the stage of each group; nil in a graph that is not cut
}

// Ties returns the parameters that several nodes of the whole model hold, sorted by their first
// node; of a stage, those that it holds itself.
func (g *Graph) Ties() []Tie { return g.ties }

func (g *Graph) findTies() []Tie {
	var ts []Tie
	shared := g.Shared()
	if len(shared) == 0 {
		return nil
	}
	for _, p := range g.Params() {
		nodes, ok := shared[p.Full]
		if !ok {
			continue
		}
		t := Tie{Name: p.Full, Number: len(ts), Groups: make([][]int, min(len(nodes), MaxGroups))}
		for k, i := range nodes {
			j := k * len(t.Groups) / len(nodes)
			t.Groups[j] = append(t.Groups[j], i)
		}
		ts = append(ts, t)
	}
	return ts
}

// Home is the place of a state-dict entry in the whole model, for which its random numbers are
// drawn.
type Home struct {
	Node, Index int // as in Param
	Init        Init
}

// parts reports for each node whether a cut before it would separate holders of one group or,
// with all, any holders of a tied parameter. Statistics that several nodes move, one after the
// other, have one stage.
func (g *Graph) parts(all bool) []bool {
	more := make([]int, len(g.Nodes)+1) // spans that begin at a node, less those that end before it
	mark := func(nodes []int) {
		more[nodes[0]+1]++
		more[nodes[len(nodes)-1]+1]--
	}
	for _, nodes := range g.shared(func(r Role) bool { return r == Buffer }) {
		mark(nodes)
	}
	for _, t := range g.ties {
		if all {
			mark(slices.Concat(t.Groups...))
			continue
		}
		for _, nodes := range t.Groups {
			mark(nodes)
		}
	}
	parted, spans := make([]bool, len(g.Nodes)), 0
	for i := range parted {
		spans += more[i]
		parted[i] = spans > 0
	}
	return parted
}

// JoinTied joins units so that no cut between them separates holders of a tied parameter, for
// schedules that cannot sum gradients over stages.
func (g *Graph) JoinTied(us []Unit) []Unit {
	parted := g.parts(true)
	var joined []Unit
	for i := 0; i < len(us); {
		k := i + 1
		for k < len(us) && parted[us[k].From] {
			k++
		}
		joined = append(joined, g.Join(us[i:k]...))
		i = k
	}
	return joined
}

// tie gives each stage of a cut its part of the graph's ties.
func (g *Graph) tie(stages []*Stage, stageOf func(node int) int) {
	if len(g.ties) == 0 {
		return
	}
	homes := map[string]Home{}
	for _, p := range g.Params() {
		homes[p.Full] = Home{Node: p.Node, Index: p.Index, Init: p.Init}
	}
	for _, s := range stages {
		s.Graph.homes, s.Graph.ties = homes, nil
	}
	parted := false
	for _, t := range g.ties {
		of := make([]int, len(t.Groups)) // ascending
		for j, nodes := range t.Groups {
			of[j] = stageOf(nodes[0])
		}
		parted = parted || of[0] < of[len(of)-1]
		for at, k := range of {
			if at > 0 && of[at-1] == k {
				continue
			}
			s := stages[k]
			mine := Tie{Name: t.Name, Number: t.Number, Groups: make([][]int, len(t.Groups)), Stages: of}
			for j, nodes := range t.Groups {
				if of[j] != k {
					continue
				}
				for _, i := range nodes {
					mine.Groups[j] = append(mine.Groups[j], i-s.First)
				}
			}
			s.Graph.ties = append(s.Graph.ties, mine)
		}
	}
	for _, s := range stages {
		s.Parted = parted
	}
}
