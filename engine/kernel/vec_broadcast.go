// Arithmetic of two tensors with NumPy's broadcasting, and copies by strides: what views,
// residuals, scales and masks of imported models come down to.

package kernel

import "math"

// MaxAxes is the most axes of a strided loop, its rows included.
const MaxAxes = 10

// Arith is an operation of two numbers.
type Arith uint8

// The operations. The gradient of Max and Min goes to the greater and lesser, half to each
// of two equals, as in PyTorch. Mask is a where b is not 0, else 0, whatever a is there: NaN too.
const (
	ArithAdd Arith = iota
	ArithSub
	ArithMul
	ArithDiv
	ArithMax
	ArithMin
	ArithPow
	ArithMask
)

// Broadcast is a loop over the dense tensor y = a op b, whose operands have strides of
// their own: 0 along an axis that they repeat. The first axis is the rows.
type Broadcast struct {
	Op     Arith
	axes   int
	size   [MaxAxes]int
	sa, sb [MaxAxes]int
}

// NewBroadcast makes the loop over rows of the given shape, with operands of shapes a and
// b, aligned at their last axes. rowA and rowB are the floats from one row of an operand to
// its next, 0 for one that all rows share.
func NewBroadcast(op Arith, shape, a, b []int, rowA, rowB int) Broadcast {
	l := Broadcast{Op: op, axes: 1}
	l.sa[0], l.sb[0] = rowA, rowB
	stride := func(s []int, axis int) int {
		i := axis - (len(shape) - len(s))
		if i < 0 || s[i] == 1 {
			return 0
		}
		n := 1
		for _, d := range s[i+1:] {
			n *= d
		}
		return n
	}
	for k, d := range shape {
		if d == 1 {
			continue
		}
		x, y, last := stride(a, k), stride(b, k), l.axes-1
		if last > 0 && l.sa[last] == x*d && l.sb[last] == y*d {
			l.size[last], l.sa[last], l.sb[last] = l.size[last]*d, x, y
			continue
		}
		l.size[l.axes], l.sa[l.axes], l.sb[l.axes] = d, x, y
		l.axes++
	}
	return l
}

// each calls f for every run of the last axis: n elements from positions y, a and b.
func (l *Broadcast) each(rows int, f func(y, a, b, n int)) {
	axes, run := l.axes, 1
	if axes > 1 {
		axes--
		run = l.size[axes]
	}
	var at [MaxAxes]int
	for y, a, b := 0, 0, 0; ; y += run {
		f(y, a, b, run)
		k := axes - 1
		for ; k >= 0; k-- {
			n := l.size[k]
			if k == 0 {
				n = rows
			}
			if at[k]++; at[k] < n {
				a, b = a+l.sa[k], b+l.sb[k]
				break
			}
			a, b, at[k] = a-(n-1)*l.sa[k], b-(n-1)*l.sb[k], 0
		}
		if k < 0 {
			return
		}
	}
}

// inner are the strides of the last axis.
func (l *Broadcast) inner() (a, b int) {
	if l.axes == 1 {
		return 0, 0
	}
	return l.sa[l.axes-1], l.sb[l.axes-1]
}

// Forward sets y [rows, shape] = a op b. y may be an operand that has y's shape.
func (l *Broadcast) Forward(y, a, b []float32, rows int) {
	sa, sb := l.inner()
	l.each(rows, func(p, q, r, n int) {
		y, a, b := y[p:p+n], a[q:], b[r:]
		switch {
		case sa == 1 && sb == 1:
			arithmetic(l.Op, y, a[:n], b[:n])
		case sa == 1 && l.Op == ArithMul:
			Scale(y, a[:n], b[0])
		case sb == 1 && l.Op == ArithMul:
			Scale(y, b[:n], a[0])
		case sa == 1:
			for i, v := range a[:n] {
				y[i] = l.Op.of(v, b[0])
			}
		case sb == 1:
			for i, v := range b[:n] {
				y[i] = l.Op.of(a[0], v)
			}
		default:
			Fill(y, l.Op.of(a[0], b[0]))
		}
	})
}

func arithmetic(op Arith, y, a, b []float32) {
	switch op {
	case ArithAdd:
		Add(y, a, b)
	case ArithSub:
		for i, v := range a {
			y[i] = v - b[i]
		}
	case ArithMul:
		for i, v := range a {
			y[i] = v * b[i]
		}
	case ArithDiv:
		for i, v := range a {
			y[i] = v / b[i]
		}
	case ArithMask:
		for i, v := range a {
			y[i] = where(v, b[i])
		}
	default:
		for i, v := range a {
			y[i] = op.of(v, b[i])
		}
	}
}

