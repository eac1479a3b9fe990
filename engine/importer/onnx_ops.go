// The operators of ONNX.

package importer

import (
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var onnxOperators map[string]func(l *lowering, n *onnx.Node)

func init() {
	onnxOperators = map[string]func(l *lowering, n *onnx.Node){
		"Conv": onnxConv, "ConvTranspose": onnxConvTranspose, "Gemm": gemm, "MatMul": onnxMatMul,
		"BatchNormalization": onnxBatchNorm, "LayerNormalization": onnxLayerNorm, "InstanceNormalization": onnxInstanceNorm, "GroupNormalization": onnxGroupNorm,
		"RMSNormalization": onnxRMSNorm, "Dropout": onnxDropout,
		"MaxPool": onnxPool("max_pool"), "AveragePool": onnxPool("avg_pool"), "GlobalAveragePool": onnxGlobalPool("mean"), "GlobalMaxPool": onnxGlobalPool("amax"),
		"Softmax": onnxSoftmax("softmax"), "LogSoftmax": onnxSoftmax("log_softmax"),
		"Gelu": func(l *lowering, n *onnx.Node) {
			l.call("gelu", tensorArg("self", n, 0), textArg("approximate", attrText(n, "approximate", "none")))
		},
		"LeakyRelu": func(l *lowering, n *onnx.Node) {
			l.call("leaky_relu", tensorArg("self", n, 0), floatArg("negative_slope", attrFloat(n, "alpha", 0.01)))
		},
		"Elu": func(l *lowering, n *onnx.Node) {
			l.call("elu", tensorArg("self", n, 0), floatArg("alpha", attrFloat(n, "alpha", 1)))
		},
		"Celu": func(l *lowering, n *onnx.Node) {
			l.call("celu", tensorArg("self", n, 0), floatArg("alpha", attrFloat(n, "alpha", 1)))
		},
		"HardSigmoid": onnxHardSigmoid, "Clip": onnxClip, "PRelu": onnxPRelu, "Pow": onnxPow,
		"Add": onnxBinary("add"), "Sub": onnxBinary("sub"), "Mul": onnxBinary("mul"), "Div": onnxBinary("div"),
		"Min": onnxFold("min", false), "Max": onnxFold("max", false), "Sum": onnxFold("add", false), "Mean": onnxFold("add", true),
		"And": onnxLogic("logical_and"), "Or": onnxLogic("logical_or"), "Not": onnxCall("logical_not"), "Mod": onnxBinary("remainder"),
		"Equal": onnxCompare("eq"), "Less": onnxCompare("lt"), "LessOrEqual": onnxCompare("le"), "Greater": onnxCompare("gt"), "GreaterOrEqual": onnxCompare("ge"),
		"Where": onnxWhere, "Cast": onnxCast, "CastLike": onnxCastLike, "IsNaN": onnxIsNaN, "Identity": func(l *lowering, n *onnx.Node) { l.set(n, l.need(n, 0)) },
		"Constant": onnxConstant, "ConstantOfShape": constantOfShape, "Shape": onnxShape, "Size": onnxSize, "Range": onnxRange,
		"Reshape": onnxReshape, "Flatten": onnxFlatten, "Squeeze": onnxSqueeze, "Unsqueeze": onnxUnsqueeze, "Transpose": onnxTranspose,
		"Expand": onnxExpand, "Tile": onnxTile, "Slice": onnxSlice, "Split": onnxSplit, "Concat": onnxConcat, "SplitToSequence": onnxSplitToSequence, "SequenceAt": onnxSequenceAt, "Pad": onnxPad,
		"Gather": onnxGather, "GatherND": onnxGatherND, "GatherElements": onnxGatherElements,
		"ReduceMean": onnxReduce("mean"), "ReduceSum": onnxReduce("sum"), "ReduceMax": onnxReduce("amax"), "ReduceMin": onnxReduce("amin"),
		"ReduceL2": onnxReduce("l2"), "ReduceSumSquare": onnxReduce("squares"),
		"CumSum": onnxCumSum, "Trilu": onnxTrilu, "Einsum": onnxEinsum, "Resize": onnxResize, "DepthToSpace": onnxDepthToSpace,
	}
	for op, f := range map[string]string{
		"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hardswish", "Softplus": "softplus", "Softsign": "softsign", "Selu": "selu", "Mish": "mish",
		"Swish": "silu", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Abs": "abs", "Neg": "neg", "Floor": "floor", "Sign": "sign", "Erf": "erf", "Sin": "sin", "Cos": "cos", "Atan": "atan",
	} {
		onnxOperators[op] = onnxCall(f)
	}
	recurrentONNX()
	fusedONNX()
}

// window is what a convolution or a pool says of its axes.
func (l *lowering) window(n *onnx.Node, x *value, kernel []int) (stride, dilation, before, after []int) {
	d := len(kernel)
	fill := func(name string, v int) []int {
		if is := attrInts(n, name); len(is) == d {
			return is
		}
		return slices.Repeat([]int{v}, d)
	}
	stride, dilation = fill("strides", 1), fill("dilations", 1)
	before, after = make([]int, d), make([]int, d)
	if pads := attrInts(n, "pads"); len(pads) == 2*d {
		before, after = pads[:d], pads[d:]
	}
	if len(x.shape) != d+2 {
		fail("its input is %v, its window %v", x.shape, kernel)
	}
	switch auto := attrText(n, "auto_pad", "NOTSET"); auto {
	case "NOTSET", "", "VALID":
	case "SAME_UPPER", "SAME_LOWER":
		for i, k := range kernel {
			in := x.shape[i+2]
			out := (in + stride[i] - 1) / stride[i]
			all := max((out-1)*stride[i]+(k-1)*dilation[i]+1-in, 0)
			before[i], after[i] = all/2, all-all/2
			if auto == "SAME_LOWER" {
				before[i], after[i] = after[i], before[i]
			}
		}
	default:
		fail("with auto_pad %q", auto)
	}
	return stride, dilation, before, after
}

// named gives a value a name that operators of PyTorch can take.
func (l *lowering) named(n *onnx.Node, v *value) string {
	name := n.Outputs[0] + " input"
	l.vals[name] = v
	return name
}

func namedArg(arg, name string) pt2.Named {
	return pt2.Named{Name: arg, Arg: pt2.Arg{Kind: pt2.Tensor, Names: []string{name}}}
}

// padded pads the axes of a window by zeros where the two sides differ.
func (l *lowering) evenly(n *onnx.Node, x *value, before, after []int, with float64) (string, []int) {
	if slices.Equal(before, after) {
		return n.Inputs[0], before
	}
	pad := make([]int, 0, 2*len(before))
	for i := len(before) - 1; i >= 0; i-- {
		pad = append(pad, before[i], after[i])
	}
	l.call("pad", namedArg("self", n.Inputs[0]), intsArg("pad", pad), floatArg("value", with))
	return l.named(n, l.vals[n.Outputs[0]]), make([]int, len(before))
}

func onnxConv(l *lowering, n *onnx.Node) {
	x, w := l.need(n, 0), l.need(n, 1)
	dims := len(w.shape) - 2
	if dims < 1 || dims > 3 {
		fail("of %d axes; one to three are supported", dims)
	}
	stride, dilation, before, after := l.window(n, x, w.shape[2:])
	in, pad := l.evenly(n, x, before, after, 0)
	args := []pt2.Named{
		namedArg("input", in), tensorArg("weight", n, 1),
		intsArg("stride", stride), intsArg("padding", pad), intsArg("dilation", dilation), intArg("groups", attrInt(n, "group", 1)),
	}
	b := l.in(n, 2)
	if b != nil && b.param != "" {
		args, b = append(args, tensorArg("bias", n, 2)), nil
	}
	l.call([]string{"conv1d", "conv2d", "conv3d"}[dims-1], args...)
	if b != nil && !(b.isConst() && !slices.ContainsFunc(l.data(b), func(v float64) bool { return v != 0 })) {
		l.set(n, l.binary("add", l.vals[n.Outputs[0]], perChannel(b, dims+2)))
	}
}

func onnxConvTranspose(l *lowering, n *onnx.Node) {
	x, w := l.need(n, 0), l.need(n, 1)
	if len(w.shape) != 4 || attrInts(n, "output_shape") != nil {
		fail("of a weight %v, or to a given shape", w.shape)
	}
	stride, dilation, before, after := l.window(n, x, w.shape[2:])
	extra := attrInts(n, "output_padding")
	if extra == nil {
		extra = []int{0, 0}
	}
	if !slices.Equal(before, after) {
		fail("with padding that differs on the two sides")
	}
	l.call("conv_transpose2d", tensorArg("input", n, 0), tensorArg("weight", n, 1), tensorArg("bias", n, 2), intsArg("stride", stride), intsArg("padding", before),
		intsArg("output_padding", extra), intsArg("dilation", dilation), intArg("groups", attrInt(n, "group", 1)))
}

func gemm(l *lowering, n *onnx.Node) {
	x, w, c := l.need(n, 0), l.need(n, 1), l.in(n, 2)
	if attrInt(n, "transA", 0) != 0 {
		x = l.permuted(x, []int{1, 0})
	}
	alpha, beta := attrFloat(n, "alpha", 1), attrFloat(n, "beta", 1)
	turned := attrInt(n, "transB", 0) == 0
	if x.batch < 0 && w.batch >= 0 {
		fail("its first matrix does not depend on the input")
	}
	var bias *value
	if c != nil && alpha == 1 && beta == 1 && len(c.shape) == 1 && c.param != "" && c.index == nil && w.param != "" && w.index == nil {
		bias, c = c, nil
	}
	y := l.linear(x, w, bias, turned)
	if alpha != 1 {
		y = l.unary("affine", y, alpha, 0)
	}
	if c != nil {
		if beta != 1 {
			c = l.unary("affine", c, beta, 0)
		}
		y = l.binary("add", y, c)
	}
	l.set(n, y)
}

func onnxMatMul(l *lowering, n *onnx.Node) {
	l.call("matmul", tensorArg("self", n, 0), tensorArg("other", n, 1))
}

func onnxBatchNorm(l *lowering, n *onnx.Node) {
	x := l.leading(l.need(n, 0))
	mean, va := l.need(n, 3), l.need(n, 4)
	if mean.archived == "" || va.archived == "" {
		fail("its statistics are computed")
	}
	count := mean.archived + ".num_batches_tracked"
	if base, ok := strings.CutSuffix(mean.archived, "running_mean"); ok {
		count = base + "num_batches_tracked"
	}
	l.a.(*onnxFile).counts[count] = true
	momentum := math.Round((1-attrFloat(n, "momentum", 0.9))*1e7) / 1e7
	l.set(n, l.batchNorm(x, l.need(n, 1), l.need(n, 2), mean, va, count, attrFloat(n, "epsilon", 1e-5), momentum))
}

func onnxLayerNorm(l *lowering, n *onnx.Node) {
	x := l.value(l.need(n, 0))
	axis := axisOf(attrInt(n, "axis", -1), len(x.shape))
	l.set(n, l.layerNorm(x, l.in(n, 1), l.in(n, 2), len(x.shape)-axis, attrFloat(n, "epsilon", 1e-5)))
}

func onnxInstanceNorm(l *lowering, n *onnx.Node) {
	x := l.leading(l.need(n, 0))
	l.set(n, l.groupNorm(x, l.in(n, 1), l.in(n, 2), x.shape[1], attrFloat(n, "epsilon", 1e-5)))
}

func onnxGroupNorm(l *lowering, n *onnx.Node) {
	x, w, b := l.leading(l.need(n, 0)), l.in(n, 1), l.in(n, 2)
	if w != nil && w.shape[0] != x.shape[1] {
		fail("with a weight for each group; export to a later version of the operators")
	}
	l.set(n, l.groupNorm(x, w, b, attrInt(n, "num_groups", 1), attrFloat(n, "epsilon", 1e-5)))
}

func onnxRMSNorm(l *lowering, n *onnx.Node) {
	x := l.need(n, 0)
	if axisOf(attrInt(n, "axis", -1), len(x.shape)) != len(x.shape)-1 {
		fail("over several axes")
	}
	l.call("rms_norm", tensorArg("input", n, 0), tensorArg("weight", n, 1), intsArg("normalized_shape", x.shape[len(x.shape)-1:]), floatArg("eps", attrFloat(n, "epsilon", 1e-5)))
}

// onnxDropout drops where the file was made for training.
func onnxDropout(l *lowering, n *onnx.Node) {
	p := attrFloat(n, "ratio", 0.5)
	if v := l.in(n, 1); v != nil {
		p = decimal(l.scalarOf(v, "its ratio"))
	}
	v := l.in(n, 2)
	if v == nil || l.scalarOf(v, "training_mode") == 0 {
		p = 0
	}
	l.call("dropout", tensorArg("input", n, 0), floatArg("p", p))
}

func onnxPool(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		x, k := l.need(n, 0), attrInts(n, "kernel_shape")
		if len(k) != 1 && len(k) != 2 {
			fail("of %d axes; one and two are supported", len(k))
		}
		stride, dilation, before, after := l.window(n, x, k)
		include := attrInt(n, "count_include_pad", 0)
		in, pad := n.Inputs[0], before
		if !slices.Equal(before, after) {
			if op == "avg_pool" && include == 0 {
				fail("with padding that differs on the two sides and is not counted")
			}
			with := 0.0
			if op == "max_pool" {
				with = -math.MaxFloat32
			}
			in, pad = l.evenly(n, x, before, after, with)
		}
		args := []pt2.Named{
			namedArg("self", in), intsArg("kernel_size", k), intsArg("stride", stride), intsArg("padding", pad), intsArg("dilation", dilation),
			intArg("ceil_mode", attrInt(n, "ceil_mode", 0)), intArg("count_include_pad", include),
		}
		l.call(op+[]string{"1d", "2d"}[len(k)-1], args...)
	}
}

