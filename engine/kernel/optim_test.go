package kernel

import (
	"math"
	"testing"
)

// Three steps of torch.optim 2.15, single-tensor code, from the same start and
// gradients. PyTorch fuses some multiply-adds and we do not, so the last bits differ:
// the limit is a few float32 roundings of the parameter or of the steps taken.
func TestOptimTorch(t *testing.T) {
	grads := [][]float32{
		{0.1, -0.2, 0.3, 1e-4, 0.0},
		{0.05, 0.4, -0.3, -2e-4, 0.01},
		{-0.7, 0.1, 0.2, 3e-3, -0.02},
	}
	adam := func(lr, b1, b2, eps, wd float64, step int) AdamParams {
		n := float64(step)
		return AdamParams{
			Beta1: float32(b1), OneMinusBeta1: float32(1 - b1), Beta2: float32(b2), OneMinusBeta2: float32(1 - b2),
			StepSize: float32(lr / (1 - math.Pow(b1, n))), SqrtBiasCorrection2: float32(math.Sqrt(1 - math.Pow(b2, n))),
			Eps: float32(eps), WeightDecay: float32(wd), Decay: float32(1 - lr*wd),
		}
	}
	var product float64
	nadam := func(lr, b1, b2, eps, wd float64, step int) NAdamParams {
		mu := func(t int) float64 { return b1 * (1 - 0.5*math.Pow(0.96, float64(t)*0.004)) }
		if step == 1 {
			product = 1
		}
		product *= mu(step)
		return NAdamParams{
			Beta1: float32(b1), OneMinusBeta1: float32(1 - b1), Beta2: float32(b2), OneMinusBeta2: float32(1 - b2),
			BiasCorrection2: float32(1 - math.Pow(b2, float64(step))),
			GradScale:       float32(lr * (1 - mu(step)) / (1 - product)),
			MomentScale:     float32(lr * mu(step+1) / (1 - product*mu(step+1))),
			Eps:             float32(eps), WeightDecay: float32(wd),
		}
	}
	for _, c := range []struct {
		name string
		step func(p, g, m, v []float32, t int)
		want []float32
	}{
		{"sgd", func(p, g, _, _ []float32, _ int) { SGD(p, g, nil, SGDParams{LR: 0.1}) }, []float32{0.555000007, -1.27999997, 1.98000002, 0.000710000109, -0.030249998}},
		{"sgd momentum", func(p, g, m, _ []float32, t int) {
			SGD(p, g, m, SGDParams{LR: 0.1, Momentum: 0.9, OneMinusDampening: 0.75, WeightDecay: 0.01, First: t == 1})
		}, []float32{0.515865505, -1.25423241, 1.93675542, 0.000771535735, -0.0310218874}},
		{"sgd nesterov", func(p, g, m, _ []float32, t int) {
			SGD(p, g, m, SGDParams{LR: 0.1, Momentum: 0.9, OneMinusDampening: 1, WeightDecay: 0.01, Nesterov: true, First: t == 1})
		}, []float32{0.581163406, -1.29863763, 1.92426026, 0.000441805547, -0.0299052931}},
		{"adam", func(p, g, m, v []float32, t int) { Adam(p, g, m, v, adam(0.01, 0.9, 0.999, 1e-8, 0, t)) }, []float32{0.48585102, -1.24781752, 1.98816872, -0.0114984196, -0.035548497}},
		{"adam l2", func(p, g, m, v []float32, t int) { Adam(p, g, m, v, adam(0.01, 0.3, 0.9, 1e-6, 0.1, t)) }, []float32{0.491914749, -1.24544966, 1.98088467, -0.00916568004, -0.0198181793}},
		{"adamw", func(p, g, m, v []float32, t int) { AdamW(p, g, m, v, adam(0.01, 0.9, 0.999, 1e-8, 0.1, t)) }, []float32{0.484381855, -1.24408758, 1.9821943, -0.0114850905, -0.0354474038}},
		{"nadam", func(p, g, m, v []float32, t int) { NAdam(p, g, m, v, nadam(0.01, 0.9, 0.999, 1e-8, 0, t)) }, []float32{0.49519667, -1.25131667, 1.99161208, -0.0117263785, -0.0319315866}},
		{"nadam l2", func(p, g, m, v []float32, t int) { NAdam(p, g, m, v, nadam(0.01, 0.95, 0.99, 1e-8, 0.1, t)) }, []float32{0.493943781, -1.24522805, 1.98453295, -0.00935041159, -0.0202286504}},
		{"nadam decoupled", func(p, g, m, v []float32, t int) {
			a := nadam(0.01, 0.9, 0.999, 1e-8, 0, t)
			a.Decay = float32(1 - 0.01*0.1)
			NAdam(p, g, m, v, a)
		}, []float32{0.493724525, -1.24758244, 1.9856323, -0.0117173241, -0.0318274833}},
	} {
		p := []float32{0.5, -1.25, 2.0, 1e-3, -0.03125}
		m, v := make([]float32, 5), make([]float32, 5)
		for i, g := range grads {
			c.step(p, g, m, v, i+1)
		}
		for i, w := range c.want {
			if d := math.Abs(float64(p[i] - w)); d > 3e-7*max(math.Abs(float64(w)), 0.03) {
				t.Errorf("%s: parameter %d is %v, torch has %v", c.name, i, p[i], w)
			}
		}
	}
}

// By hand, with numbers that float32 holds exactly.
func TestOptimByHand(t *testing.T) {
	p, g, b := []float32{1}, []float32{0.5}, []float32{float32(math.NaN())}
	a := SGDParams{LR: 0.5, Momentum: 0.5, OneMinusDampening: 0.25, WeightDecay: 0.5, First: true}
	SGD(p, g, b, a) // d = 0.5 + 0.5 = 1, b = 1, p = 1 - 0.5
	if p[0] != 0.5 || b[0] != 1 {
		t.Errorf("first step: p %v, buffer %v; want 0.5, 1", p[0], b[0])
	}
	a.First, a.Nesterov = false, true
	SGD(p, g, b, a) // d = 0.75, b = 0.5 + 0.1875 = 0.6875, d = 0.75 + 0.34375, p = 0.5 - 0.546875
	if p[0] != -0.046875 || b[0] != 0.6875 {
		t.Errorf("second step: p %v, buffer %v; want -0.046875, 0.6875", p[0], b[0])
	}
	p, m, v := []float32{1}, []float32{0}, []float32{0}
	// m = 0.25*2 = 0.5, v = 0.25*4 = 1, p = 1 - (0.5*0.5) / (1/2 + 0.5)
	Adam(p, []float32{2}, m, v, AdamParams{OneMinusBeta1: 0.25, OneMinusBeta2: 0.25, StepSize: 0.5, SqrtBiasCorrection2: 2, Eps: 0.5})
	if p[0] != 0.75 || m[0] != 0.5 || v[0] != 1 {
		t.Errorf("adam: p %v, m %v, v %v; want 0.75, 0.5, 1", p[0], m[0], v[0])
	}
	// An infinite weight with a zero penalty stays what it is.
	p = []float32{float32(math.Inf(1))}
	SGD(p, g, nil, SGDParams{LR: 0.5})
	if !math.IsInf(float64(p[0]), 1) {
		t.Errorf("an infinite weight became %v", p[0])
	}
}
