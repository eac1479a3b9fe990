package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// gemmTClasses are kinds of values that break careless arithmetic.
var gemmTClasses = map[string]func(r *rand.Rand) float32{
	"normal":    func(r *rand.Rand) float32 { return float32(r.NormFloat64()) },
	"subnormal": func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, -66-r.IntN(12))) },
	"tiny":      func(r *rand.Rand) float32 { return math.Float32frombits(r.Uint32() & 0x807fffff) },
	"huge":      func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, 50+r.IntN(20))) },
	"zeros": func(r *rand.Rand) float32 {
		return []float32{0, float32(math.Copysign(0, -1)), 1e-30, -1e-30}[r.IntN(4)]
	},
	"infinite": func(r *rand.Rand) float32 {
		if r.IntN(97) == 0 {
			return float32(math.Inf(r.IntN(2)*2 - 1))
		}
		return float32(r.NormFloat64())
	},
	"cancelling": func(r *rand.Rand) float32 { return []float32{4096, -4096, 1e-3, -1e-3}[r.IntN(4)] },
	"bits":       func(r *rand.Rand) float32 { return math.Float32frombits(r.Uint32()) },
}

// gemmTDraw makes a slice that begins at an odd place in memory.
func gemmTDraw(r *rand.Rand, n int, f func(*rand.Rand) float32) []float32 {
	v := make([]float32, n+3)[3:]
	for i := range v {
		v[i] = f(r)
	}
	return v
}

// gemmTSame compares bits; any NaN equals any other.
func gemmTSame(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || (a != a && b != b)
}

// gemmTArgs lays out a product of the given size: tA, tB transposed in memory, pad
// floats behind each row.
func gemmTArgs(r *rand.Rand, m, n, k int, tA, tB bool, pad int, f func(*rand.Rand) float32) GemmArgs {
	g := GemmArgs{M: m, N: n, K: k, RS: k + pad, KS: 1, BK: n + pad, BJ: 1, LDC: n + pad}
	if tA {
		g.RS, g.KS = 1, m+pad
	}
	if tB {
		g.BK, g.BJ = 1, k+pad
	}
	g.A = gemmTDraw(r, (m-1)*g.RS+(k-1)*g.KS+1, f)
	g.B = gemmTDraw(r, (k-1)*g.BK+(n-1)*g.BJ+1, f)
	g.C = gemmTDraw(r, (m-1)*g.LDC+n, f)
	g.RowBias, g.ColBias = gemmTDraw(r, m, f), gemmTDraw(r, n, f)
	return g
}

func gemmTCheck(t *testing.T, what string, g GemmArgs) {
	t.Helper()
	defer func(old *tiling) { tile = old }(tile)
	c := append([]float32(nil), g.C...)
	want := g
	want.C = append([]float32(nil), c...)
	want.reference()
	for name, tl := range tilings() {
		tile = tl
		for threads := 1; threads <= 3; threads += 2 {
			team := NewTeam(threads)
			got := g
			got.C = append([]float32(nil), c...)
			Gemm(team, &got, make([]float32, GemmScratch(g.M, g.N, g.K)))
			team.Close()
			for i := range want.C {
				if !gemmTSame(got.C[i], want.C[i]) {
					t.Fatalf("%s, %s, %d threads: element %d is %g (%#x), the specification says %g (%#x)", what, name, threads, i,
						got.C[i], math.Float32bits(got.C[i]), want.C[i], math.Float32bits(want.C[i]))
				}
			}
		}
	}
}

func TestGemmIsItsSpecification(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shapes := [][3]int{{1, 1, 1}, {3, 5, 7}, {8, 48, 16}, {7, 13, 257}, {9, 49, 385}, {13, 50, 300}, {64, 10, 256}, {16, 64, 9}, {32, 256, 144}, {65, 101, 513}, {97, 490, 30}, {2, 1000, 3}, {130, 17, 800}}
	for class, f := range gemmTClasses {
		for i, s := range shapes {
			for v := range 8 {
				g := gemmTArgs(r, s[0], s[1], s[2], v&1 != 0, v&2 != 0, (i+v)%3, f)
				g.Acc = v&4 != 0
				g.ReLU = (v+i)%3 == 0
				if v%2 == 0 {
					g.RowBias = nil
				}
				if v%3 == 0 {
					g.ColBias = nil
				}
				gemmTCheck(t, fmt.Sprintf("%s %v variant %d", class, s, v), g)
			}
		}
	}
}

