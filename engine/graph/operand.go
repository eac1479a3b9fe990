// Which tensors lose nothing when they are rounded to bfloat16 in a job of that precision, since
// all that becomes of them are operands of products.

package graph

import "slices"

// Multiplies tells whether an op reads input arg as an operand of products, and in no other way.
func Multiplies(op Op, arg int) bool {
	switch op.(type) {
	case *Conv2d, *ConvTranspose2d, *Linear, *Linears, *MatMul:
		return true
	case *Attention:
		return arg == 0 // the other is a mask
	}
	return false
}

// multipliesGrad tells whether an op reads the gradient of its output as an operand of products,
// and in no other way: a bias adds it up.
func multipliesGrad(op Op) bool {
	switch o := op.(type) {
	case *Conv2d:
		return !o.Bias
	case *ConvTranspose2d:
		return !o.Bias
	case *Linear:
		return !o.Bias
	case *Linears:
		return !o.Bias
	}
	return Multiplies(op, 0)
}

// moves tells whether an op moves elements, and computes nothing of them.
func moves(op Op) bool {
	switch op.(type) {
	case *Flatten, *Reshape, *Permute, *Slice, *Select, *Concat:
		return true
	}
	return false
}

// masks tells whether the gradient of an op's input is that of its output, moved, or zero.
func masks(op Op) bool {
	switch o := op.(type) {
	case *ReLU:
		return true
	case *MaxPool2d: // windows that do not overlap
		s := o.Step()
		return s[0] >= o.Kernel[0] && s[1] >= o.Kernel[1]
	}
	return moves(op)
}

// operands tells, for every value, whether all nodes from some node on that read it make operands of
// it. One pass from the last value to the first finds it, and one from the first to the last for
// gradients.
type operands struct {
	last     []int  // by value: the last node that reads it, -1: none
	exact    []int  // by value: the last node that reads it in another way, -1: none
	first    []int  // by value: the first node that reads it
	gradient []bool // by value: whether what computes it reads its gradient as an operand
}

func newOperands(g *Graph, readers [][]reader) operands {
	o := operands{make([]int, g.Values()), make([]int, g.Values()), make([]int, g.Values()), make([]bool, g.Values())}
	for v := range slices.Backward(readers) {
		o.last[v], o.exact[v], o.first[v] = -1, -1, len(g.Nodes)
		if n := len(readers[v]); n > 0 {
			o.first[v], o.last[v] = readers[v][0].node, readers[v][n-1].node
		}
		if v == g.output {
			o.exact[v] = len(g.Nodes)
		}
		for _, r := range readers[v] {
			op, y := g.Nodes[r.node].Op, g.Result(r.node)
			if !Multiplies(op, r.arg) && !(moves(op) && o.value(y, 0)) {
				o.exact[v] = max(o.exact[v], r.node)
			}
		}
	}
	for i := range g.Nodes {
		op, v := g.Nodes[i].Op, g.Result(i)
		if v == g.output {
			continue
		}
		if o.gradient[v] = multipliesGrad(op); o.gradient[v] || !masks(op) || len(g.args[i]) != 1 {
			continue
		}
		// Whatever reads the op's input has to be this op alone.
		x := g.args[i][0]
		o.gradient[v] = len(readers[x]) == 1 && o.gradient[x]
	}
	return o
}

// value tells whether nodes from node from on read value v, and as operands of products only.
func (o *operands) value(v, from int) bool { return o.last[v] >= from && o.exact[v] < from }

// grad tells whether the gradient that nodes from node from on have of value v is read as an
// operand of products only: nothing is added to it, and what computes v multiplies by it.
func (o *operands) grad(v, from int) bool {
	return o.last[v] >= 0 && o.first[v] >= from && o.gradient[v]
}
