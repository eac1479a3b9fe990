// Fewer providers, where more would be no faster: a small batch is computed sooner than it is sent
// around, a batch that stays whole is in one stage at a time but for gradients of weights, and a slow
// provider holds up those that wait for it. What is compared is the time of whole plans by the same
// forecast; who trains what changes no bit of the result.

package planner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/ga"
)

// Bounds on what is tried.
const (
	mostPools = 8  // of so many providers and fewer, each number is tried; of more, halves
	mostFewer = 64 // providers of the largest pool that is tried in place of a larger one
	mostAlone = 4  // providers that are tried alone, since the fastest may lend too little
)

// spareText stands behind the names of spares.
const spareText = " to spare: "

// pick is the facts about some nodes of a pool.
func (f Facts) pick(members []int) Facts {
	out := f
	if f.RTT != nil {
		out.RTT = func(a, b int) float64 { return f.RTT(members[a], members[b]) }
	}
	if f.Spare != nil {
		out.Spare = nil
		for _, i := range members {
			out.Spare = append(out.Spare, f.Spare[i])
		}
	}
	if f.Gain != nil {
		out.Gain = nil
		for _, i := range members {
			out.Gain = append(out.Gain, f.Gain[i])
		}
	}
	if f.Threads != nil {
		out.Threads = nil
		for _, i := range members {
			out.Threads = append(out.Threads, f.Threads[i])
		}
	}
	if f.Machine != nil {
		out.Machine, out.Cores = nil, nil
		for _, i := range members {
			out.Machine, out.Cores = append(out.Machine, f.Machine[i]), append(out.Cores, f.Cores[i])
		}
	}
	return out
}

// search looks for a plan that is done sooner than others.
type search struct {
	facts Facts
	job   job.Spec
	graph *graph.Graph
	nodes []ga.Node
	opt   ga.Options
	seed  uint64
	known *cache
}

// best is the plan of all nodes, or of those with whom it is forecast to be the fastest: the others
// are spares then. No margin is asked for, since either mistake costs as little as the forecasts
// differ.
func (s search) best() (*Plan, error) {
	all := make([]int, len(s.nodes))
	for i := range all {
		all[i] = i
	}
	p, err := s.form(all, 0)
	if err != nil || !s.opt.Spares || p.Rate <= 0 {
		return p, err
	}
	for _, k := range s.clusters(len(all)) {
		if q, err := s.form(all, k); err == nil && q.Rate*(1-enough) > p.Rate {
			p = q
		}
	}
	whole := p.Rate
	if len(p.GA.Spares) > 0 {
		whole = 0 // not known
		every := s
		if every.opt.Spares = false; len(all) <= mostFewer {
			if q, err := every.form(all, 0); err == nil {
				if whole = q.Rate; whole > p.Rate {
					p = q
				}
			}
		}
	}
	worth := 0.0 // by which a plan of even fewer must be faster than another
	for _, members := range s.fewer() {
		for _, k := range append(s.clusters(len(members)), 0) {
			if q, err := s.form(members, k); err == nil && q.Rate > p.Rate*(1+worth) {
				p, worth = q, enough
			}
		}
	}
	if len(p.GA.Spares) > 0 {
		p.Note = join(s.spared(p, whole), p.Note)
	}
	return p, nil
}

// clusters are the numbers of clusters that are tried besides that of the genetic algorithm, of so
// many nodes.
func (s search) clusters(nodes int) []int {
	most := min(s.job.Replica(), nodes)
	switch {
	case most < 2 || nodes > mostFewer || s.opt.MinClusters > 0 || s.opt.MaxClusters > 0 && s.opt.MaxClusters < most:
		return nil
	case nodes > mostPools/2:
		return []int{most}
	}
	var ks []int
	for k := 1; k <= most; k++ {
		ks = append(ks, k)
	}
	return ks
}

// fewer are the pools that are tried: the fastest nodes, fewer and fewer.
func (s search) fewer() [][]int {
	speed := s.facts.busy(s.nodes)
	order := make([]int, len(s.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(speed[b].Compute, speed[a].Compute) })
	var pools [][]int
	for n := len(order); n > 2; {
		if n--; n >= mostPools {
			n = min((n+1)/2, mostFewer)
		}
		pools = append(pools, slices.Sorted(slices.Values(order[:n])))
	}
	for _, i := range order[:min(mostAlone, len(order))] {
		pools = append(pools, []int{i})
	}
	return pools
}

// form forms clusters of some nodes, exactly so many unless that is 0. The plan's nodes are those
// of the pool.
func (s search) form(members []int, clusters int) (*Plan, error) {
	opt, nodes := s.opt, make([]ga.Node, len(members))
	for i, k := range members {
		nodes[i] = s.nodes[k]
	}
	if clusters > 0 {
		opt.MinClusters, opt.MaxClusters = clusters, clusters
	}
	if len(members) == 1 {
		opt.MinSize = 1
	}
	p, err := s.facts.pick(members).form(s.job, s.graph, s.known, nodes, opt, s.seed)
	if err != nil || len(members) == len(s.nodes) {
		return p, err
	}
	used := map[int]bool{}
	for c := range p.Clusters {
		for k := range p.Clusters[c].Stages {
			i := members[p.Clusters[c].Stages[k].Node]
			p.Clusters[c].Stages[k].Node, p.GA.Clusters[c].Stages[k].Node, used[i] = i, i, true
		}
	}
	p.GA.Spares = nil
	for i := range s.nodes {
		if !used[i] {
			p.GA.Spares = append(p.GA.Spares, i)
		}
	}
	return p, nil
}

// short lists names for people.
func short(names []string) string {
	if len(names) > 4 {
		names = append(names[:3:3], fmt.Sprintf("%d more", len(names)-3))
	}
	return strings.Join(names, ", ")
}

// spared says who is left out, and why. whole is the forecast of all; 0: not known.
func (s search) spared(p *Plan, whole float64) string {
	var out, in []string
	for i, n := range s.nodes {
		if slices.Contains(p.GA.Spares, i) {
			out = append(out, n.Name)
		} else {
			in = append(in, n.Name)
		}
	}
	what := short(in)
	if len(in) == 1 {
		what += " alone"
	}
	what = short(out) + spareText + fmt.Sprintf("%s are forecast for %s", Speed(p.Rate), what)
	if whole > 0 {
		what += fmt.Sprintf(", and %s for all %d together", Speed(whole), len(s.nodes))
	}
	return what
}
