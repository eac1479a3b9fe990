// Functions that are made of others.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var functionOperators = map[string]operator{
	"expm1": of(func(l *lowering, x *value) *value { return l.unary("affine", l.unary("exp", x, 0, 0), 1, -1) }),
	"log1p": of(func(l *lowering, x *value) *value { return l.unary("log", l.unary("affine", x, 1, 1), 0, 0) }),
	"exp2":  of(func(l *lowering, x *value) *value { return l.unary("exp", l.unary("affine", x, math.Ln2, 0), 0, 0) }),
	"log2":  of(func(l *lowering, x *value) *value { return l.unary("affine", l.unary("log", x, 0, 0), 1/math.Ln2, 0) }),
	"log10": of(func(l *lowering, x *value) *value { return l.unary("affine", l.unary("log", x, 0, 0), 1/math.Ln10, 0) }),
	"tan": of(func(l *lowering, x *value) *value {
		return l.binary("div", l.unary("sin", x, 0, 0), l.unary("cos", x, 0, 0))
	}),
	"sinh":  of(func(l *lowering, x *value) *value { return l.hyperbolic("sub", x) }),
	"cosh":  of(func(l *lowering, x *value) *value { return l.hyperbolic("add", x) }),
	"erfc":  of(func(l *lowering, x *value) *value { return l.unary("rsub", l.unary("erf", x, 0, 0), 1, 1) }),
	"ceil":  of(func(l *lowering, x *value) *value { return l.negated("floor", x) }),
	"frac":  of(func(l *lowering, x *value) *value { return l.binary("sub", x, l.unary("trunc", x, 0, 0)) }),
	"round": round,
	"sgn":   unaryOp("sign"),
	"isnan": of(func(l *lowering, x *value) *value {
		return l.unary("eq", l.binary("add", l.unary("ge", x, 0, 0), l.unary("lt", x, 0, 0)), 0, 0)
	}),

	"isinf": of(func(l *lowering, x *value) *value {
		return l.unary("gt", l.unary("abs", x, 0, 0), math.MaxFloat32, 0)
	}),
	"isposinf": of(func(l *lowering, x *value) *value { return l.unary("gt", x, math.MaxFloat32, 0) }),
	"isneginf": of(func(l *lowering, x *value) *value { return l.unary("lt", x, -math.MaxFloat32, 0) }),
	"atan":     unaryOp("atan"), "arctan": unaryOp("atan"),
	"asin": of((*lowering).arcsine), "arcsin": of((*lowering).arcsine),
	"acos": of(func(l *lowering, x *value) *value { return l.unary("rsub", l.arcsine(x), 1, math.Pi/2) }),
	"sinc": of(func(l *lowering, x *value) *value { // 1 at 0
		zero, turn := l.unary("eq", x, 0, 0), l.unary("affine", x, math.Pi, 0)
		y := l.binary("div", l.unary("sin", turn, 0, 0), l.binary("add", turn, zero))
		return l.binary("add", l.masked(y, l.unary("eq", zero, 0, 0)), zero)
	}),
	"atan2": atan2, "arctan2": atan2, "nan_to_num": nanToNum, "logcumsumexp": logCumSumExp, "trapezoid": trapezoid, "trapz": trapezoid, "kron": kron, "quantile": quantile,

	"isfinite": of(func(l *lowering, x *value) *value { return l.unary("le", l.unary("abs", x, 0, 0), math.MaxFloat32, 0) }),

	"threshold":  threshold,
	"hardshrink": shrink(false), "softshrink": shrink(true),
	"fmod": remainderOf("trunc"), "remainder": remainderOf("floor"), "addcdiv": addcdiv, "logsumexp": logSumExp, "logaddexp": logAddExp,
	"var_mean": withMean(variance(false)), "std_mean": withMean(variance(true)), "aminmax": aminmax, "prod": prod,
	"cumprod": running(func(l *lowering, y, x *value) *value { return l.binary("mul", y, x) }), "cummax": running(latest("ge")), "cummin": running(latest("le")),
	"hypot": hypot, "xlogy": xlogy, "cdist": cdist, "cross": cross, "linalg_cross": cross, "median": ranked, "kthvalue": ranked,
	"pairwise_distance": pairwiseDistance, "index_add": indexAdd, "cosine_similarity": cosineSimilarity, "renorm": renorm,
}

