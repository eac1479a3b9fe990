// Convolutions and what else works on windows of an image or a signal.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var windowOperators = map[string]operator{
	"conv2d": conv(2), "conv1d": conv(1), "conv_transpose2d": convTranspose(2), "conv_transpose1d": convTranspose(1),
	"im2col": unfoldOp, "col2im": foldOp, "unfold": tensorUnfold, "pixel_unshuffle": pixelUnshuffle,
	"adaptive_max_pool2d": adaptiveMax(2), "adaptive_max_pool1d": adaptiveMax(1),
}

// windows are how a kernel lies over an image.
type windows struct {
	kernel, stride, dilation [2]int
	pad                      [4]int // top, left, bottom, right
	depth                    int    // taps of depth of each channel; 0: there is no depth
}

// windows reads the arguments of a convolution; one of one axis has a height of 1.
func (l *lowering) windows(n *pt2.Node, kernel []int) (w windows, same bool) {
	w.kernel = [2]int{1, kernel[len(kernel)-1]}
	w.stride, w.dilation = l.pair(n, "stride", 1), l.pair(n, "dilation", 1)
	pad := [2]int{}
	if a, ok := arg(n, "padding"); ok && a.Kind == pt2.String {
		same = a.Text == "same"
	} else {
		pad = l.pair(n, "padding", 0)
	}
	if len(kernel) == 2 {
		w.kernel[0] = kernel[0]
	} else {
		w.stride[0], w.dilation[0], pad[0] = 1, 1, 0
	}
	w.pad = [4]int{pad[0], pad[1], pad[0], pad[1]}
	return w, same
}

// image is x with an axis of height, if it has none.
func (l *lowering) image(x *value) *value {
	if len(x.shape) == 3 {
		return l.with(x, 2)
	}
	return x
}

// isWhole tells whether v is a parameter as it is.
func isWhole(v *value) bool {
	return v == nil || v.param != "" && v.index == nil && slices.Equal(v.shape, v.paramShape)
}

func conv(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		in := l.tensor(n, "input")
		w, b := l.tensor(n, "weight"), l.optional(n, "bias")
		if len(in.shape) != dims+2 || len(w.shape) != dims+2 {
			fail("its input is %v, its weight %v", in.shape, w.shape)
		}
		if w.scale != nil {
			l.define(l.scaledWeight(w, b, len(in.shape), func(w *value) *value { return l.convolved(n, in, w, nil, dims) }))
			return
		}
		l.define(l.convolved(n, in, w, b, dims))
	}
}

// scaledWeight is an operation that is linear in its weight, a scaled parameter: what the parameter
// gives, scaled, plus the bias of each channel.
func (l *lowering) scaledWeight(w, b *value, rank int, f func(w *value) *value) *value {
	y := l.rescaled(w.scale, f(w.scale.weight))
	if b != nil {
		y = l.binary("add", y, perChannel(b, rank))
	}
	return y
}

// convolved is a convolution of one or two axes.
func (l *lowering) convolved(n *pt2.Node, in, w, b *value, dims int) *value {
	at, same := l.windows(n, w.shape[2:])
	if in.batch == 1 && w.batch == 0 && in.shape[0] == 1 {
		return l.convEach(n, in, w, b, at, same)
	}
	if l.several(in) && isWhole(w) && isWhole(b) {
		return l.convTall(n, in, w, b, at, same)
	}
	x := l.leading(in)
	c := &graph.Conv2d{Groups: l.integer(n, "groups", 1), Bias: b != nil, Flat: dims == 1, Same: same}
	c.Out, c.In = w.shape[0], w.shape[1]*c.Groups
	c.Kernel, c.Stride, c.Dilation, c.Padding = graph.Pair(at.kernel), graph.Pair(at.stride), graph.Pair(at.dilation), graph.Pair{at.pad[0], at.pad[1]}
	if !isWhole(w) || !isWhole(b) {
		_, _, _, at.pad = c.Window()
		return l.convOf(x, w, b, at, c.Groups)
	}
	name := l.image(x).name
	y, s := l.emit(c, names(w, b), name)
	shape := []int{1, s[0], s[1], s[2]}
	if dims == 1 {
		shape = []int{1, s[0], s[2]}
	}
	return l.result(y, s, shape, 0, 1)
}

