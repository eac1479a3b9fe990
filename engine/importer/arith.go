// Arithmetic, reductions and products of values.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

func trunc(x float64) float64 { return math.Trunc(x) }

var arithmeticOperators = map[string]operator{
	"add": arithOp("add"), "sub": arithOp("sub"), "mul": arithOp("mul"), "div": arithOp("div"), "subtract": arithOp("sub"), "multiply": arithOp("mul"),
	"maximum": arithOp("max"), "minimum": arithOp("min"), "rsub": rsub, "true_divide": arithOp("div"),
	"relu": relu, "tanh": tanh,
	"silu": unaryOp("silu"), "sigmoid": unaryOp("sigmoid"), "hardswish": unaryOp("hardswish"), "hardsigmoid": unaryOp("hardsigmoid"), "relu6": relu6,
	"hardtanh": bounded("hardtanh", "min_val", "max_val", -1, 1), "clamp": clampOp, "clamp_min": clampOp, "clamp_max": clampOp,
	"leaky_relu": func(l *lowering, n *pt2.Node) { l.unaryNode(n, "leaky_relu", l.scalar(n, "negative_slope", 0.01), 0) },
	"elu": func(l *lowering, n *pt2.Node) {
		if l.scalar(n, "scale", 1) != 1 || l.scalar(n, "input_scale", 1) != 1 {
			fail("with scales")
		}
		l.unaryNode(n, "elu", l.scalar(n, "alpha", 1), 0)
	},
	"celu": celu, "selu": unaryOp("selu"), "mish": unaryOp("mish"), "log_sigmoid": unaryOp("logsigmoid"), "softsign": unaryOp("softsign"),
	"softplus": func(l *lowering, n *pt2.Node) {
		l.unaryNode(n, "softplus", l.scalar(n, "beta", 1), l.scalar(n, "threshold", 20))
	},
	"exp": unaryOp("exp"), "log": unaryOp("log"), "sqrt": unaryOp("sqrt"), "rsqrt": unaryOp("rsqrt"), "abs": unaryOp("abs"), "erf": unaryOp("erf"),
	"sin": unaryOp("sin"), "cos": unaryOp("cos"), "floor": unaryOp("floor"), "sign": unaryOp("sign"), "trunc": unaryOp("trunc"),
	"neg":        func(l *lowering, n *pt2.Node) { l.unaryNode(n, "affine", -1, 0) },
	"reciprocal": func(l *lowering, n *pt2.Node) { l.unaryNode(n, "rdiv", 1, 0) },
	"square":     func(l *lowering, n *pt2.Node) { l.unaryNode(n, "pow", 2, 0) },
	"pow":        powOp, "prelu": prelu, "glu": glu,
	"mean": reduceOp("mean"), "sum": reduceOp("sum"), "amax": reduceOp("amax"), "amin": amin, "var": variance(false), "std": variance(true),
	"linalg_vector_norm": vectorNorm, "norm": vectorNorm, "cumsum": cumsum,
	"matmul": matmulOp, "bmm": matmulOp, "mm": matmulOp, "baddbmm": baddbmm, "einsum": einsum, "dot": matmulOp, "mv": matmulOp, "vdot": matmulOp,
	"linalg_multi_dot": multiDot, "inner": inner, "outer": outer, "tensordot": tensordot,
	"addcmul": addcmul, "lerp": lerp,
}

// unary applies a function of one number.
func (l *lowering) unary(f string, x *value, a, b float64) *value {
	if x.isConst() {
		return l.unaryConst(f, x, a, b)
	}
	x = l.value(x)
	var op graph.Op = &graph.Unary{Function: f, A: float32(a), B: float32(b)}
	y, s := l.emit(op, nil, x.name)
	return l.result(y, s, x.shape, x.batch, x.outer)
}

