package kernel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// vecTForms runs f under every implementation that this machine has, the portable one
// first, and leaves the machine's own.
func vecTForms(f func(name string)) {
	forms := vecForms()
	own := "portable"
	for _, name := range []string{"neon", "module", "avx2", "avx512"} { // the last one wins
		if forms[name] != nil {
			own = name
		}
	}
	defer forms[own]()
	forms["portable"]()
	f("portable")
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		if name != "portable" {
			forms[name]()
			f(name)
		}
	}
}

// vecTSpace are slices that start off any alignment, with floats behind them that nobody
// may touch.
type vecTSpace struct {
	all  [][]float32
	ends []int
}

const vecTGuard = 12345

func (s *vecTSpace) slice(x []float32) []float32 {
	off := 1 + len(s.all)%3
	b := make([]float32, off, off+len(x)+64)
	b = append(b, x...)
	end := len(b)
	b = b[:cap(b)]
	for i := end; i < len(b); i++ {
		b[i] = vecTGuard
	}
	s.all, s.ends = append(s.all, b), append(s.ends, end)
	return b[off:end]
}

func (s *vecTSpace) check(t *testing.T, what string) {
	t.Helper()
	for i, b := range s.all {
		for j, v := range b[s.ends[i]:] {
			if v != vecTGuard {
				t.Fatalf("%s: wrote %v at %d behind slice %d", what, v, j, i)
			}
		}
	}
}

// vecTRandom draws floats, every third of them special: zeros, subnormals, extremes,
// infinities and NaN unless finite.
func vecTRandom(r *rand.Rand, n int, finite bool) []float32 {
	special := elemTSpecial()
	if finite {
		special = special[:9]
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * []float64{1, 0.1, 30}[r.IntN(3)])
		if r.IntN(3) == 0 {
			x[i] = special[r.IntN(len(special))]
		}
	}
	return x
}

// vecTOp is an operation over four slices a, b, c, d of n elements, all of which it may
// write; it returns its sums.
type vecTOp struct {
	name string
	f    func(a, b, c, d []float32) []float32
}

func vecTOps() []vecTOp {
	var ops []vecTOp
	def := func(name string, f func(a, b, c, d []float32)) {
		ops = append(ops, vecTOp{name, func(a, b, c, d []float32) []float32 { f(a, b, c, d); return nil }})
	}
	sum := func(name string, f func(a, b, c, d []float32) float32) {
		ops = append(ops, vecTOp{name, func(a, b, c, d []float32) []float32 { return []float32{f(a, b, c, d)} }})
	}
	def("add", func(a, b, c, d []float32) { Add(a, b, c); Add(d, d, c) })
	def("add to", func(a, b, c, d []float32) { AddTo(a, b) })
	def("scale", func(a, b, c, d []float32) { Scale(a, b, 0.3); Scale(c, c, 1e-30) })
	def("mask and scale", func(a, b, c, d []float32) { maskScale(a, b, c, 0.3); maskScale(d, d, c, 1e-30) })
	def("relu", func(a, b, c, d []float32) { ReLU(a, b); ReLU(c, c) })
	def("relu gradient", func(a, b, c, d []float32) { ReLUGrad(a, b, c); ReLUGrad(d, d, c) })
	def("dropout", func(a, b, c, d []float32) {
		r := rand.New(rand.NewPCG(uint64(len(a)), 1))
		bits := make([]uint32, (len(a)+31)/32)
		for i := range bits {
			bits[i] = r.Uint32()
		}
		Dropout(a, b, bits, 1.25)
		Dropout(c, c, bits, 1.25)
	})
	def("sigmoid", func(a, b, c, d []float32) { Sigmoid(a, b); SigmoidGrad(c, c, d) })
	def("tanh", func(a, b, c, d []float32) { TanhForward(a, b); TanhGrad(c, c, d) })
	def("gelu", func(a, b, c, d []float32) { GELU(a, b); GELUGrad(c, c, d) })
	def("gelu by tanh", func(a, b, c, d []float32) { GELUTanh(a, b); GELUTanhGrad(c, c, d) })
	sum("sum", func(a, b, c, d []float32) float32 { return Sum(a) })
	sum("dot", func(a, b, c, d []float32) float32 { return Dot(a, b) })
	sum("mean squared error", func(a, b, c, d []float32) float32 { return MSE(nil, a, b, 0.01) })
	sum("mean squared error, gradient", func(a, b, c, d []float32) float32 { return MSE(c, a, b, 0.01) + MSE(d, d, b, 0.5) })
	for _, wd := range []float32{0, 0.01} {
		for v := range 4 {
			p := SGDParams{LR: 0.1, WeightDecay: wd, OneMinusDampening: 0.7, Nesterov: v&1 != 0, First: v == 2}
			if v < 3 {
				p.Momentum = 0.9
			}
			def(fmt.Sprintf("%+v", p), func(a, b, c, d []float32) { SGD(a, b, c, p) })
		}
		for _, b1 := range []float32{0.9, 0.4} {
			p := AdamParams{Beta1: b1, OneMinusBeta1: 1 - b1, Beta2: 0.999, OneMinusBeta2: 0.001, StepSize: 0.02, SqrtBiasCorrection2: 0.3, Eps: 1e-8, WeightDecay: wd, Decay: 0.999}
			def("Adam", func(a, b, c, d []float32) { Adam(a, b, c, d, p) })
			def("AdamW", func(a, b, c, d []float32) { AdamW(a, b, c, d, p) })
			q := NAdamParams{Beta1: b1, OneMinusBeta1: 1 - b1, Beta2: 0.999, OneMinusBeta2: 0.001, BiasCorrection2: 0.1, GradScale: 0.01, MomentScale: 0.02, Eps: 1e-8, WeightDecay: wd, Decay: 40 * wd}
			def("NAdam", func(a, b, c, d []float32) { NAdam(a, b, c, d, q) })
		}
	}
	// Words are compared as the numbers that they are.
	words := func(name string, to func(w []uint32, x []float32), from func(x []float32, w []uint32)) {
		def(name, func(a, b, c, d []float32) {
			w := make([]uint32, len(a)+1)
			to(w, b)
			from(d, w)
			for i, v := range w[:len(a)] {
				a[i] = float32(v)
			}
			if w[len(a)] != 0 {
				panic("wrote behind the words")
			}
		})
	}
	words("half", ToHalf, FromHalf)
	words("bfloat16", ToBFloat16, FromBFloat16)
	words("bits", ToBits, FromBits)
	words("steps of 8 bits", func(w []uint32, x []float32) {
		if a, finite := AbsMax(x); finite && a > 1e-30 {
			Quantise8(w, x, 127/a)
		}
	}, FromBits)
	sum("largest magnitude", func(a, b, c, d []float32) float32 {
		if m, finite := AbsMax(a); finite {
			return m
		}
		return -1
	})
	sum("equal words", func(a, b, c, d []float32) float32 {
		w, x := make([]uint32, len(a)), make([]uint32, len(a))
		ToBits(w, a)
		ToBits(x, b)
		for i := range x {
			if i%3 == 0 {
				x[i] = w[i]
			}
		}
		n := CountEqual(x, w) + 1000*CountZeros(w)
		TakeEqual(w, x, slices.Clone(w))
		FromBits(c, w)
		return float32(n)
	})
	return append(ops, vecTRowOps()...)
}

