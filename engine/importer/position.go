// Positions that depend on the data: of the greatest elements, and what is looked up or written
// at them.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var positionOperators = map[string]operator{
	"argmax": positionOf(1), "argmin": positionOf(-1), "max": extreme(1), "min": extreme(-1), "topk": topk, "sort": sorted, "argsort": sorted,
	"gather": gatherOp, "scatter": scatter, "scatter_add": scatter, "index": indexOp, "index_select": indexSelect, "index_put": indexPut, "one_hot": oneHot,
	"take_along_dim": gatherOp, "scatter_reduce": scatter, "index_copy": indexCopy, "index_fill": indexFill, "bucketize": bucketize, "searchsorted": bucketize,
}

// count is the constant 0, 1, ..., n-1.
func count(n int) *value {
	d := make([]float64, n)
	for i := range d {
		d[i] = float64(i)
	}
	return constant(d, []int{n}, true)
}

// along gives a vector the axes of a tensor of a rank, of which it lies along one.
func along(v *value, axis, rank int) *value {
	shape := slices.Repeat([]int{1}, rank)
	shape[axis] = v.shape[0]
	return v.rearranged(nil, shape, -1, 1)
}

// greatest is 1 where the greatest element along an axis is, the first of several, else 0.
func (l *lowering) greatest(x *value, axis int) *value {
	if axis == x.batch {
		fail("it looks for a sample of the batch")
	}
	x = l.unary("detach", x, 0, 0)
	most := l.unary("eq", l.binary("sub", x, l.reduce("amax", x, []int{axis}, true)), 0, 0)
	nth := l.alongLast(most, axis, func(name string) (string, graph.Shape) { return l.emit(&graph.CumSum{}, nil, name) })
	return l.binary("mul", most, l.unary("eq", nth, 1, 0))
}

// where1 is the position of the one along an axis.
func (l *lowering) where1(hot *value, axis int, keep bool) *value {
	return l.reduce("sum", l.binary("mul", hot, along(count(hot.shape[axis]), axis, len(hot.shape))), []int{axis}, keep)
}

// positionOf is argmax or argmin along an axis.
func positionOf(sign float64) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		if a, ok := arg(n, "dim"); !ok || a.Kind == pt2.None {
			fail("over all elements, of all samples; name the axis by dim")
		}
		if x.isConst() {
			fail("of a constant; compute it before the model is exported")
		}
		axis := axisOf(l.integer(n, "dim", 0), len(x.shape))
		hot := l.greatest(l.signed(l.value(x), sign), axis)
		l.define(l.where1(hot, axis, l.flag(n, "keepdim", false)))
	}
}

func (l *lowering) signed(x *value, sign float64) *value {
	if sign == 1 {
		return x
	}
	return l.unary("affine", x, sign, 0)
}

// extreme is max or min: of two tensors, of all elements of a constant, or along an axis with the
// positions.
func extreme(sign float64) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		if b := l.optional(n, "other"); b != nil {
			f := "max"
			if sign < 0 {
				f = "min"
			}
			l.define(l.binary(f, x, b))
			return
		}
		names := outputs(n)
		x = l.signed(x, sign)
		if len(names) == 1 {
			l.define(l.signed(l.reduce("amax", x, l.axes(n, "dim", len(x.shape)), false), sign))
			return
		}
		x = l.value(x)
		axis, keep := axisOf(l.integer(n, "dim", 0), len(x.shape)), l.flag(n, "keepdim", false)
		l.defineAs(names[0], l.signed(l.most(x, axis, keep), sign))
		if l.read(names[1]) {
			l.defineAs(names[1], l.where1(l.greatest(x, axis), axis, keep))
		}
	}
}

// read tells whether anything takes a tensor.
func (l *lowering) read(name string) bool {
	return len(l.survey().taken[name]) > 0
}

