package exec_test

import (
	"math"
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

func build(t testing.TB, g *graph.Graph, rows int, split bool, team *kernel.Team) *model {
	t.Helper()
	m := &model{g: g, rows: rows, out: g.OutputValue()}
	outs := []int{m.out}
	var err error
	m.p, err = exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: outs, Seeds: outs, InputGrad: true, Split: split})
	if err != nil {
		t.Fatal(err)
	}
	m.e = m.p.New(team)
	m.st = m.p.Layout.NewState()
	m.p.Layout.Init(m.st, 42)
	m.grads = make([]float32, m.p.Layout.Trainable)
	m.x = draw(rows*g.Shape(0).Elems(), 1)
	m.y = draw(rows*g.Shape(m.out).Elems(), 2)
	return m
}

func (m *model) forward() float64 {
	copy(m.e.Value(0, 0, m.rows), m.x)
	m.e.Forward(0, exec.Batch{Seed: 3, Step: 5, Rows: m.rows}, m.st.Params, &m.st)
	scale := 1 / float32(len(m.y))
	return float64(kernel.MSE(m.e.Grad(0, m.out, m.rows), m.e.Value(0, m.out, m.rows), m.y, scale)) / float64(len(m.y))
}

// TestGradientsByFiniteDifferences: the loss, moved along random directions of the
// parameters and the input, changes as the gradient says. float32 leaves about three
// digits of a central difference, hence the tolerance.
func TestGradientsByFiniteDifferences(t *testing.T) {
	m := build(t, zoo.CNN(), 8, false, nil)
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
		const h = 1e-4 // steps over few kinks of ReLU and max pooling, and stays above float32's noise
		at := func(s float32) float64 {
			for i := range v {
				v[i] = old[i] + float32(s*d[i])
			}
			return m.forward()
		}
		got := (at(h) - at(-h)) / (2 * h)
		copy(v, old)
		if math.Abs(got-want) > 0.05*math.Abs(want)+0.02*math.Sqrt(norm) {
			t.Errorf("%s: the loss changes by %g along a random direction, the gradient says %g (norm %g)", name, got, want, math.Sqrt(norm))
		}
	}
	for k, e := range m.p.Layout.Entries {
		if e.Role == graph.Trainable {
			check(e.Full, m.st.Params[e.Off:][:e.Elems()], m.grads[e.Off:][:e.Elems()], uint32(10+k))
		}
	}
	check("input", m.x, gx, 99)
}

// TestSplitBackward: the two halves of a split backward pass give the bits of the
// joined one.
func TestSplitBackward(t *testing.T) {
	a, b := build(t, zoo.CNN(), 16, false, nil), build(t, zoo.CNN(), 16, true, nil)
	a.forward()
	a.e.Backward(0, a.st.Params, a.grads, false)
	b.forward()
	b.e.BackwardInput(0, b.st.Params)
	gx := append([]float32(nil), b.e.Grad(0, 0, b.rows)...)
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
	m := build(t, g, 10, false, nil)
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
	m := build(t, zoo.CNN(), 64, false, nil)
	if n := testing.AllocsPerRun(5, func() {
		m.forward()
		m.e.Backward(0, m.st.Params, m.grads, false)
	}); n != 0 {
		t.Errorf("a training step allocates %v times, want 0", n)
	}
}

func BenchmarkCNNStep(b *testing.B) {
	m := build(b, zoo.CNN(), 64, false, nil)
	b.ReportAllocs()
	for b.Loop() {
		m.forward()
		m.e.Backward(0, m.st.Params, m.grads, false)
	}
	b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "samples/s")
}
