// The operations of the graph in ONNX.

package exporter

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
)

// lower writes node i and returns the name of its result.
func (e *exporter) lower(i int) (string, error) {
	row := e.g.Shape(e.g.Result(i))
	switch o := e.node.Op.(type) {
	case *graph.Embedding:
		return e.add("Gather", nil, e.param("weight"), e.tokens(i, 0)), nil
	case *graph.TokenMask:
		same := e.add("Equal", nil, e.tokens(i, 0), e.index(o.Token))
		return e.add("Cast", attrs(onnx.OfInt("to", onnx.Float)), e.add("Not", nil, same)), nil
	case *graph.Parameter:
		return e.parameter(&o.Operand, row), nil
	case *graph.SpectralNorm:
		return e.spectralNorm(o), nil
	}
	x, in := e.x(i, 0)
	switch o := e.node.Op.(type) {
	case *graph.Conv2d:
		return e.conv(o, x, in, row), nil
	case *graph.ConvTranspose2d:
		return e.convTranspose(o, x), nil
	case *graph.Linear:
		return e.linear(x, len(in), e.param("weight"), e.bias(o.Bias), o.Transposed), nil
	case *graph.Linears:
		return e.linears(o, x, len(in)), nil
	case *graph.MaxPool2d:
		return e.add("MaxPool", pool(o), x), nil
	case *graph.AvgPool2d:
		include := 1
		if o.Exclude {
			include = 0
		}
		return e.add("AveragePool", append(pool(&o.MaxPool2d), onnx.OfInt("count_include_pad", include)), x), nil
	case *graph.AdaptiveAvgPool2d:
		return e.adaptive(o, x, in), nil
	case *graph.BatchNorm:
		if o.Untracked {
			return "", errors.New("ONNX has no batch normalisation by the batch's statistics in evaluation")
		}
		w, b := "", ""
		if o.Plain {
			w, b = e.constants(o.Features)
		} else {
			w, b = e.param("weight"), e.param("bias")
		}
		return e.add("BatchNormalization", attrs(onnx.OfFloat("epsilon", o.Eps), onnx.OfFloat("momentum", 1-o.Momentum)),
			x, w, b, e.param("running_mean"), e.param("running_var")), nil
	case *graph.LayerNorm:
		w, b := "", ""
		if o.Affine {
			w, b = e.param("weight"), e.param("bias")
		} else {
			w, b = e.constants(o.Shape[0])
		}
		return e.add("LayerNormalization", attrs(onnx.OfInt("axis", -1), onnx.OfFloat("epsilon", o.Eps)), x, w, b), nil
	case *graph.Position:
		n := in[0]
		if o.Fixed {
			n = 1
		}
		return e.add("Add", nil, x, e.add("Slice", nil, e.param("weight"), e.ints(0), e.ints(n), e.ints(0))), nil
	case *graph.Attention:
		return e.attention(o, i, x, in), nil
	case *graph.GELU:
		return e.add("Gelu", attrs(onnx.OfText("approximate", o.Approximate)), x), nil
	case *graph.Unary:
		return e.unary(o, x)
	case *graph.Binary:
		return e.binary(o, i, x, in, row)
	case *graph.Resample:
		return e.resample(o, x, in), nil
	case *graph.MatMul:
		return e.matmul(o, i, x, in), nil
	case *graph.Reduce:
		return e.reduce(o, x, in)
	}
	return e.move(i, x, in, row)
}

