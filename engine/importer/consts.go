// Operators that make constants.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

var constantOperators = map[string]operator{
	"zeros": filled(0), "ones": filled(1), "full": filledBy("fill_value"), "empty": filled(0), "empty_strided": filled(0),
	"zeros_like": filled(0), "ones_like": filled(1), "full_like": filledBy("fill_value"), "empty_like": filled(0),
	"new_zeros": filled(0), "new_ones": filled(1), "new_full": filledBy("fill_value"), "new_empty": filled(0), "scalar_tensor": filledBy("s"),
	"fill": fill, "zero": filled(0), "arange": arange, "linspace": linspace, "tril": triangle(true), "triu": triangle(false), "eye": eye,
	"diff": diff, "floor_divide": floorDivide, "fill_diagonal": fillDiagonal, "tril_indices": triangleIndices(true), "triu_indices": triangleIndices(false),
	"hann_window": cosineWindow(0.5), "hamming_window": cosineWindow(0.54),
}

// filledWith is a tensor of the output's shape.
func (l *lowering) filledWith(v float64) {
	name := l.node.Outputs[0].Names[0]
	sizes, whole := l.meta(name)
	shape := make([]int, len(sizes))
	for i, s := range sizes {
		shape[i] = s.n
	}
	if slices.ContainsFunc(shape, l.depends) {
		one := l.once(l.value(constant([]float64{v}, []int{}, whole)).name)
		l.define(l.expand(&value{name: one, shape: []int{}, batch: -1, outer: 1}, sizes))
		return
	}
	if elems(shape) > maxElems {
		fail("a constant of %v is too large", shape)
	}
	l.vals[name] = constant(slices.Repeat([]float64{v}, elems(shape)), shape, whole)
}

func filled(v float64) operator {
	return func(l *lowering, _ *pt2.Node) { l.filledWith(v) }
}

func filledBy(name string) operator {
	return func(l *lowering, n *pt2.Node) { l.filledWith(l.scalar(n, name, 0)) }
}

func fill(l *lowering, n *pt2.Node) {
	v := l.other(n, "value")
	if !v.isConst() {
		fail("with a value that depends on the data")
	}
	l.filledWith(l.data(v)[0])
}

func arange(l *lowering, n *pt2.Node) {
	sizes, whole := l.meta(n.Outputs[0].Names[0])
	if len(sizes) != 1 {
		fail("of %d axes", len(sizes))
	}
	if l.depends(sizes[0].n) {
		y := l.upTo(sizes[0].n)
		if step := l.scalar(n, "step", 1); step != 1 {
			y = l.unary("affine", y, step, 0)
		}
		if _, ok := arg(n, "start"); ok {
			y = l.binary("add", y, l.other(n, "start"))
		}
		l.define(y)
		return
	}
	if sizes[0].batched { // the numbers of samples, which masks are written with
		v := constant(make([]float64, sizes[0].n), []int{sizes[0].n}, whole)
		v.sample, v.step = true, l.integer(n, "step", 1)
		if l.scalar(n, "start", 0) != 0 {
			fail("of the numbers of samples from another one than 0")
		}
		l.define(v)
		return
	}
	start, step := l.scalar(n, "start", 0), l.scalar(n, "step", 1)
	if elems([]int{sizes[0].n}) > maxElems {
		fail("a constant of %d elements is too large", sizes[0].n)
	}
	d := make([]float64, sizes[0].n)
	for i := range d {
		d[i] = start + float64(i)*step
	}
	l.define(constant(d, []int{len(d)}, whole))
}

func linspace(l *lowering, n *pt2.Node) {
	sizes, _ := l.meta(n.Outputs[0].Names[0])
	if len(sizes) != 1 || sizes[0].batched || elems([]int{sizes[0].n}) > maxElems {
		fail("of %v", sizes)
	}
	start, end := l.scalar(n, "start", 0), l.scalar(n, "end", 0)
	d := make([]float64, sizes[0].n)
	for i := range d {
		d[i] = start + (end-start)*float64(i)/float64(max(len(d)-1, 1))
	}
	l.define(constant(d, []int{len(d)}, false))
}

