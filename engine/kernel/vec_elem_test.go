package kernel

import (
	"fmt"
	"hash/fnv"
	"math"
	"testing"
)

// elemTNormal is n normal numbers, a function of seed.
func elemTNormal(n int, seed uint64) []float32 {
	x := make([]float32, n)
	Normal(x, NewStream(seed, DomainTest, 0, 0))
	return x
}

// elemTSpecial is every kind of float32 there is, and some normal ones.
func elemTSpecial() []float32 {
	u := []uint32{
		0, signBit, 1, signBit | 1, 0x007fffff, 0x00800000, 0x80800000, 0x3f800000, 0xbf800000,
		0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7fa12345, 0xffffffff,
	}
	var x []float32
	for _, v := range u {
		x = append(x, math.Float32frombits(v))
	}
	return append(x, elemTNormal(20, 99)...)
}

// elemTSame demands equal bits; any NaN equals any NaN, for no rule fixes their payload.
func elemTSame(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i, v := range got {
		if w := want[i]; math.Float32bits(v) != math.Float32bits(w) && (v == v || w == w) {
			t.Fatalf("%s: element %d is %v (%#x), want %v (%#x)", what, i, v, math.Float32bits(v), w, math.Float32bits(w))
		}
	}
}

// elemTClose allows tol relative to the larger of 1 and the value: rounding, since the
// reference is computed in float64.
func elemTClose(t testing.TB, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= tol*max(1, math.Abs(w))) {
			t.Fatalf("%s: element %d is %v, want %v within %v", what, i, got[i], w, tol)
		}
	}
}

func elemTWide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// elemTDiff is the gradient of f at x by central differences in float64. With h = 1e-5
// they are good to about 1e-9, so what a float32 gradient may differ by is its rounding.
func elemTDiff(f func([]float64) float64, x []float32) []float64 {
	const h = 1e-5
	v := elemTWide(x)
	g := make([]float64, len(v))
	for i, c := range v {
		v[i] = c + h
		up := f(v)
		v[i] = c - h
		g[i] = (up - f(v)) / (2 * h)
		v[i] = c
	}
	return g
}

// elemTDot makes a scalar of an output: the weights are the output's gradient.
func elemTDot(w []float32, y []float64) float64 {
	s := 0.0
	for i, v := range y {
		s += float64(w[i]) * v
	}
	return s
}

const elemTTol = 2e-6 // about 30 roundings

func TestElemSelect(t *testing.T) {
	x := elemTSpecial()
	dy := elemTNormal(len(x), 1)
	relu, grad := make([]float32, len(x)), make([]float32, len(x))
	for i, v := range x {
		relu[i] = v
		if 0 > v {
			relu[i] = 0
		}
		if v > 0 {
			grad[i] = dy[i]
		}
	}
	y := make([]float32, len(x))
	ReLU(y, x)
	elemTSame(t, "relu", y, relu)
	for i := range x { // the payload of a NaN stays too
		if x[i] != x[i] && math.Float32bits(y[i]) != math.Float32bits(x[i]) {
			t.Errorf("relu of NaN %#x is %#x", math.Float32bits(x[i]), math.Float32bits(y[i]))
		}
	}
	ReLUGrad(y, dy, x)
	elemTSame(t, "relu gradient", y, grad)
	copy(y, x)
	ReLU(y, y)
	elemTSame(t, "relu in place", y, relu)
	copy(y, dy)
	ReLUGrad(y, y, x)
	elemTSame(t, "relu gradient in place", y, grad)
}

func TestElemArithmetic(t *testing.T) {
	for _, n := range []int{0, 1, 3, 17, 64} {
		x, y := elemTNormal(n, 1), elemTNormal(n, 2)
		z, sum, half, to := make([]float32, n), make([]float32, n), make([]float32, n), elemTNormal(n, 2)
		for i := range x {
			sum[i], half[i] = x[i]+y[i], x[i]*0.3
		}
		Add(z, x, y)
		elemTSame(t, "add", z, sum)
		AddTo(to, x)
		elemTSame(t, "add to", to, sum)
		Scale(z, x, 0.3)
		elemTSame(t, "scale", z, half)
		for _, v := range []float32{0, 2.5, float32(math.Copysign(0, -1))} {
			Fill(z, v)
			for i := range z {
				if math.Float32bits(z[i]) != math.Float32bits(v) {
					t.Fatalf("fill with %v: element %d is %v", v, i, z[i])
				}
			}
		}
	}
}

