package golden_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/zoo"
)

// later are ops that the files have and the graph need not.
var later = []string{"avgpool2d", "layernorm", "gelu", "tanh", "sigmoid", "embedding"}

// Every case of ops as the one node of a graph: the graph accepts PyTorch's attributes,
// gives PyTorch's output shape and asks for PyTorch's parameters.
func TestOpsFitTheGraph(t *testing.T) {
	f := golden.MustOpen(t, "ops")
	known := 0
	for _, c := range f.Cases() {
		var d struct{ Op, Loss string }
		f.Describe(c, &d)
		if d.Loss != "" {
			if x, dx := f.Tensor(c+".x"), f.Tensor(c+".dx"); !slices.Equal(x.Shape, dx.Shape) || f.Tensor(c+".loss").Len() != 1 {
				t.Errorf("%s: a loss of %v with a gradient of %v", c, x.Shape, dx.Shape)
			}
			continue
		}
		y := f.Tensor(c + ".y")
		if !slices.Equal(y.Shape, f.Tensor(c+".dy").Shape) {
			t.Errorf("%s: y and dy have different shapes", c)
		}
		g, _ := one(t, f, c)
		if g == nil {
			if !slices.Contains(later, d.Op) {
				t.Errorf("%s: the graph has no op %q", c, d.Op)
			}
			continue
		}
		known++
		if got := g.Shape(g.OutputValue()); !slices.Equal(got, y.Shape[1:]) {
			t.Errorf("%s: rows of shape %v, PyTorch gives %v", c, got, y.Shape[1:])
		}
		for _, p := range g.Params() {
			if got := f.Tensor(c + "." + p.Name).Shape; !slices.Equal(got, p.Shape) {
				t.Errorf("%s: %s is %v, PyTorch's is %v", c, p.Name, p.Shape, got)
			}
		}
	}
	if known < 30 {
		t.Errorf("only %d cases are ops of the graph", known)
	}
}

// The state dict of the zoo's model is PyTorch's: names, order, shapes, bounds.
func TestCNNFitsTheZoo(t *testing.T) {
	f := golden.MustOpen(t, "cnn")
	init := f.Sub("init.")
	if err := init.Validate(); err != nil {
		t.Fatal(err)
	}
	var bounds map[string]float64
	f.Describe("init_bounds", &bounds)
	i := 0
	for _, n := range zoo.CNN().Nodes {
		for _, p := range n.Op.Params() {
			if i == len(init) {
				t.Fatalf("PyTorch has %d entries, the zoo goes on with %s.%s", len(init), n.Name, p.Name)
			}
			w := init[i]
			i++
			if w.Name != n.Name+"."+p.Name || !slices.Equal(w.Shape, p.Shape) || (w.I64 != nil) != (p.Role == graph.Counter) {
				t.Errorf("entry %d is %s.%s %v, PyTorch's is %s %v", i-1, n.Name, p.Name, p.Shape, w.Name, w.Shape)
			}
			if b := bounds[w.Name]; p.Init.Bound != float32(b) {
				t.Errorf("%s: initialised within %v, PyTorch within %v", w.Name, p.Init.Bound, b)
			}
		}
	}
	if i != 23 || len(init) != i {
		t.Errorf("the zoo has %d entries, PyTorch %d", i, len(init))
	}
	if !slices.Equal(f.Sub("after.").Names(), init.Names()) {
		t.Error("after has other names than init")
	}
	for _, g := range f.Sub("grad.") {
		if p, ok := init.Get(g.Name); !ok || !slices.Equal(p.Shape, g.Shape) {
			t.Errorf("the gradient of %s does not fit it", g.Name)
		}
	}
	// What a reader of the file can know without PyTorch.
	for r, y := range f.I64("labels") {
		if row := f.F32("y")[r*10:][:10]; row[y] != 1 {
			t.Fatalf("row %d: label %d, one-hot %v", r, y, row)
		}
	}
	sum := 0.0
	for i, p := range f.F32("train.out") {
		d := float64(p) - float64(f.F32("y")[i])
		sum += d * d
	}
	if l := float64(f.F32("train.loss")[0]); math.Abs(sum/640-l) > 1e-7 || f.F32("losses")[0] != float32(l) {
		t.Errorf("loss %v, from the outputs %v", l, sum/640)
	}
}

func TestOpen(t *testing.T) {
	if _, err := golden.Open("no such"); err == nil || !strings.HasPrefix(err.Error(), "golden: ") {
		t.Errorf("a missing file gives %v", err)
	}
	o := golden.MustOpen(t, "optim")
	x := o.F32("p0")
	x[0]++
	if o.F32("p0")[0] == x[0] {
		t.Error("F32 does not copy")
	}
	if !o.Has("sgd_momentum.momentum_buffer") || o.Has("sgd.momentum_buffer") {
		t.Error("plain SGD has no momentum buffer, with momentum it has")
	}
	if n := len(o.Cases()); n != 20 {
		t.Errorf("optim has %d cases", n)
	}
}

func TestCompare(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		name      string
		got, want []float32
		rel       float64
		ulp       uint64
	}{
		{"equal", []float32{1, nan, inf, -inf}, []float32{1, nan, inf, -inf}, 0, 0},
		{"zeros", []float32{float32(math.Copysign(0, -1))}, []float32{0}, 0, 0},
		{"one step", []float32{1 + 0x1p-23, 2}, []float32{1, 2}, 0x1p-24, 1},
		{"across zero", []float32{1e-45, 1}, []float32{-1e-45, 1}, 2 * 0x1p-149, 2},
		{"missing NaN", []float32{1, 1}, []float32{1, nan}, math.Inf(1), 0},
		{"new NaN", []float32{1, nan}, []float32{1, 1}, math.Inf(1), 0},
		{"other infinity", []float32{inf}, []float32{-inf}, math.Inf(1), 0},
		{"length", []float32{1}, []float32{1, 2}, math.Inf(1), 0},
		{"nothing expected", []float32{0.5}, []float32{0}, math.Inf(1), 0},
	} {
		d := golden.Compare(c.got, c.want)
		if d.Rel() != c.rel || c.ulp > 0 && d.ULP != c.ulp {
			t.Errorf("%s: %v, want rel %v and %d ulp", c.name, d, c.rel, c.ulp)
		}
	}
}
