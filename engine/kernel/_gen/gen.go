// Command gen writes gemm_amd64.s: the microkernels of the matrix product, one for
// each number of rows and vectors, so that edges need no other path, and the routines
// that lay B out for them.
//
// A kernel computes C[mr, nv*W] = A[mr, kc] B[kc, nv*W], continuing C if acc is set by
// starting the accumulators from it. Every element is one chain of fused multiply-adds
// in ascending k, whatever the tile: that is the specification's order.
//
//go:generate go run . -out ../gemm_amd64.s -stubs ../gemm_stub_amd64.go -pkg kernel
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

var ymm = []reg.VecPhysical{
	reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
}

var xmm = []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7}

// lanes is a sliding window of masks: 8 lanes set, then 8 not.
var lanes Mem

func laneTable() {
	lanes = GLOBL("lanes", RODATA|NOPTR)
	for i := range 16 {
		v := U32(0)
		if i < 8 {
			v = ^v
		}
		DATA(4*i, v)
	}
}

// maskY loads the mask of the first n lanes; n is overwritten.
func maskY(n reg.GPPhysical, table reg.GPPhysical, mask reg.VecPhysical) {
	LEAQ(lanes.Offset(32), table)
	SHLQ(Imm(2), n)
	SUBQ(n, table)
	VMOVUPS(Mem{Base: table}, mask)
}

// maskZ loads the mask of the first n lanes.
func maskZ(n reg.GPPhysical, tmp reg.GPPhysical, mask reg.OpmaskPhysical) {
	MOVQ(I32(0xffff), tmp)
	BZHIQ(n, tmp, tmp)
	KMOVW(tmp.As32(), mask)
}

// shape of a family of kernels.
type shape struct {
	prefix string
	wide   bool // zmm; else ymm
	pack   bool // keep what is read of B in a panel
	rows   int
	vecs   int
}

const unroll = 2

func (s shape) kernel(mr, nv int) {
	name := fmt.Sprintf("%s%dx%d", s.prefix, mr, nv)
	TEXT(name, NOSPLIT, "func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, acc, last int, side *float32, step int)")
	Pragma("noescape")
	doc := fmt.Sprintf("%s multiplies %d rows by %d vectors, the last of them of that many lanes; strides are in bytes, kc > 0.", name, mr, nv)
	if s.pack {
		doc += " B is copied to side, vectors filled up with zeros."
	} else {
		doc += " The line at side is fetched, and one a step further for each of kc."
	}
	Doc(doc)
	v, w := ymm, 32
	if s.wide {
		v, w = zmm, 64
	}
	kc, a, b, c := reg.RCX, reg.RSI, reg.RDI, reg.RDX
	bks, aks, s1, s3, s5, s7, ldc, t, side, step := reg.RBX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.RAX, reg.R15, reg.R14
	sum := func(i, j int) reg.VecPhysical { return v[i*nv+j] }
	vec := func(j int) reg.VecPhysical { return v[mr*nv+j] }
	bcast, mask := v[15], v[14] // of ymm
	load := func(m Mem, j int, r reg.VecPhysical, masked bool) {
		switch {
		case j < nv-1 || !masked:
			VMOVUPS(m, r)
		case s.wide:
			VMOVUPS_Z(m, reg.K1, r)
		default:
			VMASKMOVPS(m, mask, r)
		}
	}

	if s.wide {
		Load(Param("last"), reg.RBX)
		maskZ(reg.RBX, t, reg.K1)
	} else {
		Load(Param("last"), reg.RBX)
		maskY(reg.RBX, t, mask)
	}
	Load(Param("kc"), kc)
	Load(Param("a"), a)
	Load(Param("ars"), s1)
	Load(Param("aks"), aks)
	Load(Param("b"), b)
	Load(Param("bks"), bks)
	Load(Param("c"), c)
	Load(Param("ldc"), ldc)
	Load(Param("side"), side)
	if !s.pack {
		Load(Param("step"), step)
	}
	LEAQ(Mem{Base: s1, Index: s1, Scale: 2}, s3)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 4}, s5)
	LEAQ(Mem{Base: s3, Index: s1, Scale: 4}, s7)
	// row addresses row i of A
	row := func(i int) Mem {
		return []Mem{
			{Base: a},
			{Base: a, Index: s1, Scale: 1},
			{Base: a, Index: s1, Scale: 2},
			{Base: a, Index: s3, Scale: 1},
			{Base: a, Index: s1, Scale: 4},
			{Base: a, Index: s5, Scale: 1},
			{Base: a, Index: s3, Scale: 2},
			{Base: a, Index: s7, Scale: 1},
		}[i]
	}

	// Accumulators: zero, or what C holds.
	Load(Param("acc"), t)
	TESTQ(t, t)
	MOVQ(c, t)
	JZ(LabelRef("zero"))
	for i := range mr {
		for j := range nv {
			load(Mem{Base: t, Disp: j * w}, j, sum(i, j), true)
		}
		for j := nv * w; j < 2*nv*w; j += 64 {
			PREFETCHT0(Mem{Base: t, Disp: j}) // the next tile's sums
		}
		if i < mr-1 {
			ADDQ(ldc, t)
		}
	}
	JMP(LabelRef("begin"))
	Label("zero")
	for i := range mr {
		for j := range nv {
			if s.wide {
				VPXORD(sum(i, j), sum(i, j), sum(i, j))
			} else {
				VXORPS(sum(i, j), sum(i, j), sum(i, j))
			}
		}
		for j := 0; j < nv*w; j += 64 {
			PREFETCHT0(Mem{Base: t, Disp: j})
		}
		if i < mr-1 {
			ADDQ(ldc, t)
		}
	}
	Label("begin")
	term := func() {
		for j := range nv {
			// A panel holds whole vectors; a masked load costs the narrow kernels an
			// instruction.
			load(Mem{Base: b, Disp: j * w}, j, vec(j), s.wide || s.pack)
			if s.pack {
				if j*w%64 == 0 {
					PREFETCHT0(Mem{Base: b, Index: bks, Scale: 8, Disp: j * w})
				}
				VMOVUPS(vec(j), Mem{Base: side, Disp: j * w})
			}
		}
		if s.pack {
			ADDQ(Imm(uint64(nv*w)), side)
		}
		for i := range mr {
			if s.wide {
				for j := range nv {
					VFMADD231PS_BCST(row(i), vec(j), sum(i, j))
				}
				continue
			}
			VBROADCASTSS(row(i), bcast)
			for j := range nv {
				VFMADD231PS(bcast, vec(j), sum(i, j))
			}
		}
		if !s.pack {
			PREFETCHT1(Mem{Base: side})
			ADDQ(step, side)
		}
		ADDQ(bks, b)
		ADDQ(aks, a)
	}
	MOVQ(kc, t)
	SHRQ(Imm(1), t)
	JZ(LabelRef("tail"))
	Label("loop")
	for range unroll {
		term()
	}
	DECQ(t)
	JNZ(LabelRef("loop"))
	Label("tail")
	ANDQ(Imm(unroll-1), kc)
	JZ(LabelRef("store"))
	term()
	Label("store")
	store := func(masked bool) {
		for i := range mr {
			for j := range nv {
				m := Mem{Base: c, Disp: j * w}
				switch {
				case j < nv-1 || !masked:
					VMOVUPS(sum(i, j), m)
				case s.wide:
					VMOVUPS(sum(i, j), reg.K1, m)
				default:
					VMASKMOVPS(sum(i, j), mask, m)
				}
			}
			if i < mr-1 {
				ADDQ(ldc, c)
			}
		}
		VZEROUPPER()
		RET()
	}
	if !s.wide {
		// A masked store is slow; few need it.
		Load(Param("last"), t)
		CMPQ(t, Imm(8))
		JNE(LabelRef("part"))
		store(false)
		Label("part")
	}
	store(true)
}