// most is the greatest element along an axis, whose gradient is that of the first of several, not
// divided among them as that of amax.
func (l *lowering) most(x *value, axis int, keep bool) *value {
	n := x.shape[axis]
	if axis == x.batch || n > 1024 || l.depends(n) {
		return l.reduce("sum", l.binary("mul", x, l.greatest(x, axis)), []int{axis}, keep)
	}
	axes := make([]int, 0, len(x.shape))
	for a := range x.shape {
		if a != axis {
			axes = append(axes, a)
		}
	}
	x = l.permuted(x, append(axes, axis))
	rest := x.row()
	rest = rest[:len(rest)-1]
	name, _ := l.reshape(x.name, graph.Shape{elems(rest), 1, n})
	name, s := l.emit(&graph.MaxPool2d{Kernel: graph.Pair{1, n}}, nil, name)
	v := l.result(name, s, x.shape[:len(x.shape)-1:len(x.shape)-1], x.batch, x.outer)
	if keep {
		v = l.with(v, axis)
	}
	return v
}

// hot is rows of n elements, one for each position: zeros with a one there.
func (l *lowering) hot(at *value, n int) *value {
	at = l.with(at, len(at.shape))
	if l.depends(n) {
		return l.unary("eq", l.binary("sub", at, l.upTo(n)), 0, 0)
	}
	if at.isConst() {
		return l.unary("eq", l.binary("sub", at, count(n)), 0, 0)
	}
	return l.unary("eq", l.binary("sub", l.unary("detach", at, 0, 0), count(n)), 0, 0)
}

func oneHot(l *lowering, n *pt2.Node) {
	k := l.integer(n, "num_classes", -1)
	if k < 1 {
		fail("without num_classes")
	}
	l.define(l.hot(l.tensor(n, "self"), k))
}

// moved brings an axis to the end.
func (l *lowering) moved(v *value, axis int) *value {
	var axes []int
	for a := range v.shape {
		if a != axis {
			axes = append(axes, a)
		}
	}
	return l.permuted(v, append(axes, axis))
}

// back brings the last axis to where it was.
func (l *lowering) back(v *value, axis int) *value {
	last := len(v.shape) - 1
	axes := make([]int, 0, last+1)
	for a := range last {
		axes = append(axes, a)
	}
	return l.permuted(v, slices.Insert(axes, axis, last))
}

// lookup is v[arange, at, ...], where arange numbers the samples and at are positions that depend
// on the data; nil where the indices are others.
func (l *lowering) lookup(v *value, is []*value) *value {
	if len(is) == 1 && is[0] != nil && !is[0].isConst() && v.batch < 0 {
		return l.rows(v, is[0])
	}
	if len(is) < 2 || is[0] == nil || is[1] == nil || v.batch != 0 || !v.alone() || v.isConst() || v.name == "" {
		return nil
	}
	if slices.ContainsFunc(is[2:], func(i *value) bool { return i != nil }) || !l.inOrder(is[0]) {
		return nil
	}
	at := is[1]
	if at.isConst() && l.symbol == "" && len(at.shape) > 0 && at.shape[0] == l.batch {
		at = l.toward(at, -len(at.shape), 1, 1)
	}
	if at.isConst() { // mask[arange[:, None, None, None], arange[None, None, None, :]]
		rank := max(len(is[0].shape), len(at.shape))
		for len(at.shape) < rank {
			at = l.with(at, 0)
		}
		if len(is[0].shape) < rank || at.shape[0] != 1 || elems(is[0].shape[1:]) != 1 {
			return nil
		}
		return l.regrouped(l.pick(v, 1, l.data(at)), slices.Concat(at.shape, v.shape[2:]))
	}
	if at.batch != 0 || !at.alone() || len(is[0].shape) > 1 && !slices.Equal(broadcastShape(is[0].shape[1:], at.shape[1:]), at.shape[1:]) {
		return nil
	}
	name, s := l.emit(&graph.Gather{}, nil, v.name, l.fromEnd(at, v.shape[1]).name)
	w := l.result(name, s, slices.Concat(at.shape, v.shape[2:]), 0, 1)
	w.whole = v.whole
	return w
}

// fromEnd are positions of an axis of d elements, where those below 0 are counted from its end.
func (l *lowering) fromEnd(at *value, d int) *value {
	at = l.detached(l.value(at))
	return l.binary("add", at, l.unary("affine", l.unary("lt", at, 0, 0), float64(d), 0))
}

