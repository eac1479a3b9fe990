package simulate

// Placement. The planner's dynamic programme cuts the model; this file chooses the members
// of the pool to cut it for.

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// Model is the cost of the model that is trained: runtest.Nodes nodes of equal cost.
type Model struct {
	FLOPs  float64 `json:"flops"`           // per node and step
	Cut    float64 `json:"cut_bytes"`       // across a cut per step, both directions together
	State  float64 `json:"state_bytes"`     // per node when saved
	Memory float64 `json:"memory_bytes"`    // per node while training
	Micro  int     `json:"micro_batches"`   // per step, in flight
	Stages int     `json:"stages_at_most"`  // per cluster
	Params int64   `json:"parameters_unit"` // per node
}

// Blocks returns a model of 12 transformer blocks of width 768 (7.1 million parameters
// each), trained on batches of 4096 tokens with bf16 on the wire, float32 parameters and
// Adam's state.
func Blocks() Model {
	const params, tokens, width = 7.1e6, 4096, 768
	return Model{
		FLOPs: 6 * params * tokens, Cut: 2 * 2 * tokens * width, State: 3 * 4 * params, Memory: 4*4*params + 10*4*tokens*width,
		Micro: 8, Stages: 8, Params: params,
	}
}

func (m Model) units() []ga.Unit {
	us := make([]ga.Unit, runtest.Nodes)
	for i := range us {
		us[i] = ga.Unit{Name: "block", FLOPs: m.FLOPs, Params: m.Params, Memory: m.Memory, Out: m.Cut}
	}
	return us
}

// Placer forms clusters from a pool. Assignments name the cluster by number; the world
// trains each of them.
type Placer interface {
	Place(m Model, pool []run.Member) ([]run.Assignment, error)
}

// Best places one cluster on the fastest members of a pool and leaves the rest as spares. Of
// the groups of the fastest one, two, ... members it takes the one with the shortest step.
type Best struct{}

// Place implements Placer.
func (Best) Place(m Model, pool []run.Member) ([]run.Assignment, error) {
	nodes := make([]ga.Node, len(pool))
	for i, x := range pool {
		b := x.Hello.Bench
		nodes[i] = ga.Node{Name: x.Name, RAM: float64(x.Hello.RAM), Bandwidth: min(b.Up, b.Down), Compute: 1e9 * min(b.GEMM, b.Conv)}
	}
	nodes = ga.Repair(nodes)
	// Rank members by their time for a stage of average size.
	share := float64(runtest.Nodes) / float64(m.Stages)
	cost := make([]float64, len(nodes))
	for i, n := range nodes {
		cost[i] = max(share*m.FLOPs/max(n.Compute, 1), 8*2*m.Cut/n.Bandwidth)
		if n.RAM < m.Memory {
			cost[i] *= 1e6
		}
	}
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(cost[a], cost[b]), cmp.Compare(a, b)) })

	units := m.units()
	var stages []ga.Stage
	best, err := time.Duration(0), errors.New("nobody is here")
	for k := 1; k <= min(m.Stages, len(order)); k++ {
		group := make([]ga.Node, k)
		for i := range group {
			group[i] = nodes[order[i]]
		}
		_, ss, e := ga.Partition("simulated", units, group, ga.Options{MicroBatches: m.Micro, MinSize: 1})
		if e != nil {
			err = e
			continue
		}
		if d := m.step(ss); stages == nil || d < best {
			best, stages = d, ss
		}
	}
	if stages == nil {
		return nil, err
	}
	as := make([]run.Assignment, len(stages))
	for i, s := range stages {
		as[i] = runtest.Place(pool[order[i]], 0, i, len(stages), snapshot.Segment{From: s.From, To: s.To})
	}
	return as, nil
}

// step returns the time of an update in a cluster with these stages: the slowest stage's
// time for every micro-batch, plus the others' once to fill the pipeline.
func (m Model) step(stages []ga.Stage) time.Duration {
	slowest, sum := 0.0, 0.0
	for _, s := range stages {
		t := max(s.ComputeSeconds, s.LinkSeconds)
		slowest, sum = max(slowest, t), sum+t
	}
	n := float64(m.Micro)
	return time.Duration((slowest*(n-1) + sum) / n * float64(time.Second))
}
