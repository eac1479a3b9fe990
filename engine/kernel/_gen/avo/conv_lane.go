// This file exists to write products in which every lane is a channel or a filter of its
// own.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanewise writes a matrix-vector product per lane: every lane has a matrix and a vector of
// its own.
func lanewise(name string, wide bool) {
	TEXT(name, NOSPLIT, "func(m int, rows *int32, rstep, k int, cols *int32, cstep int, a, b, c *float32, acc int)")
	Pragma("noescape")
	Doc(name+" sets vector i of c, for i < m, to the sum over ascending k of vector k of a times the vector at b[rows[i]+cols[k]], and",
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
			VFMADD231PS(Mem{Base: from[i], Index: at, Scale: 4}, v[many], v[i])
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
	// A single vector would be bound by latency, so the last five go together.
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

func convLane() {
	lanewise("lanewiseZ", true)
	lanewise("lanewiseY", false)
}