func triangle(lower bool) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		if len(x.shape) < 2 || x.batch >= len(x.shape)-2 {
			fail("of %v with the batch on axis %d", x.shape, x.batch)
		}
		r, c, k := x.shape[len(x.shape)-2], x.shape[len(x.shape)-1], l.integer(n, "diagonal", 0)
		if sizes, _ := l.meta(n.Outputs[0].Names[0]); l.program != nil && (sizes[len(sizes)-1].batched || sizes[len(sizes)-2].batched) {
			fail("of samples")
		}
		if l.depends(r) || l.depends(c) {
			f := "ge"
			if lower {
				f = "le"
			}
			l.define(l.masked(l.value(x), l.onDiagonal(f, r, c, k)))
			return
		}
		m := make([]float64, r*c)
		for i := range m {
			m[i] = truth(i%c-i/c <= k)
			if !lower {
				m[i] = truth(i%c-i/c >= k)
			}
		}
		mask := constant(m, []int{r, c}, true)
		if x.isConst() {
			v := l.where(mask, x, constant([]float64{0}, []int{}, x.whole))
			v.whole = x.whole
			l.define(v)
			return
		}
		l.define(l.masked(x, mask))
	}
}

// triangleIndices are the rows and columns of the elements of a triangle, [2, elements].
func triangleIndices(lower bool) operator {
	return func(l *lowering, n *pt2.Node) {
		r, c, k := l.integer(n, "row", 0), l.integer(n, "col", 0), l.integer(n, "offset", 0)
		if elems([]int{r, c}) > maxElems/2 {
			fail("of %d by %d", r, c)
		}
		var rows, cols []float64
		for i := range r {
			for j := range c {
				if lower && j-i <= k || !lower && j-i >= k {
					rows, cols = append(rows, float64(i)), append(cols, float64(j))
				}
			}
		}
		l.define(constant(slices.Concat(rows, cols), []int{2, len(rows)}, true))
	}
}

// cosineWindow is a window over a signal, a - (1-a)·cos.
func cosineWindow(a float64) operator {
	return func(l *lowering, n *pt2.Node) {
		size := l.integer(n, "window_length", 0)
		if size < 1 || size > maxElems {
			fail("of %d elements", size)
		}
		turn := size
		if !l.flag(n, "periodic", true) {
			turn = max(size-1, 1)
		}
		d := make([]float64, size)
		for i := range d {
			d[i] = a - (1-a)*math.Cos(2*math.Pi*float64(i)/float64(turn))
		}
		l.define(constant(d, []int{size}, false))
	}
}

func eye(l *lowering, n *pt2.Node) {
	sizes, whole := l.meta(n.Outputs[0].Names[0])
	if len(sizes) != 2 || elems([]int{sizes[0].n, sizes[1].n}) > maxElems {
		fail("a constant that is too large")
	}
	if sizes[0].batched || sizes[1].batched {
		fail("of samples")
	}
	if l.depends(sizes[0].n) || l.depends(sizes[1].n) {
		l.define(l.onDiagonal("eq", sizes[0].n, sizes[1].n, 0))
		return
	}
	l.define(identity(sizes[0].n, sizes[1].n, whole))
}

// identity is a matrix with ones on its diagonal.
func identity(rows, cols int, whole bool) *value {
	d := make([]float64, elems([]int{rows, cols}))
	for i := range min(rows, cols) {
		d[i*cols+i] = 1
	}
	return constant(d, []int{rows, cols}, whole)
}

// fillDiagonal gives the diagonal of a matrix one value.
func fillDiagonal(l *lowering, n *pt2.Node) {
	x, v := l.tensor(n, "self"), l.other(n, "fill_value")
	if len(x.shape) != 2 || x.batch >= 0 || x.shape[0] < x.shape[1] && l.flag(n, "wrap", false) || x.shape[0] > x.shape[1] {
		fail("of %v with the batch on axis %d", x.shape, x.batch)
	}
	var on *value
	if l.depends(x.shape[0]) || l.depends(x.shape[1]) {
		on = l.onDiagonal("eq", x.shape[0], x.shape[1], 0)
	} else {
		on = identity(x.shape[0], x.shape[1], true)
	}
	l.define(l.where(on, v, x))
}

// diff is the differences of neighbours, n times.
func diff(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	axis := axisOf(l.integer(n, "dim", -1), len(x.shape))
	parts := []*value{x}
	if p := l.optional(n, "prepend"); p != nil {
		parts = []*value{p, x}
	}
	if p := l.optional(n, "append"); p != nil {
		parts = append(parts, p)
	}
	if len(parts) > 1 {
		x = l.cat(parts, axis)
	}
	for range min(l.integer(n, "n", 1), x.shape[axis]) {
		d := x.shape[axis]
		x = l.binary("sub", l.cut(x, axis, 1, d-1, 1), l.cut(x, axis, 0, d-1, 1))
	}
	l.define(x)
}

func floorDivide(l *lowering, n *pt2.Node) {
	a, b := l.other(n, "self"), l.other(n, "other")
	if !a.isConst() || !b.isConst() {
		l.define(l.unary("floor", l.binary("div", a, b), 0, 0))
		return
	}
	l.define(l.binaryConst("floor_divide", a, b))
}
