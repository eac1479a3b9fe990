package exec_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// digest is a hash of the bits of some vectors.
func digest(vs ...[]float32) string {
	h := fnv.New64a()
	for _, v := range vs {
		for _, x := range v {
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(x)))
		}
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// TestBF16Digests: a step in bf16 has the same bits on every machine, whether it fuses
// multiply-adds or not. The digests are written down because no process has both kinds.
func TestBF16Digests(t *testing.T) {
	want := map[string]string{
		"cnn": "cc1af3b98e0a5d75", "gpt": "05e48692ebdf8f08", "bert": "0d3832c18872c574", "resnet": "ddaa64914b52ff58",
	}
	for _, g := range models {
		t.Run(g.Name, func(t *testing.T) {
			m := build(t, g, 8, exec.Config{Precision: exec.BF16})
			m.forward()
			m.e.Backward(0, m.st.Params, m.grads, false)
			if got := digest(m.e.Value(0, m.out, m.rows), m.grads); got != want[g.Name] {
				t.Errorf("the digest of %s is %s, want %s", g.Name, got, want[g.Name])
			}
		})
	}
}

// TestBF16Operands: a node in bf16 computes what it computes in float32 from operands that
// were rounded beforehand; biases and their gradients stay as they are.
func TestBF16Operands(t *testing.T) {
	exec.ShareAll(t)
	team := kernel.NewTeam(2)
	defer team.Close()
	three := graph.Pair{3, 3}
	for _, n := range []struct {
		name string
		in   graph.Shape
		op   graph.Op
	}{
		{"linear", graph.Shape{9}, &graph.Linear{In: 9, Out: 5, Bias: true}},
		{"linear, wide", graph.Shape{3, 70}, &graph.Linear{In: 70, Out: 130}},
		{"linears", graph.Shape{7, 9}, &graph.Linears{In: 9, Out: 5, Names: []string{"q", "k", "v"}, Bias: true}},
		{"conv2d", graph.Shape{4, 8, 8}, &graph.Conv2d{In: 4, Out: 20, Kernel: three, Bias: true}},
		{"conv2d, stride 2", graph.Shape{16, 9, 9}, &graph.Conv2d{In: 16, Out: 32, Kernel: three, Stride: graph.Pair{2, 2}, Padding: graph.Pair{1, 1}}},
		{"conv2d, depthwise", graph.Shape{4, 8, 8}, &graph.Conv2d{In: 4, Out: 4, Kernel: three, Groups: 4}},
	} {
		t.Run(n.name, func(t *testing.T) {
			g := &graph.Graph{Name: "one", Inputs: []graph.Input{{Name: "x", Shape: n.in}}, Nodes: []graph.Node{{Name: "y", Op: n.op, Inputs: []string{"x"}}}, Output: "y"}
			if err := g.Check(); err != nil {
				t.Fatal(err)
			}
			run := func(precision exec.Precision, round bool) *model {
				m := build(t, g, 6, exec.Config{Precision: precision})
				m.e = m.p.New(team)
				dy := draw(len(m.y), 3)
				if round {
					kernel.RoundBF16(nil, m.x, m.x)
					kernel.RoundBF16(nil, dy, dy)
					for _, e := range m.p.Layout.Entries {
						if len(e.Shape) > 1 {
							w := m.st.Params[e.Off:][:e.Elems()]
							kernel.RoundBF16(nil, w, w)
						}
					}
				}
				m.forward()
				for range 2 { // the second adds to the first
					copy(m.e.Grad(0, m.out, m.rows), dy)
					m.e.Backward(0, m.st.Params, m.grads, true)
				}
				return m
			}
			a, b := run(exec.BF16, false), run(exec.Float32, true)
			bits(t, "answers", a.e.Value(0, a.out, a.rows), b.e.Value(0, b.out, b.rows))
			bits(t, "input", a.e.Grad(0, 0, a.rows), b.e.Grad(0, 0, b.rows))
			for _, e := range a.p.Layout.Entries {
				if len(e.Shape) > 1 {
					bits(t, e.Full, a.grads[e.Off:][:e.Elems()], b.grads[e.Off:][:e.Elems()])
				}
			}
			if c := run(exec.Float32, false); digest(c.grads) == digest(a.grads) {
				t.Error("bf16 makes no difference")
			}
		})
	}
}

