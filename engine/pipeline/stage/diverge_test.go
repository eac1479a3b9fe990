package stage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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

// masked adds a mask to what it learns, as attention does, a node before the cut.
func masked(t *testing.T, hidden float32) *graph.Graph {
	t.Helper()
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	m := make([]float32, 20)
	m[3], m[7] = hidden, hidden
	g := &graph.Graph{Name: "masked", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}, Output: "b", Nodes: []graph.Node{
		n("f", &graph.Flatten{}, "x"),
		n("mask", &graph.Parameter{Operand: graph.Operand{Shape: []int{20}, Data: graph.PackFloats(m)}}),
		n("a", &graph.Linear{In: 64, Out: 20, Bias: true}, "f"),
		n("sum", &graph.Binary{Function: "add"}, "a", "mask"), n("s", &graph.Softmax{}, "sum"), n("b", &graph.Linear{In: 20, Out: 10, Bias: true}, "s"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestInfiniteMask: a mask, through which no gradient goes, may be infinite when it crosses a cut, on
// every wire. One that is NaN may not.
func TestInfiniteMask(t *testing.T) {
	for _, c := range []struct {
		wire   string
		hidden float64
		ok     bool
	}{
		{"fp32", math.Inf(-1), true},
		{"fp16", math.Inf(-1), true},
		{"bf16", math.Inf(-1), true},
		{"int8", math.Inf(-1), true},
		{"fp16", -1e9, false},
		{"fp32", math.NaN(), false},
	} {
		w := newWorld(func(j *job.Spec) { j.Wire = c.wire })
		w.g = masked(t, float32(c.hidden))
		got, _, err := w.pipeline(t, []int{0, 3}, mem.Faults{}, nil)
		if !c.ok {
			if want := `the activation of "mask", computed by stage 0`; !errors.Is(err, stage.ErrDiverged) || !strings.Contains(err.Error(), want) {
				t.Errorf("a mask of %v on wire %s ends with %v, want %q", c.hidden, c.wire, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("a mask of %v on wire %s: %v", c.hidden, c.wire, err)
			continue
		}
		if c.wire != "fp32" {
			continue
		}
		l := &log{}
		if err := w.trainer(t).Run(t.Context(), nil, l); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.losses, l.losses) || len(l.losses) == 0 {
			t.Error("the losses are not those of one process")
		}
	}
}

// reader is a link that shows what of an edge is sent.
type reader struct {
	stage.Link
	edge uint16
	sent func(x []float32)
}

func (r *reader) Send(ctx context.Context, h wire.Header, b []byte) error {
	if h.Kind == wire.Activation && h.Edge == r.edge {
		x := make([]float32, h.Elems)
		if err := codec.NewDecoder().Decode(x, b); err != nil {
			return err
		}
		r.sent(x)
	}
	return r.Link.Send(ctx, h, b)
}

// TestExactPositions: positions that are computed in one stage and read in another stay what they are
// on a wire that rounds.
func TestExactPositions(t *testing.T) {
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	g := &graph.Graph{Name: "ordered", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}, Output: "b", Nodes: []graph.Node{
		n("f", &graph.Flatten{}, "x"), n("at", &graph.Sort{Count: 20}, "f"), n("a", &graph.Linear{In: 64, Out: 64, Bias: true}, "f"),
		n("first", &graph.Gather{}, "a", "at"), n("b", &graph.Linear{In: 20, Out: 10, Bias: true}, "first"),
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(func(j *job.Spec) { j.Wire, j.Steps = "int8", 4 })
	w.g = g
	seen := 0
	w.wrap = func(_, _ int, l stage.Link) stage.Link {
		return &reader{l, 2, func(x []float32) { // "at": behind the input and "f"
			seen++
			for _, v := range x {
				if v != float32(int(v)) || v < 0 || v > 63 {
					t.Errorf("the position %v is sent", v)
					return
				}
			}
		}}
	}
	if _, _, err := w.pipeline(t, []int{0, 3}, mem.Faults{}, nil); err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("no positions were sent")
	}
	ss, err := g.Cut([]int{0, 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ss[1].In {
		if want := e.Value == 2; e.Exact != want {
			t.Errorf("value %d: exact: %v", e.Value, e.Exact)
		}
	}
}
