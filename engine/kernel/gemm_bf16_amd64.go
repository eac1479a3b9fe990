//go:build !purego

// Products of operands in bfloat16 by VDPBF16PS, which takes two terms at a time.
//
// The instruction adds the product of the upper halves of its words and then that of the lower
// ones, each sum rounded to nearest even and subnormal numbers taken as zero. With term k in the
// upper half and k+1 in the lower one that is the specification's order, and operands leave no
// subnormal sums (vec_bf16.go). A last term without a partner is paired with -0 in A and +0 in
// B: their product changes no sum, not even -0.
//
// Both operands are packed into such words, B by blocks, A before the tiles that read it: some
// rows at a time, or once for all blocks of columns.

package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/cpu"
)

// hasBF16 tells that the machine adds in the order that products need.
var hasBF16 = hasAVX512 && cpu.X86.HasAVX512BF16 && pairsInOrder(gemmB1x1)

// pairsPay tells that pairs are faster here than products in float32, which have the same bits: a Zen
// 4 takes half the time, an Emerald Rapids more than twice as much.
func pairsPay() bool {
	const words, times = 64, 20
	var a [8 * 2 * words]float32
	var b [2 * words * 3 * maxLanes]float32
	var c [8 * 3 * maxLanes]float32
	least := func(kernel micro, terms int) time.Duration {
		const row = 4 * 3 * maxLanes
		begin := time.Now()
		kernel(terms, &a[0], 4*terms, 4, &b[0], row, &c[0], row, 0, maxLanes, &b[0], 0)
		return time.Since(begin)
	}
	pairs, floats := time.Hour, time.Hour
	for range times { // what else the machine does makes some of them long
		pairs, floats = min(pairs, least(gemmB8x3, words)), min(floats, least(gemmZ8x3, 2*words))
	}
	return pairs < floats
}

// tileBF16 is tileAVX512 with the kernels of pairs.
var tileBF16 = func() *tiling {
	t := *tileAVX512
	t.pairs = &[8][3]micro{
		{gemmB1x1, gemmB1x2, gemmB1x3},
		{gemmB2x1, gemmB2x2, gemmB2x3},
		{gemmB3x1, gemmB3x2, gemmB3x3},
		{gemmB4x1, gemmB4x2, gemmB4x3},
		{gemmB5x1, gemmB5x2, gemmB5x3},
		{gemmB6x1, gemmB6x2, gemmB6x3},
		{gemmB7x1, gemmB7x2, gemmB7x3},
		{gemmB8x1, gemmB8x2, gemmB8x3},
	}
	return &t
}()

// pairsInOrder tries a kernel of one row and one vector on sums that tell other orders of
// additions and other roundings apart, and on the ends of the range.
func pairsInOrder(kernel micro) bool {
	r := rand.New(rand.NewPCG(1, 2))
	ends := []float32{0, float32(math.Copysign(0, -1)), float32(math.Inf(1)), float32(math.Inf(-1)), 1, -1}
	pair := func(first, second float32) float32 {
		return math.Float32frombits(math.Float32bits(first) | math.Float32bits(second)>>16)
	}
	var words, c, want [maxLanes]float32
	for i := range 256 {
		spread := []int{0, 4, 14, 55}[i%4]
		draw := func() float32 {
			if i%8 == 7 {
				return ends[r.IntN(len(ends))]
			}
			return bf16Operand(float32(math.Ldexp(r.Float64()*2-1, r.IntN(2*spread+1)-spread)))
		}
		first, second := draw(), draw()
		for j := range words {
			x, y := draw(), draw()
			if j%4 == 0 { // what is left when the products cancel
				x, y = second, -first
			}
			words[j], c[j] = pair(x, y), draw()
			want[j] = FMA(second, y, FMA(first, x, c[j]))
		}
		a := pair(first, second)
		kernel(1, &a, 0, 0, &words[0], 0, &c[0], 0, 1, maxLanes, &words[0], 0)
		for j, w := range want {
			if math.Float32bits(c[j]) != math.Float32bits(w) && (c[j] == c[j] || w == w) {
				return false
			}
		}
	}
	return true
}

