// Package planner turns a job, its model and a pool of providers into who runs which
// stage: it puts the model's costs into numbers for package ga and ga's answer back
// into cuts of the graph.
package planner

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/ga"
)

// ErrInvalid is wrapped by errors about a stored plan that does not fit the model.
var ErrInvalid = errors.New("invalid plan")

// Ring is a ring all-reduce that a stage takes part in. It averages the parameters of
// one segment (see package average), which begin with First, with the one stage of each
// other cluster that holds them.
type Ring struct {
	ID    int    `json:"id"`
	First string `json:"first"` // state-dict name
}

// Stage is one provider's place.
type Stage struct {
	Node   int    `json:"node"` // position in the pool
	Name   string `json:"name"`
	Start  int    `json:"start"`  // first node of the graph
	Memory int    `json:"memory"` // bytes, by the compiled plan
	// Threads is with how many it computes where others have the rest of its machine's cores; 0: with
	// all that are lent.
	Threads int  `json:"threads,omitempty"`
	Small   bool `json:"small_steps,omitempty"` // its steps are too small for more than one thread
	// Seconds is how long it is forecast to be busy for a sample; 0 where nothing was measured.
	Seconds float64 `json:"s_per_sample,omitempty"`
	Rings   []Ring  `json:"rings"`
}

// Cluster is a pipeline of stages.
type Cluster struct {
	Stages       []Stage `json:"stages"`
	Replicas     []int   `json:"replicas,omitempty"`  // that it trains in the first round; none: all
	Room         int     `json:"room,omitempty"`      // most replicas that it may be given in a later one; 0: they stay
	MicroBatches int     `json:"micro_batches"`       // of a batch, where the job leaves it open
	InFlight     int     `json:"in_flight,omitempty"` // units of replicas in the pipeline at once; 0: one replica
	Halves       bool    `json:"halves,omitempty"`    // backward passes are in two halves, as with the schedule zb
	Gain         float64 `json:"gain,omitempty"`      // how much faster halves are forecast to be
	Idle         float64 `json:"idle"`                // share of its time that the average stage is forecast to stand still
	// Note says what keeps the pipeline from being full and what would fill it; "" if nothing does.
	Note string `json:"note,omitempty"`
	// Rate is the samples a second that it is forecast to train; 0 where nothing was measured.
	Rate float64 `json:"samples_per_s,omitempty"`
}

// Starts lists the first graph node of each stage.
func (c Cluster) Starts() []int {
	s := make([]int, len(c.Stages))
	for i := range c.Stages {
		s[i] = c.Stages[i].Start
	}
	return s
}

// Plan is the planner's whole answer.
type Plan struct {
	GA       *ga.Plan  `json:"ga"`
	Clusters []Cluster `json:"clusters"`
	// Replicas is how many the plan is for, where the job leaves that open.
	Replicas int `json:"replicas,omitempty"`
	// Rate is the samples a second of all clusters together, who wait for the slowest at the end
	// of each round and average then; Averaging is the share of the time that takes.
	Rate      float64 `json:"samples_per_s,omitempty"`
	Averaging float64 `json:"averaging,omitempty"`
	Note      string  `json:"note,omitempty"`
}

// Placement is a cluster's place in the plan, as its stages know it.
func (p *Plan) Placement(cluster int) stage.Placement {
	pl := stage.Placement{Cluster: cluster}
	if len(p.Clusters[cluster].Replicas) == 0 {
		return stage.Placement{} // it trains all of them
	}
	for _, c := range p.Clusters {
		pl.Clusters = append(pl.Clusters, stage.Cluster{Starts: c.Starts(), Replicas: c.Replicas, Room: c.Room})
	}
	return pl
}

// tiedBytes are those of tied parameters' gradients that a cut before each node, and behind the last,
// sends for a batch: to the first holder and back at every update.
func tiedBytes(j job.Spec, g *graph.Graph) []float64 {
	more := make([]int, len(g.Nodes)+1) // than before the node before
	for _, t := range g.Ties() {
		last := t.Groups[len(t.Groups)-1]
		from, to := t.Groups[0][0], last[len(last)-1]
		for _, s := range g.Nodes[from].Op.Params() {
			if g.Nodes[from].Full(s.Name) == t.Name {
				more[from+1] += 2 * 4 * s.Elems()
				more[to+1] -= 2 * 4 * s.Elems()
			}
		}
	}
	bytes, n := make([]float64, len(more)), 0
	for at := range bytes {
		n += more[at]
		bytes[at] = float64(n) / float64(j.UpdateFrequency)
	}
	return bytes
}

