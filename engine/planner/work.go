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
// product, forward and backward. Measured on AVX2 at 70 GFLOP/s, where 70 operations are a
// nanosecond; they were fitted to the steps of the zoo's models and hold within a quarter.
var elementWork = map[string]work{
	"reshape": {}, "flatten": {}, "select": {}, "parameter": {}, // views
	"relu": {10, 20}, "add": {20, 10}, "expand": {40, 40}, "permute": {60, 60}, "concat": {60, 60}, "slice": {60, 60}, "pad": {60, 60},
	"gelu": {110, 210}, "dropout": {200, 60}, "layernorm": {180, 250}, "batchnorm1d": {100, 100}, "batchnorm2d": {100, 100}, "softmax": {200, 200},
	"embedding": {60, 120}, "position": {40, 60}, "maxpool2d": {500, 200}, "tokenmask": {40, 0},
}

const (
	otherWork   = 100 // of any other operation's element, each way
	resultWork  = 40  // of an element of a product's result, beyond the product
	gemmGain    = 1.2 // a benchmark's speed is the mean of a product's and of a convolution's
	convLoss    = 0.86
	softmaxRow  = 30e3 // of a row of attention's softmax forward, and half as much again backward
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
			one = one.times((1+narrowLoops/float64(op.Out))/convLoss).plus(elems*resultWork, 2*elems*resultWork)
		case *graph.Linear, *graph.Linears, *graph.MatMul:
			one = one.times((1+narrowLoops/float64(max(out[len(out)-1], 1)))/gemmGain).plus(elems*resultWork, 2*elems*resultWork)
		case *graph.Attention:
			rows := float64(out[0] * op.Heads)
			one = one.times(1/gemmGain).plus(rows*softmaxRow, 1.5*rows*softmaxRow)
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