// several tells whether a sample has several images: [N·k, C, ...].
func (l *lowering) several(x *value) bool { return x.batch == 0 && !x.alone() && x.name != "" }

// convTall is a convolution of several images a sample. They are put one above the other, with
// so much padding between them that no window sees two.
func (l *lowering) convTall(n *pt2.Node, x, w, b *value, at windows, same bool) *value {
	flat := len(x.shape) == 3
	k, c, height, width := x.shape[0], x.shape[1], 1, x.shape[len(x.shape)-1]
	if !flat {
		height = x.shape[2]
	}
	op := &graph.Conv2d{In: w.shape[1] * l.integer(n, "groups", 1), Out: w.shape[0], Groups: l.integer(n, "groups", 1), Bias: b != nil, Flat: flat, Same: same, Depth: at.depth}
	op.Kernel, op.Stride, op.Dilation, op.Padding = graph.Pair(at.kernel), graph.Pair(at.stride), graph.Pair(at.dilation), graph.Pair{at.pad[0], at.pad[1]}
	stride, dilation, _, pad := op.Window()
	one, err := op.Infer([]graph.Shape{{c, height, width}})
	if err != nil {
		fail("%v", err)
	}
	reach := dilation[0] * (op.Kernel[0] - 1)
	slot := max(pad[0]+height+pad[2], (one[1]-1)*stride[0]+reach+1)
	slot = (slot + stride[0] - 1) / stride[0] * stride[0] // a window begins at the top of each
	name, _ := l.reshape(x.name, graph.Shape{k, c, height, width})
	name, _ = l.permute(name, []int{1, 0, 2, 3})
	name, _ = l.emit(&graph.Pad{Before: []int{0, 0, pad[0], pad[1]}, After: []int{0, 0, slot - height - pad[0], pad[3]}}, nil, name)
	name, s := l.reshape(name, graph.Shape{c, k * slot, width + pad[1] + pad[3]})
	rows := k * slot / stride[0] // as many as there are when the last image has a full slot below it
	if more := (rows-1)*stride[0] + reach + 1 - s[1]; more > 0 {
		name, _ = l.emit(&graph.Pad{Before: []int{0, 0, 0}, After: []int{0, more, 0}}, nil, name)
	}
	op.Padding, op.Same = graph.Pair{}, false
	name, s = l.emit(op, names(w, b), name)
	if s[1] > rows {
		name, s = l.emit(&graph.Slice{Axis: 1, Count: rows}, nil, name)
	}
	name, _ = l.reshape(name, graph.Shape{s[0], k, rows / k, s[2]})
	name, _ = l.emit(&graph.Slice{Axis: 2, Count: one[1]}, nil, name)
	name, _ = l.permute(name, []int{1, 0, 2, 3})
	shape := []int{k, one[0], one[1], one[2]}
	if flat {
		shape = []int{k, one[0], one[2]}
	}
	return l.result(name, l.shapes[name], shape, 0, x.outer)
}

// planes calls f with the images of a sample as one of more channels, and gives its result their
// axis back: for what works on each channel by itself.
func (l *lowering) planes(x *value, f func(x *value) *value) *value {
	if !l.several(x) {
		return f(l.leading(x))
	}
	k, c := x.shape[0], x.shape[1]
	row := slices.Concat(graph.Shape{k * c}, x.shape[2:])
	name, s := l.reshape(x.name, row)
	y := f(l.result(name, s, slices.Concat([]int{1}, row), 0, 1))
	shape := slices.Concat([]int{k, c}, y.shape[2:])
	v := &value{shape: shape, batch: 0, outer: x.outer}
	v.name, _ = l.reshape(y.name, v.row())
	return v
}

