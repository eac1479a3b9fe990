// Package planner turns a job, its model and a pool of providers into who runs which
// stage: it puts the model's costs into numbers for package ga and ga's answer back
// into cuts of the graph.
package planner

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/stage"
	"github.com/ravnest/ravnest/ga"
)

// ErrInvalid is wrapped by errors about a stored plan that does not fit the model.
var ErrInvalid = errors.New("invalid plan")

// Ring is a ring all-reduce that a stage takes part in: it averages the parameters
// from First on with the stages of the other clusters that hold them.
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
	Rings  []Ring `json:"rings"`
}

// Cluster is a pipeline of stages.
type Cluster struct {
	Stages []Stage `json:"stages"`
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
}

// Units puts the model's uncuttable pieces into numbers: operations, parameters,
// memory and bytes across a cut, for one batch of the job.
func Units(j job.Spec, g *graph.Graph) ([]ga.Unit, error) {
	var us []ga.Unit
	for _, u := range g.Units() {
		acts := 0
		for i := u.From; i < u.To; i++ {
			acts += g.Shape(g.Result(i)).Elems()
		}
		state := 4*2*u.Params + optim.Bytes(j.Optimizer, u.Params)
		us = append(us, ga.Unit{
			Name: u.Name, FLOPs: u.Cost.Total() * float64(j.BatchSize), Params: int64(u.Params),
			Memory: float64(state + 2*4*acts*j.BatchSize),
			Out:    float64(2 * 4 * u.Out * j.BatchSize),
		})
	}
	return us, nil
}

// Need is the memory of the whole model in training in one process, in bytes.
func Need(j job.Spec, g *graph.Graph) (int, error) {
	again, err := exec.ParseRecompute(j.Recompute)
	if err != nil {
		return 0, err
	}
	outs := []int{g.OutputValue()}
	p, err := exec.Compile(g, 0, exec.Config{Rows: j.MicroRows(), Slots: 1, Train: true, Outputs: outs, Seeds: outs, Recompute: again})
	if err != nil {
		return 0, err
	}
	return p.Memory().Total() + optim.Bytes(j.Optimizer, p.Layout.Trainable), nil
}

// Make forms the clusters and cuts the model for each. The plan is a function of its
// arguments: the seed is the genetic algorithm's.
func Make(j job.Spec, g *graph.Graph, nodes []ga.Node, opt ga.Options, seed uint64) (*Plan, error) {
	units, err := Units(j, g)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	if p.GA, err = ga.Build(g.Name, units, nodes, opt, rand.New(rand.NewPCG(seed, 0x72617665))); err != nil {
		return nil, err
	}
	gu := g.Units()
	for _, c := range p.GA.Clusters {
		var cl Cluster
		for _, s := range c.Stages {
			cl.Stages = append(cl.Stages, Stage{Node: s.Node, Name: nodes[s.Node].Name, Start: gu[s.From].From})
		}
		stages, err := g.Cut(cl.Starts())
		if err != nil {
			return nil, err
		}
		for k, s := range stages {
			n, err := stage.Bytes(j, s)
			if err != nil {
				return nil, err
			}
			cl.Stages[k].Memory = n
			if node := nodes[cl.Stages[k].Node]; float64(n) > node.RAM {
				return nil, fmt.Errorf("%w: stage %d on %s needs %.1f MB, %.1f MB may be used: %.1f MB short; add providers or lower the batch size",
					ga.ErrRAM, k, node.Name, float64(n)/1e6, node.RAM/1e6, (float64(n)-node.RAM)/1e6)
			}
		}
		p.Clusters = append(p.Clusters, cl)
	}
	p.rings(g)
	return p, nil
}

// rings numbers the rings by the stages of the largest cluster, as Ravnest does: ring
// r averages what stage r of that cluster holds. A stage of another cluster takes part
// in each ring that holds some of its parameters.
func (p *Plan) rings(g *graph.Graph) {
	big := 0
	for c := range p.Clusters {
		if len(p.Clusters[c].Stages) > len(p.Clusters[big].Stages) {
			big = c
		}
	}
	params := g.Params()
	stageOf := func(c Cluster, node int) int {
		k := len(c.Stages) - 1
		for c.Stages[k].Start > node {
			k--
		}
		return k
	}
	for c := range p.Clusters {
		cl := p.Clusters[c]
		for _, q := range params {
			if q.Role != graph.Trainable {
				continue
			}
			s, ring := &cl.Stages[stageOf(cl, q.Node)], stageOf(p.Clusters[big], q.Node)
			if n := len(s.Rings); n == 0 || s.Rings[n-1].ID != ring {
				s.Rings = append(s.Rings, Ring{ID: ring, First: q.Full})
			}
		}
	}
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
	return nil
}
