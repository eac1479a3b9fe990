// The matrix product, on which the engine's time is spent.

package kernel

import "unsafe"

// GemmArgs is C[M,N] = A[M,K] B[K,N], or += with Acc, then bias and ReLU. Strides are in
// floats.
type GemmArgs struct {
	M, N, K int
	A       []float32 // element (i,k) at i*RS + k*KS
	RS, KS  int
	B       []float32 // element (k,j) at k*BK + j*BJ; one of BK, BJ is 1
	BK, BJ  int
	C       []float32 // element (i,j) at i*LDC + j
	LDC     int

	// Acc continues the dot products that are in C in place of starting at +0.
	Acc bool
	// After the whole dot product: plus RowBias[i], plus ColBias[j], and ReLU.
	RowBias, ColBias []float32
	ReLU             bool
}

// tiling is the shape of the microkernels of one instruction set.
type tiling struct {
	mr, nv, vw int
	masks      bool // kernels handle partial vectors of B and C
	run        func(mr, nv, kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc int, acc bool, mask uint64)
}

// Blocking: a block of B of kBlock x nBlock floats stays in the second-level cache.
const (
	kBlock    = 384
	nBlock    = 480
	smallWork = 1 << 18 // multiply-adds below which waking a thread costs more than it brings
	// edgeFloats hold a tile of C whose last vector is not whole.
	edgeFloats = 8 * 48
)

// tile is the fastest tiling of this machine, nil where there is only portable code.
// Tests replace it.
var tile *tiling

// GemmScratch is the floats of scratch that Gemm needs for a product of this size.
func GemmScratch(_, n, k int) int {
	return edgeFloats + min(k, kBlock)*min((n+63)/64*64, nBlock+64)
}

// check panics if a slice is too short: an out-of-range store in assembly would be
// silent.
func (g *GemmArgs) check() {
	if g.M <= 0 || g.N <= 0 || g.K <= 0 {
		panic("kernel: empty matrix product")
	}
	if (g.BK != 1 && g.BJ != 1) || g.LDC < g.N {
		panic("kernel: matrix strides are not supported")
	}
	_ = g.A[(g.M-1)*g.RS+(g.K-1)*g.KS]
	_ = g.B[(g.K-1)*g.BK+(g.N-1)*g.BJ]
	_ = g.C[(g.M-1)*g.LDC+g.N-1]
	if g.RowBias != nil {
		_ = g.RowBias[g.M-1]
	}
	if g.ColBias != nil {
		_ = g.ColBias[g.N-1]
	}
}

// Gemm computes g on the team's threads with scratch of at least GemmScratch floats.
func Gemm(t *Team, g *GemmArgs, scratch []float32) {
	g.check()
	if t.Threads() == 1 || g.M*g.N*g.K < smallWork {
		g.block(tile, scratch)
		return
	}
	t.job.split(g, t.n)
	t.run()
}

// gemmJob is a product cut into tiles for threads: stripes of the longer side.
type gemmJob struct {
	g       GemmArgs
	byRows  bool
	step    int
	tiles   int
	scratch int
}

// split cuts rows if there are many, else columns; stripes are whole microkernels.
func (j *gemmJob) split(g *GemmArgs, threads int) {
	j.g = *g
	mr, nr := 8, 48
	if tile != nil {
		mr, nr = tile.mr, tile.nv*tile.vw
	}
	j.byRows = g.M/mr >= g.N/nr
	size, unit := g.N, nr
	if j.byRows {
		size, unit = g.M, mr
	}
	parts := min(2*threads, (size+unit-1)/unit)
	j.step = ((size+parts-1)/parts + unit - 1) / unit * unit
	j.tiles = (size + j.step - 1) / j.step
	j.scratch = GemmScratch(g.M, g.N, g.K)
}

// tile computes stripe i.
func (j *gemmJob) tile(i int, scratch []float32) {
	g := j.g
	at := i * j.step
	if j.byRows {
		g.M = min(j.step, g.M-at)
		g.A, g.C = g.A[at*g.RS:], g.C[at*g.LDC:]
		if g.RowBias != nil {
			g.RowBias = g.RowBias[at:]
		}
	} else {
		g.N = min(j.step, g.N-at)
		g.B, g.C = g.B[at*g.BJ:], g.C[at:]
		if g.ColBias != nil {
			g.ColBias = g.ColBias[at:]
		}
	}
	g.block(tile, scratch)
}

// reference is the specification.
func (g *GemmArgs) reference() {
	for i := range g.M {
		for j := range g.N {
			var s float32
			if g.Acc {
				s = g.C[i*g.LDC+j]
			}
			for k := range g.K {
				s = FMA(g.A[i*g.RS+k*g.KS], g.B[k*g.BK+j*g.BJ], s)
			}
			g.C[i*g.LDC+j] = s
		}
	}
	g.finish(0, g.M, 0, g.N)
}

// finish adds the biases and applies ReLU to rows [i0,i1) and columns [j0,j1).
func (g *GemmArgs) finish(i0, i1, j0, j1 int) {
	if g.RowBias == nil && g.ColBias == nil && !g.ReLU {
		return
	}
	for i := i0; i < i1; i++ {
		row := g.C[i*g.LDC+j0:][:j1-j0]
		if g.RowBias != nil {
			b := g.RowBias[i]
			for j := range row {
				row[j] += b
			}
		}
		if g.ColBias != nil {
			bias := g.ColBias[j0:][:len(row)]
			for j := range row {
				row[j] += bias[j]
			}
		}
		if g.ReLU {
			ReLU(row, row)
		}
	}
}

func at(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), i*4))
}

