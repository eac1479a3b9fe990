package planner_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// planned plans an example for equal nodes.
func planned(t *testing.T, example string, nodes int, f planner.Facts, edit func(*job.Spec)) *planner.Plan {
	t.Helper()
	e, err := zoo.Find(example)
	if err != nil {
		t.Fatal(err)
	}
	j := e.Job
	if edit != nil {
		edit(&j)
	}
	pool := make([]ga.Node, nodes)
	for i := range pool {
		pool[i] = ga.Node{Name: string(rune('a' + i)), RAM: 8e9, Bandwidth: 1e9, Compute: 50e9}
	}
	p, err := f.Make(j, e.Graph, pool, ga.Options{MaxClusters: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFacts: what is known of a pool moves the forecast the way that it must, and no choice
// that would be another one for no reason.
func TestFacts(t *testing.T) {
	rate := func(f planner.Facts) float64 { return planned(t, "char-gpt", 2, f, nil).Rate }
	near := func(a, b float64) bool { return a > b*0.999 && a < b*1.001 }
	plain := rate(planner.Facts{})
	if plain <= 0 {
		t.Fatal("no forecast")
	}
	if r := rate(planner.Facts{Machine: []int{0, 0}, Cores: []float64{2, 2}}); !near(r, plain) && r < plain {
		t.Errorf("two cores for two providers: %v samples/s, %v on machines of their own", r, plain)
	}
	if r := rate(planner.Facts{Machine: []int{0, 0}, Cores: []float64{1, 1}}); r > plain*0.62 || r < plain*0.4 {
		t.Errorf("one core for two providers: %v samples/s, %v on machines of their own", r, plain)
	}
	if r := rate(planner.Facts{Machine: []int{-1, -1}, Cores: []float64{0, 0}}); !near(r, plain) {
		t.Errorf("machines not known: %v samples/s, want %v", r, plain)
	}
	if r := rate(planner.Facts{Achieved: 0.5}); !near(r, plain/2) {
		t.Errorf("after a run that achieved half: %v samples/s, want %v", r, plain/2)
	}
	if r := rate(planner.Facts{Train: 1000, Val: 1000}); r > plain*0.85 || r < plain*0.5 {
		t.Errorf("with a validation pass an epoch: %v samples/s, %v without", r, plain)
	}
	// A spare core serves links, where both ends have one.
	served := planned(t, "gpt-sorter", 2, planner.Facts{Spare: []float64{1, 1}}, nil).Rate
	if one, none := planned(t, "gpt-sorter", 2, planner.Facts{Spare: []float64{1, 0}}, nil).Rate, planned(t, "gpt-sorter", 2, planner.Facts{Spare: []float64{0, 0}}, nil).Rate; served < none*1.05 || one != none {
		t.Errorf("with a spare core at both ends %v samples/s, at one %v, without %v", served, one, none)
	}
	// Between processes of one machine, bytes cost less; and where batches of one replica stay whole, a
	// core is free whenever a message comes.
	soon := func(int, int) float64 { return 1e-9 }
	two := planner.Facts{RTT: soon, Machine: []int{0, 0}, Cores: []float64{2, 2}}
	if here, there := planned(t, "gpt-sorter", 2, two, nil).Rate, planned(t, "gpt-sorter", 2, planner.Facts{RTT: soon}, nil).Rate; here < there*1.05 {
		t.Errorf("on one machine %v samples/s, on two %v", here, there)
	}
	crowd := planner.Facts{Spare: []float64{0, 0}}
	if all, free := planned(t, "cnn", 2, crowd, nil).Rate, planned(t, "cnn", 2, planner.Facts{}, nil).Rate; all != free {
		t.Errorf("whole batches on all cores: %v samples/s, not known %v", all, free)
	}
	if all, free := planned(t, "gpt-sorter", 2, crowd, nil).Rate, planned(t, "gpt-sorter", 2, planner.Facts{}, nil).Rate; all > free*0.95 {
		t.Errorf("micro-batches on all cores: %v samples/s, not known %v", all, free)
	}
	if r := rate(planner.Facts{Train: 1000}); !near(r, plain) {
		t.Errorf("nothing to validate on: %v samples/s, want %v", r, plain)
	}
	// Of the walkthrough's batches that wait for one another, round trips are most.
	slow := func(rtt float64) float64 {
		return planned(t, "cnn", 2, planner.Facts{RTT: func(int, int) float64 { return rtt }}, nil).Rate
	}
	last := slow(1e-4)
	for _, rtt := range []float64{1e-3, 1e-2, 1e-1} {
		r := slow(rtt)
		if r >= last {
			t.Errorf("a round trip of %v s: %v samples/s, %v with a shorter one", rtt, r, last)
		}
		last = r
	}
	if last > 64/100e-3 {
		t.Errorf("%v samples/s, but a batch of 64 takes a round trip of 100 ms", last)
	}
	if a, b := slow(5), slow(1e6); a != b {
		t.Errorf("a stranger's round trip of eleven days counts: %v samples/s instead of %v", b, a)
	}
}

// TestEveryScheduleHasAForecast: async is at least as fast as sync, which drains.
func TestEveryScheduleHasAForecast(t *testing.T) {
	rates := map[string]float64{}
	for _, s := range []string{job.Sync, job.ZB, job.Async} {
		rates[s] = planned(t, "cnn", 3, planner.Facts{}, func(j *job.Spec) { j.Schedule = s }).Rate
		if rates[s] <= 0 {
			t.Errorf("%s: no forecast", s)
		}
	}
	if rates[job.Async] < rates[job.Sync] {
		t.Errorf("async: %v samples/s, sync %v", rates[job.Async], rates[job.Sync])
	}
}

// TestWorkOfEveryOp: no operation is free that computes something, and a frozen model costs
// nothing backwards.
func TestWorkOfEveryOp(t *testing.T) {
	g := zoo.CNN()
	frozen, err := g.Freeze([]string{"conv2d_1.*"})
	if err != nil {
		t.Fatal(err)
	}
	all := func(g *graph.Graph) (f, b float64) { return planner.Work(g, 1) }
	f, b := all(g)
	ff, fb := all(frozen)
	if f <= 0 || b <= f/2 || ff != f || fb >= b {
		t.Errorf("work %v forward and %v backward; with a frozen layer %v and %v", f, b, ff, fb)
	}
}

// TestComputeFollowsTheModel: slow loops over elements slow a small decoder more than convolutions,
// what a provider did not measure follows from the rest, and no figure gives a speed that is none.
func TestComputeFollowsTheModel(t *testing.T) {
	speed := func(name string, s planner.Speeds) float64 {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		return planner.ModelOf(e.Graph, e.Job.BatchSize).Compute(s)
	}
	all := planner.Speeds{Product: 100, Conv: 80, Vector: 0.2}
	slow := all
	slow.Vector /= 4
	sorter, resnet := speed("gpt-sorter", slow)/speed("gpt-sorter", all), speed("resnet18", slow)/speed("resnet18", all)
	if sorter > 0.5 || resnet < 0.7 {
		t.Errorf("with loops at a quarter of the speed: %.2f of gpt-sorter's, %.2f of resnet18's", sorter, resnet)
	}
	if a, b := speed("resnet18", planner.Speeds{Product: 100}), speed("resnet18", planner.Speeds{Product: 200}); a <= 0 || math.Abs(b/a-2) > 1e-9 {
		t.Errorf("products alone: %v, twice as fast %v", a, b)
	}
	if v := speed("resnet18", planner.Speeds{Conv: 80}); v <= 0 {
		t.Errorf("convolutions alone: %v", v)
	}
	if v := speed("resnet18", planner.Speeds{Vector: 1}); v != 0 {
		t.Errorf("neither: %v", v)
	}
	team := planner.Speeds{Product: 400, Conv: 320, Vector: 0.8, Alone: 100}
	if a, b := speed("cnn", team), speed("cnn", all); math.Abs(a/b-1) > 1e-9 {
		t.Errorf("cnn, whose batches one thread computes: %v with four threads, %v with one", a, b)
	}
	if a, b := speed("resnet18", team), speed("resnet18", all); math.Abs(a/b-4) > 1e-9 {
		t.Errorf("resnet18: %v with four threads, %v with one", a, b)
	}
	for _, tiny := range []float64{1e-300, math.SmallestNonzeroFloat64} {
		if v := speed("gpt-sorter", planner.Speeds{Product: tiny, Conv: tiny, Vector: tiny, Alone: tiny}); !(v >= 0 && v < 1e9) {
			t.Errorf("speeds of %v: %v", tiny, v)
		}
	}
}

// TestRingsGoAround: clusters whose providers are near one another follow one another, and the
// first of the pool's clusters stays the first.
func TestRingsGoAround(t *testing.T) {
	e, err := zoo.Find("cnn")
	if err != nil {
		t.Fatal(err)
	}
	j := e.Job
	j.Replicas = 4
	pool := measured(1, 1, 1, 1)
	site := []int{0, 1, 0, 1} // two continents
	f := planner.Facts{RTT: func(a, b int) float64 {
		if site[a] == site[b] {
			return 2e-3
		}
		return 150e-3
	}}
	p, err := f.Make(j, e.Graph, pool, ga.Options{MinClusters: 4, MaxClusters: 4}, 1)
	if err != nil {
		t.Fatal(err)
	}
	var sites, replicas []int
	for _, c := range p.Clusters {
		sites = append(sites, site[c.Stages[0].Node])
		replicas = append(replicas, c.Replicas...)
	}
	if !slices.Equal(sites, []int{0, 0, 1, 1}) && !slices.Equal(sites, []int{0, 1, 1, 0}) {
		t.Errorf("the ring goes over the continents %v", sites)
	}
	if !slices.Equal(replicas, []int{0, 1, 2, 3}) || p.Check(e.Graph) != nil {
		t.Errorf("replicas %v, %v", replicas, p.Check(e.Graph))
	}
}

// TestOneSplitsToo: one provider splits batches whose tensors are large, which is faster and takes less
// memory, as far as that changes no bit and the job leaves it open; nobody splits so far that threads
// have too little to do.
func TestOneSplitsToo(t *testing.T) {
	one := func(example string, f planner.Facts, edit func(*job.Spec)) planner.Cluster {
		return planned(t, example, 1, f, edit).Clusters[0]
	}
	split := one("char-gpt", planner.Facts{}, nil)
	whole := one("char-gpt", planner.Facts{}, func(j *job.Spec) { j.MicroBatches = 1 })
	if split.MicroBatches < 2 || split.Rate <= whole.Rate || split.Stages[0].Memory >= whole.Stages[0].Memory {
		t.Errorf("%d micro-batches: %v samples/s with %d bytes, one: %v with %d", split.MicroBatches, split.Rate, split.Stages[0].Memory, whole.Rate, whole.Stages[0].Memory)
	}
	if n := one("resnet18", planner.Facts{}, nil).MicroBatches; n != 1 {
		t.Errorf("resnet18, whose statistics are those of a micro-batch: %d", n)
	}
	two := func(gain float64) int {
		return planned(t, "gpt-sorter", 2, planner.Facts{Gain: []float64{gain, gain}}, func(j *job.Spec) { j.Replicas = 1 }).Clusters[0].MicroBatches
	}
	if a, b := two(1), two(4); b >= a {
		t.Errorf("%d micro-batches with one thread, %d with threads for which those are too small", a, b)
	}
}

// TestOneThreadIsSaid: where steps are too small for the threads that are lent, the plan says so.
func TestOneThreadIsSaid(t *testing.T) {
	for _, c := range []struct {
		example string
		threads []int
		want    []bool
	}{
		{"cnn", []int{4, 4}, []bool{true, true}}, {"cnn", []int{1, 4}, []bool{false, true}}, {"cnn", nil, []bool{false, false}}, {"resnet18", []int{4, 4}, []bool{false, false}},
	} {
		p := planned(t, c.example, 2, planner.Facts{Threads: c.threads}, nil)
		said := strings.Contains(p.String(), "too small for more than one thread")
		if st := p.Clusters[0].Stages; st[0].Small != c.want[0] || st[1].Small != c.want[1] || said != c.want[1] {
			t.Errorf("%s with %v threads lent: %+v, said: %v", c.example, c.threads, st, said)
		}
	}
}

// TestThreadsOfOneMachine: stages that compute at once have their machine's cores between them, those that
// take turns have all of them, the one with the most to do has the most, and nobody has more than it lends.
func TestThreadsOfOneMachine(t *testing.T) {
	facts := func(cores float64, threads ...int) planner.Facts {
		f := planner.Facts{Threads: threads}
		for _, n := range threads {
			f.Machine, f.Cores, f.Gain = append(f.Machine, 0), append(f.Cores, cores), append(f.Gain, 0.9*float64(n))
		}
		return f
	}
	get := func(p *planner.Plan) (n []int) {
		for _, c := range p.Clusters {
			for _, s := range c.Stages {
				n = append(n, s.Threads)
			}
		}
		return n
	}
	apart := facts(2, 2, 2)
	apart.Machine = []int{0, 1}
	whole := func(j *job.Spec) { j.MicroBatches, j.Replicas = 1, 1 }
	for _, c := range []struct {
		what, example string
		f             planner.Facts
		edit          func(*job.Spec)
		want          []int
	}{
		{"two cores for two", "char-gpt", facts(2, 2, 2), nil, []int{1, 1}},
		{"a core each of four", "char-gpt", facts(4, 4, 4), nil, []int{2, 2}},
		{"cores for all threads", "char-gpt", facts(4, 2, 2), nil, []int{0, 0}},
		{"machines of their own", "char-gpt", apart, nil, []int{0, 0}},
		{"one of them lends one", "char-gpt", facts(4, 1, 4), nil, []int{0, 3}},
		{"more stages than cores", "char-gpt", facts(2, 2, 2, 2), nil, []int{1, 1, 1}},
		{"batches that are whole", "resnet18", facts(2, 2, 2), whole, []int{0, 0}},
		{"two replicas at once", "resnet18", facts(2, 2, 2), nil, []int{1, 1}},
	} {
		p := planned(t, c.example, len(c.f.Threads), c.f, c.edit)
		if got := get(p); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v threads, want %v", c.what, got, c.want)
		}
		if said := strings.Contains(p.String(), "share its cores"); said != (slices.Max(c.want) > 0) {
			t.Errorf("%s: said: %v\n%s", c.what, said, p)
		}
	}
	// Two clusters, of which one has a provider to itself, and unequal stages.
	two := facts(4, 4, 4)
	e, err := zoo.Find("char-gpt")
	if err != nil {
		t.Fatal(err)
	}
	j := e.Job
	j.Replicas = 2
	p, err := two.Make(j, e.Graph, measured(1, 1), ga.Options{MinClusters: 2, MaxClusters: 2}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(p); !slices.Equal(got, []int{2, 2}) {
		t.Errorf("a cluster each: %v threads, want 2 and 2", got)
	}
	if p, err = facts(6, 6, 6).Make(e.Job, e.Graph, []ga.Node{
		{Name: "fast", RAM: 8e9, Bandwidth: 1e9, Compute: 90e9}, {Name: "slow", RAM: 8e9, Bandwidth: 1e9, Compute: 30e9},
	}, ga.Options{MaxClusters: 1}, 1); err != nil {
		t.Fatal(err)
	}
	if got := get(p); got[0]+got[1] > 6 || slices.Min(got) < 1 {
		t.Errorf("six cores: %v threads", got)
	}
}
