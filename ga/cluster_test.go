package ga

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func newRNG(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }

func equalPool(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("node_%d", i), RAM: 8e9, Bandwidth: 10e6}
	}
	return nodes
}

// randomPool mixes home and office machines; figures are log-uniform.
func randomPool(rng *rand.Rand, n int, bench bool) []Node {
	pick := func(lo, hi float64) float64 { return lo * math.Pow(hi/lo, rng.Float64()) }
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("n%d", i), RAM: pick(1e9, 32e9), Bandwidth: pick(5e6, 1e9)}
		if bench {
			nodes[i].Compute = pick(5e9, 2e11)
		}
	}
	return nodes
}

func cost(t *testing.T, nodes []Node, clusters [][]int, need Need, opt Options) Fitness {
	t.Helper()
	f, err := Rate(nodes, clusters, need, opt)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f Fitness) score() score { return score{f.Deficit, f.Cost} }

func TestWalkthroughPoolIsOneClusterInOrder(t *testing.T) {
	for seed := range uint64(20) {
		got, err := Cluster(equalPool(3), Need{Model: "cnn", RAM: 3e6, Stages: 7}, Options{}, newRNG(seed))
		if err != nil {
			t.Fatal(err)
		}
		if want := [][]int{{0, 1, 2}}; !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}

// The number of clusters that the documentation of Fitness promises for equal pools.
func TestEqualPools(t *testing.T) {
	for _, c := range []struct {
		n, stages int
		need      float64
		max       int
		want      []int // sizes
	}{
		{n: 1, want: []int{1}},
		{n: 2, want: []int{2}},
		{n: 4, want: []int{4}},
		{n: 5, want: []int{5}},
		{n: 6, want: []int{6}},
		{n: 9, want: []int{9}},
		{n: 10, want: []int{5, 5}},
		{n: 10, max: 1, want: []int{10}},
		{n: 10, need: 41e9, want: []int{10}}, // RAM for one model only
		{n: 8, stages: 7, want: []int{4, 4}}, // a stage needs a unit
		{n: 5, stages: 2, want: []int{2, 2, 1}},
		{n: 3, stages: 1, want: []int{1, 1, 1}}, // no cut point: each has the whole model
		{n: 50, want: slices.Repeat([]int{5}, 10)},
	} {
		need := Need{Model: "m", RAM: max(c.need, 1e6), Stages: c.stages}
		got, err := Cluster(equalPool(c.n), need, Options{MaxClusters: c.max}, newRNG(1))
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		var sizes []int
		next := 0
		for _, cl := range got {
			sizes = append(sizes, len(cl))
			for _, i := range cl {
				if i != next {
					t.Errorf("%d nodes: %v is not in blocks of the pool's order", c.n, got)
				}
				next++
			}
		}
		slices.SortFunc(sizes, func(a, b int) int { return b - a })
		if !slices.Equal(sizes, c.want) {
			t.Errorf("%d nodes: sizes %v, want %v", c.n, sizes, c.want)
		}
	}
}

func TestMoreRAMComesFirst(t *testing.T) {
	nodes := equalPool(4)
	nodes[2].RAM = 16e9
	nodes[1].RAM = 8.4e9 // noise, not a notch
	got, err := Cluster(nodes, Need{RAM: 1e9}, Options{}, newRNG(1))
	if want := [][]int{{2, 0, 1, 3}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
}

func TestLikeBandwidthsGroup(t *testing.T) {
	nodes := equalPool(8)
	for i := range nodes {
		nodes[i].Compute = 50e9
		if i%2 == 1 {
			nodes[i].Bandwidth = 1e9
		}
	}
	got, err := Cluster(nodes, Need{RAM: 1e9}, Options{}, newRNG(1))
	if want := [][]int{{0, 2, 4, 6}, {1, 3, 5, 7}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
}

// everyPartition calls f with each partition of n nodes.
func everyPartition(n int, f func([][]int)) {
	var clusters [][]int
	var rec func(i int)
	rec = func(i int) {
		if i == n {
			f(clusters)
			return
		}
		for k := range clusters {
			clusters[k] = append(clusters[k], i)
			rec(i + 1)
			clusters[k] = clusters[k][:len(clusters[k])-1]
		}
		clusters = append(clusters, []int{i})
		rec(i + 1)
		clusters = clusters[:len(clusters)-1]
	}
	rec(0)
}

func TestAgainstExhaustive(t *testing.T) {
	rng := newRNG(11)
	pools, optimal, feasible := 120, 0, 0
	for pool := range pools {
		n := 2 + rng.IntN(7)
		nodes := randomPool(rng, n, pool%2 == 0)
		total := 0.0
		for _, v := range nodes {
			total += v.RAM
		}
		// Short pipelines and tight memory make small pools hard: many clusterings compete.
		need := Need{RAM: total * (0.1 + 0.5*rng.Float64()), Stages: 2 + rng.IntN(n)}
		opt := Options{MicroBatches: 1 + rng.IntN(4)}
		got, err := Cluster(nodes, need, opt, newRNG(uint64(pool)))
		best := score{math.Inf(1), math.Inf(1)}
		everyPartition(n, func(c [][]int) {
			if s := cost(t, nodes, c, need, opt).score(); s.better(best) {
				best = s
			}
		})
		switch {
		case err == nil:
			feasible++
			if s := cost(t, nodes, got, need, opt).score(); best.better(score{s.deficit, s.cost - 1e-6}) {
				t.Logf("pool %d (%d nodes): found %v, optimum %v", pool, n, s, best)
			} else {
				optimal++
			}
		case best.deficit <= deficitSlack:
			t.Logf("pool %d (%d nodes): %v, but a clustering exists", pool, n, err)
		case errors.Is(err, ErrRAM):
			optimal++
		default:
			t.Errorf("pool %d: %v", pool, err)
		}
	}
	t.Logf("optimum found in %d of %d pools (%d of them feasible)", optimal, pools, feasible)
	if optimal < pools*95/100 || feasible < pools/2 {
		t.Errorf("optimum found in %d of %d pools, %d feasible", optimal, pools, feasible)
	}
}

// greedy is the plain alternative: for every number of clusters, the fastest node left
// goes to the slowest cluster; the best number wins.
func greedy(p *problem) score {
	order := make([]int, p.n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if p.speed[a] > p.speed[b] {
			return -1
		}
		return 1
	})
	best := score{math.Inf(1), 0}
	for k := p.minK; k <= p.maxK; k++ {
		speed, label := make([]float64, k), make([]int, p.n)
		for _, i := range order {
			c := slices.Index(speed, slices.Min(speed))
			label[i] = c
			speed[c] += p.speed[i]
		}
		if s := newState(p, label).score; s.better(best) {
			best = s
		}
	}
	return best
}

func TestBeatsRandomAndGreedy(t *testing.T) {
	for _, n := range []int{20, 100} {
		for _, bench := range []bool{false, true} {
			rng := newRNG(uint64(n))
			nodes := randomPool(rng, n, bench)
			need, opt := Need{RAM: 20e9, Stages: 40}, Options{Effort: 5000}
			got, err := Cluster(nodes, need, opt, newRNG(3))
			if err != nil {
				t.Fatal(err)
			}
			ours := cost(t, nodes, got, need, opt).score()
			p, err := newProblem(nodes, need, opt)
			if err != nil {
				t.Fatal(err)
			}
			random := score{math.Inf(1), 0}
			for range 10000 {
				k, label := p.minK+rng.IntN(p.maxK-p.minK+1), make([]int, n)
				for i, at := range rng.Perm(n) {
					label[at] = i % k
				}
				if s := newState(p, label).score; s.better(random) {
					random = s
				}
			}
			g := greedy(p)
			t.Logf("%d nodes, benchmark %v: %.4f in %d clusters; greedy %.4f (deficit %.2g), random %.4f (deficit %.2g)",
				n, bench, ours.cost, len(got), g.cost, g.deficit, random.cost, random.deficit)
			if !ours.better(g) || !ours.better(random) {
				t.Errorf("%d nodes: ours %v, greedy %v, random %v", n, ours, g, random)
			}
		}
	}
}

// The search's running sums must mean what the specification says, also after many moves.
func TestRunningSumsAreTheSpecification(t *testing.T) {
	rng := newRNG(5)
	for round := range 50 {
		nodes := randomPool(rng, 2+rng.IntN(40), round%2 == 0)
		p, err := newProblem(nodes, Need{RAM: 20e9, Stages: 9}, Options{MaxClusters: 6})
		if err != nil {
			t.Fatal(err)
		}
		s := newState(p, make([]int, p.n))
		for range 500 {
			i, from := rng.IntN(p.n), 0
			from = s.label[i]
			to := rng.IntN(len(s.sum) + 1)
			if to == len(s.sum) {
				s.grow()
			}
			s.move(i, to)
			if s.sum[len(s.sum)-1].size == 0 {
				s.drop(len(s.sum) - 1)
			} else {
				s.drop(from)
			}
		}
		want := p.rate(groups(s.label))
		// Thousands of additions in another order than the specification's.
		if math.Abs(want.Deficit-s.score.deficit) > deficitSlack || math.Abs(want.Cost-s.score.cost) > 1e-6 {
			t.Fatalf("round %d: running %v, specification %+v", round, s.score, want)
		}
	}
}

func TestClusterIsDeterministicAndComplete(t *testing.T) {
	nodes := randomPool(newRNG(9), 40, true)
	need, opt := Need{RAM: 20e9, Stages: 12}, Options{Effort: 4000}
	first, err := Cluster(nodes, need, opt, newRNG(1))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Cluster(nodes, need, opt, newRNG(1))
	if err != nil || !reflect.DeepEqual(first, again) {
		t.Fatalf("the same seed gave %v and %v (%v)", first, again, err)
	}
	if f := cost(t, nodes, first, need, opt); f.Deficit != 0 {
		t.Fatalf("deficit %v", f.Deficit)
	}
}

// No term may depend on the unit that a figure is given in.
func TestFitnessIsFreeOfScale(t *testing.T) {
	nodes := randomPool(newRNG(2), 6, true)
	for _, bench := range []bool{true, false} {
		big := slices.Clone(nodes)
		for i := range big {
			if !bench {
				nodes[i].Compute, big[i].Compute = 0, 0
			}
			// A power of four is a whole number of notches.
			big[i].RAM, big[i].Bandwidth, big[i].Compute = 4*big[i].RAM, 16*big[i].Bandwidth, 64*big[i].Compute
		}
		c := [][]int{{0, 3}, {1, 2, 4, 5}}
		a := cost(t, nodes, c, Need{RAM: 5e9}, Options{})
		b := cost(t, big, c, Need{RAM: 20e9}, Options{})
		if math.Abs(a.Cost-b.Cost) > 1e-9 || math.Abs(a.Deficit-b.Deficit) > 1e-9 { // sums of scaled terms round differently
			t.Errorf("benchmark %v: %+v, scaled %+v", bench, a, b)
		}
	}
}

func TestPoolErrorsSayWhatIsWrong(t *testing.T) {
	set := func(f func(*Node)) []Node {
		n := equalPool(3)
		f(&n[1])
		return n
	}
	for _, c := range []struct {
		name  string
		nodes []Node
		need  Need
		opt   Options
		kind  error
		want  string
	}{
		{
			"ram",
			[]Node{{RAM: 0.5e9, Bandwidth: 1e6}, {RAM: 0.5e9, Bandwidth: 1e6}},
			Need{RAM: 2.4e9},
			Options{},
			ErrRAM, "pool has 1.0 GB of RAM, the model needs 2.4 GB: 1.4 GB short; add providers or lower the batch size",
		},
		{"empty", nil, Need{}, Options{}, ErrInvalid, "no nodes"},
		{"no ram", set(func(n *Node) { n.RAM = 0 }), Need{}, Options{}, ErrInvalid, `node "node_1": RAM`},
		{"nan", set(func(n *Node) { n.Bandwidth = math.NaN() }), Need{}, Options{}, ErrInvalid, `node "node_1": bandwidth (bit/s) is NaN`},
		{"inf", set(func(n *Node) { n.Compute = math.Inf(1) }), Need{}, Options{}, ErrInvalid, `node "node_1": compute`},
		{"negative", set(func(n *Node) { n.Compute = -1 }), Need{}, Options{}, ErrInvalid, `node "node_1": compute`},
		{"many", equalPool(MaxNodes + 1), Need{}, Options{}, ErrInvalid, "at most 16384"},
		{"need", equalPool(2), Need{Model: "x", RAM: math.NaN()}, Options{}, ErrInvalid, `"x" needs NaN`},
		{"several needs", equalPool(2), Need{Model: "x", FLOPs: -1, Cut: -1, Average: -1}, Options{}, ErrInvalid, "-1 FLOPs"},
		{"several options", equalPool(2), Need{}, Options{Balance: 2e6, Likeness: 2e6, ByteWork: 2e6}, ErrInvalid, "option Balance"},
		{"option", equalPool(2), Need{}, Options{MaxClusters: -1}, ErrInvalid, "MaxClusters"},
		{"stages", equalPool(8), Need{Model: "x", Stages: 3}, Options{MaxClusters: 1}, ErrStages, `8 providers but the model "x" has only 2 cut points`},
		{"stages and ram", equalPool(8), Need{Model: "x", Stages: 3, RAM: 40e9}, Options{}, ErrRAM, "8 providers need 3 clusters"},
		{
			"lumpy",
			[]Node{{RAM: 9e9, Bandwidth: 1e6}, {RAM: 1e9, Bandwidth: 1e6}, {RAM: 1e9, Bandwidth: 1e6}, {RAM: 1e9, Bandwidth: 1e6}},
			Need{Stages: 2, RAM: 4e9},
			Options{},
			ErrRAM, "2.0 GB short",
		},
	} {
		_, err := Cluster(c.nodes, c.need, c.opt, newRNG(1))
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %v with %q", c.name, err, c.kind, c.want)
		}
	}
}

// Whatever a stranger says of itself, the others can be planned with.
func TestRepair(t *testing.T) {
	odd := []float64{0, -1, math.NaN(), math.Inf(1), 1e300, 0.5, 33.6e15, 1e9}
	good := Node{Name: "good", RAM: 8e9, Bandwidth: 50e6, Compute: 40e9}
	for _, ram := range odd {
		for _, band := range odd {
			for _, comp := range odd {
				pool := Repair([]Node{good, {Name: "odd", RAM: ram, Bandwidth: band, Compute: comp}})
				if err := checkNodes(pool); err != nil || pool[0] != good {
					t.Fatalf("%v %v %v: %+v, %v", ram, band, comp, pool, err)
				}
			}
		}
	}
	if pool := Repair([]Node{{RAM: 1e9}, {RAM: 2e9}}); checkNodes(pool) != nil || pool[0].Compute != 0 {
		t.Errorf("nobody measured anything: %+v", pool)
	}
}

// The search is bounded by a count of evaluations, about 60 ns each, so its time is known
// and a slow machine finds what a fast one does.
func TestSearchKeepsItsBudget(t *testing.T) {
	for _, n := range []int{3, 50, 150} {
		p, err := newProblem(randomPool(newRNG(4), n, true), Need{RAM: 20e9, Stages: 60}, Options{Effort: 2000})
		if err != nil {
			t.Fatal(err)
		}
		g := &search{problem: p, rng: newRNG(1), left: p.budget}
		g.run()
		if over := -g.left; over > p.budget/20 {
			t.Errorf("%d nodes: %d evaluations beyond a budget of %d", n, over, p.budget)
		}
	}
}

func BenchmarkCluster(b *testing.B) {
	for _, n := range []int{3, 10, 50, 500} {
		for _, equal := range []bool{true, false} {
			nodes, name := randomPool(newRNG(4), n, true), "random"
			if equal {
				nodes, name = equalPool(n), "equal"
			}
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				need := Need{RAM: 2e9, Stages: 60}
				var clusters [][]int
				for b.Loop() {
					clusters, _ = Cluster(nodes, need, Options{}, newRNG(1))
				}
				f, err := Rate(nodes, clusters, need, Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(clusters)), "clusters")
				b.ReportMetric(f.Cost, "cost")
			})
		}
	}
}

func FuzzCluster(f *testing.F) {
	f.Add(uint64(1), uint8(3), 8e9, 10e6, 0.0, 3e6, 7, 0)
	f.Add(uint64(2), uint8(9), 1e9, 1e9, 1e10, 2.5e9, 2, 3)
	f.Add(uint64(3), uint8(1), 1e15, 1.0, 1e18, 0.0, 0, 1)
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, ram, bandwidth, compute, need float64, stages, clusters int) {
		rng := newRNG(seed)
		nodes := make([]Node, n%24)
		for i := range nodes {
			nodes[i] = Node{RAM: ram * rng.Float64(), Bandwidth: bandwidth * (1 + rng.Float64()), Compute: compute * float64(rng.IntN(3))}
		}
		nd, opt := Need{RAM: need, Stages: stages}, Options{MaxClusters: clusters, Effort: 200}
		got, err := Cluster(nodes, nd, opt, rng)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrRAM) && !errors.Is(err, ErrStages) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		if f, err := Rate(nodes, got, nd, opt); err != nil || f.Deficit > deficitSlack || math.IsNaN(f.Cost) {
			t.Fatalf("%v: %+v, %v", got, f, err)
		}
	})
}