func TestElemActivations(t *testing.T) {
	x := append(elemTNormal(60, 3), 0, 3.9, -3.9, 7, -7)
	dy := elemTNormal(len(x), 4)
	for _, c := range []struct {
		name    string
		forward func(y, x []float32)
		grad    func(dx, dy, xy []float32)
		input   bool // grad reads the input, not the output
		exact   func(float64) float64
	}{
		{"sigmoid", Sigmoid, SigmoidGrad, false, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }},
		{"tanh", TanhForward, TanhGrad, false, math.Tanh},
		{"gelu", GELU, GELUGrad, true, func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) }},
	} {
		want := make([]float64, len(x))
		for i, v := range x {
			want[i] = c.exact(float64(v))
		}
		y, dx := make([]float32, len(x)), make([]float32, len(x))
		c.forward(y, x)
		elemTClose(t, c.name, y, want, elemTTol)
		from := y
		if c.input {
			from = x
		}
		c.grad(dx, dy, from)
		elemTClose(t, c.name+" gradient", dx, elemTDiff(func(x []float64) float64 {
			s := 0.0
			for i, v := range x {
				s += float64(dy[i]) * c.exact(v)
			}
			return s
		}, x), elemTTol)
		place := append([]float32(nil), dy...)
		c.grad(place, place, from)
		elemTSame(t, c.name+" gradient in place", place, dx)
	}
}

func TestElemDropout(t *testing.T) {
	for _, n := range []int{0, 1, 31, 32, 33, 100} {
		x := elemTNormal(n, 5)
		if n > 2 {
			x[0], x[1], x[2] = float32(math.NaN()), float32(math.Inf(-1)), -1
		}
		mask := make([]uint32, (n+31)/32)
		for i := range mask {
			mask[i] = 0xa5f0c3 * uint32(i+1)
		}
		y, want := make([]float32, n), make([]float32, n)
		for i, v := range x {
			if mask[i/32]>>(i%32)&1 != 0 {
				want[i] = v * 1.25
			}
		}
		Dropout(y, x, mask, 1.25)
		elemTSame(t, "dropout", y, want)
		Dropout(x, x, mask, 1.25)
		elemTSame(t, "dropout in place", x, want)
	}
}

// A short slice must stop the program, not read beside it.
func TestElemShort(t *testing.T) {
	for name, f := range map[string]func(){
		"add":     func() { Add(make([]float32, 3), make([]float32, 4), make([]float32, 4)) },
		"dropout": func() { Dropout(make([]float32, 33), make([]float32, 33), make([]uint32, 1), 1) },
		"sum":     func() { SumChannels(make([]float32, 2), make([]float32, 7), AllChannels(2, 2, 2), false) },
		"softmax": func() { Softmax(make([]float32, 3), make([]float32, 4), 2, 2) },
		"pool":    func() { MaxPool(elemTPool(1, 1, 2, 2, 2, 2, 0), make([]float32, 1), make([]float32, 3), nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s took a slice that is too short", name)
				}
			}()
			f()
		}()
	}
}

