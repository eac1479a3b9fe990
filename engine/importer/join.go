// Operators that put tensors side by side, surround them, or move their elements.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

func cat(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	vs = slices.DeleteFunc(vs, func(v *value) bool { return len(v.shape) == 1 && v.shape[0] == 0 })
	if len(vs) == 0 {
		fail("of nothing")
	}
	axis := axisOf(l.integer(n, "dim", 0), len(vs[0].shape))
	if some := slices.DeleteFunc(slices.Clone(vs), func(v *value) bool { return v.shape[axis] == 0 }); len(some) > 0 {
		vs = some
	}
	l.define(l.cat(vs, axis))
}

// joined is hstack, vstack or dstack of tensors that have the axis.
func joined(axis int) operator {
	return func(l *lowering, n *pt2.Node) {
		vs := l.tensors(n, "tensors")
		for i, v := range vs {
			for axis == 2 && len(v.shape) < 3 {
				v = l.with(v, len(v.shape))
			}
			if len(v.shape) <= axis {
				fail("of %v", v.shape)
			}
			vs[i] = v
		}
		l.define(l.cat(vs, axis))
	}
}

// diagEmbed puts the last axis on the diagonal of a matrix of zeros.
func diagEmbed(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	last := len(v.shape) - 1
	if l.integer(n, "offset", 0) != 0 || l.integer(n, "dim1", -2) != -2 || l.integer(n, "dim2", -1) != -1 || last == v.batch {
		fail("with an offset, other axes, or of the batch")
	}
	k := v.shape[last]
	d := make([]float64, k*k)
	for i := range k {
		d[i*k+i] = 1
	}
	l.define(l.binary("mul", l.with(v, last+1), constant(d, []int{k, k}, false)))
}

// diag is the diagonal of a matrix, or the matrix with a diagonal.
func diag(l *lowering, n *pt2.Node) {
	if len(l.tensor(n, "self").shape) == 1 && l.integer(n, "diagonal", 0) == 0 {
		diagEmbed(l, n)
		return
	}
	if l.integer(n, "diagonal", 0) != 0 {
		fail("of another diagonal than the main one")
	}
	diagonal(l, n)
}

func broadcastTensors(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	for i, name := range outputs(n) {
		sizes, _ := l.meta(name)
		l.defineAs(name, l.expand(vs[i], sizes))
	}
}

func meshgrid(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	for i, name := range outputs(n) {
		if vs[i].batch >= 0 {
			fail("of a tensor that depends on the data")
		}
		at := i
		if text(n, "indexing", "ij") == "xy" && i < 2 {
			at = 1 - i
		}
		sizes, _ := l.meta(name)
		l.defineAs(name, l.expand(along(vs[i], at, len(vs)), sizes))
	}
}

// cat puts values of equal rank side by side.
func (l *lowering) cat(vs []*value, axis int) *value {
	var like *value
	named, params := false, false
	for _, v := range vs {
		named = named || v.name != ""
		params = params || v.param != ""
		if v.batch >= 0 && like == nil {
			like = v
		}
	}
	if like == nil && !named && !params {
		return l.catConstants(vs, axis)
	}
	if like == nil {
		like = &value{batch: -1}
	}
	if axis == like.batch {
		return l.catBatches(vs, like)
	}
	var parts []string
	shape := slices.Clone(vs[0].shape)
	shape[axis] = 0
	op := &graph.Concat{Axis: axis}
	if like.batch >= 0 {
		op.Axis = like.axis(axis)
	}
	for _, v := range vs {
		w := l.alike(v, like)
		parts = append(parts, w.name)
		shape[axis] += w.shape[axis]
		if like.batch >= 0 {
			shape[like.batch] = like.shape[like.batch]
		}
	}
	if len(parts) == 1 {
		return vs[0]
	}
	name, s := l.emit(op, nil, parts...)
	w := l.result(name, s, shape, like.batch, max(like.outer, 1))
	w.whole = vs[0].whole
	return w
}

// catBatches puts batches one behind the other: of each sample, what was in them.
func (l *lowering) catBatches(vs []*value, like *value) *value {
	inner := like.shape[like.batch] / like.outer
	w := &value{shape: slices.Clone(like.shape), batch: like.batch, whole: like.whole}
	w.shape[w.batch] = 0
	var parts []string
	for _, v := range vs {
		if v.batch != like.batch || len(v.shape) != len(like.shape) || v.shape[v.batch] != v.outer*inner {
			fail("it joins batches %v and %v", like.shape, v.shape)
		}
		name, _ := l.reshape(v.name, v.shape)
		parts = append(parts, name)
		w.shape[w.batch] += v.shape[v.batch]
		w.outer += v.outer
	}
	name, s := l.emit(&graph.Concat{Axis: w.batch}, nil, parts...)
	if !slices.Equal(s, w.shape) {
		fail("it joins batches of which the rest differs: %v", w.shape)
	}
	w.name, _ = l.reshape(name, w.row())
	return w
}

// alike is v as a graph value whose batch axis lies where that of like does.
func (l *lowering) alike(v, like *value) *value {
	if like.batch < 0 {
		return l.value(v)
	}
	if v.batch >= 0 {
		if v.batch != like.batch || v.outer != like.outer || v.shape[v.batch] != like.shape[like.batch] {
			fail("%v and %v have their batch on different axes", v.shape, like.shape)
		}
		return v
	}
	v = l.toward(v, like.batch-len(v.shape), like.shape[like.batch], like.outer)
	w := *l.value(v)
	w.batch, w.outer = like.batch, like.outer
	if k := like.shape[like.batch]; w.shape[w.batch] != k {
		w.shape = slices.Clone(w.shape)
		w.shape[w.batch] = k
		wide := w.row()
		w.name, _ = l.emit(&graph.Expand{Shape: wide}, nil, w.name)
		return &w
	}
	w.name, _ = l.reshape(w.name, w.row())
	return &w
}

