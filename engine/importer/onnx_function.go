// Functions of ONNX that few models have, and positions that depend on the data.

package importer

import "github.com/ravnest/ravnest/engine/format/onnx"

// functionONNX defines the operators of this file.
func functionONNX() {
	for op, f := range map[string]func(l *lowering, n *onnx.Node){
		"ThresholdedRelu": func(l *lowering, n *onnx.Node) {
			l.call("threshold", tensorArg("self", n, 0), floatArg("threshold", attrFloat(n, "alpha", 1)), floatArg("value", 0))
		},
		"Shrink": onnxShrink, "IsInf": onnxIsInf, "LRN": onnxLRN, "SpaceToDepth": onnxSpaceToDepth, "MeanVarianceNormalization": onnxMeanVariance,
		"BitwiseAnd": onnxBits("bitwise_and"), "BitwiseOr": onnxBits("bitwise_or"), "BitwiseXor": onnxBits("bitwise_xor"),
		"BitwiseNot": func(l *lowering, n *onnx.Node) {
			v := *l.unary("affine", l.need(n, 0), -1, -1)
			v.whole = true
			l.set(n, &v)
		},
		"TopK": onnxTopK, "ArgMax": onnxArgMax("argmax"), "ArgMin": onnxArgMax("argmin"), "OneHot": onnxOneHot, "ScatterElements": onnxScatter, "Hardmax": onnxHardmax,
		"RotaryEmbedding": onnxRotary, "com.microsoft.RotaryEmbedding": onnxRotaryOfMicrosoft, "com.microsoft.QuickGelu": onnxQuickGelu,
	} {
		onnxOperators[op] = f
	}
}

func onnxShrink(l *lowering, n *onnx.Node) {
	x, bias, lambda := l.need(n, 0), attrFloat(n, "bias", 0), attrFloat(n, "lambd", 0.5)
	below, above := l.unary("lt", x, -lambda, 0), l.unary("gt", x, lambda, 0)
	l.set(n, l.binary("add", l.masked(l.unary("affine", x, 1, bias), below), l.masked(l.unary("affine", x, 1, -bias), above)))
}

func onnxIsInf(l *lowering, n *onnx.Node) {
	op := "isinf"
	switch up, down := attrInt(n, "detect_positive", 1) != 0, attrInt(n, "detect_negative", 1) != 0; {
	case up && !down:
		op = "isposinf"
	case down && !up:
		op = "isneginf"
	}
	l.call(op, tensorArg("self", n, 0))
	l.truths(n)
}

// onnxLRN divides by the squares of neighbouring channels.
func onnxLRN(l *lowering, n *onnx.Node) {
	x, size := l.leading(l.need(n, 0)), attrInt(n, "size", 1)
	alpha, beta, bias := attrFloat(n, "alpha", 1e-4), attrFloat(n, "beta", 0.75), attrFloat(n, "bias", 1)
	square := l.unary("pow", x, 2, 0)
	c := x.shape[1]
	if size < 1 || size > 64 {
		fail("over %d channels", size)
	}
	var index []int
	var weights []float64
	for o := range c {
		for t := range size {
			k := o - (size-1)/2 + t
			w := 0.0
			if k >= 0 && k < c {
				w = 1
			}
			index, weights = append(index, min(max(k, 0), c-1)), append(weights, w)
		}
	}
	s := l.unary("affine", l.resample(square, 1, index, size, weights), alpha/float64(size), bias)
	l.set(n, l.binary("mul", x, l.unary("pow", s, -beta, 0)))
}

// onnxSpaceToDepth makes channels of blocks: the block's place comes before the channel.
func onnxSpaceToDepth(l *lowering, n *onnx.Node) {
	x, b := l.leading(l.need(n, 0)), attrInt(n, "blocksize", 1)
	if len(x.shape) != 4 || b < 1 || x.shape[2]%b != 0 || x.shape[3]%b != 0 {
		fail("%v by %d", x.shape, b)
	}
	c, h, w := x.shape[1], x.shape[2]/b, x.shape[3]/b
	name, _ := l.reshape(x.name, []int{c, h, b, w, b})
	name, _ = l.permute(name, []int{2, 4, 0, 1, 3})
	name, s := l.reshape(name, []int{b * b * c, h, w})
	l.set(n, l.result(name, s, []int{1, b * b * c, h, w}, 0, 1))
}