// TestElemBits pins the bits of every operation: the same test passes on amd64, arm64
// and WebAssembly, which is how a compiler that fuses shows. A change of these numbers
// is a new numeric class.
func TestElemBits(t *testing.T) {
	const n, c, hw = 6, 5, 21
	x, dy := elemTNormal(n*c*hw, 11), elemTNormal(n*c*hw, 12)
	s := NewStream(42, DomainTest, 7, 9)
	vec := func(f func(y []float32)) func() []float32 {
		return func() []float32 {
			y := append([]float32(nil), dy...)
			f(y)
			return y
		}
	}
	one := func(f func(float32) float32) func() []float32 {
		return vec(func(y []float32) {
			for i, v := range x {
				y[i] = f(4 * v)
			}
		})
	}
	mean, va, inv := make([]float32, c), make([]float32, c), make([]float32, c)
	BatchNormStats(mean, va, x, AllChannels(n, c, hw))
	InvStd(inv, va, 1e-5)
	gamma, beta := elemTNormal(c, 13), elemTNormal(c, 14)
	dg, db := make([]float32, c), make([]float32, c)
	BatchNormGradSums(dg, db, dy, x, mean, inv, AllChannels(n, c, hw))
	moment := func() ([]float32, []float32) { return elemTMoments(len(x)) }
	for _, k := range []struct {
		name string
		f    func() []float32
		want uint64
	}{
		{"normal", func() []float32 { return x }, 0x3eb64b10a413214b},
		{"uniform", vec(func(y []float32) { Uniform(y, s, -0.3, 0.7) }), 0x0c438f652fc3b4fc},
		{"exp", one(Exp), 0xd7182d38a059966f},
		{"log", one(func(x float32) float32 { return Log(abs(x)) }), 0xefa8327fd75dc16b},
		{"tanh", one(Tanh), 0x692b19511d7a1593},
		{"erf", one(Erf), 0x43b037e099dc78b7},
		{"sinpi", one(Sinpi), 0xf0f9cf6d4f214197},
		{"cospi", one(Cospi), 0xc1b894c23a679645},
		{"sigmoid", vec(func(y []float32) { Sigmoid(y, x) }), 0x0ea56c0efe09b682},
		{"gelu", vec(func(y []float32) { GELU(y, x) }), 0xdce3852d9d53135e},
		{"gelu gradient", vec(func(y []float32) { GELUGrad(y, dy, x) }), 0xc6aa72eaa73c43ae},
		{"gelu by tanh", vec(func(y []float32) { GELUTanh(y, x) }), 0x4e6b25e580899c34},
		{"gelu by tanh, gradient", vec(func(y []float32) { GELUTanhGrad(y, dy, x) }), 0x23a5e6524b148f47},
		{"layer norm", vec(func(y []float32) {
			m, v := make([]float32, n*c), make([]float32, n*c)
			LayerNorm(y, x, dy[:hw], dy[hw:], m, v, n*c, hw, 1e-5)
			LayerNormGradInput(y, y, x, dy[:hw], m, v, n*c, hw)
			LayerNormGradParams(y[:hw], y[hw:2*hw], dy, x, m, v, n*c, hw, true)
		}), 0x2626cd840c7b28d1},
		{"tanh gradient", vec(func(y []float32) { TanhGrad(y, dy, x) }), 0x21a754d4a227ed99},
		{"sigmoid gradient", vec(func(y []float32) { SigmoidGrad(y, dy, x) }), 0x58e1c557d7d88d00},
		{"sum", func() []float32 { return []float32{Sum(x), Dot(x, dy)} }, 0xfdcfffd8bfa9350d},
		{"batch norm statistics", func() []float32 { return append(append(append([]float32(nil), mean...), va...), inv...) }, 0xcc67878665d1586a},
		{"batch norm sums", func() []float32 { return append(append([]float32(nil), dg...), db...) }, 0x4298044b4cc6d273},
		{"batch norm", vec(func(y []float32) { BatchNormApply(y, x, mean, inv, gamma, beta, AllChannels(n, c, hw)) }), 0xf8c07aca9e3afd38},
		{"batch norm gradient", vec(func(y []float32) { BatchNormGradInput(y, dy, x, mean, inv, gamma, dg, db, AllChannels(n, c, hw)) }), 0x266a42fe6be5f07c},
		{"batch norm running", func() []float32 {
			m, v := elemTNormal(c, 17), elemTNormal(c, 18)
			BatchNormRunning(m, v, mean, va, 0.1, n*hw)
			return append(m, v...)
		}, 0xd75f1a9a35776358},
		{"softmax", vec(func(y []float32) { Softmax(y, x, n*c, hw) }), 0x3585e18378f5ffd4},
		{"mask and scale", vec(func(y []float32) {
			mask := make([]float32, len(x))
			ReLU(mask, x)
			maskScale(y, dy, mask, 0.3)
		}), 0x7803f2e2ed39d9be},
		{"softmax gradient", vec(func(y []float32) { SoftmaxGrad(y, dy, x, n*c, hw) }), 0x4f5c09d49dcf4a91},
		{"spectral norm", func() []float32 { return elemTSpectral(x, dy) }, 0x12493b4d0500c9f9},
		{"mean squared error", vec(func(y []float32) { l := MSE(y, x, dy, 0.01); y[0] += l }), 0x08a0b38a75df60c5},
		{"cross-entropy", vec(func(y []float32) { l := CrossEntropyProb(y, x, dy, n*c, hw, 0.01); y[0] += l }), 0x9658fc75d553d43a},
		{"average pool", vec(func(y []float32) {
			p := Pool{N: n, C: c, H: 3, W: 7, KH: 2, KW: 3, SH: 1, SW: 2, PL: 1, OH: 2, OW: 4}
			AvgPool(&p, y, x)
			AvgPoolGrad(&p, y, append([]float32(nil), y...))
		}), 0x48f3365b533cfb08},
		{"sgd", vec(func(y []float32) {
			m, _ := moment()
			SGD(y, x, m, SGDParams{LR: 0.1, Momentum: 0.9, OneMinusDampening: 0.7, WeightDecay: 0.01, Nesterov: true})
		}), 0xcee338c66bec0c65},
		{"adam", vec(func(y []float32) {
			m, v := moment()
			Adam(y, x, m, v, AdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, StepSize: 0.02, SqrtBiasCorrection2: 0.3, Eps: 1e-8, WeightDecay: 0.01})
		}), 0x6211de6ad71a57cd},
		{"adamw", vec(func(y []float32) {
			m, v := moment()
			AdamW(y, x, m, v, AdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, StepSize: 0.02, SqrtBiasCorrection2: 0.3, Eps: 1e-8, Decay: 0.999})
		}), 0xd2b6432fc470e307},
		{"nadam", vec(func(y []float32) {
			m, v := moment()
			NAdam(y, x, m, v, NAdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, BiasCorrection2: 0.1, GradScale: 0.01, MomentScale: 0.02, Eps: 1e-8, WeightDecay: 0.01})
		}), 0x6de83ef0a75bd7b7},
	} {
		if got := elemTHash(k.f()); got != k.want {
			t.Errorf("%s: bits hash to %#016x, want %#016x", k.name, got, k.want)
		}
	}
}