func (l *lowering) catConstants(vs []*value, axis int) *value {
	shape := slices.Clone(vs[0].shape)
	shape[axis] = 0
	for _, v := range vs {
		shape[axis] += v.shape[axis]
	}
	out := make([]float64, elems(shape))
	st := strides(shape)
	first := 0
	for _, v := range vs {
		d := l.data(v)
		for i, k := range indices(v.shape, st, first) {
			out[k] = d[i]
		}
		first += v.shape[axis] * st[axis]
	}
	return constant(out, shape, vs[0].whole)
}

func stack(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	axis := l.integer(n, "dim", 0)
	if axis < 0 {
		axis += len(vs[0].shape) + 1
	}
	for i, v := range vs {
		vs[i] = l.with(v, axis)
	}
	l.define(l.cat(vs, axis))
}

func padOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	pad := l.plain(n, "pad")
	if m := text(n, "mode", "constant"); m != "constant" {
		l.define(l.padAround(v, pad, m))
		return
	}
	rank := len(v.shape)
	before, after := make([]int, rank), make([]int, rank)
	for i := 0; i+1 < len(pad); i += 2 {
		before[rank-1-i/2], after[rank-1-i/2] = pad[i], pad[i+1]
	}
	for a := range rank { // negative ones cut away
		lo, hi := max(-before[a], 0), max(-after[a], 0)
		if lo+hi > 0 {
			v = l.cut(v, a, lo, v.shape[a]-lo-hi, 1)
		}
		before[a], after[a] = max(before[a], 0), max(after[a], 0)
	}
	value := l.scalar(n, "value", 0)
	shape := slices.Clone(v.shape)
	none := true
	for a := range rank {
		none = none && before[a]+after[a] == 0
		shape[a] += before[a] + after[a]
		if a == v.batch && before[a]+after[a] != 0 {
			fail("it adds samples")
		}
	}
	if none {
		l.define(v)
		return
	}
	if v.isConst() {
		out := slices.Repeat([]float64{value}, elems(shape))
		st, first := strides(shape), 0
		for a, b := range before {
			first += b * st[a]
		}
		d := l.data(v)
		for i, k := range indices(v.shape, st, first) {
			out[k] = d[i]
		}
		l.define(constant(out, shape, v.whole))
		return
	}
	v = l.value(v)
	op := &graph.Pad{Value: float32(value)}
	for a := range rank {
		if v.axis(a) >= 0 {
			op.Before, op.After = append(op.Before, before[a]), append(op.After, after[a])
		}
	}
	name, s := l.emit(op, nil, v.name)
	l.define(l.result(name, s, shape, v.batch, v.outer))
}

func roll(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	shifts, dims := l.plain(n, "shifts"), l.plain(n, "dims")
	if len(dims) == 0 && len(shifts) == 1 && v.batch < 0 { // of all elements in a row
		flat := l.viewAs(v, plainNumbers([]int{elems(v.shape)}))
		l.define(l.viewAs(l.rolled(flat, 0, shifts[0]), plainNumbers(v.shape)))
		return
	}
	if len(dims) != len(shifts) {
		fail("without axes")
	}
	for i, a := range dims {
		v = l.rolled(v, axisOf(a, len(v.shape)), shifts[i])
	}
	l.define(v)
}

// rolled moves the elements of an axis, the last ones to the front.
func (l *lowering) rolled(v *value, axis, by int) *value {
	if axis == v.batch {
		fail("it moves samples")
	}
	d := v.shape[axis]
	s := ((by % d) + d) % d
	if s == 0 {
		return v
	}
	return l.cat([]*value{l.cut(v, axis, d-s, s, 1), l.cut(v, axis, 0, d-s, 1)}, axis)
}

func flip(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	for _, a := range l.axes(n, "dims", len(v.shape)) {
		back := make([]float64, v.shape[a])
		for i := range back {
			back[i] = float64(len(back) - 1 - i)
		}
		v = l.pick(v, a, back)
	}
	l.define(v)
}

func channelShuffle(l *lowering, n *pt2.Node) {
	v := l.leading(l.tensor(n, "self"))
	g := l.integer(n, "groups", 1)
	c, rest := v.shape[1], elems(v.shape[2:])
	name, _ := l.reshape(v.name, graph.Shape{g, c / g, rest})
	name, _ = l.permute(name, []int{1, 0, 2})
	name, s := l.reshape(name, v.row())
	l.define(l.result(name, s, v.shape, 0, 1))
}

func pixelShuffle(l *lowering, n *pt2.Node) {
	v := l.leading(l.tensor(n, "self"))
	r := l.integer(n, "upscale_factor", 1)
	if len(v.shape) != 4 || r < 1 || v.shape[1]%(r*r) != 0 {
		fail("%v by %d", v.shape, r)
	}
	c, h, w := v.shape[1]/(r*r), v.shape[2], v.shape[3]
	name, _ := l.reshape(v.name, graph.Shape{c, r, r, h, w})
	name, _ = l.permute(name, []int{0, 3, 1, 4, 2})
	name, s := l.reshape(name, graph.Shape{c, h * r, w * r})
	l.define(l.result(name, s, []int{1, c, h * r, w * r}, 0, 1))
}
