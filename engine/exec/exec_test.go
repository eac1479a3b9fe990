package exec_test

import (
	"math"
	"runtime"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/zoo"
)

// model is a graph compiled for training with its state and a batch.
type model struct {
	g     *graph.Graph
	e     *exec.Exec
	p     *exec.Plan
	st    exec.State
	grads []float32
	x, y  []float32
	rows  int
	out   int
}

func draw(n int, node uint32) []float32 {
	v := make([]float32, n)
	kernel.Normal(v, kernel.NewStream(7, kernel.DomainTest, 0, node))
	return v
}

func build(t testing.TB, g *graph.Graph, rows int, c exec.Config) *model {
	t.Helper()
	m := &model{g: g, rows: rows, out: g.OutputValue()}
	outs := []int{m.out}
	var err error
	c.Rows, c.Slots, c.Train, c.Outputs, c.Seeds, c.InputGrad = rows, 1, true, outs, outs, true
	m.p, err = exec.Compile(g, 0, c)
	if err != nil {
		t.Fatal(err)
	}
	m.e = m.p.New(nil)
	m.st = m.p.Layout.NewState()
	m.p.Layout.Init(m.st, 42)
	m.grads = make([]float32, m.p.Layout.Grads)
	if m.x = draw(rows*g.Shape(0).Elems(), 1); g.Inputs[0].Constant {
		for i := range m.x { // tokens
			m.x[i] = float32(i * i % 5)
		}
	}
	m.y = draw(rows*g.Shape(m.out).Elems(), 2)
	return m
}

func (m *model) forward() float64 {
	copy(m.e.Value(0, 0, m.rows), m.x)
	m.e.Forward(0, exec.Batch{Seed: 3, Step: 5, Rows: m.rows}, m.st.Params, &m.st)
	y := m.e.Value(0, m.out, m.rows)
	kernel.MSE(m.e.Grad(0, m.out, m.rows), y, m.y, 1/float32(len(m.y)))
	sum := 0.0 // in float64, which differences of it need
	for i, v := range y {
		d := float64(v) - float64(m.y[i])
		sum += d * d
	}
	return sum / float64(len(m.y))
}

// models are the zoo's in small sizes, with dropout and padding.
var models = []*graph.Graph{
	zoo.CNN(),
	zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 8, Tokens: 9, Vocab: 5, Dropout: 0.2}),
	zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 1, Heads: 2, Width: 8, Inner: 12, Tokens: 7, Positions: 9, Vocab: 5, Classes: 3, Dropout: 0.1}),
	zoo.ResNet(zoo.ResNetConfig{Name: "resnet", Blocks: [4]int{1, 1, 1, 1}, Width: 4, Image: 64, Classes: 3}),
}

// TestGradientsByFiniteDifferences: the loss, moved along random directions of the
// parameters and the input, changes as the gradient says. float32 leaves about three
// digits of a central difference, hence the tolerance. A residual network has too many
// kinks for that: its gradients are compared with PyTorch's only.
func TestGradientsByFiniteDifferences(t *testing.T) {
	for _, g := range models[:3] {
		t.Run(g.Name, func(t *testing.T) { finiteDifferences(t, g) })
	}
}

func finiteDifferences(t *testing.T, g *graph.Graph) {
	// A step over few kinks of ReLU and max pooling that stays above float32's noise.
	differences(t, g, 1e-4)
}