// elemTSpectral is a step of spectral norm and its gradient.
func elemTSpectral(x, dy []float32) []float32 {
	m, u, v, sum := Spectral{Rows: 18, Cols: 35, Inner: 7}, elemTNormal(18, 19), make([]float32, 35), make([]float64, 35)
	m.Left(v, x, u, sum, 1e-12)
	m.Right(u, x, v, sum, 1e-12)
	y := append([]float32(nil), dy...)
	m.Grad(y, u, v, m.Value(x, u, v, sum), true)
	return append(append(y, u...), v...)
}

// elemTMoments makes the moments of an optimiser: any numbers, and numbers from 0.
func elemTMoments(n int) (m, v []float32) {
	v = elemTNormal(n, 15)
	for i := range v {
		v[i] *= v[i]
	}
	return elemTNormal(n, 16), v
}

// elemTHash hashes the bits of x; all NaNs are one.
func elemTHash(x []float32) uint64 {
	h := fnv.New64a()
	for _, v := range x {
		u := math.Float32bits(v)
		if v != v {
			u = nanBits
		}
		h.Write([]byte{byte(u), byte(u >> 8), byte(u >> 16), byte(u >> 24)})
	}
	return h.Sum64()
}

// elemTPool is a pool with square windows in floor mode.
func elemTPool(n, c, h, w, k, s, pad int) *Pool {
	return &Pool{N: n, C: c, H: h, W: w, KH: k, KW: k, SH: s, SW: s, PT: pad, PL: pad, OH: PoolOut(h, k, s, pad), OW: PoolOut(w, k, s, pad)}
}

type elemTRun struct {
	name string
	f    func()
}