// renorm bounds the norm of each part of x along an axis.
func renorm(l *lowering, n *pt2.Node) {
	x, dim, most := l.value(l.tensor(n, "self")), l.integer(n, "dim", 0), l.scalar(n, "maxnorm", 1)
	dim = axisOf(dim, len(x.shape))
	var axes []int
	for a := range x.shape {
		if a != dim {
			axes = append(axes, a)
		}
	}
	var norm *value
	switch p := l.scalar(n, "p", 2); p {
	case 1:
		norm = l.reduce("sum", l.unary("abs", x, 0, 0), axes, true)
	case 2:
		norm = l.length(l.reduce("sum", l.unary("pow", x, 2, 0), axes, true))
	default:
		fail("with the norm %v", p)
	}
	one := constant([]float64{1}, []int{}, false)
	scaled := l.binary("div", constant([]float64{most}, []int{}, false), l.unary("affine", norm, 1, 1e-7))
	l.define(l.binary("mul", x, l.where(l.unary("gt", norm, most, 0), scaled, one)))
}

// arcsine is atan(x / √(1 - x²)).
func (l *lowering) arcsine(x *value) *value {
	return l.unary("atan", l.binary("mul", x, l.unary("rsqrt", l.unary("rsub", l.unary("pow", x, 2, 0), 1, 1), 0, 0)), 0, 0)
}

// atan2 is the angle of (x, y): that of y/x, and half a turn more or less where x is negative.
func atan2(l *lowering, n *pt2.Node) {
	y, x := l.tensor(n, "self"), l.tensor(n, "other")
	half := l.unary("affine", l.unary("ge", y, 0, 0), 2*math.Pi, -math.Pi)
	l.define(l.binary("add", l.unary("atan", l.binary("div", y, x), 0, 0), l.binary("mul", half, l.unary("lt", x, 0, 0))))
}

// nanToNum gives numbers for NaN and infinities.
func nanToNum(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	if x.isConst() {
		x = l.value(x)
	}
	is := l.binary("add", l.unary("ge", x, 0, 0), l.unary("lt", x, 0, 0)) // a number
	y := l.masked(x, is)
	if v := l.scalar(n, "nan", 0); v != 0 {
		y = l.binary("add", y, l.unary("affine", is, -v, v))
	}
	lo, hi := l.scalar(n, "neginf", -math.MaxFloat32), l.scalar(n, "posinf", math.MaxFloat32)
	for _, k := range []struct {
		f       string
		at, num float64
	}{{"lt", -math.MaxFloat32, lo}, {"gt", math.MaxFloat32, hi}} {
		if k.num == k.at {
			y = l.unary("clamp", y, -math.MaxFloat32, math.MaxFloat32)
			continue
		}
		y = l.where(l.unary(k.f, x, k.at, 0), constant([]float64{k.num}, []int{}, false), y)
	}
	l.define(y)
}

// logCumSumExp is the logarithm of the running sum of exponentials.
func logCumSumExp(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	most := l.unary("detach", l.reduce("amax", x, []int{axis}, true), 0, 0)
	e := l.unary("exp", l.binary("sub", x, most), 0, 0)
	s := l.alongLast(e, axis, func(name string) (string, graph.Shape) { return l.emit(&graph.CumSum{}, nil, name) })
	l.define(l.binary("add", l.unary("log", s, 0, 0), most))
}

// trapezoid is the sum of the means of neighbours.
func trapezoid(l *lowering, n *pt2.Node) {
	y := l.tensor(n, "y")
	axis, dx := axisOf(l.integer(n, "dim", -1), len(y.shape)), l.scalar(n, "dx", 1)
	if l.optional(n, "x") != nil {
		fail("with positions")
	}
	d := y.shape[axis]
	pairs := l.binary("add", l.cut(y, axis, 0, d-1, 1), l.cut(y, axis, 1, d-1, 1))
	l.define(l.unary("affine", l.reduce("sum", pairs, []int{axis}, false), dx/2, 0))
}

