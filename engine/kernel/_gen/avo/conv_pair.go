// This file exists to write the packing of a convolution's windows into pairs of terms.

package avo

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// runs writes pairRuns.
func (p *pairing) runs() {
	TEXT("pairRuns", NOSPLIT, "func(k int, rows *int32, src *float32, off1, len1, off2, lanes int, dst *float32, step int)")
	Pragma("noescape")
	Doc("pairRuns packs pairs of k rows, a vector each, to words step bytes apart: lane l of row i is src[rows[i]+off1+l] for l < len1, src[rows[i]+off2+l] for len1 <= l < lanes, and 0 beyond; k > 0. An odd last row is paired with +0.")
	k, rows, s1, s2, dst, step, r, t, l1 := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.RDI, reg.RDX, reg.RAX, reg.RBX, reg.R10
	Load(Param("src"), t)
	Load(Param("off1"), s1)
	LEAQ(Mem{Base: t, Index: s1, Scale: 4}, s1)
	Load(Param("off2"), s2)
	LEAQ(Mem{Base: t, Index: s2, Scale: 4}, s2)
	Load(Param("len1"), l1)
	Load(Param("lanes"), r)
	maskZ(l1, t, reg.K1)
	maskZ(r, t, reg.K2)
	KANDNW(reg.K2, reg.K1, reg.K2)
	KMOVW(reg.K1, reg.K3)
	KMOVW(reg.K2, reg.K4)
	VMOVUPS(p.order, zmm[31])
	Load(Param("k"), k)
	Load(Param("rows"), rows)
	Load(Param("dst"), dst)
	Load(Param("step"), step)
	SUBQ(l1, r) // lanes of the second run
	JNZ(LabelRef("two"))
	for _, loop := range []string{"one", "two"} {
		load := func(disp int, first, second reg.OpmaskPhysical, v reg.VecPhysical) {
			MOVLQSX(Mem{Base: rows, Disp: disp}, r)
			VMOVUPS_Z(Mem{Base: s1, Index: r, Scale: 4}, first, v)
			if loop == "two" {
				VMOVUPS(Mem{Base: s2, Index: r, Scale: 4}, second, v)
			}
		}
		Label(loop)
		load(0, reg.K1, reg.K2, zmm[0])
		CMPQ(k, Imm(1))
		JNE(LabelRef(loop + "both"))
		KXORW(reg.K3, reg.K3, reg.K3)
		KXORW(reg.K4, reg.K4, reg.K4)
		SUBQ(Imm(4), rows)
		Label(loop + "both")
		load(4, reg.K3, reg.K4, zmm[1])
		halves(zmm[1], zmm[0], zmm[0])
		VPERMW(zmm[0], zmm[31], zmm[0])
		VMOVUPS(zmm[0], Mem{Base: dst})
		ADDQ(Imm(8), rows)
		ADDQ(step, dst)
		SUBQ(Imm(2), k)
		JG(LabelRef(loop))
		VZEROUPPER()
		RET()
	}
}

// span writes pairSpan.
func (p *pairing) span() {
	TEXT("pairSpan", NOSPLIT, "func(k int, rows *int32, src *float32, off, span int, index *[32]uint16, dst *float32, step int)")
	Pragma("noescape")
	Doc("pairSpan packs pairs of k rows, a vector each, to words step bytes apart, from the span <= 32 floats of each row from src[rows[i]+off] on: halves 2l and 2l+1 of a word are the floats index[2l]-32 of the second row and index[2l+1] of the first; k > 0. An odd last row is paired with +0.")
	k, rows, src, dst, step, r, t, n := reg.RCX, reg.RSI, reg.R8, reg.RDI, reg.RDX, reg.RAX, reg.RBX, reg.R10
	Load(Param("src"), src)
	Load(Param("off"), t)
	LEAQ(Mem{Base: src, Index: t, Scale: 4}, src)
	Load(Param("span"), n)
	maskZ(n, t, reg.K1)
	SUBQ(Imm(16), n)
	JGE(LabelRef("second"))
	XORQ(n, n)
	Label("second")
	maskZ(n, t, reg.K2)
	KMOVW(reg.K1, reg.K3)
	KMOVW(reg.K2, reg.K4)
	Load(Param("index"), t)
	VMOVUPS(Mem{Base: t}, zmm[31])
	Load(Param("k"), k)
	Load(Param("rows"), rows)
	Load(Param("dst"), dst)
	Load(Param("step"), step)
	load := func(disp int, first, second reg.OpmaskPhysical, v, w reg.VecPhysical) {
		MOVLQSX(Mem{Base: rows, Disp: disp}, r)
		VMOVUPS_Z(Mem{Base: src, Index: r, Scale: 4}, first, v)
		VMOVUPS_Z(Mem{Base: src, Index: r, Scale: 4, Disp: 64}, second, w)
		halves(v, w, v)
	}
	Label("loop")
	load(0, reg.K1, reg.K2, zmm[0], zmm[1])
	CMPQ(k, Imm(1))
	JNE(LabelRef("both"))
	KXORW(reg.K3, reg.K3, reg.K3)
	KXORW(reg.K4, reg.K4, reg.K4)
	SUBQ(Imm(4), rows)
	Label("both")
	load(4, reg.K3, reg.K4, zmm[2], zmm[3])
	VPERMT2W(zmm[2], zmm[31], zmm[0])
	VMOVUPS(zmm[0], Mem{Base: dst})
	ADDQ(Imm(8), rows)
	ADDQ(step, dst)
	SUBQ(Imm(2), k)
	JG(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
