// This file exists to write products in which every lane is a filter, and all lanes share the
// floats of windows.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pointwise writes sums for nine rows at a time, as windows of 3x3 have, each of which has an
// address in a register. Fewer would not hide the latency of an addition and would load the
// vectors of a too often.
func (s isa) pointwise() {
	name := "pointwise" + s.name
	TEXT(name, NOSPLIT, "func(m int, rows *int32, k int, cols *int32, a, b, c *float32, acc int)")
	Pragma("noescape")
	Doc(name+" sets vector i of c, for i < m, to the sum over ascending k of vector k of a times the float at b[rows[i]+cols[k]], and",
		"continues what is in c if acc is not 0. m and k > 0.")
	cols, a, n, at := reg.RDI, reg.R8, reg.R10, reg.R11
	from := []reg.GPPhysical{reg.R12, reg.R13, reg.R15, reg.RBX, reg.R14, reg.RSI, reg.RDX, reg.RCX, reg.R9}
	t := reg.RAX
	block := func(many int) {
		l := func(name string) string { return fmt.Sprint(name, many) }
		Load(Param("b"), t)
		Load(Param("rows"), n)
		for i := range many {
			MOVLQSX(Mem{Base: n, Disp: 4 * i}, from[i])
			LEAQ(Mem{Base: t, Index: from[i], Scale: 4}, from[i])
		}
		ADDQ(Imm(uint64(4*many)), param("rows"))
		Load(Param("cols"), cols)
		Load(Param("a"), a)
		Load(Param("k"), n)
		Load(Param("c"), at)
		CMPQ(param("acc"), Imm(0))
		JE(LabelRef(l("zero")))
		for i := range many {
			VMOVUPS(Mem{Base: at, Disp: i * s.bytes()}, s.vec(i))
		}
		JMP(LabelRef(l("loop")))
		Label(l("zero"))
		for i := range many {
			VXORPS(ymm[i], ymm[i], ymm[i])
		}
		Label(l("loop"))
		MOVLQSX(Mem{Base: cols}, at)
		VMOVUPS(Mem{Base: a}, s.vec(many))
		for i := range many {
			factor := Mem{Base: from[i], Index: at, Scale: 4}
			if s.evex {
				VFMADD231PS_BCST(factor, s.vec(many), s.vec(i))
			} else {
				VBROADCASTSS(factor, s.vec(many+1+i%2))
				VFMADD231PS(s.vec(many+1+i%2), s.vec(many), s.vec(i))
			}
		}
		ADDQ(Imm(4), cols)
		ADDQ(Imm(uint64(s.bytes())), a)
		DECQ(n)
		JNZ(LabelRef(l("loop")))
		Load(Param("c"), at)
		for i := range many {
			VMOVUPS(s.vec(i), Mem{Base: at, Disp: i * s.bytes()})
		}
		ADDQ(I32(many*s.bytes()), param("c"))
	}
	for _, many := range []int{9, 4, 1} {
		Label(fmt.Sprint("rows", many))
		SUBQ(Imm(uint64(many)), param("m"))
		JL(LabelRef(fmt.Sprint("fewer", many)))
		block(many)
		JMP(LabelRef(fmt.Sprint("rows", many)))
		Label(fmt.Sprint("fewer", many))
		ADDQ(Imm(uint64(many)), param("m"))
		if many == 9 {
			CMPQ(param("m"), Imm(5))
			JNE(LabelRef("rows4"))
			block(5)
			JMP(LabelRef("end"))
		}
	}
	Label("end")
	VZEROUPPER()
	RET()
}

func convNarrow() {
	isa{"Z", 16, true}.pointwise()
	isa{"Y", 8, false}.pointwise()
}
