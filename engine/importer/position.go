// Positions that depend on the data: argmax, and what is looked up at them. The engine has no
// indices that depend on the data; a position is a row of zeros with a one, and looking up is the
// sum of what that row leaves.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// argmaxOp is the position of the greatest element along an axis, the first of several.
func argmaxOp(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	if a, ok := arg(n, "dim"); !ok || a.Kind == pt2.None {
		fail("over all elements, of all samples; name the axis by dim")
	}
	if x.isConst() {
		fail("of a constant; compute it before the model is exported")
	}
	x = l.value(x)
	axis := axisOf(l.integer(n, "dim", 0), len(x.shape))
	keep := l.flag(n, "keepdim", false)
	greatest := l.unary("eq", l.binary("sub", x, l.reduce("amax", x, []int{axis}, true)), 0, 0)
	count := l.alongLast(greatest, axis, func(name string) (string, graph.Shape) { return l.emit(&graph.CumSum{}, nil, name) })
	hot := l.binary("mul", greatest, l.unary("eq", count, 1, 0))
	numbers := make([]float64, x.shape[axis])
	for i := range numbers {
		numbers[i] = float64(i)
	}
	shape := slices.Repeat([]int{1}, len(x.shape))
	shape[axis] = len(numbers)
	at := l.reduce("sum", l.binary("mul", hot, constant(numbers, shape, true)), []int{axis}, keep)
	at.hot, at.hotAxis = hot, axis
	l.define(at)
}

// lookup is v[arange, at, ...], where arange numbers the samples and at is a position that
// depends on the data, one a sample; nil where the indices are others.
func (l *lowering) lookup(v *value, is []*value) *value {
	if len(is) < 2 || is[0] == nil || is[1] == nil || is[1].hot == nil || v.batch != 0 || !v.alone() || v.isConst() || v.name == "" {
		return nil
	}
	if slices.ContainsFunc(is[2:], func(i *value) bool { return i != nil }) || !l.inOrder(is[0]) {
		return nil
	}
	hot := is[1].hot
	if len(hot.shape) != 2 || hot.batch != 0 || is[1].hotAxis != 1 || hot.shape[1] != v.shape[1] {
		return nil
	}
	shape := append(slices.Clone(hot.shape), slices.Repeat([]int{1}, len(v.shape)-2)...)
	return l.reduce("sum", l.binary("mul", v, l.regrouped(hot, shape)), []int{1}, false)
}

// inOrder tells whether v is 0, 1, 2, ... for the samples of a batch.
func (l *lowering) inOrder(v *value) bool {
	if v.sample {
		return len(v.shape) == 1
	}
	if !v.isConst() || l.symbol != "" || len(v.shape) != 1 || v.shape[0] != l.batch {
		return false
	}
	for i, x := range l.data(v) {
		if x != float64(i) {
			return false
		}
	}
	return true
}
