// Package form makes plans for a job: who trains together, who has which part of the model, and how
// many replicas there are.
package form

import (
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native/project"
)

// Plan forms clusters from the project's pool file and writes node_data.
// At most so many are formed, 0: as many as pay; or exactly so many, unless that is 0.
func Plan(p *project.Project, maxClusters, exactly int) (*project.Stored, error) {
	pool, err := p.Pool()
	if err != nil {
		return nil, err
	}
	nodes, facts := make([]ga.Node, len(pool)), Facts(p, p.Achieved())
	facts.Threads, facts.Gain = make([]int, len(pool)), make([]float64, len(pool))
	for i, n := range pool {
		// Nobody has measured what threads gain: all that they can, as figures for RAM and speed are the
		// most that a node has.
		nodes[i], facts.Threads[i], facts.Gain[i] = n.Node, n.Threads, float64(n.Threads)
	}
	plan, err := Make(p, facts, nodes, 0, func(j job.Spec) ga.Options {
		opt := Options(j, len(pool), max(maxClusters, exactly))
		opt.MinClusters = exactly
		return opt
	})
	if err != nil {
		return nil, err
	}
	return p.WritePlan(pool, plan)
}

// tableHead is what a table takes on its way beside its elements.
const tableHead = 1 << 10

// Facts are what a project says of itself. achieved is what its runs achieved by what was forecast.
func Facts(p *project.Project, achieved float64) planner.Facts {
	held := func(train, val *data.Table) int { return train.Bytes() + val.Bytes() + 2*tableHead }
	return planner.Facts{
		Train: p.Data.Train.Len(), Val: p.Data.Val.Len(), Achieved: achieved,
		Inputs: held(p.Data.Train.X(), p.Data.Val.X()), Targets: held(p.Data.Train.Y(), p.Data.Val.Y()),
		Order: orderBytes(p.Data.Train.X()),
	}
}

// orderBytes is the most that a stage holds of the order of the training rows: all of them, or those of
// a group of shards and the shards, for itself and for what fetches inputs and targets.
func orderBytes(x *data.Table) int {
	if x.Index == nil {
		return 4 * x.Rows
	}
	l := x.Index.Layout
	return 3 * 4 * (l.Shards() + min(l.Group*l.Per, l.Rows))
}

// Options are those of ga for a job and a pool of so many. maxClusters 0: as many as have something
// to train.
func Options(j job.Spec, pool, maxClusters int) ga.Options {
	o := ga.Options{MaxClusters: maxClusters}
	if o.MaxClusters == 0 {
		o.MaxClusters = j.Replica() // each trains at least one
	}
	if pool == 1 {
		o.MinSize = 1 // a single provider can be root and leaf at once
	}
	return o
}

// Make forms clusters and cuts the model. Where the job leaves the number of replicas to the host
// and none is given, there is one for each provider as far as Project.Replicas allows, and fewer, by
// halves, where the providers have not the memory for so many.
func Make(p *project.Project, f planner.Facts, nodes []ga.Node, replicas int, opt func(job.Spec) ga.Options) (*planner.Plan, error) {
	j := p.Job
	if !j.Auto() {
		return f.Make(j, p.Graph, nodes, opt(j), j.Seed)
	}
	fixed := replicas > 0
	if !fixed {
		replicas = max(p.Replicas(len(nodes)), opt(j).MinClusters)
	}
	for {
		j.Replicas = job.Count(replicas)
		plan, err := f.Make(j, p.Graph, nodes, opt(j), j.Seed)
		if err == nil {
			plan.Replicas = replicas
			return plan, nil
		}
		least := max(1, opt(j).MinClusters)
		if fixed || replicas <= least || !errors.Is(err, ga.ErrRAM) {
			return nil, err
		}
		replicas = max(replicas/2, least)
	}
}

// Job is the project's job with the replicas of a plan, from a step on. record is what was before.
func Job(p *project.Project, plan *planner.Plan, record []order.Period, step uint64) (job.Spec, error) {
	if !p.Job.Auto() {
		return p.Job, nil
	}
	if plan.Replicas < 1 {
		return p.Job, errors.New("the plan does not say how many replicas it is for: run clusterize again")
	}
	record = order.Extend(record, step, plan.Replicas)
	if err := p.CheckRecord(record); err != nil {
		return p.Job, fmt.Errorf("the record of replicas: %w", err)
	}
	return p.Job.In(record)
}

// Clusters are those of a plan as their stages know them.
func Clusters(p *planner.Plan, j job.Spec) []stage.Cluster {
	var all []stage.Cluster
	for _, c := range p.Clusters {
		own := c.Replicas
		if len(p.Clusters) == 1 && len(own) == 0 {
			for k := range j.Replica() {
				own = append(own, k)
			}
		}
		all = append(all, stage.Cluster{Starts: c.Starts(), Replicas: own, Room: c.Room})
	}
	return all
}
