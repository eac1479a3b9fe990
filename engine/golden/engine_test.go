// The engine as a whole against PyTorch: ops as the executor runs them, a training step
// of the walkthrough's model, optimisers and schedules as a job names them. What each
// kernel does alone is compared beside the kernels.

package golden_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/zoo"
)

// one is a graph of one node from the description of a case, nil where the graph does
// not have the op.
func one(t *testing.T, f *golden.File, name string) (g *graph.Graph, train bool) {
	t.Helper()
	var d struct {
		Op    string          `json:"op"`
		Attrs json.RawMessage `json:"attrs"`
		Train *bool           `json:"train"`
	}
	f.Describe(name, &d)
	if !slices.Contains(graph.Kinds(), d.Op) {
		return nil, false
	}
	args := []string{"x"}
	switch d.Op {
	case "add":
		args = []string{"a", "b"}
	case "embedding":
		args = []string{"index"}
	}
	type input struct {
		Name     string `json:"name"`
		Shape    []int  `json:"shape"`
		Constant bool   `json:"constant"`
	}
	var in []input
	for _, a := range args {
		x := f.Tensor(name + "." + a)
		in = append(in, input{a, x.Shape[1:], x.I64 != nil})
	}
	node := map[string]any{"name": "n", "op": d.Op, "in": args}
	if d.Attrs != nil {
		node["attrs"] = d.Attrs
	}
	b, err := json.Marshal(map[string]any{"version": graph.Version, "name": name, "inputs": in, "nodes": []any{node}, "output": "n"})
	if err != nil {
		t.Fatal(err)
	}
	if g, err = graph.Parse(b); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return g, d.Train == nil || *d.Train
}

// The tolerance of one op: sums of up to 300 terms in another order (see the test of the
// kernels).
const summed = 1e-6

func TestOps(t *testing.T) {
	f := golden.MustOpen(t, "ops")
	ran := 0
	for _, name := range f.Cases() {
		g, train := one(t, f, name)
		if g == nil || name == "relu_special" { // NaN: beside the kernels
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) { op(t, f, name, g, train) })
	}
	if ran < 30 {
		t.Errorf("only %d cases ran", ran)
	}
}

func op(t *testing.T, f *golden.File, name string, g *graph.Graph, train bool) {
	rows := f.Tensor(name + ".y").Shape[0]
	out := []int{g.OutputValue()}
	cfg := exec.Config{Rows: rows, Outputs: out}
	if train {
		cfg = exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: out, Seeds: out, InputGrad: true}
	}
	p, err := exec.Compile(g, 0, cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := p.New(nil)
	st := p.Layout.NewState()
	var d state.Dict
	for _, w := range p.Layout.Entries {
		x := f.Tensor(name + "." + w.Name)
		x.Name = w.Full
		d = append(d, x)
	}
	if err := p.Layout.Import(st, d); err != nil {
		t.Fatal(err)
	}
	for i, in := range g.Inputs {
		x := f.Tensor(name + "." + in.Name)
		dst := e.Value(0, i, rows)
		copy(dst, x.F32)
		for k, v := range x.I64 { // tokens
			dst[k] = float32(v)
		}
	}
	tol := summed
	if strings.HasSuffix(name, "_offset") {
		tol = 1e-5 // the rounding of a mean a hundred times the deviation
	}
	e.Forward(0, exec.Batch{Rows: rows}, st.Params, &st)
	golden.Near(t, "y", e.Value(0, out[0], rows), f.F32(name+".y"), tol)
	for _, w := range p.Layout.Export(st) {
		role := strings.TrimPrefix(w.Name, "n.") + "_after"
		switch {
		case w.I64 != nil:
			if got, want := w.I64[0], f.I64(name + "." + role)[0]; got != want {
				t.Errorf("%s is %d, PyTorch's %d", role, got, want)
			}
		case f.Has(name + "." + role):
			golden.Near(t, role, w.F32, f.F32(name+"."+role), tol)
		}
	}
	if !train {
		return
	}
	grads := make([]float32, p.Layout.Grads)
	copy(e.Grad(0, out[0], rows), f.F32(name+".dy"))
	e.Backward(0, st.Params, grads, false)
	for i, in := range g.Inputs {
		if in.Constant {
			continue
		}
		golden.Near(t, "d"+in.Name, e.Grad(0, i, rows), f.F32(name+".d"+in.Name), tol)
	}
	for _, w := range p.Layout.Entries {
		if w.Role == graph.Trainable {
			golden.Near(t, "d"+w.Name, grads[w.Off:][:w.Elems()], f.F32(name+".d"+w.Name), tol)
		}
	}
}

