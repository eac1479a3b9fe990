// What a stage's arithmetic takes. Products are counted by their operations; everything else is
// bound by memory and by what a row costs to set up, and counts as so many of them.

package planner

import (
	"math"

	"github.com/ravnest/ravnest/engine/graph"
)

// passes is what both passes take, in operations of a matrix product at the speed that a provider's
// benchmark gives: so a node's speed turns it into seconds.
type passes struct{ forward, backward float64 }

func (p passes) total() float64         { return p.forward + p.backward }
func (p passes) times(f float64) passes { return passes{p.forward * f, p.backward * f} }
func (p passes) plus(q passes) passes   { return passes{p.forward + q.forward, p.backward + q.backward} }

// work is what computing takes.
type work struct {
	passes        // for a row of the batch
	edge   passes // of which for one of the products' own rows, such as a pixel: each micro-batch takes as long as some more of them
}

func (w work) plus(v work) work { return work{w.passes.plus(v.passes), w.edge.plus(v.edge)} }

// An element of an operation that is bound by memory takes as long as so many operations of a
// product, forward and backward. Measured with AVX-512, where 103 operations are a nanosecond, and
// fitted to the steps of the zoo's models (make bench-plan).
var elementWork = map[string]passes{
	"reshape": {}, "flatten": {}, "select": {}, "parameter": {}, // views
	"relu": {4, 7}, "add": {7, 4}, "expand": {14, 14}, "permute": {20, 20}, "concat": {20, 20}, "slice": {20, 20}, "pad": {20, 20},
	"gelu": {40, 70}, "dropout": {35, 15}, "layernorm": {60, 90}, "batchnorm1d": {35, 35}, "batchnorm2d": {35, 35}, "softmax": {70, 70},
	"embedding": {20, 40}, "position": {14, 20}, "maxpool2d": {90, 60}, "tokenmask": {14, 0},
}

const (
	otherWork   = 35   // of any other operation's element, each way
	resultWork  = 14   // of an element of a product's result, beyond the product
	convGain    = 1.03 // of a convolution over a benchmark's speed, the mean of a convolution's and of a product's
	softmaxRow  = 14e3 // of a row of attention's softmax forward, and half as much again backward
	narrowLoops = 6    // channels or features of a product that its set-up is worth
)

// nodeWork is the work of nodes [from, to).
func nodeWork(g *graph.Graph, varies []bool, from, to int) work {
	var w work
	for i := from; i < to; i++ {
		n := g.Nodes[i]
		in, out := g.ArgShapes(i), g.Shape(g.Result(i))
		c, elems := n.Op.Cost(in, out), float64(out.Elems())
		if !varies[g.Result(i)] {
			c.BackInput, c.BackWeight = 0, 0
		} else if args := g.Args(i); len(args) > 0 && !varies[args[0]] {
			c.BackInput = 0
		}
		one := passes{c.Forward, c.BackInput + c.BackWeight}
		rows := elems // of the product
		switch op := n.Op.(type) {
		case *graph.Conv2d:
			rows /= float64(op.Out)
			one = one.times((1 + narrowLoops/float64(op.Out)) / convGain).plus(passes{elems * resultWork, 2 * elems * resultWork})
		case *graph.Linear, *graph.Linears, *graph.MatMul:
			rows /= float64(max(out[len(out)-1], 1))
			one = one.times(1 + narrowLoops/float64(max(out[len(out)-1], 1))).plus(passes{elems * resultWork, 2 * elems * resultWork})
		case *graph.Attention:
			rows = float64(out[0])
			softmax := rows * float64(op.Heads) * softmaxRow
			one = one.plus(passes{softmax, 1.5 * softmax})
		default:
			e, ok := elementWork[n.Op.Kind()]
			if !ok {
				e = passes{otherWork, otherWork}
			}
			if one = e.times(elems); !varies[g.Result(i)] {
				one.backward = 0
			}
			rows = math.Inf(1)
		}
		w = w.plus(work{one, one.times(1 / max(rows, 1))})
	}
	return w
}
