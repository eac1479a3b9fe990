// This file exists to write the gradients of depthwise weights, in which every lane is a channel.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// depthWeight writes the sums of some rows of a window over lines of positions.
func (s isa) depthWeight(k, rows int) {
	name := fmt.Sprintf("depthWeight%dx%d%s", rows, k, s.name)
	TEXT(name, NOSPLIT, "func(lines, n int, x *float32, rows *int32, step int, dy, sums *float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is a depthWeightKernel for %d rows of windows %d wide.", name, rows, k))
	lines, x, table, step, dy, sum := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R8, reg.R9
	n, at := reg.R10, reg.RAX
	row := []reg.GPPhysical{reg.R11, reg.R12, reg.R13, reg.R15, reg.RBX}
	Load(Param("lines"), lines)
	Load(Param("x"), x)
	Load(Param("rows"), table)
	Load(Param("step"), step)
	Load(Param("dy"), dy)
	Load(Param("sums"), sum)
	acc := func(i, j int) reg.VecPhysical { return s.vec(i*k + j) }
	grad := s.vec(rows * k)
	for i := range rows * k {
		VMOVUPS(Mem{Base: sum, Disp: i * s.bytes()}, s.vec(i))
	}
	Label("line")
	for i := range rows {
		MOVLQSX(Mem{Base: table, Disp: 4 * i}, row[i])
		ADDQ(x, row[i])
	}
	ADDQ(Imm(uint64(4*k)), table)
	XORQ(at, at)
	Load(Param("n"), n)
	Label("position")
	VMOVUPS(Mem{Base: dy}, grad)
	for i := range rows {
		for j := range k {
			VFMADD231PS(Mem{Base: row[i], Index: at, Scale: 1, Disp: j * s.bytes()}, grad, acc(i, j))
		}
	}
	ADDQ(Imm(uint64(s.bytes())), dy)
	ADDQ(step, at)
	DECQ(n)
	JNZ(LabelRef("position"))
	DECQ(lines)
	JNZ(LabelRef("line"))
	for i := range rows * k {
		VMOVUPS(s.vec(i), Mem{Base: sum, Disp: i * s.bytes()})
	}
	VZEROUPPER()
	RET()
}

// depthWeightInPlace writes the sums of windows of k by k on AVX-512, where gradients are read as
// they are: four columns are transposed into registers, which costs no time beside the products.
func depthWeightInPlace(k, stride int) {
	name := fmt.Sprintf("depthWeightInPlace%ds%d", k, stride)
	TEXT(name, NOSPLIT, "func(lines, n int, x *float32, rows *int32, dy *float32, plane int, sums *float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is a depthWeightKernel for windows of %d by %d with a stride of %d, and for gradients that lie as they are, in planes plane bytes apart. n >= 4.", name, k, k, stride))
	table, at, n, plane, three, t := reg.RDI, reg.RAX, reg.RCX, reg.R8, reg.R9, reg.RDX
	row := []reg.GPPhysical{reg.RSI, reg.R10, reg.R11}
	quarter := []reg.GPPhysical{reg.R12, reg.R13, reg.R15, reg.RBX}
	grads := zmm[:4] // 4 to 7 are needed for transposing
	acc := func(i, j int) reg.VecPhysical { return zmm[8+i*k+j] }
	window := func(i, column int) reg.VecPhysical { return zmm[8+k*k+i*k+column%k] }
	place := func(i, column int) Mem { return Mem{Base: row[i], Index: at, Scale: 1, Disp: 64 * column} }
	Load(Param("rows"), table)
	Load(Param("dy"), quarter[0])
	Load(Param("plane"), plane)
	LEAQ(Mem{Base: plane, Index: plane, Scale: 2}, three)
	for q := 1; q < 4; q++ {
		LEAQ(Mem{Base: quarter[q-1], Index: plane, Scale: 4}, quarter[q])
	}
	Load(Param("sums"), t)
	for i := range k * k {
		VMOVUPS(Mem{Base: t, Disp: 64 * i}, acc(0, i))
	}
	MOVQ(U32(0xf0), t)
	for _, m := range quarterMasks[1:] {
		KMOVW(t.As32(), m)
		SHLQ(Imm(4), t)
	}
	Label("line")
	Load(Param("x"), t)
	for i := range k {
		MOVLQSX(Mem{Base: table, Disp: 4 * i}, row[i])
		ADDQ(t, row[i])
	}
	ADDQ(Imm(uint64(4*k)), table)
	XORQ(at, at)
	Load(Param("n"), n)
	SUBQ(Imm(4), n)
	Label("four")
	fourColumns(quarter, plane, three, quarterMasks)
	loaded := 0 // columns
	for p := range 4 {
		for ; loaded < stride*p+k; loaded++ {
			for i := range k {
				VMOVUPS(place(i, loaded), window(i, loaded))
			}
		}
		for i := range k {
			for j := range k {
				VFMADD231PS(window(i, stride*p+j), grads[p], acc(i, j))
			}
		}
	}
	for _, p := range quarter {
		ADDQ(Imm(16), p)
	}
	ADDQ(I32(4*64*stride), at)
	SUBQ(Imm(4), n)
	JGE(LabelRef("four"))
	ADDQ(Imm(4), n)
	JZ(LabelRef("next"))
	// The last columns come with some before them.
	for _, p := range quarter {
		LEAQ(Mem{Base: p, Index: n, Scale: 4, Disp: -16}, p)
	}
	fourColumns(quarter, plane, three, quarterMasks)
	for _, p := range quarter {
		ADDQ(Imm(16), p)
	}
	for left := 1; left < 3; left++ {
		CMPQ(n, Imm(uint64(left)))
		JEQ(LabelRef(fmt.Sprint("last", left)))
	}
	for left := 3; left > 0; left-- {
		Label(fmt.Sprint("last", left))
		for i := range k {
			for j := range k {
				VFMADD231PS(place(i, j), grads[4-left], acc(i, j))
			}
		}
		ADDQ(I32(64*stride), at)
	}
	Label("next")
	DECQ(param("lines"))
	JNZ(LabelRef("line"))
	Load(Param("sums"), t)
	for i := range k * k {
		VMOVUPS(acc(0, i), Mem{Base: t, Disp: 64 * i})
	}
	VZEROUPPER()
	RET()
}

