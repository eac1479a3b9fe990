// Every kernel against PyTorch, whose answers are committed files.
//
// Tolerances are relative to the largest number of the tensor. They cannot be zero: PyTorch
// sums in another order, sometimes in double precision, and has other polynomials for
// exp, tanh and erf. A sum of k products in one order differs from another order by some
// sqrt(k) roundings of 6e-8 of its largest partial sum; the sums here have up to 300
// terms, and 5e-7 has been seen. What only selects or copies is compared exactly.

package kernel_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/kernel"
)

const (
	exact   = 0
	rounded = 3e-7 // elementwise: a few roundings, ours or PyTorch's
	summed  = 1e-6 // sums
)

type description struct {
	Op    string `json:"op"`
	Loss  string `json:"loss"`
	Train bool   `json:"train"`
	Attrs struct {
		Kernel   [2]int  `json:"kernel_size"`
		Stride   [2]int  `json:"stride"`
		Padding  [2]int  `json:"padding"`
		Same     bool    `json:"same"`
		Dilation [2]int  `json:"dilation"`
		Groups   int     `json:"groups"`
		Eps      float64 `json:"eps"`
		Momentum float64 `json:"momentum"`
		Approx   string  `json:"approximate"`
	} `json:"attrs"`
}

// testCase is a case of the file under test.
type testCase struct {
	*testing.T
	f    *golden.File
	name string
	d    description
}

func (c testCase) f32(role string) []float32  { return c.f.F32(c.name + "." + role) }
func (c testCase) shape(role string) []int    { return c.f.Tensor(c.name + "." + role).Shape }
func (c testCase) has(role string) bool       { return c.f.Has(c.name + "." + role) }
func (c testCase) like(role string) []float32 { return make([]float32, len(c.f32(role))) }

func (c testCase) near(role string, got []float32, tol float64) {
	c.Helper()
	want := c.f32(role)
	golden.Near(c.T, role, got, want, tol)
	c.Logf("%s: %v", role, golden.Compare(got, want))
}

// classes are the int64 targets as kernels take them.
func (c testCase) classes() []int32 {
	var t []int32
	for _, v := range c.f.I64(c.name + ".target") {
		t = append(t, int32(v))
	}
	return t
}

// rows splits a shape into rows and the last axis.
func rows(shape []int) (int, int) {
	n := 1
	for _, d := range shape[:len(shape)-1] {
		n *= d
	}
	return n, shape[len(shape)-1]
}

func TestGolden(t *testing.T) {
	f := golden.MustOpen(t, "ops")
	ops := map[string]func(testCase){
		"conv2d": goldenConv, "linear": goldenLinear, "maxpool2d": goldenMaxPool, "avgpool2d": goldenAvgPool,
		"batchnorm1d": goldenBatchNorm, "batchnorm2d": goldenBatchNorm, "add": goldenAdd, "flatten": func(c testCase) {
			c.near("y", c.f32("x"), exact)
			c.near("dx", c.f32("dy"), exact)
		},
		"relu": goldenReLU,
		"softmax": func(c testCase) {
			n, k := rows(c.shape("x"))
			y, dx := c.like("y"), c.like("x")
			kernel.Softmax(y, c.f32("x"), n, k)
			c.near("y", y, rounded)
			kernel.SoftmaxGrad(dx, c.f32("dy"), y, n, k)
			c.near("dx", dx, summed)
		},
		"gelu": func(c testCase) {
			if c.d.Attrs.Approx == "tanh" {
				unary(kernel.GELUTanh, kernel.GELUTanhGrad, true)(c)
				return
			}
			unary(kernel.GELU, kernel.GELUGrad, true)(c)
		},
		"layernorm": goldenLayerNorm, "embedding": goldenEmbedding,
		"tanh":    unary(kernel.TanhForward, kernel.TanhGrad, false),
		"sigmoid": unary(kernel.Sigmoid, kernel.SigmoidGrad, false),
	}
	losses := map[string]func(testCase){"mse": goldenMSE, "cross_entropy": goldenCrossEntropy}
	for _, name := range f.Cases() {
		t.Run(name, func(t *testing.T) {
			c := testCase{T: t, f: f, name: name}
			f.Describe(name, &c.d)
			run := ops[c.d.Op]
			if c.d.Loss != "" {
				run = losses[c.d.Loss]
			}
			if run == nil {
				t.Fatalf("no test of %q", c.d.Op+c.d.Loss)
			}
			run(c)
		})
	}
}

