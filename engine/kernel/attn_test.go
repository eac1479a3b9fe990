package kernel

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// attentionReference is the specification written out, one element after another.
func attentionReference(a *Attention, y, dqkv, dy, qkv, mask []float32) {
	d, ld := a.C/a.Heads, 3*a.C
	scale := 1 / Sqrt(float32(d))
	for nh := range a.N * a.Heads {
		n, h := nh/a.Heads, nh%a.Heads
		at := func(part, t, c int) int { return (n*a.T+t)*ld + part*a.C + h*d + c }
		yat := func(t, c int) int { return (n*a.T+t)*a.C + h*d + c }
		p, dropped, ds := make([][]float32, a.T), make([][]float32, a.T), make([][]float32, a.T)
		keys := func(i int) (block, seen int) {
			if !a.Causal {
				return a.T, a.T
			}
			return min((i/attnBlock+1)*attnBlock, a.T), i + 1
		}
		drop := func(x []float32, i int) []float32 {
			out := slices.Clone(x)
			for j := range out {
				e := ((uint64(a.Row0+n)*uint64(a.Heads)+uint64(h))*uint64(a.T)+uint64(i))*uint64(a.T) + uint64(j)
				var bit [1]uint32
				DropoutMask(bit[:], a.Drop, e, 1, a.P)
				if out[j] *= float32(1 / (1 - a.P)); a.P > 0 && bit[0] == 0 {
					out[j] = 0
				}
			}
			return out
		}
		for i := range a.T {
			block, seen := keys(i)
			p[i] = make([]float32, block)
			for j := range seen {
				var s float32
				for c := range d {
					s = FMA(qkv[at(0, i, c)], qkv[at(1, j, c)], s)
				}
				if p[i][j] = s * scale; mask != nil && mask[n*a.T+j] == 0 {
					p[i][j] = -math.MaxFloat32
				}
			}
			Softmax(p[i], p[i], 1, seen)
			dropped[i] = drop(p[i], i)
			if a.BF16 {
				roundBF16(dropped[i], dropped[i])
			}
			for c := range d {
				var s float32
				for j := range block {
					s = FMA(dropped[i][j], qkv[at(2, j, c)], s)
				}
				y[yat(i, c)] = s
			}
			ds[i] = make([]float32, block)
			for j := range block {
				for c := range d {
					ds[i][j] = FMA(dy[yat(i, c)], qkv[at(2, j, c)], ds[i][j])
				}
			}
			ds[i] = drop(ds[i], i)
			SoftmaxGrad(ds[i], ds[i], p[i], 1, seen)
			Scale(ds[i][:seen], ds[i][:seen], scale)
			clear(ds[i][seen:])
			if a.BF16 {
				roundBF16(ds[i], ds[i])
			}
		}
		for i := range a.T {
			for c := range d {
				var dq, dk, dv float32
				for j := range ds[i] {
					dq = FMA(ds[i][j], qkv[at(1, j, c)], dq)
				}
				for q := range a.T {
					if i < len(ds[q]) {
						dk = FMA(ds[q][i], qkv[at(0, q, c)], dk)
						dv = FMA(dropped[q][i], dy[yat(q, c)], dv)
					}
				}
				dqkv[at(0, i, c)], dqkv[at(1, i, c)], dqkv[at(2, i, c)] = dq, dk, dv
			}
		}
	}
}

func attentionBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v, the specification says %v", what, i, got[i], want[i])
		}
	}
}

// TestAttention: every block, thread and half of a batch gives the specification's bits.
func TestAttention(t *testing.T) {
	for _, a := range []Attention{
		{N: 2, T: 11, C: 48, Heads: 3, Causal: true},
		{N: 2, T: 1, C: 4, Heads: 2, Causal: true},
		{N: 1, T: 64, C: 8, Heads: 1},
		{N: 2, T: 70, C: 34, Heads: 2, Causal: true, P: 0.1},
		{N: 2, T: 131, C: 14, Heads: 2, P: 0.3},
		{N: 1, T: 131, C: 7, Heads: 1, Causal: true},
		{N: 2, T: 70, C: 34, Heads: 2, Causal: true, P: 0.1, BF16: true},
		{N: 1, T: 66, C: 16, Heads: 2, BF16: true},
	} {
		for _, masked := range []bool{false, true} {
			for _, threads := range []int{1, 3} {
				t.Run(fmt.Sprintf("T=%d,C=%d,heads=%d,causal=%v,p=%v,masked=%v,threads=%d,bf16=%v", a.T, a.C, a.Heads, a.Causal, a.P, masked, threads, a.BF16), func(t *testing.T) {
					a := a
					a.Drop, a.Row0 = NewStream(3, DomainDropout, 9, 5), 4
					team := NewTeam(threads)
					defer team.Close()
					qkv, dy := make([]float32, 3*a.N*a.T*a.C), make([]float32, a.N*a.T*a.C)
					Normal(qkv, NewStream(1, DomainTest, 0, 1))
					Normal(dy, NewStream(1, DomainTest, 0, 2))
					if a.BF16 {
						roundBF16(qkv, qkv)
						roundBF16(dy, dy)
					}
					var mask []float32
					if masked {
						mask = slices.Repeat([]float32{1}, a.N*a.T)
						for i := a.T * 2 / 3; i < a.T; i++ {
							mask[i] = 0
						}
						clear(mask[(a.N-1)*a.T:][:a.T/5]) // a causal query may see no key at all
					}
					y, dqkv := make([]float32, len(dy)), make([]float32, len(qkv))
					wantY, wantD := make([]float32, len(dy)), make([]float32, len(qkv))
					scratch := make([]float32, AttentionScratch(&a))
					attentionReference(&a, wantY, wantD, dy, qkv, mask)
					AttentionForward(team, &a, y, qkv, mask, scratch)
					attentionBits(t, "y", y, wantY)
					AttentionBackward(team, &a, dqkv, dy, qkv, mask, scratch)
					attentionBits(t, "gradient", dqkv, wantD)
					if n := testing.AllocsPerRun(3, func() { AttentionForward(team, &a, y, qkv, mask, scratch) }); n != 0 {
						t.Errorf("a pass allocates %v times", n)
					}
				})
			}
		}
	}
}