// move writes the operations without parameters that have one of ONNX.
func (e *exporter) move(i int, x string, in, row graph.Shape) (string, error) {
	switch o := e.node.Op.(type) {
	case *graph.ReLU:
		return e.add("Relu", nil, x), nil
	case *graph.Tanh:
		return e.add("Tanh", nil, x), nil
	case *graph.Dropout, *graph.StochasticDepth:
		return e.add("Identity", nil, x), nil
	case *graph.Noise:
		mean := float32(0)
		if o.Uniform {
			mean = 0.5
		}
		return e.add("Add", nil, e.add("Mul", nil, x, e.number(0)), e.number(mean)), nil
	case *graph.Softmax:
		return e.add("Softmax", attrs(onnx.OfInt("axis", -1)), x), nil
	case *graph.Flatten, *graph.Reshape:
		return e.reshape(x, row...), nil
	case *graph.Add:
		y, _ := e.x(i, 1)
		return e.add("Add", nil, x, y), nil
	case *graph.Select:
		return e.add("Gather", attrs(onnx.OfInt("axis", 1)), x, e.index(o.Index)), nil
	case *graph.Permute:
		perm := []int{0}
		for _, a := range o.Axes {
			perm = append(perm, a+1)
		}
		return e.add("Transpose", attrs(onnx.OfInts("perm", perm...)), x), nil
	case *graph.Slice:
		step := max(o.Step, 1)
		return e.add("Slice", nil, x, e.ints(o.Start), e.ints(o.Start+(o.Count-1)*step+1), e.ints(o.Axis+1), e.ints(step)), nil
	case *graph.Outputs:
		return "", nil // each of them is an output of the file
	case *graph.Concat:
		parts := []string{x}
		for k := 1; k < len(e.g.Args(i)); k++ {
			y, _ := e.x(i, k)
			parts = append(parts, y)
		}
		return e.add("Concat", attrs(onnx.OfInt("axis", o.Axis+1)), parts...), nil
	case *graph.Pad:
		pads := append([]int{0}, o.Before...)
		pads = append(append(pads, 0), o.After...)
		return e.add("Pad", nil, x, e.ints(pads...), e.number(o.Value)), nil
	case *graph.Expand:
		return e.add("Expand", nil, e.fit(x, in, len(row)), e.ints(append([]int{1}, row...)...)), nil
	case *graph.CumSum:
		return e.add("CumSum", nil, x, e.index(-1)), nil
	case *graph.Sort:
		return e.sort(o, x, row), nil
	case *graph.Gather:
		return e.gather(o, i, x, in, row), nil
	case *graph.Scatter:
		return e.scatter(o, i, x, in, row), nil
	}
	return "", errors.New("it has no counterpart in ONNX")
}

// constants are a weight of ones and a bias of zeros.
func (e *exporter) constants(n int) (weight, bias string) {
	return e.floats([]int{n}, slices.Repeat([]float32{1}, n)), e.floats([]int{n}, make([]float32, n))
}

// bias is the parameter's name, "" if there is none.
func (e *exporter) bias(has bool) string {
	if has {
		return e.param("bias")
	}
	return ""
}

func some(names ...string) []string {
	for len(names) > 0 && names[len(names)-1] == "" {
		names = names[:len(names)-1]
	}
	return names
}

func (e *exporter) conv(o *graph.Conv2d, x string, in, row graph.Shape) string {
	stride, dilation, groups, pad := o.Window()
	from := 0
	pads := pad[:]
	if o.Flat { // of one axis: [C,1,W] is [C,W]
		from, pads = 1, []int{pad[1], pad[3]}
		x = e.reshape(x, in[0], in[2])
	}
	y := e.add("Conv", attrs(
		onnx.OfInts("kernel_shape", o.Kernel[from:]...), onnx.OfInts("strides", stride[from:]...), onnx.OfInts("pads", pads...),
		onnx.OfInts("dilations", dilation[from:]...), onnx.OfInt("group", groups),
	), some(x, e.kernel(o), e.bias(o.Bias))...)
	if o.Flat {
		y = e.reshape(y, row...)
	}
	return y
}

// kernel is the weight of a convolution of images.
func (e *exporter) kernel(o *graph.Conv2d) string {
	w := e.param("weight")
	if o.Depth == 0 {
		return w
	}
	return e.add("Reshape", nil, w, e.ints(o.Out, o.In/max(o.Groups, 1), o.Kernel[0], o.Kernel[1]))
}