// cnn is the walkthrough's model without dropout, with PyTorch's weights to begin with.
func cnn(t *testing.T, f *golden.File, train, split bool, team *kernel.Team) (*graph.Graph, *exec.Plan, *exec.Exec, exec.State) {
	t.Helper()
	g := zoo.CNN()
	var outs []int
	for i, n := range g.Nodes {
		if d, ok := n.Op.(*graph.Dropout); ok {
			d.P = 0
		}
		if n.Name == "dense_2" || f.Has("act."+n.Name) {
			outs = append(outs, g.Result(i))
		}
	}
	cfg := exec.Config{Rows: 64, Outputs: outs}
	if train {
		cfg = exec.Config{Rows: 64, Slots: 1, Train: true, Outputs: outs, Seeds: []int{g.OutputValue()}, InputGrad: true, Split: split}
	}
	p, err := exec.Compile(g, 0, cfg)
	if err != nil {
		t.Fatal(err)
	}
	st := p.Layout.NewState()
	if err := p.Layout.Import(st, f.Sub("init.")); err != nil {
		t.Fatal(err)
	}
	return g, p, p.New(team), st
}

func value(t *testing.T, g *graph.Graph, name string) int {
	t.Helper()
	for i, n := range g.Nodes {
		if n.Name == name {
			return g.Result(i)
		}
	}
	t.Fatalf("no node %s", name)
	return 0
}

func TestEvaluation(t *testing.T) {
	f := golden.MustOpen(t, "cnn")
	g, _, e, st := cnn(t, f, false, false, nil)
	copy(e.Value(0, 0, 64), f.F32("x"))
	e.Forward(0, exec.Batch{Rows: 64}, st.Params, &st)
	golden.Near(t, "logits", e.Value(0, value(t, g, "dense_2"), 64), f.F32("eval.logits"), chain)
	golden.Near(t, "probabilities", e.Value(0, g.OutputValue(), 64), f.F32("eval.out"), chain)
}

// chain is the tolerance at the end of eighteen layers forward and back. Two versions of
// PyTorch are up to 1.2e-6 from each other here.
const chain = 5e-6

// TestTrainingStep: from the same weights and batch PyTorch's activations, loss,
// gradients and running statistics, and its weights after Adam; then four steps more.
func TestTrainingStep(t *testing.T) {
	f := golden.MustOpen(t, "cnn")
	for _, c := range []struct {
		threads int
		split   bool
	}{{1, false}, {2, false}, {1, true}} {
		t.Run(fmt.Sprintf("threads=%d,split=%v", c.threads, c.split), func(t *testing.T) {
			team := kernel.NewTeam(c.threads)
			defer team.Close()
			trainingSteps(t, f, c.split, team)
		})
	}
}

func trainingSteps(t *testing.T, f *golden.File, split bool, team *kernel.Team) {
	g, p, e, st := cnn(t, f, true, split, team)
	var spec job.Optimizer
	f.Describe("optimizer", &spec)
	spec.Betas, spec.Eps = [2]float64{0.9, 0.999}, 1e-8
	adam, err := optim.New(spec, p.Layout.Trainable, optim.Delay{})
	if err != nil {
		t.Fatal(err)
	}
	y, losses := f.F32("y"), f.F32("losses")
	grads := make([]float32, p.Layout.Grads)
	for step := range losses {
		copy(e.Value(0, 0, 64), f.F32("x"))
		e.Forward(0, exec.Batch{Rows: 64}, st.Params, &st)
		out := e.Value(0, g.OutputValue(), 64)
		l := loss.Mean(kernel.MSE(e.Grad(0, g.OutputValue(), 64), out, y, 1/float32(len(y))), float64(len(y)))
		// From the second step on Adam has magnified gradients next to nothing.
		tol := 1e-6
		if step > 0 {
			tol = 1e-5
		}
		if math.Abs(float64(l-losses[step])) > tol*float64(losses[step]) {
			t.Errorf("loss of step %d is %v, PyTorch's %v", step, l, losses[step])
		}
		if step == 0 {
			golden.Near(t, "logits", e.Value(0, value(t, g, "dense_2"), 64), f.F32("train.logits"), chain)
			golden.Near(t, "probabilities", out, f.F32("train.out"), chain)
			for _, a := range f.Sub("act.") {
				golden.Near(t, a.Name, e.Value(0, value(t, g, a.Name), 64)[:len(a.F32)], a.F32, chain)
			}
		}
		if split {
			e.BackwardInput(0, st.Params)
			if step == 0 {
				want := f.F32("dact.x")
				golden.Near(t, "gradient of the input", e.Grad(0, 0, 64)[:len(want)], want, chain)
			}
			e.BackwardWeight(0, st.Params, grads, false)
		} else {
			e.Backward(0, st.Params, grads, false)
			if step == 0 {
				want := f.F32("dact.x")
				golden.Near(t, "gradient of the input", e.Grad(0, 0, 64)[:len(want)], want, chain)
			}
		}
		adam.Step(nil, st.Params, grads, spec.LR)
		if step == 0 {
			firstStep(t, f, p, st, grads, spec.LR)
		}
	}
}