// multiplyPairs computes the product by pairs of terms and returns true where that is possible
// and pays.
func (g *GemmArgs) multiplyPairs(t *tiling, scratch []float32) bool {
	if !g.usesPairs(t) {
		return false
	}
	kc := pairTerms(g.K)
	scratch = aligned(scratch)
	n := kc / 2 * min(wholeLanes(g.N), nBlock)
	p := pairBlocks{GemmArgs: *g, t: t, panels: scratch[:n], lines: scratch[n:], together: stripRows}
	rows := g.M
	if g.packed != nil {
		p.together = g.M
	} else if room := len(p.lines) / (kc / 2) &^ (maxLanes - 1); g.N > nBlock && room > stripRows {
		parts := (g.M + room - 1) / room
		rows = wholeLanes((g.M + parts - 1) / parts)
		p.together = rows
	}
	for i := 0; i < g.M; i += rows {
		for pc := 0; pc < g.K; pc += kc {
			p.pc, p.kn = pc, min(kc, g.K-pc)
			if g.packed != nil {
				p.lines = g.packed[packedA(g.M, pc):]
			}
			for jc := 0; jc < g.N; jc += nBlock {
				p.multiply(i, min(rows, g.M-i), jc, min(nBlock, g.N-jc))
			}
		}
	}
	return true
}

// pairTerms is the terms of a block of k, an even number.
func pairTerms(k int) int {
	parts := (k + pairBlock - 1) / pairBlock
	return ((k+parts-1)/parts + 1) &^ 1
}

// packA packs and rounds all rows of A, which are those from row at on, a multiple of maxLanes, of
// the packed matrix of m rows: blocks of terms one after another, as pairA writes them.
func (g *GemmArgs) packA(dst []float32, m, at int) {
	kc := pairTerms(g.K)
	for pc := 0; pc < g.K; pc += kc {
		kn := min(kc, g.K-pc)
		g.pairA(dst[packedA(m, pc)+at*((kn+1)/2):], 0, g.M, pc, kn, 1)
	}
}

// pairBlocks is a product on its way: terms [pc,pc+kn).
type pairBlocks struct {
	GemmArgs
	t        *tiling
	panels   []float32 // a block of B
	lines    []float32 // rows of A
	together int       // rows of A that are packed at a time; as many as there are if those of all columns share them
	pc, kn   int
	ahead    ahead
}

// ahead is the block of B that is packed next, while the tiles of the block before fetch it: rows
// that are step floats apart, a line of each at a time.
type ahead struct {
	src              []float32
	rows, line, step int // line is the floats of a row
	chunk, row, col  int // rows that a tile fetches a line of, and where the next tile begins
}

// lookAhead begins to fetch the block after that of column jc, words rows at a time.
func (p *pairBlocks) lookAhead(jc, words int) {
	p.ahead = ahead{}
	pc, kn := p.pc, p.kn
	if jc += nBlock; jc >= p.N {
		jc, pc = 0, pc+kn
		kn = min(kn, p.K-pc)
	}
	if kn <= 0 || p.rows != nil {
		return
	}
	n := min(nBlock, p.N-jc)
	p.ahead = ahead{src: p.B[pc*p.BK+jc*p.BJ:], rows: kn, line: n, step: p.BK, chunk: words}
	if p.BJ != 1 {
		p.ahead.rows, p.ahead.line, p.ahead.step = n, kn, p.BJ
	}
}

// next is where a tile fetches from, and the bytes between its lines; rest where nothing is left.
func (a *ahead) next(rest *float32) (side *float32, step int) {
	if a.col >= a.line {
		return rest, 0
	}
	side = ptr(a.src, a.row*a.step+a.col)
	if a.row += a.chunk; a.row >= a.rows {
		a.row, a.col = 0, a.col+maxLanes
	}
	return side, 4 * a.step
}