func (e *exporter) convTranspose(o *graph.ConvTranspose2d, x string) string {
	one := func(p graph.Pair) []int {
		if p == (graph.Pair{}) {
			return []int{1, 1}
		}
		return p[:]
	}
	p := o.Padding
	return e.add("ConvTranspose", attrs(
		onnx.OfInts("kernel_shape", o.Kernel[:]...), onnx.OfInts("strides", one(o.Stride)...), onnx.OfInts("pads", p[0], p[1], p[0], p[1]),
		onnx.OfInts("output_padding", o.Extra[:]...), onnx.OfInts("dilations", one(o.Dilation)...), onnx.OfInt("group", max(o.Groups, 1)),
	), some(x, e.param("weight"), e.bias(o.Bias))...)
}

// linear is x wᵀ + b over rows of some axes, or x w + b if turned.
func (e *exporter) linear(x string, rank int, w, b string, turned bool) string {
	trans := 1
	if turned {
		trans = 0
	}
	if rank == 1 {
		return e.add("Gemm", attrs(onnx.OfInt("transB", trans)), some(x, w, b)...)
	}
	if !turned {
		w = e.add("Transpose", attrs(onnx.OfInts("perm", 1, 0)), w)
	}
	y := e.add("MatMul", nil, x, w)
	if b != "" {
		y = e.add("Add", nil, y, b)
	}
	return y
}

func (e *exporter) linears(o *graph.Linears, x string, rank int) string {
	var parts []string
	for _, n := range o.Names {
		b := ""
		if o.Bias {
			b = e.param(n + ".bias")
		}
		parts = append(parts, e.linear(x, rank, e.param(n+".weight"), b, false))
	}
	return e.add("Concat", attrs(onnx.OfInt("axis", -1)), parts...)
}

func pool(o *graph.MaxPool2d) []onnx.Attr {
	ceil, s, p := 0, o.Step(), o.Padding
	if o.Ceil {
		ceil = 1
	}
	return attrs(onnx.OfInts("kernel_shape", o.Kernel[:]...), onnx.OfInts("strides", s[:]...), onnx.OfInts("pads", p[0], p[1], p[0], p[1]), onnx.OfInt("ceil_mode", ceil))
}

// adaptive averages by a matrix for each axis, unless all windows are alike.
func (e *exporter) adaptive(o *graph.AdaptiveAvgPool2d, x string, in graph.Shape) string {
	if o.Out == (graph.Pair{1, 1}) {
		return e.add("GlobalAveragePool", nil, x)
	}
	mean := func(size, out int, turned bool) string { // [out, size]
		m := make([]float32, out*size)
		for k := range out {
			from, to := k*size/out, ((k+1)*size+out-1)/out
			for p := from; p < to; p++ {
				if turned {
					m[p*out+k] = 1 / float32(to-from)
				} else {
					m[k*size+p] = 1 / float32(to-from)
				}
			}
		}
		if turned {
			return e.floats([]int{size, out}, m)
		}
		return e.floats([]int{out, size}, m)
	}
	y := e.add("MatMul", nil, mean(in[1], o.Out[0], false), x)
	return e.add("MatMul", nil, y, mean(in[2], o.Out[1], true))
}

// operand is the tensor of an Operand, in its own shape.
func (e *exporter) operand(o *graph.Operand) string {
	if c := o.Constants(); c != nil {
		return e.floats(o.Shape, c)
	}
	w := e.param("weight")
	if len(o.Index) > 0 {
		index := make([]int, len(o.Index))
		for k, v := range o.Index {
			index[k] = int(v)
		}
		w = e.add("Gather", nil, e.add("Reshape", nil, w, e.ints(-1)), e.ints(index...))
	}
	return e.add("Reshape", nil, w, e.ints(o.Shape...))
}

// parameter is an operand as a value: the same for every row.
func (e *exporter) parameter(o *graph.Operand, row graph.Shape) string {
	batch := e.add("Shape", attrs(onnx.OfInt("start", 0), onnx.OfInt("end", 1)), e.m.Graph.Inputs[0].Name)
	size := batch
	if len(row) > 0 {
		size = e.add("Concat", attrs(onnx.OfInt("axis", 0)), batch, e.ints(row...))
	}
	return e.add("Expand", nil, e.operand(o), size)
}

