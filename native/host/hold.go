package host

// Whether stages hold their states in memory, in case one of them is lost.

import (
	"encoding/json"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/signaling/server"
)

// hold has the stages of a plan hold their states, if that is of use and if all lend the memory
// for it: need is what the stages take otherwise, ram what providers lend (0: not known), by
// cluster and stage. Where several clusters have the same state after a round, no copies are
// needed; else each stage's is copied to another one.
func hold(as []server.Assignment, at placed, need, ram [][]int64) error {
	j := at.job
	if j.Schedule == job.Async {
		return nil // a stage's state belongs to its cut
	}
	copied := len(at.clusters) == 1 || j.Averaging().Optimizer == job.KeepState && j.Replica() > 1
	var plans []provider.Plan
	for c, stages := range at.stages {
		p := provider.Plan{Hold: true}
		place := stage.Placement{Cluster: c, Clusters: at.clusters}
		if copied {
			if p.Copies = copies(j, stages, place); p.Copies == nil {
				return nil
			}
		}
		for k, s := range stages {
			if most := need[c][k] + p.Holding(k, maxPart(j, s, place)); ram[c][k] > 0 && most > ram[c][k] {
				return nil
			}
		}
		plans = append(plans, p)
	}
	for i := range as {
		a := &as[i]
		var p provider.Plan
		if err := json.Unmarshal(a.Plan, &p); err != nil {
			return err
		}
		p.Hold, p.Copies = true, plans[a.Cluster].Copies
		raw, err := json.Marshal(p)
		if err != nil {
			return err
		}
		a.Plan, a.Hold, a.Copied = raw, true, copied
	}
	return nil
}

// copies says which stages of a cluster keep copies of which others' states. It returns nil if
// one has nobody for it.
func copies(j job.Spec, stages []*graph.Stage, place stage.Placement) []provider.Copy {
	var all []provider.Copy
	for k, s := range stages {
		by := stage.Keeper(s)
		if by < 0 {
			return nil
		}
		all = append(all, provider.Copy{Of: k, By: by, Bytes: maxPart(j, s, place)})
	}
	return all
}
