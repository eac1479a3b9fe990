package planner_test

import (
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/ga"
)

// repeated is one wide layer used so many times: almost all of its weights are tied.
func repeated(t *testing.T, times int) *graph.Graph {
	t.Helper()
	g := &graph.Graph{Name: "repeated", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{256}}}, Output: "head"}
	last := "x"
	for i := range times {
		name := fmt.Sprintf("layer%d", i)
		g.Nodes = append(g.Nodes, graph.Node{Name: name, Op: &graph.Linear{In: 256, Out: 256}, Inputs: []string{last}, Names: map[string]string{"weight": "shared.weight"}})
		last = name
	}
	g.Nodes = append(g.Nodes, graph.Node{Name: "head", Op: &graph.Linear{In: 256, Out: 10, Bias: true}, Inputs: []string{last}})
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestTied: a model whose layers are all one is planned for providers that cannot hold it alone,
// and async keeps it whole.
func TestTied(t *testing.T) {
	g := repeated(t, 12)
	j := job.Default()
	j.Schedule, j.BatchSize = job.Sync, 8
	var nodes []ga.Node
	for k := range 3 {
		nodes = append(nodes, ga.Node{Name: fmt.Sprintf("n%d", k), RAM: 64e6, Bandwidth: 1e7, Compute: 1e10})
	}
	p, err := planner.Make(j, g, nodes, ga.Options{MaxClusters: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Clusters) != 1 || len(p.Clusters[0].Stages) != 3 {
		t.Fatalf("got %+v", p.Clusters)
	}
	for _, s := range p.Clusters[0].Stages {
		if s.Memory <= 0 || float64(s.Memory) > 64e6 {
			t.Errorf("a stage takes %d bytes", s.Memory)
		}
	}
	j.Schedule = job.Async
	if p, err := planner.Make(j, g, nodes, ga.Options{MaxClusters: 1}, 1); err == nil && len(p.Clusters[0].Stages) > 2 {
		t.Errorf("async parts the holders: %+v", p.Clusters[0].Starts())
	}
}
