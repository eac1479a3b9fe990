// This file exists to write the maxima of windows.

package avo

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// windowMax writes max pooling of windows anywhere in a plane, with the positions of maxima.
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
	MOVQ(U32(1), t)
	broadcast(wide, t, one)
	broadcast(wide, w, next)
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
	// The first tap is loaded twice and compared with itself, which changes nothing.
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

// broadcast sets the 32-bit lanes of a register to the lower half of r.
func broadcast(wide bool, r reg.GPPhysical, to reg.VecPhysical) {
	if wide {
		VPBROADCASTD(r.As32(), to)
		return
	}
	VMOVD(r.As32(), to.AsX())
	VPBROADCASTD(to.AsX(), to)
}

// windowMaxNear is windowMax for windows whose rows are close together: their floats are
// loaded once and permuted, in a tenth of the time of gathers.
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
	// With K3 set, the first tap replaces whatever top holds.
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

func pool() {
	laneTable()
	windowMax("windowMaxZ", true)
	windowMax("windowMaxY", false)
	windowMaxNear()
}
