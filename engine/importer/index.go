// Elements that are picked by number.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

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

// argName is the name of tensor k of an argument.
func argName(n *pt2.Node, name string, k int) string {
	a, _ := arg(n, name)
	return a.Names[k]
}
