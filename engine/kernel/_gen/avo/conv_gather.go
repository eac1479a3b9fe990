// This file exists to write the routines that pack a convolution's windows into panels of a
// product's B.

package avo

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// runs packs one vector of columns of B for every row, whose lanes are one or two contiguous
// runs in memory.
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

// gather is runs for lanes anywhere in memory.
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

func convGather() {
	laneTable()
	runs("runsZ", true)
	runs("runsY", false)
	gather("gatherZ", true)
	gather("gatherY", false)
}
