// This file exists to write the microkernels of products in bfloat16 and the packing of their
// operands, for machines with AVX512-BF16.
//
// VDPBF16PS takes pairs of bfloat16 values, two to a word, and adds first the product of the
// upper halves, then that of the lower ones, each rounded to nearest even. Operands are
// therefore packed with term k in the upper half of a word and k+1 in the lower one, and the
// order of additions is ascending k. Neither avo nor Go's assembler know these instructions.

package avo

import (
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// evex writes an instruction of three zmm registers by its bytes (Intel's manual, volume 2,
// section 2.7): prefix is 2 for F3 and 3 for F2, opcode one of the map 0F38 with W0.
func evex(prefix, opcode byte, src2, src1, dst reg.VecPhysical) {
	number := func(r reg.VecPhysical) byte { return byte(slices.Index(zmm, r)) }
	d, x, y := number(dst), number(src1), number(src2)
	not := func(v byte, bit int) byte { return ^v >> bit & 1 }
	bytes := [6]byte{
		0x62,
		not(d, 3)<<7 | not(y, 4)<<6 | not(y, 3)<<5 | not(d, 4)<<4 | 2,
		^x&15<<3 | 4 | prefix,
		0x40 | not(x, 4)<<3,
		opcode,
		0xc0 | d&7<<3 | y&7,
	}
	Instruction(&ir.Instruction{Opcode: fmt.Sprintf("LONG $0x%02x%02x%02x%02x; WORD $0x%02x%02x", bytes[3], bytes[2], bytes[1], bytes[0], bytes[5], bytes[4])})
}

// dot is VDPBF16PS: sum += x's upper half times y's, then the lower ones.
func dot(x, y, sum reg.VecPhysical) { evex(2, 0x52, x, y, sum) }

// halves is VCVTNE2PS2BF16: low's 16 floats as bfloat16 in the lower half of dst, high's in the
// upper half, rounded to nearest even.
func halves(low, high, dst reg.VecPhysical) { evex(3, 0x72, low, high, dst) }

// terms adds the products of a pair of k.
func (g *gemmTile) terms() {
	for j := range g.nv {
		VMOVUPS(Mem{Base: g.b, Disp: j * g.w}, g.vec(j))
	}
	free := g.mr*g.nv + g.nv
	for i := range g.mr {
		a := g.v[free+i%(len(g.v)-free)]
		VPBROADCASTD(g.row(i), a)
		for j := range g.nv {
			dot(a, g.vec(j), g.sum(i, j))
		}
	}
	PREFETCHT1(Mem{Base: g.side})
	ADDQ(g.step, g.side)
	ADDQ(g.bks, g.b)
	ADDQ(g.aks, g.a)
}

// pairTable declares the constants of packing.
func pairTable() (words, order Mem) {
	words = GLOBL("pairWords", RODATA|NOPTR)
	for i, v := range []uint32{
		0x7fff7fff, // magnitude
		0x23802380, // 2^-56
		0x5f805f80, // 2^64
		0x20002000, // from 2^64 to infinity
		0x7f807f80, // infinity
	} {
		DATA(4*i, U32(v))
	}
	order = GLOBL("pairOrder", RODATA|NOPTR)
	for i := range uint32(16) {
		DATA(int(4*i), U32((16+i)<<16|i))
	}
	return words, order
}

// pairing writes the packing of operands.
type pairing struct {
	words, order Mem
	round        reg.GPPhysical
	labels       int
}

// constants loads the constants into registers from zmm[26] on.
func (p *pairing) constants() {
	for i := range 5 {
		VPBROADCASTD(p.words.Offset(4*i), zmm[26+i])
	}
}

// clamp makes operands of 32 bfloat16 values in r, if round is not 0: less than 2^-56 is zero,
// from 2^64 on infinite. It uses zmm[24], zmm[25], K6 and K7.
func (p *pairing) clamp(regs ...reg.VecPhysical) {
	done := fmt.Sprintf("exact%d", p.labels)
	p.labels++
	TESTQ(p.round, p.round)
	JZ(LabelRef(done))
	magnitude, least, infinite, finite, infinity := zmm[26], zmm[27], zmm[28], zmm[29], zmm[30]
	for _, r := range regs {
		VPANDD(r, magnitude, zmm[24])
		VPCMPUW(Imm(5), least, zmm[24], reg.K6) // at least
		VPSUBW(infinite, zmm[24], zmm[25])
		VPCMPUW(Imm(1), finite, zmm[25], reg.K7) // less
		VMOVDQU16_Z(zmm[24], reg.K6, zmm[24])
		VMOVDQU16(infinity, reg.K7, zmm[24])
		VPTERNLOGD(Imm(0xb8), zmm[24], magnitude, r) // the sign from r
	}
	Label(done)
}

// rows writes pairRows with nv vectors to a strip.
func (p *pairing) rows(nv int) {
	TEXT(fmt.Sprintf("pairRows%d", nv), NOSPLIT, "func(k int, src *float32, ss, count int, dst *float32, ds, last, round int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("pairRows%d packs pairs of k rows of count strips of %d vectors, the last vector of each of that many lanes: row pair r of strip i to dst + i*ds + r*%d, in bytes; k, count > 0. An odd last row is paired with +0.", nv, nv, 64*nv))
	k, src, ss, count, dst, ds := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.RDI, reg.R10
	s, s2, d, i, t := reg.RAX, reg.RBX, reg.RDX, reg.R11, reg.R12
	p.round = reg.R13
	order := zmm[31]
	Load(Param("last"), i)
	maskZ(i, t, reg.K1)
	for i, r := range []reg.GPPhysical{k, src, ss, count, dst, ds} {
		Load(ParamIndex(i), r)
	}
	Load(Param("round"), p.round)
	p.constants()
	VMOVUPS(p.order, order)
	KXNORW(reg.K2, reg.K2, reg.K2)
	KMOVW(reg.K1, reg.K3)
	Label("pair")
	MOVQ(src, s)
	LEAQ(Mem{Base: src, Index: ss, Scale: 1}, s2)
	CMPQ(k, Imm(1))
	JNE(LabelRef("both"))
	MOVQ(src, s2)
	KXORW(reg.K2, reg.K2, reg.K2)
	KXORW(reg.K3, reg.K3, reg.K3)
	Label("both")
	MOVQ(dst, d)
	MOVQ(count, i)
	Label("strip")
	for j := range nv {
		if j == nv-1 {
			VMOVUPS_Z(Mem{Base: s, Disp: 64 * j}, reg.K1, zmm[2*j])
			VMOVUPS_Z(Mem{Base: s2, Disp: 64 * j}, reg.K3, zmm[2*j+1])
		} else {
			VMOVUPS(Mem{Base: s, Disp: 64 * j}, zmm[2*j])
			VMOVUPS_Z(Mem{Base: s2, Disp: 64 * j}, reg.K2, zmm[2*j+1])
		}
		PREFETCHT0(Mem{Base: s, Index: ss, Scale: 8, Disp: 64 * j})
		PREFETCHT0(Mem{Base: s2, Index: ss, Scale: 8, Disp: 64 * j})
		halves(zmm[2*j+1], zmm[2*j], zmm[j])
		VPERMW(zmm[j], order, zmm[j])
	}
	p.clamp(zmm[:nv]...)
	for j := range nv {
		VMOVUPS(zmm[j], Mem{Base: d, Disp: 64 * j})
	}
	ADDQ(Imm(uint64(64*nv)), s)
	ADDQ(Imm(uint64(64*nv)), s2)
	ADDQ(ds, d)
	DECQ(i)
	JNZ(LabelRef("strip"))
	LEAQ(Mem{Base: src, Index: ss, Scale: 2}, src)
	ADDQ(Imm(uint64(64*nv)), dst)
	SUBQ(Imm(2), k)
	JG(LabelRef("pair"))
	VZEROUPPER()
	RET()
}

// masks has K1 and K2 hold the lanes of the next 32 of k floats in two vectors.
func (p *pairing) masks(k, t, n reg.GPPhysical) {
	CMPQ(k, Imm(32))
	JGE(LabelRef("whole"))
	maskZ(k, t, reg.K1)
	MOVQ(k, n)
	SUBQ(Imm(16), n)
	JGE(LabelRef("second"))
	XORQ(n, n)
	Label("second")
	maskZ(n, t, reg.K2)
	Label("whole")
}

// pair loads 32 floats that follow one another, under K1 and K2, as pairs.
func (p *pairing) pair(m Mem, a, b reg.VecPhysical) {
	next := m
	next.Disp += 64
	VMOVUPS_Z(m, reg.K1, a)
	VMOVUPS_Z(next, reg.K2, b)
	halves(a, b, a)
	VPROLD(Imm(16), a, a)
}

// lines writes pairLines.
func (p *pairing) lines() {
	TEXT("pairLines", NOSPLIT, "func(n, k int, src *float32, ss int, dst *float32, ds, round int)")
	Pragma("noescape")
	Doc("pairLines packs the k floats of each of n lines, ss bytes apart, to (k+1)/2 words, ds bytes apart; n, k > 0. An odd last float is paired with +0.")
	n, lines, src, ss, dst, ds := reg.RCX, reg.R8, reg.RSI, reg.R9, reg.RDI, reg.R10
	s, d, left, t := reg.RAX, reg.RDX, reg.R11, reg.R12
	p.round = reg.R13
	for i, r := range []reg.GPPhysical{lines, n, src, ss, dst, ds, p.round} {
		Load(ParamIndex(i), r)
	}
	p.constants()
	Label("line")
	MOVQ(src, s)
	MOVQ(dst, d)
	MOVQ(n, left)
	KXNORW(reg.K1, reg.K1, reg.K1)
	KXNORW(reg.K2, reg.K2, reg.K2)
	KXNORW(reg.K3, reg.K3, reg.K3)
	Label("block")
	p.masks(left, t, reg.RBX)
	CMPQ(left, Imm(32))
	JGE(LabelRef("words"))
	LEAQ(Mem{Base: left, Disp: 1}, reg.RBX)
	SHRQ(Imm(1), reg.RBX)
	maskZ(reg.RBX, t, reg.K3)
	Label("words")
	p.pair(Mem{Base: s}, zmm[0], zmm[1])
	p.clamp(zmm[0])
	VMOVDQU32(zmm[0], reg.K3, Mem{Base: d})
	ADDQ(Imm(128), s)
	ADDQ(Imm(64), d)
	SUBQ(Imm(32), left)
	JG(LabelRef("block"))
	ADDQ(ss, src)
	ADDQ(ds, dst)
	DECQ(lines)
	JNZ(LabelRef("line"))
	VZEROUPPER()
	RET()
}

// columns writes pairColumns.
func (p *pairing) columns() {
	TEXT("pairColumns", NOSPLIT, "func(k int, src *float32, rows *[16]int, dst *float32, step, round int)")
	Pragma("noescape")
	Doc("pairColumns packs pairs of k floats of each of 16 rows, which begin at rows bytes: word pair r of row i to lane i of dst + r*step, in bytes; k > 0. An odd last float is paired with +0.")
	k, src, rows, dst, step := reg.RCX, reg.RSI, reg.R9, reg.RDI, reg.R10
	a, t, n := reg.RAX, reg.RBX, reg.RDX
	p.round = reg.R13
	for i, r := range []reg.GPPhysical{k, src, rows, dst, step, p.round} {
		Load(ParamIndex(i), r)
	}
	KXNORW(reg.K1, reg.K1, reg.K1)
	KXNORW(reg.K2, reg.K2, reg.K2)
	Label("block")
	p.masks(k, t, n)
	p.constants()
	for i := range 16 {
		MOVQ(Mem{Base: rows, Disp: 8 * i}, a)
		p.pair(Mem{Base: src, Index: a, Scale: 1}, zmm[i], zmm[16+i%8])
	}
	p.clamp(zmm[:16]...)
	turn16()
	for c := range 16 {
		VMOVUPS(zmm[c], Mem{Base: dst})
		ADDQ(step, dst)
		if c < 15 {
			CMPQ(k, Imm(uint64(2*c+2)))
			JLE(LabelRef("end"))
		}
	}
	ADDQ(Imm(128), src)
	SUBQ(Imm(32), k)
	JG(LabelRef("block"))
	Label("end")
	VZEROUPPER()
	RET()
}

// pairSmall writes pairSmall.
func pairSmall() {
	TEXT("pairSmall", NOSPLIT, "func(n int, x *float32) int")
	Pragma("noescape")
	Doc("pairSmall is not 0 if one of n floats is neither zero nor at least 2^-103 in magnitude; n > 0.")
	n, x, t := reg.RCX, reg.RSI, reg.RAX
	one, least, v := zmm[0], zmm[1], zmm[2]
	Load(Param("n"), n)
	Load(Param("x"), x)
	MOVL(U32(1), t.As32())
	VPBROADCASTD(t.As32(), one)
	MOVL(U32((127-103)<<24-1), t.As32()) // twice the bits, less one, so that zero is most
	VPBROADCASTD(t.As32(), least)
	KXNORW(reg.K1, reg.K1, reg.K1)
	KXORW(reg.K3, reg.K3, reg.K3)
	Label("loop")
	CMPQ(n, Imm(16))
	JGE(LabelRef("whole"))
	maskZ(n, t, reg.K1)
	Label("whole")
	VMOVDQU32_Z(Mem{Base: x}, reg.K1, v)
	VPADDD(v, v, v)
	VPSUBD(one, v, v)
	VPCMPUD(Imm(1), least, v, reg.K2)
	KORW(reg.K2, reg.K3, reg.K3)
	ADDQ(Imm(64), x)
	SUBQ(Imm(16), n)
	JG(LabelRef("loop"))
	KMOVW(reg.K3, t.As32())
	Store(t, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func gemmBF16() {
	s := shape{prefix: "gemmB", wide: true, dot: true, rows: 8, vecs: 3}
	for mr := 1; mr <= s.rows; mr++ {
		for nv := 1; nv <= s.vecs; nv++ {
			s.tile(mr, nv).kernel()
		}
	}
	p := &pairing{}
	p.words, p.order = pairTable()
	for nv := 1; nv <= s.vecs; nv++ {
		p.rows(nv)
	}
	p.lines()
	p.columns()
	p.runs()
	p.span()
	pairSmall()
}
