// This file exists to write microkernels of products whose B is windows over images, read
// in place. Packing costs as much as the product where few rows share it.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	mostRows, mostVectors = 8, 3
	width                 = 64 // bytes of a vector
)

func direct(mr, nv int) {
	name := fmt.Sprintf("windowZ%dx%d", mr, nv)
	TEXT(name, NOSPLIT, "func(kc int, a *float32, ars, aks int, b *float32, rows *int32, c *float32, ldc, acc, last int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s multiplies %d rows by %d vectors, the last of them of that many lanes; row k of B begins at b[rows[k]]. Strides are in bytes, kc > 0.", name, mr, nv))
	kc, a, b, c, rows, r := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.RBX, reg.RAX
	aks, s1, s3, s5, s7, ldc := reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13
	sum := func(i, j int) reg.VecPhysical { return zmm[i*nv+j] }
	vec := func(j int) reg.VecPhysical { return zmm[mr*nv+j] }
	load := func(m Mem, j int, v reg.VecPhysical) {
		if j < nv-1 {
			VMOVUPS(m, v)
		} else {
			VMOVUPS_Z(m, reg.K1, v)
		}
	}
	Load(Param("last"), rows)
	MOVQ(I32(0xffff), r)
	BZHIQ(rows, r, r)
	KMOVW(r.As32(), reg.K1)
	for i, p := range []reg.GPPhysical{kc, a, s1, aks, b, rows, c, ldc, r} {
		Load(ParamIndex(i), p)
	}
	LEAQ(Mem{Base: s1, Index: s1, Scale: 2}, s3)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 4}, s5)
	LEAQ(Mem{Base: s3, Index: s1, Scale: 4}, s7)
	row := []Mem{
		{Base: a},
		{Base: a, Index: s1, Scale: 1},
		{Base: a, Index: s1, Scale: 2},
		{Base: a, Index: s3, Scale: 1},
		{Base: a, Index: s1, Scale: 4},
		{Base: a, Index: s5, Scale: 1},
		{Base: a, Index: s3, Scale: 2},
		{Base: a, Index: s7, Scale: 1},
	}
	TESTQ(r, r)
	JZ(LabelRef("zero"))
	MOVQ(c, r)
	for i := range mr {
		for j := range nv {
			load(Mem{Base: r, Disp: j * width}, j, sum(i, j))
		}
		if i < mr-1 {
			ADDQ(ldc, r)
		}
	}
	JMP(LabelRef("term"))
	Label("zero")
	for i := range mr * nv {
		VPXORD(zmm[i], zmm[i], zmm[i])
	}
	Label("term")
	MOVLQSX(Mem{Base: rows}, r)
	for j := range nv {
		load(Mem{Base: b, Index: r, Scale: 4, Disp: j * width}, j, vec(j))
	}
	for i := range mr {
		for j := range nv {
			VFMADD231PS_BCST(row[i], vec(j), sum(i, j))
		}
	}
	ADDQ(Imm(4), rows)
	ADDQ(aks, a)
	DECQ(kc)
	JNZ(LabelRef("term"))
	for i := range mr {
		for j := range nv {
			if m := (Mem{Base: c, Disp: j * width}); j < nv-1 {
				VMOVUPS(sum(i, j), m)
			} else {
				VMOVUPS(sum(i, j), reg.K1, m)
			}
		}
		if i < mr-1 {
			ADDQ(ldc, c)
		}
	}
	VZEROUPPER()
	RET()
}

func convDirect() {
	for mr := 1; mr <= mostRows; mr++ {
		for nv := 1; nv <= mostVectors; nv++ {
			direct(mr, nv)
		}
	}
}
