package planner_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// TestFewer: providers with whom training would be slower are spares, and those with whom it is
// faster are not. The plan is one of the whole pool, whoever is left out.
func TestFewer(t *testing.T) {
	far := func(int, int) float64 { return 0.2 }
	for _, c := range []struct {
		name, example string
		gflops        []float64
		facts         planner.Facts
		change        func(*job.Spec)
		want          [][]int // nodes by cluster
	}{
		{"small batches are sent around longer than computed", "cnn", []float64{100, 100}, planner.Facts{}, nil, [][]int{{0}}},
		{"the fastest trains", "cnn", []float64{50, 100, 50}, planner.Facts{}, nil, [][]int{{1}}},
		{"its result depends on nobody", "cnn", []float64{100, 100}, planner.Facts{}, func(j *job.Spec) { j.Schedule = job.Async }, [][]int{{0}}},
		{"large batches are worth two", "char-gpt", []float64{100, 100}, planner.Facts{}, nil, [][]int{{0, 1}}},
		{"and a slow third is not", "char-gpt", []float64{100, 2, 100}, planner.Facts{}, nil, [][]int{{0, 2}}},
		{"far away", "gpt-sorter", []float64{100, 100}, planner.Facts{RTT: far}, nil, [][]int{{0}}},
		{"a cluster each", "gpt-sorter", []float64{100, 100}, planner.Facts{}, nil, [][]int{{0}, {1}}},
		{"one processor for all", "gpt-sorter", []float64{100, 100}, planner.Facts{Machine: []int{0, 0}, Cores: []float64{1, 1}}, nil, [][]int{{0}}},
		{"one replica is one provider's", "gpt-sorter", []float64{100, 100}, planner.Facts{}, func(j *job.Spec) { j.Replicas = 1 }, [][]int{{0}}},
		{"two are two's", "resnet18", []float64{100, 100}, planner.Facts{}, nil, [][]int{{0}, {1}}},
		{"nothing is measured", "cnn", []float64{0, 0}, planner.Facts{}, nil, [][]int{{0, 1}}},
	} {
		e, err := zoo.Find(c.example)
		if err != nil {
			t.Fatal(err)
		}
		j, nodes := e.Job, measured(c.gflops...)
		if c.change != nil {
			c.change(&j)
		}
		p, err := c.facts.Make(j, e.Graph, nodes, ga.Options{Spares: true, MaxClusters: j.Replica()}, 1)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got [][]int
		left := map[int]bool{}
		for i := range nodes {
			left[i] = true
		}
		for k, cl := range p.Clusters {
			var on []int
			stages, err := e.Graph.Cut(cl.Starts())
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range cl.Stages {
				on = append(on, s.Node)
				delete(left, s.Node)
				if s.Name != nodes[s.Node].Name || p.GA.Clusters[k].Stages[i].Node != s.Node {
					t.Errorf("%s: stage %d of cluster %d is on node %d, %q", c.name, i, k, s.Node, s.Name)
				}
				q := j
				q.MicroBatches, q.InFlight = cl.MicroBatches, cl.InFlight
				if n, err := stage.Bytes(q, stages[i], p.Placement(k)); err != nil || n != s.Memory {
					t.Errorf("%s: %d bytes announced, %d promised (%v)", c.name, s.Memory, n, err)
				}
			}
			slices.Sort(on)
			got = append(got, on)
		}
		if !slices.EqualFunc(got, c.want, slices.Equal[[]int]) || len(p.GA.Spares) != len(left) || p.Check(e.Graph) != nil {
			t.Errorf("%s: clusters on %v, spares %v, want %v\n%s", c.name, got, p.GA.Spares, c.want, p)
		}
		for _, i := range p.GA.Spares {
			if !left[i] || !strings.Contains(p.Note, nodes[i].Name) {
				t.Errorf("%s: node %d is a spare, and the note says %q", c.name, i, p.Note)
			}
		}
		if n := strings.Count(p.String(), "to spare"); n != min(1, len(p.GA.Spares)) {
			t.Errorf("%s: %d lines name %d spares:\n%s", c.name, n, len(p.GA.Spares), p)
		}
		all, err := c.facts.Make(j, e.Graph, nodes, ga.Options{MaxClusters: j.Replica()}, 1)
		if err != nil || all.Rate > p.Rate {
			t.Errorf("%s: %v samples/s are forecast, with all nodes %v (%v)", c.name, p.Rate, all.Rate, err)
		}
	}
}

// TestFewerWhoLendEnough: the fastest provider that has the memory trains, where it is better
// alone.
func TestFewerWhoLendEnough(t *testing.T) {
	e, err := zoo.Find("gpt-sorter")
	if err != nil {
		t.Fatal(err)
	}
	nodes := measured(100, 80, 60)
	for i := range nodes {
		nodes[i].Bandwidth = 1e6
	}
	nodes[0].RAM = 2e6
	p, err := planner.Make(e.Job, e.Graph, nodes, ga.Options{Spares: true, MaxClusters: 1}, 1)
	if err != nil || len(p.Clusters) != 1 || len(p.Clusters[0].Stages) != 1 || p.Clusters[0].Stages[0].Node != 1 {
		t.Errorf("%v\n%s", err, p)
	}
}

// TestSecondProvider: the examples come with settings by which two equal providers train at least 1.6
// times as fast as one, and more than two no slower.
func TestSecondProvider(t *testing.T) {
	for _, name := range []string{"gpt-sorter", "char-gpt", "resnet18", "resnet50", "resnet50-tiny"} {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		rate := func(n int) float64 {
			p, err := planner.Make(e.Job, e.Graph, measured([]float64{100, 100, 100, 100}[:n]...), ga.Options{Spares: true, MaxClusters: e.Job.Replica()}, 1)
			if err != nil {
				t.Fatal(err)
			}
			return p.Rate
		}
		one, last := rate(1), 0.0
		for n := 2; n <= 4; n++ {
			r := rate(n)
			if r < 1.6*one || r < last {
				t.Errorf("%s: %d providers %.1f samples/s, one fewer %.1f, one %.1f", name, n, r, last, one)
			}
			last = r
		}
	}
}