// convOf is a convolution whose weights are computed, the same for all samples: a product with
// the windows.
func (l *lowering) convOf(x, w, b *value, at windows, groups int) *value {
	flat := len(x.shape) == 3
	cols, out := l.unfold(l.image(x), at) // [N, C·kernel, windows]
	k := cols.shape[1] / groups
	cols = l.regrouped(cols, []int{1, groups, k, cols.shape[2]})
	w = l.viewAs(w, plainNumbers([]int{groups, w.shape[0] / groups, k}))
	y := l.matmul(w, cols, false, 0)
	shape := []int{1, w.shape[0] * w.shape[1], out[0], out[1]}
	if flat {
		shape = []int{1, shape[1], out[1]}
	}
	y = l.regrouped(y, shape)
	if b != nil {
		y = l.binary("add", y, perChannel(b, len(shape)))
	}
	return y
}

// convEach is a convolution of one image whose channels are those of all samples, x [1, N·C, ...],
// by weights [N·O, C, ...] of which each sample has its own.
func (l *lowering) convEach(n *pt2.Node, x, w, b *value, at windows, same bool) *value {
	a, _ := arg(n, "groups")
	groups := number{n: 1}
	if len(a.Ints) > 0 {
		groups = l.number(a.Ints[0])
	}
	k := groups.n
	if l.symbol == "" {
		if k%l.batch != 0 {
			fail("its groups are not those of the samples")
		}
		k /= l.batch
	} else if !groups.batched {
		fail("its groups are not those of the samples")
	}
	flat := len(x.shape) == 3
	c, out := x.shape[1], w.shape[0]
	if x.outer != 1 || w.outer != 1 || k < 1 || c%k != 0 || out%k != 0 || w.shape[1] != c/k {
		fail("of %v by %v", x.shape, w.shape)
	}
	if b != nil {
		fail("of kernels of each sample with a bias; add it to the result")
	}
	if same {
		op := &graph.Conv2d{Kernel: graph.Pair(at.kernel), Stride: graph.Pair(at.stride), Dilation: graph.Pair(at.dilation), Same: true}
		_, _, _, at.pad = op.Window()
	}
	image := &value{shape: slices.Concat([]int{1}, x.shape[1:]), batch: 0, outer: 1}
	image.name, _ = l.reshape(x.name, image.row())
	cols, size := l.unfold(l.image(image), at) // [N, C·kernel, windows]
	taps := cols.shape[1] / k
	cols = l.regrouped(cols, []int{1, k, taps, cols.shape[2]})
	own := &value{shape: []int{1, k, out / k, taps}, batch: 0, outer: 1}
	own.name, _ = l.reshape(w.name, own.row())
	y := l.matmul(own, cols, false, 0)
	shape := []int{1, out, size[0], size[1]}
	if flat {
		shape = []int{1, out, size[1]}
	}
	v := &value{shape: shape, batch: 1, outer: 1}
	v.name, _ = l.reshape(y.name, v.row())
	return v
}

func convTranspose(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.leading(l.tensor(n, "input"))
		w, b := l.tensor(n, "weight"), l.optional(n, "bias")
		if len(x.shape) != dims+2 || len(w.shape) != dims+2 {
			fail("its input is %v, its weight %v", x.shape, w.shape)
		}
		if w.scale != nil {
			l.define(l.scaledWeight(w, b, len(x.shape), func(w *value) *value { return l.convTransposed(n, x, w, nil, dims) }))
			return
		}
		l.define(l.convTransposed(n, x, w, b, dims))
	}
}

// convTransposed is a transposed convolution of one or two axes.
func (l *lowering) convTransposed(n *pt2.Node, x, w, b *value, dims int) *value {
	at, _ := l.windows(n, w.shape[2:])
	g, extra := l.integer(n, "groups", 1), l.pair(n, "output_padding", 0)
	if dims == 1 {
		extra[0] = 0
	}
	beyond := extra[0] >= at.stride[0] || extra[1] >= at.stride[1] // elements of no window, as a dilation allows
	if dims == 1 || beyond || !isWhole(w) || !isWhole(b) {
		return l.convTransposeOf(x, w, b, at, extra, g)
	}
	c := &graph.ConvTranspose2d{
		In: w.shape[0], Out: w.shape[1] * g, Groups: g, Bias: b != nil, Kernel: graph.Pair(at.kernel), Stride: graph.Pair(at.stride),
		Padding: graph.Pair{at.pad[0], at.pad[1]}, Extra: graph.Pair(extra), Dilation: graph.Pair(at.dilation),
	}
	y, s := l.emit(c, names(w, b), x.name)
	return l.result(y, s, []int{1, s[0], s[1], s[2]}, 0, 1)
}

