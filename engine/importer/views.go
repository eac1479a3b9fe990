// Operators that only rearrange elements.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var viewOperators = map[string]operator{
	"view": reshapeOp, "reshape": reshapeOp, "_unsafe_view": reshapeOp, "flatten": reshapeOp, "unflatten": reshapeOp,
	"squeeze": reshapeOp, "unsqueeze": reshapeOp, "view_as": reshapeOp, "reshape_as": reshapeOp,
	"contiguous": same, "clone": same, "detach": detach, "alias": same, "lift_fresh_copy": same, "lift_fresh": same, "positive": same,
	"to": cast, "_to_copy": cast, "type_as": cast, "float": cast, "long": cast, "bool": cast, "copy": copyOp,
	"permute": permuteOp, "transpose": permuteOp, "t": permuteOp, "swapaxes": permuteOp, "mT": lastTwo, "mH": lastTwo, "numpy_T": permuteOp, "movedim": movedim,
	"expand": expandOp, "expand_as": expandOp, "broadcast_to": expandOp, "repeat": repeatOp, "repeat_interleave": repeatInterleave,
	"slice": sliceOp, "narrow": narrowOp, "select": selectOp, "split": splitOp, "split_with_sizes": splitOp, "chunk": splitOp, "unbind": unbind, "tensor_split": splitOp, "hsplit": splitOp, "vsplit": splitOp,
	"hstack": joined(1), "vstack": joined(0), "dstack": joined(2), "tile": repeatOp, "diagonal": diagonal, "broadcast_tensors": broadcastTensors, "meshgrid": meshgrid,
	"cat": cat, "concat": cat, "stack": stack, "pad": padOp, "constant_pad_nd": padOp, "roll": roll, "flip": flip,
	"diag_embed": diagEmbed, "channel_shuffle": channelShuffle, "pixel_shuffle": pixelShuffle,
}

// reshapeOp gives a tensor the shape that the archive tells.
func reshapeOp(l *lowering, n *pt2.Node) {
	sizes, _ := l.meta(n.Outputs[0].Names[0])
	l.define(l.viewAs(l.tensor(n, "self"), sizes))
}

// viewAs gives v another shape with the same elements in the same order. The batch stays
// where it is: as many elements of a sample before it as before.
func (l *lowering) viewAs(v *value, sizes []number) *value {
	shape := make([]int, len(sizes))
	for i, s := range sizes {
		shape[i] = s.n
	}
	if v.batch < 0 {
		w := *v
		if w.shape, w.view, w.archived = shape, true, ""; w.name != "" {
			w.name, _ = l.reshape(w.name, w.row())
		}
		if elems(shape) != elems(v.shape) {
			fail("%v cannot be seen as %v", v.shape, shape)
		}
		return &w
	}
	before, q := v.before(), 1
	for i, s := range sizes {
		held := s.batched
		if l.symbol == "" {
			held = s.n%l.batch == 0 && before%q == 0 && s.n/l.batch%(before/q) == 0
		}
		if !held {
			q *= s.n
			continue
		}
		if q == 0 || before%q != 0 || shape[i]%(before/q) != 0 && l.symbol != "" {
			fail("%v seen as %v would mix samples", v.shape, shape)
		}
		if l.symbol == "" {
			shape[i] /= l.batch
		}
		if elems(shape) != elems(v.shape) {
			fail("%v cannot be seen as %v", v.shape, shape)
		}
		w := &value{shape: shape, batch: i, outer: before / q, whole: v.whole, view: true}
		w.name, _ = l.reshape(v.name, w.row())
		return w
	}
	fail("%v seen as %v would mix samples", v.shape, shape)
	return nil
}

// same passes its input on.
func same(l *lowering, n *pt2.Node) {
	v := *l.tensor(n, "self")
	v.archived = ""
	if v.isConst() { // a copy has elements of its own
		v = *constant(slices.Clone(l.data(&v)), v.shape, v.whole)
		v.batch = -1
	}
	l.define(&v)
}

func detach(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	if v.name != "" || v.param != "" {
		l.define(l.detached(v))
		return
	}
	same(l, n)
}

// detached is v without a gradient. Integers and constants have none.
func (l *lowering) detached(v *value) *value {
	if v.bad || v.whole || v.name == "" && v.param == "" {
		return v
	}
	return l.unary("detach", l.value(v), 0, 0)
}