// multiply computes m rows from i0 on of the block of nc columns from jc on.
func (p *pairBlocks) multiply(i0, m, jc, nc int) {
	t, nr, words, acc := p.t, p.t.nv*p.t.vw, (p.kn+1)/2, 0
	if p.Acc || p.pc > 0 {
		acc = 1
	}
	p.pairB(p.panels, p.pc, p.kn, jc, nc)
	p.lookAhead(jc, words)
	for i := 0; i < m; i += t.mr {
		at := i % p.together
		if p.packed == nil && at == 0 && (jc == 0 || p.together < m) {
			p.pairA(p.lines, i0+i, min(p.together, m-i), p.pc, p.kn, 0)
		}
		a, rs, ks := ptr(p.lines, at*words), words, 1
		if p.KS != 1 {
			a, rs, ks = ptr(p.lines, at/maxLanes*maxLanes*words+at%maxLanes), 1, maxLanes
		}
		kernels := &t.pairs[min(t.mr, m-i)-1]
		for j := 0; j < nc; j += nr {
			n := min(nr, nc-j)
			nv := (n + t.vw - 1) / t.vw
			b := ptr(p.panels, j*words)
			side, step := p.ahead.next(b)
			kernels[nv-1](words, a, 4*rs, 4*ks, b, 4*nv*t.vw, ptr(p.C, (i0+i)*p.LDC+jc+j), 4*p.LDC, acc, n-(nv-1)*t.vw, side, step)
		}
		if p.pc+p.kn >= p.K {
			p.finish(i0+i, min(t.mr, m-i), jc, jc+nc)
		}
	}
}

// usesPairs tells whether the product is computed by pairs of terms.
func (g *GemmArgs) usesPairs(t *tiling) bool {
	if !g.BF16 || t.pairs == nil || g.KS != 1 && g.RS != 1 {
		return false
	}
	switch {
	case g.packed != nil:
	case g.rows != nil:
		if g.M < pairLeastRows || g.K < pairLeastTerms {
			return false
		}
	case g.M*g.N*g.K < pairLeastWork || g.M < t.mr && g.BJ == 1 && !g.RoundB: // B is read in place
		return false
	}
	if g.Acc {
		// The sums of operands' products are multiples of 2^-126, and never subnormal. From
		// 2^-103 on every float is such a multiple.
		for i := range g.M {
			if pairSmall(g.N, ptr(g.C, i*g.LDC)) != 0 {
				return false
			}
		}
	}
	return true
}

// pairB packs rows [pc,pc+kn) and columns [jc,jc+nc) of B into panels, word by word of a row.
func (g *GemmArgs) pairB(dst []float32, pc, kn, jc, nc int) {
	const nr = 3 * maxLanes
	words, round := (kn+1)/2, 0
	if g.RoundB {
		round = 1
	}
	if g.rows != nil {
		g.pairWindows(dst, pc, kn, jc, nc)
		return
	}
	if g.BJ == 1 {
		src := ptr(g.B, pc*g.BK+jc)
		if full := nc / nr; full > 0 {
			pairRows3(kn, src, 4*g.BK, full, &dst[0], 4*nr*words, maxLanes, round)
		}
		if rest := nc % nr; rest > 0 {
			pairPanel(kn, ptr(g.B, pc*g.BK+jc+nc-rest), g.BK, rest, ptr(dst, (nc-rest)*words), round)
		}
		return
	}
	for q := 0; q < nc; q += maxLanes {
		var cols [maxLanes]int
		for i := range cols { // repeat the last column
			cols[i] = 4 * (jc + min(q+i, nc-1)) * g.BJ
		}
		j := q / nr * nr
		w := min(nr, (nc-j+maxLanes-1)/maxLanes*maxLanes)
		pairColumns(kn, ptr(g.B, pc), &cols, ptr(dst, j*words+q-j), 4*w, round)
	}
}

// pairPanel packs kn rows, step floats apart, of one panel of n columns.
func pairPanel(kn int, src *float32, step, n int, dst *float32, round int) {
	switch {
	case n > 2*maxLanes:
		pairRows3(kn, src, 4*step, 1, dst, 0, n-2*maxLanes, round)
	case n > maxLanes:
		pairRows2(kn, src, 4*step, 1, dst, 0, n-maxLanes, round)
	default:
		pairRows1(kn, src, 4*step, 1, dst, 0, n, round)
	}
}

