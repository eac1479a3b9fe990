package exec_test

import (
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/zoo"
)

// TestCNNIsPyTorchs: from PyTorch's weights, the walkthrough's network without dropout
// gives PyTorch's answers, loss, gradients, running statistics and weights after a step
// of Adam. The tolerance is for the order of sums, which differs: 1e-5 of the largest
// element is about a hundred roundings.
func TestCNNIsPyTorchs(t *testing.T) {
	f := golden.MustOpen(t, "cnn")
	g := zoo.CNN()
	for _, n := range g.Nodes {
		if d, ok := n.Op.(*graph.Dropout); ok {
			d.P = 0
		}
	}
	const rows = 64
	out := g.OutputValue()
	logits := out - 1 // dense_2
	team := kernel.NewTeam(2)
	defer team.Close()

	ev, err := exec.Compile(g, 0, exec.Config{Rows: rows, Outputs: []int{logits, out}})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: []int{logits, out}, Seeds: []int{out}, InputGrad: true})
	if err != nil {
		t.Fatal(err)
	}
	s := tr.Layout.NewState()
	if err := tr.Layout.Import(s, f.Sub("init.")); err != nil {
		t.Fatal(err)
	}
	e := ev.New(team)
	copy(e.Value(0, 0, rows), f.F32("x"))
	e.Forward(0, exec.Batch{Rows: rows}, s.Params, &s)
	golden.Near(t, "eval logits", e.Value(0, logits, rows), f.F32("eval.logits"), 1e-5)
	golden.Near(t, "eval out", e.Value(0, out, rows), f.F32("eval.out"), 1e-5)

	m := tr.New(team)
	mse, err := loss.New("mse")
	if err != nil {
		t.Fatal(err)
	}
	opt, err := optim.New(job.Default().Optimizer, tr.Layout.Trainable, optim.Delay{})
	if err != nil {
		t.Fatal(err)
	}
	grads := make([]float32, tr.Layout.Trainable)
	var losses []float32
	for step := range 5 {
		copy(m.Value(0, 0, rows), f.F32("x"))
		m.Forward(0, exec.Batch{Step: uint64(step), Rows: rows}, s.Params, &s)
		sum := mse.Eval(m.Grad(0, out, rows), m.Value(0, out, rows), f.F32("y"), rows, 10, rows*10)
		losses = append(losses, loss.Mean(sum, rows*10))
		if step == 0 {
			golden.Near(t, "train logits", m.Value(0, logits, rows), f.F32("train.logits"), 1e-5)
		}
		m.Backward(0, s.Params, grads, false)
		if step == 0 {
			for _, p := range tr.Layout.Entries {
				if p.Role == graph.Trainable {
					golden.Near(t, "gradient of "+p.Full, grads[p.Off:][:p.Elems()], f.F32("grad."+p.Full), 2e-5)
				}
			}
		}
		opt.Step(s.Params, grads, 1e-3)
		if step == 0 {
			after := tr.Layout.Export(s)
			for _, p := range after {
				want := f.Tensor("after." + p.Name)
				if p.I64 != nil {
					if p.I64[0] != want.I64[0] {
						t.Errorf("%s is %d, PyTorch has %d", p.Name, p.I64[0], want.I64[0])
					}
					continue
				}
				// Adam's first step keeps only the sign of a gradient: where that is
				// noise a weight may differ by two steps of 0.001.
				off := 0
				for i := range want.F32 {
					d := p.F32[i] - want.F32[i]
					if d > 2.1e-3 || d < -2.1e-3 {
						t.Fatalf("%s[%d] after a step is %g, PyTorch has %g", p.Name, i, p.F32[i], want.F32[i])
					}
					if d > 1e-5 || d < -1e-5 {
						off++
					}
				}
				if off > len(want.F32)/50+16 {
					t.Errorf("%s: %d of %d weights after a step are not PyTorch's", p.Name, off, len(want.F32))
				}
			}
		}
	}
	golden.Near(t, "losses of five steps", losses, f.F32("losses"), 1e-3)
}
