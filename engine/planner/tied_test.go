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

// TestTiedForecast: gradients of tied parameters take their way there and back with each update, and
// where replicas take turns, others are trained meanwhile.
func TestTiedForecast(t *testing.T) {
	free := repeated(t, 12)
	for i := range free.Nodes {
		free.Nodes[i].Names = nil
	}
	if err := free.Check(); err != nil {
		t.Fatal(err)
	}
	const rate, elems = 1e8, 256 * 256
	seconds := func(g *graph.Graph, replicas int) float64 {
		j := job.Default()
		j.BatchSize, j.Replicas = 64, job.Count(replicas)
		nodes := measured(0.1, 0.1)
		for i := range nodes {
			nodes[i].Bandwidth = rate
		}
		p, err := planner.Make(j, g, nodes, ga.Options{MaxClusters: 1, MinSize: 2}, 1)
		if err != nil || len(p.Clusters) != 1 || len(p.Clusters[0].Stages) != 2 {
			t.Fatalf("%v, %v", p, err)
		}
		return float64(j.BatchSize) / p.Rate
	}
	way := elems * 3.4 * 8 / rate // of fp32
	if got := seconds(repeated(t, 12), 1) - seconds(free, 1); got < way || got > 3*way {
		t.Errorf("an update takes %.3g s more with tied parameters, of which one way takes %.3g", got, way)
	}
	if got := seconds(repeated(t, 12), 4) - seconds(free, 4); got < 0 || got > way/2 {
		t.Errorf("with replicas a batch takes %.3g s more with tied parameters, of which one way takes %.3g", got, way)
	}
}
