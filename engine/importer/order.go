// The order of elements.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// chosen are the n greatest elements along an axis, or the least, in order, and their positions.
func (l *lowering) chosen(x *value, axis, n int, sign float64) (values, at *value) {
	if axis == x.batch {
		fail("it orders the samples of the batch")
	}
	if n < 1 || n > x.shape[axis] {
		fail("%d elements of %v", n, x.shape)
	}
	x = l.moved(l.value(x), axis)
	name, s := l.emit(&graph.Sort{Descending: sign > 0, Count: n}, nil, x.name)
	shape := slices.Clone(x.shape)
	shape[len(shape)-1] = n
	at = l.result(name, s, shape, x.batch, x.outer)
	at.whole = true
	name, s = l.emit(&graph.Gather{Axis: len(s) - 1}, nil, x.name, at.name)
	values = l.result(name, s, shape, x.batch, x.outer)
	values.whole = x.whole
	return l.back(values, axis), l.back(at, axis)
}

func topk(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	sign := 1.0
	if !l.flag(n, "largest", true) {
		sign = -1
	}
	v, at := l.chosen(x, axisOf(l.integer(n, "dim", -1), len(x.shape)), l.integer(n, "k", 1), sign)
	names := outputs(n)
	l.defineAs(names[0], v)
	l.defineAs(names[1], at)
}

func sorted(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	sign := -1.0
	if l.flag(n, "descending", false) {
		sign = 1
	}
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	v, at := l.chosen(x, axis, x.shape[axis], sign)
	names := outputs(n)
	if len(names) == 2 {
		l.defineAs(names[0], v)
	}
	l.defineAs(names[len(names)-1], at)
}
