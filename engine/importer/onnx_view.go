// Operators of ONNX that only rearrange elements, or pick some.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
)

// seen gives a value another shape; sizes pass through.
func (l *lowering) seen(v *value, sizes []number) *value {
	if v.sizes != nil {
		shape := make([]int, len(sizes))
		for i, s := range sizes {
			shape[i] = s.n
		}
		return &value{shape: shape, batch: -1, outer: 1, whole: true, sizes: v.sizes}
	}
	if v.sample {
		return samples(sizes)
	}
	return l.viewAs(v, sizes)
}

func onnxReshape(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	want := slices.Clone(l.numbers(l.need(n, 1), "its shape"))
	has := l.dims(v)
	rest, free, batched := 1, -1, false
	for i, s := range want {
		switch {
		case s == number{n: 0} && attrInt(n, "allowzero", 0) == 0 && elems(v.shape) != 0:
			if i >= len(has) {
				fail("it keeps axis %d of %v", i, v.shape)
			}
			want[i] = has[i]
		case s == number{n: -1}:
			if free >= 0 {
				fail("two of its sizes are left open")
			}
			free = i
			continue
		}
		batched = batched || want[i].batched
		if rest *= want[i].n; rest < 0 || rest > graph.MaxRow*2 {
			fail("to %v", want)
		}
	}
	if free >= 0 {
		all := elems(v.shape)
		if v.batch >= 0 && l.symbol == "" {
			all *= l.batch
		}
		if rest == 0 || all%rest != 0 {
			fail("%v cannot be seen as %v", v.shape, want)
		}
		want[free] = number{n: all / rest, batched: v.batch >= 0 && l.symbol != "" && !batched}
	}
	l.set(n, l.seen(v, want))
}

func onnxFlatten(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	d, axis := l.dims(v), attrInt(n, "axis", 1)
	if axis < 0 {
		axis += len(d)
	}
	if axis < 0 || axis > len(d) {
		fail("at axis %d of %v", axis, v.shape)
	}
	join := func(ds []number) number {
		all := number{n: 1}
		for _, s := range ds {
			all.n *= s.n
			all.batched = all.batched || s.batched
		}
		return all
	}
	l.set(n, l.seen(v, []number{join(d[:axis]), join(d[axis:])}))
}

func onnxSqueeze(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axes := l.intsOf(n, "axes", 1)
	for i, a := range axes {
		axes[i] = axisOf(a, len(v.shape))
	}
	var sizes []number
	for i, d := range l.dims(v) {
		if axes == nil && d == (number{n: 1}) || slices.Contains(axes, i) && d.n == 1 && !d.batched {
			continue
		}
		if slices.Contains(axes, i) {
			fail("axis %d of %v is not 1", i, v.shape)
		}
		sizes = append(sizes, d)
	}
	l.set(n, l.seen(v, sizes))
}

func onnxUnsqueeze(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axes := l.intsOf(n, "axes", 1)
	rank := len(v.shape) + len(axes)
	for i, a := range axes {
		axes[i] = axisOf(a, rank)
	}
	sizes := make([]number, 0, rank)
	d := l.dims(v)
	for i := range rank {
		if slices.Contains(axes, i) {
			sizes = append(sizes, number{n: 1})
			continue
		}
		if len(d) == 0 {
			fail("axes %v of %v", axes, v.shape)
		}
		sizes, d = append(sizes, d[0]), d[1:]
	}
	l.set(n, l.seen(v, sizes))
}

func onnxTranspose(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	perm := attrInts(n, "perm")
	if perm == nil {
		for i := len(v.shape) - 1; i >= 0; i-- {
			perm = append(perm, i)
		}
	}
	if len(perm) != len(v.shape) {
		fail("%v of %v", perm, v.shape)
	}
	l.set(n, l.permuted(v, perm))
}