// kron is every element of the first times all of the second, as blocks.
func kron(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	for len(a.shape) < len(b.shape) {
		a = l.with(a, 0)
	}
	for len(b.shape) < len(a.shape) {
		b = l.with(b, 0)
	}
	sizes, _ := l.meta(outputs(n)[0])
	for k := range a.shape {
		a, b = l.with(a, 2*k+1), l.with(b, 2*k)
	}
	l.define(l.viewAs(l.binary("mul", a, b), sizes))
}

// quantile lies between two of the sorted elements of an axis.
func quantile(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	a, ok := arg(n, "dim")
	q := l.other(n, "q")
	if !ok || len(a.Ints) == 0 || !q.isConst() || elems(q.shape) != 1 || text(n, "interpolation", "linear") != "linear" {
		fail("of all elements, of several ranks, or not linear; name the axis by dim")
	}
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	at := l.data(q)[0] * float64(x.shape[axis]-1)
	low := int(at)
	high := min(low+1, x.shape[axis]-1)
	vs, _ := l.chosen(x, axis, high+1, -1)
	y := l.cut(vs, axis, low, 1, 1)
	if w := at - float64(low); w > 0 {
		y = l.binary("add", l.unary("affine", y, 1-w, 0), l.unary("affine", l.cut(vs, axis, high, 1, 1), w, 0))
	}
	if !l.flag(n, "keepdim", false) {
		y = l.without(y, axis)
	}
	l.define(y)
}

// of is an operator of one tensor.
func of(f func(l *lowering, x *value) *value) operator {
	return func(l *lowering, n *pt2.Node) { l.define(f(l, l.tensor(n, "self"))) }
}

// hyperbolic is (exp(x) ± exp(-x)) / 2.
func (l *lowering) hyperbolic(f string, x *value) *value {
	return l.unary("affine", l.binary(f, l.unary("exp", x, 0, 0), l.unary("exp", l.unary("affine", x, -1, 0), 0, 0)), 0.5, 0)
}

// negated is -f(-x).
func (l *lowering) negated(f string, x *value) *value {
	return l.unary("affine", l.unary(f, l.unary("affine", x, -1, 0), 0, 0), -1, 0)
}

// rounded is x to the nearest integer, to the even one of two. Adding and subtracting 1.5·2²³
// rounds so below 2²², and what is not below is an integer or near enough to one.
func (l *lowering) rounded(x *value) *value {
	if x.isConst() {
		d := slices.Clone(l.data(x))
		for i, v := range d {
			d[i] = math.RoundToEven(v)
		}
		return constant(d, x.shape, x.whole)
	}
	const magic = 3 << 22
	return l.unary("detach", l.unary("affine", l.unary("affine", x, 1, magic), 1, -magic), 0, 0)
}

// round rounds to integers, or to so many decimals.
func round(l *lowering, n *pt2.Node) {
	x, d := l.tensor(n, "self"), l.integer(n, "decimals", 0)
	ten := constant([]float64{math.Pow10(max(d, -d))}, []int{}, false)
	switch {
	case d > 0:
		l.define(l.binary("div", l.rounded(l.binary("mul", x, ten)), ten))
	case d < 0:
		l.define(l.binary("mul", l.rounded(l.binary("div", x, ten)), ten))
	default:
		l.define(l.rounded(x))
	}
}

func threshold(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	l.define(l.where(l.unary("gt", x, l.scalar(n, "threshold", 0), 0), x, l.other(n, "value")))
}

// shrink is hardshrink or softshrink: 0 near 0.
func shrink(soft bool) operator {
	return func(l *lowering, n *pt2.Node) {
		x, lambda := l.tensor(n, "self"), l.scalar(n, "lambd", 0.5)
		if soft { // x without what lies between -λ and λ
			l.define(l.binary("sub", x, l.unary("clamp", x, -lambda, lambda)))
			return
		}
		l.define(l.binary("mul", x, l.unary("gt", l.unary("abs", x, 0, 0), lambda, 0)))
	}
}

// remainderOf is what a division leaves whose quotient is rounded.
func remainderOf(rounding string) operator {
	return func(l *lowering, n *pt2.Node) {
		a, b := l.other(n, "self"), l.other(n, "other")
		if a.isConst() && b.isConst() && rounding == "floor" {
			l.define(l.binaryConst("remainder", a, b))
			return
		}
		q := l.unary(rounding, l.binary("div", a, b), 0, 0)
		l.define(l.binary("sub", a, l.binary("mul", q, b)))
	}
}

