package ga

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// roundNeed is a model of 20 GFLOP a batch whose cuts carry 200 kB.
func roundNeed(ram float64, stages int) Need {
	return Need{Model: "m", RAM: ram, Stages: stages, FLOPs: 20e9, Cut: 200e3, Average: 100e3}
}

// A model that fits a node needs no pipeline: each node is a cluster, however fast it is.
func TestClustersOfOneWhereTheModelFits(t *testing.T) {
	nodes := equalPool(6)
	for i := range nodes {
		nodes[i].Compute, nodes[i].Bandwidth = 20e9*float64(1+i), 100e6
	}
	got, err := Cluster(nodes, roundNeed(1e9, 12), Options{}, newRNG(1))
	if err != nil || len(got) != 6 {
		t.Errorf("got %v, %v, want six clusters", got, err)
	}
	// One unit a round is for one cluster, which is the fastest node; the others would
	// only slow it.
	got, err = Cluster(nodes, roundNeed(1e9, 12), Options{Replicas: 1, Spares: true}, newRNG(1))
	if err != nil || len(got) != 1 || !slices.Contains(got[0], 5) {
		t.Errorf("one replica: got %v, %v", got, err)
	}
	// The walkthrough's pool is written down without benchmarks: one cluster, as the seed.
	got, err = Cluster(equalPool(3), roundNeed(3e6, 7), Options{}, newRNG(1))
	if err != nil || len(got) != 1 {
		t.Errorf("the walkthrough: got %v, %v", got, err)
	}
}

