package planner_test

import (
	"errors"
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

// TestRingsOfUnequalClusters: a shorter cluster's stages take part in every ring that
// holds some of their parameters.
func TestRingsOfUnequalClusters(t *testing.T) {
	g := zoo.CNN()
	p, err := planner.Make(job.Default(), g, pool(10, 8e9, 0), ga.Options{}, 42)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Clusters) < 2 {
		t.Fatalf("%d clusters of 10 nodes over 7 units", len(p.Clusters))
	}
	for c, cl := range p.Clusters {
		seen := map[int]bool{}
		for _, s := range cl.Stages {
			for _, r := range s.Rings {
				seen[r.ID] = true
			}
		}
		for r := range seen {
			if r < 0 || r >= 7 {
				t.Errorf("cluster %d: ring %d", c, r)
			}
		}
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
		if n, err := stage.Bytes(j, s); err != nil || n != p.Clusters[0].Stages[k].Memory || n == 0 {
			t.Errorf("stage %d: %d bytes announced, %d planned (%v)", k, p.Clusters[0].Stages[k].Memory, n, err)
		}
	}
}

// TestRecomputeFits: a model that fits only if it computes again is placed if the job says
// so, on one provider and on several, and refused otherwise.
func TestRecomputeFits(t *testing.T) {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 6, Heads: 4, Width: 32, Tokens: 64, Vocab: 16, Dropout: 0.1})
	most := func(again string, starts []int) float64 {
		j := job.Default()
		j.Loss, j.Schedule, j.BatchSize, j.Recompute = "cross_entropy", job.Sync, 32, again
		stages, err := g.Cut(starts)
		if err != nil {
			t.Fatal(err)
		}
		need := 0
		for _, s := range stages {
			n, err := stage.Bytes(j, s)
			if err != nil {
				t.Fatal(err)
			}
			need = max(need, n)
		}
		return float64(need)
	}
	us := g.Units()
	for n := 1; n <= 3; n++ {
		var starts []int
		for k := range n {
			starts = append(starts, us[k*len(us)/n].From)
		}
		full, kept := most("full", starts), most("", starts)
		if full > 0.8*kept {
			t.Errorf("%d stages: %.0f bytes computed again, %.0f kept", n, full, kept)
		}
		for _, again := range []string{"", "full"} {
			j := job.Default()
			j.Loss, j.Schedule, j.BatchSize, j.Recompute = "cross_entropy", job.Sync, 32, again
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