// teams runs f on one thread and on three.
func teams(c testCase, f func(testCase, *kernel.Team)) {
	for _, n := range []int{1, 3} {
		c.Run(fmt.Sprintf("threads=%d", n), func(t *testing.T) {
			team := kernel.NewTeam(n)
			defer team.Close()
			d := c
			d.T = t
			f(d, team)
		})
	}
}

func goldenConv(c testCase) {
	x, w, y, a := c.shape("x"), c.shape("weight"), c.shape("y"), c.d.Attrs
	one := func(p [2]int) [2]int {
		if p == [2]int{} {
			return [2]int{1, 1}
		}
		return p
	}
	s, d, pad := one(a.Stride), one(a.Dilation), a.Padding
	far := pad
	if a.Same {
		for i := range 2 {
			all := d[i] * (a.Kernel[i] - 1)
			pad[i] = all / 2
			far[i] = all - pad[i]
		}
	}
	k := &kernel.Conv{
		N: x[0], C: x[1], H: x[2], W: x[3], O: w[0], KH: w[2], KW: w[3], SH: s[0], SW: s[1],
		PT: pad[0], PL: pad[1], PB: far[0], PR: far[1], DH: d[0], DW: d[1], Groups: max(a.Groups, 1),
	}
	if k.OH() != y[2] || k.OW() != y[3] {
		c.Fatalf("output of %dx%d, PyTorch's is %v", k.OH(), k.OW(), y)
	}
	teams(c, func(c testCase, team *kernel.Team) {
		scratch := make([]float32, kernel.ConvScratch(k))
		var bias []float32
		if c.has("bias") {
			bias = c.f32("bias")
		}
		y, dx, dw := c.like("y"), c.like("x"), c.like("weight")
		kernel.ConvForward(team, k, y, c.f32("x"), c.f32("weight"), bias, false, scratch)
		c.near("y", y, summed)
		relu := c.like("y")
		kernel.ConvForward(team, k, relu, c.f32("x"), c.f32("weight"), bias, true, scratch)
		kernel.ReLU(y, y)
		if !slices.Equal(relu, y) {
			c.Error("with ReLU the answer is not ReLU's of the answer without")
		}
		kernel.ConvBackwardData(team, k, dx, c.f32("dy"), c.f32("weight"), scratch)
		c.near("dx", dx, summed)
		kernel.ConvBackwardWeight(team, k, dw, c.f32("dy"), c.f32("x"), false, scratch)
		c.near("dweight", dw, summed)
		if bias != nil {
			db := c.like("bias")
			kernel.SumChannels(db, c.f32("dy"), kernel.AllChannels(k.N, k.O, k.OH()*k.OW()), false)
			c.near("dbias", db, summed)
		}
	})
}

func goldenLinear(c testCase) {
	teams(c, func(c testCase, team *kernel.Team) {
		m, in := rows(c.shape("x"))
		out := c.shape("weight")[0]
		gemm := func(g kernel.GemmArgs) {
			kernel.Gemm(team, &g, make([]float32, kernel.GemmScratch(g.M, g.N, g.K)))
		}
		x, w, dy, y, dx, dw := c.f32("x"), c.f32("weight"), c.f32("dy"), c.like("y"), c.like("x"), c.like("weight")
		var bias []float32
		if c.has("bias") {
			bias = c.f32("bias")
		}
		// y = x wᵀ + bias, dx = dy w, dw = dyᵀ x
		gemm(kernel.GemmArgs{M: m, N: out, K: in, A: x, RS: in, KS: 1, B: w, BK: 1, BJ: in, C: y, LDC: out, ColBias: bias})
		c.near("y", y, summed)
		gemm(kernel.GemmArgs{M: m, N: in, K: out, A: dy, RS: out, KS: 1, B: w, BK: in, BJ: 1, C: dx, LDC: in})
		c.near("dx", dx, summed)
		gemm(kernel.GemmArgs{M: out, N: in, K: m, A: dy, RS: 1, KS: out, B: x, BK: in, BJ: 1, C: dw, LDC: in})
		c.near("dweight", dw, summed)
		if bias != nil {
			db := c.like("bias")
			kernel.SumChannels(db, dy, kernel.AllChannels(m, out, 1), false)
			c.near("dbias", db, summed)
		}
	})
}