// of is one operation.
func (op Arith) of(a, b float32) float32 {
	switch op {
	case ArithAdd:
		return a + b
	case ArithSub:
		return a - b
	case ArithMul:
		return a * b
	case ArithDiv:
		return a / b
	case ArithMax:
		if a > b || a != a {
			return a
		}
		return b
	case ArithPow:
		return pow(a, b)
	case ArithMask:
		return where(a, b)
	}
	if a < b || a != a {
		return a
	}
	return b
}

// where is a if c is not 0, else 0, without a branch.
func where(a, c float32) float32 {
	u := math.Float32bits(a)
	if c == 0 {
		u = 0
	}
	return math.Float32frombits(u)
}

// slope is the gradient of operand arg, given that of the result. Products are rounded: they
// may be added to something.
func (op Arith) slope(arg int, d, a, b float32) float32 {
	switch {
	case op == ArithAdd || op == ArithSub && arg == 0:
		return d
	case op == ArithSub:
		return -d
	case op == ArithMul && arg == 0:
		return float32(d * b)
	case op == ArithMul:
		return float32(d * a)
	case op == ArithDiv && arg == 0:
		return d / b
	case op == ArithDiv:
		return float32(-d*(a/b)) / b
	case op == ArithPow && arg == 0:
		if b == 0 {
			return 0
		}
		return float32(d * float32(b*pow(a, b-1)))
	case op == ArithPow:
		if a == 0 && b >= 0 {
			return 0
		}
		return float32(d * float32(pow(a, b)*Log(a)))
	case op == ArithMask && arg == 0:
		return where(d, b)
	case op == ArithMask:
		return 0
	case a == b:
		return float32(d * 0.5)
	case (op == ArithMax) == (a > b) == (arg == 0):
		return d
	}
	return 0
}

// Grad sets da (arg 0) or db (arg 1), which has the operand's own shape, to the gradient
// of that operand: along an axis that it repeats the terms are added, those of a run of the
// last axis by the scheme of sum.go, runs in ascending order. dst may be dy if the operand
// has y's shape. a and b may be nil for addition and subtraction.
func (l *Broadcast) Grad(dst, dy, a, b []float32, arg, rows int) {
	sa, sb := l.inner()
	sd, first := sa, l.sa
	if arg == 1 {
		sd, first = sb, l.sb
	}
	whole := first[0] != 0
	for k := 1; k < l.axes; k++ {
		whole = whole && first[k] != 0
	}
	if !whole {
		clear(dst)
	}
	l.each(rows, func(p, q, r, n int) {
		d := dy[p : p+n]
		to := q
		if arg == 1 {
			to = r
		}
		if whole && (sd != 0 || l.axes == 1) { // with one axis, a row is one element
			l.slopes(arg, dst[to:to+n], d, a, b, q, r)
			return
		}
		var sum lanes
		var buf [termsBlock]float32
		for i := 0; i < n; i += termsBlock {
			t := buf[:min(n-i, termsBlock)]
			l.slopes(arg, t, d[i:i+len(t)], a, b, q+i*sa, r+i*sb)
			if sd == 0 {
				sum.add(t)
			} else {
				AddTo(dst[to+i:to+i+len(t)], t)
			}
		}
		if sd == 0 {
			dst[to] += sum.total()
		}
	})
}

// termsBlock is how many terms of a gradient are held at once: a multiple of the lanes.
const termsBlock = 256

// slopes sets t to the terms of the gradient of operand arg for a run of the last axis, whose
// operands begin at a[q] and b[r].
func (l *Broadcast) slopes(arg int, t, d, a, b []float32, q, r int) {
	sa, sb := l.inner()
	d = d[:len(t)]
	switch {
	case l.Op == ArithAdd || l.Op == ArithSub && arg == 0:
		copy(t, d)
		return
	case l.Op == ArithSub:
		for i, v := range d {
			t[i] = -v
		}
		return
	case l.Op == ArithMul:
		x, at, st := b, r, sb // the other operand
		if arg == 1 {
			x, at, st = a, q, sa
		}
		if st == 0 {
			Scale(t, d, x[at])
			return
		}
		x = x[at:][:len(t)]
		for i, v := range d {
			t[i] = v * x[i]
		}
		return
	}
	for i, v := range d {
		t[i] = l.Op.slope(arg, v, a[q+i*sa], b[r+i*sb])
	}
}

// Strided is a loop over a dense tensor y whose elements lie in x by strides: a
// permutation, a slice, a repetition.
type Strided struct {
	axes   int
	size   [MaxAxes]int
	stride [MaxAxes]int
	first  int
	repeat bool
}

