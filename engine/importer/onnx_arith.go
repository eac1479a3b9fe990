// Arithmetic, comparisons, types and reductions of ONNX models, of numbers and of sizes.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
)

func onnxHardSigmoid(l *lowering, n *onnx.Node) {
	a, b := attrFloat(n, "alpha", 0.2), attrFloat(n, "beta", 0.5)
	if math.Abs(a-1.0/6) < 1e-6 && b == 0.5 {
		l.call("hardsigmoid", tensorArg("self", n, 0))
		return
	}
	l.set(n, l.clamped(l.unary("affine", l.need(n, 0), a, b), 0, 1))
}

func onnxSelu(l *lowering, n *onnx.Node) {
	const alpha, gamma = 1.6732632423543772, 1.0507009873554805
	a, g := attrFloat(n, "alpha", alpha), attrFloat(n, "gamma", gamma)
	if math.Abs(a-alpha) < 1e-6 && math.Abs(g-gamma) < 1e-6 {
		l.call("selu", tensorArg("self", n, 0))
		return
	}
	l.set(n, l.unary("affine", l.unary("elu", l.need(n, 0), a, 0), g, 0))
}

func onnxClip(l *lowering, n *onnx.Node) {
	lo, hi := attrFloat(n, "min", math.Inf(-1)), attrFloat(n, "max", math.Inf(1))
	if v := l.in(n, 1); v != nil {
		lo = l.scalarOf(v, "its lower bound")
	}
	if v := l.in(n, 2); v != nil {
		hi = l.scalarOf(v, "its upper bound")
	}
	if lo == 0 && math.IsInf(hi, 1) {
		l.call("relu", tensorArg("self", n, 0))
		return
	}
	l.set(n, l.clamped(l.need(n, 0), lo, hi))
}

func onnxPRelu(l *lowering, n *onnx.Node) {
	l.set(n, l.prelu(l.value(l.need(n, 0)), l.need(n, 1)))
}

func onnxPow(l *lowering, n *onnx.Node) {
	x, e := l.need(n, 0), l.need(n, 1)
	switch {
	case x.isConst() && e.isConst():
		l.set(n, l.binaryConst("pow", x, e))
	case e.isConst() && elems(e.shape) == 1 && len(e.shape) <= len(x.shape):
		l.set(n, l.unary("pow", x, decimal(l.data(e)[0]), 0))
	default:
		l.set(n, l.binary("pow", x, e))
	}
}

// sizeArithmetic computes with sizes, if one of the operands is such. It tells whether it was.
func (l *lowering) sizeArithmetic(f string, a, b *value) *value {
	if a.sizes == nil && b.sizes == nil {
		return nil
	}
	x, y := l.numbers(a, "a size"), l.numbers(b, "a size")
	n, shape := max(len(x), len(y)), a.shape
	if len(b.shape) > len(shape) || len(y) > len(x) {
		shape = b.shape
	}
	if len(x) != n && len(x) != 1 || len(y) != n && len(y) != 1 {
		fail("%v and %v do not match", a.shape, b.shape)
	}
	out := make([]number, n)
	for i := range out {
		p, q := x[i%len(x)], y[i%len(y)]
		switch {
		case !p.batched && !q.batched && constArith[f] != nil:
			out[i] = number{n: int(constArith[f](float64(p.n), float64(q.n)))}
		case f == "mul" && p.batched != q.batched:
			out[i] = number{n: p.n * q.n, batched: true}
		case (f == "add" || f == "sub") && q == number{}:
			out[i] = p
		case f == "add" && p == number{}:
			out[i] = q
		case (f == "add" || f == "sub") && p.batched && q.batched:
			out[i] = number{n: int(constArith[f](float64(p.n), float64(q.n))), batched: true}
		case f == "div" && p.batched && !q.batched && q.n != 0 && p.n%q.n == 0:
			out[i] = number{n: p.n / q.n, batched: true}
		case f == "div" && p.batched && q.batched && q.n != 0 && p.n%q.n == 0:
			out[i] = number{n: p.n / q.n}
		case f == "max" && p.batched != q.batched && p.n <= 1 && q.n <= 1: // of a batch and 1 or less
			out[i] = number{n: 1, batched: true}
		default:
			fail("it computes with the number of samples")
		}
	}
	return sizesValue(out, shape)
}