// block computes the product on this thread: columns in blocks, k in blocks that
// continue each other's sums, B packed to the kernels' width where that pays.
func (g *GemmArgs) block(t *tiling, scratch []float32) {
	if t == nil {
		g.portable()
		return
	}
	nr := t.nv * t.vw
	parts := (g.K + kBlock - 1) / kBlock
	kc := (g.K + parts - 1) / parts
	edge, scratch := scratch[:edgeFloats], scratch[edgeFloats:]
	for jc := 0; jc < g.N; jc += nBlock {
		nc := min(nBlock, g.N-jc)
		for pc := 0; pc < g.K; pc += kc {
			kn := min(kc, g.K-pc)
			acc := g.Acc || pc > 0
			// B as it lies is good enough for a single panel of rows.
			direct := g.BJ == 1 && g.M <= t.mr && (t.masks || nc%t.vw == 0)
			if !direct {
				g.pack(scratch, t, pc, kn, jc, nc)
			}
			for i := 0; i < g.M; i += t.mr {
				mr := min(t.mr, g.M-i)
				a := at(g.A, i*g.RS+pc*g.KS)
				for j := 0; j < nc; j += nr {
					n := min(nr, nc-j)
					nv := (n + t.vw - 1) / t.vw
					b, bks := at(scratch, j*kn), nv*t.vw
					if direct {
						b, bks = at(g.B, pc*g.BK+jc+j), g.BK
					}
					c := at(g.C, i*g.LDC+jc+j)
					if t.masks || n%t.vw == 0 {
						mask := ^uint64(0)
						if r := n % t.vw; r != 0 {
							mask = 1<<r - 1
						}
						t.run(mr, nv, kn, a, 4*g.RS, 4*g.KS, b, 4*bks, c, 4*g.LDC, acc, mask)
						continue
					}
					w := nv * t.vw
					if acc {
						for r := range mr {
							copy(edge[r*w:r*w+n], g.C[(i+r)*g.LDC+jc+j:])
						}
					}
					t.run(mr, nv, kn, a, 4*g.RS, 4*g.KS, b, 4*bks, &edge[0], 4*w, acc, 0)
					for r := range mr {
						copy(g.C[(i+r)*g.LDC+jc+j:][:n], edge[r*w:])
					}
				}
			}
		}
		g.finish(0, g.M, jc, jc+nc)
	}
}

// pack copies rows [pc,pc+kn) and columns [jc,jc+nc) of B into panels of the kernels'
// width: panel by panel, row by row, the last vector filled up with zeros.
func (g *GemmArgs) pack(dst []float32, t *tiling, pc, kn, jc, nc int) {
	nr := t.nv * t.vw
	for j := 0; j < nc; j += nr {
		n := min(nr, nc-j)
		w := (n + t.vw - 1) / t.vw * t.vw
		p := dst[j*kn:][:kn*w]
		if g.BJ == 1 {
			for k := range kn {
				row := p[k*w:][:w]
				src := g.B[(pc+k)*g.BK+jc+j:][:n]
				copy(row, src)
				clear(row[n:])
			}
			continue
		}
		// Columns of B are contiguous in k: four at a time keep the stores together.
		if w > n {
			clear(p)
		}
		q := 0
		for ; q+4 <= n; q += 4 {
			o := pc + (jc+j+q)*g.BJ
			b0, b1, b2, b3 := g.B[o:][:kn], g.B[o+g.BJ:][:kn], g.B[o+2*g.BJ:][:kn], g.B[o+3*g.BJ:][:kn]
			for k := range kn {
				d := p[k*w+q:][:4]
				d[0], d[1], d[2], d[3] = b0[k], b1[k], b2[k], b3[k]
			}
		}
		for ; q < n; q++ {
			col := g.B[pc+(jc+j+q)*g.BJ:][:kn]
			for k, v := range col {
				p[k*w+q] = v
			}
		}
	}
}

// portable is the reference with two rows and two columns at a time, which halves the
// loads and lets four chains overlap.
func (g *GemmArgs) portable() {
	i := 0
	for ; i+2 <= g.M; i += 2 {
		j := 0
		for ; j+2 <= g.N; j += 2 {
			c0, c1 := g.C[i*g.LDC+j:][:2], g.C[(i+1)*g.LDC+j:][:2]
			var s00, s01, s10, s11 float32
			if g.Acc {
				s00, s01, s10, s11 = c0[0], c0[1], c1[0], c1[1]
			}
			a, b := i*g.RS, j*g.BJ
			for range g.K {
				a0, a1, b0, b1 := g.A[a], g.A[a+g.RS], g.B[b], g.B[b+g.BJ]
				s00, s01 = FMA(a0, b0, s00), FMA(a0, b1, s01)
				s10, s11 = FMA(a1, b0, s10), FMA(a1, b1, s11)
				a, b = a+g.KS, b+g.BK
			}
			c0[0], c0[1], c1[0], c1[1] = s00, s01, s10, s11
		}
		g.columns(i, i+2, j)
	}
	g.columns(i, g.M, 0)
	g.finish(0, g.M, 0, g.N)
}

// columns computes what is left of rows [i0,i1) from column j0 on.
func (g *GemmArgs) columns(i0, i1, j0 int) {
	for i := i0; i < i1; i++ {
		for j := j0; j < g.N; j++ {
			var s float32
			if g.Acc {
				s = g.C[i*g.LDC+j]
			}
			a, b := i*g.RS, j*g.BJ
			for range g.K {
				s = FMA(g.A[a], g.B[b], s)
				a, b = a+g.KS, b+g.BK
			}
			g.C[i*g.LDC+j] = s
		}
	}
}
