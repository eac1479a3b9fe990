package exec_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// contrast is a model that compares the samples of a batch: a row holds two views of a sample, and of
// N samples there are N·N products, of which those on the diagonal are of the same sample. The loss is
// the cross entropy of each row of them.
func contrast(t testing.TB) *graph.Graph {
	t.Helper()
	g := &graph.Graph{Name: "contrast", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{2, 5}}}, Output: "out", Nodes: []graph.Node{
		{Name: "fc", Op: &graph.Linear{In: 5, Out: 4, Bias: true}, Inputs: []string{"x"}},
		{Name: "z", Op: &graph.Batch{}, Inputs: []string{"fc"}},
		{Name: "dropped", Op: &graph.Dropout{P: 0.3}, Inputs: []string{"z"}},
		{Name: "scaled", Op: &graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: []int{1}, Param: []int{1}}}, Inputs: []string{"dropped"}},
		{Name: "a", Op: &graph.Slice{Axis: 1, Start: 0, Count: 1}, Inputs: []string{"scaled"}},
		{Name: "a2", Op: &graph.Reshape{Shape: []int{-1, 4}}, Inputs: []string{"a"}},
		{Name: "b", Op: &graph.Slice{Axis: 1, Start: 1, Count: 1}, Inputs: []string{"z"}},
		{Name: "b2", Op: &graph.Reshape{Shape: []int{-1, 4}}, Inputs: []string{"b"}},
		{Name: "sim", Op: &graph.MatMul{TransB: true}, Inputs: []string{"a2", "b2"}},
		{Name: "n", Op: &graph.Range{Count: -1}},
		{Name: "col", Op: &graph.Reshape{Shape: []int{-1, 1}}, Inputs: []string{"n"}},
		{Name: "d", Op: &graph.Binary{Function: "sub"}, Inputs: []string{"n", "col"}},
		{Name: "eye", Op: &graph.Unary{Function: "eq"}, Inputs: []string{"d"}},
		{Name: "p", Op: &graph.Softmax{}, Inputs: []string{"sim"}},
		{Name: "log", Op: &graph.Unary{Function: "log"}, Inputs: []string{"p"}},
		{Name: "own", Op: &graph.Binary{Function: "mask"}, Inputs: []string{"log", "eye"}},
		{Name: "sum", Op: &graph.Reduce{Function: "sum", Axes: 1, Keep: true}, Inputs: []string{"own"}},
		{Name: "rows", Op: &graph.Rows{Shape: []int{1}}, Inputs: []string{"sum"}},
		{Name: "centred", Op: &graph.Permute{Axes: []int{1, 0}}, Inputs: []string{"a2"}},
		{Name: "mean", Op: &graph.Reduce{Function: "mean", Axes: 1}, Inputs: []string{"centred"}},
		{Name: "each", Op: &graph.Expand{Shape: []int{-1, 4}}, Inputs: []string{"mean"}},
		{Name: "means", Op: &graph.Rows{Shape: []int{4}}, Inputs: []string{"each"}},
		{Name: "both", Op: &graph.Concat{}, Inputs: []string{"rows", "means"}},
		{Name: "out", Op: &graph.Linear{In: 5, Out: 3, Bias: true}, Inputs: []string{"both"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestContrastGradients: the gradients of what compares samples are those that differences tell.
func TestContrastGradients(t *testing.T) { differences(t, contrast(t), 5e-3) }

// TestContrastBits: recomputing, halves of the backward pass, threads and a plan that was made for larger
// batches give the bits of a plan for the batch at hand.
func TestContrastBits(t *testing.T) {
	g := contrast(t)
	run := func(rows, most int, c exec.Config, team *kernel.Team) []float32 {
		t.Helper()
		out := []int{g.OutputValue()}
		c.Rows, c.Slots, c.Train, c.Outputs, c.Seeds, c.InputGrad = most, 1, true, out, out, true
		p, err := exec.Compile(g, 0, c)
		if err == nil {
			err = p.Sizes(most, rows)
		}
		if err != nil {
			t.Fatal(err)
		}
		e, st, grads := p.New(team), p.Layout.NewState(), make([]float32, p.Layout.Grads)
		p.Layout.Init(st, 42)
		if rows != most { // a full batch leaves nothing behind
			copy(e.Value(0, 0, most), draw(most*10, 9))
			e.Forward(0, exec.Batch{Rows: most}, st.Params, &st)
		}
		copy(e.Value(0, 0, rows), draw(rows*10, 1))
		e.Forward(0, exec.Batch{Rows: rows}, st.Params, &st)
		all := slices.Clone(e.Value(0, out[0], rows))
		copy(e.Grad(0, out[0], rows), draw(rows*3, 2))
		if c.Split {
			e.BackwardInput(0, st.Params)
			all = append(all, e.Grad(0, 0, rows)...)
			e.TrashAll()
			e.BackwardWeight(0, st.Params, grads, false)
		} else {
			e.Backward(0, st.Params, grads, false)
			all = append(all, e.Grad(0, 0, rows)...)
		}
		return append(all, grads...)
	}
	exec.ShareAll(t)
	team := kernel.NewTeam(3)
	defer team.Close()
	for _, precision := range []exec.Precision{exec.Float32, exec.BF16} {
		for _, rows := range []int{1, 2, 7} {
			want := run(rows, rows, exec.Config{Precision: precision}, nil)
			for _, most := range []int{rows, 9} {
				for _, again := range []exec.Recompute{exec.KeepAll, exec.Selective, exec.Full} {
					for _, split := range []bool{false, true} {
						t.Run(fmt.Sprint(precision, rows, most, again, split), func(t *testing.T) {
							bits(t, "the bits", run(rows, most, exec.Config{Precision: precision, Recompute: again, Split: split}, team), want)
						})
					}
				}
			}
		}
	}
}

// TestContrastIsWhole: it takes whole batches, and stages begin where no value of a whole batch crosses.
func TestContrastIsWhole(t *testing.T) {
	g := contrast(t)
	if node, ok := exec.Splits(g); ok || node != "z" {
		t.Errorf("micro-batches of samples that are compared by %q: %v", node, ok)
	}
	for i := 1; i < len(g.Nodes); i++ {
		_, err := g.Cut([]int{0, i})
		between := i == 1 || i >= 22
		if between != (err == nil) || err != nil && !errors.Is(err, graph.ErrCut) {
			t.Errorf("a stage begins with %q: %v", g.Nodes[i].Name, err)
		}
	}
	p, err := exec.Compile(g, 0, exec.Config{Rows: 4, Outputs: []int{g.OutputValue()}})
	if err != nil {
		t.Fatal(err)
	}
	large, err := exec.Compile(g, 0, exec.Config{Rows: 400, Outputs: []int{g.OutputValue()}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := p.Memory().Total(), large.Memory().Total(); b < 4*400*400 || a > 10000 {
		t.Errorf("%d bytes for 4 samples, %d for 400 with their %d products", a, b, 400*400)
	}
	if _, err := exec.Compile(g, 0, exec.Config{Rows: 1 << 15, Outputs: []int{g.OutputValue()}}); err == nil {
		t.Error("2^30 products are planned for")
	}
}