// plain is a chain without norms or residuals: all that its backward pass reads are operands
// and signs.
func plain() *graph.Graph {
	three, one := graph.Pair{3, 3}, graph.Pair{1, 1}
	g := &graph.Graph{Name: "plain", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{4, 8, 8}}}, Output: "out", Nodes: []graph.Node{
		{Name: "a", Op: &graph.Conv2d{In: 4, Out: 16, Kernel: three, Padding: one, Bias: true}, Inputs: []string{"x"}},
		{Name: "ra", Op: &graph.ReLU{}, Inputs: []string{"a"}},
		{Name: "b", Op: &graph.Conv2d{In: 16, Out: 16, Kernel: three, Padding: one}, Inputs: []string{"ra"}},
		{Name: "rb", Op: &graph.ReLU{}, Inputs: []string{"b"}},
		{Name: "c", Op: &graph.Conv2d{In: 16, Out: 16, Kernel: three, Padding: one, Groups: 16}, Inputs: []string{"rb"}},
		{Name: "rc", Op: &graph.ReLU{}, Inputs: []string{"c"}},
		{Name: "f", Op: &graph.Flatten{}, Inputs: []string{"rc"}},
		{Name: "d", Op: &graph.Linear{In: 1024, Out: 40, Bias: true}, Inputs: []string{"f"}},
		{Name: "rd", Op: &graph.ReLU{}, Inputs: []string{"d"}},
		{Name: "out", Op: &graph.Linear{In: 40, Out: 3, Bias: true}, Inputs: []string{"rd"}},
	}}
	if err := g.Check(); err != nil {
		panic(err)
	}
	return g
}

// TestBF16Kept: keeping operands in half the memory and rounding in place change no bit of what
// copies that are rounded for each product give, in one pass, in two halves, with recomputation
// and on several threads.
func TestBF16Kept(t *testing.T) {
	exec.ShareAll(t)
	team := kernel.NewTeam(3)
	defer team.Close()
	gs := map[string]*graph.Graph{"plain": plain()}
	for _, g := range models {
		gs[g.Name] = g
	}
	for name, g := range tensorGraphs() {
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		gs["tensor "+name] = g
	}
	for name, g := range gs {
		t.Run(name, func(t *testing.T) {
			undo := exec.Plainly()
			want := build(t, g, 6, exec.Config{Precision: exec.BF16})
			undo()
			// Some answers are so small that only their signs are left.
			for i := range want.x {
				if i%7 == 0 && !g.Inputs[0].Constant {
					want.x[i] *= 0x1p-70
				}
			}
			want.forward()
			answer := append([]float32(nil), want.e.Value(0, want.out, want.rows)...)
			want.e.Backward(0, want.st.Params, want.grads, false)
			for _, c := range []exec.Config{
				{}, {Split: true}, {Recompute: exec.Selective}, {Recompute: exec.Full}, {Recompute: exec.Selective, Split: true}, {Recompute: exec.Full, Split: true},
			} {
				c.Precision = exec.BF16
				m := build(t, g, 6, c)
				m.x, m.e = want.x, m.p.New(team)
				for range 2 {
					m.forward()
					bits(t, "answers", answer, m.e.Value(0, m.out, m.rows))
					if c.Split {
						m.e.BackwardInput(0, m.st.Params)
						bits(t, "input", want.e.Grad(0, 0, want.rows), m.e.Grad(0, 0, m.rows))
						m.e.TrashAll()
						m.e.BackwardWeight(0, m.st.Params, m.grads, false)
					} else {
						m.e.Trash()
						m.e.Backward(0, m.st.Params, m.grads, false)
						bits(t, "input", want.e.Grad(0, 0, want.rows), m.e.Grad(0, 0, m.rows))
					}
					bits(t, "parameters", want.grads, m.grads)
					if len(m.st.Buffers) > 0 {
						break // running statistics go on
					}
				}
			}
		})
	}
}

// TestBF16Memory: what is kept for the backward pass of a chain of products takes half of what
// it takes in float32.
func TestBF16Memory(t *testing.T) {
	a, b := build(t, plain(), 64, exec.Config{}), build(t, plain(), 64, exec.Config{Precision: exec.BF16})
	if kept, here := b.p.Halves(); kept != 5 || here != 2 {
		t.Errorf("%d values are kept as operands and %d rounded in place, want 5 and 2: convolutions read what is kept", kept, here)
	}
	if f, h := a.p.Memory().Slot, b.p.Memory().Slot; float64(h) > 0.51*float64(f) {
		t.Errorf("a slot takes %d bytes, %d in float32", h, f)
	}
}

// TestMultiplies: the graph knows which inputs are operands of products, and the others' gradients.
func TestMultiplies(t *testing.T) {
	gs := append([]*graph.Graph{plain()}, models...)
	for _, g := range tensorGraphs() {
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		gs = append(gs, g)
	}
	for _, g := range gs {
		m := build(t, g, 2, exec.Config{Precision: exec.BF16})
		for i, n := range g.Nodes {
			for k := range n.Inputs {
				if got, want := graph.Multiplies(n.Op, k), m.p.Multiplies(i, k); got != want {
					t.Errorf("%s of %s, input %d: the graph says %v, the plan %v", n.Op.Kind(), g.Name, k, got, want)
				}
			}
		}
	}
}