// differences is finiteDifferences by steps of h.
func differences(t *testing.T, g *graph.Graph, h float32) {
	m := build(t, g, 8, exec.Config{})
	// Where there are no kinks it may be larger, and so may weights be, for gradients that are.
	if g.Inputs[0].Constant {
		h = 2e-3
		for _, e := range m.p.Layout.Entries {
			if len(e.Shape) > 1 {
				v := m.st.Params[e.Off:][:e.Elems()]
				kernel.Scale(v, v, 15)
			}
		}
	}
	m.forward()
	m.e.Backward(0, m.st.Params, m.grads, false)
	gx := append([]float32(nil), m.e.Grad(0, 0, m.rows)...)
	check := func(name string, v, g []float32, node uint32) {
		d := draw(len(v), node)
		var want, norm float64
		for i := range v {
			want += float64(g[i]) * float64(d[i])
			norm += float64(g[i]) * float64(g[i])
		}
		old := append([]float32(nil), v...)
		at := func(s float32) float64 {
			for i := range v {
				v[i] = old[i] + float32(s*d[i])
			}
			return m.forward()
		}
		got := (at(h) - at(-h)) / (2 * float64(h))
		copy(v, old)
		if math.Abs(got-want) > 0.05*math.Abs(want)+0.02*math.Sqrt(norm)+1e-5 {
			t.Errorf("%s: the loss changes by %g along a random direction, the gradient says %g (norm %g)", name, got, want, math.Sqrt(norm))
		}
	}
	for k, e := range m.p.Layout.Entries {
		if e.Role == graph.Trainable {
			check(e.Full, m.st.Params[e.Off:][:e.Elems()], m.grads[e.Off:][:e.Elems()], uint32(10+k))
		}
	}
	if !g.Inputs[0].Constant {
		check("input", m.x, gx, 99)
	}
}

// TestSplitBackward: the two halves of a split backward pass give the bits of the
// joined one.
func TestSplitBackward(t *testing.T) {
	for _, g := range models {
		t.Run(g.Name, func(t *testing.T) { splitBackward(t, g) })
	}
}

func splitBackward(t *testing.T, g *graph.Graph) {
	a, b := build(t, g, 16, exec.Config{}), build(t, g, 16, exec.Config{Split: true})
	a.forward()
	a.e.Backward(0, a.st.Params, a.grads, false)
	b.forward()
	b.e.BackwardInput(0, b.st.Params)
	gx := append([]float32(nil), b.e.Grad(0, 0, b.rows)...)
	b.e.TrashAll()
	b.e.BackwardWeight(0, b.st.Params, b.grads, false)
	bits(t, "parameters", a.grads, b.grads)
	bits(t, "input", a.e.Grad(0, 0, a.rows), gx)
}

func bits(t *testing.T, what string, a, b []float32) {
	t.Helper()
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			t.Fatalf("%s: element %d is %g and %g", what, i, a[i], b[i])
		}
	}
}

// TestThreads: sharing rows among threads changes no bit, and allocates nothing.
func TestThreads(t *testing.T) {
	exec.ShareAll(t)
	team := kernel.NewTeam(3)
	defer team.Close()
	for _, g := range models {
		t.Run(g.Name, func(t *testing.T) {
			for _, again := range []exec.Recompute{exec.KeepAll, exec.Full} {
				a, b := build(t, g, 16, exec.Config{}), build(t, g, 16, exec.Config{Recompute: again})
				b.e = b.p.New(team)
				a.forward()
				b.forward()
				bits(t, "answers", a.e.Value(0, a.out, a.rows), b.e.Value(0, b.out, b.rows))
				a.e.Backward(0, a.st.Params, a.grads, false)
				b.e.Backward(0, b.st.Params, b.grads, false)
				bits(t, "parameters", a.grads, b.grads)
				bits(t, "input", a.e.Grad(0, 0, a.rows), b.e.Grad(0, 0, b.rows))
				if n := testing.AllocsPerRun(3, func() {
					b.forward()
					b.e.Backward(0, b.st.Params, b.grads, false)
				}); n != 0 {
					t.Errorf("a step allocates %v times", n)
				}
			}
		})
	}
}

