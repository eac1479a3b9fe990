package stage_test

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// TestCheckCompared: batches whose samples are compared with each other are not split, neither into
// micro-batches nor over replicas, and have to be small enough for all of their pairs.
func TestCheckCompared(t *testing.T) {
	g := &graph.Graph{Name: "pairs", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4}}}, Output: "out", Nodes: []graph.Node{
		{Name: "fc", Op: &graph.Linear{In: 4, Out: 3}, Inputs: []string{"x"}},
		{Name: "all", Op: &graph.Batch{}, Inputs: []string{"fc"}},
		{Name: "sim", Op: &graph.MatMul{TransB: true}, Inputs: []string{"all", "all"}},
		{Name: "sum", Op: &graph.Reduce{Function: "sum", Axes: 1, Keep: true}, Inputs: []string{"sim"}},
		{Name: "out", Op: &graph.Rows{Shape: []int{1}}, Inputs: []string{"sum"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want   string
		change func(j *job.Spec)
	}{
		{"", func(*job.Spec) {}},
		{"", func(j *job.Spec) { j.Replicas = 2 }},
		{"set micro_batches to 1", func(j *job.Spec) { j.MicroBatches = 2 }},
		{"average parameters", func(j *job.Spec) { j.Replicas, j.Average.Of = 2, job.Gradients }},
		{"elements", func(j *job.Spec) { j.BatchSize = 1 << 15 }},
	} {
		j := job.Default()
		j.BatchSize = 16
		c.change(&j)
		err := stage.CheckBatches(j, g, 1<<16)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "sim") && !strings.Contains(err.Error(), `"all"`)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