// cast changes the type of elements. Numbers are float32 here: exact for integers below
// 2^24.
func cast(l *lowering, n *pt2.Node) {
	v := *l.tensor(n, "self")
	m := l.graph.Tensors[n.Outputs[0].Names[0]]
	v.archived = ""
	switch {
	case m.DType == pt2.Float16 || m.DType == pt2.BFloat16:
		fail("%s is not supported; export a model in float32", m.DType)
	case v.isConst():
		d := slices.Clone(l.data(&v))
		whole := !m.DType.Floating()
		for i, x := range d {
			switch {
			case m.DType == pt2.Boolean:
				d[i] = truth(x != 0)
			case whole:
				d[i] = trunc(x)
			}
		}
		v = *constant(d, v.shape, whole)
	case !m.DType.Floating() && !v.whole:
		if m.DType == pt2.Boolean {
			v = *l.unary("ne", &v, 0, 0)
		} else {
			v = *l.unary("trunc", &v, 0, 0)
		}
	case m.DType == pt2.Boolean:
		v = *l.unary("ne", &v, 0, 0)
	}
	l.define(&v)
}

// copyOp is the source of a copy, expanded.
func copyOp(l *lowering, n *pt2.Node) {
	src := l.tensor(n, "src")
	sizes, _ := l.meta(n.Outputs[0].Names[0])
	l.define(l.expand(src, sizes))
}

func permuteOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	l.define(l.permuted(v, l.permutation(n, len(v.shape))))
}

// permutation is the order of axes that permute and its kin give.
func (l *lowering) permutation(n *pt2.Node, rank int) []int {
	if _, ok := arg(n, "dims"); ok {
		return l.axes(n, "dims", rank)
	}
	axes := l.axes(n, "", rank)
	if rank >= 2 {
		a, b := 0, 1
		if _, ok := arg(n, "dim0"); ok {
			a, b = axisOf(l.integer(n, "dim0", 0), rank), axisOf(l.integer(n, "dim1", 1), rank)
		} else if _, ok := arg(n, "axis0"); ok {
			a, b = axisOf(l.integer(n, "axis0", 0), rank), axisOf(l.integer(n, "axis1", 1), rank)
		}
		axes[a], axes[b] = axes[b], axes[a]
	}
	return axes
}

// permuted reorders the axes of v.
func (l *lowering) permuted(v *value, axes []int) *value {
	shape := make([]int, len(axes))
	for i, a := range axes {
		shape[i] = v.shape[a]
	}
	batch := slices.Index(axes, v.batch)
	if v.name == "" {
		st := strides(v.shape)
		s := make([]int, len(axes))
		for i, a := range axes {
			s[i] = st[a]
		}
		return v.rearranged(indices(shape, s, 0), shape, batch, v.outer)
	}
	var row []int
	for _, a := range axes {
		if r := v.axis(a); r >= 0 {
			row = append(row, r)
		}
	}
	name, s := l.permute(v.name, row)
	w := l.result(name, s, shape, batch, v.outer)
	w.view, w.whole = true, v.whole
	return w
}

// strides are those of a dense tensor.
func strides(shape []int) []int {
	s := make([]int, len(shape))
	for i, n := len(shape)-1, 1; i >= 0; i-- {
		s[i], n = n, n*shape[i]
	}
	return s
}

// indices are the positions of the elements of a strided view.
func indices(shape, stride []int, first int) []int {
	if elems(shape) > maxElems {
		fail("a constant of %v is too large", shape)
	}
	out := make([]int, 0, elems(shape))
	var walk func(axis, at int)
	walk = func(axis, at int) {
		if axis == len(shape) {
			out = append(out, at)
			return
		}
		for i := range shape[axis] {
			walk(axis+1, at+i*stride[axis])
		}
	}
	walk(0, first)
	return out
}

// lastTwo exchanges the last two axes.
func lastTwo(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axes := l.axes(n, "", len(v.shape))
	if k := len(axes); k >= 2 {
		axes[k-1], axes[k-2] = axes[k-2], axes[k-1]
	}
	l.define(l.permuted(v, axes))
}

func movedim(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	from, to := l.axes(n, "source", len(v.shape)), l.axes(n, "destination", len(v.shape))
	axes := slices.Repeat([]int{-1}, len(v.shape))
	for i, a := range from {
		axes[to[i]] = a
	}
	next := 0
	for i := range axes {
		if axes[i] >= 0 {
			continue
		}
		for slices.Contains(from, next) {
			next++
		}
		axes[i] = next
		next++
	}
	l.define(l.permuted(v, axes))
}