// TestRecompute: what is computed again has the bits of what is kept, in one backward pass
// and in two halves with another micro-batch in between, and takes less memory.
func TestRecompute(t *testing.T) {
	for _, g := range models {
		t.Run(g.Name, func(t *testing.T) {
			a := build(t, g, 16, exec.Config{})
			a.forward()
			a.e.Backward(0, a.st.Params, a.grads, false)
			was := a.p.Memory().Total()
			for _, c := range []exec.Config{
				{Recompute: exec.Selective},
				{Recompute: exec.Full},
				{Recompute: exec.Selective, Split: true},
				{Recompute: exec.Full, Split: true},
			} {
				b := build(t, g, 16, c)
				b.forward()
				if c.Split {
					b.e.BackwardInput(0, b.st.Params)
					b.e.TrashAll()
					b.e.BackwardWeight(0, b.st.Params, b.grads, false)
				} else {
					b.e.Trash()
					b.e.Backward(0, b.st.Params, b.grads, false)
				}
				bits(t, "parameters", a.grads, b.grads)
				bits(t, "buffers", a.st.Buffers, b.st.Buffers)
				is := b.p.Memory().Total()
				if !c.Split && is >= was {
					t.Errorf("the plan takes %d bytes with %+v, %d with less", is, c, was)
				}
				was = is
			}
		})
	}
}

