package exec_test

import (
	"math"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// around is a graph of one op between linear layers, so that every gradient of it counts.
func around(shape []int, mid func(in string) []graph.Node) *graph.Graph {
	n := graph.Shape(shape).Elems()
	g := &graph.Graph{Name: "op", Inputs: []graph.Input{{Name: "x", Shape: shape}}, Nodes: []graph.Node{
		{Name: "a", Op: &graph.Reshape{Shape: []int{n}}, Inputs: []string{"x"}},
		{Name: "b", Op: &graph.Linear{In: n, Out: n, Bias: true}, Inputs: []string{"a"}},
		{Name: "c", Op: &graph.Reshape{Shape: shape}, Inputs: []string{"b"}},
	}}
	g.Nodes = append(g.Nodes, mid("c")...)
	g.Output = g.Nodes[len(g.Nodes)-1].Name
	return g
}

func single(op graph.Op, more ...string) func(in string) []graph.Node {
	return func(in string) []graph.Node {
		return []graph.Node{{Name: "op", Op: op, Inputs: append([]string{in}, more...)}}
	}
}

func constants(shape []int, v ...float32) *graph.Operand {
	return &graph.Operand{Shape: shape, Data: graph.PackFloats(v)}
}

// singular multiplies by a singular value.
func singular(op graph.Op) func(in string) []graph.Node {
	return func(in string) []graph.Node {
		return []graph.Node{{Name: "s", Op: op}, {Name: "op", Op: &graph.Binary{Function: "mul"}, Inputs: []string{in, "s"}}}
	}
}

// ordered are elements of a row, with those that count first in their order.
func ordered(count int, down bool) func(in string) []graph.Node {
	return func(in string) []graph.Node {
		return []graph.Node{
			// So far apart that a small step changes no order.
			{Name: "far", Op: &graph.Binary{Function: "add", Operand: constants([]int{6}, 30, 0, 50, 20, 10, 40)}, Inputs: []string{in}},
			{Name: "at", Op: &graph.Sort{Count: count, Descending: down}, Inputs: []string{"far"}},
			{Name: "op", Op: &graph.Gather{Axis: 1}, Inputs: []string{in, "at"}},
		}
	}
}

// at is an operation at positions.
func at(shape []int, positions []float32, op graph.Op) func(in string) []graph.Node {
	return func(in string) []graph.Node {
		return []graph.Node{
			{Name: "at", Op: &graph.Parameter{Operand: *constants(shape, positions...)}},
			{Name: "op", Op: op, Inputs: []string{in, "at"}},
		}
	}
}

// unit divides a vector by its length, as importers write it.
func unit(in string) []graph.Node {
	return []graph.Node{
		{Name: "square", Op: &graph.Unary{Function: "pow", A: 2}, Inputs: []string{in}},
		{Name: "v", Op: &graph.Reduce{Function: "sum", Axes: 1, Keep: true}, Inputs: []string{"square"}},
		{Name: "zero", Op: &graph.Unary{Function: "eq"}, Inputs: []string{"v"}},
		{Name: "above", Op: &graph.Add{}, Inputs: []string{"v", "zero"}},
		{Name: "root", Op: &graph.Unary{Function: "sqrt"}, Inputs: []string{"above"}},
		{Name: "some", Op: &graph.Unary{Function: "ne"}, Inputs: []string{"v"}},
		{Name: "length", Op: &graph.Binary{Function: "mul"}, Inputs: []string{"root", "some"}},
		{Name: "least", Op: &graph.Unary{Function: "clamp", A: 1e-12, B: math.MaxFloat32}, Inputs: []string{"length"}},
		{Name: "all", Op: &graph.Expand{Shape: []int{4}}, Inputs: []string{"least"}},
		{Name: "unit", Op: &graph.Binary{Function: "div"}, Inputs: []string{in, "all"}},
	}
}

// tensorGraphs have every operation of imported models.
func tensorGraphs() map[string]*graph.Graph {
	gs := map[string]*graph.Graph{
		"permute": around([]int{2, 3, 4}, single(&graph.Permute{Axes: []int{2, 0, 1}})),
		"slice":   around([]int{2, 7}, single(&graph.Slice{Axis: 1, Start: 1, Count: 3, Step: 2})),
		"pad":     around([]int{2, 3}, single(&graph.Pad{Before: []int{1, 0}, After: []int{0, 2}, Value: 3})),
		"expand":  around([]int{2, 1, 3}, single(&graph.Expand{Shape: []int{4, 2, 5, 3}})),
		"sum":     around([]int{2, 3, 4}, single(&graph.Reduce{Function: "sum", Axes: 2})),
		"mean":    around([]int{2, 3, 4}, single(&graph.Reduce{Function: "mean", Axes: 1, Keep: true})),
		"amax":    around([]int{2, 20}, single(&graph.Reduce{Function: "amax", Axes: 1})),
		"mirror":  around([]int{2, 3, 2}, single(&graph.Resample{Axis: 1, Taps: 1, Index: graph.Packed{2, 1, 0, 1, 2, 1}})),
		"between": around([]int{2, 3}, single(&graph.Resample{Axis: 1, Taps: 2, Index: graph.Packed{0, 1, 1, 2, 2, 2, 1, 0}, Weight: graph.PackFloats([]float32{0.25, 0.75, 0.5, 0.5, 1, 0, 0.9, 0.3})})),
		"within":  around([]int{2, 5, 5}, single(&graph.AvgPool2d{MaxPool2d: graph.MaxPool2d{Kernel: graph.Pair{3, 3}, Stride: graph.Pair{2, 2}, Padding: graph.Pair{1, 1}, Ceil: true}, Exclude: true})),
		// So many iterations that the vectors are those of the singular value, whose slope u vᵀ is.
		"singular":            around([]int{4}, singular(&graph.SpectralNorm{Shape: []int{4, 5}, Iterations: 64, Eps: 1e-12})),
		"singular of columns": around([]int{4}, singular(&graph.SpectralNorm{Shape: []int{3, 4, 2}, Dim: 1, Iterations: 64, Eps: 1e-12, VFirst: true})),
		"cumsum":              around([]int{2, 5}, single(&graph.CumSum{})),
		"order":               around([]int{2, 6}, ordered(4, false)),
		"downward":            around([]int{2, 6}, ordered(0, true)),
		"read":                around([]int{2, 3, 4}, at([]int{2, 5}, []float32{2, 0, -1, 0, 1, 1, 3, 2, 0.5, 2}, &graph.Gather{Axis: 1})),
		"read one":            around([]int{3, 4}, at([]int{}, []float32{1}, &graph.Gather{})),
		"written":             around([]int{2, 5, 2}, at([]int{2, 5}, []float32{2, 0, -1, 0, 1, 1, 3, 2, 0.5, 2}, &graph.Scatter{Axis: 1, Size: 3})),
		"placed":              around([]int{2, 3}, at([]int{2, 3}, []float32{3, 0, -1, 1, 2, 0}, &graph.Scatter{Axis: 1, Size: 4, Last: true})),
		"transpose":           around([]int{3, 4, 4}, single(&graph.ConvTranspose2d{In: 3, Out: 2, Kernel: graph.Pair{3, 2}, Stride: graph.Pair{2, 2}, Padding: graph.Pair{1, 0}, Extra: graph.Pair{1, 0}, Bias: true})),
		"conv1d":              around([]int{2, 1, 9}, single(&graph.Conv2d{In: 2, Out: 3, Kernel: graph.Pair{1, 3}, Dilation: graph.Pair{1, 2}, Bias: true, Flat: true})),
		"turned":              around([]int{3, 4}, single(&graph.Linear{In: 4, Out: 5, Bias: true, Transposed: true})),
		"ceil":                around([]int{2, 5, 5}, single(&graph.AvgPool2d{MaxPool2d: graph.MaxPool2d{Kernel: graph.Pair{2, 2}, Ceil: true}})),
		"depth":               around([]int{6}, single(&graph.StochasticDepth{P: 0.5})),
		"scaled":              around([]int{3, 4}, single(&graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: []int{3, 1}, Param: []int{3}}})),
		"shifted":             around([]int{3, 4}, single(&graph.Binary{Function: "sub", Swap: true, Operand: &graph.Operand{Shape: []int{2, 3, 4}, Param: []int{5}, Index: graph.Packed(slices.Repeat([]uint32{0, 3, 1, 4, 4, 2}, 4))}})),
		"masked":              around([]int{2, 3}, single(&graph.Binary{Function: "div", Operand: constants([]int{3}, 1, 2, -3)})),
		"tied": around([]int{4}, func(in string) []graph.Node {
			w := map[string]string{"weight": "both.weight"}
			return []graph.Node{
				{Name: "u", Op: &graph.Linear{In: 4, Out: 4, Bias: true}, Inputs: []string{in}, Names: w},
				{Name: "v", Op: &graph.Tanh{}, Inputs: []string{"u"}},
				{Name: "w", Op: &graph.Linear{In: 4, Out: 4, Bias: true}, Inputs: []string{"v"}, Names: w},
			}
		}),
		"length":    around([]int{4}, unit),
		"norm":      around([]int{3, 2, 2}, single(&graph.BatchNorm{Rank: 3, Features: 3, Eps: 1e-5, Momentum: 0.1, Plain: true})),
		"untracked": around([]int{3, 2, 2}, single(&graph.BatchNorm{Rank: 3, Features: 3, Eps: 1e-5, Momentum: 0.1, Untracked: true})),
		"class token": around([]int{3, 4}, func(in string) []graph.Node {
			return []graph.Node{
				{Name: "token", Op: &graph.Parameter{Operand: graph.Operand{Shape: []int{1, 4}, Param: []int{1, 1, 4}}}},
				{Name: "cat", Op: &graph.Concat{Axis: 0}, Inputs: []string{"token", in, "token"}},
			}
		}),
	}
	for _, t := range []struct {
		name   string
		ta, tb bool
		a, b   []int
	}{{"matmul", false, false, []int{2, 3, 4}, []int{2, 4, 6}}, {"matmul ta", true, false, []int{2, 4, 3}, []int{2, 4, 6}}, {"matmul tb", false, true, []int{2, 3, 4}, []int{2, 6, 4}}, {"matmul both", true, true, []int{2, 4, 3}, []int{2, 6, 4}}} {
		n, m := graph.Shape(t.a).Elems(), graph.Shape(t.b).Elems()
		gs[t.name] = around([]int{n + m}, func(in string) []graph.Node {
			return []graph.Node{
				{Name: "p", Op: &graph.Slice{Axis: 0, Count: n}, Inputs: []string{in}},
				{Name: "q", Op: &graph.Slice{Axis: 0, Start: n, Count: m}, Inputs: []string{in}},
				{Name: "r", Op: &graph.Reshape{Shape: t.a}, Inputs: []string{"p"}},
				{Name: "s", Op: &graph.Reshape{Shape: t.b}, Inputs: []string{"q"}},
				{Name: "t", Op: &graph.MatMul{TransA: t.ta, TransB: t.tb, Scale: 0.5}, Inputs: []string{"r", "s"}},
			}
		})
	}
	for _, f := range []string{"add", "sub", "mul", "div", "max", "min", "mask"} {
		gs["binary "+f] = around([]int{2, 3}, func(in string) []graph.Node {
			return []graph.Node{
				{Name: "p", Op: &graph.Reshape{Shape: []int{2, 1, 3}}, Inputs: []string{in}},
				{Name: "q", Op: &graph.Unary{Function: "affine", A: 0.3, B: 3}, Inputs: []string{in}},
				{Name: "r", Op: &graph.Binary{Function: f}, Inputs: []string{"p", "q"}},
			}
		})
	}
	gs["power"] = around([]int{2, 3}, func(in string) []graph.Node {
		return []graph.Node{
			{Name: "p", Op: &graph.Unary{Function: "affine", A: 0.1, B: 2}, Inputs: []string{in}},
			{Name: "q", Op: &graph.Reshape{Shape: []int{2, 1, 3}}, Inputs: []string{in}},
			{Name: "r", Op: &graph.Binary{Function: "pow"}, Inputs: []string{"p", "q"}},
		}
	})
	gs["where"] = around([]int{2, 3}, func(in string) []graph.Node {
		return []graph.Node{
			{Name: "p", Op: &graph.Unary{Function: "gt", A: 0.1}, Inputs: []string{in}},
			{Name: "q", Op: &graph.Unary{Function: "affine", A: 2}, Inputs: []string{in}},
			{Name: "r", Op: &graph.Binary{Function: "mask"}, Inputs: []string{"q", "p"}},
			{Name: "s", Op: &graph.Binary{Function: "mask", Operand: constants([]int{3}, 1, 0, 1)}, Inputs: []string{"r"}},
		}
	})
	unaryGraphs(gs)
	return gs
}

