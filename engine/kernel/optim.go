// Optimiser steps over flat slices. Formulas and order of operations are those of
// torch.optim's single-tensor code; scalars that depend on the step are computed by the
// caller in float64 and rounded once to float32.

package kernel

// SGDParams are the scalars of SGD.
type SGDParams struct {
	LR                float32
	Momentum          float32 // 0: buf is not used
	OneMinusDampening float32
	WeightDecay       float32
	Nesterov          bool
	First             bool // first step: the momentum buffer becomes the gradient
}

// SGD updates p by gradient g and the momentum buffer buf (nil without momentum):
//
//	g = g + wd*p
//	b = g on the first step, else momentum*b + (1-dampening)*g
//	g = g + momentum*b if nesterov, else b
//	p = p - lr*g
func SGD(p, g, buf []float32, a SGDParams) {
	g = g[:len(p)]
	k := [10]float32{a.WeightDecay, truth(a.WeightDecay != 0), a.LR, a.Momentum, a.OneMinusDampening, truth(a.First), truth(a.Nesterov)}
	if a.Momentum == 0 {
		if vec(vecSgd, &vecArgs{n: len(p), p: ptrs(p, g, nil, nil), k: k}) {
			return
		}
		for i, w := range p {
			p[i] = w - float32(a.LR*decayed(g[i], w, a.WeightDecay))
		}
		return
	}
	buf = buf[:len(p)]
	if vec(vecMomentum, &vecArgs{n: len(p), p: ptrs(p, g, buf, nil), k: k}) {
		return
	}
	for i, w := range p {
		d := decayed(g[i], w, a.WeightDecay)
		b := d
		if !a.First {
			b = float32(a.Momentum*buf[i]) + float32(a.OneMinusDampening*d)
		}
		buf[i] = b
		if a.Nesterov {
			b = d + float32(a.Momentum*b)
		}
		p[i] = w - float32(a.LR*b)
	}
}

// truth is a condition as a parameter of a loop.
func truth(set bool) float32 {
	if set {
		return 1
	}
	return 0
}

// decayed is the gradient with an L2 penalty. Without one an infinite weight must not
// make it NaN.
func decayed(g, w, wd float32) float32 {
	if wd != 0 {
		g += float32(wd * w)
	}
	return g
}

// AdamParams are the scalars of Adam and AdamW at step t = 1, 2, ...
type AdamParams struct {
	Beta1, OneMinusBeta1 float32
	Beta2, OneMinusBeta2 float32
	StepSize             float32 // lr / (1 - beta1^t)
	SqrtBiasCorrection2  float32 // sqrt(1 - beta2^t)
	Eps                  float32
	WeightDecay          float32 // Adam: times p, added to the gradient
	Decay                float32 // AdamW: 1 - lr*wd
}

// Adam updates p by gradient g, first moment m and second moment v (Kingma and Ba, arXiv
// 1412.6980, weight decay as an L2 penalty):
//
//	g = g + wd*p
//	m = m + (1-beta1)*(g-m), or g - beta1*(g-m) where beta1 <= 1/2
//	v = beta2*v + ((1-beta2)*g)*g
//	p = p - (stepsize*m) / (sqrt(v)/sqrtbias2 + eps)
func Adam(p, g, m, v []float32, a AdamParams) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	k := [10]float32{a.WeightDecay, truth(a.WeightDecay != 0), a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2, a.StepSize, a.SqrtBiasCorrection2, a.Eps}
	if vecMoments(vecAdam, p, g, m, v, k) {
		return
	}
	for i, w := range p {
		d := decayed(g[i], w, a.WeightDecay)
		mi, vi := moments(m[i], v[i], d, a.Beta1, a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2)
		m[i], v[i] = mi, vi
		p[i] = w - float32(a.StepSize*mi)/(Sqrt(vi)/a.SqrtBiasCorrection2+a.Eps)
	}
}

