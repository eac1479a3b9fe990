package stage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
)

// counted is a link that adds up the bytes of what it sends, by kind.
type counted struct {
	stage.Link
	sent *[2]atomic.Int64 // of activations, of gradients
}

func (c counted) Send(ctx context.Context, h wire.Header, payload []byte) error {
	switch h.Kind {
	case wire.Activation:
		c.sent[0].Add(int64(len(payload)))
	case wire.Gradient:
		c.sent[1].Add(int64(len(payload)))
	}
	return c.Link.Send(ctx, h, payload)
}

// chain is four linear layers with tanh between them, which leaves no zeros to compress.
func chain(t *testing.T, bias bool) *graph.Graph {
	t.Helper()
	n := func(name string, op graph.Op, in string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: []string{in}}
	}
	lin := func(in, out int) graph.Op { return &graph.Linear{In: in, Out: out, Bias: bias} }
	g := &graph.Graph{Name: "chain", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}, Output: "y", Nodes: []graph.Node{
		n("f", &graph.Flatten{}, "x"), n("a", lin(64, 96), "f"), n("ta", &graph.Tanh{}, "a"),
		n("b", lin(96, 96), "ta"), n("c", lin(96, 96), "b"), n("tc", &graph.Tanh{}, "c"),
		n("d", lin(96, 10), "tc"), n("y", &graph.Softmax{}, "d"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestOperandsOnTheWire: in bfloat16 stages send what only products read in half the bytes, and
// the result is that of one process. Elsewhere not a byte differs from a float32 job's.
func TestOperandsOnTheWire(t *testing.T) {
	for _, c := range []struct {
		cut  int // node that the second stage begins with
		bias bool
		half [2]bool // activations, gradients
	}{
		{3, false, [2]bool{true, false}}, // tanh | product: its gradient is read by tanh
		{4, false, [2]bool{true, true}},
		{4, true, [2]bool{true, false}},  // a bias adds up the gradient
		{5, false, [2]bool{false, true}}, // product | tanh
	} {
		t.Run(fmt.Sprintf("node %d, bias %v", c.cut, c.bias), func(t *testing.T) {
			var sent [2][2]atomic.Int64
			for k, precision := range []string{"fp32", "bf16"} {
				w := newWorld(func(j *job.Spec) { j.Precision, j.MicroBatches = precision, 2 })
				w.g = chain(t, c.bias)
				want, dict := w.local(t)
				w.wrap = func(a, b int, l stage.Link) stage.Link { return counted{l, &sent[k]} }
				got, d, err := w.pipeline(t, []int{0, c.cut}, mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, precision, got, want, d, dict)
			}
			for i, what := range []string{"activations", "gradients"} {
				bf16, fp32 := sent[1][i].Load(), sent[0][i].Load()
				r := float64(bf16) / float64(fp32)
				if c.half[i] && r > 0.51 || !c.half[i] && (r < 0.99 || r > 1.01) {
					t.Errorf("%s: bf16 sends %d bytes, fp32 %d", what, bf16, fp32)
				}
			}
		})
	}
}

// near is a link to a stage on this machine.
type near struct{ counted }

func (near) Near() bool { return true }

// TestNear: what is sent to a stage on this machine is not squeezed, and the result is the same.
func TestNear(t *testing.T) {
	w := newWorld(func(j *job.Spec) { j.MicroBatches = 2 })
	w.g = chain(t, true)
	want, dict := w.local(t)
	var sent [2][2]atomic.Int64
	for k, isNear := range []bool{false, true} {
		w.wrap = func(a, b int, l stage.Link) stage.Link {
			c := counted{l, &sent[k]}
			if isNear {
				return near{c}
			}
			return c
		}
		got, d, err := w.pipeline(t, []int{0, 3, 5}, mem.Faults{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprint("near: ", isNear), got, want, d, dict)
	}
	for i, what := range []string{"activations", "gradients"} {
		if here, there := sent[1][i].Load(), sent[0][i].Load(); here <= there {
			t.Errorf("%s: %d bytes on this machine, %d elsewhere", what, here, there)
		}
	}
}