// firstStep compares gradients, and the state after Adam: a parameter moves by lr times
// the sign of its gradient, so that an error of the gradient counts relative to itself.
func firstStep(t *testing.T, f *golden.File, p *exec.Plan, st exec.State, grads []float32, lr float64) {
	t.Helper()
	after, largest := p.Layout.Export(st), 0.0
	for _, g := range f.Sub("grad.") {
		largest = max(largest, golden.Compare(g.F32, g.F32).Scale)
	}
	for i, w := range p.Layout.Entries {
		got, want := after[i], f.Tensor("after."+w.Full)
		switch w.Role {
		case graph.Counter:
			if got.I64[0] != want.I64[0] {
				t.Errorf("%s is %d, PyTorch's %d", w.Full, got.I64[0], want.I64[0])
			}
		case graph.Buffer:
			golden.Near(t, w.Full, got.F32, want.F32, chain)
		case graph.Trainable:
			g, pg := grads[w.Off:][:w.Elems()], f.F32("grad."+w.Full)
			// A gradient that cancels is measured by those that do not, as in models_test.go.
			diff := golden.Compare(g, pg)
			most := max(diff.Scale, largest/100)
			if diff.Odd > 0 || diff.Abs > chain*most {
				t.Errorf("gradient of %s: %v", w.Full, diff)
			}
			for j, v := range got.F32 {
				doubt := 2 * chain * most / math.Abs(float64(pg[j]))
				tol := 2e-7 + lr*min(2, doubt)
				if math.Abs(float64(v)-float64(want.F32[j])) > tol {
					t.Errorf("%s element %d is %v after the step, PyTorch's %v (gradient %v)", w.Full, j, v, want.F32[j], pg[j])
					break
				}
			}
		}
	}
}

// TestOptimizers: the jobs' update rules, five steps each.
func TestOptimizers(t *testing.T) {
	f := golden.MustOpen(t, "optim")
	p0, grads := f.F32("p0"), f.F32("grads")
	n := len(p0)
	for _, name := range f.Cases() {
		if strings.HasPrefix(name, "lr.") {
			continue
		}
		var spec job.Optimizer
		f.Describe(name, &spec)
		o, err := optim.New(spec, n, optim.Delay{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := slices.Clone(p0)
		for s := range 5 {
			o.Step(nil, p, grads[s*n:][:n], spec.LR)
			want := f.F32(name + ".p")[s*n:][:n]
			golden.Near(t, fmt.Sprintf("%s step %d", name, s+1), p, want, 3e-7)
			if spec.Name != "sgd" { // what moved, to the rounding of a parameter of 2
				for i := range p {
					if d := (p[i] - p0[i]) - (want[i] - p0[i]); math.Abs(float64(d)) > 5e-7 {
						t.Errorf("%s step %d: parameter %d moved by %v, PyTorch's by %v", name, s+1, i, p[i]-p0[i], want[i]-p0[i])
					}
				}
			}
		}
	}
}

// TestLearningRates: PyTorch computes some schedules step by step, ours are closed
// forms: they differ by the roundings of 24 float64 steps.
func TestLearningRates(t *testing.T) {
	f := golden.MustOpen(t, "optim")
	seen := 0
	for _, name := range f.Cases() {
		if !strings.HasPrefix(name, "lr.") {
			continue
		}
		var d struct {
			Base     float64   `json:"base"`
			Schedule job.LR    `json:"schedule"`
			LR       []float64 `json:"lr"`
		}
		f.Describe(name, &d)
		if !slices.Contains(job.LRs, d.Schedule.Name) {
			continue
		}
		seen++
		if d.Schedule.Name == "linear" {
			d.Schedule.End = 1
		}
		for e, want := range d.LR {
			if got := optim.Rate(d.Schedule, d.Base, optim.When{Epoch: e, Update: e, Total: len(d.LR)}); math.Abs(got-want) > 1e-14 {
				t.Errorf("%s: %v in epoch %d, PyTorch's %v", name, got, e, want)
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d schedules are known", seen)
	}
}