// AdamW is Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101):
// p = decay*p comes first and the gradient stays as it is.
func AdamW(p, g, m, v []float32, a AdamParams) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	k := [10]float32{a.Decay, 0, a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2, a.StepSize, a.SqrtBiasCorrection2, a.Eps}
	if vecMoments(vecAdamW, p, g, m, v, k) {
		return
	}
	for i, w := range p {
		mi, vi := moments(m[i], v[i], g[i], a.Beta1, a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2)
		m[i], v[i] = mi, vi
		p[i] = float32(w*a.Decay) - float32(a.StepSize*mi)/(Sqrt(vi)/a.SqrtBiasCorrection2+a.Eps)
	}
}

// LAMB moves first moment m and second moment v as Adam does and sets g to the direction of
// the step, which is p's own decay and Adam's step at the rate 1:
//
//	g = (m/(1-beta1^t)) / (sqrt(v)/sqrtbias2 + eps) + wd*p
//
// StepSize is 1/(1-beta1^t).
func LAMB(p, g, m, v []float32, a AdamParams) {
	for i, d := range g[:len(p)] {
		mi, vi := moments(m[i], v[i], d, a.Beta1, a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2)
		m[i], v[i] = mi, vi
		g[i] = decayed(float32(a.StepSize*mi)/(Sqrt(vi)/a.SqrtBiasCorrection2+a.Eps), p[i], a.WeightDecay)
	}
}

// vecMoments runs the loop of an optimiser if 1-beta1, k[2], is below 1/2.
func vecMoments(op vecOp, p, g, m, v []float32, k [10]float32) bool {
	return k[2] < 0.5 && vec(op, &vecArgs{n: len(p), p: ptrs(p, g, m, v), k: k})
}

// moments updates the running moments by gradient g. The two forms of the first are those of
// PyTorch's lerp, each the more accurate on its side of 1/2.
func moments(m, v, g, b1, mix1, b2, mix2 float32) (float32, float32) {
	d := g - m
	if mix1 < 0.5 {
		m += float32(mix1 * d)
	} else {
		m = g - float32(b1*d)
	}
	return m, float32(b2*v) + float32(float32(mix2*g)*g)
}

// NAdamParams are the scalars of NAdam at step t = 1, 2, ... with
// mu(t) = beta1 * (1 - 0.96^(t*momentum_decay)/2) and M(t) the product of mu(1..t).
type NAdamParams struct {
	Beta1, OneMinusBeta1 float32
	Beta2, OneMinusBeta2 float32
	BiasCorrection2      float32 // 1 - beta2^t
	GradScale            float32 // lr * (1-mu(t)) / (1-M(t))
	MomentScale          float32 // lr * mu(t+1) / (1-M(t+1))
	Eps                  float32
	WeightDecay          float32 // times p, added to the gradient
	Decay                float32 // decoupled weight decay: 1 - lr*wd; 0: none
}

// NAdam updates p by gradient g, first moment m and second moment v (Dozat 2016,
// "Incorporating Nesterov momentum into Adam"), m and v moving as Adam's:
//
//	p = decay*p
//	g = g + wd*p
//	d = sqrt(v/bias2) + eps
//	p = (p - (gradscale*g)/d) - (momentscale*m)/d
func NAdam(p, g, m, v []float32, a NAdamParams) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	k := [10]float32{a.WeightDecay, truth(a.WeightDecay != 0), a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2, a.GradScale, a.BiasCorrection2, a.Eps, a.MomentScale, 1}
	if a.Decay != 0 {
		k[9] = a.Decay
	}
	if vecMoments(vecNadam, p, g, m, v, k) {
		return
	}
	for i, w := range p {
		if a.Decay != 0 {
			w = float32(w * a.Decay)
		}
		d := decayed(g[i], w, a.WeightDecay)
		mi, vi := moments(m[i], v[i], d, a.Beta1, a.OneMinusBeta1, a.Beta2, a.OneMinusBeta2)
		m[i], v[i] = mi, vi
		q := Sqrt(vi/a.BiasCorrection2) + a.Eps
		w -= float32(a.GradScale*d) / q
		p[i] = w - float32(a.MomentScale*mi)/q
	}
}