func (l *lowering) unaryConst(f string, x *value, a, b float64) *value {
	fs := map[string]func(v float64) float64{
		"affine": func(v float64) float64 { return v*a + b }, "rsub": func(v float64) float64 { return b - v*a }, "rdiv": func(v float64) float64 { return a / v },
		"exp": math.Exp, "log": math.Log, "sqrt": math.Sqrt, "abs": math.Abs, "sin": math.Sin, "cos": math.Cos, "atan": math.Atan, "floor": math.Floor, "trunc": math.Trunc, "erf": math.Erf,
		"rsqrt": func(v float64) float64 { return 1 / math.Sqrt(v) }, "pow": func(v float64) float64 { return math.Pow(v, a) },
		"sigmoid": func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }, "silu": func(v float64) float64 { return v / (1 + math.Exp(-v)) },
		"clamp": func(v float64) float64 { return min(max(v, a), b) }, "hardtanh": func(v float64) float64 { return min(max(v, a), b) },
		"eq": func(v float64) float64 { return truth(v == a) }, "ne": func(v float64) float64 { return truth(v != a) },
		"lt": func(v float64) float64 { return truth(v < a) }, "le": func(v float64) float64 { return truth(v <= a) },
		"gt": func(v float64) float64 { return truth(v > a) }, "ge": func(v float64) float64 { return truth(v >= a) },
		"sign": func(v float64) float64 { return truth(v > 0) - truth(v < 0) },
	}
	g, ok := fs[f]
	if !ok {
		return l.unary(f, l.value(x), a, b)
	}
	d := slices.Clone(l.data(x))
	for i, v := range d {
		d[i] = g(v)
	}
	return constant(d, x.shape, x.whole && slices.Contains([]string{"affine", "rsub", "abs", "clamp", "hardtanh"}, f))
}

func (l *lowering) unaryNode(n *pt2.Node, f string, a, b float64) {
	l.define(l.unary(f, l.tensor(n, "self"), a, b))
}

func unaryOp(f string) operator { return func(l *lowering, n *pt2.Node) { l.unaryNode(n, f, 0, 0) } }

func relu(l *lowering, n *pt2.Node) { l.define(l.relu(l.value(l.tensor(n, "self")))) }

func (l *lowering) relu(x *value) *value {
	y, s := l.emit(&graph.ReLU{}, nil, x.name)
	return l.result(y, s, x.shape, x.batch, x.outer)
}

func relu6(l *lowering, n *pt2.Node) { l.unaryNode(n, "hardtanh", 0, 6) }

func tanh(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	y, s := l.emit(&graph.Tanh{}, nil, x.name)
	l.define(l.result(y, s, x.shape, x.batch, x.outer))
}

func bounded(f, lo, hi string, dlo, dhi float64) operator {
	return func(l *lowering, n *pt2.Node) { l.unaryNode(n, f, l.scalar(n, lo, dlo), l.scalar(n, hi, dhi)) }
}

func clampOp(l *lowering, n *pt2.Node) {
	below, above := l.optional(n, "min"), l.optional(n, "max")
	if below != nil || above != nil {
		x := l.tensor(n, "self")
		if below != nil {
			x = l.binary("max", x, below)
		}
		if above != nil {
			x = l.binary("min", x, above)
		}
		l.define(x)
		return
	}
	lo, hi := l.scalar(n, "min", math.Inf(-1)), l.scalar(n, "max", math.Inf(1))
	l.define(l.clamped(l.tensor(n, "self"), lo, hi))
}

// clamped is x within bounds, which have no slope: hi where they are the wrong way round.
func (l *lowering) clamped(x *value, lo, hi float64) *value {
	const most = math.MaxFloat32 // infinities are not JSON
	return l.unary("hardtanh", x, max(min(lo, hi), -most), min(hi, most))
}

// prelu is x where it is positive, else x·w.
func (l *lowering) prelu(x, w *value) *value {
	below := l.unary("clamp", x, -math.MaxFloat32, 0) // its slope at 0 is 1, that of ReLU is 0
	return l.binary("add", l.relu(x), l.binary("mul", below, w))
}

func celu(l *lowering, n *pt2.Node) {
	a := l.scalar(n, "alpha", 1)
	x := l.tensor(n, "self")
	if a == 1 {
		l.define(l.unary("elu", x, 1, 0))
		return
	}
	l.define(l.unary("affine", l.unary("elu", l.unary("affine", x, 1/a, 0), 1, 0), a, 0))
}