func expandOp(l *lowering, n *pt2.Node) {
	sizes, _ := l.meta(n.Outputs[0].Names[0])
	l.define(l.expand(l.tensor(n, "self"), sizes))
}

// expand repeats axes of size 1.
func (l *lowering) expand(v *value, sizes []number) *value {
	shape := make([]int, len(sizes))
	for i, s := range sizes {
		shape[i] = s.n
	}
	more := len(shape) - len(v.shape)
	if v.name == "" {
		st := make([]int, len(shape))
		d := strides(v.shape)
		for i := more; i < len(shape); i++ {
			if v.shape[i-more] != 1 {
				st[i] = d[i-more]
			}
		}
		if slices.Equal(shape, v.shape) {
			return v
		}
		return v.rearranged(indices(shape, st, 0), shape, -1, 1)
	}
	batch := v.batch
	if batch >= 0 {
		batch += more
		if l.symbol == "" {
			shape[batch] /= l.batch
		}
		if shape[batch] != v.shape[v.batch] {
			fail("it repeats samples")
		}
	}
	if slices.Equal(shape, v.shape) {
		return v
	}
	w := &value{shape: shape, batch: batch, outer: v.outer, whole: v.whole}
	row := w.row()
	from, _ := l.reshape(v.name, append(slices.Repeat(graph.Shape{1}, len(row)-len(v.row())), v.row()...))
	w.name, _ = l.emit(&graph.Expand{Shape: row}, nil, from)
	return w
}

func repeatOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	reps := append(l.list(n, "repeats"), l.list(n, "dims")...)
	for len(reps) < len(v.shape) { // tile's
		reps = slices.Insert(reps, 0, number{n: 1})
	}
	more := len(reps) - len(v.shape)
	// [a, b] repeated (r, s) times is [1, a, 1, b] expanded to [r, a, s, b].
	var ones, wide, out []number
	for i, r := range reps {
		d := 1
		isBatch := false
		if i >= more {
			d, isBatch = v.shape[i-more], i-more == v.batch
		}
		if isBatch && (r.n != 1 || r.batched) {
			fail("it repeats samples")
		}
		k := number{n: d, batched: isBatch && l.symbol != ""}
		if isBatch && l.symbol == "" {
			k.n *= l.batch
		}
		if isBatch || r.n == 1 && !r.batched {
			ones, wide = append(ones, k), append(wide, k)
		} else {
			ones, wide = append(ones, number{n: 1}, k), append(wide, r, k)
		}
		out = append(out, number{n: r.n * k.n, batched: r.batched || k.batched})
	}
	l.define(l.viewAs(l.expand(l.viewAs(v, ones), wide), out))
}

func repeatInterleave(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	r := l.integer(n, "repeats", 0)
	a, ok := arg(n, "dim")
	if !ok || r < 1 {
		fail("with repeats that are not a number, or without an axis")
	}
	axis := axisOf(int(a.Ints[0].N), len(v.shape))
	if axis == v.batch {
		l.define(l.eachTimes(v, r))
		return
	}
	sizes := func(mid ...int) []number {
		var out []number
		for i, d := range v.shape {
			switch {
			case i == v.batch && l.symbol == "":
				out = append(out, number{n: d * l.batch})
			case i == axis:
				for _, m := range mid {
					out = append(out, number{n: m})
				}
			default:
				out = append(out, number{n: d, batched: i == v.batch})
			}
		}
		return out
	}
	d := v.shape[axis]
	l.define(l.viewAs(l.expand(l.viewAs(v, sizes(d, 1)), sizes(d, r)), sizes(d*r)))
}

// eachTimes repeats every element of the batch axis r times: a sample's stay together where the
// batch stands first.
func (l *lowering) eachTimes(v *value, r int) *value {
	if v.outer != 1 {
		fail("it repeats samples")
	}
	pre, d, post := elems(v.shape[:v.batch]), v.shape[v.batch], elems(v.shape[v.batch+1:])
	if pre != 1 {
		fail("it repeats samples that are not on the first axis")
	}
	name, _ := l.reshape(v.name, graph.Shape{d, 1, post})
	name, _ = l.emit(&graph.Expand{Shape: []int{d, r, post}}, nil, name)
	w := &value{shape: slices.Clone(v.shape), batch: v.batch, outer: 1, whole: v.whole}
	w.shape[v.batch] = d * r
	w.name, _ = l.reshape(name, w.row())
	return w
}

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

