package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// gemmTOperands lays out a product of operands in bfloat16; with roundB, B is not rounded yet.
func gemmTOperands(r *rand.Rand, m, n, k int, tA, tB, roundB bool, pad int, f func(*rand.Rand) float32) GemmArgs {
	g := gemmTArgs(r, m, n, k, tA, tB, pad, f)
	g.BF16, g.RoundB = true, roundB
	roundBF16(g.A, g.A)
	if !roundB {
		roundBF16(g.B, g.B)
	}
	return g
}

// TestGemmPairsEdges walks every number of rows and columns around a tile, and odd numbers of
// terms.
func TestGemmPairsEdges(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	teams := []*Team{nil}
	for m := 1; m <= 17; m++ {
		for n := 1; n <= 50; n++ {
			g := gemmTOperands(r, m, n, 1+(m+n)%5, m%2 == 0, n%2 == 0, m%3 == 0, 1, gemmTClasses["short"])
			g.Acc = (m+n)%3 == 0
			gemmTCheck(t, fmt.Sprintf("%dx%d", m, n), teams, g)
		}
	}
}

// TestGemmPairs: more than one block of columns and of terms, all layouts, on every class of
// values, what is in C included.
func TestGemmPairs(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	teams := gemmTTeams(t)
	draws := bf16TDraws()
	shapes := [][3]int{{9, 33, 31}, {50, 20, 33}, {17, 500, 65}, {3, 70, pairBlock + 1}, {98, 7, 2*pairBlock + 3}, {65, 97, 66}}
	for _, name := range append(append([]string(nil), gemmTNames...), "least", "most", "ends") {
		for i, s := range shapes {
			if (testing.Short() || gemmTRace) && i > 1 {
				break
			}
			for form := range 8 {
				if s[0]*s[1]*s[2] > 1<<16 && r.IntN(4) != 0 {
					continue // the reference is slow
				}
				g := gemmTOperands(r, s[0], s[1], s[2], form&1 != 0, form&2 != 0, form&4 != 0, r.IntN(3), draws[name])
				g.Acc, g.ReLU = r.IntN(2) == 0, r.IntN(3) == 0
				if r.IntN(2) == 0 {
					g.RowBias = nil
				}
				if r.IntN(2) == 0 {
					g.ColBias = nil
				}
				gemmTCheck(t, fmt.Sprintf("%s, %v, form %d", name, s, form), teams, g)
			}
		}
	}
}

// TestGemmPairsContinue: what is in C and is no sum of products of operands. -0 stays under
// products that are zero, and subnormal numbers are not lost.
func TestGemmPairsContinue(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	minus := float32(math.Copysign(0, -1))
	for _, c := range []float32{minus, 1e-40, -1e-45, float32(math.Ldexp(1.5, -126)), -float32(math.Ldexp(1+1./(1<<23), -104)), float32(math.Ldexp(1, -103)), float32(math.Inf(-1))} {
		for _, k := range []int{1, 2, 3, 33} {
			for form := range 4 {
				g := gemmTOperands(r, 9, 20, k, form&1 != 0, form&2 != 0, false, 0, func(r *rand.Rand) float32 {
					return []float32{0, minus, float32(math.Ldexp(1, -56)), -float32(math.Ldexp(1, -56))}[r.IntN(4)]
				})
				if form&1 == 0 {
					for i := range g.A { // all products are -0
						g.A[i] = 0
					}
					for i := range g.B {
						g.B[i] = minus
					}
				}
				g.RowBias, g.ColBias, g.Acc = nil, nil, true
				for i := range g.C {
					g.C[i] = c
				}
				gemmTCheck(t, fmt.Sprintf("%g, %d terms, form %d", c, k, form), []*Team{nil}, g)
			}
		}
	}
}

// TestGemmBF16AllocatesNothing: by pairs, and rounding B for the float32 kernels.
func TestGemmBF16AllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(27, 28))
	team := NewTeam(2)
	defer team.Close()
	for _, s := range [][3]int{{70, 130, 90}, {5, 17, 9}} {
		g := gemmTOperands(r, s[0], s[1], s[2], false, true, true, 0, gemmTClasses["normal"])
		scratch := make([]float32, g.scratch())
		gemmTEach(func(name string) {
			for _, team := range []*Team{nil, team} {
				run := func() {
					Gemm(team, &GemmArgs{M: g.M, N: g.N, K: g.K, A: g.A, RS: g.RS, KS: g.KS, B: g.B, BK: g.BK, BJ: g.BJ, C: g.C, LDC: g.LDC, BF16: true, RoundB: true}, scratch)
				}
				for range 20 { // every worker has its scratch
					run()
				}
				if n := testing.AllocsPerRun(20, run); n > 0 {
					t.Errorf("%v, %s, %d threads: %g allocations", s, name, team.Threads(), n)
				}
			}
		})
	}
}

func FuzzGemmPairs(f *testing.F) {
	f.Add(uint64(1), uint8(9), uint8(50), uint16(790), uint8(7), uint8(0))
	f.Add(uint64(2), uint8(0), uint8(0), uint16(0), uint8(255), uint8(5))
	f.Add(uint64(3), uint8(7), uint8(47), uint16(33), uint8(2), uint8(12))
	team := NewTeam(2)
	f.Cleanup(team.Close)
	draws := bf16TDraws()
	names := append(append([]string(nil), gemmTNames...), "least", "most", "ends")
	f.Fuzz(func(t *testing.T, seed uint64, m, n uint8, k uint16, v, class uint8) {
		r := rand.New(rand.NewPCG(seed, 9))
		g := gemmTOperands(r, int(m%70)+1, int(n)+1, int(k%900)+1, v&1 != 0, v&2 != 0, v&64 != 0, int(v>>5&1), draws[names[int(class)%len(names)]])
		g.Acc, g.ReLU = v&4 != 0, v&8 != 0
		if v&16 != 0 {
			g.RowBias, g.ColBias = nil, nil
		}
		gemmTCheck(t, "product", []*Team{nil, team}, g)
	})
}

// BenchmarkGemmBF16 has the products of linear layers, as a training step makes them, in float32
// and in bfloat16.
func BenchmarkGemmBF16(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, s := range []struct{ rows, in, out int }{
		{512, 512, 512},
		{1024, 1024, 1024},
		{512, 768, 3072},
		{512, 3072, 768},
		{512, 768, 768},
		{2048, 128, 512},
		{256, 48, 144},
		{64, 256, 10},
		{8, 1024, 1024},
	} {
		for _, way := range []string{"forward", "input", "weight"} {
			for _, half := range []bool{false, true} {
				m, n, k := s.rows, s.out, s.in
				switch way {
				case "input":
					n, k = s.in, s.out
				case "weight":
					m, n, k = s.out, s.in, s.rows
				}
				g := gemmTArgs(r, m, n, k, way == "weight", way == "forward", 0, gemmTClasses["short"])
				g.RowBias, g.ColBias, g.BF16, g.RoundB = nil, nil, half, half && way != "weight"
				g.A, g.B, g.C = append([]float32(nil), g.A...), append([]float32(nil), g.B...), append([]float32(nil), g.C...) // aligned
				scratch := make([]float32, g.scratch())
				b.Run(fmt.Sprintf("%dx%dx%d/%s/%v", s.rows, s.in, s.out, way, half), func(b *testing.B) {
					for b.Loop() {
						Gemm(nil, &g, scratch)
					}
					b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}