// binary is arithmetic of two values of any kind.
func (l *lowering) binary(f string, a, b *value) *value {
	if a.isConst() && b.isConst() {
		return l.binaryConst(f, a, b)
	}
	if l.ofBatch(a) && b.name == "" {
		return l.withSame(f, a, b, true)
	}
	if l.ofBatch(b) && a.name == "" {
		return l.withSame(f, b, a, false)
	}
	if a.batch < 0 && b.batch < 0 {
		a, b = l.value(a), l.value(b)
		y, s := l.emit(&graph.Binary{Function: f}, nil, a.name, b.name)
		return &value{name: y, shape: s, batch: -1, outer: 1}
	}
	like, first := a, true
	if a.batch < 0 {
		like, first = b, false
	}
	fromEnd := like.batch - len(like.shape)
	k := like.shape[like.batch]
	if a.batch >= 0 && b.batch >= 0 && (a.batch-len(a.shape) != fromEnd || b.batch-len(b.shape) != fromEnd || b.shape[b.batch] != k || a.outer != b.outer) {
		fail("%v and %v have their batch on different axes", a.shape, b.shape)
	}
	a, b = l.toward(a, fromEnd, k, like.outer), l.toward(b, fromEnd, k, like.outer)
	shape := broadcastShape(a.shape, b.shape)
	batch := len(shape) + fromEnd
	out := &value{shape: shape, batch: batch, outer: like.outer}
	// Row shapes: an axis that is the batch alone is left out of both.
	fit := func(v *value) graph.Shape {
		s := graph.Shape(slices.Clone(v.shape))
		if at := len(s) + fromEnd; out.alone() && at >= 0 {
			s = slices.Delete(s, at, at+1)
		}
		if s == nil {
			s = graph.Shape{}
		}
		return s
	}
	op, other := &graph.Binary{Function: f}, b
	if !first {
		other = a
	}
	var y string
	var got graph.Shape
	if other.name == "" {
		if v, ok := l.byNumber(f, like, other, first, shape); ok {
			return v
		}
		var ns map[string]string
		op.Swap = !first
		op.Operand, ns = l.operand(other, fit(other))
		y, got = l.emit(op, ns, like.name)
	} else {
		p, _ := l.reshape(a.name, fit(a))
		q, _ := l.reshape(b.name, fit(b))
		var o graph.Op = op
		if f == "add" && slices.Equal(l.shapes[p], l.shapes[q]) {
			o = &graph.Add{}
		}
		y, got = l.emit(o, nil, p, q)
	}
	return l.result(y, got, shape, batch, like.outer)
}

// byNumber is arithmetic with a constant whose elements are all alike.
func (l *lowering) byNumber(f string, x, c *value, xFirst bool, shape []int) (*value, bool) {
	if !c.isConst() || !slices.Equal(shape, x.shape) {
		return nil, false
	}
	d := l.data(c)
	for _, v := range d {
		if v != d[0] {
			return nil, false
		}
	}
	if len(d) == 0 || math.IsInf(d[0], 0) || math.IsNaN(d[0]) {
		return nil, false
	}
	k := d[0]
	switch {
	case f == "mul" && k == 1 || f == "add" && k == 0:
		return x, true
	case f == "add":
		return l.unary("affine", x, 1, k), true
	case f == "sub" && xFirst:
		return l.unary("affine", x, 1, -k), true
	case f == "sub":
		return l.unary("rsub", x, 1, k), true
	case f == "mul":
		return l.unary("affine", x, k, 0), true
	case f == "div" && xFirst && math.Abs(math.Log2(math.Abs(k))) == math.Trunc(math.Abs(math.Log2(math.Abs(k)))):
		return l.unary("affine", x, 1/k, 0), true
	case f == "div" && !xFirst:
		return l.unary("rdiv", x, k, 0), true
	}
	return nil, false
}

