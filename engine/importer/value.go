// What the importer knows of a program's tensors.

package importer

import (
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// value is a tensor of the program. It is one of: a value of the graph (name), a
// parameter's elements (param), or constants (buf).
type value struct {
	bad   bool  // could not be lowered
	shape []int // of all axes, for a batch of one sample
	batch int   // the axis that holds the batch; -1 if none does
	outer int   // of that axis's elements for one sample, those that stand before the batch
	whole bool  // integers or truth values

	name string // in the graph

	param      string // state-dict name
	paramShape []int
	archived   string // state-dict name of an input as it is

	columns []*value // of an ONNX model: an index by the number of the sample and others
	list    []*value // of an ONNX model: a sequence of tensors
	sizes   []number // of an ONNX model: integers, some of them multiples of the batch

	buf    *buffer
	sample bool  // the number of a sample in its batch: known to no row
	step   int   // times this
	along  int   // of an ONNX model: the axis of those samples
	index  []int // into the parameter's elements or the buffer's; nil: all, in order
	view   bool  // of another tensor of the program

	spectral *spectral // of a power iteration: it has no elements here
	scale    *scale    // how it comes from a parameter
	pooled   string    // "mean" or "sum": over the batch, of which this is a sample's part

	im *value // of a complex tensor: its imaginary part; the value is the real one
}

// buffer holds constants. Views of a constant share it, so that writing to one writes to
// all.
type buffer struct {
	data  []float64
	load  string // not loaded yet: its name in the archive
	whole bool
}

// maxElems is the most elements of a constant or of an index into a parameter.
const maxElems = 1 << 26

// elems is the number of elements of a shape. It never overflows.
func elems(s []int) int {
	n := 1
	for _, d := range s {
		if d < 0 || d > 0 && n > graph.MaxRow*2/d {
			fail("a tensor of %v is too large", s)
		}
		n *= d
	}
	return n
}

// alone tells that the batch axis holds nothing but the batch.
func (v *value) alone() bool { return v.batch >= 0 && v.shape[v.batch] == 1 }

// row is the shape of a row of the graph's value.
func (v *value) row() graph.Shape {
	s := graph.Shape(slices.Clone(v.shape))
	if v.alone() {
		s = slices.Delete(s, v.batch, v.batch+1)
	}
	if s == nil {
		s = graph.Shape{}
	}
	return s
}

// axis is the row's axis that is the program's axis a, -1 for the batch.
func (v *value) axis(a int) int {
	switch {
	case v.alone() && a == v.batch:
		return -1
	case v.alone() && a > v.batch:
		return a - 1
	}
	return a
}

// before is the number of elements of one sample that stand before the batch.
func (v *value) before() int {
	if v.batch < 0 {
		return 1
	}
	return elems(v.shape[:v.batch]) * v.outer
}

// isConst tells whether v is constants.
func (v *value) isConst() bool { return v.buf != nil }

// data are the elements of a constant, which may be its own.
func (l *lowering) data(v *value) []float64 {
	if v.sizes != nil {
		fail("it takes the number of samples for a number")
	}
	if v.sample {
		fail("it depends on the number of a sample in its batch")
	}
	b := v.buf
	if b.load != "" {
		t, err := l.a.Load(b.load)
		if err != nil {
			fail("%v", err)
		}
		b.load = ""
		b.data = make([]float64, t.Len())
		for i := range b.data {
			if t.F32 != nil {
				b.data[i] = float64(t.F32[i])
			} else {
				b.data[i] = float64(t.I64[i])
			}
		}
	}
	if v.index == nil {
		return b.data
	}
	out := make([]float64, len(v.index))
	for i, k := range v.index {
		out[i] = b.data[k]
	}
	return out
}

// constant makes a value of numbers. Floating ones are rounded to float32.
func constant(data []float64, shape []int, whole bool) *value {
	if !whole {
		for i, v := range data {
			data[i] = float64(float32(v))
		}
	}
	return &value{shape: shape, batch: -1, outer: 1, whole: whole, buf: &buffer{data: data, whole: whole}}
}

// rearranged is v with other elements: element i is element index[i] of v.
func (v *value) rearranged(index, shape []int, batch, outer int) *value {
	w := *v
	w.shape, w.batch, w.outer, w.view, w.archived = shape, batch, outer, true, ""
	if index != nil {
		w.index = make([]int, len(index))
		for i, k := range index {
			if w.index[i] = k; v.index != nil {
				w.index[i] = v.index[k]
			}
		}
	}
	return &w
}

// number is an integer of the program: n, or n times the batch.
type number struct {
	n       int
	batched bool
	unknown bool
}

// String is the number, with the batch as N.
func (m number) String() string {
	switch {
	case m.unknown:
		return "?"
	case m.batched && m.n == 1:
		return "N"
	case m.batched:
		return fmt.Sprintf("%d·N", m.n)
	}
	return fmt.Sprint(m.n)
}

// sizeOf resolves a size of a tensor.
func (l *lowering) sizeOf(s pt2.Size) number { return l.concrete(l.multiple(s)) }

// multiple is a size, where the batch is one with that as a factor.
func (l *lowering) multiple(s pt2.Size) number {
	k, sym, ok := s.Linear()
	switch {
	case !ok:
		if c := l.coefficients(s); len(c) == 2 && c[0] == 0 {
			return number{n: int(c[1]), batched: true}
		}
		return number{unknown: true}
	case sym == "":
		return number{n: int(k)}
	case sym == l.symbol || l.symbols[sym]:
		return number{n: int(k), batched: true}
	}
	if m, ok := l.ints[sym]; ok && k == 1 {
		return m
	}
	if e, ok := l.graph.Ints[sym]; ok && k == 1 && e.Expr != s.Expr {
		return l.multiple(e)
	}
	return number{unknown: true}
}

// meta is what the archive says of a tensor of the program.
func (l *lowering) meta(name string) (sizes []number, whole bool) {
	m, ok := l.graph.Tensors[name]
	if !ok {
		fail("the archive does not tell the shape of %q", name)
	}
	for _, s := range m.Sizes {
		n := l.sizeOf(s)
		if n.unknown {
			fail("the size %s is not a number of samples", s)
		}
		sizes = append(sizes, n)
	}
	return sizes, !m.DType.Floating()
}

// define sets the node's only output, after comparing it with what the archive says.
func (l *lowering) define(v *value) { l.defineAs(l.node.Outputs[0].Names[0], v) }

func (l *lowering) defineAs(name string, v *value) {
	if l.program == nil { // an ONNX model tells no shapes
		l.vals[name] = v
		return
	}
	sizes, whole := l.meta(name)
	v.whole = whole
	if l.single && v.batch == 0 { // it has been lowered like a batch of one
		w := *v
		w.batch = -1
		w.name, _ = l.reshape(v.name, w.row())
		v = &w
	}
	if v.isConst() || v.param != "" {
		l.vals[name] = v
		return
	}
	ok := len(sizes) == len(v.shape)
	for i := 0; ok && i < len(sizes); i++ {
		want := v.shape[i]
		switch {
		case l.symbol != "":
			// What is the same for all samples repeats over a batch that it does not have.
			ok = sizes[i].n == want && (sizes[i].batched == (i == v.batch) || v.batch < 0)
		case i == v.batch:
			ok = sizes[i].n == want*l.batch
		default:
			ok = sizes[i].n == want
		}
	}
	if !ok {
		fail("it computes %v of batch axis %d, the archive says %v", v.shape, v.batch, sizes)
	}
	l.vals[name] = v
}

// result wraps a graph value with the program's shape.
func (l *lowering) result(name string, got graph.Shape, shape []int, batch, outer int) *value {
	v := &value{name: name, shape: shape, batch: batch, outer: outer}
	if row := v.row(); !slices.Equal(row, got) {
		v.name, _ = l.reshape(name, row)
	}
	return v
}

// reshape gives a graph value another row shape, if it has not.
func (l *lowering) reshape(name string, row graph.Shape) (string, graph.Shape) {
	if slices.Equal(l.shapes[name], row) {
		return name, row
	}
	for { // of what was there before other views
		n := l.producer(name)
		if n == nil {
			break
		}
		if _, ok := n.Op.(*graph.Reshape); !ok {
			break
		}
		name = n.Inputs[0]
	}
	if slices.Equal(l.shapes[name], row) {
		return name, row
	}
	return l.emit(&graph.Reshape{Shape: slices.Clone(row)}, nil, name)
}

// permute reorders the axes of a row.
func (l *lowering) permute(name string, axes []int) (string, graph.Shape) {
	if n := l.producer(name); n != nil {
		if p, ok := n.Op.(*graph.Permute); ok {
			both := make([]int, len(axes))
			for i, a := range axes {
				both[i] = p.Axes[a]
			}
			name, axes = n.Inputs[0], both
		}
	}
	moved := false
	last := -1
	for _, a := range axes { // axes of size 1 may lie anywhere
		if l.shapes[name][a] != 1 {
			moved = moved || a < last
			last = a
		}
	}
	if !moved {
		row := make(graph.Shape, len(axes))
		for i, a := range axes {
			row[i] = l.shapes[name][a]
		}
		return l.reshape(name, row)
	}
	return l.emit(&graph.Permute{Axes: axes}, nil, name)
}

// operand is a constant or parameter as part of an operation. shape is that of the row
// that it meets.
func (l *lowering) operand(v *value, shape []int) (*graph.Operand, map[string]string) {
	if v.sizes != nil {
		fail("it takes the number of samples for a number")
	}
	o := &graph.Operand{Shape: shape}
	if v.param != "" {
		o.Param = v.paramShape
		if v.index != nil {
			o.Index = make(graph.Packed, len(v.index))
			for i, k := range v.index {
				o.Index[i] = uint32(k)
			}
		}
		return o, map[string]string{"weight": v.param}
	}
	d := l.data(v)
	o.Data = make(graph.Packed, len(d))
	for i, f := range d {
		o.Data[i] = math.Float32bits(float32(f))
	}
	return o, nil
}

// value makes a graph value of a constant or parameter, one for all rows.
func (l *lowering) value(v *value) *value {
	if v.bad || v.name != "" {
		return v
	}
	w := *v
	w.buf, w.param, w.index = nil, "", nil
	o, names := l.operand(v, w.row())
	w.name, _ = l.emit(&graph.Parameter{Operand: *o}, names)
	return &w
}

// toward makes a value without a batch fit one whose batch lies on axis b, counted from the
// last (-1), of k elements a sample: what it repeats over the batch is left out.
func (l *lowering) toward(v *value, fromEnd, k, outer int) *value {
	a := len(v.shape) + fromEnd
	if v.batch >= 0 || a < 0 || v.shape[a] == 1 || v.shape[a] == k && l.batch != 1 && k > 1 && l.symbol != "" {
		return v
	}
	if l.symbol != "" || v.shape[a] != k*l.batch {
		fail("a tensor that is the same for all samples has %d elements on the batch axis", v.shape[a])
	}
	if v.name != "" {
		if n := l.producer(v.name); n != nil && l.shapes[n.Inputs[0]][a] == 1 && len(l.shapes[n.Inputs[0]]) == len(v.shape) {
			if _, ok := n.Op.(*graph.Expand); ok { // once for every sample
				return l.cut(v, a, 0, k, 1)
			}
		}
		fail("a computed parameter has %d elements on the batch axis", v.shape[a])
	}
	// [pre, outer, B, inner, post]: every b alike.
	pre, post := elems(v.shape[:a]), elems(v.shape[a+1:])
	inner := k / outer
	shape := slices.Clone(v.shape)
	shape[a] = k
	index := make([]int, 0, pre*k*post)
	at := func(p, o, b, i, q int) int { return (((p*outer+o)*l.batch+b)*inner+i)*post + q }
	same := func(x, y int) bool {
		if v.index != nil {
			x, y = v.index[x], v.index[y]
		}
		if v.isConst() {
			l.data(&value{buf: v.buf})
			return v.buf.data[x] == v.buf.data[y]
		}
		return x == y
	}
	for p := range pre {
		for o := range outer {
			for i := range inner {
				for q := range post {
					first := at(p, o, 0, i, q)
					for b := 1; b < l.batch; b++ {
						if !same(first, at(p, o, b, i, q)) {
							fail("a constant differs between the samples of the batch; export with a dynamic batch")
						}
					}
					index = append(index, first)
				}
			}
		}
	}
	return v.rearranged(index, shape, -1, 1)
}
