// Convolutions and pools over three axes, as those of the depth and of images. The sums of a
// convolution are those of one over images whose channels are each input channel's taps of depth,
// one after the other.

package importer

import (
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var volumeOperators = map[string]operator{
	"conv3d": conv3, "conv_transpose3d": convTranspose3, "max_pool3d": pool3(true), "avg_pool3d": pool3(false), "adaptive_avg_pool3d": adaptive3,
	"upsample_nearest3d": upsample(3, nearest), "upsample_trilinear3d": upsample(3, between),
}

// triple is an argument of three axes, one number for all, or def.
func (l *lowering) triple(n *pt2.Node, name string, def int) [3]int {
	switch v := l.plain(n, name); len(v) {
	case 0:
		return [3]int{def, def, def}
	case 1:
		return [3]int{v[0], v[0], v[0]}
	case 3:
		return [3]int(v)
	}
	fail("%s is %v", name, l.plain(n, name))
	return [3]int{}
}

// volume is x [N, C, D, H, W].
func (l *lowering) volume(x *value) *value {
	if len(x.shape) != 5 {
		fail("of %v; one with the batch, channels and three axes is needed", x.shape)
	}
	return l.leading(x)
}

func conv3(l *lowering, n *pt2.Node) {
	x, w, b := l.volume(l.tensor(n, "input")), l.tensor(n, "weight"), l.optional(n, "bias")
	if len(w.shape) != 5 || !isWhole(w) || !isWhole(b) {
		fail("with a weight of %v, or one that is computed", w.shape)
	}
	stride, dilation := l.triple(n, "stride", 1), l.triple(n, "dilation", 1)
	same := false
	var pad [3]int
	if a, ok := arg(n, "padding"); ok && a.Kind == pt2.String {
		same = a.Text == "same"
	} else {
		pad = l.triple(n, "padding", 0)
	}
	taps, reach := w.shape[2], dilation[0]*(w.shape[2]-1)
	before, after := pad[0], pad[0]
	if same {
		before, after = reach/2, reach-reach/2
	}
	c, d, h, wide := x.shape[1], x.shape[2], x.shape[3], x.shape[4]
	if d+before+after < reach+1 || stride[0] < 1 || taps > maxSteps {
		fail("its window of %v does not fit into %v", w.shape[2:], x.shape)
	}
	deep := (d+before+after-reach-1)/stride[0] + 1
	name := x.name
	if before+after > 0 {
		name, _ = l.emit(&graph.Pad{Before: []int{0, before, 0, 0}, After: []int{0, after, 0, 0}}, nil, name)
	}
	var parts []string
	for t := range taps {
		p, _ := l.emit(&graph.Slice{Axis: 1, Start: t * dilation[0], Count: deep, Step: stride[0]}, nil, name)
		p, _ = l.reshape(p, graph.Shape{c, 1, deep, h, wide})
		parts = append(parts, p)
	}
	if name = parts[0]; taps > 1 {
		name, _ = l.emit(&graph.Concat{Axis: 1}, nil, parts...)
	}
	name, _ = l.permute(name, []int{2, 0, 1, 3, 4})
	name, s := l.reshape(name, graph.Shape{deep, c * taps, h, wide})
	images := l.result(name, s, []int{deep, c * taps, h, wide}, 0, 1)
	images.name = name
	kernel := *w
	kernel.shape = []int{w.shape[0], w.shape[1] * taps, w.shape[3], w.shape[4]}
	kernel.paramShape = kernel.shape
	at := windows{
		kernel: [2]int(w.shape[3:]), stride: [2]int(stride[1:]), dilation: [2]int(dilation[1:]),
		pad: [4]int{pad[1], pad[2], pad[1], pad[2]}, depth: taps,
	}
	y := l.convTall(n, images, &kernel, b, at, same)
	out, high, across := y.shape[1], y.shape[2], y.shape[3]
	name, _ = l.reshape(y.name, graph.Shape{deep, out, high, across})
	name, s = l.permute(name, []int{1, 0, 2, 3})
	l.define(l.result(name, s, []int{1, out, deep, high, across}, 0, 1))
}

// byAxes runs a pool over images and then one over the depth, which together are one over three
// axes.
func (l *lowering) byAxes(x *value, images, depth graph.Op) *value {
	c, d := x.shape[1], x.shape[2]
	name, _ := l.reshape(x.name, graph.Shape{c * d, x.shape[3], x.shape[4]})
	name, s := l.emit(images, nil, name)
	h, w := s[1], s[2]
	if a, ok := depth.(*graph.AdaptiveAvgPool2d); ok {
		a.Out[1] = h * w
	}
	name, _ = l.reshape(name, graph.Shape{c, d, h * w})
	name, s = l.emit(depth, nil, name)
	name, t := l.reshape(name, graph.Shape{c, s[1], h, w})
	return l.result(name, t, []int{1, c, s[1], h, w}, 0, 1)
}

func pool3(most bool) operator {
	return func(l *lowering, n *pt2.Node) {
		kernel, pad := l.triple(n, "kernel_size", 1), l.triple(n, "padding", 0)
		stride := kernel
		if len(l.plain(n, "stride")) > 0 {
			stride = l.triple(n, "stride", 1)
		}
		if l.triple(n, "dilation", 1) != [3]int{1, 1, 1} {
			fail("with dilation")
		}
		if _, ok := arg(n, "divisor_override"); ok {
			fail("with divisor_override")
		}
		ceil, exclude := l.flag(n, "ceil_mode", false), pad != [3]int{} && !l.flag(n, "count_include_pad", true)
		images := graph.MaxPool2d{Kernel: graph.Pair(kernel[1:]), Stride: graph.Pair(stride[1:]), Padding: graph.Pair(pad[1:]), Ceil: ceil}
		depth := graph.MaxPool2d{Kernel: graph.Pair{kernel[0], 1}, Stride: graph.Pair{stride[0], 1}, Padding: graph.Pair{pad[0], 0}, Ceil: ceil}
		x := l.volume(l.tensor(n, "self"))
		if most {
			l.define(l.byAxes(x, &images, &depth))
			return
		}
		l.define(l.byAxes(x, &graph.AvgPool2d{MaxPool2d: images, Exclude: exclude}, &graph.AvgPool2d{MaxPool2d: depth, Exclude: exclude}))
	}
}

func adaptive3(l *lowering, n *pt2.Node) {
	x, size := l.volume(l.tensor(n, "self")), l.plain(n, "output_size")
	if len(size) != 3 {
		fail("to %v", size)
	}
	l.define(l.byAxes(x, &graph.AdaptiveAvgPool2d{Out: graph.Pair(size[1:])}, &graph.AdaptiveAvgPool2d{Out: graph.Pair{size[0], 1}}))
}