func onnxGlobalPool(f string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		x := l.need(n, 0)
		var axes []int
		for a := 2; a < len(x.shape); a++ {
			axes = append(axes, a)
		}
		l.set(n, l.reduce(f, x, axes, true))
	}
}

func onnxSoftmax(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) {
		x, axis := l.need(n, 0), -1
		if l.onnx.Opset[""] < 13 { // over all axes from this one on
			axis = axisOf(attrInt(n, "axis", 1), len(x.shape))
			if axis != len(x.shape)-1 {
				fail("over several axes; export to version 13 of the operators or later")
			}
		}
		l.call(op, tensorArg("self", n, 0), intArg("dim", attrInt(n, "axis", axis)))
	}
}

func onnxHardSigmoid(l *lowering, n *onnx.Node) {
	a, b := attrFloat(n, "alpha", 0.2), attrFloat(n, "beta", 0.5)
	if math.Abs(a-1.0/6) < 1e-6 && b == 0.5 {
		l.call("hardsigmoid", tensorArg("self", n, 0))
		return
	}
	l.set(n, l.unary("clamp", l.unary("affine", l.need(n, 0), a, b), 0, 1))
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
	f := "clamp"
	if lo == 0 && hi == 6 {
		f = "hardtanh" // ReLU6: its gradient ends at the bounds
	}
	l.set(n, l.unary(f, l.need(n, 0), max(lo, -math.MaxFloat32), min(hi, math.MaxFloat32)))
}