func onnxBinary(f string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		a, b := l.need(n, 0), l.need(n, 1)
		v := l.sizeArithmetic(f, a, b)
		switch {
		case v != nil:
		case f == "div" && a.isConst() && b.isConst() && a.whole && b.whole:
			v = l.binaryConst("trunc_divide", a, b)
		case f == "div" && a.whole && b.whole: // of integers
			v = l.unary("trunc", l.binary("div", a, b), 0, 0)
			v.whole = true
		case f == "remainder" && (!a.isConst() || !b.isConst() || attrInt(n, "fmod", 0) != 0):
			op := "remainder"
			if attrInt(n, "fmod", 0) != 0 {
				op = "fmod"
			}
			l.call(op, tensorArg("self", n, 0), tensorArg("other", n, 1))
			v = l.vals[n.Outputs[0]]
			v.whole = a.whole && b.whole
		default:
			if f == "mul" && a.whole && b.whole {
				l.representable(a, b)
			}
			v = l.binary(f, a, b)
		}
		l.set(n, v)
	}
}

// onnxFold is arithmetic of any number of tensors.
func onnxFold(f string, mean bool) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		v := l.need(n, 0)
		for k := 1; k < len(n.Inputs); k++ {
			b := l.need(n, k)
			if v.sample || b.sample { // of indices, to find out their common shape
				v = samples(l.common(v, b))
				continue
			}
			if s := l.sizeArithmetic(f, v, b); s != nil {
				v = s
			} else {
				v = l.binary(f, v, b)
			}
		}
		if mean {
			v = l.unary("affine", v, 1/float64(len(n.Inputs)), 0)
		}
		l.set(n, v)
	}
}

// common is the shape that two constants have together.
func (l *lowering) common(a, b *value) []number {
	x, y := l.dims(a), l.dims(b)
	if len(x) < len(y) {
		x, y = y, x
	}
	for i, d := range y {
		if w := &x[len(x)-len(y)+i]; *w == (number{n: 1}) {
			*w = d
		}
	}
	return x
}

// truths marks what a node made as truth values.
func (l *lowering) truths(n *onnx.Node) {
	v := *l.vals[n.Outputs[0]]
	v.whole = true
	l.set(n, &v)
}

func onnxLogic(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		a, b := l.need(n, 0), l.need(n, 1)
		// What is the same for all stays so: true and x is x.
		for _, p := range [][2]*value{{a, b}, {b, a}} {
			if c, x := p[0], p[1]; c.isConst() && !c.sample && elems(broadcastShape(c.shape, x.shape)) == elems(x.shape) && len(c.shape) <= len(x.shape) {
				d := l.data(c)
				if !slices.ContainsFunc(d, func(v float64) bool { return (v != 0) != (op == "logical_and") }) {
					l.set(n, x)
					l.truths(n)
					return
				}
			}
		}
		l.call(op, tensorArg("self", n, 0), tensorArg("other", n, 1))
		l.truths(n)
	}
}

func onnxCompare(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		a, b := l.need(n, 0), l.need(n, 1)
		if a.sizes != nil || b.sizes != nil {
			x, y := l.numbers(a, "a size"), l.numbers(b, "a size")
			if op != "eq" || len(y) != 1 && len(x) != len(y) {
				fail("it compares the number of samples")
			}
			d := make([]float64, len(x))
			for i, p := range x {
				q := y[i%len(y)]
				if p.batched && !q.batched && q.n > 0 {
					fail("it compares the number of samples with %d", q.n)
				}
				d[i] = truth(p == q)
			}
			l.set(n, constant(d, a.shape, true))
			return
		}
		if a.sample && b.sample && op == "eq" {
			l.set(n, constant([]float64{1}, []int{1}, true))
			return
		}
		l.call(op, tensorArg("self", n, 0), tensorArg("other", n, 1))
		l.truths(n)
	}
}

func onnxWhere(l *lowering, n *onnx.Node) {
	c, a, b := l.need(n, 0), l.need(n, 1), l.need(n, 2)
	if a.sizes != nil || b.sizes != nil {
		x, y, m := l.numbers(a, "a size"), l.numbers(b, "a size"), l.known(c, "the condition")
		out := make([]number, len(m))
		for i := range m {
			if out[i] = y[i%len(y)]; m[i] != 0 {
				out[i] = x[i%len(x)]
			}
		}
		l.set(n, sizesValue(out, c.shape))
		return
	}
	v := *l.where(c, a, b)
	v.whole = a.whole && b.whole
	l.set(n, &v)
}

func onnxCast(l *lowering, n *onnx.Node) { l.cast(n, int64(attrInt(n, "to", 1))) }

func onnxCastLike(l *lowering, n *onnx.Node) {
	to := int64(onnx.Float)
	if l.need(n, 1).whole {
		to = onnx.Int64
	}
	l.cast(n, to)
}