// pairA packs kn terms from pc on of n rows of A from i on: word by word of a row, or, where A is
// transposed, of 16 rows. It rounds if round is not 0.
func (g *GemmArgs) pairA(dst []float32, i, n, pc, kn, round int) {
	words := (kn + 1) / 2
	const group = maxLanes
	width := group
	if g.KS == 1 {
		width = 1
		pairLines(n, kn, ptr(g.A, i*g.RS+pc), 4*g.RS, &dst[0], 4*words, round)
	} else {
		full, rest := n/group, n%group
		if full > 0 {
			pairRows1(kn, ptr(g.A, i+pc*g.KS), 4*g.KS, full, &dst[0], 4*group*words, group, round)
		}
		if rest > 0 {
			pairRows1(kn, ptr(g.A, i+n-rest+pc*g.KS), 4*g.KS, 1, ptr(dst, full*group*words), 0, rest, round)
		}
	}
	if kn%2 != 0 {
		for q := 0; q < n; q += width {
			pairWithMinusZero(dst[(q+width)*words-width:][:width])
		}
	}
}

// pairWithMinusZero sets the lower halves of words, which are +0, to -0.
func pairWithMinusZero(words []float32) {
	for i, w := range words {
		words[i] = math.Float32frombits(math.Float32bits(w) | 1<<15)
	}
}

// pairWindows is pairB for the windows of a convolution.
func (g *GemmArgs) pairWindows(dst []float32, pc, kn, jc, nc int) {
	const nr = 3 * maxLanes
	words := (kn + 1) / 2
	for j := 0; j < nc; j += nr {
		n := min(nr, nc-j)
		w := wholeLanes(n)
		panel := dst[j*words:][:w*words]
		for q := 0; q < n; q += maxLanes {
			if g.run >= 8 && g.run%2 == 0 {
				g.pairTurned(panel[q:], w, pc, kn, jc+j+q, min(maxLanes, n-q))
			} else {
				g.pairVector(panel[q:], w, pc, kn, jc+j+q, min(maxLanes, n-q))
			}
		}
	}
}

// pairTurned packs a vector of n columns from j on, whose words are w apart, of rows that ascend by
// 1 in even groups: the floats of a column are adjacent there.
func (g *GemmArgs) pairTurned(dst []float32, w, pc, kn, j, n int) {
	var at [maxLanes]int
	for i := range at { // repeat the last column
		at[i] = 4 * int(g.cols[j+min(i, n-1)])
	}
	for k := 0; k < kn; {
		l := min(g.run-(pc+k)%g.run, kn-k)
		pairColumns(l, ptr(g.B, int(g.rows[pc+k])), &at, &dst[k/2*w], 4*w, 0)
		k += l
	}
}

// pairVector packs a vector of n columns from j on, whose words are w apart: one run of adjacent
// columns, columns close to each other, two runs, or, gathered as they are first, any.
func (g *GemmArgs) pairVector(dst []float32, w, pc, kn, j, n int) {
	rows, cols := &g.rows[pc], g.cols[j:][:n]
	least, most := slices.Min(cols), slices.Max(cols)
	one := contiguous(cols)
	if span := int(most-least) + 1; one < n && span <= 2*maxLanes {
		var index [2 * maxLanes]uint16
		for i := range maxLanes {
			at := uint16(cols[min(i, n-1)] - least)
			index[2*i], index[2*i+1] = 2*maxLanes+at, at
		}
		pairSpan(kn, rows, &g.B[0], int(least), span, &index, &dst[0], 4*w)
		return
	}
	two, off2 := one, 0
	if one < n {
		two += contiguous(cols[one:])
		off2 = int(cols[one]) - one
	}
	if two == n {
		pairRuns(kn, rows, &g.B[0], int(cols[0]), one, off2, n, &dst[0], 4*w)
		return
	}
	const some = 32 // rows gathered at a time, which stay in the cache
	var buf [some * maxLanes]float32
	var lines [some]int32
	for i := range lines {
		lines[i] = int32(i * maxLanes)
	}
	for k := 0; k < kn; k += some {
		rows := min(some, kn-k)
		g.packWindow(buf[:], maxLanes, maxLanes, pc+k, rows, j, n)
		pairRuns(rows, &lines[0], &buf[0], 0, maxLanes, 0, maxLanes, &dst[k/2*w], 4*w)
	}
}