// rows are those of a table that is the same for all samples, at positions that depend on the
// data.
func (l *lowering) rows(table, at *value) *value {
	hot := l.hot(l.fromEnd(at, table.shape[0]), table.shape[0])
	flat := l.viewAs(table, plainNumbers([]int{table.shape[0], elems(table.shape[1:])}))
	y := l.linear(hot, flat, nil, true)
	return l.regrouped(y, slices.Concat(at.shape, table.shape[1:]))
}

// inOrder tells whether v is 0, 1, 2, ... for the samples of a batch, which its first axis numbers.
func (l *lowering) inOrder(v *value) bool {
	if v.sample {
		return len(v.shape) > 0 && v.shape[0] == 1 && v.step <= 1
	}
	if !v.isConst() || l.symbol != "" || len(v.shape) < 1 || v.shape[0] != l.batch {
		return false
	}
	rest := elems(v.shape[1:])
	for i, x := range l.data(v) {
		if x != float64(i/rest) {
			return false
		}
	}
	return true
}

// gatherOp takes the elements of an axis at positions.
func gatherOp(l *lowering, n *pt2.Node) {
	v, i := l.tensor(n, "self"), l.tensor(n, "index", "indices")
	if _, ok := arg(n, "dim"); !ok {
		fail("without an axis")
	}
	if v.isConst() && !i.isConst() {
		d := l.data(v)
		if !slices.ContainsFunc(d, func(x float64) bool { return x != d[0] }) { // whatever is picked is the same
			shape := slices.Clone(i.shape)
			if i.batch >= 0 && l.symbol == "" {
				shape[i.batch] *= l.batch
			}
			l.define(constant(slices.Repeat([]float64{d[0]}, elems(shape)), shape, v.whole))
			return
		}
	}
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if v.name != "" || !i.isConst() {
		l.define(l.gather(v, i, axis))
		return
	}
	at, st := l.data(i), strides(v.shape)
	out := indices(i.shape, func() []int { s := slices.Clone(st); s[axis] = 0; return s }(), 0)
	for k := range out {
		out[k] += int(at[k]) * st[axis]
		if at[k] < 0 || int(at[k]) >= v.shape[axis] {
			fail("index %v of an axis of %d", at[k], v.shape[axis])
		}
	}
	l.define(v.rearranged(out, i.shape, -1, 1))
}

// gather takes elements at positions that depend on the data.
func (l *lowering) gather(v, at *value, axis int) *value {
	if axis == v.batch || axis == at.batch {
		fail("it picks samples")
	}
	for a, d := range at.shape { // only as much of v as the positions have
		if a != axis && a != v.batch && d < v.shape[a] {
			v = l.cut(v, a, 0, d, 1)
		}
	}
	v, at = l.together(l.moved(v, axis), l.moved(at, axis))
	last := len(v.row()) - 1
	name, s := l.emit(&graph.Gather{Axis: last}, nil, v.name, at.name)
	w := l.result(name, s, at.shape, at.batch, at.outer)
	w.whole = v.whole
	return l.back(w, axis)
}

// gatherEach takes elements of the axis behind the first, v [N·k, D, ...] at [N·k, ...].
func (l *lowering) gatherEach(v, at *value) *value {
	v = l.value(v)
	at = l.alike(at, v)
	if len(v.shape) < 2 || len(at.shape) < 1 || at.shape[0] != v.shape[0] {
		fail("positions %v for %v", at.shape, v.shape)
	}
	axis := 1
	if v.alone() {
		axis = 0
	}
	name, s := l.emit(&graph.Gather{Axis: axis}, nil, v.name, at.name)
	w := l.result(name, s, slices.Concat(at.shape, v.shape[2:]), 0, v.outer)
	w.whole = v.whole
	return w
}

// together are a tensor and positions of its last axis as graph values whose batch lies on the same
// axis.
func (l *lowering) together(v, at *value) (*value, *value) {
	whole := v.whole
	switch {
	case v.batch >= 0:
		at = l.alike(at, v)
	case at.batch >= 0:
		v = l.alike(v, at)
	default:
		v, at = l.value(v), l.value(at)
	}
	for a, d := range at.shape[:len(at.shape)-1] {
		if d != v.shape[a] {
			fail("positions %v for %v", at.shape, v.shape)
		}
	}
	if w := *v; w.whole != whole {
		w.whole = whole
		v = &w
	}
	return v, at
}