// costs puts pieces of the model into numbers: operations, parameters, memory and bytes
// across a cut, for one batch of the job. What the model takes besides its state, by the
// plan of the whole model as one stage, is shared out by the size of the units' results:
// so much as it is with the job's micro-batches and with what it computes again.
//
// A cluster is thought to have so many of the job's replicas as share says.
func costs(j job.Spec, g *graph.Graph, units []graph.Unit, share int) ([]ga.Unit, error) {
	if !j.Gradients() { // else its batches would be split otherwise
		j.Replicas = job.Count(share)
	}
	whole, err := g.Cut([]int{0})
	if err != nil {
		return nil, err
	}
	rest, err := stage.Bytes(j, whole[0], stage.Placement{})
	if err != nil {
		return nil, err
	}
	varies, tied := g.Varying(false), tiedBytes(j, g)
	var us []ga.Unit
	var results []float64
	sum := 0.0
	state := func(params int) int {
		return 4*2*params + optim.Bytes(j.Optimizer, params) + stage.ReplicaBytes(j, &exec.Layout{Trainable: params}, stage.Placement{})
	}
	params := 0
	for _, u := range units {
		elems := 0
		for i := u.From; i < u.To; i++ {
			elems += g.Shape(g.Result(i)).Elems()
		}
		params += u.Params
		rest -= state(u.Params)
		sum += float64(elems)
		results = append(results, float64(elems))
		us = append(us, ga.Unit{
			Name: u.Name, FLOPs: nodeWork(g, varies, u.From, u.To).operations(j.MicroRows()) * float64(j.BatchSize), Params: int64(u.Params),
			Memory: float64(state(u.Params)), Out: float64(crossing(j, u)*j.BatchSize) + tied[u.To],
		})
	}
	if again := params - g.ParamCount(0, len(g.Nodes)); again > 0 {
		rest += state(again) // tied weights, which the whole model has once
	}
	for i := range us {
		us[i].Memory += float64(float64(rest) * results[i] / sum)
	}
	return us, nil
}

// crossing is the bytes of a row that cross a cut after unit u in both directions, as a lossless
// wire sends them: with that, cheap cuts are where a job in bfloat16 sends operands.
func crossing(j job.Spec, u graph.Unit) int {
	n := 4 * (u.Out + u.Back)
	if operandsAsBF16(j) {
		n -= 2 * (u.OutOperands + u.BackOperands)
	}
	return n
}

// operandsAsBF16 tells whether stages send operands of products as bfloat16.
func operandsAsBF16(j job.Spec) bool {
	return j.Precision == "bf16" && (j.Wire == "" || j.Wire == "fp32")
}

// corrections bounds how often a plan is made again because a stage takes more than its
// units were thought to: the early stages of a pipeline keep more micro-batches, and what a
// stage shares among its operations does not get smaller with it.
const corrections = 8

// Make forms the clusters and cuts the model for each. The plan is a function of its
// arguments: the seed is the genetic algorithm's. A stage that its own plan says does not
// fit has its units counted for what they take there, and all is planned again. With
// Options.Spares those are left out with whom training is forecast to be slower.
//
// The errors wrap those of ga.Build; where some members lend too little while the others
// could do without them, the error is a *TooSmall.
func Make(j job.Spec, g *graph.Graph, nodes []ga.Node, opt ga.Options, seed uint64) (*Plan, error) {
	return Facts{}.Make(j, g, nodes, opt, seed)
}

// Make is the function Make with what else is known.
func (f Facts) Make(j job.Spec, g *graph.Graph, nodes []ga.Node, opt ga.Options, seed uint64) (*Plan, error) {
	nodes = f.corrected(nodes)
	p, err := search{f, j, g, nodes, opt, seed, newCache(g)}.best()
	if errors.Is(err, ga.ErrRAM) && len(nodes) > 1 {
		if small := f.tooSmall(j, g, nodes, opt, seed); small != nil {
			return nil, small
		}
	}
	if errors.Is(err, ga.ErrRAM) && turns(j) && j.InFlight > 1 {
		if n := f.inFlight(j, g, nodes, opt, seed); n > 0 {
			return nil, fmt.Errorf("%w; in_flight %d, in place of %d, fits", err, n, j.InFlight)
		}
	}
	return p, err
}

