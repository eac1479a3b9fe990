// The matrix product, where the engine spends its time.
//
// The specification is GemmArgs.reference: every element of C is one dot product over
// ascending k. The fast path is one loop nest, GemmArgs.blocks, over microkernels that differ
// by instruction set. A block of k continues the sums that the block before left in C, so
// blocking does not change the bits.

package kernel

import (
	"math"
	"unsafe"
)

// GemmArgs describes C[M,N] = A[M,K] B[K,N], or += with Acc, followed by bias and ReLU.
// Strides are in floats.
type GemmArgs struct {
	M, N, K int
	A       []float32 // element (i,k) at i*RS + k*KS
	RS, KS  int
	B       []float32 // element (k,j) at k*BK + j*BJ; one of BK, BJ is 1
	BK, BJ  int
	C       []float32 // element (i,j) at i*LDC + j
	LDC     int

	// Acc continues the dot products in C instead of starting at +0.
	Acc bool
	// After the whole dot product: plus RowBias[i], plus ColBias[j], and ReLU.
	RowBias, ColBias []float32
	ReLU             bool
	// BF16 tells that the elements of A and of B are operands in bfloat16 already ([RoundBF16]; of
	// B not with RoundB), for machines that compute such products faster.
	BF16 bool
	// RoundB takes the elements of B as operands in bfloat16 ([RoundBF16]), block by block on
	// their way, without a copy of B.
	RoundB bool

	// For the windows of a convolution, element (k,j) of B is B[rows[k]+cols[j]], and BK and
	// BJ are unused. Offsets in rows ascend by 1 within each group of run.
	rows, cols []int32
	run        int

	// packed are the rows of A as packA packs them; nil: A is read as it is.
	packed []float32
}

// micro is a microkernel: it computes a tile of C from kc rows of B. The last of its vectors
// has last lanes. It continues C if acc is not 0. Strides are in bytes. Packing kernels copy
// B to side; the others may prefetch the cache line at side, and one step bytes further for
// each row, for later calls.
type micro func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, acc, last int, side *float32, step int)

// tiling is the table of one instruction set: microkernels by rows and vectors of their
// tile, and what else products and convolutions use of it.
type tiling struct {
	mr, nv, vw int
	masks      bool                                                                  // kernels can load part of a vector of B; without masks, whole ones only
	kernel     *[8][3]micro                                                          // [rows-1][vectors-1]
	pack       *[8][3]micro                                                          // the same, packing B; nil if there are none
	window     *[8][3]windowMicro                                                    // kernels that read windows in place; nil if there are none
	strips     func(n int, src *float32, ss, count, width int, dst *float32, ds int) // copies rows of a transposed A; nil if A is always read in place
	module     bool                                                                  // in a browser, where a WebAssembly module computes the whole product
	lines      *lineKernels                                                          // nil if there are none
	pairs      *[8][3]micro                                                          // kernels on pairs of terms in bfloat16; nil if there are none
}

// Block sizes. A block of B, kBlock x nBlock floats, stays in the L2 cache. kBlock is a
// multiple of 49, so that the 7x7 and 14x14 planes of common networks divide evenly.
const (
	kBlock    = 392
	nBlock    = 480     // a multiple of every panel width
	smallWork = 1 << 18 // multiply-adds below which a second thread does not pay
	maxLanes  = 16
	pairBlock = 2 * kBlock // kBlock where two terms share a word
	pairWords = 1 << 20    // words of A that are packed at once, at most
)

// Where packing pairs pays: the least rows and terms of products of windows, and the least
// multiply-adds of others.
const (
	pairLeastRows, pairLeastTerms = 16, 32

	pairLeastWork = 1 << 13
)

// tile is the fastest tiling of this machine. Tests replace it.
var tile = tilePortable

var tilePortable = &tiling{mr: 2, nv: 1, vw: 4, kernel: &[8][3]micro{{microGo1}, {microGo2}}}

// GemmScratch is the floats of scratch that Gemm needs for a product of up to this size.
// Each further thread of a team has as much of its own, at most 0.9 MB.
func GemmScratch(m, n, k int) int {
	cols, words := min(wholeLanes(n), nBlock), (min(k, pairBlock)+1)/2
	k = min(k, kBlock)
	return max(k*cols+stripScratch(m, k), words*(cols+min(wholeLanes(m), stripRows))) + 2*maxLanes
}