func (e *exporter) attention(o *graph.Attention, i int, x string, in graph.Shape) string {
	t, c := in[0], in[1]/3
	d := c / o.Heads
	head := func(k int, perm ...int) string {
		y := e.add("Slice", nil, x, e.ints(k*c), e.ints((k+1)*c), e.ints(2))
		return e.add("Transpose", attrs(onnx.OfInts("perm", perm...)), e.reshape(y, t, o.Heads, d))
	}
	s := e.add("MatMul", nil, head(0, 0, 2, 1, 3), head(1, 0, 2, 3, 1))
	s = e.add("Mul", nil, s, e.number(float32(1/math.Sqrt(float64(d)))))
	low := float32(math.Inf(-1))
	if o.Causal {
		mask := make([]float32, t*t)
		for k := range mask {
			if k%t > k/t {
				mask[k] = low
			}
		}
		s = e.add("Add", nil, s, e.floats([]int{t, t}, mask))
	}
	if len(e.g.Args(i)) == 2 {
		m, _ := e.x(i, 1)
		unseen := e.add("Equal", nil, e.reshape(m, 1, 1, t), e.number(0))
		s = e.add("Where", nil, unseen, e.number(low), s)
	}
	s = e.add("Softmax", attrs(onnx.OfInt("axis", -1)), s)
	y := e.add("MatMul", nil, s, head(2, 0, 2, 1, 3))
	return e.reshape(e.add("Transpose", attrs(onnx.OfInts("perm", 0, 2, 1, 3)), y), t, c)
}

func (e *exporter) matmul(o *graph.MatMul, i int, a string, in graph.Shape) string {
	b, other := e.x(i, 1)
	turn := func(x string, row graph.Shape) string {
		perm := make([]int, len(row)+1)
		for k := range perm {
			perm[k] = k
		}
		n := len(perm)
		perm[n-1], perm[n-2] = n-2, n-1
		return e.add("Transpose", attrs(onnx.OfInts("perm", perm...)), x)
	}
	if o.TransA {
		a = turn(a, in)
	}
	if o.TransB {
		b = turn(b, other)
	}
	y := e.add("MatMul", nil, a, b)
	if o.Scale != 0 && o.Scale != 1 {
		y = e.add("Mul", nil, y, e.number(o.Scale))
	}
	return y
}

func (e *exporter) reduce(o *graph.Reduce, x string, in graph.Shape) (string, error) {
	op, ok := map[string]string{"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax"}[o.Function]
	if !ok {
		return "", fmt.Errorf("there is no reduction %q in ONNX", o.Function)
	}
	axes, keep := []int{}, 0
	for k := range o.Axes {
		axes = append(axes, len(in)+1-o.Axes+k)
	}
	if o.Keep {
		keep = 1
	}
	return e.add(op, attrs(onnx.OfInt("keepdims", keep)), x, e.ints(axes...)), nil
}

// resample is a sum of weighted elements: one Gather for each tap.
func (e *exporter) resample(o *graph.Resample, x string, in graph.Shape) string {
	n := len(o.Index) / o.Taps
	y := ""
	for t := range o.Taps {
		index, weight := make([]int, n), make([]float32, n)
		for k := range index {
			index[k] = int(o.Index[k*o.Taps+t])
			if len(o.Weight) > 0 {
				weight[k] = math.Float32frombits(o.Weight[k*o.Taps+t])
			}
		}
		p := e.add("Gather", attrs(onnx.OfInt("axis", o.Axis+1)), x, e.ints(index...))
		if len(o.Weight) > 0 {
			shape := []int{n}
			for range len(in) - 1 - o.Axis {
				shape = append(shape, 1)
			}
			p = e.add("Mul", nil, p, e.floats(shape, weight))
		}
		if y != "" {
			p = e.add("Add", nil, y, p)
		}
		y = p
	}
	return y
}