// inFlight returns how many units in flight fit where those that the job asks for do not, 0 if one
// does not either.
func (f Facts) inFlight(j job.Spec, g *graph.Graph, nodes []ga.Node, opt ga.Options, seed uint64) int {
	known := newCache(g)
	return sort.Search(min(j.InFlight-1, j.Replica()), func(n int) bool {
		j.InFlight = n + 1
		_, err := f.form(j, g, known, nodes, opt, seed)
		return err != nil
	})
}

// form is Make for all nodes, but for those that only hold up a round of several clusters.
func (f Facts) form(j job.Spec, g *graph.Graph, known *cache, nodes []ga.Node, opt ga.Options, seed uint64) (*Plan, error) {
	fill := newFill(j, g, known, nodes)
	fill.facts = &f
	nodes = f.busy(nodes)
	j = fill.start()
	asked := opt.MaxClusters
	opt.ByteWork = f.byteWork(j, len(nodes))
	r := j.Replica()
	if r > 1 {
		opt.Batches, opt.Replicas = f.updates(j)*j.UpdateFrequency, r
	}
	if r > 1 && opt.MaxClusters == 0 || opt.MaxClusters > r {
		opt.MaxClusters = r
	}
	if err := j.Share(opt.MinClusters); err != nil {
		return nil, fmt.Errorf("%w: %w", ga.ErrInvalid, err)
	}
	if opt.MicroBatches == 0 && (fill.why != "" || fill.j.MicroBatches > 0) {
		opt.MicroBatches = j.UpdateFrequency * r * max(1, fill.j.MicroBatches) // that can be in flight
	}
	pieces, heavy := cuttable(j, g)
	most := max(1, min(opt.MaxClusters, r, len(nodes)))
	units, err := costs(j, g, pieces, (r+most-1)/most)
	if err != nil {
		return nil, err
	}
	units[0].Memory += float64(f.Inputs + f.Order)
	units[len(units)-1].Memory += float64(f.Targets + f.Order)
	for try := 0; ; try++ {
		p := &Plan{}
		if p.GA, err = ga.Build(g.Name, units, nodes, opt, rand.New(rand.NewPCG(seed, 0x72617665))); err != nil {
			return nil, tooHeavy(err, j, heavy)
		}
		short, failing, err := p.measure(j, fill, nodes, pieces, units)
		// Many clusters are not formed anew for the sake of a few.
		for again := 0; err == nil && short != nil && again < corrections && len(p.GA.Clusters) >= 16; again++ {
			if p.GA.Recut(units, nodes, opt, failing) != nil {
				break
			}
			short, failing, err = p.measure(j, fill, nodes, pieces, units)
		}
		if err != nil {
			return nil, err
		}
		if short == nil {
			if err := fill.choose(p, opt.MinClusters); err != nil {
				return nil, err
			}
			if n := len(p.Clusters); asked > n && n == r && len(nodes) > n {
				p.Note = fmt.Sprintf("%d cluster(s), since each trains at least one replica and the job has %d: set replicas to %d for as many as were asked for", n, n, asked)
			}
			p.setMemory()
			return p, p.setRings(g)
		}
		if try == corrections {
			return nil, short
		}
	}
}

