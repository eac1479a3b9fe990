// Max pooling that tells where the greatest elements were, and what puts elements back there.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var unpoolOperators = map[string]operator{
	"max_pool2d_with_indices": poolWhere(2), "max_pool1d_with_indices": poolWhere(1), "max_unpool2d": unpool(2), "max_unpool3d": unpool(3),
}

// poolWhere is a max pool with the positions of the elements in their image.
func poolWhere(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		if len(x.shape) != dims+2 {
			fail("of %v", x.shape)
		}
		outs := outputs(n)
		if len(outs) < 2 || !l.read(outs[1]) {
			pool(true)(l, n)
			return
		}
		if l.flag(n, "ceil_mode", false) {
			fail("with positions and ceil_mode")
		}
		kernel, pad := l.pair(n, "kernel_size", 1), l.pair(n, "padding", 0)
		at := windows{kernel: kernel, stride: kernel, dilation: l.pair(n, "dilation", 1)}
		if len(l.plain(n, "stride")) > 0 {
			at.stride = l.pair(n, "stride", 1)
		}
		if dims == 1 {
			at.kernel[0], at.stride[0], at.dilation[0], pad[0] = 1, 1, 1, 0
		}
		var where *value
		y := l.planes(x, func(x *value) *value {
			if dims == 1 {
				x = l.with(x, 2)
			}
			v, p := l.poolWhere(x, at, pad)
			if dims == 1 {
				v, p = l.without(v, 2), l.without(p, 2)
			}
			where = p
			return v
		})
		l.defineAs(outs[0], y)
		l.defineAs(outs[1], l.shapedAs(where, y))
	}
}

// shapedAs is v with the axes and the batch of another value with as many elements a sample.
func (l *lowering) shapedAs(v, like *value) *value {
	w := &value{shape: like.shape, batch: like.batch, outer: like.outer, whole: v.whole}
	w.name, _ = l.reshape(v.name, w.row())
	return w
}

// poolWhere pools x [N, C, H, W] and tells the positions in H·W.
func (l *lowering) poolWhere(x *value, at windows, pad [2]int) (y, where *value) {
	c, wide := x.shape[1], x.shape[3]
	if pad != [2]int{} {
		name, s := l.emit(&graph.Pad{Before: []int{0, pad[0], pad[1]}, After: []int{0, pad[0], pad[1]}, Value: -math.MaxFloat32}, nil, x.name)
		x = l.result(name, s, slices.Concat([]int{1}, s), 0, 1)
	}
	cols, out := l.unfold(x, at)
	taps, count := elems(at.kernel[:]), out[0]*out[1]
	cols = l.regrouped(cols, []int{1, c, taps, count})
	hot := l.greatest(cols, 2)
	steps, first := make([]float64, taps), make([]float64, count)
	for k := range steps {
		steps[k] = float64(k/at.kernel[1]*at.dilation[0]*wide + k%at.kernel[1]*at.dilation[1])
	}
	for k := range first {
		first[k] = float64((k/out[1]*at.stride[0]-pad[0])*wide + k%out[1]*at.stride[1] - pad[1])
	}
	y = l.reduce("sum", l.binary("mul", cols, hot), []int{2}, false)
	where = l.reduce("sum", l.binary("mul", hot, constant(steps, []int{taps, 1}, true)), []int{2}, false)
	where = l.binary("add", where, constant(first, []int{count}, true))
	where.whole = true
	shape := []int{1, c, out[0], out[1]}
	return l.regrouped(y, shape), l.regrouped(where, shape)
}

// unpool puts the elements of x [N, C, ...] to their positions in an image of zeros.
func unpool(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		x, at := l.leading(l.tensor(n, "self")), l.leading(l.tensor(n, "indices"))
		size := l.plain(n, "output_size")
		if len(x.shape) != dims+2 || len(size) < dims || !slices.Equal(at.shape, x.shape) {
			fail("of %v at %v to %v", x.shape, at.shape, size)
		}
		size = size[len(size)-dims:]
		c, count := x.shape[1], elems(x.shape[2:])
		x, at = l.regrouped(x, []int{1, c, count}), l.regrouped(at, []int{1, c, count})
		y := l.scattered(x, at, elems(size), true, 2)
		l.define(l.regrouped(y, slices.Concat([]int{1, c}, size)))
	}
}
