package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// gemmTClasses are kinds of values that break careless arithmetic.
var gemmTClasses = map[string]func(r *rand.Rand) float32{
	"normal":    func(r *rand.Rand) float32 { return float32(r.NormFloat64()) },
	"wide":      func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, r.IntN(80)-40)) },
	"subnormal": func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, -66-r.IntN(12))) },
	"tiny": func(r *rand.Rand) float32 {
		if r.IntN(2) == 0 {
			return float32(math.Ldexp(r.Float64()*2-1, r.IntN(24)))
		}
		return math.Float32frombits(r.Uint32() & 0x807fffff)
	},
	"huge": func(r *rand.Rand) float32 { return float32(math.Ldexp(r.Float64()*2-1, 50+r.IntN(20))) },
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
	// Products of few bits: sums land on ties.
	"short": func(r *rand.Rand) float32 {
		return math.Float32frombits(math.Float32bits(float32(math.Ldexp(r.Float64()*2-1, r.IntN(24)-12))) & 0xffff0000)
	},
	"bits": func(r *rand.Rand) float32 { return math.Float32frombits(r.Uint32()) },
}

// gemmTNames is the classes in a fixed order, so that a failure can be repeated.
var gemmTNames = func() (names []string) {
	for n := range gemmTClasses {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}()

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

// gemmTBits compares all of two slices.
func gemmTBits(t testing.TB, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if !gemmTSame(got[i], want[i]) {
			t.Fatalf("%s: element %d is %g (%#x), the specification says %g (%#x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// gemmTEach runs f on every implementation that this machine has.
func gemmTEach(f func(name string)) {
	defer func(old *tiling) { tile = old }(tile)
	for name, tl := range tilings() {
		tile = tl
		f(name)
	}
}

// gemmTTeams are the teams that every product is tried on; nil is one thread.
func gemmTTeams(tb testing.TB) []*Team {
	teams := []*Team{nil, NewTeam(2), NewTeam(3), NewTeam(4)}
	tb.Cleanup(func() {
		for _, t := range teams {
			t.Close()
		}
	})
	return teams
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

// gemmTCheck compares every implementation with the reference, also what lies between
// the rows of C, which nobody may touch. Scratch is full of NaN, just long enough, and
// followed by floats that must stay.
func gemmTCheck(t testing.TB, what string, teams []*Team, g GemmArgs) {
	t.Helper()
	c := g.C
	want := g
	want.C = slices.Clone(c)
	want.reference()
	nan := float32(math.NaN())
	need := g.scratch()
	scratch := make([]float32, need+17)
	gemmTEach(func(name string) {
		for _, team := range teams {
			for i := range scratch {
				scratch[i] = nan
			}
			scratch[need] = 42
			got := g
			got.C = append(make([]float32, 0, len(c)+64), c...)
			tail := got.C[len(c) : len(c)+64]
			Gemm(team, &got, scratch[:need])
			gemmTBits(t, fmt.Sprintf("%s, %s, %d threads", what, name, team.Threads()), got.C, want.C)
			if scratch[need] != 42 {
				t.Fatalf("%s, %s: wrote behind the scratch", what, name)
			}
			for i, v := range tail {
				if v != 0 {
					t.Fatalf("%s, %s: wrote %g at %d behind C", what, name, v, i)
				}
			}
		}
	})
}

func TestGemmIsItsSpecification(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	teams := gemmTTeams(t)
	shapes := [][3]int{
		{1, 1, 1},
		{3, 5, 7},
		{8, 48, 16},
		{7, 13, 257},
		{9, 49, 385},
		{13, 50, 300},
		{64, 10, 256},
		{16, 64, 9},
		{32, 4, 144},
		{6, 32, 11},
		{5, 31, 12},
		{33, 101, 513},
		{17, 490, 30},
		{2, 1000, 3},
		{70, 17, 97},
		{1, 97, 40},
		{23, 1, 50},
	}
	if testing.Short() || gemmTRace {
		shapes = shapes[:8]
	}
	for c, class := range gemmTNames {
		if gemmTRace && c > 1 {
			break // values make no races
		}
		for i, s := range shapes {
			for v := range 8 {
				if s[0]*s[1]*s[2] > 1<<16 && (v+c+i)%4 != 0 {
					continue // the reference is slow
				}
				g := gemmTArgs(r, s[0], s[1], s[2], v&1 != 0, v&2 != 0, (i+v)%3, gemmTClasses[class])
				g.Acc = v&4 != 0
				g.ReLU = (v+i)%3 == 0
				if v%2 == 0 {
					g.RowBias = nil
				}
				if v%3 == 0 {
					g.ColBias = nil
				}
				gemmTCheck(t, fmt.Sprintf("%s %v variant %d", class, s, v), teams, g)
			}
		}
	}
}

// TestGemmEdges walks every number of rows and columns around a tile, which is every
// microkernel with every mask.
func TestGemmEdges(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	teams := []*Team{nil}
	for m := 1; m <= 17; m++ {
		for n := 1; n <= 50; n++ {
			g := gemmTArgs(r, m, n, 1+(m+n)%5, m%2 == 0, n%2 == 0, 1, gemmTClasses["short"])
			g.Acc = (m+n)%3 == 0
			gemmTCheck(t, fmt.Sprintf("%dx%d", m, n), teams, g)
		}
	}
}

// TestGemmStrips walks the ends of the strips that a transposed A with long rows is laid
// out in, with more terms than a block of k has for one of them.
func TestGemmStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for i, m := range []int{5, 8, 13, 14, 20, 42, 47, 48, 49, 50, 54, 55, 56, 97, 103} {
		k := 1 + i%3
		if m == 50 {
			k = kBlock + 5
		}
		g := gemmTArgs(r, m, 200, k, true, false, stripApart, gemmTClasses["short"])
		g.Acc = i%2 == 0
		gemmTCheck(t, fmt.Sprint(m, " rows"), []*Team{nil}, g)
	}
}

// TestGemmThreads: products large enough to be split, against one thread, with an
// uneven rest in both directions.
func TestGemmThreads(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for _, s := range [][3]int{{301, 77, 129}, {31, 523, 400}, {8, 961, 390}, {1000, 1, 400}} {
		for v := range 4 {
			g := gemmTArgs(r, s[0], s[1], s[2], v&1 != 0, v&2 != 0, 1, gemmTClasses["normal"])
			g.ReLU, g.Acc = true, v == 3
			want := g
			want.C = slices.Clone(g.C)
			scratch := make([]float32, GemmScratch(g.M, g.N, g.K))
			Gemm(nil, &want, scratch)
			gemmTEach(func(name string) {
				if name == "portable" && v != 0 {
					return
				}
				for _, team := range gemmTTeams(t)[1:] {
					got := g
					got.C = slices.Clone(g.C)
					Gemm(team, &got, scratch)
					gemmTBits(t, fmt.Sprintf("%v variant %d, %s, %d threads", s, v, name, team.Threads()), got.C, want.C)
				}
			})
		}
	}
}

// TestGemmRefusesShortSlices: assembly would write where it must not.
func TestGemmRefusesShortSlices(t *testing.T) {
	good := gemmTArgs(rand.New(rand.NewPCG(1, 1)), 5, 6, 7, false, false, 0, gemmTClasses["normal"])
	for name, spoil := range map[string]func(g *GemmArgs){
		"A":           func(g *GemmArgs) { g.A = g.A[:len(g.A)-1] },
		"B":           func(g *GemmArgs) { g.B = g.B[:len(g.B)-1] },
		"C":           func(g *GemmArgs) { g.C = g.C[:len(g.C)-1] },
		"row bias":    func(g *GemmArgs) { g.RowBias = g.RowBias[:4] },
		"column bias": func(g *GemmArgs) { g.ColBias = g.ColBias[:5] },
		"stride of C": func(g *GemmArgs) { g.LDC = 5 },
		"strides":     func(g *GemmArgs) { g.BK, g.BJ = 2, 2 },
		"negative":    func(g *GemmArgs) { g.RS = -1 },
		"empty":       func(g *GemmArgs) { g.K = 0 },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: not noticed", name)
				}
			}()
			g := good
			spoil(&g)
			Gemm(nil, &g, make([]float32, GemmScratch(5, 6, 7)))
		}()
	}
}

// TestGemmAgainstBLAS: another library's product agrees. It adds in another order, so
// the comparison is to a bound on the rounding errors of k terms.
func TestGemmAgainstBLAS(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for v, s := range [][3]int{{33, 47, 65}, {128, 96, 700}, {1, 130, 40}, {70, 3, 90}} {
		m, n, k := s[0], s[1], s[2]
		g := gemmTArgs(r, m, n, k, v&1 != 0, v&2 != 0, 0, gemmTClasses["normal"])
		g.RowBias, g.ColBias, g.Acc = nil, nil, v > 0
		want := slices.Clone(g.C)
		tA, tB, lda, ldb, beta := blas.NoTrans, blas.NoTrans, k, n, float32(0)
		if v&1 != 0 {
			tA, lda = blas.Trans, m
		}
		if v&2 != 0 {
			tB, ldb = blas.Trans, k
		}
		if g.Acc {
			beta = 1
		}
		gonum.Implementation{}.Sgemm(tA, tB, m, n, k, 1, g.A, lda, g.B, ldb, beta, want, n)
		Gemm(nil, &g, make([]float32, GemmScratch(m, n, k)))
		for i := range want {
			if d := math.Abs(float64(g.C[i] - want[i])); d > float64(k)*6e-8*20 {
				t.Fatalf("%v: element %d is %g, BLAS says %g", s, i, g.C[i], want[i])
			}
		}
	}
}

func TestGemmAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for _, threads := range []int{1, 3} {
		team := NewTeam(threads)
		defer team.Close()
		for v := range 4 {
			g := gemmTArgs(r, 70, 130, 90, v&1 != 0, v&2 != 0, 0, gemmTClasses["normal"])
			scratch := make([]float32, GemmScratch(g.M, g.N, g.K))
			run := func() {
				Gemm(team, &GemmArgs{M: g.M, N: g.N, K: g.K, A: g.A, RS: g.RS, KS: g.KS, B: g.B, BK: g.BK, BJ: g.BJ, C: g.C, LDC: g.LDC, ReLU: true}, scratch)
			}
			for range 20 { // every worker has its scratch
				run()
			}
			if n := testing.AllocsPerRun(20, run); n > 0 {
				t.Errorf("%d threads, variant %d: %g allocations", threads, v, n)
			}
		}
	}
}