// trans8 turns 8 columns of B that are contiguous in k into rows.
func trans8() {
	TEXT("trans8", NOSPLIT, "func(n int, src *float32, cols *[8]int, dst *float32, step int)")
	Pragma("noescape")
	Doc("trans8 writes n*8 rows of 8 floats, step bytes apart: row k has the floats at src+cols[i]+4*k. cols are in bytes, n > 0.")
	n, src, dst, step, tmp := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.RAX
	col := []reg.GPPhysical{reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.R15, reg.RBX}
	Load(Param("n"), n)
	Load(Param("src"), src)
	Load(Param("cols"), tmp)
	for i, c := range col {
		MOVQ(Mem{Base: tmp, Disp: 8 * i}, c)
	}
	Load(Param("dst"), dst)
	Load(Param("step"), step)
	Label("loop")
	for half := range 2 {
		// Columns i and i+4 side by side, then a 4x4 transpose in each half register.
		for i := range 4 {
			VMOVUPS(Mem{Base: src, Index: col[i], Scale: 1, Disp: 16 * half}, xmm[i])
			VINSERTF128(Imm(1), Mem{Base: src, Index: col[i+4], Scale: 1, Disp: 16 * half}, ymm[i], ymm[i])
		}
		VUNPCKLPS(ymm[1], ymm[0], ymm[8])
		VUNPCKHPS(ymm[1], ymm[0], ymm[9])
		VUNPCKLPS(ymm[3], ymm[2], ymm[10])
		VUNPCKHPS(ymm[3], ymm[2], ymm[11])
		VSHUFPS(Imm(0x44), ymm[10], ymm[8], ymm[12])
		VSHUFPS(Imm(0xee), ymm[10], ymm[8], ymm[13])
		VSHUFPS(Imm(0x44), ymm[11], ymm[9], ymm[14])
		VSHUFPS(Imm(0xee), ymm[11], ymm[9], ymm[15])
		for i := range 4 {
			VMOVUPS(ymm[12+i], Mem{Base: dst})
			ADDQ(step, dst)
		}
	}
	ADDQ(Imm(32), src)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// trans16 turns blocks of sixteen rows.
func trans16() {
	TEXT("trans16", NOSPLIT, "func(n int, src *float32, next int, rows *[16]int, cols int, dst *float32, dnext, drow int)")
	Pragma("noescape")
	Doc("trans16 turns n blocks of 16 rows, which begin at rows bytes, of cols <= 16 floats into cols rows of 16, drow bytes apart. Blocks are next and dnext bytes apart. n and cols > 0.")
	n, src, next, rows, cols, dst, dnext, drow := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.R10, reg.RDI, reg.R11, reg.R12
	p, t := reg.RAX, reg.RBX
	Load(Param("n"), n)
	Load(Param("src"), src)
	Load(Param("next"), next)
	Load(Param("rows"), rows)
	Load(Param("cols"), cols)
	Load(Param("dst"), dst)
	Load(Param("dnext"), dnext)
	Load(Param("drow"), drow)
	maskZ(cols, t, reg.K1)
	Label("block")
	for i := range 16 {
		MOVQ(Mem{Base: rows, Disp: 8 * i}, p)
		VMOVUPS_Z(Mem{Base: src, Index: p, Scale: 1}, reg.K1, zmm[i])
	}
	// Pairs of rows, then fours: register 4*g+q has columns q, q+4, q+8 and q+12 of rows 4*g on.
	for i := 0; i < 16; i += 2 {
		VUNPCKLPS(zmm[i+1], zmm[i], zmm[16+i])
		VUNPCKHPS(zmm[i+1], zmm[i], zmm[17+i])
	}
	for i := 0; i < 16; i += 4 {
		VUNPCKLPD(zmm[18+i], zmm[16+i], zmm[i])
		VUNPCKHPD(zmm[18+i], zmm[16+i], zmm[i+1])
		VUNPCKLPD(zmm[19+i], zmm[17+i], zmm[i+2])
		VUNPCKHPD(zmm[19+i], zmm[17+i], zmm[i+3])
	}
	// Eights, then sixteens.
	for q := range 4 {
		for half := range 2 {
			a, b := zmm[8*half+q], zmm[8*half+4+q]
			VSHUFF32X4(Imm(0x88), b, a, zmm[16+4*q+2*half]) // columns q and q+8
			VSHUFF32X4(Imm(0xdd), b, a, zmm[17+4*q+2*half]) // q+4 and q+12
		}
	}
	for q := range 4 {
		for odd := range 2 {
			a, b := zmm[16+4*q+odd], zmm[18+4*q+odd]
			VSHUFF32X4(Imm(0x88), b, a, zmm[q+4*odd])
			VSHUFF32X4(Imm(0xdd), b, a, zmm[q+4*odd+8])
		}
	}
	MOVQ(dst, p)
	for c := range 16 {
		VMOVUPS(zmm[c], Mem{Base: p})
		if c < 15 {
			CMPQ(cols, Imm(uint64(c+1)))
			JEQ(LabelRef("next"))
			ADDQ(drow, p)
		}
	}
	Label("next")
	ADDQ(next, src)
	ADDQ(dnext, dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// turn16 is trans16 for rows that are as far apart as each other. Loads bring four rows into
// the quarters of a register, so that half the shuffles are enough.
func turn16() {
	TEXT("turn16", NOSPLIT, "func(n int, src *float32, next, row, cols int, dst *float32, dnext, drow int)")
	Pragma("noescape")
	Doc("turn16 is trans16 for rows that are row bytes apart.")
	n, src, row, cols, dst, drow := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.RDI, reg.R10
	three, to, left, t := reg.R11, reg.RAX, reg.RDX, reg.RBX
	quarter := []reg.GPPhysical{reg.R12, reg.R13, reg.R14, reg.R15}
	Load(Param("n"), n)
	Load(Param("src"), src)
	Load(Param("row"), row)
	Load(Param("cols"), cols)
	Load(Param("dst"), dst)
	Load(Param("drow"), drow)
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, three)
	// Masks of whole quarters but the first, and of what is left of every quarter.
	whole, part := []reg.OpmaskPhysical{nil, reg.K1, reg.K2, reg.K3}, []reg.OpmaskPhysical{reg.K4, reg.K5, reg.K6, reg.K7}
	MOVQ(cols, left)
	ANDQ(Imm(3), left)
	MOVQ(U32(0xf), t)
	BZHIQ(left, t, to)
	for q := range 4 {
		if q > 0 {
			SHLQ(Imm(4), t)
			SHLQ(Imm(4), to)
			KMOVW(t.As32(), whole[q])
		}
		KMOVW(to.As32(), part[q])
	}
	// Four columns: register i has rows i, i+4, i+8 and i+12, and after the turn column i.
	four := func(masks []reg.OpmaskPhysical) {
		for q, p := range quarter {
			for i := range 4 {
				m := []Mem{
					{Base: p},
					{Base: p, Index: row, Scale: 1},
					{Base: p, Index: row, Scale: 2},
					{Base: p, Index: three, Scale: 1},
				}[i]
				switch {
				case masks[q] == nil:
					VMOVUPS(m, zmm[i].AsX())
				case q == 0:
					VMOVUPS_Z(m, masks[q], zmm[i].AsX())
				default:
					VBROADCASTF32X4(m, masks[q], zmm[i])
				}
			}
		}
		VUNPCKLPS(zmm[1], zmm[0], zmm[4])
		VUNPCKHPS(zmm[1], zmm[0], zmm[5])
		VUNPCKLPS(zmm[3], zmm[2], zmm[6])
		VUNPCKHPS(zmm[3], zmm[2], zmm[7])
		VUNPCKLPD(zmm[6], zmm[4], zmm[0])
		VUNPCKHPD(zmm[6], zmm[4], zmm[1])
		VUNPCKLPD(zmm[7], zmm[5], zmm[2])
		VUNPCKHPD(zmm[7], zmm[5], zmm[3])
	}
	Label("block")
	MOVQ(src, quarter[0])
	for q := 1; q < 4; q++ {
		LEAQ(Mem{Base: quarter[q-1], Index: row, Scale: 4}, quarter[q])
	}
	Load(Param("next"), t)
	for _, p := range quarter { // blocks that are far apart come late
		PREFETCHT0(Mem{Base: p, Index: t, Scale: 4})
		PREFETCHT0(Mem{Base: p, Index: t, Scale: 4, Disp: 64})
	}
	MOVQ(dst, to)
	MOVQ(cols, left)
	SUBQ(Imm(4), left)
	JL(LabelRef("rest"))
	Label("four")
	four(whole)
	for i := range 4 {
		VMOVUPS(zmm[i], Mem{Base: to})
		ADDQ(drow, to)
	}
	for _, p := range quarter {
		ADDQ(Imm(16), p)
	}
	SUBQ(Imm(4), left)
	JGE(LabelRef("four"))
	Label("rest")
	ADDQ(Imm(4), left)
	JZ(LabelRef("next"))
	four(part)
	for i := range 3 {
		VMOVUPS(zmm[i], Mem{Base: to})
		ADDQ(drow, to)
		DECQ(left)
		JZ(LabelRef("next"))
	}
	Label("next")
	ADDQ(t, src)
	Load(Param("dnext"), t)
	ADDQ(t, dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// runs copies one vector of B's columns for every row; its lanes are one or two runs of
// neighbours in memory.
func runs(name string, wide bool) {
	TEXT(name, NOSPLIT, "func(n int, rows *int32, src *float32, off1, len1, off2, lanes int, dst *float32, step int)")
	Pragma("noescape")
	Doc(name + " writes n vectors, step bytes apart: lane l of vector k is src[rows[k]+off1+l] for l < len1, src[rows[k]+off2+l] for len1 <= l < lanes, and 0 beyond. n > 0.")
	n, rows, s1, s2, dst, step, r, tmp, l1 := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.RDI, reg.RDX, reg.RAX, reg.RBX, reg.R10
	Load(Param("src"), tmp)
	Load(Param("off1"), s1)
	LEAQ(Mem{Base: tmp, Index: s1, Scale: 4}, s1)
	Load(Param("off2"), s2)
	LEAQ(Mem{Base: tmp, Index: s2, Scale: 4}, s2)
	Load(Param("len1"), l1)
	Load(Param("lanes"), r)
	MOVQ(r, rows)
	SUBQ(l1, rows) // lanes of the second run, for the branch below
	if wide {
		maskZ(l1, tmp, reg.K1)
		maskZ(r, tmp, reg.K2)
		KANDNW(reg.K2, reg.K1, reg.K2)
	} else {
		maskY(l1, tmp, reg.Y14)
		maskY(r, tmp, reg.Y15)
		VANDNPS(reg.Y15, reg.Y14, reg.Y15)
	}
	TESTQ(rows, rows)
	Load(Param("rows"), rows)
	Load(Param("n"), n)
	Load(Param("dst"), dst)
	Load(Param("step"), step)
	one := func() {
		MOVLQSX(Mem{Base: rows}, r)
		if wide {
			VMOVUPS_Z(Mem{Base: s1, Index: r, Scale: 4}, reg.K1, reg.Z0)
		} else {
			VMASKMOVPS(Mem{Base: s1, Index: r, Scale: 4}, reg.Y14, reg.Y0)
		}
	}
	end := func(loop string) {
		if wide {
			VMOVUPS(reg.Z0, Mem{Base: dst})
		} else {
			VMOVUPS(reg.Y0, Mem{Base: dst})
		}
		ADDQ(Imm(4), rows)
		ADDQ(step, dst)
		DECQ(n)
		JNZ(LabelRef(loop))
		VZEROUPPER()
		RET()
	}
	JNZ(LabelRef("two"))
	Label("one")
	one()
	end("one")
	Label("two")
	one()
	if wide {
		VMOVUPS(Mem{Base: s2, Index: r, Scale: 4}, reg.K2, reg.Z0)
	} else {
		VMASKMOVPS(Mem{Base: s2, Index: r, Scale: 4}, reg.Y15, reg.Y1)
		VORPS(reg.Y1, reg.Y0, reg.Y0)
	}
	end("two")
}

// gather is runs for lanes that lie anywhere.
func gather(name string, wide bool) {
	TEXT(name, NOSPLIT, "func(n int, rows *int32, src *float32, cols *int32, lanes int, dst *float32, step int)")
	Pragma("noescape")
	Doc(name + " writes n vectors, step bytes apart: lane l of vector k is src[rows[k]+cols[l]] for l < lanes, and 0 beyond. n > 0.")
	n, rows, src, dst, step, r, t := reg.RCX, reg.RSI, reg.R8, reg.RDI, reg.RDX, reg.RAX, reg.RBX
	Load(Param("lanes"), r)
	Load(Param("cols"), src)
	if wide {
		maskZ(r, t, reg.K1)
		VMOVDQU32_Z(Mem{Base: src}, reg.K1, reg.Z1)
	} else {
		maskY(r, t, reg.Y15)
		VPMASKMOVD(Mem{Base: src}, reg.Y15, reg.Y1)
	}
	Load(Param("n"), n)
	Load(Param("rows"), rows)
	Load(Param("src"), src)
	Load(Param("dst"), dst)
	Load(Param("step"), step)
	Label("loop")
	MOVLQSX(Mem{Base: rows}, r)
	LEAQ(Mem{Base: src, Index: r, Scale: 4}, r)
	if wide {
		KMOVW(reg.K1, reg.K2)
		VPXORD(reg.Z0, reg.Z0, reg.Z0)
		VGATHERDPS(Mem{Base: r, Index: reg.Z1, Scale: 4}, reg.K2, reg.Z0)
		VMOVUPS(reg.Z0, Mem{Base: dst})
	} else {
		VMOVAPS(reg.Y15, reg.Y14)
		VXORPS(reg.Y0, reg.Y0, reg.Y0)
		VGATHERDPS(reg.Y14, Mem{Base: r, Index: reg.Y1, Scale: 4}, reg.Y0)
		VMOVUPS(reg.Y0, Mem{Base: dst})
	}
	ADDQ(Imm(4), rows)
	ADDQ(step, dst)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// strips lays out rows of a transposed A.
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

// evens and zip are what strides of two need.
func evens() {
	TEXT("evens", NOSPLIT, "func(n int, src, dst *float32)")
	Pragma("noescape")
	Doc("evens copies every second of 16*n floats, n > 0.")
	n, src, dst := reg.RCX, reg.RSI, reg.RDI
	Load(Param("n"), n)
	Load(Param("src"), src)
	Load(Param("dst"), dst)
	Label("loop")
	VMOVUPS(Mem{Base: src}, ymm[0])
	VSHUFPS(Imm(0x88), Mem{Base: src, Disp: 32}, ymm[0], ymm[0])
	VPERMPD(Imm(0xd8), ymm[0], ymm[0])
	VMOVUPS(ymm[0], Mem{Base: dst})
	ADDQ(Imm(64), src)
	ADDQ(Imm(32), dst)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func zip() {
	TEXT("zip", NOSPLIT, "func(n int, a, b, dst *float32)")
	Pragma("noescape")
	Doc("zip writes 8*n floats of a and of b by turns, n > 0.")
	n, a, b, dst := reg.RCX, reg.RSI, reg.RDX, reg.RDI
	Load(Param("n"), n)
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("dst"), dst)
	Label("loop")
	VMOVUPS(Mem{Base: a}, ymm[0])
	VMOVUPS(Mem{Base: b}, ymm[1])
	VUNPCKLPS(ymm[1], ymm[0], ymm[2])
	VUNPCKHPS(ymm[1], ymm[0], ymm[3])
	VPERM2F128(Imm(0x20), ymm[3], ymm[2], ymm[0])
	VPERM2F128(Imm(0x31), ymm[3], ymm[2], ymm[1])
	VMOVUPS(ymm[0], Mem{Base: dst})
	VMOVUPS(ymm[1], Mem{Base: dst, Disp: 32})
	ADDQ(Imm(32), a)
	ADDQ(Imm(32), b)
	ADDQ(Imm(64), dst)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// windowMax takes the maximum of windows that lie anywhere, and where it is.
func windowMax(name string, wide bool) {
	TEXT(name, NOSPLIT, "func(planes int, x *float32, plane int, offs, shift *int32, lanes, kh, kw, w int, y *float32, arg *int32, step int)")
	Pragma("noescape")
	Doc(name+" sets lane l of y, for each plane, to the maximum of the window of kh x kw at offs[l] of a plane of rows of w, and arg to its offset less shift[l], for l < lanes. The first of equals wins,",
		"NaN beats all and a later NaN an earlier one. Planes are plane bytes apart, results step bytes.")
	planes, x, y, arg, kh, kw, w, i, j, t := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.RAX
	plane, step := reg.RBX, reg.R13
	v := ymm
	if wide {
		v = zmm
	}
	offs, at, row, top, where, seen, next, one, mask, left, odd, shift := v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]
	Load(Param("lanes"), i)
	Load(Param("offs"), t)
	Load(Param("shift"), x)
	if wide {
		maskZ(i, j, reg.K1)
		VMOVDQU32_Z(Mem{Base: t}, reg.K1, offs)
		VMOVDQU32_Z(Mem{Base: x}, reg.K1, shift)
	} else {
		maskY(i, j, mask)
		VPMASKMOVD(Mem{Base: t}, mask, offs)
		VPMASKMOVD(Mem{Base: x}, mask, shift)
	}
	Load(Param("planes"), planes)
	Load(Param("x"), x)
	Load(Param("plane"), plane)
	Load(Param("kh"), kh)
	Load(Param("kw"), kw)
	Load(Param("w"), w)
	Load(Param("y"), y)
	Load(Param("arg"), arg)
	Load(Param("step"), step)
	broadcast := func(r reg.GPPhysical, to reg.VecPhysical) {
		if wide {
			VPBROADCASTD(r.As32(), to)
			return
		}
		VMOVD(r.As32(), to.AsX())
		VPBROADCASTD(to.AsX(), to)
	}
	MOVQ(U32(1), t)
	broadcast(t, one)
	broadcast(w, next)
	gather := func(to reg.VecPhysical) {
		if wide {
			KMOVW(reg.K1, reg.K2)
			VGATHERDPS(Mem{Base: x, Index: at, Scale: 4}, reg.K2, to)
			return
		}
		VMOVDQA(mask, left)
		VGATHERDPS(left, Mem{Base: x, Index: at, Scale: 4}, to)
	}
	Label("plane")
	// The first tap is compared with itself: only a NaN replaces it, by itself.
	VMOVAPS(offs, row)
	VMOVAPS(offs, at)
	VMOVAPS(offs, where)
	gather(top)
	MOVQ(kh, i)
	Label("row")
	VMOVAPS(row, at)
	MOVQ(kw, j)
	Label("tap")
	gather(seen)
	if wide {
		VCMPPS(Imm(30), top, seen, reg.K2) // seen > top
		VCMPPS(Imm(3), seen, seen, reg.K3) // seen is NaN
		KORW(reg.K2, reg.K3, reg.K2)
		VMOVAPS(seen, reg.K2, top)
		VMOVDQA32(at, reg.K2, where)
	} else {
		VCMPPS(Imm(30), top, seen, left)
		VCMPPS(Imm(3), seen, seen, odd)
		VORPS(odd, left, left)
		VBLENDVPS(left, seen, top, top)
		VBLENDVPS(left, at, where, where)
	}
	VPADDD(one, at, at)
	DECQ(j)
	JNZ(LabelRef("tap"))
	VPADDD(next, row, row)
	DECQ(i)
	JNZ(LabelRef("row"))
	if wide {
		VMOVUPS(top, reg.K1, Mem{Base: y})
	} else {
		VMASKMOVPS(top, mask, Mem{Base: y})
	}
	TESTQ(arg, arg)
	JZ(LabelRef("next"))
	VPSUBD(shift, where, where)
	if wide {
		VMOVDQU32(where, reg.K1, Mem{Base: arg})
	} else {
		VPMASKMOVD(where, mask, Mem{Base: arg})
	}
	ADDQ(step, arg)
	Label("next")
	ADDQ(step, y)
	ADDQ(plane, x)
	DECQ(planes)
	JNZ(LabelRef("plane"))
	VZEROUPPER()
	RET()
}

// lanewise is a product of a matrix and a vector in every lane, each lane its own.
// With point the other factor is one float for all lanes.
func lanewise(name string, wide, point bool) {
	TEXT(name, NOSPLIT, "func(m int, rows *int32, rstep, k int, cols *int32, cstep int, a, b, c *float32, acc int)")
	Pragma("noescape")
	other := "the vector"
	if point {
		other = "the float"
	}
	Doc(name+" sets vector i of c, for i < m, to the sum over ascending k of vector k of a times "+other+" at b[rows[i]+cols[k]], and",
		"continues what is in c if acc is not 0. Offsets are rstep and cstep bytes apart, k > 0.")
	v, w := ymm, 32
	if wide {
		v, w = zmm, 64
	}
	m, rows, cols, cstep, a, c, n, at := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R8, reg.R9, reg.R10, reg.R11
	from := []reg.GPPhysical{reg.R12, reg.R13, reg.R15, reg.RBX, reg.R14}
	t := reg.RAX
	Load(Param("m"), m)
	Load(Param("rows"), rows)
	Load(Param("cstep"), cstep)
	Load(Param("c"), c)
	block := func(many int) {
		loop, start, zero := fmt.Sprint("loop", many), fmt.Sprint("start", many), fmt.Sprint("zero", many)
		Load(Param("b"), t)
		Load(Param("rstep"), n)
		for i := range many {
			MOVLQSX(Mem{Base: rows}, from[i])
			LEAQ(Mem{Base: t, Index: from[i], Scale: 4}, from[i])
			ADDQ(n, rows)
		}
		Load(Param("cols"), cols)
		Load(Param("a"), a)
		Load(Param("k"), n)
		Load(Param("acc"), t)
		TESTQ(t, t)
		JZ(LabelRef(zero))
		for i := range many {
			VMOVUPS(Mem{Base: c, Disp: i * w}, v[i])
		}
		JMP(LabelRef(start))
		Label(zero)
		for i := range many {
			if wide {
				VPXORD(v[i], v[i], v[i])
			} else {
				VXORPS(v[i], v[i], v[i])
			}
		}
		Label(start)
		Label(loop)
		MOVLQSX(Mem{Base: cols}, at)
		VMOVUPS(Mem{Base: a}, v[many])
		for i := range many {
			factor := Mem{Base: from[i], Index: at, Scale: 4}
			switch {
			case !point:
				VFMADD231PS(factor, v[many], v[i])
			case wide:
				VFMADD231PS_BCST(factor, v[many], v[i])
			default:
				VBROADCASTSS(factor, v[many+1])
				VFMADD231PS(v[many+1], v[many], v[i])
			}
		}
		ADDQ(cstep, cols)
		ADDQ(Imm(uint64(w)), a)
		DECQ(n)
		JNZ(LabelRef(loop))
		for i := range many {
			VMOVUPS(v[i], Mem{Base: c, Disp: i * w})
		}
		ADDQ(I32(many*w), c)
	}
	// One vector alone waits for itself: the last five go together.
	Label("four")
	CMPQ(m, Imm(5))
	JEQ(LabelRef("five"))
	SUBQ(Imm(4), m)
	JL(LabelRef("rest"))
	block(4)
	JMP(LabelRef("four"))
	Label("five")
	block(5)
	JMP(LabelRef("end"))
	Label("rest")
	ADDQ(Imm(4), m)
	JZ(LabelRef("end"))
	Label("one")
	block(1)
	DECQ(m)
	JNZ(LabelRef("one"))
	Label("end")
	VZEROUPPER()
	RET()
}

// windowMaxNear is windowMax for windows whose rows lie close together: their floats are
// loaded once and permuted, which takes a tenth of a gather's time.
func windowMaxNear() {
	TEXT("windowMaxNearZ", NOSPLIT, "func(planes int, x *float32, plane int, offs, shift *int32, lanes, span, kh, kw, w int, y *float32, arg *int32, step int)")
	Pragma("noescape")
	Doc("windowMaxNearZ is windowMaxZ where each row of the windows, x[offs[l]] to x[offs[l]+kw-1] for all l, lies in span <= 64 floats from offs[0] on.")
	planes, x, y, arg, kh, kw, w, i, j, t := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.RAX
	plane, step, row := reg.RBX, reg.R13, reg.R15
	offs, first, at, left, right, top, where, seen, far, one, wide, bit, shift := zmm[0], zmm[1], zmm[2], zmm[3], zmm[4], zmm[5], zmm[6], zmm[7], zmm[8], zmm[9], zmm[10], zmm[11], zmm[16]
	near := zmm[12:16]
	masks := []reg.OpmaskPhysical{reg.K4, reg.K5, reg.K6, reg.K7}
	Load(Param("lanes"), i)
	Load(Param("offs"), t)
	maskZ(i, j, reg.K1)
	VMOVDQU32_Z(Mem{Base: t}, reg.K1, offs)
	VPBROADCASTD(Mem{Base: t}, first)
	MOVLQSX(Mem{Base: t}, j)
	Load(Param("shift"), t)
	VMOVDQU32_Z(Mem{Base: t}, reg.K1, shift)
	Load(Param("x"), x)
	LEAQ(Mem{Base: x, Index: j, Scale: 4}, x)
	VPSUBD(first, offs, first) // places among the floats loaded
	Load(Param("span"), i)
	MOVQ(I32(-1), t)
	BZHIQ(i, t, t)
	for q, m := range masks {
		KMOVW(t.As32(), m)
		if q < len(masks)-1 {
			SHRQ(Imm(16), t)
		}
	}
	MOVQ(U32(1), t)
	VPBROADCASTD(t.As32(), one)
	MOVQ(U32(32), t)
	VPBROADCASTD(t.As32(), bit)
	Load(Param("planes"), planes)
	Load(Param("plane"), plane)
	Load(Param("kh"), kh)
	Load(Param("kw"), kw)
	Load(Param("w"), w)
	VPBROADCASTD(w.As32(), wide)
	SHLQ(Imm(2), w)
	Load(Param("y"), y)
	Load(Param("arg"), arg)
	Load(Param("step"), step)
	// Nothing has been seen: the first tap replaces what top holds.
	Label("plane")
	KXNORW(reg.K1, reg.K1, reg.K3)
	VMOVDQA32(offs, where)
	VMOVDQA32(offs, far)
	MOVQ(x, row)
	MOVQ(kh, i)
	Label("row")
	for q, m := range masks {
		VMOVUPS_Z(Mem{Base: row, Disp: 64 * q}, m, near[q])
	}
	VMOVDQA32(first, at)
	VMOVDQA32(far, seen) // the offset of the tap
	MOVQ(kw, j)
	Label("tap")
	VMOVDQA32(at, left)
	VMOVDQA32(at, right)
	VPERMI2PS(near[1], near[0], left)
	VPERMI2PS(near[3], near[2], right)
	VPTESTMD(bit, at, reg.K2)
	VMOVAPS(right, reg.K2, left)
	VCMPPS(Imm(30), top, left, reg.K2) // left > top
	KORW(reg.K2, reg.K3, reg.K3)
	VCMPPS(Imm(3), left, left, reg.K2) // left is NaN
	KORW(reg.K2, reg.K3, reg.K3)
	VMOVAPS(left, reg.K3, top)
	VMOVDQA32(seen, reg.K3, where)
	KXORW(reg.K3, reg.K3, reg.K3)
	VPADDD(one, at, at)
	VPADDD(one, seen, seen)
	DECQ(j)
	JNZ(LabelRef("tap"))
	VPADDD(wide, far, far)
	ADDQ(w, row)
	DECQ(i)
	JNZ(LabelRef("row"))
	VMOVUPS(top, reg.K1, Mem{Base: y})
	TESTQ(arg, arg)
	JZ(LabelRef("next"))
	VPSUBD(shift, where, where)
	VMOVDQU32(where, reg.K1, Mem{Base: arg})
	ADDQ(step, arg)
	Label("next")
	ADDQ(step, y)
	ADDQ(plane, x)
	DECQ(planes)
	JNZ(LabelRef("plane"))
	VZEROUPPER()
	RET()
}

// line is the kernel of convolutions whose vectors run over channels of the output: half
// positions in each of two images by nv vectors.
func line(prefix string, wide bool, half, nv int) {
	name := fmt.Sprintf("%s%dx%d", prefix, half, nv)
	v, w, lanes := ymm, 32, 8
	if wide {
		v, w, lanes = zmm, 64, 16
	}
	TEXT(name, NOSPLIT, "func(x, w, y, bias *float32, taps *int32, n, channels, xnext, xstep, wstep, second, ysecond, ldc, relu, ahead int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s computes %d positions and as many others by %d channels of the output.", name, half, lanes*nv))
	x, weights, channels, xstep, wstep, second, ahead := reg.RSI, reg.RDI, reg.RCX, reg.R8, reg.R9, reg.R10, reg.RBX
	tap, left, p, q := reg.R11, reg.R12, reg.RAX, reg.RDX
	s1, s3, s5 := reg.R13, reg.R14, reg.R15
	sum := func(h, i, j int) reg.VecPhysical { return v[(h*half+i)*nv+j] }
	tmp := v[len(v)-4:]

	// What is stored is fetched meanwhile.
	Load(Param("y"), p)
	Load(Param("ysecond"), q)
	ADDQ(p, q)
	Load(Param("ldc"), s1)
	MOVQ(U32(uint32(lanes*nv)), left)
	Label("fetch")
	PREFETCHT0(Mem{Base: p})
	PREFETCHT0(Mem{Base: q})
	ADDQ(s1, p)
	ADDQ(s1, q)
	DECQ(left)
	JNZ(LabelRef("fetch"))

	Load(Param("x"), x)
	Load(Param("w"), weights)
	Load(Param("channels"), channels)
	Load(Param("xstep"), xstep)
	Load(Param("wstep"), wstep)
	Load(Param("second"), second)
	Load(Param("ahead"), ahead)
	Load(Param("xnext"), s1)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 2}, s3)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 4}, s5)
	zero := func(r reg.VecPhysical) {
		if wide {
			VPXORD(r, r, r)
		} else {
			VXORPS(r, r, r)
		}
	}
	for i := range 2 * half * nv {
		zero(v[i])
	}
	Label("channel")
	Load(Param("taps"), tap)
	Load(Param("n"), left)
	Label("tap")
	MOVLQSX(Mem{Base: tap}, p)
	MOVLQSX(Mem{Base: tap, Disp: 4}, q)
	ADDQ(x, p)
	for j := range nv {
		VMOVUPS(Mem{Base: weights, Index: q, Scale: uint8(nv), Disp: w * j}, tmp[j])
	}
	LEAQ(Mem{Base: p, Index: second, Scale: 1}, q)
	if wide { // few channels of short lines need it
		PREFETCHT0(Mem{Base: p, Index: ahead, Scale: 1})
		PREFETCHT0(Mem{Base: q, Index: ahead, Scale: 1})
	}
	ADDQ(Imm(12), tap)
	step := func(from, to int) {
		for h, base := range []reg.GPPhysical{p, q} {
			at := []Mem{
				{Base: base},
				{Base: base, Index: s1, Scale: 1},
				{Base: base, Index: s1, Scale: 2},
				{Base: base, Index: s3, Scale: 1},
				{Base: base, Index: s1, Scale: 4},
				{Base: base, Index: s5, Scale: 1},
				{Base: base, Index: s3, Scale: 2},
			}
			for i := from; i < to; i++ {
				factor := tmp[2+i%2]
				if !wide {
					VBROADCASTSS(at[i], factor)
				}
				for j := range nv {
					if wide {
						VFMADD231PS_BCST(at[i], tmp[j], sum(h, i, j))
					} else {
						VFMADD231PS(factor, tmp[j], sum(h, i, j))
					}
				}
			}
		}
		DECQ(left)
		JNZ(LabelRef("tap"))
	}
	if wide { // the others compute one position of many images: a tap meets all or none
		CMPL(Mem{Base: tap, Disp: -4}, Imm(1))
		JEQ(LabelRef("first"))
		JHI(LabelRef("last"))
	}
	step(0, half)
	Label("next")
	ADDQ(xstep, x)
	ADDQ(wstep, weights)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	if wide {
		JMP(LabelRef("end"))
		Label("first")
		step(1, half)
		JMP(LabelRef("next"))
		Label("last")
		step(0, half-1)
		JMP(LabelRef("next"))
		Label("end")
	}
	Load(Param("bias"), p)
	TESTQ(p, p)
	JZ(LabelRef("activate"))
	for j := range nv {
		VMOVUPS(Mem{Base: p, Disp: w * j}, tmp[0])
		for i := range 2 * half {
			VADDPS(tmp[0], v[i*nv+j], v[i*nv+j])
		}
	}
	Label("activate")
	Load(Param("relu"), p)
	TESTQ(p, p)
	JZ(LabelRef("store"))
	zero(tmp[0])
	for i := range 2 * half * nv {
		VMAXPS(v[i], tmp[0], v[i]) // NaN and -0 stay
	}
	Label("store")
	// Four positions by a vector of channels at a time become rows of four; the last four
	// positions overlap those before, and where there are fewer the last is several.
	ldc, three, at := s1, s3, left
	Load(Param("ldc"), ldc)
	LEAQ(Mem{Base: ldc, Index: ldc, Scale: 2}, three)
	Load(Param("y"), p)
	Load(Param("ysecond"), q)
	ADDQ(p, q)
	for j := range nv {
		for h, y := range []reg.GPPhysical{p, q} {
			begin := []int{0}
			if half > 4 {
				begin = append(begin, half-4)
			}
			for _, i := range begin {
				a := func(r int) reg.VecPhysical { return sum(h, min(i+r, half-1), j) }
				VUNPCKLPS(a(1), a(0), tmp[0])
				VUNPCKHPS(a(1), a(0), tmp[1])
				VUNPCKLPS(a(3), a(2), tmp[2])
				VUNPCKHPS(a(3), a(2), tmp[3])
				VUNPCKLPD(tmp[2], tmp[0], a(0)) // not read again
				VUNPCKHPD(tmp[2], tmp[0], tmp[0])
				VUNPCKLPD(tmp[3], tmp[1], tmp[2])
				VUNPCKHPD(tmp[3], tmp[1], tmp[1])
				MOVQ(y, at)
				for l := range lanes / 4 {
					for q, r := range []reg.VecPhysical{a(0), tmp[0], tmp[2], tmp[1]} {
						m := []Mem{
							{Base: at, Disp: 4 * i},
							{Base: at, Index: ldc, Scale: 1, Disp: 4 * i},
							{Base: at, Index: ldc, Scale: 2, Disp: 4 * i},
							{Base: at, Index: three, Scale: 1, Disp: 4 * i},
						}[q]
						if wide {
							VEXTRACTF32X4(Imm(uint64(l)), r, m)
							continue
						}
						if l > 0 {
							VEXTRACTF128(Imm(1), r, r.AsX())
						}
						VMOVLPS(r.AsX(), m)
						if half == 3 {
							m.Disp += 8
							VEXTRACTPS(Imm(2), r.AsX(), m)
						}
					}
					if l < lanes/4-1 {
						LEAQ(Mem{Base: at, Index: ldc, Scale: 4}, at)
					}
				}
			}
			if j < nv-1 {
				LEAQ(Mem{Base: at, Index: ldc, Scale: 4}, y) // the next vector
			}
		}
	}
	VZEROUPPER()
	RET()
}

func main() {
	ConstraintExpr("!purego")
	laneTable()
	for _, s := range []shape{
		{"gemmZ", true, false, 8, 3},
		{"gemmPackZ", true, true, 8, 3},
		{"gemmY", false, false, 6, 2},
		{"gemmPackY", false, true, 6, 2},
	} {
		for mr := 1; mr <= s.rows; mr++ {
			for nv := 1; nv <= s.vecs; nv++ {
				s.kernel(mr, nv)
			}
		}
	}
	for nv := 1; nv <= 2; nv++ {
		for half := 4; half <= 7; half++ {
			line("lineZ", true, half, nv)
		}
		for half := 2; half <= 3; half++ {
			line("lineY", false, half, nv)
		}
	}
	trans8()
	trans16()
	turn16()
	strips()
	evens()
	zip()
	runs("runsZ", true)
	runs("runsY", false)
	gather("gatherZ", true)
	gather("gatherY", false)
	lanewise("lanewiseZ", true, false)
	lanewise("lanewiseY", false, false)
	lanewise("pointwiseZ", true, true)
	lanewise("pointwiseY", false, true)
	windowMax("windowMaxZ", true)
	windowMax("windowMaxY", false)
	windowMaxNear()
	Generate()
}