// convTransposeOf is a product with the weights, whose results are added where their windows
// overlap.
func (l *lowering) convTransposeOf(x, w, b *value, at windows, extra [2]int, groups int) *value {
	flat := len(x.shape) == 3
	x = l.image(x)
	in, size := x.shape[2:], [2]int{}
	for a := range 2 {
		size[a] = (in[a]-1)*at.stride[a] - at.pad[a] - at.pad[2+a] + at.dilation[a]*(at.kernel[a]-1) + extra[a] + 1
	}
	cg, k := x.shape[1]/groups, elems(w.shape[1:])
	w = l.permuted(l.viewAs(w, plainNumbers([]int{groups, cg, k})), []int{0, 2, 1})
	cols := l.matmul(w, l.regrouped(x, []int{1, groups, cg, in[0] * in[1]}), false, 0)
	y := l.added(l.regrouped(cols, []int{1, groups * k, in[0] * in[1]}), size, [2]int(in), at)
	if flat {
		y = l.without(y, 2)
	}
	if b != nil {
		y = l.binary("add", y, perChannel(b, len(y.shape)))
	}
	return y
}

func (l *lowering) kernelWindows(n *pt2.Node) windows {
	w := windows{kernel: l.pair(n, "kernel_size", 1), stride: l.pair(n, "stride", 1), dilation: l.pair(n, "dilation", 1)}
	p := l.pair(n, "padding", 0)
	w.pad = [4]int{p[0], p[1], p[0], p[1]}
	return w
}

func unfoldOp(l *lowering, n *pt2.Node) {
	x := l.leading(l.tensor(n, "self"))
	if len(x.shape) != 4 {
		fail("of %v", x.shape)
	}
	y, _ := l.unfold(x, l.kernelWindows(n))
	l.define(y)
}

// unfold puts the elements of all windows of x [N,C,H,W] side by side: [N, C·kernel, windows].
// out is how many windows there are along each axis.
func (l *lowering) unfold(x *value, at windows) (y *value, out [2]int) {
	c := x.shape[1]
	if at.pad != [4]int{} {
		op := &graph.Pad{Before: []int{0, at.pad[0], at.pad[1]}, After: []int{0, at.pad[2], at.pad[3]}}
		name, s := l.emit(op, nil, x.name)
		x = l.result(name, s, slices.Concat([]int{1}, s), 0, 1)
	}
	for a := range 2 {
		d, k := x.shape[2+a], at.kernel[a]
		out[a] = (d-at.dilation[a]*(k-1)-1)/at.stride[a] + 1
		if d < at.dilation[a]*(k-1)+1 || at.stride[a] < 1 || k < 1 {
			fail("a window of %v does not fit into %v", at.kernel, x.shape)
		}
		var from []float64
		for i := range k {
			for o := range out[a] {
				from = append(from, float64(o*at.stride[a]+i*at.dilation[a]))
			}
		}
		x = l.pick(x, 2+a, from)
	}
	name, _ := l.reshape(x.name, graph.Shape{c, at.kernel[0], out[0], at.kernel[1], out[1]})
	name, _ = l.permute(name, []int{0, 1, 3, 2, 4})
	name, s := l.reshape(name, graph.Shape{c * at.kernel[0] * at.kernel[1], out[0] * out[1]})
	return l.result(name, s, slices.Concat([]int{1}, s), 0, 1), out
}

func foldOp(l *lowering, n *pt2.Node) {
	x := l.leading(l.tensor(n, "self"))
	if len(x.shape) != 3 {
		fail("of %v", x.shape)
	}
	l.define(l.fold(x, l.pair(n, "output_size", 1), l.kernelWindows(n)))
}