// TestAttentionSpecial: values that are no numbers have the same consequences whether rows of softmax
// are computed one by one or all at once, and a query that does not see such a key has its softmax.
func TestAttentionSpecial(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, v := range []float32{inf, -inf, float32(math.NaN()), math.MaxFloat32} {
		for _, causal := range []bool{true, false} {
			for place := range 4 { // query, key, value, gradient
				a := Attention{N: 1, T: 11, C: 12, Heads: 2, Causal: causal}
				qkv, dy := make([]float32, 3*a.T*a.C), make([]float32, a.T*a.C)
				Normal(qkv, NewStream(1, DomainTest, 0, 1))
				Normal(dy, NewStream(1, DomainTest, 0, 2))
				if place < 3 {
					qkv[6*3*a.C+place*a.C+1] = v
				} else {
					dy[6*a.C+1] = v
				}
				var want []float32
				vecTForms(func(form string) {
					y, dqkv, scratch := make([]float32, len(dy)), make([]float32, len(qkv)), make([]float32, AttentionScratch(&a))
					AttentionForward(nil, &a, y, qkv, nil, scratch)
					AttentionBackward(nil, &a, dqkv, dy, qkv, nil, scratch)
					if y = append(y, dqkv...); form == "portable" {
						want = y
						return
					}
					elemTSame(t, fmt.Sprintf("%v in %d, causal %v, %s", v, place, causal, form), y, want)
				})
				if causal && place < 2 && want[0] != want[0] {
					t.Errorf("%v in %d of token 6 makes the first output %v", v, place, want[0])
				}
			}
		}
	}
}

// TestRowsContinue: gradients of tables and of layer norm go on over parts of a batch.
func TestRowsContinue(t *testing.T) {
	const n, dim, vocab = 9, 5, 4
	dy, x, tokens := make([]float32, n*dim), make([]float32, n*dim), make([]float32, n)
	Normal(dy, NewStream(1, DomainTest, 0, 3))
	Normal(x, NewStream(1, DomainTest, 0, 4))
	for i := range tokens {
		tokens[i] = float32(i * i % vocab)
	}
	mean, inv := make([]float32, n), make([]float32, n)
	Fill(inv, 0.7)
	for name, f := range map[string]func(dst []float32, from, to int, acc bool){
		"embedding": func(dst []float32, from, to int, acc bool) {
			EmbedGrad(dst, dy[from*dim:to*dim], tokens[from:to], vocab, dim, acc)
		},
		"positions": func(dst []float32, from, to int, acc bool) {
			AddRowsGrad(nil, dst[:dim], dy[from*dim:to*dim], to-from, acc)
		},
		"layer norm": func(dst []float32, from, to int, acc bool) {
			LayerNormGradParams(dst[:dim], dst[dim:2*dim], dy[from*dim:to*dim], x[from*dim:to*dim], mean[from:to], inv[from:to], to-from, dim, acc)
		},
	} {
		whole, parts := make([]float32, vocab*dim), make([]float32, vocab*dim)
		f(whole, 0, n, false)
		f(parts, 0, 4, false)
		f(parts, 4, n, true)
		attentionBits(t, name, parts, whole)
	}
}