// measure cuts the graph as the genetic algorithm says and compiles the stages. If some do
// not fit their nodes, short says so of the first, failing names their clusters, and the units
// of all of them are made as large as they are.
func (p *Plan) measure(j job.Spec, f fill, nodes []ga.Node, pieces []graph.Unit, units []ga.Unit) (short error, failing []int, err error) {
	p.Clusters = nil
	grow := make([]float64, len(units))
	for _, c := range p.GA.Clusters {
		var cl Cluster
		for _, s := range c.Stages {
			cl.Stages = append(cl.Stages, Stage{Node: s.Node, Name: nodes[s.Node].Name, Start: pieces[s.From].From})
		}
		p.Clusters = append(p.Clusters, cl)
	}
	if r := j.Replica(); r > 1 && len(p.Clusters) > 1 {
		p.share(even(r, len(p.Clusters)))
	}
	for id, c := range p.GA.Clusters {
		cl := p.Clusters[id]
		stages, err := f.cache.cut(cl.Starts())
		if err != nil {
			return nil, nil, err
		}
		for k, s := range stages {
			n, err := f.bytes(j, s, p.Placement(id))
			if err != nil {
				return nil, nil, err
			}
			cl.Stages[k].Memory = n
			node, mine := nodes[cl.Stages[k].Node], c.Stages[k]
			if float64(n) <= node.RAM {
				continue
			}
			if short == nil {
				short = fmt.Errorf("%w: stage %d on %s needs %.1f MB, %.1f MB may be used: %.1f MB short; add providers or lower the batch size",
					ga.ErrRAM, k, node.Name, float64(n)/1e6, node.RAM/1e6, (float64(n)-node.RAM)/1e6)
			}
			if len(failing) == 0 || failing[len(failing)-1] != id {
				failing = append(failing, id)
			}
			for i := mine.From; i < mine.To; i++ {
				grow[i] = max(grow[i], float64(n)/mine.Memory)
			}
		}
	}
	for i := range units {
		units[i].Memory *= max(grow[i], 1)
	}
	return short, failing, nil
}

// setMemory has the clusters say what their stages take, which is more or less than their units were
// thought to.
func (p *Plan) setMemory() {
	for c := range p.Clusters {
		g := &p.GA.Clusters[c]
		g.RAM, g.Memory = 0, 0
		for k, s := range p.Clusters[c].Stages {
			g.Stages[k].Memory = float64(s.Memory)
			g.RAM, g.Memory = g.RAM+g.Stages[k].RAM, g.Memory+g.Stages[k].Memory
		}
	}
}

// rings are the rings of each cluster's stages, by cluster and stage: one ring for each
// segment that holds trainable parameters, numbered along the model. With one cluster,
// ring k is what stage k holds, as in Ravnest.
func (p *Plan) rings(g *graph.Graph) ([][][]Ring, error) {
	cuts := make([][]int, len(p.Clusters))
	rings := make([][][]Ring, len(p.Clusters))
	for c, cl := range p.Clusters {
		cuts[c], rings[c] = cl.Starts(), make([][]Ring, len(cl.Stages))
	}
	segments, err := average.Segments(len(g.Nodes), cuts)
	if err != nil {
		return nil, err
	}
	params := slices.DeleteFunc(g.Params(), func(q graph.Param) bool { return q.Role != graph.Trainable })
	for id, s := range segments {
		first := sort.Search(len(params), func(i int) bool { return params[i].Node >= s.From })
		if first == len(params) || params[first].Node >= s.To {
			continue
		}
		for c, k := range s.Holders {
			rings[c][k] = append(rings[c][k], Ring{ID: id, First: params[first].Full})
		}
	}
	return rings, nil
}

func (p *Plan) setRings(g *graph.Graph) error {
	rings, err := p.rings(g)
	if err != nil {
		return err
	}
	for c := range p.Clusters {
		for k := range p.Clusters[c].Stages {
			p.Clusters[c].Stages[k].Rings = rings[c][k]
		}
	}
	return nil
}

// Check validates a plan that was read from outside against the model and job.
func (p *Plan) Check(g *graph.Graph) error {
	if len(p.Clusters) == 0 {
		return fmt.Errorf("%w: no clusters", ErrInvalid)
	}
	seen := map[string]bool{}
	for c, cl := range p.Clusters {
		if _, err := g.Cut(cl.Starts()); err != nil {
			return fmt.Errorf("%w: cluster %d: %w", ErrInvalid, c, err)
		}
		for _, s := range cl.Stages {
			if s.Name == "" || seen[s.Name] {
				return fmt.Errorf("%w: cluster %d: provider name %q is empty or appears twice", ErrInvalid, c, s.Name)
			}
			seen[s.Name] = true
		}
	}
	rings, err := p.rings(g)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for c, cl := range p.Clusters {
		for k, s := range cl.Stages {
			if !slices.Equal(s.Rings, rings[c][k]) {
				return fmt.Errorf("%w: cluster %d: stage %d of %q has rings %v, its cuts make them %v", ErrInvalid, c, k, s.Name, s.Rings, rings[c][k])
			}
		}
	}
	return nil
}
