// What a stage's arithmetic takes. Products are counted by their operations; everything else is
// bound by memory and by what a row costs to set up, and counts as so many of them.

package planner

import (
	"github.com/ravnest/ravnest/engine/graph"
)

// work is what computing takes for a row of the batch, in operations of a matrix product at
// the speed that a provider's benchmark gives: so a node's speed turns it into seconds.
type work struct{ forward, backward float64 }

func (w work) total() float64 { return w.forward + w.backward }

// An element of an operation that is bound by memory takes as long as so many operations of a
// product, forward and backward. Measured with AVX-512, where 103 operations are a nanosecond, and
// fitted to the steps of the zoo's models (make bench-plan).
var elementWork = map[string]work{
	"reshape": {}, "flatten": {}, "select": {}, "parameter": {}, // views
	"relu": {4, 7}, "add": {7, 4}, "expand": {14, 14}, "permute": {20, 20}, "concat": {20, 20}, "slice": {20, 20}, "pad": {20, 20},
	"gelu": {40, 70}, "dropout": {35, 15}, "layernorm": {60, 90}, "batchnorm1d": {35, 35}, "batchnorm2d": {35, 35}, "softmax": {70, 70},
	"embedding": {20, 40}, "position": {14, 20}, "maxpool2d": {90, 60}, "tokenmask": {14, 0},
}

const (
	otherWork   = 35   // of any other operation's element, each way
	resultWork  = 14   // of an element of a product's result, beyond the product
	convGain    = 1.06 // of a convolution over a benchmark's speed, the mean of a convolution's and of a product's
	softmaxRow  = 14e3 // of a row of attention's softmax forward, and half as much again backward
	narrowLoops = 12   // channels or features of a product that its set-up is worth
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
		one := work{c.Forward, c.BackInput + c.BackWeight}
		switch op := n.Op.(type) {
		case *graph.Conv2d:
			one = one.times((1+narrowLoops/float64(op.Out))/convGain).plus(elems*resultWork, 2*elems*resultWork)
		case *graph.Linear, *graph.Linears, *graph.MatMul:
			one = one.times(1+narrowLoops/float64(max(out[len(out)-1], 1))).plus(elems*resultWork, 2*elems*resultWork)
		case *graph.Attention:
			rows := float64(out[0] * op.Heads)
			one = one.plus(rows*softmaxRow, 1.5*rows*softmaxRow)
		default:
			e, ok := elementWork[n.Op.Kind()]
			if !ok {
				e = work{otherWork, otherWork}
			}
			if one = e.times(elems); !varies[g.Result(i)] {
				one.backward = 0
			}
		}
		w = w.plus(one.forward, one.backward)
	}
	return w
}

func (w work) times(f float64) work            { return work{w.forward * f, w.backward * f} }
func (w work) plus(forward, back float64) work { return work{w.forward + forward, w.backward + back} }
