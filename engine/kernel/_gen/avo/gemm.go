// This file exists to write the microkernels of the matrix product, one for each number of
// rows and vectors, so that edges need no other path.
//
// A kernel computes C[mr, nv*W] = A[mr, kc] B[kc, nv*W], continuing C if acc is set by
// starting the accumulators from it. Every element is one chain of fused multiply-adds
// in ascending k, whatever the tile: that is the specification's order.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// shape of a family of kernels.
type shape struct {
	prefix string
	wide   bool // zmm; else ymm
	pack   bool // copy B to a panel
	dot    bool // words are pairs of bfloat16
	rows   int
	vecs   int
}

const unroll = 2

// gemmTile is a kernel of mr rows by nv vectors.
type gemmTile struct {
	shape
	mr, nv int
	v      []reg.VecPhysical
	w      int // bytes of a vector

	// General registers: parameters, of which ars is s1; s3, s5 and s7 are multiples of it.
	kc, a, b, c, bks, aks, s1, s3, s5, s7, ldc, t, side, step reg.GPPhysical
}

func (s shape) tile(mr, nv int) *gemmTile {
	g := &gemmTile{
		shape: s, mr: mr, nv: nv, v: ymm, w: 32,
		kc: reg.RCX, a: reg.RSI, b: reg.RDI, c: reg.RDX, bks: reg.RBX, aks: reg.R8,
		s1: reg.R9, s3: reg.R10, s5: reg.R11, s7: reg.R12, ldc: reg.R13, t: reg.RAX, side: reg.R15, step: reg.R14,
	}
	if s.wide {
		g.v, g.w = zmm, 64
	}
	return g
}

func (g *gemmTile) sum(i, j int) reg.VecPhysical { return g.v[i*g.nv+j] }
func (g *gemmTile) vec(j int) reg.VecPhysical    { return g.v[g.mr*g.nv+j] }

// Registers of ymm tiles; those of zmm broadcast from memory and have mask registers.
func (g *gemmTile) bcast() reg.VecPhysical { return g.v[15] }
func (g *gemmTile) mask() reg.VecPhysical  { return g.v[14] }

// row addresses row i of A.
func (g *gemmTile) row(i int) Mem {
	return []Mem{
		{Base: g.a},
		{Base: g.a, Index: g.s1, Scale: 1},
		{Base: g.a, Index: g.s1, Scale: 2},
		{Base: g.a, Index: g.s3, Scale: 1},
		{Base: g.a, Index: g.s1, Scale: 4},
		{Base: g.a, Index: g.s5, Scale: 1},
		{Base: g.a, Index: g.s3, Scale: 2},
		{Base: g.a, Index: g.s7, Scale: 1},
	}[i]
}

// load loads vector j of a row; masked has the last one end where the tile does.
func (g *gemmTile) load(m Mem, j int, r reg.VecPhysical, masked bool) {
	switch {
	case j < g.nv-1 || !masked:
		VMOVUPS(m, r)
	case g.wide:
		VMOVUPS_Z(m, reg.K1, r)
	default:
		VMASKMOVPS(m, g.mask(), r)
	}
}

// kernel writes the kernel.
func (g *gemmTile) kernel() {
	name := fmt.Sprintf("%s%dx%d", g.prefix, g.mr, g.nv)
	TEXT(name, NOSPLIT, "func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, acc, last int, side *float32, step int)")
	Pragma("noescape")
	doc := fmt.Sprintf("%s multiplies %d rows by %d vectors, the last of them of that many lanes; strides are in bytes, kc > 0.", name, g.mr, g.nv)
	if g.dot {
		doc += " Words of A and B are pairs, and kc counts them."
	}
	if g.pack {
		doc += " B is copied to side, vectors filled up with zeros."
	} else {
		doc += " The line at side is fetched, and one a step further for each of kc."
	}
	Doc(doc)
	g.params()
	g.begin()
	if g.dot {
		Label("pair")
		g.terms()
		DECQ(g.kc)
		JNZ(LabelRef("pair"))
		g.store(true)
		return
	}
	MOVQ(g.kc, g.t)
	SHRQ(Imm(1), g.t)
	JZ(LabelRef("tail"))
	Label("loop")
	for range unroll {
		g.term()
	}
	DECQ(g.t)
	JNZ(LabelRef("loop"))
	Label("tail")
	ANDQ(Imm(unroll-1), g.kc)
	JZ(LabelRef("store"))
	g.term()
	Label("store")
	if !g.wide {
		// Masked stores are slow, and few tiles need them.
		Load(Param("last"), g.t)
		CMPQ(g.t, Imm(8))
		JNE(LabelRef("part"))
		g.store(false)
		Label("part")
	}
	g.store(true)
}

