// Transposed convolutions over three axes: a product with the weights, whose results are added
// where their windows overlap.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

func convTranspose3(l *lowering, n *pt2.Node) {
	x, w, b := l.volume(l.tensor(n, "input")), l.tensor(n, "weight"), l.optional(n, "bias")
	if len(w.shape) != 5 {
		fail("with a weight of %v", w.shape)
	}
	stride, dilation, pad, extra := l.triple(n, "stride", 1), l.triple(n, "dilation", 1), l.triple(n, "padding", 0), l.triple(n, "output_padding", 0)
	groups := l.integer(n, "groups", 1)
	kernel, in := w.shape[2:], x.shape[2:]
	if groups < 1 || x.shape[1] != w.shape[0] || w.shape[0]%groups != 0 {
		fail("with a weight of %v and %d groups of %v", w.shape, groups, x.shape)
	}
	cg, k, volume := x.shape[1]/groups, elems(w.shape[1:]), elems(in)
	var cols *value // [N, groups·k, volume]
	if groups == 1 {
		// One product of all positions of all samples with the weights as they are.
		y := l.linear(l.moved(l.regrouped(x, []int{1, cg, volume}), 1), l.viewAs(w, plainNumbers([]int{cg, k})), nil, true)
		cols = l.moved(y, 1)
	} else {
		w = l.permuted(l.viewAs(w, plainNumbers([]int{groups, cg, k})), []int{0, 2, 1})
		cols = l.matmul(w, l.regrouped(x, []int{1, groups, cg, volume}), false, 0)
	}
	out := groups * k / elems(kernel) // channels
	name, _ := l.reshape(cols.name, graph.Shape{out, kernel[0], kernel[1] * kernel[2], in[0], in[1] * in[2]})
	name, _ = l.permute(name, []int{0, 1, 3, 2, 4})
	name, _ = l.reshape(name, graph.Shape{out * kernel[0] * in[0], kernel[1], kernel[2], in[1], in[2]})
	name, _ = l.permute(name, []int{0, 1, 3, 2, 4})
	name, s := l.reshape(name, graph.Shape{out, kernel[0] * in[0], kernel[1] * in[1], kernel[2] * in[2]})
	y := l.result(name, s, slices.Concat([]int{1}, s), 0, 1)
	for a := range 3 {
		size := (in[a]-1)*stride[a] - 2*pad[a] + dilation[a]*(kernel[a]-1) + extra[a] + 1
		if size < 1 || size > graph.MaxDim {
			fail("to %d elements along axis %d", size, a)
		}
		y = l.overlapped(y, 2+a, size, line{count: in[a], kernel: kernel[a], stride: stride[a], dilation: dilation[a], pad: pad[a]})
	}
	if b != nil {
		y = l.binary("add", y, perChannel(b, 5))
	}
	l.define(y)
}

// line is how windows lie along one axis.
type line struct {
	count, kernel, stride, dilation, pad int
}

// overlapped adds along an axis of kernel·count elements those of all windows that lie on each of
// size elements.
func (l *lowering) overlapped(y *value, axis, size int, at line) *value {
	var from [][]int // for each element, which elements of which windows are added
	taps := 1
	for o := range size {
		var is []int
		for i := range at.kernel {
			p := o + at.pad - i*at.dilation
			if w := p / at.stride; p >= 0 && p%at.stride == 0 && w < at.count {
				is = append(is, i*at.count+w)
			}
		}
		taps = max(taps, len(is))
		from = append(from, is)
	}
	var index []int
	var weights []float64
	for _, is := range from {
		for t := range taps {
			if t < len(is) {
				index, weights = append(index, is[t]), append(weights, 1)
			} else {
				index, weights = append(index, 0), append(weights, 0)
			}
		}
	}
	return l.resample(y, axis, index, taps, weights)
}
