// This file exists to write transpositions and copies with a stride of two.

package avo

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// trans8 writes the transposition of 8 columns that are contiguous in memory.
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

// trans16 writes the transposition of blocks of 16 rows at any offsets.
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
	turn16()
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

// turn16 transposes registers 0 to 15 by way of 16 to 31.
func turn16() {
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
}

// trans16Strided is trans16 for equidistant rows. It loads four rows into the quarters of a
// register, which saves half the shuffles.
func trans16Strided() {
	TEXT("trans16Strided", NOSPLIT, "func(n int, src *float32, next, row, cols int, dst *float32, dnext, drow int)")
	Pragma("noescape")
	Doc("trans16Strided is trans16 for rows that are row bytes apart.")
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
	// Masks of whole quarters (but the first), and of the remainder of each.
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
	Label("block")
	MOVQ(src, quarter[0])
	for q := 1; q < 4; q++ {
		LEAQ(Mem{Base: quarter[q-1], Index: row, Scale: 4}, quarter[q])
	}
	Load(Param("next"), t)
	for _, p := range quarter { // blocks that are far apart miss the cache
		PREFETCHT0(Mem{Base: p, Index: t, Scale: 4})
		PREFETCHT0(Mem{Base: p, Index: t, Scale: 4, Disp: 64})
	}
	MOVQ(dst, to)
	MOVQ(cols, left)
	SUBQ(Imm(4), left)
	JL(LabelRef("rest"))
	Label("four")
	fourColumns(quarter, row, three, whole)
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
	fourColumns(quarter, row, three, part)
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

// fourColumns loads four columns of 16 rows, those at each of quarter and the three that
// follow by row bytes (three is 3*row), into registers 0 to 3 and transposes them. A mask
// leaves columns out; nil has them all.
func fourColumns(quarter []reg.GPPhysical, row, three reg.GPPhysical, masks []reg.OpmaskPhysical) {
	// Register i has rows i, i+4, i+8 and i+12, and column i when transposed.
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

// evens and zip write the copies of convolutions with a stride of two.
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
	TEXT("zip", NOSPLIT, "func(lines, n int, a, b *float32, pitch int, dst *float32, dpitch int)")
	Pragma("noescape")
	Doc("zip writes n floats of lines of a and of b by turns, n >= 8. Lines are pitch bytes apart, those of dst dpitch.")
	lines, n, a, b, dst, pitch, dpitch := reg.RCX, reg.RAX, reg.RSI, reg.RDX, reg.RDI, reg.R8, reg.R9
	x, y, to, by := reg.R10, reg.R11, reg.R12, reg.R13
	Load(Param("lines"), lines)
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("pitch"), pitch)
	Load(Param("dst"), dst)
	Load(Param("dpitch"), dpitch)
	Label("line")
	MOVQ(a, x)
	MOVQ(b, y)
	MOVQ(dst, to)
	Load(Param("n"), n)
	Label("eight")
	VMOVUPS(Mem{Base: x}, ymm[0])
	VMOVUPS(Mem{Base: y}, ymm[1])
	VUNPCKLPS(ymm[1], ymm[0], ymm[2])
	VUNPCKHPS(ymm[1], ymm[0], ymm[3])
	VPERM2F128(Imm(0x20), ymm[3], ymm[2], ymm[0])
	VPERM2F128(Imm(0x31), ymm[3], ymm[2], ymm[1])
	VMOVUPS(ymm[0], Mem{Base: to})
	VMOVUPS(ymm[1], Mem{Base: to, Disp: 32})
	SUBQ(Imm(8), n)
	JZ(LabelRef("next"))
	MOVQ(I32(8), by)
	CMPQ(n, by)
	CMOVQLT(n, by) // the last eight may overlap those before
	LEAQ(Mem{Base: x, Index: by, Scale: 4}, x)
	LEAQ(Mem{Base: y, Index: by, Scale: 4}, y)
	LEAQ(Mem{Base: to, Index: by, Scale: 8}, to)
	SUBQ(Imm(8), by)
	SUBQ(by, n)
	JMP(LabelRef("eight"))
	Label("next")
	ADDQ(pitch, a)
	ADDQ(pitch, b)
	ADDQ(dpitch, dst)
	DECQ(lines)
	JNZ(LabelRef("line"))
	VZEROUPPER()
	RET()
}

func transpose() {
	trans8()
	trans16()
	trans16Strided()
	evens()
	zip()
}