// params loads the mask of the last vector and the parameters.
func (g *gemmTile) params() {
	Load(Param("last"), reg.RBX)
	if g.wide {
		maskZ(reg.RBX, g.t, reg.K1)
	} else {
		maskY(reg.RBX, g.t, g.mask())
	}
	Load(Param("kc"), g.kc)
	Load(Param("a"), g.a)
	Load(Param("ars"), g.s1)
	Load(Param("aks"), g.aks)
	Load(Param("b"), g.b)
	Load(Param("bks"), g.bks)
	Load(Param("c"), g.c)
	Load(Param("ldc"), g.ldc)
	Load(Param("side"), g.side)
	if !g.pack {
		Load(Param("step"), g.step)
	}
	LEAQ(Mem{Base: g.s1, Index: g.s1, Scale: 2}, g.s3)
	LEAQ(Mem{Base: g.s1, Index: g.s1, Scale: 4}, g.s5)
	LEAQ(Mem{Base: g.s3, Index: g.s1, Scale: 4}, g.s7)
}

// begin sets the accumulators to zero, or to what C holds.
func (g *gemmTile) begin() {
	Load(Param("acc"), g.t)
	TESTQ(g.t, g.t)
	MOVQ(g.c, g.t)
	JZ(LabelRef("zero"))
	for i := range g.mr {
		for j := range g.nv {
			g.load(Mem{Base: g.t, Disp: j * g.w}, j, g.sum(i, j), true)
		}
		for j := g.nv * g.w; j < 2*g.nv*g.w; j += 64 {
			PREFETCHT0(Mem{Base: g.t, Disp: j}) // of the next tile
		}
		if i < g.mr-1 {
			ADDQ(g.ldc, g.t)
		}
	}
	JMP(LabelRef("begin"))
	Label("zero")
	for i := range g.mr {
		for j := range g.nv {
			if g.wide {
				VPXORD(g.sum(i, j), g.sum(i, j), g.sum(i, j))
			} else {
				VXORPS(g.sum(i, j), g.sum(i, j), g.sum(i, j))
			}
		}
		for j := 0; j < g.nv*g.w; j += 64 {
			PREFETCHT0(Mem{Base: g.t, Disp: j})
		}
		if i < g.mr-1 {
			ADDQ(g.ldc, g.t)
		}
	}
	Label("begin")
}

// term adds the products of one k.
func (g *gemmTile) term() {
	for j := range g.nv {
		// Panels hold whole vectors, so AVX2 needs no mask, which would cost an
		// instruction.
		g.load(Mem{Base: g.b, Disp: j * g.w}, j, g.vec(j), g.wide || g.pack)
		if g.pack {
			if j*g.w%64 == 0 {
				PREFETCHT0(Mem{Base: g.b, Index: g.bks, Scale: 8, Disp: j * g.w})
			}
			VMOVUPS(g.vec(j), Mem{Base: g.side, Disp: j * g.w})
		}
	}
	if g.pack {
		ADDQ(Imm(uint64(g.nv*g.w)), g.side)
	}
	for i := range g.mr {
		if g.wide {
			for j := range g.nv {
				VFMADD231PS_BCST(g.row(i), g.vec(j), g.sum(i, j))
			}
			continue
		}
		VBROADCASTSS(g.row(i), g.bcast())
		for j := range g.nv {
			VFMADD231PS(g.bcast(), g.vec(j), g.sum(i, j))
		}
	}
	if !g.pack {
		PREFETCHT1(Mem{Base: g.side})
		ADDQ(g.step, g.side)
	}
	ADDQ(g.bks, g.b)
	ADDQ(g.aks, g.a)
}

// store stores the accumulators, of the last vector the lanes of the mask, and returns.
func (g *gemmTile) store(masked bool) {
	for i := range g.mr {
		for j := range g.nv {
			m := Mem{Base: g.c, Disp: j * g.w}
			switch {
			case j < g.nv-1 || !masked:
				VMOVUPS(g.sum(i, j), m)
			case g.wide:
				VMOVUPS(g.sum(i, j), reg.K1, m)
			default:
				VMASKMOVPS(g.sum(i, j), g.mask(), m)
			}
		}
		if i < g.mr-1 {
			ADDQ(g.ldc, g.c)
		}
	}
	VZEROUPPER()
	RET()
}