// wholeLanes is n, rounded up to whole vectors.
func wholeLanes(n int) int { return (n + maxLanes - 1) / maxLanes * maxLanes }

// roundScratch is the floats that a block of B takes while it is rounded.
func roundScratch(n, k int) int { return min(k, kBlock)*min(n, nBlock) + maxLanes }

// GemmScratchBF16 is GemmScratch for operands in bfloat16, at most 5.6 MB. Products with RoundB
// need it; others are faster with it.
func GemmScratchBF16(m, n, k int) int {
	s := GemmScratch(m, n, k)
	words := (min(k, pairBlock) + 1) / 2
	if n > nBlock { // A is packed once for all blocks of columns
		rows := min(wholeLanes(m), pairWords/words&^(maxLanes-1))
		s = max(s, words*(nBlock+rows)+2*maxLanes)
	}
	return max(s, GemmScratch(m, n, k)+roundScratch(n, k))
}

// scratch is the floats of scratch that g needs.
func (g *GemmArgs) scratch() int {
	if g.RoundB {
		return GemmScratchBF16(g.M, g.N, g.K)
	}
	return GemmScratch(g.M, g.N, g.K)
}

// check panics if a slice is too short, as assembly does not check bounds.
func (g *GemmArgs) check(scratch []float32) {
	if g.M <= 0 || g.N <= 0 || g.K <= 0 {
		panic("kernel: empty matrix product")
	}
	if g.RS < 0 || g.KS < 0 || g.BK < 0 || g.BJ < 0 || (g.BK != 1 && g.BJ != 1) || g.LDC < g.N {
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
	if len(scratch) < g.scratch() {
		panic("kernel: scratch is shorter than GemmScratch, or GemmScratchBF16")
	}
}

// Gemm computes g on the team's threads with scratch of at least GemmScratch floats. It
// panics if a size is not positive, a stride not supported or a slice too short. C must
// not overlap A, B or the biases.
func Gemm(t *Team, g *GemmArgs, scratch []float32) {
	g.check(scratch)
	gemm(t, g, scratch)
}

// gemm is Gemm without the checks.
func gemm(t *Team, g *GemmArgs, scratch []float32) {
	switch {
	case g.RoundB && tile.module: // which has threads of its own
		g.roundBlocks(t, tile, scratch)
	case g.alone(t):
		g.block(tile, scratch)
	default:
		g.share(t, scratch)
	}
}

// alone tells whether one thread computes g.
func (g *GemmArgs) alone(t *Team) bool { return t.Threads() == 1 || g.M*g.N*g.K < smallWork }

// share computes g on the team's threads; alone, as it is.
func (g *GemmArgs) share(t *Team, scratch []float32) {
	if g.alone(t) {
		g.blocks(tile, scratch)
		return
	}
	j := &t.gemm
	j.split(g, t, scratch)
	if !tile.module || !j.inModule() {
		t.Run(j.tiles, j)
	}
	*j = gemmTask{} // do not retain the caller's slices
}

// gemmTask is a product split into stripes of rows or columns.
type gemmTask struct {
	team    *Team
	g       GemmArgs
	scratch []float32
	byRows  bool
	step    int
	tiles   int
}

// Costs of packing what B has for each row of A, in rows of A multiplied by it: as float32, and as
// pairs of terms, where A is packed too. Each stripe of rows packs B anew, each of columns A.
const (
	packCost = 12
	pairCost = 24
)

// split divides rows or columns into one or two stripes per thread, whichever makes the
// busiest thread finish first. Two even out other load on the machine. Stripes are whole
// tiles, or, of columns of pairs, whole vectors.
func (j *gemmTask) split(g *GemmArgs, t *Team, scratch []float32) {
	j.team, j.g, j.scratch = t, *g, scratch
	least, unit := math.MaxFloat64, tile.nv*tile.vw
	packB, packA := packCost, 0
	if g.BF16 && tile.pairs != nil {
		unit, packB, packA = tile.vw, pairCost, pairCost
	}
	if g.packed != nil {
		packA = 0
	}
	n := t.Threads()
	for _, parts := range [...]int{2 * n, n} {
		rows, r := stripes(g.M, tile.mr, parts)
		cols, c := stripes(g.N, unit, parts)
		m, w := busiest(g.M, rows, r, n), busiest(g.N, cols, c, n)
		byRows := float64(m+packB*((r-1)/n+1))*float64(g.N) + float64(packA*m)
		byCols := float64(w)*float64(g.M+packB) + float64(packA*((c-1)/n+1))*float64(g.M)
		if byRows <= byCols && byRows < 0.95*least && g.packed == nil {
			least, j.byRows, j.step, j.tiles = byRows, true, rows, r
		} else if (byCols < byRows || g.packed != nil) && byCols < 0.95*least {
			least, j.byRows, j.step, j.tiles = byCols, false, cols, c
		}
	}
}

// busiest is the share of size of the busiest thread when there are n stripes of step.
func busiest(size, step, n, threads int) int {
	full := n - 1
	if full%threads == 0 {
		return full/threads*step + size - full*step
	}
	return (full/threads + 1) * step
}

// stripes divides size into at most parts stripes of step, a multiple of unit. The last may
// be shorter.
func stripes(size, unit, parts int) (step, n int) {
	step = ((size+parts-1)/parts + unit - 1) / unit * unit
	return step, (size + step - 1) / step
}

// Tile implements [Task].
func (j *gemmTask) Tile(worker, i int) {
	g := j.stripe(i)
	g.block(tile, j.team.scratch(worker, g.scratch(), j.scratch))
}

// stripe is the product of tile i.
func (j *gemmTask) stripe(i int) GemmArgs {
	g := j.g
	at := i * j.step
	if j.byRows {
		g.M = min(j.step, g.M-at)
		g.A, g.C = g.A[at*g.RS:], g.C[at*g.LDC:]
		if g.RowBias != nil {
			g.RowBias = g.RowBias[at:]
		}
	} else {
		g.columns(at, min(j.step, g.N-at))
	}
	return g
}

// columns restricts g to n columns from j on.
func (g *GemmArgs) columns(j, n int) {
	g.N, g.C = n, g.C[j:]
	if g.rows != nil {
		g.cols = g.cols[j:]
	} else {
		g.B = g.B[j*g.BJ:]
	}
	if g.ColBias != nil {
		g.ColBias = g.ColBias[j:]
	}
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
				b := g.B[g.at(k, j)]
				if g.RoundB {
					b = bf16Operand(b)
				}
				s = FMA(g.A[i*g.RS+k*g.KS], b, s)
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

// at is the index of element (k,j) in B.
func (g *GemmArgs) at(k, j int) int {
	if g.rows != nil {
		return int(g.rows[k]) + int(g.cols[j])
	}
	return k*g.BK + j*g.BJ
}

// finish adds the biases and applies ReLU to columns [j0,j1) of m rows from i0 on.
func (g *GemmArgs) finish(i0, m, j0, j1 int) {
	if g.RowBias == nil && g.ColBias == nil && !g.ReLU {
		return
	}
	if g.finishAsm(i0, m, j0, j1-j0) {
		return
	}
	for i := i0; i < i0+m; i++ {
		row := g.C[i*g.LDC+j0:][:j1-j0]
		if g.RowBias != nil {
			addScalar(row, g.RowBias[i])
		}
		if g.ColBias != nil {
			AddTo(row, g.ColBias[j0:][:len(row)])
		}
		if g.ReLU {
			ReLU(row, row)
		}
	}
}

// addScalar adds b to every element.
func addScalar(x []float32, b float32) {
	// Subtracting zero and multiplying by one do not change a float.
	if vec(vecNorm, &vecArgs{n: len(x), p: ptrs(x, x, nil, nil), k: [10]float32{0, 1, 1, b}}) {
		return
	}
	for i := range x {
		x[i] += b
	}
}

// ptr is the address of s[i] for the microkernels.
func ptr(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), i*4))
}