// quarterMasks are whole quarters of a vector but the first.
var quarterMasks = []reg.OpmaskPhysical{nil, reg.K1, reg.K2, reg.K3}

// depthSpread writes a transposition of whole lines to places that a table gives.
func (s isa) depthSpread() {
	name := "depthSpread" + s.name
	TEXT(name, NOSPLIT, "func(cols int, src *float32, row int, at *int32, dst *float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s sets the vector at dst+at[j], in bytes, to column j of %d rows, which are row bytes apart, for j < cols. cols >= 4.", name, s.lanes))
	cols, src, row, at, dst, three, t := reg.RCX, reg.RSI, reg.R8, reg.RDI, reg.RDX, reg.R11, reg.RAX
	quarter := []reg.GPPhysical{reg.R12, reg.R13, reg.R15, reg.RBX}[:s.lanes/4]
	Load(Param("cols"), cols)
	Load(Param("src"), quarter[0])
	Load(Param("row"), row)
	Load(Param("at"), at)
	Load(Param("dst"), dst)
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, three)
	for q := 1; q < len(quarter); q++ {
		LEAQ(Mem{Base: quarter[q-1], Index: row, Scale: 4}, quarter[q])
	}
	Label("four")
	for half := range len(quarter) / 2 {
		fourColumnsY(quarter[2*half:][:2], row, three)
		for i := range 4 {
			MOVLQSX(Mem{Base: at, Disp: 4 * i}, t)
			VMOVUPS(ymm[i], Mem{Base: dst, Index: t, Scale: 1, Disp: 32 * half})
		}
	}
	MOVQ(I32(4), src)
	SUBQ(src, cols)
	JZ(LabelRef("end"))
	CMPQ(cols, src)
	CMOVQLT(cols, src) // the last four may overlap those before
	LEAQ(Mem{Base: at, Index: src, Scale: 4}, at)
	for _, p := range quarter {
		LEAQ(Mem{Base: p, Index: src, Scale: 4}, p)
	}
	SUBQ(Imm(4), src)
	SUBQ(src, cols)
	JMP(LabelRef("four"))
	Label("end")
	VZEROUPPER()
	RET()
}

// fourColumnsY is fourColumns for eight rows.
func fourColumnsY(half []reg.GPPhysical, row, three reg.GPPhysical) {
	for i := range 4 {
		for h, p := range half {
			m := []Mem{{Base: p}, {Base: p, Index: row, Scale: 1}, {Base: p, Index: row, Scale: 2}, {Base: p, Index: three, Scale: 1}}[i]
			if h == 0 {
				VMOVUPS(m, xmm[i])
			} else {
				VINSERTF128(Imm(1), m, ymm[i], ymm[i])
			}
		}
	}
	VUNPCKLPS(ymm[1], ymm[0], ymm[4])
	VUNPCKHPS(ymm[1], ymm[0], ymm[5])
	VUNPCKLPS(ymm[3], ymm[2], ymm[6])
	VUNPCKHPS(ymm[3], ymm[2], ymm[7])
	VUNPCKLPD(ymm[6], ymm[4], ymm[0])
	VUNPCKHPD(ymm[6], ymm[4], ymm[1])
	VUNPCKLPD(ymm[7], ymm[5], ymm[2])
	VUNPCKHPD(ymm[7], ymm[5], ymm[3])
}

func convDepthWeight() {
	z, y := isa{"Z", 16, true}, isa{"Y", 8, false}
	for _, k := range []struct {
		s       isa
		k, rows int
	}{{z, 3, 3}, {z, 5, 5}, {z, 7, 4}, {z, 7, 3}, {y, 3, 3}, {y, 5, 3}, {y, 5, 2}, {y, 7, 2}, {y, 7, 1}} {
		k.s.depthWeight(k.k, k.rows)
	}
	depthWeightInPlace(3, 1)
	depthWeightInPlace(3, 2)
	z.depthSpread()
	y.depthSpread()
}