func addcdiv(l *lowering, n *pt2.Node) {
	p := l.binary("div", l.tensor(n, "tensor1"), l.tensor(n, "tensor2"))
	if k := l.scalar(n, "value", 1); k != 1 {
		p = l.unary("affine", p, k, 0)
	}
	l.define(l.binary("add", l.tensor(n, "self"), p))
}

func logSumExp(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	axes, keep := l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false)
	most := l.unary("detach", l.reduce("amax", x, axes, true), 0, 0)
	y := l.binary("add", l.unary("log", l.reduce("sum", l.unary("exp", l.binary("sub", x, most), 0, 0), axes, true), 0, 0), most)
	if !keep {
		slices.Sort(axes)
		for _, a := range slices.Backward(axes) {
			y = l.without(y, a)
		}
	}
	l.define(y)
}

// logAddExp is max(a, b) + log(1 + exp(-|a - b|)).
func logAddExp(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	d := l.binary("sub", a, b)
	l.define(l.binary("add", b, l.unary("softplus", d, 1, 20)))
}

// withMean is a variance or deviation together with the mean.
func withMean(f operator) operator {
	return func(l *lowering, n *pt2.Node) {
		names := outputs(n)
		f(l, n)
		x := l.tensor(n, "self")
		l.defineAs(names[1], l.reduce("mean", x, l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false)))
	}
}

func aminmax(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	a, ok := arg(n, "dim")
	if !ok || len(a.Ints) == 0 {
		fail("of all elements; name the axis by dim")
	}
	axes, keep, names := l.axes(n, "dim", len(x.shape)), l.flag(n, "keepdim", false), outputs(n)
	l.defineAs(names[0], l.signed(l.reduce("amax", l.signed(x, -1), axes, keep), -1))
	l.defineAs(names[1], l.reduce("amax", x, axes, keep))
}

func cosineSimilarity(l *lowering, n *pt2.Node) {
	a, b := l.value(l.tensor(n, "x1")), l.value(l.tensor(n, "x2"))
	axis, eps := axisOf(l.integer(n, "dim", 1), max(len(a.shape), len(b.shape))), l.scalar(n, "eps", 1e-8)
	norm := func(x *value) *value {
		s := l.unary("clamp", l.reduce("sum", l.unary("pow", x, 2, 0), []int{axis}, true), eps*eps, math.MaxFloat32)
		return l.binary("mul", x, l.unary("rsqrt", s, 0, 0))
	}
	l.define(l.reduce("sum", l.binary("mul", norm(a), norm(b)), []int{axis}, false))
}

// mostChained is how many elements are combined one by one: each takes operations of its own.
const mostChained = 512

// prod is the product along an axis.
func prod(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	axis := axisOf(l.integer(n, "dim", 0), len(x.shape))
	if axis == x.batch || x.shape[axis] > mostChained {
		fail("of the batch, or of more than %d elements", mostChained)
	}
	y := l.cut(x, axis, 0, 1, 1)
	for i := 1; i < x.shape[axis]; i++ {
		y = l.binary("mul", y, l.cut(x, axis, i, 1, 1))
	}
	if !l.flag(n, "keepdim", false) {
		y = l.without(y, axis)
	}
	l.define(y)
}

// latest is x, the later element, if it compares so with y, what has been chosen so far: the last of
// equals has the gradient.
func latest(f string) func(l *lowering, y, x *value) *value {
	return func(l *lowering, y, x *value) *value {
		return l.where(l.unary(f, l.detached(l.binary("sub", x, y)), 0, 0), x, y)
	}
}

// running combines each element with all before.
func running(f func(l *lowering, y, x *value) *value) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.value(l.tensor(n, "self"))
		axis := axisOf(l.integer(n, "dim", 0), len(x.shape))
		if axis == x.batch || x.shape[axis] > mostChained {
			fail("of the batch, or of more than %d elements", mostChained)
		}
		y := l.cut(x, axis, 0, 1, 1)
		all := []*value{y}
		for i := 1; i < x.shape[axis]; i++ {
			y = f(l, y, l.cut(x, axis, i, 1, 1))
			all = append(all, y)
		}
		names := outputs(n)
		if len(names) > 1 && l.read(names[1]) {
			fail("with positions")
		}
		l.defineAs(names[0], l.cat(all, axis))
	}
}