// scatter writes to an axis at positions, or adds.
func scatter(l *lowering, n *pt2.Node) {
	v, at := l.tensor(n, "self"), l.tensor(n, "index")
	src := l.optional(n, "src")
	if src == nil {
		src = l.other(n, "value")
	}
	adds, how := base(n) == "scatter_add" || base(n) == "scatter_add_", text(n, "reduce", "")
	if how == "add" || how == "sum" && l.flag(n, "include_self", true) {
		adds, how = true, ""
	}
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if axis == v.batch || axis == at.batch {
		fail("it writes to some samples of the batch")
	}
	for a, d := range at.shape {
		if a != axis && v.batch != a && at.batch != a && d != v.shape[a] {
			fail("positions %v for %v", at.shape, v.shape)
		}
	}
	if len(src.shape) != len(at.shape) { // one number
		like := l.value(at)
		src = l.binary("add", l.unary("affine", l.detached(like), 0, 0), src)
	}
	for a, d := range at.shape {
		if a != src.batch && d < src.shape[a] && at.batch != a {
			src = l.cut(src, a, 0, d, 1)
		}
	}
	size := v.shape[axis]
	if how != "" && at.batch >= 0 {
		v = l.alike(v, at)
	}
	if src.batch < 0 && at.batch < 0 && v.batch >= 0 { // the same to every sample
		src = l.alike(src, v)
	}
	src, at = l.together(l.moved(src, axis), l.moved(at, axis))
	if how != "" {
		l.define(l.back(l.scatterReduced(how, l.alike(l.moved(v, axis), at), src, at, l.flag(n, "include_self", true)), axis))
		return
	}
	put := l.scattered(src, at, size, !adds, axis)
	if !adds && !l.isZero(v) {
		ones := l.unary("affine", l.detached(at), 0, 1)
		v = l.binary("mul", v, l.unary("eq", l.scattered(ones, at, size, true, axis), 0, 0))
	}
	if !l.isZero(v) || len(v.shape) != len(put.shape) {
		put = l.binary("add", v, put)
	}
	l.define(put)
}

// scatterReduced is what comes of the elements of src that meet at a position of the last axis, and
// of what was there in v, if that counts. Where nothing comes, v stays.
func (l *lowering) scatterReduced(how string, v, src, at *value, counts bool) *value {
	last := len(v.shape) - 1
	n := l.scattered(l.unary("affine", l.detached(at), 0, 1), at, v.shape[last], false, last)
	hit, own := l.unary("ne", n, 0, 0), 1.0
	before := func(nothing float64) *value {
		if counts {
			return v
		}
		own = 0
		return l.where(hit, constant([]float64{nothing}, []int{}, false), v)
	}
	switch how {
	case "sum", "mean":
		sum := l.binary("add", before(0), l.scattered(src, at, v.shape[last], false, last))
		if how == "mean" {
			sum = l.binary("div", sum, l.unary("clamp", l.unary("affine", n, 1, own), 1, math.MaxFloat32))
		}
		return sum
	case "amax", "amin":
		sign := map[string]float64{"amax": 1, "amin": -1}[how]
		none := -sign * math.Inf(1)
		each := l.where(l.hot(at, v.shape[last]), l.with(src, last+1), constant([]float64{none}, []int{}, false)) // [..., of src, of v]
		all := l.cat([]*value{each, l.with(before(none), last)}, last)
		return l.signed(l.reduce("amax", l.signed(all, sign), []int{last}, false), sign)
	}
	fail("with reduce=%q", how)
	return nil
}

// scattered puts the elements of x to their positions on an axis of zeros.
func (l *lowering) scattered(x, at *value, size int, last bool, axis int) *value {
	name, s := l.emit(&graph.Scatter{Axis: len(x.row()) - 1, Size: size, Last: last}, nil, x.name, at.name)
	shape := append(slices.Clone(x.shape[:len(x.shape)-1]), size)
	return l.back(l.result(name, s, shape, x.batch, x.outer), axis)
}