func (e *exporter) binary(o *graph.Binary, i int, x string, in, row graph.Shape) (string, error) {
	a, b := e.fit(x, in, len(row)), ""
	if o.Operand != nil {
		b = e.operand(o.Operand)
	} else {
		y, other := e.x(i, 1)
		b = e.fit(y, other, len(row))
	}
	if o.Swap && o.Operand != nil {
		a, b = b, a
	}
	if o.Function == "mask" {
		return e.add("Where", nil, e.add("Cast", attrs(onnx.OfInt("to", onnx.Bool)), b), a, e.number(0)), nil
	}
	op, ok := map[string]string{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"}[o.Function]
	if !ok {
		return "", fmt.Errorf("there is no function %q in ONNX", o.Function)
	}
	return e.add(op, nil, a, b), nil
}

// simple are functions with an operator of their own.
var simple = map[string]string{
	"sigmoid": "Sigmoid", "hardswish": "HardSwish", "selu": "Selu", "mish": "Mish", "softsign": "Softsign", "abs": "Abs", "exp": "Exp", "log": "Log",
	"sqrt": "Sqrt", "erf": "Erf", "sin": "Sin", "cos": "Cos", "atan": "Atan", "floor": "Floor", "sign": "Sign", "detach": "Identity",
}

var comparisons = map[string]string{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}

func (e *exporter) unary(o *graph.Unary, x string) (string, error) {
	if op, ok := simple[o.Function]; ok {
		return e.add(op, nil, x), nil
	}
	float := attrs(onnx.OfInt("to", onnx.Float))
	if op, ok := comparisons[o.Function]; ok {
		return e.add("Cast", float, e.add(op, nil, x, e.number(o.A))), nil
	}
	a := float64(o.A)
	switch o.Function {
	case "ne":
		return e.add("Cast", float, e.add("Not", nil, e.add("Equal", nil, x, e.number(o.A)))), nil
	case "affine":
		if o.A != 1 {
			x = e.add("Mul", nil, x, e.number(o.A))
		}
		if o.B != 0 || o.A == 1 {
			x = e.add("Add", nil, x, e.number(o.B))
		}
		return x, nil
	case "rsub":
		if o.A != 1 {
			x = e.add("Mul", nil, x, e.number(o.A))
		}
		return e.add("Sub", nil, e.number(o.B), x), nil
	case "rdiv":
		return e.add("Div", nil, e.number(o.A), x), nil
	case "silu":
		return e.add("Mul", nil, x, e.add("Sigmoid", nil, x)), nil
	case "clamp", "hardtanh":
		return e.add("Clip", nil, x, e.number(o.A), e.number(o.B)), nil
	case "hardsigmoid":
		return e.add("HardSigmoid", attrs(onnx.OfFloat("alpha", 1.0/6), onnx.OfFloat("beta", 0.5)), x), nil
	case "leaky_relu":
		return e.add("LeakyRelu", attrs(onnx.OfFloat("alpha", a)), x), nil
	case "elu":
		return e.add("Elu", attrs(onnx.OfFloat("alpha", a)), x), nil
	case "softplus":
		if o.A == 1 {
			return e.add("Softplus", nil, x), nil
		}
		return e.add("Div", nil, e.add("Softplus", nil, e.add("Mul", nil, x, e.number(o.A))), e.number(o.A)), nil
	case "logsigmoid":
		return e.add("Neg", nil, e.add("Softplus", nil, e.add("Neg", nil, x))), nil
	case "pow":
		return e.add("Pow", nil, x, e.number(o.A)), nil
	case "rsqrt":
		return e.add("Reciprocal", nil, e.add("Sqrt", nil, x)), nil
	case "trunc":
		return e.add("Mul", nil, e.add("Sign", nil, x), e.add("Floor", nil, e.add("Abs", nil, x))), nil
	}
	return "", fmt.Errorf("there is no function %q in ONNX", o.Function)
}
