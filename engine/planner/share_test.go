package planner_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// measured is a pool whose nodes compute so many GFLOP/s.
func measured(gflops ...float64) []ga.Node {
	nodes := pool(len(gflops), 8e9, 1)
	for i := range nodes {
		nodes[i].Compute, nodes[i].Bandwidth = 1e9*gflops[i], 1e9
	}
	return nodes
}

// TestShares: replicas are shared out so that clusters are done at the same time, every replica
// is in one cluster, and what would only be waited for is a spare.
func TestShares(t *testing.T) {
	e, err := zoo.Find("cnn")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		gflops   []float64
		replicas int
		clusters int // that are asked for; 0: as many as pay
		want     []int
		spares   int
		average  string
	}{
		{"equal", []float64{1, 1, 1, 1, 1, 1}, 6, 2, []int{3, 3}, 0, ""},
		{"two fill two thirds of three stages", []float64{1, 1, 1, 1, 1, 1}, 4, 2, []int{2, 2}, 0, ""},
		{"equal, three", []float64{1, 1, 1, 1, 1, 1}, 6, 3, []int{2, 2, 2}, 0, ""},
		{"one is faster", []float64{4, 1}, 5, 2, []int{4, 1}, 0, ""},
		{"one is much faster", []float64{16, 1}, 2, 0, []int{2}, 1, ""},
		{"asked for all the same", []float64{16, 1}, 2, 2, []int{1, 1}, 0, ""},
		{"gradients", []float64{1, 1}, 4, 2, []int{2, 2}, 0, job.Gradients},
	} {
		j := e.Job
		j.Replicas, j.Average.Of = job.Count(c.replicas), c.average
		opt := ga.Options{MinClusters: c.clusters, MaxClusters: c.clusters, Spares: c.clusters == 0}
		p, err := planner.Make(j, e.Graph, measured(c.gflops...), opt, 1)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []int
		for _, cl := range p.Clusters {
			n := len(cl.Replicas)
			if len(p.Clusters) == 1 {
				n = c.replicas
			}
			got = append(got, n)
			if cl.MicroBatches != p.Clusters[0].MicroBatches {
				t.Errorf("%s: clusters have %d and %d micro-batches", c.name, cl.MicroBatches, p.Clusters[0].MicroBatches)
			}
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) || len(p.GA.Spares) != c.spares {
			t.Errorf("%s: shares %v and %d spares, want %v and %d\n%s", c.name, got, len(p.GA.Spares), c.want, c.spares, p)
		}
		if p.Rate <= 0 {
			t.Errorf("%s: no forecast", c.name)
		}
		if err := p.Check(e.Graph); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for k, cl := range p.Clusters {
			pl := p.Placement(k)
			if err := pl.Check(j, len(e.Graph.Nodes)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			q := j
			q.MicroBatches = cl.MicroBatches
			if cl.InFlight > 0 {
				q.InFlight = cl.InFlight
			}
			stages, err := e.Graph.Cut(cl.Starts())
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range stages {
				if n, err := stage.Bytes(q, s, pl); err != nil || n != cl.Stages[i].Memory {
					t.Errorf("%s: stage %d of cluster %d: %d bytes announced, %d promised (%v)", c.name, i, k, cl.Stages[i].Memory, n, err)
				}
			}
		}
	}
}

// TestMoreClustersThanReplicas is said with what to set.
func TestMoreClustersThanReplicas(t *testing.T) {
	e, err := zoo.Find("cnn")
	if err != nil {
		t.Fatal(err)
	}
	j := e.Job
	j.Replicas = 2
	_, err = planner.Make(j, e.Graph, measured(1, 1, 1, 1), ga.Options{MinClusters: 3, MaxClusters: 3}, 1)
	if !errors.Is(err, ga.ErrInvalid) || !strings.Contains(err.Error(), "set replicas to 3") {
		t.Error(err)
	}
	p, err := planner.Make(j, e.Graph, measured(1, 1, 1, 1), ga.Options{MaxClusters: 3}, 1)
	if err != nil || len(p.Clusters) != 2 || !strings.Contains(p.String(), "set replicas to 3") {
		t.Errorf("%v\n%s", err, p)
	}
}

// TestRoomForMore: clusters have room for half as many replicas again where memory is left for them,
// and none where replicas may not move.
func TestRoomForMore(t *testing.T) {
	e, err := zoo.Find("gpt-sorter")
	if err != nil {
		t.Fatal(err)
	}
	form := func(ram float64, change func(*job.Spec)) *planner.Plan {
		t.Helper()
		j := e.Job
		j.Replicas = 6
		change(&j)
		nodes := measured(1, 1, 1, 1)
		for i := range nodes {
			nodes[i].RAM = ram
		}
		p, err := planner.Make(j, e.Graph, nodes, ga.Options{MinClusters: 2, MaxClusters: 2}, 1)
		if err != nil {
			t.Fatal(err)
		}
		for c, cl := range p.Clusters {
			j.MicroBatches, j.InFlight = cl.MicroBatches, cl.InFlight
			stages, err := e.Graph.Cut(cl.Starts())
			if err != nil {
				t.Fatal(err)
			}
			for k, s := range cl.Stages {
				if n, err := stage.Bytes(j, stages[k], p.Placement(c)); err != nil || n != s.Memory || float64(n) > ram {
					t.Errorf("stage %d of cluster %d: the plan says %d bytes of %.0f, it takes %d: %v", k, c, s.Memory, ram, n, err)
				}
			}
		}
		return p
	}
	asIs := func(*job.Spec) {}
	var most int
	for _, cl := range form(8e9, asIs).Clusters {
		if cl.Room != 4 {
			t.Errorf("room for %d replicas, want 4", cl.Room)
		}
		for _, s := range cl.Stages {
			most = max(most, s.Memory)
		}
	}
	for c, cl := range form(float64(most), asIs).Clusters { // nothing is left for a state
		if cl.Room > 3 {
			t.Errorf("cluster %d has room for %d replicas in %d bytes", c, cl.Room, most)
		}
	}
	for _, change := range []func(*job.Spec){
		func(j *job.Spec) { j.Audit = true }, func(j *job.Spec) { j.Average.Optimizer = job.KeepState },
	} {
		for _, cl := range form(8e9, change).Clusters {
			if cl.Room != 0 {
				t.Errorf("room for %d replicas that may not move", cl.Room)
			}
		}
	}
}