func onnxExpand(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	want := slices.Clone(l.numbers(l.need(n, 1), "its shape"))
	has := l.dims(v)
	for len(want) < len(has) {
		want = slices.Insert(want, 0, number{n: 1})
	}
	for i := range has {
		w := &want[len(want)-len(has)+i]
		if *w == (number{n: 1}) {
			*w = has[i]
		}
	}
	if v.sample {
		l.set(n, samples(want))
		return
	}
	l.set(n, l.expand(v, want))
}

func onnxTile(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	var times []int
	for a, m := range l.numbers(l.need(n, 1), "repeats") {
		if m.batched && m.n == 1 && v.batch < 0 && a < len(v.shape) && v.shape[a] == 1 {
			m = number{n: 1} // the same for every sample
		}
		if m.batched || m.unknown {
			fail("it repeats samples")
		}
		times = append(times, m.n)
	}
	l.call("repeat", tensorArg("self", n, 0), intsArg("repeats", times))
}

// onnxCol2Im is fold.
func onnxCol2Im(l *lowering, n *onnx.Node) {
	pairOf := func(name string, def int) []int {
		if v := attrInts(n, name); len(v) >= 2 {
			return v
		}
		return []int{def, def, def, def}
	}
	pads := pairOf("pads", 0)
	if len(pads) != 4 || pads[0] != pads[2] || pads[1] != pads[3] {
		fail("with the padding %v", pads)
	}
	l.call("col2im", tensorArg("self", n, 0), intsArg("output_size", l.known(l.need(n, 1), "the image's size")), intsArg("kernel_size", l.known(l.need(n, 2), "the block's size")),
		intsArg("stride", pairOf("strides", 1)[:2]), intsArg("dilation", pairOf("dilations", 1)[:2]), intsArg("padding", pads[:2]))
}

func onnxSlice(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	bounds := func(name string, k int) []number {
		if is := attrInts(n, name); is != nil {
			return plainNumbers(is)
		}
		if x := l.in(n, k); x != nil {
			return l.numbers(x, name)
		}
		return nil
	}
	starts, ends, axes, steps := bounds("starts", 1), bounds("ends", 2), bounds("axes", 3), bounds("steps", 4)
	for i := range starts {
		axis, step := i, 1
		if axes != nil {
			axis = axes[i].n
		}
		if steps != nil {
			step = steps[i].n
		}
		axis = axisOf(axis, len(v.shape))
		v = l.slice(v, axis, starts[i], ends[i], step)
	}
	l.set(n, v)
}

// slice takes elements of an axis as ONNX counts them.
func (l *lowering) slice(v *value, axis int, start, end number, step int) *value {
	d := v.shape[axis]
	if v.sizes != nil {
		d = len(v.sizes)
	}
	bound := func(m number, least, most int) int {
		switch {
		case m.batched || axis == v.batch && l.symbol == "" && m.n >= d*l.batch:
			return most
		case m.n < 0:
			m.n += d
		}
		return min(max(m.n, least), most)
	}
	var index []float64
	if step > 0 {
		from, to := bound(start, 0, d), bound(end, 0, d)
		if axis == v.batch {
			if to == d && from == 0 || l.symbol != "" && end.n >= math.MaxInt32 && from == 0 {
				return v
			}
			fail("it takes some samples of the batch")
		}
		count := max((to-from+step-1)/step, 0)
		if v.sizes == nil {
			return l.cut(v, axis, from, count, step)
		}
		for i := range count {
			index = append(index, float64(from+i*step))
		}
	} else {
		if step == 0 {
			fail("with step 0")
		}
		to := -1
		if end.n > math.MinInt32 && end.n >= -d {
			to = bound(end, -1, d-1)
		}
		for i := bound(start, 0, d-1); i > to; i += step {
			index = append(index, float64(i))
		}
	}
	return l.picked(v, axis, index)
}

// picked is pick, of sizes too.
func (l *lowering) picked(v *value, axis int, index []float64) *value {
	if v.sizes == nil {
		return l.pick(v, axis, index)
	}
	out := make([]number, len(index))
	for i, f := range index {
		k := int(f)
		if k < 0 {
			k += len(v.sizes)
		}
		if k < 0 || k >= len(v.sizes) {
			fail("index %v of %d sizes", f, len(v.sizes))
		}
		out[i] = v.sizes[k]
	}
	return sizesValue(out, []int{len(out)})
}