// A node on a modem would hold up the pipeline that it is in.
func TestSpares(t *testing.T) {
	nodes := equalPool(5)
	for i := range nodes {
		nodes[i].Compute, nodes[i].Bandwidth = 50e9, 100e6
	}
	nodes[3].Bandwidth, nodes[3].RAM = 56e3, 1e9
	need := roundNeed(20e9, 12)
	got, err := Cluster(nodes, need, Options{Spares: true}, newRNG(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range got {
		if slices.Contains(c, 3) {
			t.Errorf("the node on a modem has a stage: %v", got)
		}
	}
	all, err := Cluster(nodes, need, Options{}, newRNG(1))
	if err != nil || len(slices.Concat(all...)) != 5 {
		t.Fatalf("without spares: %v, %v", all, err)
	}
	if a, b := cost(t, nodes, got, need, Options{Spares: true}), cost(t, nodes, all, need, Options{}); a.Cost > b.Cost-0.5 {
		t.Errorf("sparing it gives %v, using it %v", a.Cost, b.Cost)
	}
	// More nodes than stages: the slowest have no place.
	got, err = Cluster(nodes, roundNeed(20e9, 3), Options{Spares: true, MaxClusters: 1}, newRNG(1))
	if err != nil || len(got) != 1 || len(got[0]) > 3 {
		t.Errorf("three stages: got %v, %v", got, err)
	}
}

// The search is at most 2 % slower than the best of all clusterings, with spares and
// without.
func TestRoundAgainstExhaustive(t *testing.T) {
	rng := newRNG(21)
	worst, feasible := 0.0, 0
	for pool := range 150 {
		n := 2 + rng.IntN(6)
		nodes := randomPool(rng, n, true)
		total := 0.0
		for _, v := range nodes {
			total += v.RAM
		}
		need := roundNeed(total*(0.05+0.6*rng.Float64()), 2+rng.IntN(n))
		need.Cut *= math.Pow(10, 2*rng.Float64()-1)
		opt := Options{MicroBatches: 1 + rng.IntN(8), Replicas: rng.IntN(5), Spares: pool%2 == 0}
		got, err := Cluster(nodes, need, opt, newRNG(uint64(pool)))
		best := math.Inf(1)
		consider := func(c [][]int) {
			if f := cost(t, nodes, c, need, opt); f.Deficit <= deficitSlack {
				best = min(best, f.Cost)
			}
		}
		if !opt.Spares {
			everyPartition(n, consider)
		} else {
			for set := 1; set < 1<<n; set++ {
				var ids []int
				for i := range n {
					if set>>i&1 == 1 {
						ids = append(ids, i)
					}
				}
				everyPartition(len(ids), func(c [][]int) {
					mine := make([][]int, len(c))
					for k := range c {
						for _, i := range c[k] {
							mine[k] = append(mine[k], ids[i])
						}
					}
					consider(mine)
				})
			}
		}
		if math.IsInf(best, 1) {
			if err == nil {
				t.Errorf("pool %d: %v found where none is", pool, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("pool %d: %v, but a clustering exists", pool, err)
			continue
		}
		feasible++
		f := cost(t, nodes, got, need, opt)
		slower := math.Expm1(f.Cost - best)
		worst = max(worst, slower)
		if slower > 0.02 {
			t.Errorf("pool %d (%d nodes, %+v): %.1f %% slower than the best: %v", pool, n, opt, 100*slower, got)
		}
	}
	t.Logf("%d feasible pools, at worst %.2f %% slower than the best", feasible, 100*worst)
	if feasible < 80 {
		t.Errorf("only %d pools are feasible", feasible)
	}
}

// largeProblem is a pool of n random nodes for a model that takes several of them.
func largeProblem(n int) ([]Node, Need) {
	return randomPool(newRNG(uint64(n)), n, true), roundNeed(30e9, 60)
}

// In pools too large for exhaustive search the result beats the plain ways.
func TestRoundBeatsRandomAndGreedy(t *testing.T) {
	for _, n := range []int{50, 400} {
		nodes, need := largeProblem(n)
		opt := Options{Effort: 4000}
		got, err := Cluster(nodes, need, opt, newRNG(3))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Cluster(nodes, need, opt, newRNG(3))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(again) {
			t.Errorf("%d nodes: the same seed gave two clusterings", n)
		}
		ours := cost(t, nodes, got, need, opt)
		p, err := newProblem(nodes, need, opt)
		if err != nil {
			t.Fatal(err)
		}
		rng, random := newRNG(5), score{math.Inf(1), 0}
		for range 2000 {
			k, label := p.minK+rng.IntN(p.maxK-p.minK+1), make([]int, n)
			for i, at := range rng.Perm(n) {
				label[at] = i % k
			}
			if s := newState(p, label).score; s.better(random) {
				random = s
			}
		}
		g := greedy(p)
		g.cost, random.cost = math.Log(g.cost), math.Log(random.cost)
		t.Logf("%d nodes: %.3f in %d clusters; greedy %.3f (deficit %.2g), random %.3f (deficit %.2g)", n, ours.Cost, len(got), g.cost, g.deficit, random.cost, random.deficit)
		if !ours.score().better(g) || !ours.score().better(random) || ours.Deficit > deficitSlack {
			t.Errorf("%d nodes: ours %+v, greedy %v, random %v", n, ours, g, random)
		}
	}
}

// BenchmarkPlan forms clusters of large pools and cuts the model for each. A node of 10,000
// gets fewer evaluations than one of 1,000: see effort.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		nodes, need := largeProblem(n)
		units := make([]Unit, need.Stages)
		for i := range units {
			units[i] = Unit{Name: fmt.Sprint(i), FLOPs: need.FLOPs / float64(need.Stages), Params: 1e6, Memory: need.RAM / float64(need.Stages), Out: need.Cut}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var p *Plan
			begin := time.Now()
			for b.Loop() {
				var err error
				if p, err = Build("m", units, nodes, Options{}, newRNG(1)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(time.Since(begin).Seconds()/float64(b.N), "s/plan")
			b.ReportMetric(float64(len(p.Clusters)), "clusters")
			b.ReportMetric(p.Fitness.Cost, "cost")
		})
	}
}