var constArith = map[string]func(a, b float64) float64{
	"add": func(a, b float64) float64 { return a + b }, "sub": func(a, b float64) float64 { return a - b },
	"mul": func(a, b float64) float64 { return a * b }, "div": func(a, b float64) float64 { return a / b },
	"max": func(a, b float64) float64 { return max(a, b) }, "min": func(a, b float64) float64 { return min(a, b) },
	"eq": func(a, b float64) float64 { return truth(a == b) }, "ne": func(a, b float64) float64 { return truth(a != b) },
	"lt": func(a, b float64) float64 { return truth(a < b) }, "le": func(a, b float64) float64 { return truth(a <= b) },
	"gt": func(a, b float64) float64 { return truth(a > b) }, "ge": func(a, b float64) float64 { return truth(a >= b) },
	"and": func(a, b float64) float64 { return truth(a != 0 && b != 0) }, "or": func(a, b float64) float64 { return truth(a != 0 || b != 0) },
	"pow": math.Pow, "floor_divide": func(a, b float64) float64 { return math.Floor(a / b) }, "trunc_divide": func(a, b float64) float64 { return math.Trunc(a / b) },
	"remainder": func(a, b float64) float64 { return a - b*math.Floor(a/b) },
	"bits_and":  func(a, b float64) float64 { return float64(int64(a) & int64(b)) }, "bits_or": func(a, b float64) float64 { return float64(int64(a) | int64(b)) },
	"bits_xor": func(a, b float64) float64 { return float64(int64(a) ^ int64(b)) },
	"mask": func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a
	},
}

func (l *lowering) binaryConst(f string, a, b *value) *value {
	shape := broadcastShape(a.shape, b.shape)
	x, y := l.data(l.expand(a, plainNumbers(shape))), l.data(l.expand(b, plainNumbers(shape)))
	d := make([]float64, len(x))
	for i := range d {
		d[i] = constArith[f](x[i], y[i])
	}
	return constant(d, shape, a.whole && b.whole && f != "div")
}

// other is the second operand: a tensor, or a number as a constant.
func (l *lowering) other(n *pt2.Node, name string) *value {
	if v := l.optional(n, name); v != nil {
		return v
	}
	a, ok := arg(n, name)
	if !ok {
		fail("it has no %q", name)
	}
	if a.Kind == pt2.Int && l.entire {
		if c := l.coefficients(a.Ints[0]); len(c) > 1 {
			return l.polynomial(c)
		}
	}
	return constant([]float64{l.scalar(n, name, 0)}, []int{}, a.Kind == pt2.Int)
}

func arithOp(f string) operator {
	return func(l *lowering, n *pt2.Node) {
		a, b := l.tensor(n, "self"), l.other(n, "other")
		if k := l.scalar(n, "alpha", 1); k != 1 {
			b = l.unary("affine", b, k, 0)
		}
		if f == "add" && l.boolean(n, "self") && l.boolean(n, "other") && l.program != nil { // true and true is true
			l.define(l.combine("or", a, b))
			return
		}
		if f == "mul" && a.whole && b.whole {
			l.representable(a, b)
		}
		if m := text(n, "rounding_mode", ""); m != "" {
			if !a.isConst() || !b.isConst() {
				v := l.binary("div", a, b)
				l.define(l.unary(m, v, 0, 0))
				return
			}
			l.define(l.binaryConst(m+"_divide", a, b))
			return
		}
		v := l.binary(f, a, b)
		if f == "mul" && !isWhole(a) {
			a, b = b, a
		}
		l.define(l.scaled(f, a, b, v))
	}
}

// representable refuses products of integers that float32 does not have, as hashes are.
func (l *lowering) representable(vs ...*value) {
	if !slices.ContainsFunc(vs, func(v *value) bool { return !v.isConst() }) {
		return
	}
	for _, v := range vs {
		if v.isConst() && !v.sample && v.sizes == nil && slices.ContainsFunc(l.data(v), func(x float64) bool { return math.Abs(x) >= exact }) {
			fail("by an integer beyond 2^24; numbers are float32 here. Compute hashes before they become the model's input")
		}
	}
}

func rsub(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.other(n, "other")
	if k := l.scalar(n, "alpha", 1); k != 1 {
		a = l.unary("affine", a, k, 0)
	}
	l.define(l.binary("sub", b, a))
}

