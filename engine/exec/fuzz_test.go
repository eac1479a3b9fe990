package exec_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// largest is the memory in bytes of the plans that FuzzRun runs, and slowest the operations of a row.
const (
	largest = 1 << 24
	slowest = 1 << 18
)

// FuzzRun: a model that Parse takes runs forward and backward within what its plan allocates, whatever
// it says.
func FuzzRun(f *testing.F) {
	for _, g := range fuzzed(f) {
		f.Add(g)
	}
	f.Fuzz(func(t *testing.T, data []byte) { run(t, data) })
}

// fuzzed are models with every operation.
func fuzzed(t testing.TB) (bs [][]byte) {
	all := append([]*graph.Graph(nil), models...)
	gs := tensorGraphs()
	for _, name := range slices.Sorted(maps.Keys(gs)) {
		all = append(all, gs[name])
	}
	for _, g := range all {
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		b, err := g.JSON()
		if err != nil {
			t.Fatal(err)
		}
		bs = append(bs, b)
	}
	return bs
}

func run(t *testing.T, data []byte) {
	g, err := graph.Parse(data)
	if err != nil || g.Cost(0, len(g.Nodes)).Total() > slowest {
		return
	}
	for _, c := range []exec.Config{{}, {Split: true, Recompute: exec.Full, Precision: exec.BF16}} {
		out := g.OutputValue()
		c.Rows, c.Slots, c.Train, c.Outputs, c.Seeds, c.InputGrad = 2, 1, true, []int{out}, []int{out}, true
		p, err := exec.Compile(g, 0, c)
		if err != nil || p.Memory().Total() > largest {
			return
		}
		e, s := p.New(nil), p.Layout.NewState()
		p.Layout.Init(s, 1)
		for v := range g.Inputs {
			x := e.Value(0, v, c.Rows)
			copy(x, draw(len(x), uint32(v)))
		}
		e.Forward(0, exec.Batch{Seed: 1, Rows: c.Rows}, s.Params, &s)
		for i, y := range e.Value(0, out, c.Rows) {
			if dy := e.Grad(0, out, c.Rows); len(dy) > 0 {
				dy[i] = y
			}
		}
		grads := make([]float32, p.Layout.Grads)
		if c.Split {
			e.BackwardInput(0, s.Params)
			e.BackwardWeight(0, s.Params, grads, false)
		} else {
			e.Backward(0, s.Params, grads, false)
		}
	}
}