func (c testCase) pool() *kernel.Pool {
	x, y, a := c.shape("x"), c.shape("y"), c.d.Attrs
	p := &kernel.Pool{
		N: x[0], C: x[1], H: x[2], W: x[3], KH: a.Kernel[0], KW: a.Kernel[1], SH: a.Stride[0], SW: a.Stride[1],
		PT: a.Padding[0], PL: a.Padding[1],
	}
	p.OH, p.OW = kernel.PoolOut(p.H, p.KH, p.SH, p.PT), kernel.PoolOut(p.W, p.KW, p.SW, p.PL)
	if p.OH != y[2] || p.OW != y[3] {
		c.Fatalf("output of %dx%d, PyTorch's is %v", p.OH, p.OW, y)
	}
	return p
}

func goldenMaxPool(c testCase) {
	p := c.pool()
	y, dx, arg := c.like("y"), c.like("x"), make([]int32, len(c.f32("y")))
	kernel.MaxPool(p, y, c.f32("x"), arg)
	c.near("y", y, exact)
	for i, k := range c.f.I64(c.name + ".indices") {
		if int64(arg[i]) != k {
			c.Errorf("output %d comes from %d, PyTorch's from %d", i, arg[i], k)
		}
	}
	kernel.MaxPoolGrad(p, dx, c.f32("dy"), arg)
	// Windows overlap: an element may be the maximum of several.
	c.near("dx", dx, rounded)
}

func goldenAvgPool(c testCase) {
	p := c.pool()
	y, dx := c.like("y"), c.like("x")
	kernel.AvgPool(p, y, c.f32("x"))
	c.near("y", y, summed)
	kernel.AvgPoolGrad(p, dx, c.f32("dy"))
	c.near("dx", dx, rounded)
}

func goldenBatchNorm(c testCase) {
	x, a := c.shape("x"), c.d.Attrs
	n, ch, hw := x[0], x[1], 1
	for _, d := range x[2:] {
		hw *= d
	}
	in, dy, gamma, beta := c.f32("x"), c.f32("dy"), c.f32("weight"), c.f32("bias")
	runMean, runVar := c.f32("running_mean"), c.f32("running_var")
	mean, variance := slices.Clone(runMean), slices.Clone(runVar)
	tol := summed
	if c.d.Train {
		kernel.BatchNormStats(mean, variance, in, kernel.AllChannels(n, ch, hw))
		kernel.BatchNormRunning(runMean, runVar, mean, variance, float32(a.Momentum), n*hw)
		if strings.HasSuffix(c.name, "_offset") {
			// PyTorch sums in double precision. Rounding our mean, 6e-8 of 50, is
			// 6e-6 of a deviation of 0.5.
			tol = 1e-5
		}
	}
	c.near("running_mean_after", runMean, rounded)
	c.near("running_var_after", runVar, tol)
	inv, y, dx, dg, db := make([]float32, ch), c.like("y"), c.like("x"), make([]float32, ch), make([]float32, ch)
	kernel.InvStd(inv, variance, float32(a.Eps))
	kernel.BatchNormApply(y, in, mean, inv, gamma, beta, kernel.AllChannels(n, ch, hw))
	c.near("y", y, tol)
	kernel.BatchNormGradSums(dg, db, dy, in, mean, inv, kernel.AllChannels(n, ch, hw))
	c.near("dweight", dg, tol)
	c.near("dbias", db, summed)
	if c.d.Train {
		kernel.BatchNormGradInput(dx, dy, in, mean, inv, gamma, dg, db, kernel.AllChannels(n, ch, hw))
		c.near("dx", dx, tol)
	}
}