// elemTWalkthrough is what the walkthrough's training step does besides matrix products
// and convolutions, at batch 64: every forward and backward, op by op.
func elemTWalkthrough() (all []elemTRun) {
	add := func(f func(), format string, a ...any) {
		all = append(all, elemTRun{fmt.Sprintf(format, a...), f})
	}
	buf := func(n int) []float32 { return elemTNormal(n, uint64(n)) }
	relu := func(n int) {
		x, y := buf(n), make([]float32, n)
		add(func() { ReLU(y, x) }, "relu/%d", n)
		add(func() { ReLUGrad(x, x, y) }, "relu-grad/%d", n)
	}
	pool := func(c, h int) {
		p := elemTPool(64, c, h, h, 2, 2, 0)
		in, out := p.sizes()
		x, y, dx, arg := buf(in), make([]float32, out), make([]float32, in), make([]int32, out)
		add(func() { MaxPool(p, y, x, arg) }, "maxpool/%dx%dx%d", c, h, h)
		add(func() { MaxPoolGrad(p, dx, y, arg) }, "maxpool-grad/%dx%dx%d", c, h, h)
	}
	drop := func(n int, p float64) {
		x, y, mask := buf(n), make([]float32, n), make([]uint32, (n+31)/32)
		s := NewStream(42, DomainDropout, 1, 4)
		add(func() { DropoutMask(mask, s, 0, n, p) }, "dropout-mask/%d", n)
		add(func() { Dropout(y, x, mask, 4.0/3) }, "dropout/%d", n)
		add(func() { Dropout(x, y, mask, 4.0/3) }, "dropout-grad/%d", n)
	}
	norm := func(c, hw int) {
		n := 64 * c * hw
		x, y, dy := buf(n), make([]float32, n), buf(n)
		st := make([][]float32, 8)
		for i := range st {
			st[i] = buf(c)
		}
		mean, va, inv, gamma, beta, dg, db := st[0], st[1], st[2], st[3], st[4], st[5], st[6]
		add(func() {
			BatchNormStats(mean, va, x, AllChannels(64, c, hw))
			InvStd(inv, va, 1e-5)
			BatchNormRunning(st[5], st[6], mean, va, 0.1, 64*hw)
		}, "bn-stats/%dx%d", c, hw)
		add(func() { BatchNormApply(y, x, mean, inv, gamma, beta, AllChannels(64, c, hw)) }, "bn-apply/%dx%d", c, hw)
		add(func() { BatchNormGradSums(dg, db, dy, x, mean, inv, AllChannels(64, c, hw)) }, "bn-grad-sums/%dx%d", c, hw)
		add(func() { BatchNormGradInput(y, dy, x, mean, inv, gamma, dg, db, AllChannels(64, c, hw)) }, "bn-grad-input/%dx%d", c, hw)
	}
	bias := func(c, hw int) {
		db, dy := make([]float32, c), buf(64*c*hw)
		add(func() { SumChannels(db, dy, AllChannels(64, c, hw), false) }, "bias-grad/%dx%d", c, hw)
	}
	relu(64 * 16 * 64)
	bias(16, 64)
	pool(16, 8)
	drop(64*16*16, 0.25)
	norm(16, 16)
	pool(16, 4)
	relu(64 * 32 * 4)
	bias(32, 4)
	pool(32, 2)
	drop(64*32, 0.25)
	norm(32, 1)
	relu(64 * 256)
	bias(256, 1)
	drop(64*256, 0.4)
	norm(256, 1)
	bias(10, 1)
	x, y, g := buf(640), make([]float32, 640), make([]float32, 640)
	add(func() { Softmax(y, x, 64, 10) }, "softmax/64x10")
	add(func() { elemTSink += MSE(g, y, x, 1.0/640) }, "mse/64x10")
	add(func() { SoftmaxGrad(g, g, y, 64, 10) }, "softmax-grad/64x10")
	return all
}

func TestElemAllocs(t *testing.T) {
	for _, r := range elemTWalkthrough() {
		if n := testing.AllocsPerRun(2, r.f); n != 0 {
			t.Errorf("%s allocates %v times", r.name, n)
		}
	}
}

func BenchmarkWalkthrough(b *testing.B) {
	all := elemTWalkthrough()
	b.Run("step", func(b *testing.B) {
		for range b.N {
			for _, r := range all {
				r.f()
			}
		}
	})
	for _, r := range all {
		b.Run(r.name, func(b *testing.B) {
			for range b.N {
				r.f()
			}
		})
	}
	const params = 16*9 + 16 + 32*16*9 + 32 + 2*48 + 32*256 + 256 + 512 + 2560 + 10
	p, gr, m, v := elemTNormal(params, 1), elemTNormal(params, 2), elemTNormal(params, 3), make([]float32, params)
	b.Run("adam", func(b *testing.B) {
		for range b.N {
			Adam(p, gr, m, v, AdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, StepSize: 1e-9, SqrtBiasCorrection2: 0.3, Eps: 1e-8})
		}
	})
}
