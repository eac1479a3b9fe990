package stage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
)

// scaled multiplies a table.
func scaled(r stage.Rows, by float32) table {
	t := r.(table)
	v := make([]float32, len(t.v))
	for i, x := range t.v {
		v[i] = x * by
	}
	return table{v, t.per}
}

// flat is two linear layers, whose numbers grow as their input does.
func flat(t *testing.T) *graph.Graph {
	t.Helper()
	n := func(name string, op graph.Op, in string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: []string{in}}
	}
	g := &graph.Graph{Name: "flat", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}, Output: "b", Nodes: []graph.Node{
		n("f", &graph.Flatten{}, "x"), n("a", &graph.Linear{In: 64, Out: 20, Bias: true}, "f"), n("b", &graph.Linear{In: 20, Out: 10, Bias: true}, "a"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestDiverging: numbers that leave their range end the run at once, in a pipeline and in
// one process alike. The error says which numbers, and nothing that is not finite is kept.
func TestDiverging(t *testing.T) {
	sgd := func(lr float64) func(*job.Spec) {
		return func(j *job.Spec) { j.Optimizer, j.SaveEvery = job.Optimizer{Name: "sgd", LR: lr}, 1 }
	}
	for _, c := range []struct {
		name   string
		change func(*job.Spec)
		world  func(*world)
		want   []string // of the pipeline's error
		local  string   // of one process's; "": it trains
		losses int      // reported before
	}{
		{"loss", sgd(1e30), nil, []string{"forward of step"}, "the loss is", 1},
		{"weights at a save", func(j *job.Spec) { sgd(1e38)(j); j.Steps, j.ValEvery = 1, 0 }, func(w *world) {
			w.ty, w.tx = scaled(w.ty, 1e15), scaled(w.tx, 1e3)
		}, []string{"keep of step 1", `.weight"`}, `.weight"`, 1},
		{"the optimizer's state", func(j *job.Spec) { j.Steps, j.ValEvery = 1, 0 }, func(w *world) {
			w.tx, w.ty = scaled(w.tx, 1e5), scaled(w.ty, 1e18)
		}, []string{"keep of step 1", "the optimizer's exp_avg_sq of"}, "the optimizer's exp_avg_sq of", 1},
		{"validation", nil, func(w *world) { w.vy = scaled(w.vy, 1e30) }, []string{"report of step 5", "the validation loss is"}, "the validation loss is", 5},
		{"fp16 wire", func(j *job.Spec) { j.Wire, j.Optimizer = "fp16", job.Optimizer{Name: "sgd", LR: 1e-30} }, func(w *world) {
			w.tx, w.ty = scaled(w.tx, 1e6), scaled(w.ty, 1e6)
		}, []string{"forward of step 0", `the activation of "a", computed by stage 0`, "wire fp16 ends at"}, "", 0},
		{"fp16 wire, gradient", func(j *job.Spec) { j.Wire, j.Optimizer = "fp16", job.Optimizer{Name: "sgd", LR: 1e-30} }, func(w *world) {
			w.ty = scaled(w.ty, 1e9)
		}, []string{"backward of step 0", `the gradient of "a", computed by stage 1`, "wire fp16 ends at"}, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(c.change)
			w.g = flat(t)
			if c.world != nil {
				c.world(w)
			}
			got, _, err := w.pipeline(t, []int{0, 2}, mem.Faults{}, nil)
			if !errors.Is(err, stage.ErrDiverged) {
				t.Fatalf("the pipeline ends with %v", err)
			}
			for _, s := range c.want {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the error %q does not say %q", err, s)
				}
			}
			if len(got.losses) < c.losses || len(got.saved) != 0 && c.losses < 5 {
				t.Errorf("%d losses, %d states", len(got.losses), len(got.saved))
			}
			for _, l := range got.losses {
				if l.Value-l.Value != 0 {
					t.Errorf("a loss of %v is reported", l.Value)
				}
			}
			l := &log{}
			err = w.trainer(t).Run(t.Context(), nil, l)
			if c.local == "" {
				if err != nil {
					t.Errorf("one process: %v", err)
				}
			} else if !errors.Is(err, stage.ErrDiverged) || !strings.Contains(err.Error(), c.local) {
				t.Errorf("one process ends with %v, want %q", err, c.local)
			}
		})
	}
}

// liar is a link whose tensors of one kind turn into something else.
type liar struct {
	stage.Link
	kind  wire.Kind
	value float32
	after int
}

func (l *liar) Send(ctx context.Context, h wire.Header, b []byte) error {
	if h.Kind == l.kind {
		if l.after--; l.after < 0 {
			x := make([]float32, h.Elems)
			x[len(x)/2] = l.value
			var err error
			if b, err = codec.NewEncoder(codec.FP32).Encode(nil, x); err != nil {
				return err
			}
		}
	}
	return l.Link.Send(ctx, h, b)
}

// TestHostileNumbers: one number of a neighbour that is not finite ends the stage that
// receives it, and the error names who sent it.
func TestHostileNumbers(t *testing.T) {
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
		for kind, c := range map[wire.Kind]struct{ liar, victim int }{wire.Activation: {0, 1}, wire.Gradient: {2, 1}} {
			w := newWorld(nil)
			w.wrap = func(from, to int, l stage.Link) stage.Link {
				if from == c.liar && to == c.victim {
					return &liar{Link: l, kind: kind, value: v, after: 3}
				}
				return l
			}
			if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, nil); err == nil {
				t.Fatal("no error")
			}
			err := w.errs[c.victim]
			if want := fmt.Sprintf("sent by stage %d", c.liar); !errors.Is(err, stage.ErrDiverged) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), kind.String()) {
				t.Errorf("%v of %s: the victim ends with %v", v, kind, err)
			}
		}
	}
}