func (l *lowering) cast(n *onnx.Node, to int64) {
	v := *l.need(n, 0)
	floating := to == onnx.Float || to == onnx.Double
	switch {
	case to == onnx.Float16 || to == onnx.BFloat16:
		fail("half precision is not supported; export a model in float32")
	case v.sizes != nil || v.sample:
	case v.isConst():
		d := slices.Clone(l.data(&v))
		for i, x := range d {
			switch {
			case to == onnx.Bool:
				d[i] = truth(x != 0)
			case !floating:
				d[i] = trunc(x)
			}
		}
		v = *constant(d, v.shape, !floating)
	case to == onnx.Bool:
		v = *l.unary("ne", &v, 0, 0)
	case !floating && !v.whole:
		v = *l.unary("trunc", &v, 0, 0)
	}
	v.whole = !floating
	if v.param == "" {
		v.archived = ""
	}
	l.set(n, &v)
}

// onnxIsNaN is false of a softmax, behind which exporters ask for it: a run that computes such a number
// has failed already.
func onnxIsNaN(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	if p := l.producer(v.name); p != nil {
		if _, ok := p.Op.(*graph.Softmax); ok {
			l.set(n, constant([]float64{0}, []int{}, true))
			return
		}
	}
	if v.isConst() {
		d := slices.Clone(l.data(v))
		for i, x := range d {
			d[i] = truth(x != x)
		}
		l.set(n, constant(d, v.shape, true))
		return
	}
	l.call("isnan", tensorArg("self", n, 0))
	l.truths(n)
}

func onnxReduce(f string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		x := l.need(n, 0)
		if x.sizes != nil {
			fail("of sizes")
		}
		axes := l.intsOf(n, "axes", 1)
		if len(axes) == 0 {
			if attrInt(n, "noop_with_empty_axes", 0) != 0 {
				l.set(n, x)
				return
			}
			for a := range x.shape {
				axes = append(axes, a)
			}
		}
		for i, a := range axes {
			axes[i] = axisOf(a, len(x.shape))
		}
		keep := attrInt(n, "keepdims", 1) != 0
		switch f {
		case "amin":
			l.set(n, l.unary("affine", l.reduce("amax", l.unary("affine", x, -1, 0), axes, keep), -1, 0))
		case "l1":
			l.set(n, l.reduce("sum", l.unary("abs", x, 0, 0), axes, keep))
		case "log":
			l.set(n, l.unary("log", l.reduce("sum", x, axes, keep), 0, 0))
		case "logsumexp", "prod":
			if f == "prod" && len(axes) != 1 {
				fail("over several axes")
			}
			l.call(f, tensorArg("self", n, 0), intsArg("dim", axes), flagArg("keepdim", keep))
		case "l2":
			v := l.reduce("sum", l.unary("pow", x, 2, 0), axes, keep)
			if v.isConst() {
				l.set(n, l.unary("sqrt", v, 0, 0))
				return
			}
			l.set(n, l.length(v))
		case "squares":
			l.set(n, l.reduce("sum", l.unary("pow", x, 2, 0), axes, keep))
		default:
			l.set(n, l.reduce(f, x, axes, keep))
		}
	}
}

func onnxCumSum(l *lowering, n *onnx.Node) {
	axis, self := int(l.scalarOf(l.need(n, 1), "its axis")), tensorArg("self", n, 0)
	reverse := attrInt(n, "reverse", 0) != 0
	if reverse {
		l.call("flip", self, intsArg("dims", []int{axis}))
		self = namedArg("self", l.named(n, l.vals[n.Outputs[0]]))
	}
	l.call("cumsum", self, intArg("dim", axis))
	if reverse {
		l.call("flip", namedArg("self", l.named(n, l.vals[n.Outputs[0]])), intsArg("dims", []int{axis}))
	}
	if attrInt(n, "exclusive", 0) != 0 {
		l.set(n, l.binary("sub", l.vals[n.Outputs[0]], l.need(n, 0)))
	}
}

func onnxTrilu(l *lowering, n *onnx.Node) {
	k := 0
	if v := l.in(n, 1); v != nil {
		k = int(l.scalarOf(v, "its diagonal"))
	}
	op := "tril"
	if attrInt(n, "upper", 1) != 0 {
		op = "triu"
	}
	l.call(op, tensorArg("self", n, 0), intArg("diagonal", k))
}

func onnxEinsum(l *lowering, n *onnx.Node) {
	l.call("einsum", tensorsArg("tensors", n.Inputs), textArg("equation", attrText(n, "equation", "")))
}
