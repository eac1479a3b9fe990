// What a stage's arithmetic takes. Products and convolutions are counted by their operations, and
// everything else by the time that it takes where it was measured. A provider's benchmark has a figure
// for each of the three.

package planner

import (
	"math"
	"math/bits"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/pipeline/forecast"
)

// Speeds are a provider's, by its benchmark; 0: not measured.
type Speeds struct {
	Product, Conv float64 // GFLOP/s
	Vector        float64 // elements a nanosecond
	Alone         float64 // GFLOP/s of products on one thread
}

// reference is the machine on which times were measured first: an idle Emerald Rapids with AVX-512. Where a Zen 5
// differs from it, beside the figures of its benchmark, a time lies between the two.
var reference = Speeds{Product: 158, Conv: 122, Vector: 0.228}

// cost is what computing takes: operations of products and of convolutions, and the nanoseconds of
// everything else on the reference.
type cost struct{ product, conv, vector float64 }

func (c cost) times(f float64) cost { return cost{c.product * f, c.conv * f, c.vector * f} }
func (c cost) plus(d cost) cost {
	return cost{c.product + d.product, c.conv + d.conv, c.vector + d.vector}
}

// Of the speed of a benchmark's one shape, the shapes of models reach so much in the mean of all three
// directions.
const (
	productGain = 0.89
	convGain    = 1.02
)

// nanoseconds is how long a machine takes.
func (c cost) nanoseconds(s Speeds) float64 {
	return c.product/(productGain*s.Product) + c.conv/(convGain*s.Conv) + c.vector*reference.Vector/s.Vector
}

// operations is what it takes in operations of products.
func (c cost) operations() float64 {
	return c.nanoseconds(reference) * productGain * reference.Product
}

// passes is what both passes take.
type passes struct {
	forward, backward cost
	weight            cost // of backward, gradients of weights
}

func (p passes) total() float64 { return p.forward.operations() + p.backward.operations() }
func (p passes) times(f float64) passes {
	return passes{p.forward.times(f), p.backward.times(f), p.weight.times(f)}
}

func (p passes) plus(q passes) passes {
	return passes{p.forward.plus(q.forward), p.backward.plus(q.backward), p.weight.plus(q.weight)}
}

// work is what computing takes.
type work struct {
	passes        // for a row of the batch, of a micro-batch that fits into caches
	far    far    // more, where it does not
	edge   passes // of which for one of the products' own rows, such as a pixel: each micro-batch takes as long as some more of them
}

func (w work) plus(v work) work {
	return work{w.passes.plus(v.passes), w.far.plus(v.far), w.edge.plus(v.edge)}
}

// far is what a row of micro-batches of 1, 2, 4 and more rows takes beside the rest, forward and backward,
// in nanoseconds on the reference: where tensors are large, their elements come from farther away.
type far [11]nanos

// The time of an element grows with each doubling of its tensor, from what fits into the first cache to what
// fits into none.
const (
	farEach = 0.045
	farFits = 1 << 16 // bytes
	farMost = 0.45
	farBack = 1.5 // backward, by forward
)

// farOf is that of a value of so many elements a row.
func farOf(elems float64, varies bool) (f far) {
	for i := range f {
		t := elems * min(max(farEach*math.Log2(4*elems*math.Exp2(float64(i))/farFits), 0), farMost)
		if f[i].forward = t; varies {
			f[i].backward = farBack * t
		}
	}
	return f
}

func (f far) plus(g far) far {
	for i := range f {
		f[i].forward += g[i].forward
		f[i].backward += g[i].backward
	}
	return f
}

func (f far) minus(g far) far {
	for i := range f {
		f[i].forward -= g[i].forward
		f[i].backward -= g[i].backward
	}
	return f
}

// of is that of a row of a micro-batch of so many.
func (f far) of(rows int) nanos { return f[min(bits.Len(uint(max(rows, 1)))-1, len(f)-1)] }

// operations is what a row takes in operations of products, in micro-batches of so many.
func (w work) operations(rows int) float64 {
	f := w.far.of(rows)
	return w.total() + cost{vector: f.forward + f.backward}.operations()
}

// times is what each takes in the forecast's numbers, with seconds for an operation of products.
func (f far) times(seconds float64) []forecast.Pass {
	p := make([]forecast.Pass, len(f))
	of := func(t float64) float64 { return cost{vector: t}.operations() * seconds }
	for i := range f {
		p[i] = forecast.Pass{Forward: of(f[i].forward), Backward: of(f[i].backward)}
	}
	return p
}

// Model is what a row of a batch takes of a whole model, both ways.
type Model struct {
	all   cost
	alone bool // batches are so small that they are computed on one thread
}

// ModelOf adds up a model, which is trained with batches of so many rows.
func ModelOf(g *graph.Graph, rows int) Model {
	w := nodeWork(g, g.Varying(false), 0, len(g.Nodes))
	return Model{w.forward.plus(w.backward), exec.Alone(g, rows)}
}

// Compute is the speed at which a provider computes the model, in operations of products a second; 0:
// not measured. What was not measured alone is thought to be as fast beside the rest as on the
// reference.
func (m Model) Compute(s Speeds) float64 {
	like := s.Product / reference.Product
	if s.Product <= 0 {
		like = s.Conv / reference.Conv
	}
	if like <= 0 {
		return 0
	}
	or := func(measured, thought float64) float64 {
		if measured > 0 {
			return measured
		}
		return thought
	}
	s.Product = or(s.Product, like*reference.Product)
	s = Speeds{s.Product, or(s.Conv, like*reference.Conv), or(s.Vector, like*reference.Vector), or(s.Alone, s.Product)}
	if f := s.Alone / s.Product; m.alone && f < 1 {
		s.Product, s.Conv, s.Vector = f*s.Product, f*s.Conv, f*s.Vector
	}
	return 1e9 * max(m.all.operations(), 1) / max(m.all.nanoseconds(s), 1e-3)
}