func onnxPRelu(l *lowering, n *onnx.Node) {
	x, w := l.need(n, 0), l.need(n, 1)
	pos, neg := l.unary("clamp", x, 0, math.MaxFloat32), l.unary("clamp", x, -math.MaxFloat32, 0)
	l.set(n, l.binary("add", pos, l.binary("mul", neg, w)))
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
			v = l.binaryConst("floor_divide", a, b)
		case f == "remainder" && (!a.isConst() || !b.isConst()):
			fail("of a tensor that depends on the data")
		default:
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

// onnxIsNaN is false: a run that computes such a number has failed already.
func onnxIsNaN(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	if v.isConst() {
		d := slices.Clone(l.data(v))
		for i, x := range d {
			d[i] = truth(x != x)
		}
		l.set(n, constant(d, v.shape, true))
		return
	}
	l.set(n, constant([]float64{0}, []int{}, true))
}

// tensorValue is a constant of the file.
func (l *lowering) tensorValue(t *onnx.Tensor) *value {
	x, err := t.Load(l.a.(*onnxFile).open)
	if err != nil {
		fail("%v", err)
	}
	d := make([]float64, x.Len())
	for i := range d {
		if x.F32 != nil {
			d[i] = float64(x.F32[i])
		} else {
			d[i] = float64(x.I64[i])
		}
	}
	shape := x.Shape
	if shape == nil {
		shape = []int{}
	}
	return constant(d, shape, x.F32 == nil)
}

func onnxConstant(l *lowering, n *onnx.Node) {
	for _, a := range n.Attrs {
		switch a.Name {
		case "value":
			if a.Tensor == nil {
				fail("without a tensor")
			}
			l.set(n, l.tensorValue(a.Tensor))
		case "value_float":
			l.set(n, constant([]float64{a.Float}, []int{}, false))
		case "value_int":
			l.set(n, constant([]float64{float64(a.Int)}, []int{}, true))
		case "value_floats":
			l.set(n, constant(slices.Clone(a.Floats), []int{len(a.Floats)}, false))
		case "value_ints":
			d := make([]float64, len(a.Ints))
			for i, v := range a.Ints {
				d[i] = float64(v)
			}
			l.set(n, constant(d, []int{len(d)}, true))
		default:
			fail("of a %s", a.Name)
		}
	}
}

func constantOfShape(l *lowering, n *onnx.Node) {
	v, whole := 0.0, false
	if a := n.Attr("value"); a != nil && a.Tensor != nil {
		t := l.tensorValue(a.Tensor)
		v, whole = l.scalarOf(t, "its value"), t.whole
	}
	shape := []int{}
	for _, m := range l.numbers(l.need(n, 0), "its shape") {
		shape = append(shape, m.n)
	}
	if elems(shape) > maxElems {
		fail("a constant of %v is too large", shape)
	}
	l.set(n, constant(slices.Repeat([]float64{v}, elems(shape)), shape, whole))
}

func onnxShape(l *lowering, n *onnx.Node) {
	d := l.dims(l.need(n, 0))
	from, to := attrInt(n, "start", 0), attrInt(n, "end", len(d))
	if from < 0 {
		from += len(d)
	}
	if to < 0 {
		to += len(d)
	}
	from = min(max(from, 0), len(d))
	d = d[from:max(min(to, len(d)), from)]
	l.set(n, sizesValue(d, []int{len(d)}))
}

func onnxSize(l *lowering, n *onnx.Node) {
	all := number{n: 1}
	for _, d := range l.dims(l.need(n, 0)) {
		all.n *= d.n
		all.batched = all.batched || d.batched
	}
	l.set(n, sizesValue([]number{all}, []int{}))
}

// samples are the numbers of the batch's samples, in a tensor of such a shape.
func samples(shape []number) *value {
	dims := make([]int, len(shape))
	for i, s := range shape {
		dims[i] = s.n
	}
	v := constant(make([]float64, elems(dims)), dims, true)
	v.sample, v.along = true, slices.IndexFunc(shape, func(s number) bool { return s.batched })
	return v
}

func onnxRange(l *lowering, n *onnx.Node) {
	start, limit, step := l.need(n, 0), l.need(n, 1), l.need(n, 2)
	if limit.sizes != nil {
		if l.scalarOf(start, "its start") != 0 || l.scalarOf(step, "its step") != 1 || limit.sizes[0] != (number{n: 1, batched: true}) {
			fail("it counts more than the samples")
		}
		l.set(n, samples([]number{{n: 1, batched: true}}))
		return
	}
	a, b, s := l.scalarOf(start, "its start"), l.scalarOf(limit, "its limit"), l.scalarOf(step, "its step")
	count := math.Ceil((b - a) / s)
	if s == 0 || math.IsNaN(count) || count > maxElems {
		fail("from %v to %v by %v", a, b, s)
	}
	d := make([]float64, int(max(count, 0)))
	for i := range d {
		d[i] = a + float64(i)*s
	}
	l.set(n, constant(d, []int{len(d)}, start.whole))
}

// seen gives a value another shape; sizes pass through.
func (l *lowering) seen(v *value, sizes []number) *value {
	if v.sizes != nil {
		shape := make([]int, len(sizes))
		for i, s := range sizes {
			shape[i] = s.n
		}
		return &value{shape: shape, batch: -1, outer: 1, whole: true, sizes: v.sizes}
	}
	if v.sample {
		return samples(sizes)
	}
	return l.viewAs(v, sizes)
}

func onnxReshape(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	want := slices.Clone(l.numbers(l.need(n, 1), "its shape"))
	has := l.dims(v)
	rest, free, batched := 1, -1, false
	for i, s := range want {
		switch {
		case s == number{n: 0} && attrInt(n, "allowzero", 0) == 0 && elems(v.shape) != 0:
			if i >= len(has) {
				fail("it keeps axis %d of %v", i, v.shape)
			}
			want[i] = has[i]
		case s == number{n: -1}:
			if free >= 0 {
				fail("two of its sizes are left open")
			}
			free = i
			continue
		}
		batched = batched || want[i].batched
		if rest *= want[i].n; rest < 0 || rest > graph.MaxRow*2 {
			fail("to %v", want)
		}
	}
	if free >= 0 {
		all := elems(v.shape)
		if v.batch >= 0 && l.symbol == "" {
			all *= l.batch
		}
		if rest == 0 || all%rest != 0 {
			fail("%v cannot be seen as %v", v.shape, want)
		}
		want[free] = number{n: all / rest, batched: v.batch >= 0 && l.symbol != "" && !batched}
	}
	l.set(n, l.seen(v, want))
}

func onnxFlatten(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	d, axis := l.dims(v), attrInt(n, "axis", 1)
	if axis < 0 {
		axis += len(d)
	}
	if axis < 0 || axis > len(d) {
		fail("at axis %d of %v", axis, v.shape)
	}
	join := func(ds []number) number {
		all := number{n: 1}
		for _, s := range ds {
			all.n *= s.n
			all.batched = all.batched || s.batched
		}
		return all
	}
	l.set(n, l.seen(v, []number{join(d[:axis]), join(d[axis:])}))
}

func onnxSqueeze(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axes := l.intsOf(n, "axes", 1)
	for i, a := range axes {
		axes[i] = axisOf(a, len(v.shape))
	}
	var sizes []number
	for i, d := range l.dims(v) {
		if axes == nil && d == (number{n: 1}) || slices.Contains(axes, i) && d.n == 1 && !d.batched {
			continue
		}
		if slices.Contains(axes, i) {
			fail("axis %d of %v is not 1", i, v.shape)
		}
		sizes = append(sizes, d)
	}
	l.set(n, l.seen(v, sizes))
}

func onnxUnsqueeze(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axes := l.intsOf(n, "axes", 1)
	rank := len(v.shape) + len(axes)
	for i, a := range axes {
		axes[i] = axisOf(a, rank)
	}
	sizes := make([]number, 0, rank)
	d := l.dims(v)
	for i := range rank {
		if slices.Contains(axes, i) {
			sizes = append(sizes, number{n: 1})
			continue
		}
		if len(d) == 0 {
			fail("axes %v of %v", axes, v.shape)
		}
		sizes, d = append(sizes, d[0]), d[1:]
	}
	l.set(n, l.seen(v, sizes))
}

func onnxTranspose(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	perm := attrInts(n, "perm")
	if perm == nil {
		for i := len(v.shape) - 1; i >= 0; i-- {
			perm = append(perm, i)
		}
	}
	if len(perm) != len(v.shape) {
		fail("%v of %v", perm, v.shape)
	}
	l.set(n, l.permuted(v, perm))
}

func onnxExpand(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	want := slices.Clone(l.numbers(l.need(n, 1), "its shape"))
	has := l.dims(v)
	for len(want) < len(has) {
		want = slices.Insert(want, 0, number{n: 1})
	}
	for i := range has {
		w := &want[len(want)-len(has)+i]
		if *w == (number{n: 1}) {
			*w = has[i]
		}
	}
	if v.sample {
		l.set(n, samples(want))
		return
	}
	l.set(n, l.expand(v, want))
}

func onnxTile(l *lowering, n *onnx.Node) {
	l.call("repeat", tensorArg("self", n, 0), intsArg("repeats", l.known(l.need(n, 1), "repeats")))
}

func onnxSlice(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	bounds := func(name string, k int) []number {
		if is := attrInts(n, name); is != nil {
			return plainNumbers(is)
		}
		if x := l.in(n, k); x != nil {
			return l.numbers(x, name)
		}
		return nil
	}
	starts, ends, axes, steps := bounds("starts", 1), bounds("ends", 2), bounds("axes", 3), bounds("steps", 4)
	for i := range starts {
		axis, step := i, 1
		if axes != nil {
			axis = axes[i].n
		}
		if steps != nil {
			step = steps[i].n
		}
		axis = axisOf(axis, len(v.shape))
		v = l.slice(v, axis, starts[i], ends[i], step)
	}
	l.set(n, v)
}

// slice takes elements of an axis as ONNX counts them.
func (l *lowering) slice(v *value, axis int, start, end number, step int) *value {
	d := v.shape[axis]
	if v.sizes != nil {
		d = len(v.sizes)
	}
	bound := func(m number, least, most int) int {
		switch {
		case m.batched || axis == v.batch && l.symbol == "" && m.n >= d*l.batch:
			return most
		case m.n < 0:
			m.n += d
		}
		return min(max(m.n, least), most)
	}
	var index []float64
	if step > 0 {
		from, to := bound(start, 0, d), bound(end, 0, d)
		if axis == v.batch {
			if to == d && from == 0 || l.symbol != "" && end.n >= math.MaxInt32 && from == 0 {
				return v
			}
			fail("it takes some samples of the batch")
		}
		count := max((to-from+step-1)/step, 0)
		if v.sizes == nil {
			return l.cut(v, axis, from, count, step)
		}
		for i := range count {
			index = append(index, float64(from+i*step))
		}
	} else {
		if step == 0 {
			fail("with step 0")
		}
		to := -1
		if end.n > math.MinInt32 && end.n >= -d {
			to = bound(end, -1, d-1)
		}
		for i := bound(start, 0, d-1); i > to; i += step {
			index = append(index, float64(i))
		}
	}
	return l.picked(v, axis, index)
}

// picked is pick, of sizes too.
func (l *lowering) picked(v *value, axis int, index []float64) *value {
	if v.sizes == nil {
		return l.pick(v, axis, index)
	}
	out := make([]number, len(index))
	for i, f := range index {
		k := int(f)
		if k < 0 {
			k += len(v.sizes)
		}
		if k < 0 || k >= len(v.sizes) {
			fail("index %v of %d sizes", f, len(v.sizes))
		}
		out[i] = v.sizes[k]
	}
	return sizesValue(out, []int{len(out)})
}

func onnxSplit(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axis := axisOf(attrInt(n, "axis", 0), len(v.shape))
	sizes := l.intsOf(n, "split", 1)
	if sizes == nil {
		each := (v.shape[axis] + len(n.Outputs) - 1) / len(n.Outputs)
		for at := 0; at < v.shape[axis]; at += each {
			sizes = append(sizes, min(each, v.shape[axis]-at))
		}
	}
	if len(sizes) != len(n.Outputs) {
		fail("into %d parts of %d outputs", len(sizes), len(n.Outputs))
	}
	at := 0
	for i, name := range n.Outputs {
		l.vals[name] = l.cut(v, axis, at, sizes[i], 1)
		at += sizes[i]
	}
}

func onnxSplitToSequence(l *lowering, n *onnx.Node) {
	v, s := l.need(n, 0), l.in(n, 1)
	axis, each := axisOf(attrInt(n, "axis", 0), len(v.shape)), 1
	var sizes []int
	switch {
	case s != nil && elems(s.shape) == 1:
		each = l.known(s, "split")[0]
	case s != nil:
		sizes = l.known(s, "split")
	}
	if each < 1 {
		fail("into parts of %d", each)
	}
	if sizes == nil {
		for at := 0; at < v.shape[axis]; at += each {
			sizes = append(sizes, min(each, v.shape[axis]-at))
		}
	}
	list, at := &value{batch: -1, outer: 1}, 0
	for _, d := range sizes {
		w := l.cut(v, axis, at, d, 1)
		if s == nil && attrInt(n, "keepdims", 1) == 0 {
			w = l.without(w, axis)
		}
		list.list, at = append(list.list, w), at+d
	}
	l.set(n, list)
}

func onnxSequenceAt(l *lowering, n *onnx.Node) {
	list, i := l.need(n, 0).list, int(l.scalarOf(l.need(n, 1), "its index"))
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		fail("element %d of a sequence of %d", i, len(list))
	}
	l.set(n, list[i])
}