// TestMicroBatches: dot products over the rows go on across micro-batches, so without
// batch norm two halves give the bits of the whole.
func TestMicroBatches(t *testing.T) {
	g := &graph.Graph{Name: "mlp", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{5}}}, Output: "c", Nodes: []graph.Node{
		{Name: "a", Op: &graph.Linear{In: 5, Out: 7}, Inputs: []string{"x"}},
		{Name: "d", Op: &graph.Dropout{P: 0.3}, Inputs: []string{"a"}},
		{Name: "r", Op: &graph.ReLU{}, Inputs: []string{"d"}},
		{Name: "b", Op: &graph.Linear{In: 7, Out: 7}, Inputs: []string{"r"}},
		{Name: "s", Op: &graph.Add{}, Inputs: []string{"r", "b"}},
		{Name: "c", Op: &graph.Linear{In: 7, Out: 3}, Inputs: []string{"s"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	m := build(t, g, 10, exec.Config{})
	m.forward()
	m.e.Backward(0, m.st.Params, m.grads, false)
	halves := make([]float32, len(m.grads))
	for h := range 2 {
		copy(m.e.Value(0, 0, 5), m.x[h*25:])
		m.e.Forward(0, exec.Batch{Seed: 3, Step: 5, Row0: 5 * h, Rows: 5}, m.st.Params, &m.st)
		kernel.MSE(m.e.Grad(0, m.out, 5), m.e.Value(0, m.out, 5), m.y[h*15:h*15+15], 1.0/30)
		m.e.Backward(0, m.st.Params, halves, h > 0)
	}
	bits(t, "parameters", m.grads, halves)
}

// TestPlanIsWhatRuns: the memory that the plan announces is what New allocates, and
// running allocates nothing more.
func TestPlanIsWhatRuns(t *testing.T) {
	for _, g := range models {
		t.Run(g.Name, func(t *testing.T) { planIsWhatRuns(t, g) })
	}
}

func planIsWhatRuns(t *testing.T, g *graph.Graph) {
	for _, c := range []exec.Config{{}, {Split: true}, {Recompute: exec.Full}, {Precision: exec.BF16}, {Precision: exec.BF16, Split: true}} {
		m := build(t, g, 16, c)
		// What is allocated besides is small and independent of the model's sizes: headers of
		// slices, rounding to the allocator's classes and to cache lines.
		const rest = 64 << 10
		want := m.p.Memory()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, st, grads := m.p.New(nil), m.p.Layout.NewState(), make([]float32, m.p.Layout.Grads)
		runtime.ReadMemStats(&after)
		if got := int(after.TotalAlloc - before.TotalAlloc); got < want.Total() || got > want.Total()+want.Total()/8+rest {
			t.Errorf("%+v: New allocates %d bytes, the plan says %d", c, got, want.Total())
		}
		runtime.KeepAlive(e)
		runtime.KeepAlive(st)
		runtime.KeepAlive(grads)
		if n := testing.AllocsPerRun(5, func() {
			m.forward()
			if c.Split {
				m.e.BackwardInput(0, m.st.Params)
				m.e.BackwardWeight(0, m.st.Params, m.grads, false)
			} else {
				m.e.Backward(0, m.st.Params, m.grads, false)
			}
		}); n != 0 {
			t.Errorf("%+v: a training step allocates %v times, want 0", c, n)
		}
	}
}

func BenchmarkCNNStep(b *testing.B) {
	m := build(b, zoo.CNN(), 64, exec.Config{})
	b.ReportAllocs()
	for b.Loop() {
		m.forward()
		m.e.Backward(0, m.st.Params, m.grads, false)
	}
	b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "samples/s")
}

// BenchmarkStep: forward and backward pass of every kind of model in a small size.
func BenchmarkStep(b *testing.B) {
	for _, g := range models {
		b.Run(g.Name, func(b *testing.B) {
			m := build(b, g, 16, exec.Config{})
			b.ReportAllocs()
			for b.Loop() {
				m.forward()
				m.e.Backward(0, m.st.Params, m.grads, false)
			}
		})
	}
}

// FuzzCompile: whatever parses as a model is planned, or refused, without a panic.
func FuzzCompile(f *testing.F) {
	for _, node := range []string{
		`"op":"conv2d","in":["x"],"attrs":{"in_channels":2,"out_channels":4,"kernel_size":[3,3],"stride":[2,1],"padding":[1,1],"groups":2}`,
		`"op":"maxpool2d","in":["x"],"attrs":{"kernel_size":[3,3],"stride":[2,2],"padding":[1,1]}`,
		`"op":"adaptiveavgpool2d","in":["x"],"attrs":{"output_size":[2,3]}`,
		`"op":"batchnorm2d","in":["x"],"attrs":{"num_features":2}`,
		`"op":"linears","in":["x"],"attrs":{"in_features":6,"out_features":2,"names":["q","k"]}`,
		`"op":"layernorm","in":["x"],"attrs":{"normalized_shape":[6]}`,
		`"op":"embedding","in":["x"],"attrs":{"num_embeddings":3,"embedding_dim":2}`,
		`"op":"select","in":["x"],"attrs":{"index":1}`,
		`"op":"add","in":["x","x"]`,
	} {
		f.Add([]byte(`{"version":1,"name":"f","inputs":[{"name":"x","shape":[2,4,6]}],"nodes":[{"name":"n",` + node + `},{"name":"r","op":"relu","in":["n"]}],"output":"r"}`))
	}
	f.Add([]byte(`{"version":1,"name":"f","inputs":[{"name":"x","shape":[5,6]},{"name":"m","shape":[5]}],"nodes":[{"name":"a","op":"attention","in":["x","m"],"attrs":{"heads":2,"causal":true,"p":0.5}},{"name":"p","op":"position","in":["a"],"attrs":{"num_embeddings":9,"embedding_dim":2}},{"name":"g","op":"gelu","in":["p"]}],"output":"g"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := graph.Parse(data)
		if err != nil {
			return
		}
		out := []int{g.OutputValue()}
		for _, c := range []exec.Config{
			{Rows: 2, Outputs: out},
			{Rows: 2, Slots: 2, Train: true, Outputs: out, Seeds: out, InputGrad: true, Split: true},
			{Rows: 2, Slots: 2, Train: true, Outputs: out, Seeds: out, InputGrad: true, Split: true, Recompute: exec.Full},
		} {
			p, err := exec.Compile(g, 0, c)
			if err != nil {
				return
			}
			// Small ones are run, on whatever the parameters begin with.
			if m := p.Memory().Total(); m < 0 || m > 1<<20 || g.Cost(0, len(g.Nodes)).Total() > 1e6 {
				return
			}
			e, st := p.New(nil), p.Layout.NewState()
			p.Layout.Init(st, 1)
			e.Forward(0, exec.Batch{Rows: 2}, st.Params, &st)
			if c.Train {
				grads := make([]float32, p.Layout.Grads)
				e.BackwardInput(0, st.Params)
				e.BackwardWeight(0, st.Params, grads, false)
			}
		}
	})
}
