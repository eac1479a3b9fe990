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

// Best places clusters on the fastest members of a pool and leaves the rest as spares. Of all
// numbers of clusters and of stages it takes those with which a round is over soonest.
type Best struct {
	Replicas, Updates int // 0: one replica
}

// Place implements Placer.
func (b Best) Place(m Model, pool []run.Member) ([]run.Assignment, error) {
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
	var best *placed
	err := errors.New("nobody is here")
	for clusters := 1; clusters <= max(b.Replicas, 1); clusters++ {
		for k := 1; k <= m.Stages && clusters*k <= len(order); k++ {
			p, e := b.try(m, units, nodes, order[:clusters*k], clusters)
			if e != nil {
				if best == nil {
					err = e
				}
				continue
			}
			if best == nil || p.took < best.took {
				best = p
			}
		}
	}
	if best == nil {
		return nil, err
	}
	var as []run.Assignment
	next := 0
	for c, stages := range best.stages {
		var own []int
		for range best.shares[c] {
			own = append(own, next)
			next++
		}
		if len(best.stages) == 1 {
			own = nil // all
		}
		for i, s := range stages {
			x := runtest.Share(pool[s.Node], c, len(best.stages), own, i, len(stages), snapshot.Segment{From: s.From, To: s.To})
			if x.Hold = true; len(best.stages) == 1 {
				x = runtest.Held(x)
			}
			as = append(as, x)
		}
	}
	return as, nil
}

// placed is a placement and what a round takes with it.
type placed struct {
	stages [][]ga.Stage // by cluster; Stage.Node is the position in the pool
	shares []int        // replicas of each
	took   time.Duration
}

// try deals the members out to so many clusters, in a snake by rank, so that clusters are alike.
func (b Best) try(m Model, units []ga.Unit, nodes []ga.Node, members []int, clusters int) (*placed, error) {
	p := &placed{stages: make([][]ga.Stage, clusters)}
	own := make([][]int, clusters)
	for pos, i := range members {
		c := pos % (2 * clusters)
		if c >= clusters {
			c = 2*clusters - 1 - c
		}
		own[c] = append(own[c], i)
	}
	var steps []time.Duration
	var hs []holder
	for c, is := range own {
		group := make([]ga.Node, len(is))
		for k, i := range is {
			group[k] = nodes[i]
		}
		_, ss, err := ga.Partition("simulated", units, group, ga.Options{MicroBatches: m.Micro, MinSize: 1})
		if err != nil {
			return nil, err
		}
		for k := range ss {
			ss[k].Node = is[k]
			hs = append(hs, holder{ss[k].To - ss[k].From, group[k].Bandwidth})
		}
		p.stages[c], steps = ss, append(steps, m.step(ss))
	}
	p.shares = shares(steps, max(b.Replicas, 1))
	if p.took = longest(steps, p.shares) * time.Duration(max(b.Updates, 1)); clusters > 1 {
		p.took += m.averaging(hs, clusters)
	}
	return p, nil
}

// shares gives each cluster one replica, and the others one by one to whoever is done first
// with one more.
func shares(steps []time.Duration, replicas int) []int {
	n := make([]int, len(steps))
	for c := range n {
		n[c] = 1
	}
	for range replicas - len(steps) {
		first := 0
		for c := range n {
			if time.Duration(n[c]+1)*steps[c] < time.Duration(n[first]+1)*steps[first] {
				first = c
			}
		}
		n[first]++
	}
	return n
}

// longest is how long the slowest cluster takes for an update of each of its replicas.
func longest(steps []time.Duration, shares []int) time.Duration {
	var most time.Duration
	for c, d := range steps {
		most = max(most, d*time.Duration(shares[c]))
	}
	return most
}

// holder is a stage as averaging sees it: so many nodes of the model behind a link.
type holder struct {
	nodes     int
	bandwidth float64 // bit/s
}

// averageBits is what a parameter takes on the wire, with both moments of Adam.
const averageBits = 3 * 28

// averaging is how long the end of a round takes.
func (m Model) averaging(hs []holder, clusters int) time.Duration {
	longest, k := 0.0, float64(clusters)
	for _, h := range hs {
		longest = max(longest, 2*(k-1)/k*float64(int64(h.nodes)*m.Params)*averageBits/h.bandwidth)
	}
	return time.Duration(longest * float64(time.Second))
}

// round is how long a batch takes of all clusters of a placement together.
func (m Model) round(pool []run.Member, as []run.Assignment, replicas, updates int) time.Duration {
	by := map[string]run.Member{}
	for _, x := range pool {
		by[x.ID] = x
	}
	var stages [][]ga.Stage
	var hs []holder
	for _, a := range as {
		for len(stages) <= a.Cluster {
			stages = append(stages, nil)
		}
		b := by[a.MemberID].Hello.Bench
		cuts := 2.0
		if a.Stage == 0 {
			cuts--
		}
		if a.Stage == a.Stages-1 {
			cuts--
		}
		n, rate := a.Segment.To-a.Segment.From, min(b.Up, b.Down)
		hs = append(hs, holder{n, rate})
		stages[a.Cluster] = append(stages[a.Cluster], ga.Stage{
			ComputeSeconds: float64(n) * m.FLOPs / (1e9 * min(b.GEMM, b.Conv)), LinkSeconds: 8 * cuts * m.Cut / rate,
		})
	}
	var steps []time.Duration
	for _, ss := range stages {
		steps = append(steps, m.step(ss))
	}
	took := longest(steps, shares(steps, replicas)) * time.Duration(updates)
	if len(stages) > 1 {
		took += m.averaging(hs, len(stages))
	}
	return took / time.Duration(replicas*updates)
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
