// This file exists to write the kernels of convolutions whose vectors run over channels of
// the output.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// line is a lineKernel for two groups of half positions by nv vectors.
type line struct {
	wide     bool // zmm; else ymm
	half, nv int
	v        []reg.VecPhysical // the sums, and four more at the end
	tmp      []reg.VecPhysical // those four
	w, lanes int               // bytes and floats of a vector

	// General registers: parameters; p and q, where the two groups are read or written; s1, s3
	// and s5, which are one, three and five times xnext (of ldc in fetch and store).
	x, weights, channels, xstep, wstep, second, ahead, tap, left, p, q, s1, s3, s5 reg.GPPhysical
}

func newLine(wide bool, half, nv int) *line {
	l := &line{
		wide: wide, half: half, nv: nv, v: ymm[:16], w: 32, lanes: 8,
		x: reg.RSI, weights: reg.RDI, channels: reg.RCX, xstep: reg.R8, wstep: reg.R9, second: reg.R10, ahead: reg.RBX,
		tap: reg.R11, left: reg.R12, p: reg.RAX, q: reg.RDX, s1: reg.R13, s3: reg.R14, s5: reg.R15,
	}
	if wide {
		l.v, l.w, l.lanes = zmm, 64, 16
	}
	l.tmp = l.v[len(l.v)-4:]
	return l
}

// sum returns the sums of position i of group h, vector j of channels.
func (l *line) sum(h, i, j int) reg.VecPhysical { return l.v[(h*l.half+i)*l.nv+j] }

// sums returns the sums of all positions.
func (l *line) sums() []reg.VecPhysical { return l.v[:2*l.half*l.nv] }

func (l *line) zero(r reg.VecPhysical) {
	if l.wide {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
}

// kernel writes the kernel.
func (l *line) kernel(prefix string) {
	name := fmt.Sprintf("%s%dx%d", prefix, l.half, l.nv)
	TEXT(name, NOSPLIT, "func(x, w, y, bias *float32, taps *int32, n, channels, xnext, xstep, wstep, second, ysecond, ldc, relu, ahead int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s computes %d positions and as many others by %d channels of the output.", name, l.half, l.lanes*l.nv))
	l.fetch()
	Load(Param("x"), l.x)
	Load(Param("w"), l.weights)
	Load(Param("channels"), l.channels)
	Load(Param("xstep"), l.xstep)
	Load(Param("wstep"), l.wstep)
	Load(Param("second"), l.second)
	Load(Param("ahead"), l.ahead)
	Load(Param("xnext"), l.s1)
	LEAQ(Mem{Base: l.s1, Index: l.s1, Scale: 2}, l.s3)
	LEAQ(Mem{Base: l.s1, Index: l.s1, Scale: 4}, l.s5)
	for _, r := range l.sums() {
		l.zero(r)
	}
	l.accumulate()
	l.activate()
	l.store()
	VZEROUPPER()
	RET()
}

// fetch prefetches the destination.
func (l *line) fetch() {
	Load(Param("y"), l.p)
	Load(Param("ysecond"), l.q)
	ADDQ(l.p, l.q)
	Load(Param("ldc"), l.s1)
	MOVQ(U32(uint32(l.lanes*l.nv)), l.left)
	Label("fetch")
	PREFETCHT0(Mem{Base: l.p})
	PREFETCHT0(Mem{Base: l.q})
	ADDQ(l.s1, l.p)
	ADDQ(l.s1, l.q)
	DECQ(l.left)
	JNZ(LabelRef("fetch"))
}

// accumulate adds the products of all channels and taps to the sums.
func (l *line) accumulate() {
	Label("channel")
	Load(Param("taps"), l.tap)
	Load(Param("n"), l.left)
	Label("tap")
	MOVLQSX(Mem{Base: l.tap}, l.p)
	MOVLQSX(Mem{Base: l.tap, Disp: 4}, l.q)
	ADDQ(l.x, l.p)
	for j := range l.nv {
		VMOVUPS(Mem{Base: l.weights, Index: l.q, Scale: uint8(l.nv), Disp: l.w * j}, l.tmp[j])
	}
	LEAQ(Mem{Base: l.p, Index: l.second, Scale: 1}, l.q)
	if l.wide { // needed where there are few channels or short lines
		PREFETCHT0(Mem{Base: l.p, Index: l.ahead, Scale: 1})
		PREFETCHT0(Mem{Base: l.q, Index: l.ahead, Scale: 1})
	}
	ADDQ(Imm(12), l.tap)
	if l.wide { // AVX2 has tiles across images only, where no position skips a tap
		CMPL(Mem{Base: l.tap, Disp: -4}, Imm(1))
		JEQ(LabelRef("first"))
		JHI(LabelRef("last"))
	}
	l.products(0, l.half)
	Label("next")
	ADDQ(l.xstep, l.x)
	ADDQ(l.wstep, l.weights)
	DECQ(l.channels)
	JNZ(LabelRef("channel"))
	if l.wide {
		JMP(LabelRef("end"))
		Label("first")
		l.products(1, l.half)
		JMP(LabelRef("next"))
		Label("last")
		l.products(0, l.half-1)
		JMP(LabelRef("next"))
		Label("end")
	}
}

