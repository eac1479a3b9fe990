// Softmax over the last axis.

package kernel

import "math"

// rowMax is the maximum of a row, ignoring NaN, which the exponentials propagate anyway.
func rowMax(x []float32) float32 {
	m := x[0]
	if l := (lanes{m, m, m, m, m, m, m, m, m, m, m, m, m, m, m, m}); vec(vecMax, &vecArgs{n: len(x), p: ptrs(x, nil, nil, nil), sums: &l}) {
		return l.max()
	}
	for _, v := range x[1:] {
		if v > m {
			m = v
		}
	}
	return m
}

// max is the largest lane. Lanes are not NaN.
func (l *lanes) max() float32 {
	m := l[0]
	for _, v := range l[1:] {
		if v > m {
			m = v
		}
	}
	return m
}

// Softmax sets each row of y [rows,cols] to e^(x-max) * (1/sum), with the sum as in
// vec_sum.go. (Dividing each element would take longer than the exponential.) A row with NaN
// or +Inf, or of -Inf only, becomes NaN, as in PyTorch. y may be x.
func Softmax(y, x []float32, rows, cols int) {
	y, x = y[:rows*cols], x[:rows*cols]
	if len(x) > 0 && cols <= 16 && vec(vecSoftmaxRow, &vecArgs{rows: rows, stride: cols, n: cols, p: ptrs(y, x, nil, nil), k: [10]float32{1}}) {
		return
	}
	for ; len(x) > 0; x, y = x[cols:], y[cols:] {
		softmaxRow(y[:cols], x[:cols])
	}
}

// maskScale sets y to x * scale, and to the least number where the mask is zero; y may be x.
func maskScale(y, x, mask []float32, scale float32) {
	y, mask = y[:len(x)], mask[:len(x)]
	if vec(vecMaskScale, &vecArgs{n: len(x), p: ptrs(y, x, mask, nil), k: [10]float32{scale}}) {
		return
	}
	for i, v := range x {
		if y[i] = v * scale; mask[i] == 0 {
			y[i] = -math.MaxFloat32
		}
	}
}

// softmaxScaled is softmaxRow of x * scale; y may be x.
func softmaxScaled(y, x []float32, scale float32) {
	if len(x) <= 16 && vec(vecSoftmaxRow, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil), k: [10]float32{scale}}) {
		return
	}
	if scale != 1 {
		Scale(y, x, scale)
		x = y
	}
	softmaxRow(y, x)
}

func softmaxRow(y, x []float32) {
	Scale(y, y, 1/expSum(y, x, rowMax(x)))
}

// expSum sets y = e^(x-m) and returns the sum.
func expSum(y, x []float32, m float32) float32 {
	y = y[:len(x)]
	var l lanes
	if !vec(vecExpSum, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil), k: [10]float32{m}, sums: &l}) {
		for i, v := range x {
			e := Exp(v - m)
			y[i] = e
			l[i&15] += e
		}
	}
	return l.total()
}

// SoftmaxGrad sets dx = y * (dy - sum(dy*y)) for each row of softmax output y
// [rows,cols]. dx may be dy.
func SoftmaxGrad(dx, dy, y []float32, rows, cols int) {
	dx, dy, y = dx[:rows*cols], dy[:rows*cols], y[:rows*cols]
	if len(y) > 0 && cols <= 16 && vec(vecSoftmaxGradRow, &vecArgs{rows: rows, stride: cols, n: cols, p: ptrs(dx, dy, y, nil), k: [10]float32{1}}) {
		return
	}
	for ; len(y) > 0; dx, dy, y = dx[cols:], dy[cols:], y[cols:] {
		d, g := dx[:cols], dy[:cols]
		s := Dot(g, y[:cols])
		if vec(vecSoftmaxGrad, &vecArgs{n: cols, p: ptrs(d, g, y, nil), k: [10]float32{s}}) {
			continue
		}
		for i, v := range y[:cols] {
			d[i] = v * (g[i] - s)
		}
	}
}

// softmaxGradScaled is SoftmaxGrad of one row times scale.
func softmaxGradScaled(dx, dy, y []float32, scale float32) {
	n := len(y)
	if n <= 16 && vec(vecSoftmaxGradRow, &vecArgs{n: n, p: ptrs(dx[:n], dy[:n], y, nil), k: [10]float32{scale}}) {
		return
	}
	SoftmaxGrad(dx, dy, y, 1, n)
	Scale(dx, dx, scale)
}

// logSum is the logarithm of the sum of e^(x-m), m the row's maximum.
func logSum(x []float32) (ls, m float32) {
	m = rowMax(x)
	var l lanes
	if !vec(vecSumExp, &vecArgs{n: len(x), p: ptrs(x, nil, nil, nil), k: [10]float32{m}, sums: &l}) {
		for i, v := range x {
			l[i&15] += Exp(v - m)
		}
	}
	return Log(l.total()), m
}