// TestRowsAreShared: threads that share columns leave the sums as they are.
func TestRowsAreShared(t *testing.T) {
	team := NewTeam(3)
	defer team.Close()
	for _, dim := range []int{7, 3*leastRow + 5, 1000} {
		n := smallCopy/dim + 1
		dy, want := make([]float32, n*dim), make([]float32, dim)
		Normal(dy, NewStream(1, DomainTest, 0, 5))
		Fill(want, 0.3)
		got := append([]float32(nil), want...)
		for i, v := range dy {
			want[i%dim] += v
		}
		AddRowsGrad(team, got, dy, n, true)
		attentionBits(t, "continued", got, want)
		clear(want)
		for i, v := range dy {
			want[i%dim] += v
		}
		AddRowsGrad(team, got, dy, n, false)
		attentionBits(t, "from zero", got, want)
	}
}

// TestTokensThatAreNoRows give NaN and leave the table alone.
func TestTokensThatAreNoRows(t *testing.T) {
	nan := float32(math.NaN())
	tokens := []float32{-1, 2, 0.5, nan, float32(math.Inf(1)), 1}
	w, y, dw := []float32{3, 4}, make([]float32, 6), []float32{0, 0}
	Embed(y, tokens, w, 2, 1)
	for i, v := range y[:5] {
		if v == v {
			t.Errorf("token %v gives %v, want NaN", tokens[i], v)
		}
	}
	if y[5] != 4 {
		t.Errorf("token 1 gives %v, want 4", y[5])
	}
	EmbedGrad(dw, []float32{1, 1, 1, 1, 1, 1}, tokens, 2, 1, false)
	if dw[0] != 0 || dw[1] != 1 {
		t.Errorf("gradient is %v, want [0 1]", dw)
	}
}

// TestAdaptiveAvgPool against its definition in float64; PyTorch's windows overlap where
// the sizes do not divide.
func TestAdaptiveAvgPool(t *testing.T) {
	for _, p := range []AdaptivePool{{2, 3, 7, 7, 1, 1}, {1, 2, 5, 7, 3, 2}, {1, 1, 2, 3, 4, 3}, {2, 1, 33, 18, 1, 1}} {
		x, dy := make([]float32, p.N*p.C*p.H*p.W), make([]float32, p.N*p.C*p.OH*p.OW)
		Normal(x, NewStream(1, DomainTest, 0, 5))
		Normal(dy, NewStream(1, DomainTest, 0, 6))
		y, dx := make([]float32, len(dy)), make([]float32, len(x))
		wantX := make([]float64, len(x))
		AdaptiveAvgPool(&p, y, x)
		AdaptiveAvgPoolGrad(&p, dx, dy)
		for o := range y {
			plane, oy, ox := o/(p.OH*p.OW), o/p.OW%p.OH, o%p.OW
			var at []int
			for r := oy * p.H / p.OH; r*p.OH < (oy+1)*p.H; r++ {
				for q := ox * p.W / p.OW; q*p.OW < (ox+1)*p.W; q++ {
					at = append(at, (plane*p.H+r)*p.W+q)
				}
			}
			var s float64
			for _, i := range at {
				s += float64(x[i])
				wantX[i] += float64(dy[o]) / float64(len(at))
			}
			// Up to 600 terms in single precision.
			if want := s / float64(len(at)); math.Abs(float64(y[o])-want) > 1e-6 {
				t.Errorf("%+v: output %d is %v, want %v", p, o, y[o], want)
			}
		}
		for i, want := range wantX {
			if math.Abs(float64(dx[i])-want) > 1e-6 {
				t.Errorf("%+v: gradient %d is %v, want %v", p, i, dx[i], want)
			}
		}
	}
}

// BenchmarkAttention measures attention of gpt-sorter, char-gpt and BERT-base on one thread, of as many
// samples as make a head worth it.
func BenchmarkAttention(b *testing.B) {
	for _, a := range []Attention{
		{N: 64, T: 11, C: 48, Heads: 3, Causal: true, P: 0.1},
		{N: 2, T: 256, C: 384, Heads: 6, Causal: true, P: 0.1},
		{N: 2, T: 128, C: 768, Heads: 12},
	} {
		qkv, y := make([]float32, 3*a.N*a.T*a.C), make([]float32, a.N*a.T*a.C)
		Normal(qkv, NewStream(1, DomainTest, 0, 1))
		dqkv, mask, scratch := make([]float32, len(qkv)), slices.Repeat([]float32{1}, a.N*a.T), make([]float32, AttentionScratch(&a))
		for i := range mask {
			if i%a.T > a.T*2/3 {
				mask[i] = 0
			}
		}
		for _, m := range []struct {
			name string
			mask []float32
		}{{"", nil}, {"-masked", mask}} {
			shape := fmt.Sprintf("%dx%dx%d/%d%s", a.N, a.T, a.C, a.Heads, m.name)
			b.Run("forward/"+shape, func(b *testing.B) {
				for b.Loop() {
					AttentionForward(nil, &a, y, qkv, m.mask, scratch)
				}
			})
			b.Run("backward/"+shape, func(b *testing.B) {
				for b.Loop() {
					AttentionBackward(nil, &a, dqkv, y, qkv, m.mask, scratch)
				}
			})
		}
	}
}