func FuzzGemm(f *testing.F) {
	f.Add(uint64(1), uint8(9), uint8(50), uint16(390), uint8(7), uint8(0))
	f.Add(uint64(2), uint8(0), uint8(0), uint16(0), uint8(255), uint8(5))
	f.Add(uint64(3), uint8(7), uint8(47), uint16(384), uint8(2), uint8(9))
	team := NewTeam(2)
	f.Cleanup(team.Close)
	f.Fuzz(func(t *testing.T, seed uint64, m, n uint8, k uint16, v, class uint8) {
		r := rand.New(rand.NewPCG(seed, 9))
		g := gemmTArgs(r, int(m%70)+1, int(n)+1, int(k%900)+1, v&1 != 0, v&2 != 0, int(v>>5), gemmTClasses[gemmTNames[int(class)%len(gemmTNames)]])
		g.Acc, g.ReLU = v&4 != 0, v&8 != 0
		if v&16 != 0 {
			g.RowBias, g.ColBias = nil, nil
		}
		gemmTCheck(t, "fuzz", []*Team{nil, team}, g)
	})
}

func BenchmarkGemm(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, s := range []struct {
		m, k, n int
		tB      bool
	}{
		// Shapes that other libraries were measured on.
		{256, 256, 256, false},
		{512, 512, 512, false},
		{1024, 1024, 1024, false},
		{2048, 2048, 2048, false},
		{64, 576, 3136, false},
		{128, 1152, 784, false},
		{512, 512, 64, false},
		{64, 256, 10, false},
		// The walkthrough's, batches of 64: dense layers forward, convolutions of an image.
		{64, 32, 256, true},
		{64, 256, 10, true},
		{16, 9, 64, false},
		{32, 144, 4, false},
	} {
		g := gemmTArgs(r, s.m, s.n, s.k, false, s.tB, 0, gemmTClasses["normal"])
		g.RowBias, g.ColBias = nil, nil
		g.A, g.B, g.C = slices.Clone(g.A), slices.Clone(g.B), slices.Clone(g.C) // aligned
		scratch := make([]float32, GemmScratch(s.m, s.n, s.k))
		name := fmt.Sprintf("%dx%dx%d", s.m, s.k, s.n)
		if s.tB {
			name += "T"
		}
		for _, threads := range []int{1, 2} {
			gemmTEach(func(impl string) {
				if impl == "portable" && s.m*s.n*s.k > 512*512*512 || threads > 1 && (impl != "avx512" && impl != "wasm" || s.m < 256) {
					return
				}
				team := NewTeam(threads)
				defer team.Close()
				b.Run(fmt.Sprintf("%s/%s/%d", name, impl, threads), func(b *testing.B) {
					for b.Loop() {
						Gemm(team, &g, scratch)
					}
					b.ReportMetric(2*float64(s.m*s.n*s.k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			})
		}
	}
}
