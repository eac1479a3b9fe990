// Operators that take some elements of a tensor.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// cut takes count elements of an axis from start on.
func (l *lowering) cut(v *value, axis, start, count, step int) *value {
	if axis == v.batch {
		if start == 0 && step == 1 && (count == v.shape[axis] || l.symbol == "" && count == v.shape[axis]*l.batch) {
			return v
		}
		fail("it takes some samples of the batch")
	}
	shape := slices.Clone(v.shape)
	if start == 0 && step == 1 && count == shape[axis] {
		return v
	}
	if count == 0 && v.batch != axis { // nothing; cat leaves it out
		shape[axis] = 0
		return constant(nil, shape, v.whole)
	}
	if count < 1 || start < 0 || start+(count-1)*step >= shape[axis] {
		fail("elements %d to %d of an axis of %d", start, start+count*step, shape[axis])
	}
	shape[axis] = count
	if v.name == "" {
		s := strides(v.shape)
		first := start * s[axis]
		s[axis] *= step
		return v.rearranged(indices(shape, s, first), shape, v.batch, v.outer)
	}
	op := &graph.Slice{Axis: v.axis(axis), Start: start, Count: count}
	if step != 1 {
		op.Step = step
	}
	name, s := l.emit(op, nil, v.name)
	w := l.result(name, s, shape, v.batch, v.outer)
	w.view, w.whole = true, v.whole
	return w
}

// cutBatches takes count elements of a sample on the batch axis from start on, where they are those of
// whole batches that stand one behind the other.
func (l *lowering) cutBatches(v *value, start, count int) *value {
	d := v.shape[v.batch]
	if start == 0 && count == d {
		return v
	}
	inner := d / max(v.outer, 1)
	if v.name == "" || start < 0 || count < 1 || start+count > d || start%inner != 0 || count%inner != 0 {
		fail("it takes some samples of the batch")
	}
	w := &value{shape: slices.Clone(v.shape), batch: v.batch, outer: count / inner, whole: v.whole, view: true}
	w.shape[w.batch] = count
	name, _ := l.reshape(v.name, v.shape)
	name, _ = l.emit(&graph.Slice{Axis: v.batch, Start: start, Count: count}, nil, name)
	w.name, _ = l.reshape(name, w.row())
	return w
}

func sliceOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axis, start, count, step := l.sliced(n, v)
	if axis == v.batch && step == 1 {
		l.define(l.cutBatches(v, start, count))
		return
	}
	l.define(l.cut(v, axis, start, count, step))
}

// sliced are the elements of v that a slice takes; on the batch axis, of a sample.
func (l *lowering) sliced(n *pt2.Node, v *value) (axis, start, count, step int) {
	axis = axisOf(l.integer(n, "dim", 0), len(v.shape))
	d := v.shape[axis]
	bound := func(name string, def int) int {
		a, ok := arg(n, name)
		if !ok || len(a.Ints) == 0 {
			return def
		}
		m := l.number(a.Ints[0])
		switch {
		case axis != v.batch && m.batched:
			return def
		case axis != v.batch:
		case l.symbol != "" && !m.batched && m.n != 0 && m.n < math.MaxInt32, l.symbol == "" && m.n < d*l.batch && m.n%l.batch != 0:
			fail("it takes some samples of the batch")
		case l.symbol == "":
			m.n /= l.batch
		}
		if m.n < 0 {
			m.n += d
		}
		return min(max(m.n, 0), d)
	}
	start, step = bound("start", 0), l.integer(n, "step", 1)
	return axis, start, max((bound("end", d)-start+step-1)/step, 0), step
}

func narrowOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	l.define(l.cut(v, axis, l.integer(n, "start", 0), l.integer(n, "length", 1), 1))
}

// without drops an axis of size 1.
func (l *lowering) without(v *value, axis int) *value {
	w := *v
	w.shape = slices.Delete(slices.Clone(v.shape), axis, axis+1)
	w.view, w.archived = true, ""
	if v.batch > axis {
		w.batch--
	}
	if v.name != "" {
		w.name, _ = l.reshape(v.name, w.row())
	}
	return &w
}

func selectOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if axis == v.batch {
		fail("it takes one sample of the batch")
	}
	i := l.integer(n, "index", 0)
	if i < 0 {
		i += v.shape[axis]
	}
	l.define(l.without(l.cut(v, axis, i, 1, 1), axis))
}

// outputs are the names of the tensors that a node gives, in one list or several.
func outputs(n *pt2.Node) []string {
	var names []string
	for _, o := range n.Outputs {
		names = append(names, o.Names...)
	}
	return names
}

func splitOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	dim := map[string]int{"hsplit": 1}[base(n)]
	if len(v.shape) == 1 {
		dim = 0
	}
	axis := axisOf(l.integer(n, "dim", dim), len(v.shape))
	at := 0
	for _, name := range outputs(n) {
		sizes, _ := l.meta(name)
		count := sizes[axis].n
		if axis != v.batch {
			l.defineAs(name, l.cut(v, axis, at, count, 1))
		} else {
			if l.symbol == "" {
				if count%l.batch != 0 {
					fail("it takes some samples of the batch")
				}
				count /= l.batch
			}
			l.defineAs(name, l.cutBatches(v, at, count))
		}
		at += count
	}
}

func unbind(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if axis == v.batch {
		fail("it takes single samples of the batch")
	}
	for i, name := range outputs(n) {
		l.defineAs(name, l.without(l.cut(v, axis, i, 1, 1), axis))
	}
}

// diagonal takes the elements whose two numbers are equal.
func diagonal(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	a, b := axisOf(l.integer(n, "dim1", 0), len(v.shape)), axisOf(l.integer(n, "dim2", 1), len(v.shape))
	if l.integer(n, "offset", 0) != 0 {
		fail("with an offset")
	}
	l.define(l.diagonal(v, a, b))
}

// diagonal is the last axis of the result.
func (l *lowering) diagonal(v *value, a, b int) *value {
	if a == v.batch || b == v.batch || a == b {
		fail("of the batch")
	}
	v = l.moved(v, a)
	if b > a {
		b--
	}
	v = l.moved(v, b)
	last := len(v.shape) - 1
	r, c := v.shape[last-1], v.shape[last]
	if l.depends(r) && r == c {
		return l.reduce("sum", l.masked(l.value(v), l.onDiagonal("eq", r, c, 0)), []int{last}, false)
	}
	at := make([]float64, min(r, c))
	for i := range at {
		at[i] = float64(i*c + i)
	}
	v = l.regrouped(v, slices.Concat(v.shape[:last-1], []int{r * c}))
	return l.pick(v, last-1, at)
}