func powOp(l *lowering, n *pt2.Node) {
	a, b := l.optional(n, "self"), l.optional(n, "exponent")
	switch {
	case a == nil && b != nil && b.isConst():
		l.define(l.binaryConst("pow", l.other(n, "self"), b))
	case a != nil && b != nil && a.isConst() && b.isConst():
		l.define(l.binaryConst("pow", a, b))
	case a != nil && b == nil:
		l.define(l.unary("pow", a, l.scalar(n, "exponent", 1), 0))
	case a == nil && b != nil && l.scalar(n, "self", 0) > 0:
		l.define(l.unary("exp", l.unary("affine", b, math.Log(l.scalar(n, "self", 1)), 0), 0, 0))
	case a != nil && b != nil:
		l.define(l.binary("pow", a, b))
	default:
		fail("of a number that is not positive")
	}
}

func prelu(l *lowering, n *pt2.Node) {
	x, w := l.leading(l.tensor(n, "self")), l.tensor(n, "weight")
	l.define(l.prelu(x, perChannel(w, len(x.shape))))
}

func glu(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	a := axisOf(l.integer(n, "dim", -1), len(x.shape))
	h := x.shape[a] / 2
	l.define(l.binary("mul", l.cut(x, a, 0, h, 1), l.unary("sigmoid", l.cut(x, a, h, h, 1), 0, 0)))
}

func addcmul(l *lowering, n *pt2.Node) {
	p := l.binary("mul", l.tensor(n, "tensor1"), l.tensor(n, "tensor2"))
	if k := l.scalar(n, "value", 1); k != 1 {
		p = l.unary("affine", p, k, 0)
	}
	l.define(l.binary("add", l.tensor(n, "self"), p))
}

func lerp(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "end")
	l.define(l.binary("add", a, l.binary("mul", l.binary("sub", b, a), l.other(n, "weight"))))
}

// reduce is a sum, mean or maximum over axes.
func (l *lowering) reduce(f string, x *value, axes []int, keep bool) *value {
	axes = slices.Sorted(slices.Values(axes))
	if slices.Contains(axes, x.batch) && x.batch >= 0 {
		fail("it reduces the batch")
	}
	if x.isConst() {
		return l.reduceConst(f, x, axes, keep)
	}
	x = l.value(x)
	var shape, rest, last []int
	batch := x.batch
	for i, d := range x.shape {
		if !slices.Contains(axes, i) {
			shape = append(shape, d)
			continue
		}
		if keep {
			shape = append(shape, 1)
		} else if i < x.batch {
			batch--
		}
	}
	for i := range x.shape {
		r := x.axis(i)
		switch {
		case r < 0:
		case slices.Contains(axes, i):
			last = append(last, r)
		default:
			rest = append(rest, r)
		}
	}
	if shape == nil {
		shape = []int{}
	}
	name, _ := l.permute(x.name, slices.Concat(rest, last))
	y, s := l.emit(&graph.Reduce{Function: f, Axes: len(last)}, nil, name)
	return l.result(y, s, shape, batch, x.outer)
}

func (l *lowering) reduceConst(f string, x *value, axes []int, keep bool) *value {
	shape, all := []int{}, slices.Clone(x.shape)
	n := 1
	for i, d := range x.shape {
		if !slices.Contains(axes, i) {
			shape = append(shape, d)
			continue
		}
		n *= d
		if all[i] = 1; keep {
			shape = append(shape, 1)
		}
	}
	out := slices.Repeat([]float64{0}, elems(all))
	if f == "amax" {
		out = slices.Repeat([]float64{math.Inf(-1)}, elems(all))
	}
	st := strides(all)
	for _, a := range axes {
		st[a] = 0
	}
	d := l.data(x)
	for i, k := range indices(x.shape, st, 0) {
		if f == "amax" {
			out[k] = max(out[k], d[i])
		} else {
			out[k] += d[i]
		}
	}
	if f == "mean" {
		for i := range out {
			out[i] /= float64(n)
		}
	}
	return constant(out, shape, x.whole && f != "mean")
}

func reduceOp(f string) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		l.define(l.pool(f, x, l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false)))
	}
}

func amin(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	m := l.reduce("amax", l.unary("affine", x, -1, 0), l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false))
	l.define(l.unary("affine", m, -1, 0))
}