// unaryGraphs adds a graph for every function of one value that has a gradient.
func unaryGraphs(gs map[string]*graph.Graph) {
	for f, u := range kernel.Unaries {
		if u.Flat {
			continue
		}
		op := &graph.Unary{Function: f}
		pre := &graph.Unary{Function: "affine", A: 1, B: 0.01}
		switch f {
		case "affine", "rsub":
			op.A, op.B = 0.7, 0.2
		case "leaky_relu", "elu":
			op.A = 0.3
		case "rdiv", "log", "sqrt", "rsqrt": // of what is positive
			op.A, pre.A, pre.B = 2, 0.1, 2
		case "pow":
			op.A, pre.A, pre.B = 2.5, 0.1, 2
		case "clamp", "hardtanh":
			op.A, op.B = -0.5, 0.5
		case "softplus":
			op.A, op.B = 1.5, 20
		}
		gs["unary "+f] = around([]int{40}, func(in string) []graph.Node {
			return []graph.Node{{Name: "p", Op: pre, Inputs: []string{in}}, {Name: "q", Op: op, Inputs: []string{"p"}}}
		})
	}
}

// TestTensorGradients compares the gradients of every operation of imported models with
// central differences, along random directions of parameters and input.
func TestTensorGradients(t *testing.T) {
	for name, g := range tensorGraphs() {
		if err := g.Check(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := build(t, g, 3, exec.Config{})
		m.forward()
		m.e.Backward(0, m.st.Params, m.grads, false)
		// A second micro-batch adds to the first.
		twice := slices.Clone(m.grads)
		m.forward()
		m.e.Backward(0, m.st.Params, twice, true)
		m.p.Layout.Fold(m.grads)
		m.p.Layout.Fold(twice)
		for i, v := range m.grads {
			if math.Abs(float64(twice[i]-2*v)) > 1e-5*(1+math.Abs(float64(v))) {
				t.Errorf("%s: gradient %d is %v once and %v twice", name, i, v, twice[i])
				break
			}
		}
		for k := range 4 {
			d := draw(len(m.st.Params), uint32(10+k))
			params := slices.Clone(m.st.Params)
			const h = 5e-4 // small: some functions have kinks
			at := func(s float32) float64 {
				for i := range params {
					m.st.Params[i] = params[i] + s*d[i]
				}
				return m.forward()
			}
			want := (at(h)-at(-h))/(2*h)*(4.0/3) - (at(2*h)-at(-2*h))/(4*h)/3
			copy(m.st.Params, params)
			got := 0.0
			for i, v := range m.grads[:len(d)] {
				got += float64(v) * float64(d[i])
			}
			if math.Abs(got-want) > 2e-2*(math.Abs(want)+0.1) {
				t.Errorf("%s: along direction %d the loss changes by %v, the gradient says %v", name, k, want, got)
			}
		}
	}
}

// TestTensorJSON: every graph survives its JSON form, and a plan for it with recomputation
// gives the same gradients.
func TestTensorJSON(t *testing.T) {
	for name, g := range tensorGraphs() {
		if err := g.Check(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := g.JSON()
		if err != nil {
			t.Fatal(err)
		}
		h, err := graph.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var first []float32
		for _, c := range []exec.Config{{}, {Recompute: exec.Selective}, {Recompute: exec.Full}, {Split: true}} {
			m := build(t, h, 3, c)
			m.forward()
			if c.Split {
				m.e.BackwardInput(0, m.st.Params)
				m.e.BackwardWeight(0, m.st.Params, m.grads, false)
			} else {
				m.e.Backward(0, m.st.Params, m.grads, false)
			}
			if first == nil {
				first = m.grads
			}
			for i, v := range m.grads {
				if math.Float32bits(v) != math.Float32bits(first[i]) {
					t.Errorf("%s: %+v: gradient %d is %v, was %v", name, c, i, v, first[i])
					break
				}
			}
		}
	}
}

// TestDetach: what lies before a gradient's end gets none, also where a buffer of gradients
// holds those of an earlier batch.
func TestDetach(t *testing.T) {
	g := around([]int{4}, func(in string) []graph.Node {
		return []graph.Node{
			{Name: "d", Op: &graph.Unary{Function: "detach"}, Inputs: []string{in}},
			{Name: "w", Op: &graph.Linear{In: 4, Out: 3, Bias: true}, Inputs: []string{"d"}},
		}
	})
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []exec.Config{{}, {Recompute: exec.Full}, {Split: true}} {
		m := build(t, g, 3, c)
		for i := range m.grads {
			m.grads[i] = 7
		}
		m.forward()
		if c.Split {
			m.e.BackwardInput(0, m.st.Params)
			m.e.BackwardWeight(0, m.st.Params, m.grads, false)
		} else {
			m.e.Backward(0, m.st.Params, m.grads, false)
		}
		for _, e := range m.p.Layout.Entries {
			if before := e.Full[0] == 'b'; before != (e.Role == graph.Frozen) {
				t.Errorf("%+v: %s has the role %d", c, e.Full, e.Role)
			} else if before {
				continue
			}
			for i, v := range m.grads[e.Off:][:e.Elems()] {
				if v == 0 {
					t.Errorf("%+v: element %d of the gradient of %s is 0", c, i, e.Full)
				}
			}
		}
	}
}
