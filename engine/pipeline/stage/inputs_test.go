package stage_test

import (
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// branched is a model of three inputs, two of which later layers read, and two outputs, one of
// which an early layer gives.
func branched(t *testing.T) *graph.Graph {
	t.Helper()
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	lin := func(in, out int) graph.Op { return &graph.Linear{In: in, Out: out, Bias: true} }
	g := &graph.Graph{
		Name: "branched", Output: "out",
		Inputs: []graph.Input{{Name: "ids", Shape: graph.Shape{4}, Constant: true}, {Name: "shift", Shape: graph.Shape{4}}, {Name: "more", Shape: graph.Shape{3}, Constant: true}},
		Nodes: []graph.Node{
			n("words", &graph.Embedding{Num: 1001, Dim: 4}, "ids"), n("row", &graph.Flatten{}, "words"), n("a", lin(16, 8), "row"), n("act", &graph.Tanh{}, "a"),
			n("aux", lin(8, 3), "act"), n("b", lin(8, 4), "act"), n("moved", &graph.Add{}, "b", "shift"), n("c", lin(4, 4), "moved"),
			n("joined", &graph.Concat{}, "c", "more"), n("out", lin(7, 2), "joined"),
		},
	}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	g, err := g.Gather([]string{"out", "aux"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestSeveralInputs: a model of several inputs and outputs, whose losses look at two of them,
// trains in stages to the bits of one process. Later stages get the inputs as they are, whatever
// the wire does to activations.
func TestSeveralInputs(t *testing.T) {
	weight := 0.3
	for _, change := range []func(*job.Spec){
		func(j *job.Spec) { j.MicroBatches = 4 },
		func(j *job.Spec) { j.MicroBatches, j.Schedule, j.UpdateFrequency = 2, job.ZB, 3 },
		func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.Average.Of = 2, 1, "gradients" },
	} {
		w := newWorld(func(j *job.Spec) {
			j.Loss = job.MSE
			j.Losses = []job.LossPart{{Output: "out", Target: "box"}, {Output: "aux", Target: "label", Loss: job.CrossEntropy, Weight: &weight}}
			change(j)
		})
		w.g = branched(t)
		if err := w.job.Check(); err != nil {
			t.Fatal(err)
		}
		rows := func(n int, node uint32) (x, y table) {
			x, y = table{make([]float32, n*11), 11}, table{make([]float32, n*3), 3}
			kernel.Normal(x.v, kernel.NewStream(1, kernel.DomainTest, 2, node))
			kernel.Normal(y.v, kernel.NewStream(1, kernel.DomainTest, 3, node))
			for r := range n {
				for k := range 4 {
					x.v[r*11+k] = float32((r*r + 257*k) % 1001)
				}
				y.v[r*3+2] = float32(r % 3)
			}
			return x, y
		}
		trainX, trainY := rows(70, 1)
		valX, valY := rows(21, 2)
		w.tx, w.ty, w.vx, w.vy = trainX, trainY, valX, valY
		want, dict := w.local(t)
		var units []int
		for _, u := range w.g.Units() {
			units = append(units, u.From)
		}
		if len(units) < 5 {
			t.Fatalf("only %d units", len(units))
		}
		for _, starts := range [][]int{w.starts(2), w.starts(3), units} {
			got, d, err := w.pipeline(t, starts, mem.Faults{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, fmt.Sprint(starts), got, want, d, dict)
		}
		if first, last := want.losses[0].Value, want.losses[len(want.losses)-1].Value; !(last < first) {
			t.Errorf("the loss goes from %v to %v", first, last)
		}
	}
}