// tangle is a random graph of values of one shape: products with and without biases, what works in
// place, views, norms, and sums of anything.
func tangle(r *rand.Rand) *graph.Graph {
	const rows, cols = 4, 6
	g := &graph.Graph{Name: "tangle", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{rows, cols}}}, Output: "y"}
	names := []string{"x"}
	pick := func() string { // mostly one of the last
		return names[max(0, len(names)-1-r.IntN(3)*r.IntN(3))]
	}
	add := func(op graph.Op, in ...string) string {
		name := fmt.Sprint("n", len(g.Nodes))
		g.Nodes = append(g.Nodes, graph.Node{Name: name, Op: op, Inputs: in})
		return name
	}
	for range 4 + r.IntN(12) {
		in := pick()
		var out string
		switch r.IntN(11) {
		case 0, 1, 2:
			out = add(&graph.Linear{In: cols, Out: cols, Bias: r.IntN(2) == 0}, in)
		case 3, 4:
			out = add(&graph.ReLU{}, in)
		case 5:
			out = add(&graph.Add{}, in, pick())
		case 6:
			out = add(&graph.Reshape{Shape: []int{rows, cols}}, add(&graph.Flatten{}, in))
		case 7:
			out = add(&graph.LayerNorm{Shape: []int{cols}, Eps: 1e-5, Affine: true}, in)
		case 8:
			out = add(&graph.GELU{Approximate: "none"}, in)
		case 9:
			out = add(&graph.Attention{Heads: 2, Causal: true}, add(&graph.Linears{In: cols, Out: cols, Names: []string{"q", "k", "v"}, Bias: r.IntN(2) == 0}, in))
		case 10:
			out = add(&graph.MatMul{}, add(&graph.MatMul{TransB: true, Scale: 0.5}, in, pick()), pick())
		}
		names = append(names, out)
	}
	g.Nodes = append(g.Nodes, graph.Node{Name: "y", Op: &graph.Add{}, Inputs: []string{names[len(names)-1], pick()}})
	return g
}

// FuzzBF16Kept: random graphs train to the same bits whether operands are kept in half the memory
// or copied for each product.
func FuzzBF16Kept(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed, uint8(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, form uint8) {
		g := tangle(rand.New(rand.NewPCG(seed, 1)))
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		out := []int{g.OutputValue()}
		c := exec.Config{Rows: 3, Slots: 1, Train: true, Outputs: out, Seeds: out, InputGrad: form&1 != 0, Split: form&2 != 0, Recompute: exec.Recompute(form / 4 % 3), Precision: exec.BF16}
		var runs [2][][]float32
		for k := range runs {
			undo := func() {}
			if k == 0 {
				undo = exec.Plainly()
			}
			p, err := exec.Compile(g, 0, c)
			undo()
			if err != nil {
				t.Fatal(err)
			}
			runs[k] = step(g, p, c)
		}
		for i := range runs[0] {
			for j, v := range runs[0][i] {
				if w := runs[1][i][j]; math.Float32bits(v) != math.Float32bits(w) && (v == v || w == w) {
					t.Fatalf("%+v: element %d of %d is %g, %g where operands are kept", c, j, i, v, w)
				}
			}
		}
	})
}

// step trains a plan on one micro-batch, and returns the answer, the gradients of parameters, and
// those of inputs.
func step(g *graph.Graph, p *exec.Plan, c exec.Config) [][]float32 {
	const rows = 3
	e, st, grads := p.New(nil), p.Layout.NewState(), make([]float32, p.Layout.Grads)
	p.Layout.Init(st, 1)
	for v := range g.Inputs {
		copy(e.Value(0, v, rows), draw(rows*g.Shape(v).Elems(), uint32(v)))
	}
	e.Forward(0, exec.Batch{Rows: rows}, st.Params, &st)
	out := g.OutputValue()
	answer := append([]float32(nil), e.Value(0, out, rows)...)
	copy(e.Grad(0, out, rows), draw(len(answer), 99))
	e.Trash()
	if c.Split {
		e.BackwardInput(0, st.Params)
	} else {
		e.Backward(0, st.Params, grads, false)
	}
	var inputs []float32
	for v := range g.Inputs {
		if c.InputGrad {
			inputs = append(inputs, e.Grad(0, v, rows)...)
		}
	}
	if c.Split {
		e.TrashAll()
		e.BackwardWeight(0, st.Params, grads, false)
	}
	return [][]float32{answer, grads, inputs}
}
