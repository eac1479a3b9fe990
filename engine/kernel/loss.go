// Losses with their gradients, and counts of correct predictions. Losses are sums, and
// gradients take a scale, so that the caller decides about means (scale = 1/elements for mean
// squared error, 1/rows for cross-entropy) and can split a batch into micro-batches.

package kernel

// MSE returns the sum of (pred-target)^2, one row of the sum scheme, and sets
// grad = 2*(pred-target) * scale unless grad is nil. grad may be pred.
func MSE(grad, pred, target []float32, scale float32) float32 {
	target = target[:len(pred)]
	if grad != nil {
		grad = grad[:len(pred)]
	}
	var l lanes
	switch {
	case grad == nil && vec(vecErrors, &vecArgs{n: len(pred), p: ptrs(nil, pred, target, nil), sums: &l}),
		grad != nil && vec(vecErrorsGrad, &vecArgs{n: len(pred), p: ptrs(grad, pred, target, nil), k: [10]float32{scale}, sums: &l}):
		return l.total()
	}
	for i, v := range pred {
		d := v - target[i]
		l[i&15] += float32(d * d)
		if grad != nil {
			grad[i] = float32(2*d) * scale
		}
	}
	return l.total()
}

// IgnoreIndex marks a row without a class, PyTorch's default.
const IgnoreIndex = -100

// CrossEntropy returns the sum over rows, ascending, of log(sum e^(x-max)) - (x[t]-max)
// for logits x [rows,cols] and classes t [rows], each IgnoreIndex, which counts nothing, or
// within 0..cols-1. It sets grad = (softmax(x) - onehot(t)) * scale unless grad is nil, +0 for ignored rows.
// grad may be logits.
func CrossEntropy(grad, logits []float32, target []int32, rows, cols int, scale float32) float32 {
	logits, target = logits[:rows*cols], target[:rows]
	var sum float32
	for r, t := range target {
		x := logits[r*cols:][:cols]
		if t == IgnoreIndex {
			if grad != nil {
				clear(grad[r*cols:][:cols])
			}
			continue
		}
		m := rowMax(x)
		own := x[t] - m // grad may be logits
		if grad == nil {
			ls, _ := logSum(x)
			sum += ls - own
			continue
		}
		g := grad[r*cols:][:cols]
		s := expSum(g, x, m)
		sum += Log(s) - own
		Scale(g, g, 1/s)
		g[t] -= 1
		Scale(g, g, scale)
	}
	return sum
}

// CrossEntropyProb is CrossEntropy against probabilities target [rows,cols]: the sum
// over rows of -sum(target * logsoftmax(x)), each row by the sum scheme, and
// grad = (softmax(x) * sum(target) - target) * scale. grad may be logits.
func CrossEntropyProb(grad, logits, target []float32, rows, cols int, scale float32) float32 {
	logits, target = logits[:rows*cols], target[:rows*cols]
	var sum float32
	for o := 0; o < len(logits); o += cols {
		x, t := logits[o:o+cols], target[o:o+cols]
		ls, m := logSum(x)
		var l lanes
		if !vec(vecCrossSum, &vecArgs{n: cols, p: ptrs(x, t, nil, nil), k: [10]float32{m, ls}, sums: &l}) {
			for i, v := range x {
				l[i&15] += float32(t[i] * ((v - m) - ls))
			}
		}
		sum -= l.total()
		if grad != nil {
			g := grad[o : o+cols]
			softmaxRow(g, x)
			ts := Sum(t)
			if vec(vecCrossGrad, &vecArgs{n: cols, p: ptrs(g, g, t, nil), k: [10]float32{ts, scale}}) {
				continue
			}
			for i, v := range g {
				g[i] = float32(float32(v*ts)-t[i]) * scale
			}
		}
	}
	return sum
}

// Argmax is the position of the first maximum of x; the first NaN beats all, as in
// PyTorch. x is not empty.
func Argmax(x []float32) int {
	k := 0
	for i, v := range x {
		if v != v {
			return i
		}
		if v > x[k] {
			k = i
		}
	}
	return k
}