func onnxMeanVariance(l *lowering, n *onnx.Node) {
	x, axes := l.value(l.need(n, 0)), l.intsOf(n, "axes", 9)
	if len(axes) == 0 {
		axes = []int{0, 2, 3}
	}
	for i, a := range axes {
		axes[i] = axisOf(a, len(x.shape))
	}
	d := l.binary("sub", x, l.reduce("mean", x, axes, true))
	v := l.unary("affine", l.reduce("mean", l.unary("pow", d, 2, 0), axes, true), 1, 1e-9)
	l.set(n, l.binary("div", d, l.unary("sqrt", v, 0, 0)))
}

func onnxBits(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		a, b := l.need(n, 0), l.need(n, 1)
		if a.isConst() {
			a, b = b, a
		}
		if a.isConst() {
			l.set(n, l.binaryConst("bits_"+op[len("bitwise_"):], a, b))
			return
		}
		v := *l.bitwise(op[len("bitwise_"):], a, b)
		v.whole = true
		l.set(n, &v)
	}
}

func onnxTopK(l *lowering, n *onnx.Node) {
	x := l.value(l.need(n, 0))
	k := l.known(l.need(n, 1), "the number")
	if len(k) != 1 {
		fail("of %v elements", k)
	}
	sign := 1.0
	if attrInt(n, "largest", 1) == 0 {
		sign = -1
	}
	v, at := l.chosen(x, axisOf(attrInt(n, "axis", -1), len(x.shape)), k[0], sign)
	at.whole = true
	l.vals[n.Outputs[0]] = v
	if len(n.Outputs) > 1 {
		l.vals[n.Outputs[1]] = at
	}
}

func onnxArgMax(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		if attrInt(n, "select_last_index", 0) != 0 {
			fail("of the last of several")
		}
		l.call(op, tensorArg("self", n, 0), intArg("dim", attrInt(n, "axis", 0)), flagArg("keepdim", attrInt(n, "keepdims", 1) != 0))
		l.truths(n)
	}
}

func onnxOneHot(l *lowering, n *onnx.Node) {
	at, depth, given := l.need(n, 0), l.known(l.need(n, 1), "the depth"), l.need(n, 2)
	if !given.isConst() {
		fail("of values that are computed")
	}
	values := l.data(given)
	if len(depth) != 1 || depth[0] < 1 || depth[0] > maxTable || len(values) != 2 {
		fail("of %v", depth)
	}
	hot := l.hot(at, depth[0])
	if values[0] != 0 || values[1] != 1 {
		hot = l.unary("affine", hot, values[1]-values[0], values[0])
	}
	rank := len(at.shape) + 1
	v := *l.back(hot, axisOf(attrInt(n, "axis", -1), rank))
	v.whole = given.whole
	l.set(n, &v)
}

func onnxScatter(l *lowering, n *onnx.Node) {
	op := "scatter"
	switch how := attrText(n, "reduction", "none"); how {
	case "add":
		op = "scatter_add"
	case "none":
	default:
		fail("with the reduction %q", how)
	}
	defer func(name string) { l.node.Target = name }(l.node.Target)
	l.node.Target = "aten." + op // scatter asks for it
	l.call(op, tensorArg("self", n, 0), intArg("dim", attrInt(n, "axis", 0)), tensorArg("index", n, 1), tensorArg("src", n, 2))
}

func onnxHardmax(l *lowering, n *onnx.Node) {
	x := l.value(l.need(n, 0))
	if l.onnx.Opset[""] < 13 && axisOf(attrInt(n, "axis", 1), len(x.shape)) != len(x.shape)-1 {
		fail("over several axes; export to version 13 of the operators or later")
	}
	l.set(n, l.greatest(x, axisOf(attrInt(n, "axis", -1), len(x.shape))))
}