func onnxSplit(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	axis := axisOf(attrInt(n, "axis", 0), len(v.shape))
	sizes := l.intsOf(n, "split", 1)
	if sizes == nil {
		each := (v.shape[axis] + len(n.Outputs) - 1) / len(n.Outputs)
		for at := 0; at < v.shape[axis]; at += each {
			sizes = append(sizes, min(each, v.shape[axis]-at))
		}
	}
	if len(sizes) != len(n.Outputs) {
		fail("into %d parts of %d outputs", len(sizes), len(n.Outputs))
	}
	at := 0
	for i, name := range n.Outputs {
		l.vals[name] = l.cut(v, axis, at, sizes[i], 1)
		at += sizes[i]
	}
}

func onnxSplitToSequence(l *lowering, n *onnx.Node) {
	v, s := l.need(n, 0), l.in(n, 1)
	axis, each := axisOf(attrInt(n, "axis", 0), len(v.shape)), 1
	var sizes []int
	switch {
	case s != nil && elems(s.shape) == 1:
		each = l.known(s, "split")[0]
	case s != nil:
		sizes = l.known(s, "split")
	}
	if each < 1 {
		fail("into parts of %d", each)
	}
	if sizes == nil {
		for at := 0; at < v.shape[axis]; at += each {
			sizes = append(sizes, min(each, v.shape[axis]-at))
		}
	}
	list, at := &value{batch: -1, outer: 1}, 0
	for _, d := range sizes {
		w := l.cut(v, axis, at, d, 1)
		if s == nil && attrInt(n, "keepdims", 1) == 0 {
			w = l.without(w, axis)
		}
		list.list, at = append(list.list, w), at+d
	}
	l.set(n, list)
}

func onnxSequenceAt(l *lowering, n *onnx.Node) {
	list, i := l.need(n, 0).list, int(l.scalarOf(l.need(n, 1), "its index"))
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		fail("element %d of a sequence of %d", i, len(list))
	}
	l.set(n, list[i])
}

func onnxConcat(l *lowering, n *onnx.Node) {
	var vs []*value
	sizes, sample := false, false
	for k := range n.Inputs {
		v := l.need(n, k)
		vs = append(vs, v)
		sizes, sample = sizes || v.sizes != nil, sample || v.sample
	}
	axis := axisOf(attrInt(n, "axis", 0), len(vs[0].shape))
	switch {
	case sizes:
		var all []number
		for _, v := range vs {
			all = append(all, l.numbers(v, "a size")...)
		}
		l.set(n, sizesValue(all, []int{len(all)}))
	case sample && axis == len(vs[0].shape)-1: // an index by the number of the sample and others
		w := &value{shape: slices.Clone(vs[0].shape), batch: -1, outer: 1, whole: true, columns: vs}
		w.shape[axis] = 0
		for _, v := range vs {
			w.shape[axis] += v.shape[axis]
		}
		l.set(n, w)
	default:
		vs = slices.DeleteFunc(vs, func(v *value) bool { return len(v.shape) == 1 && v.shape[0] == 0 && len(vs) > 1 })
		v := *l.cat(vs, axis)
		l.set(n, &v)
	}
}