func variance(root bool) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		axes := l.axes(n, "dim", len(x.shape))
		count := 1
		for _, a := range axes {
			count *= x.shape[a]
		}
		correction := l.scalar(n, "correction", 1)
		if !l.flag(n, "unbiased", true) {
			correction = 0
		}
		d := l.binary("sub", x, l.reduce("mean", x, axes, true))
		v := l.reduce("sum", l.unary("pow", d, 2, 0), axes, l.flag(n, "keepdim", false))
		if l.depends(count) {
			v = l.binary("div", v, l.unary("affine", l.howMany(count), 1, -correction))
		} else {
			v = l.unary("affine", v, 1/max(float64(count)-correction, 0), 0)
		}
		if root && v.isConst() {
			v = l.unary("sqrt", v, 0, 0)
		} else if root {
			v = l.length(v)
		}
		l.define(v)
	}
}

func vectorNorm(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	axes, keep := l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false)
	switch p := l.scalar(n, "ord", l.scalar(n, "p", 2)); {
	case p == 2:
	case p == 1:
		l.define(l.reduce("sum", l.unary("abs", x, 0, 0), axes, keep))
		return
	case math.IsInf(p, 1):
		l.define(l.reduce("amax", l.unary("abs", x, 0, 0), axes, keep))
		return
	case p > 1:
		v := l.reduce("sum", l.unary("pow", l.unary("abs", x, 0, 0), p, 0), axes, keep)
		if v.isConst() {
			l.define(l.unary("pow", v, 1/p, 0))
			return
		}
		l.define(l.root(v, 1/p))
		return
	default:
		fail("of the order %v", p)
	}
	v := l.reduce("sum", l.unary("pow", x, 2, 0), axes, keep)
	if v.isConst() {
		l.define(l.unary("sqrt", v, 0, 0))
		return
	}
	l.define(l.length(v))
}

// length is the root of a sum of squares.
func (l *lowering) length(v *value) *value { return l.root(v, 0.5) }

// root is a sum of powers to a power between 0 and 1. That of 0 has no slope; the gradient of the norm
// of a vector of zeros is 0.
func (l *lowering) root(v *value, power float64) *value {
	v, none := l.value(v), l.unary("eq", v, 0, 0)
	root, some := l.binary("add", v, none), l.unary("ne", v, 0, 0)
	if power == 0.5 {
		root = l.unary("sqrt", root, 0, 0)
	} else {
		root = l.unary("pow", root, power, 0)
	}
	return l.binary("mul", root, some)
}

func cumsum(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	if !x.isConst() {
		l.define(l.alongLast(l.value(x), axis, func(name string) (string, graph.Shape) { return l.emit(&graph.CumSum{}, nil, name) }))
		return
	}
	d, st := slices.Clone(l.data(x)), strides(x.shape)
	for i := range d {
		if i/st[axis]%x.shape[axis] > 0 {
			d[i] += d[i-st[axis]]
		}
	}
	l.define(constant(d, x.shape, x.whole))
}

// matmul is the product of the last axes, with broadcasting of those before.
func (l *lowering) matmul(a, b *value, transB bool, scale float32) *value {
	a, b = l.value(a), l.value(b)
	ra, rb := len(a.shape), len(b.shape)
	if ra < 2 || rb < 2 {
		fail("of %v and %v", a.shape, b.shape)
	}
	for _, v := range []*value{a, b} {
		if v.batch >= len(v.shape)-2 && v.batch >= 0 {
			fail("it mixes samples: %v with the batch on axis %d", v.shape, v.batch)
		}
	}
	lead := broadcastShape(leadOf(a), leadOf(b))
	like := a
	if a.batch < 0 {
		like = b
	}
	fit := func(v *value) *value {
		want := slices.Concat(lead, v.shape[len(v.shape)-2:])
		if like.batch < 0 {
			return l.expand(v, plainNumbers(want))
		}
		fromEnd := like.batch - len(like.shape)
		if v.batch >= 0 && v.batch-len(v.shape) != fromEnd {
			fail("%v and %v have their batch on different axes", a.shape, b.shape)
		}
		at := len(want) + fromEnd
		want[at] = like.shape[like.batch]
		w := *v
		for len(w.shape) < len(want) {
			w.shape = slices.Insert(slices.Clone(w.shape), 0, 1)
			if w.batch >= 0 {
				w.batch++
			}
		}
		w = *l.alike(&w, &value{batch: at, outer: like.outer, shape: want})
		sizes := plainNumbers(want)
		if l.symbol == "" {
			sizes[at].n *= l.batch
		}
		return l.expand(&w, sizes)
	}
	x, y := fit(a), fit(b)
	name, s := l.emit(&graph.MatMul{TransB: transB, Scale: scale}, nil, x.name, y.name)
	shape := slices.Clone(x.shape)
	shape[len(shape)-1] = s[len(s)-1]
	return l.result(name, s, shape, x.batch, x.outer)
}

