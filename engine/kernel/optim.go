// Optimiser steps over flat slices. Formulas and order of operations are those of
// torch.optim's single-tensor code; scalars that depend on the step are computed by the
// caller in float64 (with PowInt and Pow64, whose bits are the same everywhere) and
// rounded once to float32.

package kernel

// SGDArgs are the scalars of SGD.
type SGDArgs struct {
	LR          float32
	Momentum    float32 // 0: buf is not used
	Undamped    float32 // 1 - dampening
	WeightDecay float32
	Nesterov    bool
	First       bool // first step: the momentum buffer becomes the gradient
}

// SGD updates p by gradient g and the momentum buffer buf (nil without momentum):
//
//	g  = g + wd*p
//	b  = g on the first step, else momentum*b + undamped*g
//	g  = g + momentum*b if nesterov, else b
//	p  = p - lr*g
func SGD(p, g, buf []float32, a SGDArgs) {
	g = g[:len(p)]
	if a.Momentum == 0 {
		for i, w := range p {
			d := g[i]
			if a.WeightDecay != 0 {
				d += float32(a.WeightDecay * w)
			}
			p[i] = w - float32(a.LR*d)
		}
		return
	}
	buf = buf[:len(p)]
	for i, w := range p {
		d := g[i]
		if a.WeightDecay != 0 {
			d += float32(a.WeightDecay * w)
		}
		b := d
		if !a.First {
			b = float32(a.Momentum*buf[i]) + float32(a.Undamped*d)
		}
		buf[i] = b
		if a.Nesterov {
			b = d + float32(a.Momentum*b)
		}
		p[i] = w - float32(a.LR*b)
	}
}

// AdamArgs are the scalars of Adam and AdamW at step t = 1, 2, ...
type AdamArgs struct {
	Mix1        float32 // 1 - beta1
	Beta2, Mix2 float32 // beta2, 1 - beta2
	StepSize    float32 // lr / (1 - beta1^t)
	Root2       float32 // sqrt(1 - beta2^t)
	Eps         float32
	WeightDecay float32 // Adam: added to the gradient, times p
	Shrink      float32 // AdamW: 1 - lr*wd
}

// Adam updates p by gradient g, first moment m and second moment v (Kingma and Ba, arXiv
// 1412.6980, weight decay as an L2 penalty):
//
//	g = g + wd*p
//	m = m + mix1*(g-m)
//	v = beta2*v + (mix2*g)*g
//	p = p - (stepsize*m) / (sqrt(v)/root2 + eps)
func Adam(p, g, m, v []float32, a AdamArgs) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i, w := range p {
		d := g[i]
		if a.WeightDecay != 0 {
			d += float32(a.WeightDecay * w)
		}
		p[i] = w - adam(&m[i], &v[i], d, &a)
	}
}

// AdamW is Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101):
// p = shrink*p comes first and the gradient stays as it is.
func AdamW(p, g, m, v []float32, a AdamArgs) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i, w := range p {
		w = float32(w * a.Shrink)
		p[i] = w - adam(&m[i], &v[i], g[i], &a)
	}
}

// adam moves the moments and returns the step.
func adam(m, v *float32, g float32, a *AdamArgs) float32 {
	mi := *m + float32(a.Mix1*(g-*m))
	vi := float32(a.Beta2**v) + float32(float32(a.Mix2*g)*g)
	*m, *v = mi, vi
	return float32(a.StepSize*mi) / float32(float32(Sqrt(vi)/a.Root2)+a.Eps)
}

// NAdamArgs are the scalars of NAdam at step t = 1, 2, ... with
// mu(t) = beta1 * (1 - 0.96^(t*momentumDecay)/2) and M(t) the product of mu(1..t).
type NAdamArgs struct {
	Mix1        float32 // 1 - beta1
	Beta2, Mix2 float32 // beta2, 1 - beta2
	Bias2       float32 // 1 - beta2^t
	GradStep    float32 // lr * (1-mu(t)) / (1-M(t))
	MomentStep  float32 // lr * mu(t+1) / (1-M(t+1))
	Eps         float32
	WeightDecay float32 // added to the gradient, times p
	Shrink      float32 // decoupled: 1 - lr*wd; 0 means 1
}

// NAdam updates p by gradient g, first moment m and second moment v (Dozat 2016):
//
//	p = shrink*p
//	g = g + wd*p
//	m = m + mix1*(g-m)
//	v = beta2*v + (mix2*g)*g
//	d = sqrt(v/bias2) + eps
//	p = (p - (gradstep*g)/d) - (momentstep*m)/d
func NAdam(p, g, m, v []float32, a NAdamArgs) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i, w := range p {
		if a.Shrink != 0 {
			w = float32(w * a.Shrink)
		}
		d := g[i]
		if a.WeightDecay != 0 {
			d += float32(a.WeightDecay * w)
		}
		mi := m[i] + float32(a.Mix1*(d-m[i]))
		vi := float32(a.Beta2*v[i]) + float32(float32(a.Mix2*d)*d)
		m[i], v[i] = mi, vi
		q := Sqrt(float32(vi/a.Bias2)) + a.Eps
		w -= float32(a.GradStep*d) / q
		p[i] = w - float32(a.MomentStep*mi)/q
	}
}