// aligned is scratch from its first cache line on.
func aligned(scratch []float32) []float32 {
	off := int(uintptr(unsafe.Pointer(unsafe.SliceData(scratch)))&63) / 4
	return scratch[(maxLanes-off)%maxLanes:]
}

// block computes the product on this thread.
func (g *GemmArgs) block(t *tiling, scratch []float32) {
	switch {
	case g.multiplyPairs(t, scratch):
	case g.RoundB:
		g.roundBlocks(nil, t, scratch)
	default:
		g.blocks(t, scratch)
	}
}

// blocks computes the product in blocks of columns and of k: all rows of A by one block of B at a
// time.
func (g *GemmArgs) blocks(t *tiling, scratch []float32) {
	if t.module {
		g.inModule(scratch)
		return
	}
	if g.readsWindows(t) {
		g.multiplyWindows(t)
		return
	}
	nr := t.nv * t.vw
	parts := (g.K + kBlock - 1) / kBlock
	kc := (g.K + parts - 1) / parts
	scratch = aligned(scratch)
	var strips []float32
	if g.usesStrips(t) {
		n := (stripScratch(g.M, kc) + maxLanes - 1) / maxLanes * maxLanes
		strips, scratch = scratch[:n], scratch[n:]
	}
	for jc := 0; jc < g.N; jc += nBlock {
		nc := min(nBlock, g.N-jc)
		// A block of B that is used once is read in place. Otherwise the kernels of the first
		// rows pack it on their way if its rows are contiguous, and else it is packed first.
		rowMajor := g.rows == nil && g.BJ == 1
		direct := rowMajor && g.M <= t.mr && (t.masks || nc%t.vw == 0)
		packs := rowMajor && !direct && t.pack != nil
		for pc := 0; pc < g.K; pc += kc {
			kn := min(kc, g.K-pc)
			acc := 0
			if g.Acc || pc > 0 {
				acc = 1
			}
			if !direct && !packs {
				g.pack(scratch, t, pc, kn, jc, nc)
			}
			ahead := 0 // columns of the next block of B, which begins at next
			next := (pc+kc)*g.BK + jc
			if packs {
				if ahead = nc; pc+kc >= g.K {
					next, ahead = jc+nBlock, min(nBlock, g.N-jc-nBlock)
				}
			}
			for i := 0; i < g.M; i += t.mr {
				mr := min(t.mr, g.M-i)
				source, kernels := direct, &t.kernel[mr-1]
				if packs && i == 0 {
					source, kernels = true, &t.pack[mr-1]
				}
				a, rs, ks := ptr(g.A, i*g.RS+pc*g.KS), g.RS, g.KS
				if strips != nil && i+stripLanes <= g.M {
					if i%stripRows == 0 {
						g.packStrips(strips, t, i, pc, kn)
					}
					a, rs, ks = ptr(strips, i%stripRows/t.mr*(kn+2)*stripLanes), 1, stripLanes
				}
				// The first tiles after the packing one prefetch the block that is packed next, a
				// line each.
				line := nc
				if i > 0 && (i/t.mr-1)*maxLanes < nr {
					line = (i/t.mr - 1) * maxLanes
				}
				for j := 0; j < nc; j += nr {
					n := min(nr, nc-j)
					nv := (n + t.vw - 1) / t.vw
					panel := ptr(scratch, j*kn)
					b, bks := panel, nv*t.vw
					if source {
						b, bks = ptr(g.B, pc*g.BK+jc+j), g.BK
					}
					side, step := panel, 0
					if j+line < ahead {
						side, step = ptr(g.B, next+j+line), g.BK
					}
					kernels[nv-1](kn, a, 4*rs, 4*ks, b, 4*bks, ptr(g.C, i*g.LDC+jc+j), 4*g.LDC, acc, n-(nv-1)*t.vw, side, 4*step)
				}
				if pc+kc >= g.K {
					g.finish(i, mr, jc, jc+nc)
				}
			}
		}
	}
}