// isZero tells whether v is zeros.
func (l *lowering) isZero(v *value) bool {
	return v.isConst() && !slices.ContainsFunc(l.data(v), func(x float64) bool { return x != 0 })
}

// indexCopy sets the elements of an axis at constant positions to those of another tensor.
func indexCopy(l *lowering, n *pt2.Node) {
	v, at, from := l.tensor(n, "self"), l.tensor(n, "index"), l.tensor(n, "source")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if !at.isConst() || axis == v.batch || axis == from.batch {
		fail("with an index that depends on the data, or of the batch")
	}
	order := count(v.shape[axis])
	for k, i := range l.data(at) {
		order.buf.data[int(i)] = float64(v.shape[axis] + k)
	}
	l.define(l.pick(l.cat([]*value{v, from}, axis), axis, order.buf.data))
}

func indexFill(l *lowering, n *pt2.Node) {
	v, at, with := l.tensor(n, "self"), l.tensor(n, "index"), l.other(n, "value")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if !at.isConst() || axis == v.batch {
		fail("with an index that depends on the data, or of the batch")
	}
	mask := make([]float64, v.shape[axis])
	for _, i := range l.data(at) {
		mask[axisOf(int(i), len(mask))] = 1
	}
	l.define(l.where(along(constant(mask, []int{len(mask)}, true), axis, len(v.shape)), with, v))
}

// bucketize counts the bounds below each element, or not above it.
func bucketize(l *lowering, n *pt2.Node) {
	x, bounds := l.other(n, "self"), l.tensor(n, "boundaries", "sorted_sequence")
	if bounds.batch >= 0 || len(bounds.shape) != 1 {
		fail("with bounds that differ between samples, or of several axes")
	}
	f := "gt"
	if l.flag(n, "right", false) || text(n, "side", "left") == "right" {
		f = "ge"
	}
	above := l.unary(f, l.binary("sub", l.detached(l.with(x, len(x.shape))), bounds), 0, 0)
	l.define(l.reduce("sum", above, []int{len(x.shape)}, false))
}

// indexPut is x[mask] = number, or x[i, ...] = values with constant i on one axis.
func indexPut(l *lowering, n *pt2.Node) {
	v, is, values := l.tensor(n, "self"), l.tensors(n, "indices"), l.tensor(n, "values")
	if l.flag(n, "accumulate", false) {
		fail("with accumulate")
	}
	axis := slices.IndexFunc(is, func(i *value) bool { return i != nil })
	if axis < 0 || slices.ContainsFunc(is[axis+1:], func(i *value) bool { return i != nil }) {
		fail("with indices on several axes; use torch.where")
	}
	at := is[axis]
	if l.graph.Tensors[argName(n, "indices", axis)].DType == pt2.Boolean {
		if axis != 0 || elems(values.shape) != 1 || values.batch >= 0 {
			fail("with a mask, and values that are not one number; use torch.where")
		}
		for len(at.shape) < len(v.shape) {
			at = l.with(at, len(at.shape))
		}
		l.define(l.where(at, l.viewAs(values, nil), v))
		return
	}
	if !at.isConst() || len(at.shape) != 1 || axis == v.batch {
		fail("with an index that depends on the data; use torch.where")
	}
	shape := slices.Clone(v.shape)
	shape[axis] = at.shape[0]
	if v.batch < 0 && values.batch >= 0 || values.batch >= 0 && values.batch-len(values.shape) != v.batch-len(v.shape) {
		fail("it writes what depends on the data to what does not, or samples to another axis")
	}
	wide := plainNumbers(shape)
	if values.batch >= 0 && l.symbol == "" {
		wide[v.batch].n *= l.batch
	}
	values = l.expand(values, wide)
	from := make([]float64, v.shape[axis])
	for i := range from {
		from[i] = float64(i)
	}
	for k, i := range l.data(at) {
		if i < 0 {
			i += float64(len(from))
		}
		if i < 0 || int(i) >= len(from) {
			fail("index %v of an axis of %d", i, len(from))
		}
		from[int(i)] = float64(len(from) + k)
	}
	l.define(l.pick(l.cat([]*value{v, values}, axis), axis, from))
}