// products adds a tap's products to the positions from, inclusive, to to, exclusive, of both
// groups and goes on with the next tap.
func (l *line) products(from, to int) {
	for h, base := range []reg.GPPhysical{l.p, l.q} {
		at := []Mem{
			{Base: base},
			{Base: base, Index: l.s1, Scale: 1},
			{Base: base, Index: l.s1, Scale: 2},
			{Base: base, Index: l.s3, Scale: 1},
			{Base: base, Index: l.s1, Scale: 4},
			{Base: base, Index: l.s5, Scale: 1},
			{Base: base, Index: l.s3, Scale: 2},
		}
		for i := from; i < to; i++ {
			factor := l.tmp[2+i%2]
			if !l.wide {
				VBROADCASTSS(at[i], factor)
			}
			for j := range l.nv {
				if l.wide {
					VFMADD231PS_BCST(at[i], l.tmp[j], l.sum(h, i, j))
				} else {
					VFMADD231PS(factor, l.tmp[j], l.sum(h, i, j))
				}
			}
		}
	}
	DECQ(l.left)
	JNZ(LabelRef("tap"))
}

// activate adds the biases and applies ReLU, where they are wanted.
func (l *line) activate() {
	Load(Param("bias"), l.p)
	TESTQ(l.p, l.p)
	JZ(LabelRef("activate"))
	for j := range l.nv {
		VMOVUPS(Mem{Base: l.p, Disp: l.w * j}, l.tmp[0])
		for i := range 2 * l.half {
			VADDPS(l.tmp[0], l.v[i*l.nv+j], l.v[i*l.nv+j])
		}
	}
	Label("activate")
	Load(Param("relu"), l.p)
	TESTQ(l.p, l.p)
	JZ(LabelRef("store"))
	l.zero(l.tmp[0])
	for _, r := range l.sums() {
		VMAXPS(r, l.tmp[0], r) // keeps NaN and -0
	}
	Label("store")
}

// store transposes and stores four positions by a vector of channels at a time. The last four
// positions may overlap those before; with less than four, the last one is repeated.
func (l *line) store() {
	ldc, three, at := l.s1, l.s3, l.left
	Load(Param("ldc"), ldc)
	LEAQ(Mem{Base: ldc, Index: ldc, Scale: 2}, three)
	Load(Param("y"), l.p)
	Load(Param("ysecond"), l.q)
	ADDQ(l.p, l.q)
	for j := range l.nv {
		for h, y := range []reg.GPPhysical{l.p, l.q} {
			l.storeFour(h, 0, j, y, at)
			if l.half > 4 {
				l.storeFour(h, l.half-4, j, y, at)
			}
			if j < l.nv-1 {
				LEAQ(Mem{Base: at, Index: ldc, Scale: 4}, y) // the next vector
			}
		}
	}
}

// storeFour stores positions i to i+3 of group h, vector j, to y. at is left at the last four
// channels.
func (l *line) storeFour(h, i, j int, y, at reg.GPPhysical) {
	ldc, three, tmp := l.s1, l.s3, l.tmp
	a := func(r int) reg.VecPhysical { return l.sum(h, min(i+r, l.half-1), j) }
	VUNPCKLPS(a(1), a(0), tmp[0])
	VUNPCKHPS(a(1), a(0), tmp[1])
	VUNPCKLPS(a(3), a(2), tmp[2])
	VUNPCKHPS(a(3), a(2), tmp[3])
	VUNPCKLPD(tmp[2], tmp[0], a(0)) // dead after this
	VUNPCKHPD(tmp[2], tmp[0], tmp[0])
	VUNPCKLPD(tmp[3], tmp[1], tmp[2])
	VUNPCKHPD(tmp[3], tmp[1], tmp[1])
	MOVQ(y, at)
	for four := range l.lanes / 4 {
		for q, r := range []reg.VecPhysical{a(0), tmp[0], tmp[2], tmp[1]} {
			m := []Mem{
				{Base: at, Disp: 4 * i},
				{Base: at, Index: ldc, Scale: 1, Disp: 4 * i},
				{Base: at, Index: ldc, Scale: 2, Disp: 4 * i},
				{Base: at, Index: three, Scale: 1, Disp: 4 * i},
			}[q]
			if l.wide {
				VEXTRACTF32X4(Imm(uint64(four)), r, m)
				continue
			}
			if four > 0 {
				VEXTRACTF128(Imm(1), r, r.AsX())
			}
			VMOVLPS(r.AsX(), m)
			if l.half == 3 {
				m.Disp += 8
				VEXTRACTPS(Imm(2), r.AsX(), m)
			}
		}
		if four < l.lanes/4-1 {
			LEAQ(Mem{Base: at, Index: ldc, Scale: 4}, at)
		}
	}
}

func convLine() {
	for nv := 1; nv <= 2; nv++ {
		for half := 4; half <= 7; half++ {
			newLine(true, half, nv).kernel("lineZ")
		}
		for half := 2; half <= 3; half++ {
			newLine(false, half, nv).kernel("lineY")
		}
	}
}
