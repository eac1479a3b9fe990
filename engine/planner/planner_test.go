package planner_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

func pool(n int, ram, compute float64) []ga.Node {
	var ns []ga.Node
	for i := range n {
		ns = append(ns, ga.Node{Name: "node_" + string(rune('0'+i)), RAM: ram, Bandwidth: 10e6, Compute: compute})
	}
	return ns
}

func firsts(g *graph.Graph, c planner.Cluster) []string {
	var ns []string
	for _, s := range c.Starts() {
		ns = append(ns, g.Nodes[s].Name)
	}
	return ns
}

// TestWalkthroughCuts: three equal nodes without a benchmark are cut as Ravnest cuts
// them.
func TestWalkthroughCuts(t *testing.T) {
	g := zoo.CNN()
	p, err := planner.Make(job.Default(), g, pool(3, 8e9, 0), ga.Options{}, 42)
	if err != nil {
		t.Fatal(err)
	}
	if got := firsts(g, p.Clusters[0]); len(p.Clusters) != 1 || !slices.Equal(got, []string{"conv2d_1", "dense_1", "bn_3"}) {
		t.Errorf("%d clusters, cut at %v", len(p.Clusters), got)
	}
	for k, s := range p.Clusters[0].Stages {
		if len(s.Rings) != 1 || s.Rings[0].ID != k || s.Name != "node_"+string(rune('0'+k)) {
			t.Errorf("stage %d: %+v", k, s)
		}
	}
	if err := p.Check(g); err != nil {
		t.Error(err)
	}
}

// TestRingsOfUnequalClusters: over random pools, every trainable parameter is in exactly
// one ring of each cluster, no ring has two stages of one cluster, and every ring has a
// member in every cluster.
func TestRingsOfUnequalClusters(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	several, unequal := 0, 0
	for _, name := range []string{"cnn", "gpt-sorter"} {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		g := e.Graph
		for range 20 {
			nodes := pool(2+rng.IntN(8), 8e9, 0)
			for i := range nodes {
				nodes[i].Compute, nodes[i].Bandwidth = 1e9*(1+40*rng.Float64()), 1e8*(1+10*rng.Float64())
			}
			p, err := planner.Make(e.Job, g, nodes, ga.Options{Effort: 200, MicroBatches: 1, MinSize: 2}, rng.Uint64())
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Clusters) > 1 {
				several++
				if !slices.Equal(p.Clusters[0].Starts(), p.Clusters[1].Starts()) {
					unequal++
				}
			}
			checkRings(t, g, p)
			if err := p.Check(g); err != nil {
				t.Error(err)
			}
		}
	}
	if several < 10 || unequal < 5 {
		t.Errorf("only %d plans have several clusters, %d of them unequal", several, unequal)
	}
}

func checkRings(t *testing.T, g *graph.Graph, p *planner.Plan) {
	t.Helper()
	var params []graph.Param
	index := map[string]int{}
	for _, q := range g.Params() {
		if q.Role == graph.Trainable {
			index[q.Full] = len(params)
			params = append(params, q)
		}
	}
	var want []planner.Ring // of the first cluster: every other must have the same
	for c, cl := range p.Clusters {
		var rings []planner.Ring
		for k, s := range cl.Stages {
			end := len(g.Nodes)
			if k+1 < len(cl.Stages) {
				end = cl.Stages[k+1].Start
			}
			for i, r := range s.Rings {
				at, ok := index[r.First]
				if !ok || params[at].Node < s.Start || params[at].Node >= end {
					t.Fatalf("cluster %d: ring %+v of stage %d begins outside it", c, r, k)
				}
				if i == 0 && at > 0 && params[at-1].Node >= s.Start {
					t.Fatalf("cluster %d: stage %d: %s is in no ring", c, k, params[at-1].Full)
				}
			}
			rings = append(rings, s.Rings...)
		}
		for i := 1; i < len(rings); i++ {
			if rings[i].ID <= rings[i-1].ID || index[rings[i].First] <= index[rings[i-1].First] {
				t.Fatalf("cluster %d: rings %v: two stages in one ring, or out of order", c, rings)
			}
		}
		if index[rings[0].First] != 0 {
			t.Fatalf("cluster %d: the first parameters are in no ring: %v", c, rings)
		}
		if c == 0 {
			want = rings
		} else if !slices.Equal(rings, want) {
			t.Fatalf("cluster %d takes part in %v, cluster 0 in %v", c, rings, want)
		}
	}
}