// fold adds windows [N, C·kernel, windows] to an image [N,C,H,W] of the given size where they
// overlap: what unfold does, backwards.
func (l *lowering) fold(x *value, size [2]int, at windows) *value {
	var count [2]int
	for a := range 2 {
		count[a] = (size[a]+at.pad[a]+at.pad[2+a]-at.dilation[a]*(at.kernel[a]-1)-1)/at.stride[a] + 1
	}
	if k := at.kernel[0] * at.kernel[1]; k < 1 || x.shape[1]%k != 0 || x.shape[2] != count[0]*count[1] {
		fail("%v into an image of %v", x.shape, size)
	}
	return l.added(x, size, count, at)
}

// added adds so many windows along each axis to an image of the given size. Elements may lie in none.
func (l *lowering) added(x *value, size, count [2]int, at windows) *value {
	c := x.shape[1] / (at.kernel[0] * at.kernel[1])
	name, _ := l.reshape(x.name, graph.Shape{c, at.kernel[0], at.kernel[1], count[0], count[1]})
	name, _ = l.permute(name, []int{0, 1, 3, 2, 4})
	name, s := l.reshape(name, graph.Shape{c, at.kernel[0] * count[0], at.kernel[1] * count[1]})
	y := l.result(name, s, slices.Concat([]int{1}, s), 0, 1)
	for a := range 2 {
		if size[a] < 1 || size[a] > graph.MaxDim {
			fail("to %d elements along axis %d", size[a], a)
		}
		y = l.overlapped(y, 2+a, size[a], line{count: count[a], kernel: at.kernel[a], stride: at.stride[a], dilation: at.dilation[a], pad: at.pad[a]})
	}
	return y
}

// tensorUnfold is x.unfold(axis, size, step): windows along an axis, their elements last.
func tensorUnfold(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	axis := axisOf(l.integer(n, "dimension", 0), len(x.shape))
	size, step := l.integer(n, "size", 1), l.integer(n, "step", 1)
	if size < 1 || step < 1 || size > x.shape[axis] {
		fail("windows of %d by %d of %v", size, step, x.shape)
	}
	l.define(l.frames(x, axis, size, step))
}

// frames are windows along an axis, each step behind the one before, their elements last.
func (l *lowering) frames(x *value, axis, size, step int) *value {
	var from []float64
	count := (x.shape[axis]-size)/step + 1
	for w := range count {
		for i := range size {
			from = append(from, float64(w*step+i))
		}
	}
	y := l.pick(x, axis, from)
	y = l.regrouped(y, slices.Concat(x.shape[:axis], []int{count, size}, x.shape[axis+1:]))
	return l.moved(y, axis+1)
}

func pixelUnshuffle(l *lowering, n *pt2.Node) {
	v := l.leading(l.tensor(n, "self"))
	r := l.integer(n, "downscale_factor", 1)
	if len(v.shape) != 4 || r < 1 || v.shape[2]%r != 0 || v.shape[3]%r != 0 {
		fail("%v by %d", v.shape, r)
	}
	c, h, w := v.shape[1], v.shape[2]/r, v.shape[3]/r
	name, _ := l.reshape(v.name, graph.Shape{c, h, r, w, r})
	name, _ = l.permute(name, []int{0, 2, 4, 1, 3})
	name, s := l.reshape(name, graph.Shape{c * r * r, h, w})
	l.define(l.result(name, s, []int{1, c * r * r, h, w}, 0, 1))
}

// adaptiveMax takes the greatest elements of as many windows as the output has elements.
func adaptiveMax(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		size, names := l.plain(n, "output_size"), outputs(n)
		if len(size) != dims || len(x.shape) != dims+2 {
			fail("of %v to %v", x.shape, size)
		}
		if len(names) > 1 && l.read(names[1]) {
			fail("with positions")
		}
		l.defineAs(names[0], l.planes(x, func(x *value) *value {
			for k, out := range slices.Backward(size) { // so that the first of equals is that of the first row
				a := 2 + k
				d := x.shape[a]
				var parts []*value
				for o := range out {
					from, to := o*d/out, ((o+1)*d+out-1)/out
					parts = append(parts, l.most(l.cut(x, a, from, to-from, 1), a, true))
				}
				x = l.cat(parts, a)
			}
			return x
		}))
	}
}
