// Losses of values, each a sum over the elements of one row with its gradient. They are
// computed in the order of the elements, in the 16 lanes of the sum scheme.

package kernel

// log1p is log(1+u) for 0 <= u <= 1, also where 1+u loses u.
func log1p(u float32) float32 {
	y := 1 + u
	if y == 1 {
		return u
	}
	return float32(Log(y)*u) / (y - 1)
}

// BCE returns the sum of the binary cross entropies of logits x against targets t from 0 to
// 1, those of positives weighted by pos, which has an element for each of x, or none for 1:
//
//	(1-t)*x + (1 + (pos-1)*t) * (log(1 + e^-|x|) + max(-x, 0))
//
// It sets grad = ((1-t + pos*t)*sigmoid(x) - pos*t) * scale unless grad is nil. grad may be x.
func BCE(grad, x, t, pos []float32, scale float32) float32 {
	var l lanes
	for i, v := range x {
		w, y := float32(1), t[i]
		if pos != nil {
			w = pos[i]
		}
		py := float32(w * y)
		own := (1 - y) + py
		soft := log1p(Exp(-abs(v)))
		if v < 0 {
			soft -= v
		}
		l[i&15] += float32((1-y)*v) + float32(own*soft)
		if grad != nil {
			grad[i] = (float32(own*sigmoid(v)) - py) * scale
		}
	}
	return l.total()
}

// L1 returns the sum of |x-t| and sets grad = sign(x-t) * scale unless grad is nil, 0 where
// they are equal. grad may be x.
func L1(grad, x, t []float32, scale float32) float32 {
	var l lanes
	for i, v := range x {
		d := v - t[i]
		l[i&15] += abs(d)
		if grad != nil {
			grad[i] = sign(d) * scale
		}
	}
	return l.total()
}

// SmoothL1 returns the sum of d*d/(2*beta) where |d| < beta and |d| - beta/2 elsewhere, with
// d = x-t, and sets grad = d/beta * scale or sign(d) * scale unless grad is nil. With beta 0 it
// is L1. grad may be x.
func SmoothL1(grad, x, t []float32, beta, scale float32) float32 {
	var l lanes
	for i, v := range x {
		d := v - t[i]
		a, g := abs(d), sign(d)
		if a < beta {
			l[i&15] += float32(float32(0.5*d)*d) / beta
			g = d / beta
		} else {
			l[i&15] += a - float32(0.5*beta)
		}
		if grad != nil {
			grad[i] = g * scale
		}
	}
	return l.total()
}

// Huber returns the sum of d*d/2 where |d| <= delta and delta*(|d| - delta/2) elsewhere, with
// d = x-t, and sets grad = d * scale or delta*sign(d) * scale unless grad is nil. grad may be
// x.
func Huber(grad, x, t []float32, delta, scale float32) float32 {
	var l lanes
	for i, v := range x {
		d := v - t[i]
		a, g := abs(d), d
		if a <= delta {
			l[i&15] += float32(float32(0.5*d) * d)
		} else {
			l[i&15] += float32(delta * (a - float32(0.5*delta)))
			g = float32(delta * sign(d))
		}
		if grad != nil {
			grad[i] = g * scale
		}
	}
	return l.total()
}

// sign is -1, 0 or 1, and NaN of NaN.
func sign(x float32) float32 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return x
}
