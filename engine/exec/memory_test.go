package exec_test

import (
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// TestMemoryIsAllocated: what compiling and making a plan allocate is what Memory says, with the
// constants of a graph and what operations keep for themselves. What is beside are lists by node, so
// the tensors are made large.
func TestMemoryIsAllocated(t *testing.T) {
	const n = 1 << 18
	v := make([]float32, n)
	wide := graph.Shape{n}
	index := make(graph.Packed, n)
	for name, c := range map[string]struct {
		op        graph.Op
		constants int
	}{
		"constants": {&graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: wide, Data: graph.PackFloats(v)}}, 4 * n},
		"picked":    {&graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: wide, Param: []int{4}, Index: index}}, 4 * n},
		"weights":   {&graph.Resample{Taps: 1, Index: index, Weight: graph.PackFloats(v)}, 8 * n},
		"sort":      {&graph.Sort{}, 0},
		"layernorm": {&graph.LayerNorm{Shape: wide, Eps: 1e-5}, 0},
		"batchnorm": {&graph.BatchNorm{Rank: 1, Features: n, Eps: 1e-5, Momentum: 0.1, Plain: true}, 0},
	} {
		g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: wide}, graph.Node{Name: "op", Op: c.op})
		if err != nil {
			t.Fatal(err)
		}
		for _, train := range []bool{false, true} {
			cfg := exec.Config{Rows: 2, Train: train, Outputs: []int{g.OutputValue()}}
			if train {
				cfg.Slots, cfg.Seeds = 2, []int{g.OutputValue()}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p, err := exec.Compile(g, 0, cfg)
			if err != nil {
				t.Fatal(err)
			}
			e := p.New(nil)
			runtime.ReadMemStats(&after)
			m := p.Memory()
			took := int(after.TotalAlloc - before.TotalAlloc)
			if over := took - m.Run(); math.Abs(float64(over)) > n/4 {
				t.Errorf("%s, training %v: %d bytes were allocated, %d are promised (%+v)", name, train, took, m.Run(), m)
			}
			if m.Constants != c.constants {
				t.Errorf("%s: %d bytes of constants, want %d", name, m.Constants, c.constants)
			}
			runtime.KeepAlive(e)
		}
	}
	if slices.Max(v) != 0 {
		t.Error("the constants have changed")
	}
}
