// This file exists to write the kernels of convolutions whose vectors run over channels of
// the output.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// line writes a lineKernel for two groups of half positions by nv vectors.
func line(prefix string, wide bool, half, nv int) {
	name := fmt.Sprintf("%s%dx%d", prefix, half, nv)
	v, w, lanes := ymm[:16], 32, 8
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

	// Prefetch the destination.
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
	if wide { // needed where there are few channels or short lines
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
	if wide { // AVX2 has tiles across images only, where no position skips a tap
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
		VMAXPS(v[i], tmp[0], v[i]) // keeps NaN and -0
	}
	Label("store")
	// Transpose and store four positions by a vector of channels at a time. The last four
	// positions may overlap those before; with less than four, the last one is repeated.
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
				VUNPCKLPD(tmp[2], tmp[0], a(0)) // dead after this
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

func convLine() {
	for nv := 1; nv <= 2; nv++ {
		for half := 4; half <= 7; half++ {
			line("lineZ", true, half, nv)
		}
		for half := 2; half <= 3; half++ {
			line("lineY", false, half, nv)
		}
	}
}