// vecTRowOps see the slices as rows, as long as they divide.
func vecTRowOps() []vecTOp {
	var ops []vecTOp
	def := func(name string, f func(a, b, c, d []float32, rows, cols int) []float32) {
		ops = append(ops, vecTOp{name, func(a, b, c, d []float32) []float32 {
			if len(a) == 0 {
				return nil
			}
			rows := 1
			for _, r := range []int{2, 3, 5} {
				if len(a)%r == 0 {
					rows = r
				}
			}
			return f(a, b, c, d, rows, len(a)/rows)
		}})
	}
	def("softmax", func(a, b, c, d []float32, rows, cols int) []float32 {
		Softmax(a, b, rows, cols)
		SoftmaxGrad(c, c, d, rows, cols)
		return nil
	})
	def("cross-entropy", func(a, b, c, d []float32, rows, cols int) []float32 {
		target := make([]int32, rows)
		for i := range target {
			target[i] = int32(i % cols)
		}
		target[rows/2] = IgnoreIndex
		return []float32{
			CrossEntropy(nil, b, target, rows, cols, 0.1), CrossEntropy(a, b, target, rows, cols, 0.1), CrossEntropy(b, b, target, rows, cols, 0.1),
			CrossEntropyProb(nil, c, d, rows, cols, 0.1), CrossEntropyProb(c, c, d, rows, cols, 0.1),
		}
	})
	def("layer norm", func(a, b, c, d []float32, rows, cols int) []float32 {
		mean, invstd := make([]float32, rows), make([]float32, rows)
		gamma, beta := slices.Clone(a[:cols]), slices.Clone(d[:cols])
		LayerNorm(a, b, gamma, beta, mean, invstd, rows, cols, 1e-5)
		dgamma, dbeta := slices.Clone(d[:cols]), slices.Clone(b[:cols])
		LayerNormGradParams(dgamma, dbeta, c, b, mean, invstd, rows, cols, true)
		LayerNormGradInput(d, c, b, gamma, mean, invstd, rows, cols)
		LayerNormGradInput(c, c, b, gamma, mean, invstd, rows, cols)
		return slices.Concat(mean, invstd, dgamma, dbeta)
	})
	return ops
}

var vecTLengths = []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 30, 31, 32, 33, 47, 48, 60, 63, 64, 65, 96, 100, 129, 250}