// TestGemmAgainstBLAS: another library's product agrees. It adds in another order, so
// the comparison is to a bound on the rounding errors of k terms.
func TestGemmAgainstBLAS(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, s := range [][3]int{{33, 47, 65}, {128, 96, 700}} {
		m, n, k := s[0], s[1], s[2]
		g := gemmTArgs(r, m, n, k, false, false, 0, gemmTClasses["normal"])
		g.RowBias, g.ColBias = nil, nil
		want := make([]float32, m*n)
		gonum.Implementation{}.Sgemm(blas.NoTrans, blas.NoTrans, m, n, k, 1, g.A, k, g.B, n, 0, want, n)
		Gemm(nil, &g, make([]float32, GemmScratch(m, n, k)))
		for i := range want {
			if d := math.Abs(float64(g.C[i] - want[i])); d > float64(k)*6e-8*20 {
				t.Fatalf("%v: element %d is %g, BLAS says %g", s, i, g.C[i], want[i])
			}
		}
	}
}

func FuzzGemm(f *testing.F) {
	f.Add(uint64(1), uint8(9), uint8(50), uint16(390), uint8(7))
	f.Fuzz(func(t *testing.T, seed uint64, m, n uint8, k uint16, v uint8) {
		r := rand.New(rand.NewPCG(seed, 9))
		g := gemmTArgs(r, int(m%70)+1, int(n)+1, int(k%900)+1, v&1 != 0, v&2 != 0, int(v>>5), gemmTClasses["bits"])
		g.Acc, g.ReLU = v&4 != 0, v&8 != 0
		if v&16 != 0 {
			g.RowBias, g.ColBias = nil, nil
		}
		gemmTCheck(t, "fuzz", g)
	})
}

// TestFMAIsExact: against float64 arithmetic with an exact error term, on operands that
// land on ties.
func TestFMAIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	if got := FMA(-1, 1+1.0/2048, (1+1.0/4096)*(1+1.0/4096)); got != 0 {
		// (1+2^-12)² rounds to 1+2^-11 in float32 before it comes here.
		t.Errorf("got %g", got)
	}
	if got := FMA(1+1.0/4096, 1+1.0/4096, -(1 + 1.0/2048)); got != 1.0/(1<<24) {
		t.Errorf("(1+2^-12)² - (1+2^-11) = %g, want 2^-24", got)
	}
	for range 2_000_000 {
		x, y := float32(r.IntN(1<<12)+1<<12), float32(r.IntN(1<<12)+1<<12)
		z := float32(math.Ldexp(float64(r.IntN(1<<24)), r.IntN(50)-30))
		if r.IntN(2) == 0 {
			z = -z
		}
		got := FMA(x, y, z)
		// Exact by integers of 2^-30: both operands are integers, z a multiple of 2^-30.
		if e := bigFMA(x, y, z); !gemmTSame(got, e) {
			t.Fatalf("FMA(%g, %g, %g) = %g, exactly rounded %g", x, y, z, got, e)
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	defer func(old *tiling) { tile = old }(tile)
	for _, s := range [][3]int{{256, 256, 256}, {512, 512, 512}, {1024, 1024, 1024}, {64, 3136, 576}, {128, 784, 1152}, {512, 64, 512}, {64, 10, 256}, {64, 256, 32}, {16, 64, 9}} {
		m, n, k := s[0], s[1], s[2]
		g := gemmTArgs(r, m, n, k, false, false, 0, gemmTClasses["normal"])
		g.RowBias, g.ColBias = nil, nil
		scratch := make([]float32, GemmScratch(m, n, k))
		for name, tl := range tilings() {
			if tl == nil && m > 256 {
				continue
			}
			tile = tl
			b.Run(fmt.Sprintf("%dx%dx%d/%s", m, k, n, name), func(b *testing.B) {
				for b.Loop() {
					Gemm(nil, &g, scratch)
				}
				b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