func goldenLayerNorm(c testCase) {
	n, k := rows(c.shape("x"))
	gamma, beta := slices.Repeat([]float32{1}, k), make([]float32, k)
	if c.has("weight") {
		gamma, beta = c.f32("weight"), c.f32("bias")
	}
	tol := summed
	if strings.HasSuffix(c.name, "_offset") {
		tol = 1e-5 // as of batch norm
	}
	x, dy, y, dx := c.f32("x"), c.f32("dy"), c.like("y"), c.like("x")
	mean, inv := make([]float32, n), make([]float32, n)
	kernel.LayerNorm(y, x, gamma, beta, mean, inv, n, k, float32(c.d.Attrs.Eps))
	c.near("y", y, tol)
	kernel.LayerNormGradInput(dx, dy, x, gamma, mean, inv, n, k)
	c.near("dx", dx, tol)
	if c.has("weight") {
		kernel.LayerNormGradParams(gamma, beta, dy, x, mean, inv, n, k, false)
		c.near("dweight", gamma, tol)
		c.near("dbias", beta, summed)
	}
}

func goldenEmbedding(c testCase) {
	var tokens []float32
	for _, v := range c.f.I64(c.name + ".index") {
		tokens = append(tokens, float32(v))
	}
	s := c.shape("weight")
	y, dw := c.like("y"), c.like("weight")
	kernel.Embed(y, tokens, c.f32("weight"), s[0], s[1])
	c.near("y", y, exact)
	kernel.EmbedGrad(dw, c.f32("dy"), tokens, s[0], s[1], false)
	c.near("dweight", dw, rounded)
}

func goldenReLU(c testCase) {
	y, dx := c.like("y"), c.like("x")
	kernel.ReLU(y, c.f32("x"))
	c.near("y", y, exact)
	for i, w := range c.f32("y") {
		if math.Signbit(float64(y[i])) != math.Signbit(float64(w)) && w == w {
			c.Errorf("element %d is %v, PyTorch says %v: the sign of zero", i, y[i], w)
		}
	}
	kernel.ReLUGrad(dx, c.f32("dy"), y)
	for i, v := range y {
		if v != v {
			// PyTorch zeroes the gradient where y <= 0 and so lets that of NaN
			// pass; ours passes it where y > 0. Both are a training run that has
			// already failed.
			dx[i] = c.f32("dx")[i]
		}
	}
	c.near("dx", dx, exact)
}

// unary tests y = f(x) and its gradient, which reads x (input) or y.
func unary(f func(y, x []float32), grad func(dx, dy, xy []float32), input bool) func(testCase) {
	return func(c testCase) {
		y, dx := c.like("y"), c.like("x")
		f(y, c.f32("x"))
		c.near("y", y, rounded)
		from := y
		if input {
			from = c.f32("x")
		}
		grad(dx, c.f32("dy"), from)
		c.near("dx", dx, rounded)
	}
}

func goldenAdd(c testCase) {
	y := c.like("y")
	kernel.Add(y, c.f32("a"), c.f32("b"))
	c.near("y", y, exact)
	c.near("da", c.f32("dy"), exact)
	c.near("db", c.f32("dy"), exact)
}

func goldenMSE(c testCase) {
	x := c.f32("x")
	dx := make([]float32, len(x))
	n := float32(len(x))
	sum := kernel.MSE(dx, x, c.f32("target"), 1/n)
	c.near("loss", []float32{sum / n}, rounded)
	c.near("dx", dx, rounded)
}

func goldenCrossEntropy(c testCase) {
	x := c.f32("x")
	n, k := rows(c.shape("x"))
	dx := make([]float32, len(x))
	var sum float32
	count := n
	if strings.Contains(c.name, "index") {
		t := c.classes()
		for _, class := range t {
			if class == kernel.IgnoreIndex {
				count--
			}
		}
		sum = kernel.CrossEntropy(dx, x, t, n, k, 1/float32(count))
	} else {
		sum = kernel.CrossEntropyProb(dx, x, c.f32("target"), n, k, 1/float32(count))
	}
	c.near("loss", []float32{sum / float32(count)}, summed)
	c.near("dx", dx, summed)
}