// TestCheckRefusesRingsOfOtherCuts: a stored plan's rings must follow from its cuts.
func TestCheckRefusesRingsOfOtherCuts(t *testing.T) {
	g := zoo.CNN()
	p, err := planner.Make(job.Default(), g, pool(10, 8e9, 0), ga.Options{}, 42)
	if err != nil || len(p.Clusters) < 2 {
		t.Fatalf("%d clusters of 10 nodes over 7 units, %v", len(p.Clusters), err)
	}
	p.Clusters[1].Stages[1].Rings[0].ID--
	if err := p.Check(g); !errors.Is(err, planner.ErrInvalid) {
		t.Errorf("a plan with a wrong ring: %v", err)
	}
}

func TestErrorsSayWhatIsShort(t *testing.T) {
	g := zoo.CNN()
	if _, err := planner.Make(job.Default(), g, pool(3, 10e3, 0), ga.Options{}, 1); !errors.Is(err, ga.ErrRAM) || !strings.Contains(err.Error(), "short") {
		t.Errorf("tiny RAM: %v", err)
	}
	if _, err := planner.Make(job.Default(), g, pool(8, 8e9, 0), ga.Options{MaxClusters: 1}, 1); !errors.Is(err, ga.ErrStages) || !strings.Contains(err.Error(), "cut points") {
		t.Errorf("8 nodes: %v", err)
	}
}

// TestTooSmallNamesMembers: members that no stage fits are named, with what would do, as
// long as the others can hold the model; otherwise the pool as a whole is too small.
func TestTooSmallNamesMembers(t *testing.T) {
	g, j := zoo.CNN(), job.Default()
	for _, c := range []struct {
		ram   []float64
		small []int
	}{
		{[]float64{50e3, 8e9}, []int{0}},
		{[]float64{8e9, 1, 8e9, 50e3}, []int{1, 3}},
		{[]float64{50e3, 50e3}, nil},
	} {
		nodes := pool(len(c.ram), 0, 1e9)
		for i := range nodes {
			nodes[i].RAM = c.ram[i]
		}
		_, err := planner.Make(j, g, nodes, ga.Options{MaxClusters: 1}, 1)
		var small *planner.TooSmall
		if !errors.Is(err, ga.ErrRAM) || errors.As(err, &small) != (c.small != nil) {
			t.Errorf("%v: %v", c.ram, err)
			continue
		}
		if small == nil {
			continue
		}
		if !slices.Equal(small.Members, c.small) || small.Names[0] != nodes[c.small[0]].Name {
			t.Errorf("%v: members %v %v are too small, want %v", c.ram, small.Members, small.Names, c.small)
		}
		for i, m := range small.Members { // what is said to be enough is enough
			nodes[m].RAM = float64(small.Need[i])
		}
		if _, err := planner.Make(j, g, nodes, ga.Options{MaxClusters: 1}, 1); err != nil {
			t.Errorf("%v: with %v bytes: %v", c.ram, small.Need, err)
		}
	}
}

