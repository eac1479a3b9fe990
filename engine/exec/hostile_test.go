package exec_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// TestCompilingTakesLittle: a plan says what it takes before it takes it, also what operations have
// beside the arena. Those that want the same share it.
func TestCompilingTakesLittle(t *testing.T) {
	const n = 1 << 24
	for name, op := range map[string]graph.Op{
		"layernorm": &graph.LayerNorm{Shape: []int{n}, Eps: 1e-5},
		"batchnorm": &graph.BatchNorm{Rank: 1, Features: n, Eps: 1e-5, Momentum: 0.1, Plain: true, Untracked: true},
		"sort":      &graph.Sort{},
	} {
		var ns []graph.Node
		for i := range 100 {
			ns = append(ns, graph.Node{Name: fmt.Sprint("n", i), Op: op})
		}
		g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{n}}, ns...)
		if err != nil {
			t.Fatal(err)
		}
		out := []int{g.OutputValue()}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := exec.Compile(g, 0, exec.Config{Rows: 2, Slots: 1, Train: true, Outputs: out, Seeds: out})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("%s: compiling took %d bytes", name, took)
		}
		if held := p.Memory().Held; held < 4*n || held > 8*n {
			t.Errorf("%s: %d bytes beside the arena, want those of one", name, held)
		}
	}
}

// TestNoOverflow: what no machine has is refused, and does not come out as less than nothing.
func TestNoOverflow(t *testing.T) {
	var ns []graph.Node
	for i := range 16000 {
		ns = append(ns, graph.Node{Name: fmt.Sprint("n", i), Op: &graph.GELU{Approximate: "none"}})
	}
	ns = append(ns, graph.Node{Name: "first", Op: &graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: []int{1}, Param: []int{1}}}})
	ns[0], ns[len(ns)-1] = ns[len(ns)-1], ns[0]
	g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{1 << 24, 1 << 4}}, ns...)
	if err != nil {
		t.Fatal(err)
	}
	out := []int{g.OutputValue()}
	if p, err := exec.Compile(g, 0, exec.Config{Rows: 1 << 16, Slots: 256, Train: true, Outputs: out, Seeds: out}); !errors.Is(err, exec.ErrConfig) {
		t.Errorf("a plan of %+v", p.Memory())
	}
}

// TestFarWindows: a small model whose windows are large and stand far apart is planned at once. That
// took a quarter of a minute for each of them.
func TestFarWindows(t *testing.T) {
	conv := &graph.Conv2d{In: 1, Out: 1, Kernel: graph.Pair{1024, 1024}, Stride: graph.Pair{1024, 1024}}
	g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{1, 4096, 4096}}, graph.Node{Name: "a", Op: conv})
	if err != nil {
		t.Fatal(err)
	}
	out := []int{g.OutputValue()}
	for _, precision := range []exec.Precision{exec.Float32, exec.BF16} {
		if _, err := exec.Compile(g, 0, exec.Config{Rows: 64, Slots: 1, Train: true, Outputs: out, Seeds: out, InputGrad: true, Precision: precision}); err != nil {
			t.Fatal(err)
		}
	}
}