func hypot(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	l.define(l.unary("sqrt", l.binary("add", l.unary("pow", a, 2, 0), l.unary("pow", b, 2, 0)), 0, 0))
}

// xlogy is x·log(y), 0 where x is 0.
func xlogy(l *lowering, n *pt2.Node) {
	x, y := l.other(n, "self"), l.other(n, "other")
	if !x.isConst() && x.batch < 0 {
		x = l.value(x)
	}
	zero := l.unary("eq", x, 0, 0)
	l.define(l.binary("mul", x, l.unary("log", l.where(zero, constant([]float64{1}, []int{}, false), y), 0, 0)))
}

// pairwiseDistance is |a - b + ε| of the last axis.
func pairwiseDistance(l *lowering, n *pt2.Node) {
	l.define(l.distance(l.tensor(n, "x1"), l.tensor(n, "x2"), l.scalar(n, "p", 2), l.scalar(n, "eps", 1e-6), l.flag(n, "keepdim", false)))
}

// indexAdd adds the elements of an axis at constant positions: a product with zeros and ones.
func indexAdd(l *lowering, n *pt2.Node) {
	v, at, src := l.tensor(n, "self"), l.tensor(n, "index"), l.value(l.tensor(n, "source"))
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if !at.isConst() || axis == v.batch || axis == src.batch {
		fail("with an index that depends on the data, or of the batch")
	}
	hot := l.hot(at, v.shape[axis]) // [positions, elements]
	y := l.back(l.linear(l.moved(src, axis), hot, nil, true), axis)
	if k := l.scalar(n, "alpha", 1); k != 1 {
		y = l.unary("affine", y, k, 0)
	}
	l.define(l.binary("add", v, y))
}

// cdist are the distances of all pairs of rows.
func cdist(l *lowering, n *pt2.Node) {
	a, b := l.value(l.tensor(n, "x1")), l.value(l.tensor(n, "x2"))
	if l.scalar(n, "p", 2) != 2 || len(a.shape) < 2 || len(b.shape) < 2 {
		fail("of an order that is not 2")
	}
	d := l.binary("sub", l.with(a, len(a.shape)-1), l.with(b, len(b.shape)-2))
	l.define(l.length(l.reduce("sum", l.unary("pow", d, 2, 0), []int{len(d.shape) - 1}, false)))
}

func cross(l *lowering, n *pt2.Node) {
	a, b := l.tensor(n, "self"), l.tensor(n, "other")
	axis := -1
	if _, ok := arg(n, "dim"); !ok && base(n) == "cross" {
		sizes, _ := l.meta(outputs(n)[0])
		axis = slices.IndexFunc(sizes, func(s number) bool { return s.n == 3 }) // the first that has three
	}
	axis = axisOf(l.integer(n, "dim", axis), len(a.shape))
	if axis == a.batch || axis == b.batch {
		fail("along the batch; name another axis by dim")
	}
	if a.shape[axis] != 3 || b.shape[axis] != 3 {
		fail("of %v and %v", a.shape, b.shape)
	}
	next, last := []float64{1, 2, 0}, []float64{2, 0, 1}
	p := l.binary("mul", l.pick(a, axis, next), l.pick(b, axis, last))
	l.define(l.binary("sub", p, l.binary("mul", l.pick(a, axis, last), l.pick(b, axis, next))))
}

// ranked is the k-th smallest element along an axis, or the lower median.
func ranked(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	if a, ok := arg(n, "dim"); base(n) == "median" && (!ok || len(a.Ints) == 0) {
		fail("of all elements; name the axis by dim")
	}
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	k := l.integer(n, "k", (x.shape[axis]+1)/2)
	vs, at := l.chosen(x, axis, k, -1)
	for i, v := range []*value{vs, at} {
		v = l.cut(v, axis, k-1, 1, 1)
		if !l.flag(n, "keepdim", false) {
			v = l.without(v, axis)
		}
		l.defineAs(outputs(n)[i], v)
	}
}
