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
	"permute": permuteOp, "transpose": permuteOp, "t": permuteOp, "swapaxes": permuteOp, "mT": lastTwo, "mH": lastTwo, "matrix_H": lastTwo, "numpy_T": permuteOp, "movedim": movedim,
	"expand": expandOp, "expand_as": expandOp, "broadcast_to": expandOp, "repeat": repeatOp, "repeat_interleave": repeatInterleave,
	"slice": sliceOp, "narrow": narrowOp, "select": selectOp, "split": splitOp, "split_with_sizes": splitOp, "chunk": splitOp, "unbind": unbind, "tensor_split": splitOp, "hsplit": splitOp, "vsplit": splitOp,
	"hstack": joined(1), "vstack": joined(0), "dstack": joined(2), "tile": repeatOp, "diagonal": diagonal, "broadcast_tensors": broadcastTensors, "meshgrid": meshgrid,
	"cat": cat, "concat": cat, "stack": stack, "pad": padOp, "constant_pad_nd": padOp, "roll": roll, "flip": flip,
	"diag_embed": diagEmbed, "diag": diag, "channel_shuffle": channelShuffle, "pixel_shuffle": pixelShuffle,
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
	if more < 0 {
		fail("%v cannot be expanded to %v", v.shape, shape)
	}
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