// roundBlocks computes the product by blocks of B that are rounded first, each while it is in
// the cache: B itself is read once.
func (g *GemmArgs) roundBlocks(team *Team, t *tiling, scratch []float32) {
	parts := (g.K + kBlock - 1) / kBlock
	kc := (g.K + parts - 1) / parts
	block := aligned(scratch[:roundScratch(g.N, g.K)])
	scratch = scratch[roundScratch(g.N, g.K):]
	for jc := 0; jc < g.N; jc += nBlock {
		p := *g
		p.columns(jc, min(nBlock, g.N-jc))
		p.RoundB = false
		bias, relu := p.ColBias, p.ReLU
		src, a, bk, bj := p.B, p.A, p.BK, p.BJ
		for pc := 0; pc < g.K; pc += kc {
			p.K = min(kc, g.K-pc)
			rows, cols, step := p.K, p.N, bk // of what is contiguous
			if p.B, p.BK, p.BJ = block, p.N, 1; bj != 1 {
				rows, cols, step = p.N, p.K, bj
				p.BK, p.BJ = 1, p.K
			}
			from := src[pc*bk:]
			if step == cols { // a small layer is one piece
				rows, cols = 1, rows*cols
			}
			for r := range rows {
				roundBF16(block[r*cols:][:cols], from[r*step:][:cols])
			}
			p.A, p.Acc = a[pc*g.KS:], g.Acc || pc > 0
			p.RowBias, p.ColBias, p.ReLU = nil, nil, false
			if pc+kc >= g.K {
				p.RowBias, p.ColBias, p.ReLU = g.RowBias, bias, relu
			}
			if t.module {
				p.share(team, scratch)
			} else {
				p.blocks(t, scratch)
			}
		}
	}
}