func onnxConcat(l *lowering, n *onnx.Node) {
	var vs []*value
	sizes, sample := false, false
	for k := range n.Inputs {
		v := l.need(n, k)
		vs = append(vs, v)
		sizes, sample = sizes || v.sizes != nil, sample || v.sample
	}
	axis := axisOf(attrInt(n, "axis", 0), len(vs[0].shape))
	switch {
	case sizes:
		var all []number
		for _, v := range vs {
			all = append(all, l.numbers(v, "a size")...)
		}
		l.set(n, sizesValue(all, []int{len(all)}))
	case sample && axis == len(vs[0].shape)-1: // an index by the number of the sample and others
		w := &value{shape: slices.Clone(vs[0].shape), batch: -1, outer: 1, whole: true, columns: vs}
		w.shape[axis] = 0
		for _, v := range vs {
			w.shape[axis] += v.shape[axis]
		}
		l.set(n, w)
	default:
		vs = slices.DeleteFunc(vs, func(v *value) bool { return len(v.shape) == 1 && v.shape[0] == 0 && len(vs) > 1 })
		v := *l.cat(vs, axis)
		l.set(n, &v)
	}
}

func onnxPad(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	pads, with := l.intsOf(n, "pads", 1), attrFloat(n, "value", 0)
	if c := l.in(n, 2); c != nil {
		with = l.scalarOf(c, "its value")
	}
	rank := len(v.shape)
	before, after := make([]int, rank), make([]int, rank)
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if a := l.in(n, 3); a != nil {
		axes = l.known(a, "axes")
	}
	if len(pads) != 2*len(axes) {
		fail("%d numbers for %d axes", len(pads), len(axes))
	}
	for i, a := range axes {
		a = axisOf(a, rank)
		before[a], after[a] = pads[i], pads[len(axes)+i]
	}
	pad := make([]int, 0, 2*rank)
	first := slices.IndexFunc(before, func(v int) bool { return v != 0 })
	if k := slices.IndexFunc(after, func(v int) bool { return v != 0 }); first < 0 || k >= 0 && k < first {
		first = k
	}
	for a := rank - 1; a >= 0 && first >= 0 && a >= first; a-- {
		pad = append(pad, before[a], after[a])
	}
	mode, ok := map[string]string{"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[attrText(n, "mode", "constant")]
	if !ok {
		fail("with mode %q", attrText(n, "mode", ""))
	}
	l.call("pad", tensorArg("self", n, 0), intsArg("pad", pad), textArg("mode", mode), floatArg("value", with))
}

func onnxGather(l *lowering, n *onnx.Node) {
	v, i := l.need(n, 0), l.need(n, 1)
	axis := axisOf(attrInt(n, "axis", 0), len(v.shape))
	switch {
	case v.sizes != nil:
		w := *l.picked(v, 0, l.data(i))
		w.shape = i.shape
		if len(i.shape) > 1 {
			fail("sizes by an index of %v", i.shape)
		}
		l.set(n, &w)
	case !i.isConst() && axis == 0 && v.batch < 0:
		l.call("embedding", tensorArg("weight", n, 0), tensorArg("indices", n, 1))
	case !i.isConst():
		fail("with an index that depends on the data")
	case i.sample:
		is := make([]*value, len(v.shape))
		is[axis] = i
		l.set(n, l.index(v, is))
	case len(i.shape) == 0:
		l.set(n, l.without(l.pick(v, axis, l.data(i)), axis))
	default:
		is := make([]*value, len(v.shape))
		is[axis] = i
		l.set(n, l.index(v, is))
	}
}

func onnxGatherND(l *lowering, n *onnx.Node) {
	v, i := l.need(n, 0), l.need(n, 1)
	if attrInt(n, "batch_dims", 0) != 0 {
		fail("with batch_dims")
	}
	last := len(i.shape) - 1
	columns := i.columns
	if columns == nil {
		if !i.isConst() || last < 0 {
			fail("with an index that depends on the data")
		}
		for k := range i.shape[last] {
			columns = append(columns, l.cut(i, last, k, 1, 1))
		}
	}
	is := make([]*value, len(v.shape))
	for k, c := range columns {
		if c.shape[last] != 1 || k >= len(is) {
			fail("with an index of %v", i.shape)
		}
		w := *c
		w.shape = slices.Clone(c.shape[:last])
		is[k] = &w
	}
	l.set(n, l.index(v, is))
}

func onnxGatherElements(l *lowering, n *onnx.Node) {
	l.call("gather", tensorArg("self", n, 0), tensorArg("index", n, 1), intArg("dim", attrInt(n, "axis", 0)))
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
		case "l2":
			l.set(n, l.unary("sqrt", l.reduce("sum", l.unary("pow", x, 2, 0), axes, keep), 0, 0))
		case "squares":
			l.set(n, l.reduce("sum", l.unary("pow", x, 2, 0), axes, keep))
		default:
			l.set(n, l.reduce(f, x, axes, keep))
		}
	}
}