// strips copies rows of a transposed A into strips.
func strips() {
	TEXT("strips", NOSPLIT, "func(n int, src *float32, ss, count, width int, dst *float32, ds int)")
	Pragma("noescape")
	Doc("strips copies count strips of 8 floats of each of n rows: strip i of row k from src+k*ss+i*width to dst+i*ds+32*k, in bytes; n, count > 0.")
	n, src, ss, count, width, dst, ds := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.R10, reg.RDI, reg.R11
	s, d, i := reg.RAX, reg.RBX, reg.RDX
	for i, r := range []reg.GPPhysical{n, src, ss, count, width, dst, ds} {
		Load(ParamIndex(i), r)
	}
	Label("row")
	MOVQ(src, s)
	MOVQ(dst, d)
	MOVQ(count, i)
	Label("strip")
	PREFETCHT0(Mem{Base: s, Index: ss, Scale: 8})
	VMOVUPS(Mem{Base: s}, ymm[0])
	VMOVUPS(ymm[0], Mem{Base: d})
	ADDQ(width, s)
	ADDQ(ds, d)
	DECQ(i)
	JNZ(LabelRef("strip"))
	ADDQ(ss, src)
	ADDQ(Imm(32), dst)
	DECQ(n)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// finish writes what follows the whole dot products.
func finish() {
	TEXT("finishZ", NOSPLIT, "func(m, n int, c *float32, ldc int, row, col *float32, relu int)")
	Pragma("noescape")
	Doc("finishZ adds row[i] and col[j] to m rows of n floats, ldc bytes apart, and then applies ReLU unless relu is 0; row, col or both may be nil; m, n > 0.")
	m, n, c, ldc, row, col, relu := reg.RCX, reg.R8, reg.RSI, reg.R9, reg.RDX, reg.RDI, reg.R10
	x, y, left, t := reg.RAX, reg.RBX, reg.R11, reg.R12
	v, bias, least := zmm[0], zmm[1], zmm[2]
	for i, r := range []reg.GPPhysical{m, n, c, ldc, row, col, relu} {
		Load(ParamIndex(i), r)
	}
	// What changes no float, where there is nothing to do: -0 as a sum, -Inf as the least.
	MOVL(U32(1<<31), t.As32())
	VPBROADCASTD(t.As32(), bias)
	MOVL(U32(0xff800000), t.As32())
	VPBROADCASTD(t.As32(), least)
	TESTQ(relu, relu)
	JZ(LabelRef("row"))
	VPXORD(least, least, least)
	Label("row")
	TESTQ(row, row)
	JZ(LabelRef("begin"))
	VBROADCASTSS(Mem{Base: row}, bias)
	ADDQ(Imm(4), row)
	Label("begin")
	MOVQ(c, x)
	MOVQ(col, y)
	MOVQ(n, left)
	KXNORW(reg.K1, reg.K1, reg.K1)
	Label("vector")
	CMPQ(left, Imm(16))
	JGE(LabelRef("whole"))
	maskZ(left, t, reg.K1)
	Label("whole")
	VMOVUPS_Z(Mem{Base: x}, reg.K1, v)
	VADDPS(bias, v, v)
	TESTQ(col, col)
	JZ(LabelRef("least"))
	VADDPS(Mem{Base: y}, v, reg.K1, v)
	ADDQ(Imm(64), y)
	Label("least")
	VMAXPS(v, least, v)
	VMOVUPS(v, reg.K1, Mem{Base: x})
	ADDQ(Imm(64), x)
	SUBQ(Imm(16), left)
	JG(LabelRef("vector"))
	ADDQ(ldc, c)
	DECQ(m)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

func gemm() {
	laneTable()
	for _, s := range []shape{
		{prefix: "gemmZ", wide: true, rows: 8, vecs: 3},
		{prefix: "gemmPackZ", wide: true, pack: true, rows: 8, vecs: 3},
		{prefix: "gemmY", rows: 6, vecs: 2},
		{prefix: "gemmPackY", pack: true, rows: 6, vecs: 2},
	} {
		for mr := 1; mr <= s.rows; mr++ {
			for nv := 1; nv <= s.vecs; nv++ {
				s.tile(mr, nv).kernel()
			}
		}
	}
	strips()
	finish()
}