// pack copies rows [pc,pc+kn) and columns [jc,jc+nc) of B into panels of the tile's width,
// row by row. The lanes beyond the last column are undefined.
func (g *GemmArgs) pack(dst []float32, t *tiling, pc, kn, jc, nc int) {
	nr := t.nv * t.vw
	for j := 0; j < nc; j += nr {
		n := min(nr, nc-j)
		w := (n + t.vw - 1) / t.vw * t.vw
		if p := dst[j*kn:][:kn*w]; t == tilePortable {
			g.packGo(p, w, pc, kn, jc+j, n)
		} else {
			g.packAsm(p, t.vw, w, pc, kn, jc+j, n)
		}
	}
}

// packGo packs the panel of n columns from j on, in rows of w.
func (g *GemmArgs) packGo(p []float32, w, pc, kn, j, n int) {
	for k := range kn {
		row := p[k*w:][:w]
		if g.rows != nil {
			src := g.B[g.rows[pc+k]:]
			for i, c := range g.cols[j:][:n] {
				row[i] = src[c]
			}
		} else {
			b := (pc+k)*g.BK + j*g.BJ
			for i := range n {
				row[i] = g.B[b]
				b += g.BJ
			}
		}
		clear(row[n:])
	}
}

// microGo1 and microGo2 are the portable microkernels, of 4 columns. They inline FMA, as a
// call for each term would dominate. Sums are held in float64, rounded to float32 after
// every term.
func microGo1(kc int, a *float32, _, aks int, b *float32, bks int, c *float32, _, acc, last int, _ *float32, _ int) {
	var s [4]float32
	row := unsafe.Slice(c, last)
	if acc != 0 {
		copy(s[:], row)
	}
	if !fused {
		for {
			for i, y := range (*[4]float32)(unsafe.Pointer(b)) {
				s[i] = FMA(*a, y, s[i])
			}
			// No pointer passes the last term: the race detector's build checks that.
			if kc--; kc == 0 {
				break
			}
			a, b = (*float32)(unsafe.Add(unsafe.Pointer(a), aks)), (*float32)(unsafe.Add(unsafe.Pointer(b), bks))
		}
		copy(row, s[:])
		return
	}
	s0, s1, s2, s3 := float64(s[0]), float64(s[1]), float64(s[2]), float64(s[3])
	for {
		v := (*[4]float32)(unsafe.Pointer(b))
		x, y0, y1, y2, y3 := float64(*a), float64(v[0]), float64(v[1]), float64(v[2]), float64(v[3])
		// The products are exact: it does not matter whether the compiler fuses these.
		t0, t1, t2, t3 := x*y0+s0, x*y1+s1, x*y2+s2, x*y3+s3
		if mayMisround(t0) || mayMisround(t1) || mayMisround(t2) || mayMisround(t3) {
			t0, t1, t2, t3 = addOdd(x*y0, s0), addOdd(x*y1, s1), addOdd(x*y2, s2), addOdd(x*y3, s3)
		}
		s0, s1, s2, s3 = float64(float32(t0)), float64(float32(t1)), float64(float32(t2)), float64(float32(t3))
		if kc--; kc == 0 {
			break
		}
		a, b = (*float32)(unsafe.Add(unsafe.Pointer(a), aks)), (*float32)(unsafe.Add(unsafe.Pointer(b), bks))
	}
	s = [4]float32{float32(s0), float32(s1), float32(s2), float32(s3)}
	copy(row, s[:])
}

func microGo2(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, acc, last int, side *float32, step int) {
	microGo1(kc, a, ars, aks, b, bks, c, ldc, acc, last, side, step)
	a, c = (*float32)(unsafe.Add(unsafe.Pointer(a), ars)), (*float32)(unsafe.Add(unsafe.Pointer(c), ldc))
	microGo1(kc, a, ars, aks, b, bks, c, ldc, acc, last, side, step)
}