func onnxCumSum(l *lowering, n *onnx.Node) {
	if attrInt(n, "exclusive", 0) != 0 || attrInt(n, "reverse", 0) != 0 {
		fail("exclusive or in reverse")
	}
	l.call("cumsum", tensorArg("self", n, 0), intArg("dim", int(l.scalarOf(l.need(n, 1), "its axis"))))
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

func onnxResize(l *lowering, n *onnx.Node) {
	v := l.leading(l.need(n, 0))
	dims := len(v.shape) - 2
	var scales []float64
	var sizes []int
	if s := l.in(n, 2); s != nil && elems(s.shape) > 0 {
		for _, f := range l.data(s) {
			scales = append(scales, decimal(f))
		}
	}
	if s := l.in(n, 3); s != nil {
		for _, m := range l.numbers(s, "its sizes") {
			sizes = append(sizes, m.n)
		}
	}
	switch {
	case len(sizes) == dims+2:
		sizes = sizes[2:]
	case len(scales) == dims+2 && scales[0] == 1 && scales[1] == 1:
		scales = scales[2:]
		for k, f := range scales {
			sizes = append(sizes, int(float64(v.shape[k+2])*f))
		}
	case len(sizes) != dims:
		fail("of samples or channels")
	}
	if len(scales) != dims {
		scales = nil
	}
	corners := false
	coords := attrText(n, "coordinate_transformation_mode", "half_pixel")
	var s sampler
	switch mode := attrText(n, "mode", "nearest"); {
	case mode == "nearest" && coords == "asymmetric" && attrText(n, "nearest_mode", "round_prefer_floor") == "floor":
		s = nearest
	case mode == "nearest" && coords == "half_pixel":
		s = nearestExact
	case mode == "linear" && coords != "asymmetric":
		s, corners = between, coords == "align_corners"
	case mode == "cubic" && coords != "asymmetric":
		s, corners = cubic, coords == "align_corners"
	default:
		fail("with mode %q at coordinates %q", mode, coords)
	}
	l.set(n, l.interpolate(v, sizes, scales, s, corners))
}

func onnxDepthToSpace(l *lowering, n *onnx.Node) {
	if attrText(n, "mode", "DCR") != "CRD" {
		fail("with mode DCR")
	}
	l.call("pixel_shuffle", tensorArg("self", n, 0), intArg("upscale_factor", attrInt(n, "blocksize", 1)))
}
