package kernel

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// bf16TRound is the definition in exact arithmetic.
func bf16TRound(x float32) float32 {
	if x != x || math.IsInf(float64(x), 0) || x == 0 {
		return x
	}
	// big.Float rounds to nearest even at the given precision.
	f, _ := new(big.Float).SetPrec(8).SetMode(big.ToNearestEven).SetFloat64(float64(x)).Float64()
	switch a := math.Abs(f); {
	case a < math.Ldexp(1, -56):
		f = math.Copysign(0, f)
	case a >= math.Ldexp(1, 64):
		f = math.Inf(int(math.Copysign(1, f)))
	}
	return float32(f)
}

// Every upper half of a float32 with the lower halves that decide: exact, ties, and beside
// them.
func TestRoundBF16(t *testing.T) {
	var x, want []float32
	for high := range uint32(1 << 16) {
		for _, low := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff} {
			v := math.Float32frombits(high<<16 | low)
			x, want = append(x, v), append(want, bf16TRound(v))
		}
	}
	vecTForms(func(name string) {
		y := make([]float32, len(x))
		RoundBF16(nil, y, x)
		gemmTBits(t, name, y, want)
	})
	team := NewTeam(2)
	defer team.Close()
	RoundBF16(team, x, x)
	gemmTBits(t, "2 threads, in place", x, want)
}

// bf16TFlush is x without subnormals.
func bf16TFlush(x float32) float32 {
	if b := math.Float32bits(x); b&^signBit < 1<<23 {
		return math.Float32frombits(b & signBit)
	}
	return x
}

// bf16TDot sums the products of two rows of operands by every kind of arithmetic that
// machines have, and fails where one differs or a sum is subnormal.
func bf16TDot(t testing.TB, x, y []float32, c float32) float32 {
	fused, unfused, flushed := c, c, c
	for k := range x {
		fused = FMA(x[k], y[k], fused)
		unfused = float32(x[k]*y[k]) + unfused
		// As VDPBF16PS: subnormals are zero, in operands and after every sum.
		flushed = bf16TFlush(FMA(bf16TFlush(x[k]), bf16TFlush(y[k]), bf16TFlush(flushed)))
		if !gemmTSame(fused, unfused) || !gemmTSame(fused, flushed) {
			t.Fatalf("term %d, %g * %g: fused %g, unfused %g, flushed %g", k, x[k], y[k], fused, unfused, flushed)
		}
	}
	return fused
}

// bf16TClasses are values at the ends of the range of operands beside those of products.
var bf16TClasses = map[string]func(r *rand.Rand) float32{
	"least": func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, -54-r.IntN(6))) },
	"most":  func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, 60+r.IntN(8))) },
	"ends": func(r *rand.Rand) float32 {
		return float32(math.Ldexp(r.Float64()*2-1, [...]int{-56, -55, 0, 63, 64}[r.IntN(5)]))
	},
}

func bf16TDraws() map[string]func(r *rand.Rand) float32 {
	all := map[string]func(r *rand.Rand) float32{}
	for n, f := range gemmTClasses {
		all[n] = f
	}
	for n, f := range bf16TClasses {
		all[n] = f
	}
	return all
}

// Fused, unfused and flushing arithmetic agree on operands, and sums are never subnormal.
func TestBF16OneClass(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for name, f := range bf16TDraws() {
		t.Run(name, func(t *testing.T) {
			for range 3000 {
				x, y := gemmTDraw(r, 1+r.IntN(40), f), []float32(nil)
				roundBF16(x, x)
				y = gemmTDraw(r, len(x), f)
				roundBF16(y, y)
				// Opposite terms in another order cancel all but what was rounded away.
				for i := 0; i+1 < len(x); i += 2 {
					if r.IntN(3) == 0 {
						x[i+1], y[i+1] = -y[i], x[i]
					}
				}
				bf16TDot(t, x, y, 0)
			}
		})
	}
}

