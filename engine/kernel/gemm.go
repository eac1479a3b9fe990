package kernel

// GemmArgs is a matrix product.
type GemmArgs struct {
	M, N, K          int
	A                []float32
	RS, KS           int
	B                []float32
	BK, BJ           int
	C                []float32
	LDC              int
	Acc              bool
	RowBias, ColBias []float32
	ReLU             bool
}

// GemmScratch is the floats of scratch.
func GemmScratch(m, n, k int) int { return 0 }

// Gemm computes.
func Gemm(t *Team, g *GemmArgs, scratch []float32) {
	for i := range g.M {
		for j := range g.N {
			var s float32
			if g.Acc {
				s = g.C[i*g.LDC+j]
			}
			for k := range g.K {
				s = FMA(g.A[i*g.RS+k*g.KS], g.B[k*g.BK+j*g.BJ], s)
			}
			if g.RowBias != nil {
				s += g.RowBias[i]
			}
			if g.ColBias != nil {
				s += g.ColBias[j]
			}
			if g.ReLU && 0 > s {
				s = 0
			}
			g.C[i*g.LDC+j] = s
		}
	}
}