// onnxQuickGelu is x·sigmoid(αx).
func onnxQuickGelu(l *lowering, n *onnx.Node) {
	x := l.value(l.need(n, 0))
	l.set(n, l.binary("mul", x, l.unary("sigmoid", l.unary("affine", x, attrFloat(n, "alpha", 1.702), 0), 0, 0)))
}

// onnxRotary is ONNX's own, from version 23 of its operators on: x, tables of cosines and sines,
// and positions.
func onnxRotary(l *lowering, n *onnx.Node) {
	l.rotary(n, l.need(n, 1), l.need(n, 2), l.in(n, 3))
}

// onnxRotaryOfMicrosoft has the positions before the tables.
func onnxRotaryOfMicrosoft(l *lowering, n *onnx.Node) {
	if s := attrFloat(n, "scale", 1); s != 1 {
		fail("with the scale %v", s)
	}
	l.rotary(n, l.need(n, 2), l.need(n, 3), l.need(n, 1))
}

// rotary turns pairs of elements by an angle for each position (Su et al., arXiv 2104.09864): those
// half a head apart, or neighbours where interleaved is set. x is [N, heads, T, d] or [N, T, heads·d].
func (l *lowering) rotary(n *onnx.Node, cos, sin, at *value) {
	x, heads := l.value(l.need(n, 0)), attrInt(n, "num_heads", 0)
	flat := len(x.shape) == 3
	if flat && heads == 0 { // as wide as the tables
		if heads = 1; len(cos.shape) == 2 && cos.shape[1] > 0 {
			heads = x.shape[2] / max(2*cos.shape[1], 1)
		}
	}
	if flat {
		x = l.inHeads(x, heads)
	}
	if len(x.shape) != 4 || x.batch != 0 || !x.alone() {
		fail("of %v", x.shape)
	}
	t, d := x.shape[2], attrInt(n, "rotary_embedding_dim", 0)
	if d == 0 {
		d = x.shape[3]
	}
	if d < 2 || d%2 != 0 || d > x.shape[3] {
		fail("of %d elements of a head of %d", d, x.shape[3])
	}
	table := func(v *value) *value { // [1 or N, 1, T, d/2]
		switch {
		case at == nil && len(v.shape) == 3:
			return l.with(v, 1)
		case at == nil:
			fail("without positions, with tables of %v", v.shape)
		case at.isConst():
			if len(at.shape) != 2 || at.shape[0] != 1 {
				if len(at.shape) != 1 || at.shape[0] != 1 {
					fail("with positions %v", at.shape)
				}
				first := int(l.data(at)[0]) // of the first token
				v = l.cut(v, 0, first, t, 1)
				return l.with(l.with(v, 0), 0)
			}
			return l.with(l.with(l.pick(v, 0, l.data(at)), 0), 0)
		}
		return l.with(l.rows(v, at), 1)
	}
	c, s := table(cos), table(sin)
	turned := l.cut(x, 3, 0, d, 1)
	var a, b *value
	between := attrInt(n, "interleaved", 0) != 0
	if between {
		a, b = l.cut(turned, 3, 0, d/2, 2), l.cut(turned, 3, 1, d/2, 2)
	} else {
		a, b = l.cut(turned, 3, 0, d/2, 1), l.cut(turned, 3, d/2, d/2, 1)
	}
	p := l.binary("sub", l.binary("mul", a, c), l.binary("mul", b, s))
	q := l.binary("add", l.binary("mul", a, s), l.binary("mul", b, c))
	var y *value
	if between {
		y = l.cat([]*value{l.with(p, 4), l.with(q, 4)}, 4)
		y = l.regrouped(y, []int{1, x.shape[1], t, d})
	} else {
		y = l.cat([]*value{p, q}, 3)
	}
	if d < x.shape[3] {
		y = l.cat([]*value{y, l.cut(x, 3, d, x.shape[3]-d, 1)}, 3)
	}
	if flat {
		y = l.permuted(y, []int{0, 2, 1, 3})
		y = l.viewAs(y, []number{{n: 1, batched: true}, {n: t}, {n: x.shape[1] * x.shape[3]}})
	}
	l.set(n, y)
}