// Every implementation of products has the bits of the definition, fused or not.
func TestGemmBF16(t *testing.T) {
	teams := gemmTTeams(t)
	r := rand.New(rand.NewPCG(7, 8))
	for name, f := range bf16TDraws() {
		for _, s := range [][3]int{{1, 1, 1}, {5, 17, 9}, {13, 50, 33}, {40, 31, 3}, {9, 100, 401}} {
			for form := range 4 {
				g := gemmTArgs(r, s[0], s[1], s[2], form&1 != 0, form&2 != 0, r.IntN(3), f)
				roundBF16(g.A, g.A)
				roundBF16(g.B, g.B)
				g.RowBias, g.ColBias = nil, nil
				what := fmt.Sprintf("%s, %v, form %d", name, s, form)
				bf16TGemm(t, what, teams, g)
			}
		}
	}
}

// TestGemmRoundB: a product that rounds B on its way has the bits of one of rounded operands, over
// several blocks of columns and of k.
func TestGemmRoundB(t *testing.T) {
	teams := gemmTTeams(t)
	r := rand.New(rand.NewPCG(9, 8))
	for name, f := range bf16TDraws() {
		for _, s := range [][3]int{{1, 1, 1}, {7, 17, 9}, {13, 481, 33}, {3, 50, 401}, {40, 100, 70}} {
			for form := range 4 {
				if testing.Short() && form > 0 && s[0]*s[1]*s[2] > 50_000 {
					continue // an emulator takes seconds for each
				}
				g := gemmTArgs(r, s[0], s[1], s[2], form&1 != 0, form&2 != 0, r.IntN(3), f)
				g.BF16, g.RoundB, g.ReLU, g.Acc = true, true, r.IntN(2) == 0, r.IntN(2) == 0
				roundBF16(g.A, g.A)
				gemmTCheck(t, fmt.Sprintf("%s, %v, form %d", name, s, form), teams, g)
			}
		}
	}
}

// bf16TGemm checks a product of rounded operands in both classes of arithmetic.
func bf16TGemm(t testing.TB, what string, teams []*Team, g GemmArgs) {
	g.BF16 = true
	want := make([]float32, len(g.C))
	copy(want, g.C)
	x, y := make([]float32, g.K), make([]float32, g.K)
	for i := range g.M {
		for j := range g.N {
			for k := range g.K {
				x[k], y[k] = g.A[i*g.RS+k*g.KS], g.B[g.at(k, j)]
			}
			want[i*g.LDC+j] = bf16TDot(t, x, y, 0)
		}
	}
	gemmTCheck(t, what, teams, g)
	defer func(old bool) { fused = old }(fused)
	for _, fused = range []bool{false, true} {
		got := g
		got.C = append([]float32(nil), g.C...)
		got.block(tilePortable, make([]float32, GemmScratch(g.M, g.N, g.K)))
		gemmTBits(t, fmt.Sprintf("%s, portable, fused %v", what, fused), got.C, want)
	}
}

func FuzzBF16(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(5), uint8(7), uint8(0))
	f.Add(uint64(2), uint8(8), uint8(48), uint8(64), uint8(3))
	draws := bf16TDraws()
	names := append(slices.Clone(gemmTNames), "least", "most", "ends")
	teams := gemmTTeams(f)
	f.Fuzz(func(t *testing.T, seed uint64, m, n, k, form uint8) {
		r := rand.New(rand.NewPCG(seed, 9))
		draw := draws[names[int(form/4)%len(names)]]
		g := gemmTArgs(r, 1+int(m%24), 1+int(n%64), 1+int(k), form&1 != 0, form&2 != 0, 0, draw)
		roundBF16(g.A, g.A)
		roundBF16(g.B, g.B)
		g.RowBias, g.ColBias = nil, nil
		bf16TGemm(t, "product", teams, g)
		g.B, g.RoundB = gemmTDraw(r, len(g.B), draw), true
		gemmTCheck(t, "product of B as it is", teams, g)
	})
}
