// Convolutions, products, normalisations, pools and what else layers of ONNX models are.

package importer

import (
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
)

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
	if len(w.shape) != 4 || attrInts(n, "output_shape") != nil || strings.HasPrefix(attrText(n, "auto_pad", ""), "SAME") {
		fail("of a weight %v, or to a given shape or that of its input", w.shape)
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
	out := w.shape[0]
	if turned {
		out = w.shape[len(w.shape)-1]
	}
	if c != nil && alpha == 1 && beta == 1 && slices.Equal(c.shape, []int{out}) && c.param != "" && c.index == nil && w.param != "" && w.index == nil {
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
	training := func(n *onnx.Node) bool { return attrInt(n, "training_mode", 0) != 0 }
	if !training(n) && slices.ContainsFunc(l.onnx.Graph.Nodes, func(m onnx.Node) bool { return m.Op == n.Op && training(&m) }) {
		l.set(n, l.asBefore(x, l.need(n, 1), l.need(n, 2), mean, va, attrFloat(n, "epsilon", 1e-5))) // it stays in evaluation mode
		return
	}
	count := mean.archived + ".num_batches_tracked"
	if base, ok := strings.CutSuffix(mean.archived, "running_mean"); ok {
		count = base + "num_batches_tracked"
	}
	l.a.(*onnxFile).counts[count] = true
	momentum := math.Round((1-attrFloat(n, "momentum", 0.9))*1e7) / 1e7
	w, b, eps := l.need(n, 1), l.need(n, 2), attrFloat(n, "epsilon", 1e-5)
	if !w.isConst() && !b.isConst() {
		l.set(n, l.batchNorm(x, w, b, mean, va, count, eps, momentum))
		return
	}
	y := l.batchNorm(x, nil, nil, mean, va, count, eps, momentum) // without parameters, as affine=False is written
	y = l.binary("mul", y, perChannel(w, len(x.shape)))
	l.set(n, l.binary("add", y, perChannel(b, len(x.shape))))
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
	s, corners := resizer(n)
	l.set(n, l.interpolate(v, sizes, scales, s, corners))
}

// resizer is how a Resize reads elements, and whether the corners are the middles of the last ones.
func resizer(n *onnx.Node) (s sampler, corners bool) {
	mode, coords := attrText(n, "mode", "nearest"), attrText(n, "coordinate_transformation_mode", "half_pixel")
	half := coords == "half_pixel" || coords == "pytorch_half_pixel"
	corners = coords == "align_corners"
	switch {
	case attrInt(n, "antialias", 0) != 0 || attrInt(n, "exclude_outside", 0) != 0 || attrText(n, "keep_aspect_ratio_policy", "stretch") != "stretch":
		fail("with antialias, exclude_outside or a kept ratio")
	case mode == "nearest" && coords == "asymmetric" && attrText(n, "nearest_mode", "round_prefer_floor") == "floor":
		return nearest, false
	case mode == "nearest" && (half || corners || coords == "asymmetric"):
		return nearestBy(attrText(n, "nearest_mode", "round_prefer_floor"), half), corners
	case mode == "linear" && (half || corners):
		return between, corners
	case mode == "cubic" && (half || corners) && math.Abs(attrFloat(n, "cubic_coeff_a", -0.75)+0.75) < 1e-6:
		return cubic, corners
	}
	fail("with mode %q at coordinates %q", mode, coords)
	return nil, false
}

// nearestBy takes one element, by ONNX's ways of rounding where it lies; up is not supported.
func nearestBy(rounding string, half bool) sampler {
	round := map[string]func(x float64) float64{
		"floor":              math.Floor,
		"round_prefer_floor": func(x float64) float64 { return math.Ceil(x - 0.5) }, "round_prefer_ceil": func(x float64) float64 { return math.Floor(x + 0.5) },
	}[rounding]
	if round == nil {
		fail("with nearest_mode %q", rounding)
	}
	return func(o, in int, scale float64, _ bool) ([]int, []float64) {
		x, by := float32(o), max(float32(1/scale), math.SmallestNonzeroFloat32) // as onnxruntime computes it
		if half {
			x = float32((x+0.5)/by) - 0.5
		} else {
			x /= by
		}
		return []int{min(max(int(round(float64(x))), 0), in-1)}, nil
	}
}

func onnxDepthToSpace(l *lowering, n *onnx.Node) {
	if attrText(n, "mode", "DCR") == "DCR" { // the block's place comes before the channel
		x, b := l.leading(l.need(n, 0)), attrInt(n, "blocksize", 1)
		if len(x.shape) != 4 || b < 1 || x.shape[1]%(b*b) != 0 {
			fail("%v by %d", x.shape, b)
		}
		c, h, w := x.shape[1]/(b*b), x.shape[2], x.shape[3]
		name, _ := l.reshape(x.name, []int{b, b, c, h, w})
		name, _ = l.permute(name, []int{2, 3, 0, 4, 1})
		name, s := l.reshape(name, []int{c, h * b, w * b})
		l.set(n, l.result(name, s, []int{1, c, h * b, w * b}, 0, 1))
		return
	}
	l.call("pixel_shuffle", tensorArg("self", n, 0), intArg("upscale_factor", attrInt(n, "blocksize", 1)))
}
