package planner

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/ga"
)

// Keep is an earlier plan of the job with others in the places of those who are lost, so that nobody
// else moves: heir says which node has the place of a name. least is the smallest number of clusters.
// An heir that lends too little is an error that wraps ga.ErrRAM.
func (f Facts) Keep(j job.Spec, g *graph.Graph, nodes []ga.Node, old *Plan, least int, heir func(name string) int) (*Plan, error) {
	nodes = f.corrected(nodes)
	fill := newFill(j, g, newCache(g), nodes)
	fill.facts = &f
	pieces, _ := cuttable(j, g)
	p := &Plan{GA: &ga.Plan{Model: g.Name}, Replicas: old.Replicas}
	if old.GA != nil {
		p.GA.Rule, p.GA.Fitness = old.GA.Rule, old.GA.Fitness
	}
	for i := range nodes {
		p.GA.Spares = append(p.GA.Spares, i)
	}
	for c, cl := range old.Clusters {
		group := ga.Group{ID: c}
		end := len(pieces)
		for _, s := range slices.Backward(cl.Stages) {
			at := slices.IndexFunc(pieces, func(u graph.Unit) bool { return u.From == s.Start })
			if at < 0 || at >= end {
				return nil, fmt.Errorf("%w: cluster %d: no stage can begin at node %d", ErrInvalid, c, s.Start)
			}
			n := heir(s.Name)
			group.Stages = append(group.Stages, ga.Stage{Node: n, Name: nodes[n].Name, From: at, To: end, First: pieces[at].Name, RAM: nodes[n].RAM})
			p.GA.Spares = slices.DeleteFunc(p.GA.Spares, func(i int) bool { return i == n })
			end = at
		}
		slices.Reverse(group.Stages)
		p.GA.Clusters = append(p.GA.Clusters, group)
	}
	short, _, err := p.measure(fill.start(), fill, f.busy(nodes), pieces, make([]ga.Unit, len(pieces)))
	if err != nil || short != nil {
		return nil, cmp.Or(err, short)
	}
	if err := fill.choose(p, least); err != nil {
		return nil, err
	}
	p.setMemory()
	return p, p.setRings(g)
}
