// Which tensors lose nothing when they are rounded to bfloat16 in a job of that precision, since
// all that becomes of them are operands of products.

package graph

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

// operands finds, for every value, whether all nodes from node from on that read it make operands
// of it.
type operands struct {
	g       *Graph
	readers [][]int
	all     []finding // by value: whether all nodes that read it do
}

// finding is an answer that may not have been found yet.
type finding uint8

const (
	unknown finding = iota
	no
	yes
)

func newOperands(g *Graph, readers [][]int) operands {
	return operands{g, readers, make([]finding, g.Values())}
}

// everywhere is value from the first node on. It is looked for once: where values part and meet again
// k times, 2^k ways lead from the first to the last.
func (o operands) everywhere(v int) bool {
	if o.all[v] == unknown {
		if o.all[v] = no; o.value(v, 0) {
			o.all[v] = yes
		}
	}
	return o.all[v] == yes
}

// value tells whether nodes from node from on read value v as operands of products only.
func (o operands) value(v, from int) bool {
	if v == o.g.output {
		return false
	}
	read := false
	for _, i := range o.readers[v] {
		if i < from {
			continue
		}
		read = true
		for k, x := range o.g.args[i] {
			if x != v || Multiplies(o.g.Nodes[i].Op, k) {
				continue
			}
			if !moves(o.g.Nodes[i].Op) || !o.everywhere(o.g.Result(i)) {
				return false
			}
		}
	}
	return read
}

// gradient tells whether the gradient that nodes from node from on have of value v is read as an
// operand of products only: nothing is added to it, and what computes v multiplies by it.
func (o operands) gradient(v, from int) bool {
	for v >= len(o.g.Inputs) && v != o.g.output && len(o.readers[v]) > 0 && o.readers[v][0] >= from {
		i := v - len(o.g.Inputs)
		op := o.g.Nodes[i].Op
		if multipliesGrad(op) {
			return true
		}
		if !masks(op) || len(o.g.args[i]) != 1 {
			return false
		}
		// Whatever reads the op's input has to be this op alone.
		v, from = o.g.args[i][0], i
		if len(o.readers[v]) != 1 {
			return false
		}
	}
	return false
}
