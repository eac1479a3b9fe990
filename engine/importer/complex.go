// Complex numbers: a tensor of them is two values, its real and its imaginary part, and what a
// program does to it becomes arithmetic of both. Rotary embeddings and Fourier transforms are
// written so.

package importer

import (
	"cmp"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

var complexOperators map[string]operator

func init() {
	complexOperators = map[string]operator{
		"view_as_complex": viewAsComplex, "complex": complexOf, "polar": polar, "view_as_real": viewAsReal,
		"real": part(func(_ *lowering, re, _ *value) *value { return re }), "imag": part(func(_ *lowering, _, im *value) *value { return im }),
		"abs": part((*lowering).magnitude), "mul": complexMul, "multiply": complexMul, "div": complexDiv, "exp": complexExp,
		"add": complexAdd(1), "sub": complexAdd(-1), "conj": conj, "_conj": conj, "conj_physical": conj, "_conj_physical": conj,
		"matmul": twoFactors("self", "other"), "bmm": twoFactors("self", "mat2"), "mm": twoFactors("self", "mat2"), "einsum": complexEinsum,
		"_assert_tensor_metadata": nothing, "sym_size": symSize, "to": complexTo, "type_as": complexTo, "_to_copy": complexTo,
	}
}

// partwise are operators that do the same to both parts.
var partwise = []string{
	"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "contiguous", "clone", "detach", "alias",
	"resolve_conj", "resolve_neg", "lift_fresh_copy", "permute", "transpose", "t", "swapaxes", "mT", "numpy_T", "movedim", "expand", "expand_as", "broadcast_to",
	"repeat", "repeat_interleave", "slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind", "cat", "concat", "stack", "pad", "constant_pad_nd", "roll", "flip",
	"index", "index_select", "sum", "mean", "neg", "cumsum", "tile", "zeros_like",
}

// imaginary is the imaginary part of a value, nil where it is real.
func (v *value) imaginary() *value {
	if v == nil {
		return nil
	}
	return v.im
}

// parts are the real and the imaginary part of v; the latter is zero where v is real.
func (v *value) parts() (re, im *value) {
	if v.im == nil {
		return v, nil
	}
	r := *v
	r.im = nil
	return &r, v.im
}

// complex is a value of two parts. nil is zero.
func (l *lowering) complex(re, im *value) *value {
	if im == nil {
		return re
	}
	if re == nil {
		re = l.unary("affine", im, 0, 0)
	}
	v := *re
	v.im = im
	return &v
}

// complexNode lowers a node that takes complex numbers. It tells whether it was such.
func (l *lowering) complexNode(n *pt2.Node, op string) bool {
	is := op == "view_as_complex" || op == "complex" || op == "polar"
	for _, a := range n.Args {
		is = is || a.Kind == pt2.Complex
		for _, name := range a.Names {
			is = is || l.vals[name].imaginary() != nil
		}
	}
	if !is || fourierOperators[op] != nil {
		return false
	}
	if writes(op) {
		fail("it writes complex numbers in place; assign the result to a new tensor")
	}
	if f := complexOperators[op]; f != nil {
		f(l, n)
		return true
	}
	f := operators[op]
	if f == nil || !slices.Contains(partwise, op) {
		fail("it is not supported for complex numbers; keep real and imaginary parts in two tensors")
	}
	l.partwise(n, f)
	return true
}

// partwise runs an operator on the real parts of its tensors, and on the imaginary ones.
func (l *lowering) partwise(n *pt2.Node, f operator) {
	whole := map[string]*value{}
	for _, a := range n.Args {
		for _, name := range a.Names {
			if v := l.vals[name]; v != nil && name != "" {
				whole[name] = v
			}
		}
	}
	defer func() {
		for name, v := range whole {
			l.vals[name] = v
		}
	}()
	run := func(take func(v *value) *value) map[string]*value {
		for name, v := range whole {
			l.vals[name] = take(v)
		}
		f(l, n)
		out := map[string]*value{}
		for _, name := range outputs(n) {
			out[name] = l.vals[name]
		}
		return out
	}
	re := run(func(v *value) *value { r, _ := v.parts(); return r })
	im := run(func(v *value) *value {
		if v.im == nil && !v.whole { // of a real one
			return l.unary("affine", v, 0, 0)
		}
		if v.im == nil {
			return v
		}
		return v.im
	})
	for name, r := range re {
		l.vals[name] = l.complex(r, im[name])
	}
}

// pairOf splits [..., 2] in two.
func (l *lowering) pairOf(x *value) (re, im *value) {
	last := len(x.shape) - 1
	if last < 0 || x.shape[last] != 2 || x.batch == last {
		fail("of %v; the last axis has to hold two numbers", x.shape)
	}
	return l.without(l.cut(x, last, 0, 1, 1), last), l.without(l.cut(x, last, 1, 1, 1), last)
}

// complexBuffer is a buffer of the archive, which is read as [..., 2].
func complexBuffer(v *value) *value {
	n := elems(v.shape)
	even, odd := make([]int, n), make([]int, n)
	for i := range n {
		even[i], odd[i] = 2*i, 2*i+1
	}
	re := *v
	re.buf = &buffer{load: v.archived}
	re.archived, re.whole = "", false
	im := re
	re.index, im.index, re.im = even, odd, &im
	return &re
}

func viewAsComplex(l *lowering, n *pt2.Node) {
	re, im := l.pairOf(l.tensor(n, "self"))
	l.defineComplex(re, im)
}

// defineComplex sets the current node's output.
func (l *lowering) defineComplex(re, im *value) {
	if im == nil {
		im = l.unary("affine", re, 0, 0)
	}
	l.define(im)
	im = l.vals[l.node.Outputs[0].Names[0]]
	l.define(re)
	name := l.node.Outputs[0].Names[0]
	l.vals[name] = l.complex(l.vals[name], im)
}

func complexOf(l *lowering, n *pt2.Node) { l.defineComplex(l.tensor(n, "real"), l.tensor(n, "imag")) }

func polar(l *lowering, n *pt2.Node) {
	size, angle := l.tensor(n, "abs"), l.tensor(n, "angle")
	l.defineComplex(l.binary("mul", size, l.unary("cos", angle, 0, 0)), l.binary("mul", size, l.unary("sin", angle, 0, 0)))
}

func viewAsReal(l *lowering, n *pt2.Node) {
	re, im := l.tensor(n, "self").parts()
	axis := len(re.shape)
	l.define(l.cat([]*value{l.with(re, axis), l.with(im, axis)}, axis))
}

// part is a real function of both parts.
func part(f func(l *lowering, re, im *value) *value) operator {
	return func(l *lowering, n *pt2.Node) {
		re, im := l.tensor(n, "self").parts()
		l.define(f(l, re, im))
	}
}

func (l *lowering) magnitude(re, im *value) *value {
	s := l.binary("add", l.unary("pow", re, 2, 0), l.unary("pow", im, 2, 0))
	if s.isConst() {
		return l.unary("sqrt", s, 0, 0)
	}
	return l.length(s)
}

// complexArg is a tensor or a number.
func (l *lowering) complexArg(n *pt2.Node, name string) *value {
	a, ok := arg(n, name)
	if ok && a.Kind == pt2.Complex {
		num := func(v float64) *value { return constant([]float64{v}, []int{}, false) }
		return l.complex(num(a.Floats[0]), num(a.Floats[1]))
	}
	return l.other(n, name)
}

// sum and its kin treat nil as zero.
func (l *lowering) sumOf(a, b *value, sign float64) *value {
	switch {
	case b == nil:
		return a
	case a == nil:
		return l.signed(b, sign)
	case sign < 0:
		return l.binary("sub", a, b)
	}
	return l.binary("add", a, b)
}

// bilinear multiplies two complex numbers by a product of real ones.
func (l *lowering) bilinear(x, y *value, f func(a, b *value) *value) (re, im *value) {
	a, b := x.parts()
	c, d := y.parts()
	times := func(p, q *value) *value {
		if p == nil || q == nil {
			return nil
		}
		return f(p, q)
	}
	return l.sumOf(times(a, c), times(b, d), -1), l.sumOf(times(a, d), times(b, c), 1)
}

func complexMul(l *lowering, n *pt2.Node) {
	l.defineComplex(l.bilinear(l.complexArg(n, "self"), l.complexArg(n, "other"), func(a, b *value) *value { return l.binary("mul", a, b) }))
}

func complexDiv(l *lowering, n *pt2.Node) {
	x, y := l.complexArg(n, "self"), l.complexArg(n, "other")
	if c, d := y.parts(); d != nil { // x·conj(y) / |y|²
		size := l.binary("add", l.unary("pow", c, 2, 0), l.unary("pow", d, 2, 0))
		y = l.complex(l.binary("div", c, size), l.signed(l.binary("div", d, size), -1))
		l.defineComplex(l.bilinear(x, y, func(a, b *value) *value { return l.binary("mul", a, b) }))
		return
	}
	re, im := x.parts()
	l.defineComplex(l.binary("div", re, y), l.binary("div", im, y))
}

func complexAdd(sign float64) operator {
	return func(l *lowering, n *pt2.Node) {
		if l.scalar(n, "alpha", 1) != 1 {
			fail("of complex numbers with a factor")
		}
		a, b := l.complexArg(n, "self").parts()
		c, d := l.complexArg(n, "other").parts()
		re, im := l.sumOf(a, c, sign), l.sumOf(b, d, sign)
		if !slices.Equal(im.shape, re.shape) { // of a number or a tensor that repeats
			im = l.binary("add", im, l.unary("affine", re, 0, 0))
		}
		l.defineComplex(re, im)
	}
}

func complexExp(l *lowering, n *pt2.Node) {
	re, im := l.tensor(n, "self").parts()
	size := l.unary("exp", re, 0, 0)
	l.defineComplex(l.binary("mul", size, l.unary("cos", im, 0, 0)), l.binary("mul", size, l.unary("sin", im, 0, 0)))
}

func conj(l *lowering, n *pt2.Node) {
	re, im := l.tensor(n, "self").parts()
	l.defineComplex(re, l.signed(im, -1))
}

// complexTo changes the type: of a real one all but the real part is dropped.
func complexTo(l *lowering, n *pt2.Node) {
	re, im := l.tensor(n, "self").parts()
	if !l.graph.Tensors[outputs(n)[0]].DType.Complex() {
		l.define(re)
		return
	}
	l.defineComplex(re, im)
}

// twoFactors is a product of two tensors by the operator of real ones.
func twoFactors(first, second string) operator {
	return func(l *lowering, n *pt2.Node) {
		a, _ := arg(n, first)
		b, ok := arg(n, second)
		if !ok {
			fail("it has no second tensor")
		}
		l.product(n, a.Names[0], b.Names[0])
	}
}

func complexEinsum(l *lowering, n *pt2.Node) {
	a, _ := arg(n, "tensors")
	if len(a.Names) != 2 {
		fail("of %d tensors with complex numbers", len(a.Names))
	}
	l.product(n, a.Names[0], a.Names[1])
}

func (l *lowering) product(n *pt2.Node, first, second string) {
	x, y, f := l.vals[first], l.vals[second], operators[base(n)]
	if first == second {
		fail("of complex numbers with themselves")
	}
	re, im := l.bilinear(x, y, func(a, b *value) *value {
		l.vals[first], l.vals[second] = a, b
		defer func() { l.vals[first], l.vals[second] = x, y }()
		f(l, n)
		return l.vals[outputs(n)[0]]
	})
	l.vals[outputs(n)[0]] = l.complex(re, im)
}

// fourierOperators are transforms of one or several axes: products with the matrix of the
// transform, whose rows are cosines and sines.
var fourierOperators = map[string]operator{}

func init() {
	for name, t := range map[string]transform{
		"fft_fft": {}, "fft_ifft": {inverse: true}, "fft_rfft": {half: true}, "fft_irfft": {half: true, inverse: true},
		"fft_fft2": {axes: 2}, "fft_ifft2": {axes: 2, inverse: true}, "fft_rfft2": {axes: 2, half: true}, "fft_irfft2": {axes: 2, half: true, inverse: true},
		"fft_fftn": {axes: -1}, "fft_ifftn": {axes: -1, inverse: true}, "fft_rfftn": {axes: -1, half: true}, "fft_irfftn": {axes: -1, half: true, inverse: true},
	} {
		fourierOperators[name] = t.lower
	}
	fourierOperators["stft"] = stft
}

// transform is a discrete Fourier transform.
type transform struct {
	axes    int  // 0: the axis is an argument; else of the last axes, -1: all
	half    bool // of real numbers, of which half the frequencies tell everything
	inverse bool
}

// maxFourier is the longest axis that is transformed: its matrix has as many columns.
const maxFourier = 4096

func (t transform) lower(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	rank := len(x.shape)
	var axes, sizes []int
	if t.axes == 0 {
		axes = []int{axisOf(l.integer(n, "dim", -1), rank)}
		if k := l.integer(n, "n", 0); k > 0 {
			sizes = []int{k}
		}
	} else {
		axes, sizes = l.plain(n, "dim"), l.plain(n, "s")
		if len(axes) == 0 { // the last ones, or all
			count := t.axes
			if count < 0 {
				count = cmp.Or(len(sizes), rank)
			}
			axes = plainOrder(rank)[max(rank-count, 0):]
		}
	}
	for i, a := range axes {
		if axes[i] = axisOf(a, rank); axes[i] == x.batch {
			fail("along the batch")
		}
	}
	norm := text(n, "norm", "backward")
	size := func(i int) int {
		if i < len(sizes) && sizes[i] > 0 {
			return sizes[i]
		}
		if d := x.shape[axes[i]]; !t.half || !t.inverse || i < len(axes)-1 {
			return d
		}
		return 2 * (x.shape[axes[i]] - 1)
	}
	var ks []int
	for i := range axes {
		ks = append(ks, size(i))
	}
	last := len(axes) - 1
	for j := range axes {
		i := j
		if t.half && !t.inverse { // the halved axis first, from real numbers; back it comes last
			i = last - j
		}
		x = l.fourier(x, axes[i], ks[i], t.half && i == last, t.inverse, norm)
	}
	if re, im := x.parts(); im != nil {
		l.defineComplex(re, im)
		return
	}
	l.define(x)
}

// fourier transforms one axis to n elements, or from n: half of them where half is set.
func (l *lowering) fourier(x *value, axis, n int, half, inverse bool, norm string) *value {
	if n < 1 || n > maxFourier {
		fail("of %d elements; at most %d are transformed", n, maxFourier)
	}
	in, out := n, n
	if half && inverse {
		in = n/2 + 1
	} else if half {
		out = n/2 + 1
	}
	scale := 1.0
	switch {
	case norm == "ortho":
		scale = 1 / math.Sqrt(float64(n))
	case (norm == "forward") != inverse:
		scale = 1 / float64(n)
	}
	cos, sin := make([]float64, out*in), make([]float64, out*in)
	for k := range out {
		for j := range in {
			s, c := math.Sincos(2 * math.Pi * float64(k*j%n) / float64(n))
			w := scale
			if half && inverse && j > 0 && 2*j != n { // and of the frequency that is not kept
				w *= 2
			}
			if cos[k*in+j], sin[k*in+j] = c*w, s*w; inverse {
				sin[k*in+j] *= -1
			}
		}
	}
	by := func(v *value, m []float64) *value {
		if v == nil {
			return nil
		}
		if d := v.shape[axis]; d > in {
			v = l.cut(v, axis, 0, in, 1)
		} else if d < in {
			more := slices.Clone(v.shape)
			more[axis] = in - d
			if v.batch >= 0 {
				more[v.batch] = 1
			}
			v = l.cat([]*value{v, constant(make([]float64, elems(more)), more, false)}, axis)
		}
		w := l.moved(l.value(v), axis)
		return l.back(l.linear(w, constant(slices.Clone(m), []int{out, in}, false), nil, false), axis)
	}
	re, im := x.parts()
	y := l.sumOf(by(re, cos), by(im, sin), 1)
	if half && inverse {
		return y
	}
	return l.complex(y, l.sumOf(by(im, cos), by(re, sin), -1))
}

// stft is torch.stft behind its padding: the transforms of windows of a signal [N, T], [N, frequencies,
// windows].
func stft(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	size := l.integer(n, "n_fft", 0)
	hop, wide := l.integer(n, "hop_length", size/4), l.integer(n, "win_length", size)
	window := l.optional(n, "window")
	last := len(x.shape) - 1
	if l.flag(n, "center", false) {
		pad := size / 2
		x = l.padAround(l.value(x), []int{pad, pad}, text(n, "pad_mode", "reflect"))
	}
	if last < 0 || x.batch == last || size < 1 || hop < 1 || wide < 1 || wide > size || size > x.shape[last] {
		fail("of %v in windows of %d by %d", x.shape, size, hop)
	}
	if !l.flag(n, "return_complex", true) {
		fail("without return_complex=True")
	}
	frames := l.frames(l.value(x), last, size, hop) // [..., windows, size]
	if window == nil {
		window = constant(slices.Repeat([]float64{1}, wide), []int{wide}, false)
	}
	if wide < size { // in the middle
		before := (size - wide) / 2
		zeros := func(n int) *value { return constant(make([]float64, n), []int{n}, false) }
		window = l.cat([]*value{zeros(before), window, zeros(size - wide - before)}, 0)
	}
	frames = l.binary("mul", frames, window)
	norm := "backward"
	if l.flag(n, "normalized", false) {
		norm = "ortho"
	}
	half := l.flag(n, "onesided", true)
	y := l.fourier(frames, last+1, size, half, false, norm)
	re, im := y.parts()
	order := make([]int, last+2)
	for i := range order {
		order[i] = i
	}
	order[last], order[last+1] = last+1, last
	l.defineComplex(l.permuted(re, order), l.permuted(im, order))
}