func TestVecIsItsSpecification(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, op := range vecTOps() {
		for _, n := range vecTLengths {
			for _, finite := range []bool{true, false} {
				var in, want [4][]float32
				for i := range in {
					in[i] = vecTRandom(r, n, finite)
				}
				var sums []float32
				vecTForms(func(form string) {
					what := fmt.Sprintf("%s of %d, %s", op.name, n, form)
					var space vecTSpace
					var x [4][]float32
					for i := range x {
						x[i] = space.slice(in[i])
					}
					s := op.f(x[0], x[1], x[2], x[3])
					space.check(t, what)
					if form == "portable" {
						want, sums = x, s
						return
					}
					for i := range x {
						elemTSame(t, what, x[i], want[i])
					}
					elemTSame(t, what+", sums", s, sums)
				})
			}
		}
	}
}

func TestVecChannels(t *testing.T) {
	team := NewTeam(2)
	defer team.Close()
	r := rand.New(rand.NewPCG(2, 2))
	for _, s := range [][3]int{
		{1, 1, 1},
		{3, 5, 1},
		{4, 16, 1},
		{2, 33, 1},
		{5, 3, 2},
		{3, 9, 4},
		{2, 5, 5},
		{2, 7, 7},
		{3, 4, 8},
		{2, 3, 9},
		{3, 4, 15},
		{5, 4, 16},
		{2, 3, 17},
		{2, 3, 49},
		{3, 2, 64},
		{0, 3, 4},
		{0, 3, 1},
		{2, 3, 0},
	} {
		n, c, hw := s[0], s[1], s[2]
		for _, finite := range []bool{true, false} {
			var in, want [][]float32
			for range 4 {
				in = append(in, vecTRandom(r, n*c*hw, finite))
			}
			for range 8 {
				in = append(in, vecTRandom(r, c, finite))
			}
			vecTForms(func(form string) {
				what := fmt.Sprintf("%v, %s", s, form)
				var space vecTSpace
				var x [][]float32
				for _, v := range in {
					x = append(x, space.slice(v))
				}
				k := x[4:]
				SumChannels(k[0], x[0], AllChannels(n, c, hw), true)
				SumChannels(k[1], x[1], AllChannels(n, c, hw), false)
				BatchNormStats(k[2], k[3], x[0], AllChannels(n, c, hw))
				BatchNormApply(x[2], x[1], k[4], k[5], k[6], k[7], AllChannels(n, c, hw))
				BatchNormGradSums(k[0], k[1], x[0], x[1], k[4], k[5], AllChannels(n, c, hw))
				BatchNormGradInput(x[3], x[0], x[1], k[4], k[5], k[6], k[0], k[1], AllChannels(n, c, hw))
				BatchNormGradInput(x[0], x[0], x[1], k[4], k[5], k[6], k[0], k[1], AllChannels(n, c, hw))
				for _, relu := range []bool{false, true} {
					b := BatchNorm{N: n, C: c, HW: hw, ReLU: relu, Eps: 1e-3, Gamma: k[6], Beta: k[7], Mean: k[4], InvStd: k[5]}
					BatchNormForward(team, &b, x[2], x[3], nil)
					BatchNormBackward(team, &b, x[1], x[0], x[3], k[0], k[1])
					BatchNormForward(team, &b, x[2], x[3], k[2])
					BatchNormBackward(team, &b, nil, x[1], x[3], k[2], k[3])
				}
				AddReLU(x[1], x[2], x[3])
				space.check(t, what)
				if form == "portable" {
					want = x
					return
				}
				for i := range x {
					elemTSame(t, fmt.Sprintf("%s, slice %d", what, i), x[i], want[i])
				}
			})
		}
	}
}

func TestVecMask(t *testing.T) {
	s := NewStream(0x123456789abcdef0, DomainDropout, 1<<33+5, 77)
	for _, first := range []uint64{0, 1, 2, 3, 4, 30, 128, 1<<34 - 100, 1<<34 - 64, 1 << 34, 1<<36 - 1027} {
		for _, n := range []int{0, 1, 31, 32, 33, 63, 64, 65, 96, 100, 1000, 1030} {
			for _, p := range []float64{0, 1e-9, 0.1, 0.5, 0.999, 1} {
				var want []uint32
				vecTForms(func(form string) {
					got := make([]uint32, (n+31)/32+1)
					DropoutMask(got, s, first, n, p)
					if form == "portable" {
						want = got
					} else if !slices.Equal(got, want) {
						t.Fatalf("%d from %d at %v, %s: %08x, want %08x", n, first, p, form, got, want)
					}
				})
			}
		}
	}
}

// FuzzVec: every operation, any bits.
func FuzzVec(f *testing.F) {
	f.Add(uint64(1), uint16(40))
	f.Add(uint64(99), uint16(257))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16) {
		r := rand.New(rand.NewPCG(seed, 3))
		ops := vecTOps()
		op := ops[seed%uint64(len(ops))]
		var want [4][]float32
		var in [4][]float32
		for i := range in {
			in[i] = vecTRandom(r, int(n%600), seed%2 == 0)
		}
		vecTForms(func(form string) {
			var x [4][]float32
			for i := range x {
				x[i] = slices.Clone(in[i])
			}
			op.f(x[0], x[1], x[2], x[3])
			if form == "portable" {
				want = x
				return
			}
			for i := range x {
				elemTSame(t, op.name+", "+form, x[i], want[i])
			}
		})
	})
}