func onnxPad(l *lowering, n *onnx.Node) {
	v := l.need(n, 0)
	pads, with := l.intsOf(n, "pads", 1), attrFloat(n, "value", 0)
	if c := l.in(n, 2); c != nil {
		with = l.scalarOf(c, "its value")
	}
	rank := len(v.shape)
	before, after := make([]int, rank), make([]int, rank)
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if a := l.in(n, 3); a != nil {
		axes = l.known(a, "axes")
	}
	if len(pads) != 2*len(axes) {
		fail("%d numbers for %d axes", len(pads), len(axes))
	}
	for i, a := range axes {
		a = axisOf(a, rank)
		before[a], after[a] = pads[i], pads[len(axes)+i]
	}
	pad := make([]int, 0, 2*rank)
	first := slices.IndexFunc(before, func(v int) bool { return v != 0 })
	if k := slices.IndexFunc(after, func(v int) bool { return v != 0 }); first < 0 || k >= 0 && k < first {
		first = k
	}
	for a := rank - 1; a >= 0 && first >= 0 && a >= first; a-- {
		pad = append(pad, before[a], after[a])
	}
	mode, ok := map[string]string{"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[attrText(n, "mode", "constant")]
	if !ok {
		fail("with mode %q", attrText(n, "mode", ""))
	}
	l.call("pad", tensorArg("self", n, 0), intsArg("pad", pad), textArg("mode", mode), floatArg("value", with))
}

func onnxGather(l *lowering, n *onnx.Node) {
	v, i := l.need(n, 0), l.need(n, 1)
	axis := axisOf(attrInt(n, "axis", 0), len(v.shape))
	switch {
	case v.sizes != nil:
		w := *l.picked(v, 0, l.data(i))
		w.shape = i.shape
		if len(i.shape) > 1 {
			fail("sizes by an index of %v", i.shape)
		}
		l.set(n, &w)
	case !i.isConst() && axis == 0 && v.batch < 0:
		l.call("embedding", tensorArg("weight", n, 0), tensorArg("indices", n, 1))
	case !i.isConst():
		fail("with an index that depends on the data")
	case i.sample:
		is := make([]*value, len(v.shape))
		is[axis] = i
		l.set(n, l.index(v, is))
	case len(i.shape) == 0:
		l.set(n, l.without(l.pick(v, axis, l.data(i)), axis))
	default:
		is := make([]*value, len(v.shape))
		is[axis] = i
		l.set(n, l.index(v, is))
	}
}

func onnxGatherND(l *lowering, n *onnx.Node) {
	v, i := l.need(n, 0), l.need(n, 1)
	last := len(i.shape) - 1
	if dims := attrInt(n, "batch_dims", 0); dims == 1 && last > 0 && i.shape[last] == 1 && v.batch == 0 && i.columns == nil {
		l.set(n, l.gatherEach(v, l.without(i, last)))
		return
	} else if dims != 0 {
		fail("with batch_dims, or an index of %v for %v", i.shape, v.shape)
	}
	columns := i.columns
	if columns == nil {
		if !i.isConst() || last < 0 {
			fail("with an index that depends on the data")
		}
		for k := range i.shape[last] {
			columns = append(columns, l.cut(i, last, k, 1, 1))
		}
	}
	is := make([]*value, len(v.shape))
	for k, c := range columns {
		if c.shape[last] != 1 || k >= len(is) {
			fail("with an index of %v", i.shape)
		}
		w := *c
		w.shape = slices.Clone(c.shape[:last])
		is[k] = &w
	}
	l.set(n, l.index(v, is))
}

func onnxGatherElements(l *lowering, n *onnx.Node) {
	l.call("gather", tensorArg("self", n, 0), tensorArg("index", n, 1), intArg("dim", attrInt(n, "axis", 0)))
}

// onnxGridSample is grid_sample under the names of ONNX, of today and of opset 16.
func onnxGridSample(l *lowering, n *onnx.Node) {
	mode, ok := map[string]int{"linear": sampleBetween, "bilinear": sampleBetween, "nearest": sampleNearest, "cubic": sampleCubic, "bicubic": sampleCubic}[attrText(n, "mode", "linear")]
	outside, ok2 := map[string]int{"zeros": outsideZeros, "border": outsideBorder, "reflection": outsideReflected}[attrText(n, "padding_mode", "zeros")]
	if !ok || !ok2 {
		fail("with mode %q and padding %q", attrText(n, "mode", ""), attrText(n, "padding_mode", ""))
	}
	l.call("grid_sampler", tensorArg("input", n, 0), tensorArg("grid", n, 1), intArg("interpolation_mode", mode), intArg("padding_mode", outside), flagArg("align_corners", attrInt(n, "align_corners", 0) != 0))
}