// Optimisers: five steps each, with the scalars as torch.optim computes them.
func TestGoldenOptim(t *testing.T) {
	f := golden.MustOpen(t, "optim")
	p0, grads := f.F32("p0"), f.F32("grads")
	n := len(p0)
	for _, name := range f.Cases() {
		if strings.HasPrefix(name, "lr.") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var d struct {
				Name        string     `json:"name"`
				LR          float64    `json:"lr"`
				Betas       [2]float64 `json:"betas"`
				Eps         float64    `json:"eps"`
				WeightDecay float64    `json:"weight_decay"`
				Momentum    float64    `json:"momentum"`
				Dampening   float64    `json:"dampening"`
				Nesterov    bool       `json:"nesterov"`
				MuDecay     float64    `json:"momentum_decay"`
			}
			f.Describe(name, &d)
			p := slices.Clone(p0)
			m, v := make([]float32, n), make([]float32, n)
			mus := 1.0
			for step := 1; step <= 5; step++ {
				g := grads[(step-1)*n:][:n]
				b1, b2 := float32(d.Betas[0]), float32(d.Betas[1])
				mix1, mix2 := float32(1-d.Betas[0]), float32(1-d.Betas[1])
				bias1, bias2 := 1-math.Pow(d.Betas[0], float64(step)), 1-math.Pow(d.Betas[1], float64(step))
				switch d.Name {
				case "sgd":
					kernel.SGD(p, g, m, kernel.SGDParams{
						LR: float32(d.LR), Momentum: float32(d.Momentum), OneMinusDampening: float32(1 - d.Dampening),
						WeightDecay: float32(d.WeightDecay), Nesterov: d.Nesterov, First: step == 1,
					})
				case "adam", "adamw":
					a := kernel.AdamParams{
						Beta1: b1, OneMinusBeta1: mix1, Beta2: b2, OneMinusBeta2: mix2, Eps: float32(d.Eps),
						StepSize: float32(d.LR / bias1), SqrtBiasCorrection2: float32(math.Sqrt(bias2)),
						WeightDecay: float32(d.WeightDecay), Decay: float32(1 - d.LR*d.WeightDecay),
					}
					if d.Name == "adam" {
						kernel.Adam(p, g, m, v, a)
					} else {
						kernel.AdamW(p, g, m, v, a)
					}
				case "nadam":
					mu := func(t int) float64 { return d.Betas[0] * (1 - 0.5*math.Pow(0.96, float64(t)*d.MuDecay)) }
					mus *= mu(step)
					kernel.NAdam(p, g, m, v, kernel.NAdamParams{
						Beta1: b1, OneMinusBeta1: mix1, Beta2: b2, OneMinusBeta2: mix2, Eps: float32(d.Eps),
						BiasCorrection2: float32(bias2), GradScale: float32(d.LR * (1 - mu(step)) / (1 - mus)),
						MomentScale: float32(d.LR * mu(step+1) / (1 - mus*mu(step+1))), WeightDecay: float32(d.WeightDecay),
					})
				default:
					t.Fatalf("no kernel for %q", d.Name)
				}
				want := f.F32(name + ".p")[(step-1)*n:][:n]
				step := fmt.Sprintf("step %d", step)
				golden.Near(t, step, p, want, rounded)
				t.Logf("%s: %v", step, golden.Compare(p, want))
				// The parameters hardly move: what moved is compared too. Its error
				// is the rounding of the parameter, 6e-8 of at most 2, or of 1e3
				// where plain SGD meets the huge gradient.
				if d.Name != "sgd" {
					for i := range p {
						if got, w := p[i]-p0[i], want[i]-p0[i]; math.Abs(float64(got-w)) > 5e-7 {
							t.Errorf("%s: parameter %d moved by %v, PyTorch's by %v", step, i, got, w)
						}
					}
				}
			}
			for role, got := range map[string][]float32{"momentum_buffer": m, "exp_avg": m, "exp_avg_sq": v} {
				if f.Has(name + "." + role) {
					golden.Near(t, role, got, f.F32(name+"."+role), rounded)
				}
			}
		})
	}
}
