// Truth values, which are 0 and 1 here, the bits of integers, and what is chosen by them.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

var truthOperators = map[string]operator{
	"logical_and": logic("and"), "logical_or": logic("or"), "logical_xor": logic("xor"), "logical_not": notOp,
	"__and__": bits("and"), "__or__": bits("or"), "__xor__": bits("xor"), "bitwise_and": bits("and"), "bitwise_or": bits("or"), "bitwise_xor": bits("xor"), "bitwise_not": bitsNot,
	"__lshift__": shift(1), "__rshift__": shift(-1), "bitwise_left_shift": shift(1), "bitwise_right_shift": shift(-1),
	"eq": compare("eq"), "ne": compare("ne"), "lt": compare("lt"), "le": compare("le"), "gt": compare("gt"), "ge": compare("ge"),
	"any": anyOp(false), "all": anyOp(true), "where": where, "masked_fill": maskedFill,
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// boolean tells whether an argument is a truth value. ONNX has no others where it asks.
func (l *lowering) boolean(n *pt2.Node, name string) bool {
	a, ok := arg(n, name)
	switch {
	case l.program == nil || !ok:
		return true
	case a.Kind == pt2.Tensor:
		return l.graph.Tensors[a.Names[0]].DType == pt2.Boolean
	}
	return a.Kind == pt2.Bool
}

// truthOf is an argument as truth values.
func (l *lowering) truthOf(n *pt2.Node, name string) *value {
	v := l.other(n, name)
	if l.boolean(n, name) {
		return v
	}
	return l.unary("ne", v, 0, 0)
}

// combine is a function of two truth values.
func (l *lowering) combine(f string, a, b *value) *value {
	switch {
	case f == "xor":
		return l.binaryOf("ne", a, b)
	case a.isConst() && b.isConst():
		return l.binaryConst(f, a, b)
	case f == "and":
		return l.binary("mul", a, b)
	}
	return l.binary("max", a, b)
}

func logic(f string) operator {
	return func(l *lowering, n *pt2.Node) {
		l.define(l.combine(f, l.truthOf(n, "self"), l.truthOf(n, "other")))
	}
}

func notOp(l *lowering, n *pt2.Node) { l.unaryNode(n, "eq", 0, 0) }

// bits is a function of truth values, or of the bits of integers, of which one may depend on
// the data.
func bits(f string) operator {
	return func(l *lowering, n *pt2.Node) {
		a, b := l.other(n, "self"), l.other(n, "other")
		if l.boolean(n, "self") && l.boolean(n, "other") {
			l.define(l.combine(f, a, b))
			return
		}
		if a.isConst() {
			a, b = b, a
		}
		if a.isConst() {
			l.define(l.binaryConst("bits_"+f, a, b))
			return
		}
		l.define(l.bitwise(f, a, b))
	}
}

// bitwise combines the bits of a with those of a constant.
func (l *lowering) bitwise(f string, a, b *value) *value {
	d := l.numbersOf(b)
	if slices.ContainsFunc(d, func(v float64) bool { return v != d[0] }) {
		fail("of the bits of integers, with several constants")
	}
	both := l.bitsOf(a, int64(d[0]))
	switch f {
	case "or": // a + b less what both have
		return l.binary("sub", l.unary("affine", a, 1, d[0]), both)
	case "xor":
		return l.binary("sub", l.unary("affine", a, 1, d[0]), l.unary("affine", both, 2, 0))
	}
	return both
}

// numbersOf are constants that bits are combined with.
func (l *lowering) numbersOf(v *value) []float64 {
	if !v.isConst() {
		fail("of the bits of two integers that depend on the data")
	}
	d := l.data(v)
	if len(d) == 0 || slices.ContainsFunc(d, func(v float64) bool { return v < 0 || v >= exact }) {
		fail("of bits beyond 2^24; numbers are float32 here")
	}
	return d
}

// exact is the first integer behind which float32 leaves some out.
const exact = 1 << 24

// bitsOf are the bits of x that mask has, x being whole: what is left of a division by the power
// behind a run of them, less what is left of one by the power before it.
func (l *lowering) bitsOf(x *value, mask int64) *value {
	rest := func(k int) *value { // of x / 2^k
		p := math.Ldexp(1, k)
		return l.binary("sub", x, l.unary("affine", l.unary("floor", l.unary("affine", x, 1/p, 0), 0, 0), p, 0))
	}
	var sum *value
	for k := 0; k < 24; k++ {
		if mask>>k&1 == 0 {
			continue
		}
		end := k
		for mask>>end&1 == 1 {
			end++
		}
		run := rest(end)
		if k > 0 {
			run = l.binary("sub", run, rest(k))
		}
		if k = end; sum == nil {
			sum = run
		} else {
			sum = l.binary("add", sum, run)
		}
	}
	if sum == nil {
		return l.unary("affine", x, 0, 0)
	}
	return sum
}

func bitsNot(l *lowering, n *pt2.Node) {
	if l.boolean(n, "self") {
		notOp(l, n)
		return
	}
	l.unaryNode(n, "affine", -1, -1)
}

// shift multiplies by a power of 2, and rounds down.
func shift(sign int) operator {
	return func(l *lowering, n *pt2.Node) {
		d := l.numbersOf(l.other(n, "other"))
		if len(d) != 1 || d[0] >= 24 {
			fail("by %v", d)
		}
		l.define(l.unary("floor", l.unary("affine", l.tensor(n, "self"), math.Ldexp(1, sign*int(d[0])), 0), 0, 0))
	}
}

func compare(f string) operator {
	return func(l *lowering, n *pt2.Node) {
		a, b := l.tensor(n, "self"), l.other(n, "other")
		switch {
		case a.isConst() && b.isConst():
			v := l.binaryConst(f, a, b)
			v.whole = true
			l.define(v)
		case b.isConst() && elems(b.shape) == 1:
			l.define(l.unary(f, a, l.data(b)[0], 0))
		default:
			l.define(l.unary(f, l.binary("sub", a, b), 0, 0))
		}
	}
}

// where takes a where the condition holds, else b.
func where(l *lowering, n *pt2.Node) {
	l.define(l.where(l.tensor(n, "condition"), l.other(n, "self"), l.other(n, "other")))
}

func maskedFill(l *lowering, n *pt2.Node) {
	l.define(l.where(l.tensor(n, "mask"), l.other(n, "value"), l.tensor(n, "self")))
}

func (l *lowering) where(c, a, b *value) *value {
	if c.isConst() && a.isConst() && b.isConst() {
		shape := broadcastShape(broadcastShape(c.shape, a.shape), b.shape)
		p := plainNumbers(shape)
		m, x, y := l.data(l.expand(c, p)), l.data(l.expand(a, p)), l.data(l.expand(b, p))
		d := make([]float64, len(m))
		for i := range d {
			if d[i] = y[i]; m[i] != 0 {
				d[i] = x[i]
			}
		}
		return constant(d, shape, a.whole && b.whole)
	}
	if c.isConst() {
		all := func(want bool) bool {
			return !slices.ContainsFunc(l.data(c), func(v float64) bool { return (v != 0) != want })
		}
		if all(true) && elems(broadcastShape(c.shape, a.shape)) == elems(a.shape) && a.batch >= 0 {
			return a
		}
		if all(false) && elems(broadcastShape(c.shape, b.shape)) == elems(b.shape) && b.batch >= 0 {
			return b
		}
	}
	low := func(v *value) bool {
		return v.isConst() && elems(v.shape) == 1 && (math.IsInf(l.data(v)[0], 0) || math.Abs(l.data(v)[0]) > 1e30)
	}
	not := l.unary("eq", c, 0, 0)
	zero := func(v, rest *value) bool { // nothing is to be added
		return v.isConst() && elems(v.shape) == 1 && len(v.shape) <= max(len(rest.shape), len(c.shape)) && l.data(v)[0] == 0
	}
	switch {
	case zero(a, b):
		return l.masked(b, not)
	case zero(b, a):
		return l.masked(a, c)
	case low(a): // b or 0, + 0 or a: a mask before softmax
		return l.binary("add", l.masked(b, not), l.pickMask(c, l.data(a)[0]))
	case low(b):
		return l.binary("add", l.masked(a, c), l.pickMask(not, l.data(b)[0]))
	}
	return l.binary("add", l.masked(a, c), l.masked(b, not))
}

// masked is x where c is not 0, else 0. What is not taken does not matter: NaN is not multiplied
// by 0.
func (l *lowering) masked(x, c *value) *value {
	if x.isConst() {
		if !slices.ContainsFunc(l.data(x), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
			return l.binary("mul", x, c)
		}
	}
	return l.binary("mask", x, c)
}

// pickMask is v where c is 1, else 0.
func (l *lowering) pickMask(c *value, v float64) *value {
	if c.isConst() {
		d := slices.Clone(l.data(c))
		for i, x := range d {
			if d[i] = 0; x != 0 {
				d[i] = v
			}
		}
		w := constant(d, c.shape, false)
		return w
	}
	if math.IsInf(v, 0) {
		w := l.unary("log", l.unary("eq", c, 0, 0), 0, 0)
		if v > 0 {
			w = l.unary("affine", w, -1, 0)
		}
		return w
	}
	return l.unary("affine", c, v, 0)
}

// binaryOf compares two tensors.
func (l *lowering) binaryOf(f string, a, b *value) *value {
	if a.isConst() && b.isConst() {
		return l.binaryConst(f, a, b)
	}
	return l.unary(f, l.binary("sub", a, b), 0, 0)
}

// anyOp tells whether any or every element along some axes is not 0.
func anyOp(every bool) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		f := "ne"
		if every { // none is 0
			f = "eq"
		}
		y := l.reduce("amax", l.unary(f, x, 0, 0), l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false))
		if every {
			y = l.unary("eq", y, 0, 0)
		}
		l.define(y)
	}
}
