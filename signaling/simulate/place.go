package simulate

// Who does what. The planner's dynamic programme cuts the model; which members of the
// pool it is asked for is decided here.

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

// Model is what is trained, in numbers: runtest.Nodes units of equal cost.
type Model struct {
	FLOPs  float64 `json:"flops"`           // of a unit, a step
	Cut    float64 `json:"cut_bytes"`       // across a cut, both ways, a step
	State  float64 `json:"state_bytes"`     // of a unit, as it is saved
	Memory float64 `json:"memory_bytes"`    // of a unit while it trains
	Micro  int     `json:"micro_batches"`   // of a step, in flight
	Stages int     `json:"stages_at_most"`  // of a cluster
	Params int64   `json:"parameters_unit"` // of a unit
}

// Blocks is a model of 12 transformer blocks of width 768 (7.1 million parameters
// each) with a batch of 4096 tokens, bf16 on the wire, float32 states with Adam's.
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

// Placer forms the clusters of a pool. Runs have one cluster today; a placement of
// several says so by their numbers in its assignments, and the world trains each.
type Placer interface {
	Place(m Model, pool []run.Member) ([]run.Assignment, error)
}

// Best places one cluster over the fastest members of a pool and leaves the rest as
// spares: of the best one, two, ... the group whose step is the shortest.
type Best struct{}

// Place implements Placer.
func (Best) Place(m Model, pool []run.Member) ([]run.Assignment, error) {
	nodes := make([]ga.Node, len(pool))
	for i, x := range pool {
		b := x.Hello.Bench
		nodes[i] = ga.Node{Name: x.Name, RAM: float64(x.Hello.RAM), Bandwidth: min(b.Up, b.Down), Compute: 1e9 * min(b.GEMM, b.Conv)}
	}
	nodes = ga.Repair(nodes)
	// The time of a stage of average size tells who is fast.
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

// step is the time of an update through stages of a cluster: the slowest stage's for
// every micro-batch, and the others' once to fill the pipeline.
func (m Model) step(stages []ga.Stage) time.Duration {
	slowest, sum := 0.0, 0.0
	for _, s := range stages {
		t := max(s.ComputeSeconds, s.LinkSeconds)
		slowest, sum = max(slowest, t), sum+t
	}
	n := float64(m.Micro)
	return time.Duration((slowest*(n-1) + sum) / n * float64(time.Second))
}