// TestMicroBatchesAreChosen: where it changes no bit the planner splits batches of one replica, so that
// the second provider helps; where it would, or the user has said, it does not, and says what
// that costs.
func TestMicroBatchesAreChosen(t *testing.T) {
	for _, c := range []struct {
		example string
		change  func(*job.Spec)
		lo, hi  int
		note    string
	}{
		{"char-gpt", func(*job.Spec) {}, 4, 16, ""},
		{"gpt-sorter", func(*job.Spec) {}, 4, 64, ""},
		{"gpt-sorter", func(j *job.Spec) { j.MicroBatches = 1 }, 1, 1, "without micro_batches in the job"},
		{"gpt-sorter", func(j *job.Spec) { j.Schedule = job.Async }, 1, 1, ""},
		{"gpt-sorter", func(j *job.Spec) { j.BatchSize = 1 }, 1, 1, ""},
		{"cnn", func(*job.Spec) {}, 1, 1, "update_frequency"},
		{"cnn", func(*job.Spec) {}, 1, 1, "replicas 2, each on its own batches"},
		{"cnn", func(*job.Spec) {}, 1, 1, "node_0 alone would train"},
		{"cnn", func(j *job.Spec) { j.Schedule = job.Async }, 1, 1, "node_0 alone would train"},
		{"gpt-sorter", func(j *job.Spec) { j.BatchSize = 1 }, 1, 1, "replicas 2 would give each provider its own batches"},
	} {
		e, err := zoo.Find(c.example)
		if err != nil {
			t.Fatal(err)
		}
		j := e.Job
		j.Replicas = 1
		c.change(&j)
		nodes := pool(2, 8e9, 50e9)
		for i := range nodes {
			nodes[i].Bandwidth = 1e9
		}
		p, err := planner.Make(j, e.Graph, nodes, ga.Options{MaxClusters: 1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		cl := p.Clusters[0]
		if n := cl.MicroBatches; n < c.lo || n > c.hi || !strings.Contains(cl.Note, c.note) || c.note == "" && strings.Contains(cl.Note, "stand still") || c.example == "char-gpt" && cl.Note != "" {
			t.Errorf("%s: %d micro-batches, want %d to %d; note %q, want %q", c.example, n, c.lo, c.hi, cl.Note, c.note)
		}
		j.MicroBatches = cl.MicroBatches
		stages, err := e.Graph.Cut(cl.Starts())
		if err != nil {
			t.Fatal(err)
		}
		for k, s := range stages {
			if n, err := stage.Bytes(j, s, stage.Placement{}); err != nil || n != cl.Stages[k].Memory {
				t.Errorf("%s: stage %d: %d bytes announced, %d with %d micro-batches (%v)", c.example, k, cl.Stages[k].Memory, n, cl.MicroBatches, err)
			}
		}
	}
}

// TestFewReplicasAreSaid: where there are fewer replicas than stages, the plan says what more would bring a
// job that has one cluster.
func TestFewReplicasAreSaid(t *testing.T) {
	e, err := zoo.Find("resnet18")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		nodes, clusters int
		said, not       string
	}{
		{2, 1, "", "stand still"},
		{3, 1, "2 replicas do not fill 3 stages; replicas 3, each on its own batches", ""},
		{4, 2, "one replica does not fill 2 stages", "each on its own"},
	} {
		p, err := planner.Make(e.Job, e.Graph, measured([]float64{10, 10, 10, 10}[:c.nodes]...), ga.Options{MinClusters: c.clusters, MaxClusters: c.clusters}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if s := p.String(); !strings.Contains(s, c.said) || c.not != "" && strings.Contains(s, c.not) {
			t.Errorf("%d nodes in %d clusters: want %q and not %q:\n%s", c.nodes, c.clusters, c.said, c.not, s)
		}
	}
}

// TestUnitsInFlight: as many units of replicas are in flight as there are stages, or as the
// lent memory holds; they fill the pipeline of a model whose batches stay whole; and the
// memory that is announced is that of so many.
func TestUnitsInFlight(t *testing.T) {
	e, err := zoo.Find("cnn")
	if err != nil {
		t.Fatal(err)
	}
	made := func(j job.Spec, ram float64) planner.Cluster {
		nodes := pool(3, ram, 1e8) // slow, so that computing outweighs the links
		for i := range nodes {
			nodes[i].Bandwidth = 1e9
		}
		p, err := planner.Make(j, e.Graph, nodes, ga.Options{MaxClusters: 1, MinSize: 3}, 1)
		if err != nil {
			t.Fatal(err)
		}
		cl := p.Clusters[0]
		j.MicroBatches, j.InFlight = cl.MicroBatches, cl.InFlight
		if cl.Halves {
			j.Schedule = job.ZB
		}
		stages, err := e.Graph.Cut(cl.Starts())
		if err != nil {
			t.Fatal(err)
		}
		for k, s := range stages {
			if n, err := stage.Bytes(j, s, stage.Placement{}); err != nil || n != cl.Stages[k].Memory || float64(n) > ram {
				t.Errorf("stage %d: %d bytes announced of %.0f, %d with %d in flight (%v)", k, cl.Stages[k].Memory, ram, n, cl.InFlight, err)
			}
		}
		return cl
	}
	one := made(e.Job, 8e9)
	for _, c := range []struct {
		change func(*job.Spec)
		want   int
	}{
		{func(j *job.Spec) { j.Replicas = 2 }, 2},
		{func(j *job.Spec) { j.Replicas = 6 }, 3},
		{func(j *job.Spec) { j.Replicas, j.InFlight = 6, 1 }, 1},
		{func(j *job.Spec) { j.Replicas, j.Average.Of = 6, job.Gradients }, 0},
	} {
		j := e.Job
		c.change(&j)
		cl := made(j, 8e9)
		if cl.InFlight != c.want {
			t.Errorf("%d replicas: %d units in flight, want %d", j.Replicas, cl.InFlight, c.want)
		}
		if c.want == 3 && cl.Idle > one.Idle-0.2 {
			t.Errorf("with 6 replicas stages stand still %.0f %% of the time, with one %.0f %%", 100*cl.Idle, 100*one.Idle)
		}
	}
	j := e.Job
	// Nodes that are so fast that a message's delay counts are given more to do meanwhile.
	j.Replicas = 9
	p, err := planner.Make(j, e.Graph, pool(3, 8e9, 2e10), ga.Options{MaxClusters: 1, MinSize: 3}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Clusters[0].InFlight; n <= 3 || n > 9 {
		t.Errorf("fast nodes: %d units in flight", n)
	}
	j.Replicas = 6
	full := made(j, 8e9)
	j.InFlight = 1
	least := made(j, 8e9)
	most := func(cl planner.Cluster) float64 {
		n := 0
		for _, s := range cl.Stages {
			n = max(n, s.Memory)
		}
		return float64(n)
	}
	if most(least) >= most(full) {
		t.Fatalf("one unit in flight takes %.0f bytes, three %.0f", most(least), most(full))
	}
	j.InFlight = 0
	tight := made(j, most(least)+1)
	if tight.InFlight >= 3 || !strings.Contains(tight.Note, "do not fit into the memory") {
		t.Errorf("with the memory of one unit %d are in flight; note %q", tight.InFlight, tight.Note)
	}
	// Where the job asks for more than fit, the error says how many do.
	try := func(n int) error {
		j.InFlight = n
		_, err := planner.Make(j, e.Graph, pool(3, most(least)+1, 1e8), ga.Options{MaxClusters: 1, MinSize: 3}, 1)
		return err
	}
	fits := 0
	for n := 1; n <= 6; n++ {
		switch err := try(n); {
		case err == nil && fits == n-1:
			fits = n
		case err == nil || !errors.Is(err, ga.ErrRAM) || !strings.Contains(err.Error(), fmt.Sprintf("; in_flight %d, in place of %d, fits", fits, n)):
			t.Errorf("%d in flight, where %d fit: %v", n, fits, err)
		}
	}
	if fits < 1 || fits > 5 {
		t.Errorf("%d in flight fit", fits)
	}
}

// TestNoCutThroughHeavyTensors: a tensor larger than a message is not cut through, and
// where that leaves too few cuts the error says what would help.
func TestNoCutThroughHeavyTensors(t *testing.T) {
	n := func(name string, in, out int, from string) graph.Node {
		return graph.Node{Name: name, Op: &graph.Linear{In: in, Out: out}, Inputs: []string{from}}
	}
	g := &graph.Graph{Name: "wide", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4}}}, Output: "c", Nodes: []graph.Node{
		n("a", 4, 1<<20, "x"), n("b", 1<<20, 3, "a"), n("c", 3, 3, "b"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	j := job.Default()
	j.BatchSize = 256
	p, err := planner.Make(j, g, pool(2, 1e12, 0), ga.Options{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := firsts(g, p.Clusters[0]); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("cut at %v", got)
	}
	if _, err := planner.Make(j, g, pool(3, 1e12, 0), ga.Options{MaxClusters: 1}, 1); !errors.Is(err, ga.ErrStages) || !strings.Contains(err.Error(), `cut after "a"`) || !strings.Contains(err.Error(), "lower batch_size to 32 or less") {
		t.Errorf("three providers: %v", err)
	}
	j.ValEvery, j.MicroBatches = 0, 8
	if _, err := planner.Make(j, g, pool(3, 1e12, 0), ga.Options{MaxClusters: 1}, 1); err != nil {
		t.Errorf("micro-batches, no validation: %v", err)
	}
}

// TestMemoryIsThePlans: what the planner announces for a stage is what the stage's own
// plan says.
func TestMemoryIsThePlans(t *testing.T) {
	g, j := zoo.CNN(), job.Default()
	j.Schedule = job.Async
	p, err := planner.Make(j, g, pool(3, 8e9, 1e9), ga.Options{}, 42)
	if err != nil {
		t.Fatal(err)
	}
	stages, err := g.Cut(p.Clusters[0].Starts())
	if err != nil {
		t.Fatal(err)
	}
	for k, s := range stages {
		if n, err := stage.Bytes(j, s, stage.Placement{}); err != nil || n != p.Clusters[0].Stages[k].Memory || n == 0 {
			t.Errorf("stage %d: %d bytes announced, %d planned (%v)", k, p.Clusters[0].Stages[k].Memory, n, err)
		}
	}
}

// TestMemoryHasTheData: data are where they are read, and who lends too little for them has another
// stage, or is named with what would do.
func TestMemoryHasTheData(t *testing.T) {
	g, j := zoo.CNN(), job.Default()
	nodes := pool(2, 8e9, 50e9)
	plan := func(f planner.Facts) (*planner.Plan, error) {
		return f.Make(j, g, nodes, ga.Options{MaxClusters: 1}, 42)
	}
	none, err := plan(planner.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	const inputs, targets, order = 64 << 20, 1 << 20, 1 << 16
	with, err := plan(planner.Facts{Inputs: inputs, Targets: targets, Order: order})
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for k, more := range []int{inputs, targets} {
		a, b := none.Clusters[0].Stages[k], with.Clusters[0].Stages[k]
		if more += order; a.Start != b.Start || a.Memory+more != b.Memory {
			t.Errorf("stage %d: from node %d %d bytes, with %d of data from %d %d", k, a.Start, a.Memory, more, b.Start, b.Memory)
		}
		sum += float64(b.Memory)
	}
	if c := with.GA.Clusters[0]; c.Memory != sum || c.Stages[0].Memory+c.Stages[1].Memory != sum {
		t.Errorf("%v bytes are printed, of stages %v and %v; they take %v", c.Memory, c.Stages[0].Memory, c.Stages[1].Memory, sum)
	}
	nodes[0].RAM = inputs - 1
	if with, err = plan(planner.Facts{Inputs: inputs}); err != nil || with.Clusters[0].Stages[0].Node != 1 {
		t.Errorf("the first stage is that of a node that cannot hold its inputs: %+v, %v", with, err)
	}
	nodes[1].RAM = 60e6
	if _, err := plan(planner.Facts{Inputs: inputs}); !errors.Is(err, ga.ErrRAM) {
		t.Errorf("nobody can hold the inputs: %v", err)
	}
}

// TestRecomputeFits: a model that fits only if it computes again is placed if the job says
// so, on one provider and on several, and refused otherwise.
func TestRecomputeFits(t *testing.T) {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 6, Heads: 4, Width: 32, Tokens: 64, Vocab: 16, Dropout: 0.1})
	most := func(again string, starts []int) float64 {
		j := job.Default()
		j.Loss, j.Schedule, j.BatchSize, j.MicroBatches, j.Recompute = "cross_entropy", job.Sync, 64, 1, again
		stages, err := g.Cut(starts)
		if err != nil {
			t.Fatal(err)
		}
		need := 0
		for _, s := range stages {
			n, err := stage.Bytes(j, s, stage.Placement{})
			if err != nil {
				t.Fatal(err)
			}
			need = max(need, n)
		}
		return float64(need)
	}
	for n := 1; n <= 3; n++ {
		j := job.Default()
		j.Loss, j.Schedule, j.BatchSize, j.MicroBatches = "cross_entropy", job.Sync, 64, 1
		free, err := planner.Make(j, g, pool(n, 1e12, 1e9), ga.Options{MaxClusters: 1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		starts := free.Clusters[0].Starts()
		full, kept := most("full", starts), most("", starts)
		if full > 0.8*kept {
			t.Errorf("%d stages: %.0f bytes computed again, %.0f kept", n, full, kept)
		}
		for _, again := range []string{"", "full"} {
			j := job.Default()
			j.Loss, j.Schedule, j.BatchSize, j.MicroBatches, j.Recompute = "cross_entropy", job.Sync, 64, 1, again
			p, err := planner.Make(j, g, pool(n, 1.1*full, 1e9), ga.Options{MaxClusters: 1}, 1)
			if again == "" {
				if !errors.Is(err, ga.ErrRAM) {
					t.Errorf("%d nodes, everything kept: %v", n, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%d nodes: %v", n, err)
			} else if len(p.Clusters) != 1 || len(p.Clusters[0].Stages) != n {
				t.Errorf("%d nodes: %+v", n, p.Clusters)
			}
		}
	}
}

// TestScalars: a model whose answer to a row is one number without an axis, and that has such numbers
// inside, is planned as any other.
func TestScalars(t *testing.T) {
	g := &graph.Graph{Name: "sum", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4}}}, Output: "sum", Nodes: []graph.Node{
		{Name: "a", Op: &graph.Linear{In: 4, Out: 64, Bias: true}, Inputs: []string{"x"}},
		{Name: "mean", Op: &graph.Reduce{Function: "mean", Axes: 1}, Inputs: []string{"a"}},
		{Name: "scaled", Op: &graph.Binary{Function: "mul"}, Inputs: []string{"a", "mean"}},
		{Name: "b", Op: &graph.Linear{In: 64, Out: 64, Bias: true}, Inputs: []string{"scaled"}},
		{Name: "sum", Op: &graph.Reduce{Function: "sum", Axes: 1}, Inputs: []string{"b"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	if c := planner.ModelOf(g, 8).Compute(planner.Speeds{Product: 100}); !(c > 0) {
		t.Errorf("a speed of %v", c)
	}
	p, err := planner.Make(job.Default(), g, pool(2, 8e9, 20e9), ga.Options{MaxClusters: 1}, 1)
	if err != nil || len(p.Clusters[0].Stages) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
}