func sliceOp(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	axis, start, count, step := l.sliced(n, v)
	l.define(l.cut(v, axis, start, count, step))
}

// sliced are the elements of v that a slice takes.
func (l *lowering) sliced(n *pt2.Node, v *value) (axis, start, count, step int) {
	axis = axisOf(l.integer(n, "dim", 0), len(v.shape))
	d := v.shape[axis]
	bound := func(name string, def int) int {
		a, ok := arg(n, name)
		if !ok || len(a.Ints) == 0 {
			return def
		}
		m := l.number(a.Ints[0])
		if m.batched || axis == v.batch && l.symbol == "" && m.n >= d*l.batch {
			return def
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
		l.defineAs(name, l.cut(v, axis, at, sizes[axis].n, 1))
		at += sizes[axis].n
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
	at := make([]float64, min(r, c))
	for i := range at {
		at[i] = float64(i*c + i)
	}
	v = l.regrouped(v, slices.Concat(v.shape[:last-1], []int{r * c}))
	return l.pick(v, last-1, at)
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
		fail("it joins batches")
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

// pick takes elements of an axis by number.
func (l *lowering) pick(v *value, axis int, index []float64) *value {
	d := v.shape[axis]
	at := make([]int, len(index))
	for i, f := range index {
		if at[i] = int(f); at[i] < 0 {
			at[i] += d
		}
		if at[i] < 0 || at[i] >= d {
			fail("index %v of an axis of %d", f, d)
		}
	}
	if axis == v.batch {
		fail("it picks samples")
	}
	if v.name != "" {
		var parts []*value
		runs := 1
		for i := 1; i < len(at); i++ {
			if at[i] != at[i-1]+1 {
				runs++
			}
		}
		if runs > 3 {
			return l.resample(v, axis, at, 1, nil)
		}
		for i := 0; i < len(at); { // runs of neighbours are one slice
			k := i + 1
			for k < len(at) && at[k] == at[k-1]+1 {
				k++
			}
			parts = append(parts, l.cut(v, axis, at[i], k-i, 1))
			i = k
		}
		return l.cat(parts, axis)
	}
	shape := slices.Clone(v.shape)
	shape[axis] = len(at)
	pre, post := elems(shape[:axis]), elems(shape[axis+1:])
	out := make([]int, 0, elems(shape))
	for p := range pre {
		for _, k := range at {
			for q := range post {
				out = append(out, (p*d+k)*post+q)
			}
		}
	}
	return v.rearranged(out, shape, v.batch, v.outer)
}

func indexSelect(l *lowering, n *pt2.Node) {
	v, i := l.tensor(n, "self"), l.tensor(n, "index")
	axis := axisOf(l.integer(n, "dim", 0), len(v.shape))
	if !i.isConst() && axis == 0 && v.batch < 0 {
		l.define(l.rows(v, i))
		return
	}
	if !i.isConst() {
		fail("with an index that depends on the data")
	}
	if axis == v.batch {
		fail("it picks samples")
	}
	l.define(l.pick(v, axis, l.data(i)))
}

// indexOp is x[i, j, ...] with constant indices.
func indexOp(l *lowering, n *pt2.Node) {
	v, is := l.tensor(n, "self"), l.tensors(n, "indices")
	for a, i := range is {
		if i != nil && l.graph.Tensors[argName(n, "indices", a)].DType == pt2.Boolean {
			if !i.isConst() || len(i.shape) != 1 || i.sample {
				fail("with a mask; use torch.where")
			}
			is[a] = chosenBy(l.data(i))
		}
	}
	if w := l.lookup(v, is); w != nil {
		l.define(w)
		return
	}
	if b := v.batch; v.alone() && b < len(is) && is[b] != nil && is[b].sample {
		sizes, _ := l.meta(n.Outputs[0].Names[0])
		l.define(l.indexEach(v, is, slices.IndexFunc(sizes, func(s number) bool { return s.batched })))
		return
	}
	l.define(l.index(v, is))
}

// chosenBy are the positions where a mask is set.
func chosenBy(mask []float64) *value {
	at := []float64{}
	for k, m := range mask {
		if m != 0 {
			at = append(at, float64(k))
		}
	}
	return constant(at, []int{len(at)}, true)
}

// indexEach is v[is...] where one of the indices is the number of the sample, which is on the
// given axis of the result: the others pick within each sample.
func (l *lowering) indexEach(v *value, is []*value, batch int) *value {
	b := v.batch
	given := func(i *value) bool { return i != nil }
	first := slices.IndexFunc(is, given)
	for a := first; a < len(is); a++ {
		if is[a] == nil && slices.ContainsFunc(is[a:], given) {
			fail("with indices on axes that are not neighbours")
		}
	}
	w := *v
	w.shape, w.batch = append([]int{1}, slices.Delete(slices.Clone(v.shape), b, b+1)...), 0
	within := append([]*value{nil}, slices.Delete(slices.Clone(is), b, b+1)...)
	if v.name == "" || !slices.ContainsFunc(within, given) {
		fail("it picks samples")
	}
	own := len(is[b].shape)
	for a, i := range within {
		if i != nil { // with the axis that numbers the samples
			c := *i
			c.shape = append(slices.Repeat([]int{1}, max(0, own-len(i.shape))), i.shape...)
			within[a] = &c
		}
	}
	x := l.index(&w, within)
	if batch < 0 || batch+1 >= len(x.shape) || x.shape[batch+1] != 1 {
		fail("it picks samples")
	}
	y := &value{shape: x.shape[1:], batch: batch, outer: 1, whole: v.whole}
	y.name, _ = l.reshape(x.name, y.row())
	return y
}

// index is v[is...]: by constants on neighbouring axes, nil on others.
func (l *lowering) index(v *value, is []*value) *value {
	is = slices.Clone(is)
	first, count := -1, 0
	for a, i := range is {
		if i == nil {
			continue
		}
		if !i.isConst() {
			fail("with an index that depends on the data")
		}
		if i.sample && v.batch < 0 && v.shape[a] == 1 { // all samples are alike here
			is[a] = constant(slices.Repeat([]float64{0}, elems(i.shape)), i.shape, true)
		}
		if first < 0 {
			first = a
		} else if a != first+count {
			fail("with indices on axes that are not neighbours")
		}
		count++
	}
	if count == 0 {
		return v
	}
	if v.batch >= first && v.batch < first+count {
		fail("it picks samples")
	}
	// The indexed axes become one, which is indexed by one number.
	shape := is[first].shape
	for _, i := range is[first : first+count] {
		shape = broadcastShape(shape, i.shape)
	}
	flat := make([]float64, elems(shape))
	for k, i := range is[first : first+count] {
		d := l.data(l.expand(i, plainNumbers(shape)))
		for e, x := range d {
			if x < 0 {
				x += float64(v.shape[first+k])
			}
			flat[e] = flat[e]*float64(v.shape[first+k]) + x
		}
	}
	joined := slices.Concat(v.shape[:first], []int{elems(v.shape[first : first+count])}, v.shape[first+count:])
	w := l.regrouped(v, joined)
	w = l.pick(w, first, flat)
	return l.regrouped(w, slices.Concat(v.shape[:first], shape, v.shape[first+count:]))
}

// regrouped joins or splits axes on one side of the batch.
func (l *lowering) regrouped(v *value, shape []int) *value {
	sizes := plainNumbers(shape)
	if v.batch < 0 {
		return l.viewAs(v, sizes)
	}
	// The batch axis keeps its size and the elements before it.
	q := 1
	for i, d := range shape {
		if d == v.shape[v.batch] && q == elems(v.shape[:v.batch]) {
			w := &value{shape: shape, batch: i, outer: v.outer, whole: v.whole}
			w.name, _ = l.reshape(v.name, w.row())
			return w
		}
		q *= d
	}
	fail("%v cannot be seen as %v", v.shape, shape)
	return nil
}

func plainNumbers(shape []int) []number {
	out := make([]number, len(shape))
	for i, d := range shape {
		out[i] = number{n: d}
	}
	return out
}

func broadcastShape(a, b []int) []int {
	out := make([]int, max(len(a), len(b)))
	for i := range out {
		p, q := 1, 1
		if k := i - (len(out) - len(a)); k >= 0 {
			p = a[k]
		}
		if k := i - (len(out) - len(b)); k >= 0 {
			q = b[k]
		}
		if p != q && p != 1 && q != 1 {
			fail("%v and %v do not match", a, b)
		}
		if out[i] = p; p == 1 {
			out[i] = q
		}
	}
	return out
}

// argName is the name of tensor k of an argument.
func argName(n *pt2.Node, name string, k int) string {
	a, _ := arg(n, name)
	return a.Names[k]
}