// NewStrided makes the loop over y of the given shape, whose element at the origin is
// x[first]; rowX are the floats of a row of x.
func NewStrided(shape, stride []int, first, rowX int) Strided {
	l := Strided{axes: 1, first: first}
	l.stride[0] = rowX
	for k, d := range shape {
		if d == 1 {
			continue
		}
		l.repeat = l.repeat || stride[k] == 0
		if last := l.axes - 1; last > 0 && l.stride[last] == stride[k]*d {
			l.size[last], l.stride[last] = l.size[last]*d, stride[k]
			continue
		}
		l.size[l.axes], l.stride[l.axes] = d, stride[k]
		l.axes++
	}
	return l
}

func (l *Strided) each(rows int, f func(y, x, n, stride int)) {
	axes, run, step := l.axes, 1, 0
	if axes > 1 {
		axes--
		run, step = l.size[axes], l.stride[axes]
	}
	var at [MaxAxes]int
	for y, x := 0, l.first; ; y += run {
		f(y, x, run, step)
		k := axes - 1
		for ; k >= 0; k-- {
			n := l.size[k]
			if k == 0 {
				n = rows
			}
			if at[k]++; at[k] < n {
				x += l.stride[k]
				break
			}
			x, at[k] = x-(n-1)*l.stride[k], 0
		}
		if k < 0 {
			return
		}
	}
}

// Gather sets y to the elements of x.
func (l *Strided) Gather(y, x []float32, rows int) {
	l.each(rows, func(to, from, n, stride int) {
		if stride == 1 {
			copy(y[to:to+n], x[from:])
			return
		}
		for i := range n {
			y[to+i] = x[from+i*stride]
		}
	})
}

// Scatter sets dx to the gradient of Gather: elements that y does not have get 0, those
// that it has several times the sum, in ascending order of y.
func (l *Strided) Scatter(dx, dy []float32, rows int) {
	clear(dx)
	l.each(rows, func(from, to, n, stride int) {
		switch {
		case l.repeat:
			for i := range n {
				dx[to+i*stride] += dy[from+i]
			}
		case stride == 1:
			copy(dx[to:to+n], dy[from:])
		default:
			for i := range n {
				dx[to+i*stride] = dy[from+i]
			}
		}
	})
}

// Put sets the elements of x that the loop names to those of y, and leaves the others.
func (l *Strided) Put(x, y []float32, rows int) {
	l.each(rows, func(from, to, n, stride int) {
		if stride == 1 {
			copy(x[to:to+n], y[from:])
			return
		}
		for i := range n {
			x[to+i*stride] = y[from+i]
		}
	})
}

// MeanRows sets y[r] to the sum of row r of x [rows,cols] times scale.
func MeanRows(y, x []float32, rows, cols int, scale float32) {
	for r := range rows {
		y[r] = Sum(x[r*cols:][:cols]) * scale
	}
}

// MeanRowsGrad sets each element of a row of dx to dy times scale.
func MeanRowsGrad(dx, dy []float32, rows, cols int, scale float32) {
	for r := range rows {
		Fill(dx[r*cols:][:cols], dy[r]*scale)
	}
}

// MaxRows sets y[r] to the greatest element of row r of x [rows,cols]; NaN wins.
func MaxRows(y, x []float32, rows, cols int) {
	for r := range rows {
		row := x[r*cols:][:cols]
		m := row[0]
		for _, v := range row[1:] {
			if v > m || v != v {
				m = v
			}
		}
		y[r] = m
	}
}

// MaxRowsGrad shares dy[r] evenly among the elements of row r that are the greatest, as
// torch.amax does.
func MaxRowsGrad(dx, dy, x, y []float32, rows, cols int) {
	for r := range rows {
		row, d := x[r*cols:][:cols], dx[r*cols:][:cols]
		n := 0
		for _, v := range row {
			if v == y[r] {
				n++
			}
		}
		g := dy[r] / float32(max(n, 1))
		for i, v := range row {
			d[i] = 0
			if v == y[r] {
				d[i] = g
			}
		}
	}
}

// CumSumRows sets each row of y [rows,cols] to the running sums of that of x.
func CumSumRows(y, x []float32, rows, cols int) {
	for r := range rows {
		s := float32(0)
		for i, v := range x[r*cols:][:cols] {
			s += v
			y[r*cols+i] = s
		}
	}
}

// CumSumRowsGrad sets dx to the running sums of dy from behind.
func CumSumRowsGrad(dx, dy []float32, rows, cols int) {
	for r := range rows {
		s := float32(0)
		for i := cols - 1; i >= 0; i-- {
			s += dy[r*cols+i]
			dx[r*cols+i] = s
		}
	}
}