func leadOf(v *value) []int { return v.shape[:len(v.shape)-2] }

func matmulOp(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.optional(n, "other", "mat2", "tensor", "vec")
	if b == nil {
		fail("it has no second tensor")
	}
	l.define(l.times(a, b))
}

// times is the product of two tensors, of which each may be a vector.
func (l *lowering) times(a, b *value) *value {
	ra, rb := len(a.shape), len(b.shape)
	switch {
	case ra == 0 || rb == 0:
		fail("of %v and %v", a.shape, b.shape)
	case ra >= 2 && rb >= 2 && a.batch >= 0 && b.batch < 0 && rb == 2 && a.batch != ra-1:
		return l.linear(a, b, nil, true)
	case ra >= 2 && rb >= 2:
		return l.matmul(a, b, false, 0)
	case rb == 1 && ra == 1:
		return l.reduce("sum", l.binary("mul", a, b), []int{0}, false)
	case rb == 1: // each row by the vector
		return l.reduce("sum", l.binary("mul", a, b), []int{ra - 1}, false)
	}
	w := l.times(l.with(a, 0), b)
	return l.without(w, len(w.shape)-2)
}

func multiDot(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	y := vs[0]
	for _, v := range vs[1:] {
		y = l.times(y, v)
	}
	l.define(y)
}

// inner is the product along the last axes of both.
func inner(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	if rank := len(b.shape); rank > 1 {
		b = l.permuted(b, append(plainOrder(rank-2), rank-1, rank-2))
	}
	if len(b.shape) > 2 {
		fail("of %v and %v", a.shape, b.shape)
	}
	l.define(l.times(a, b))
}

func plainOrder(n int) []int {
	axes := make([]int, n)
	for i := range axes {
		axes[i] = i
	}
	return axes
}

func outer(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "vec2")
	l.define(l.binary("mul", l.with(a, 1), l.with(b, 0)))
}

// tensordot sums over several axes of both: a product of matrices whose rows and columns are the
// other axes.
func tensordot(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	da, db := l.plain(n, "dims_self"), l.plain(n, "dims_other")
	const letters = "abcdefghijklmnopqrstuvwxyz"
	if len(a.shape)+len(b.shape) > len(letters) || len(da) != len(db) {
		fail("of %v and %v", a.shape, b.shape)
	}
	x, y := labelled{a, []rune(letters[:len(a.shape)])}, labelled{b, []rune(letters[len(a.shape):][:len(b.shape)])}
	for i := range da {
		y.labels[axisOf(db[i], len(b.shape))] = x.labels[axisOf(da[i], len(a.shape))]
	}
	var out []rune
	for _, z := range []labelled{x, y} {
		for _, c := range z.labels {
			if !slices.Contains(x.labels, c) || !slices.Contains(y.labels, c) {
				out = append(out, c)
			}
		}
	}
	l.define(l.ordered(l.summed(l.contract(x, y, out), out), out).v)
}

func baddbmm(l *lowering, n *pt2.Node) {
	p := l.matmul(l.tensor(n, "batch1"), l.tensor(n, "batch2"), false, float32(l.scalar(n, "alpha", 1)))
	if beta := l.scalar(n, "beta", 1); beta != 0 {
		p = l.binary("add", p, l.unary("affine", l.tensor(n, "self"), beta, 0))
	}
	l.define(p)
}