// Gain is by how much faster a provider computes large batches of the model with all its threads than with
// one; 1 where it is not known, or where Compute is the speed of one.
func (m Model) Gain(s Speeds) float64 {
	if m.alone || s.Alone <= 0 {
		return 1
	}
	return max(1, s.Product/s.Alone)
}

// nanos are those of an element forward and backward, or of a row.
type nanos struct{ forward, backward float64 }

func (t nanos) passes(n float64) passes {
	return passes{forward: cost{vector: t.forward * n}, backward: cost{vector: t.backward * n}}
}

// elementTime is that of an element of a result. Measured as the least time of each operation in
// steps of the zoo's models and of decoders of widths of 48 to 768.
var elementTime = map[string]nanos{
	"reshape": {}, "flatten": {}, "select": {}, "parameter": {}, // views
	"relu": {0.02, 0.1}, "add": {0.16, 0.16}, "expand": {0.14, 0.14}, "permute": {0.2, 0.2}, "concat": {0.2, 0.2}, "slice": {0.2, 0.2}, "pad": {0.2, 0.2},
	"gelu": {0.61, 0.72}, "dropout": {0.6, 0.09}, "layernorm": {0.32, 0.7}, "batchnorm1d": {0.5, 0.5}, "batchnorm2d": {0.5, 0.5}, "softmax": {1.3, 0.7},
	"embedding": {0.16, 0.35}, "position": {0.13, 0.24}, "tokenmask": {0.14, 0},
}

// rowTime comes with each row of the last axis.
var rowTime = map[string]nanos{"layernorm": {88, 85}, "softmax": {56, 20}}

var (
	otherTime  = nanos{0.35, 0.35} // of any other operation's element
	resultTime = nanos{0.08, 0.08} // of an element of a convolution's result, beyond the products
	windowTime = nanos{0.05, 0.03} // of pooling, by the square of the window's area
	queryTime  = nanos{84, 148}    // of a query of attention, of which each head has so many
	widthTime  = nanos{0.5, 1.7}   // and of each feature of it
	keyTime    = nanos{2.4, 4}     // and of each key that it sees
	maskTime   = nanos{5.5, 5}     // more with a mask
)

// narrowLoops are the channels or features of a product's result that its set-up is worth.
const narrowLoops = 6

// nodeWork is the work of nodes [from, to).
func nodeWork(g *graph.Graph, varies []bool, from, to int) work {
	var w work
	for i := from; i < to; i++ {
		one, rows := opWork(g, i, varies)
		if !varies[g.Result(i)] {
			one.backward, one.weight = cost{}, cost{}
		}
		v := work{passes: one, edge: one.times(1 / max(rows, 1))}
		if g.Once(i) {
			v.passes, v.edge = v.passes.times(1/float64(g.Samples())), v.edge.times(1/float64(g.Samples()))
		}
		if strays(g.Nodes[i].Op) {
			v.far = farOf(float64(g.Shape(g.Result(i)).Elems()), varies[g.Result(i)])
		}
		w = w.plus(v)
	}
	return w
}

// strays tells whether an operation takes longer where its result is far away: those of transformers that
// read and write much for what they compute, as measured. Convolutions work line by line.
func strays(op graph.Op) bool {
	switch op.(type) {
	case *graph.Linear, *graph.Linears, *graph.MatMul, *graph.Attention, *graph.LayerNorm, *graph.GELU, *graph.Softmax:
		return true
	}
	return false
}

// opWork is what node i takes for a row of the batch, and how many rows the product has for it.
func opWork(g *graph.Graph, i int, varies []bool) (p passes, rows float64) {
	n, in, out := g.Nodes[i], g.ArgShapes(i), g.Shape(g.Result(i))
	c, elems, last := n.Op.Cost(in, out), float64(out.Elems()), 1.0
	if len(out) > 0 {
		last = float64(max(out[len(out)-1], 1))
	}
	if args := g.Args(i); len(args) > 0 && !varies[args[0]] {
		c.BackInput = 0
	}
	switch op := n.Op.(type) {
	case *graph.Conv2d:
		return passes{cost{conv: c.Forward}, cost{conv: c.BackInput + c.BackWeight}, cost{conv: c.BackWeight}}.times(1 + narrowLoops/float64(op.Out)).plus(resultTime.passes(elems)), elems / float64(op.Out)
	case *graph.Linear, *graph.Linears, *graph.MatMul:
		return passes{cost{product: c.Forward}, cost{product: c.BackInput + c.BackWeight}, cost{product: c.BackWeight}}.times(1 + narrowLoops/last), elems / last
	case *graph.Attention:
		rows = float64(out[0])
		queries, keys := rows*float64(op.Heads), rows
		if op.Causal {
			keys /= 2
		}
		p = passes{forward: cost{product: c.Forward}, backward: cost{product: c.BackInput}}
		p = p.plus(queryTime.passes(queries)).plus(widthTime.passes(queries * last / float64(op.Heads))).plus(keyTime.passes(queries * keys))
		if len(in) > 1 {
			p = p.plus(maskTime.passes(queries * keys))
		}
		return p, rows
	case *graph.MaxPool2d:
		area := float64(op.Kernel[0] * op.Kernel[1])
		return windowTime.passes(elems * area * area), math.Inf(1)
	}
	t, ok := elementTime[n.Op.Kind()]
	if !ok {
		t = otherTime
	}
	return t.passes(elems).plus(rowTime[n.Op.Kind()].passes(elems / last)), math.Inf(1)
}
