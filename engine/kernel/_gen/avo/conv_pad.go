// This file exists to write the copies of planes with their padding that windows are read from.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pad writes a copy of lines with padding, of every float, or of even and odd ones apart.
func (s isa) pad(stride int) {
	name := fmt.Sprintf("pad%d%s", stride, s.name)
	TEXT(name, NOSPLIT, "func(planes, top, lines, bottom, vectors int, src *float32, at, splane, spitch int, masks *int32, dst *float32, dplane, dpitch, odd int)")
	Pragma("noescape")
	Doc(name + " is padCopy.run for a stride of " + fmt.Sprint(stride) + ".")
	src, dst, masks := reg.RSI, reg.RDI, reg.RDX
	line, to, mask := reg.R8, reg.R9, reg.R10 // that advance along a line
	count, n, spitch, dpitch := reg.RCX, reg.RAX, reg.R11, reg.R12
	step := 4 // bytes of a mask for a vector
	if !s.evex {
		step = s.bytes()
	}
	Load(Param("src"), src)
	ADDQ(param("at"), src)
	Load(Param("dst"), dst)
	Load(Param("masks"), masks)
	Load(Param("spitch"), spitch)
	Load(Param("dpitch"), dpitch)
	even, odd, second := s.vec(4), s.vec(5), reg.RBX
	if stride == 2 {
		Load(Param("odd"), second)
		if s.evex {
			VMOVDQU32(evenTable[s.lanes], even)
			VMOVDQU32(oddTable[s.lanes], odd)
		}
	}
	p := padder{s, stride, step, line, to, mask, second, even, odd}
	// lines writes as many lines as an argument says.
	lines := func(arg string, copied bool) {
		Load(Param(arg), count)
		TESTQ(count, count)
		JZ(LabelRef(arg + "end"))
		Label(arg)
		MOVQ(dst, to)
		MOVQ(masks, mask)
		if copied {
			MOVQ(src, line)
		}
		Load(Param("vectors"), n)
		Label(arg + "vector")
		p.vector(copied)
		if copied {
			ADDQ(I32(stride*s.bytes()), line)
		}
		ADDQ(Imm(uint64(s.bytes())), to)
		ADDQ(Imm(uint64((stride+1)*step)), mask)
		DECQ(n)
		JNZ(LabelRef(arg + "vector"))
		ADDQ(dpitch, dst)
		if copied {
			ADDQ(spitch, src)
		}
		DECQ(count)
		JNZ(LabelRef(arg))
		Label(arg + "end")
	}
	splane, dplane := reg.R13, reg.R15
	Label("plane")
	MOVQ(src, splane)
	MOVQ(dst, dplane)
	lines("top", false)
	lines("lines", true)
	lines("bottom", false)
	MOVQ(splane, src)
	ADDQ(param("splane"), src)
	MOVQ(dplane, dst)
	ADDQ(param("dplane"), dst)
	DECQ(param("planes"))
	JNZ(LabelRef("plane"))
	VZEROUPPER()
	RET()
}

// padder writes vectors of a padded line.
type padder struct {
	s              isa
	stride, step   int // step: bytes of a mask for a vector
	line, to, mask reg.GPPhysical
	second         reg.GPPhysical  // where values of odd places go, from to on; with a stride of 2
	even, odd      reg.VecPhysical // tables that choose values
}

// vector writes a vector: copied, or zeros.
func (p padder) vector(copied bool) {
	s := p.s
	v, other := s.vec(0), s.vec(2)
	switch {
	case !copied:
		if s.evex {
			VPXORD(v, v, v)
		} else {
			VXORPS(v, v, v)
		}
		other = v
	case p.stride == 1:
		p.load(0, v)
	default:
		p.load(0, v)
		p.load(1, s.vec(1))
		if s.evex {
			VMOVAPS(v, other)
			VPERMT2PS(s.vec(1), p.odd, other)
			VPERMT2PS(s.vec(1), p.even, v)
		} else {
			VSHUFPS(Imm(0xdd), s.vec(1), v, other)
			VPERMPD(Imm(0xd8), other, other)
			VSHUFPS(Imm(0x88), s.vec(1), v, v)
			VPERMPD(Imm(0xd8), v, v)
		}
	}
	p.store(v, other)
}

func (p padder) load(i int, v reg.VecPhysical) {
	s, m := p.s, Mem{Base: p.line, Disp: i * p.s.bytes()}
	if s.evex {
		KMOVW(Mem{Base: p.mask, Disp: i * p.step}, opmask[0])
		VMOVUPS_Z(m, opmask[0], v)
		return
	}
	VMOVUPS(Mem{Base: p.mask, Disp: i * p.step}, v)
	VMASKMOVPS(m, v, v)
}

func (p padder) store(v, odd reg.VecPhysical) {
	s, m := p.s, Mem{Base: p.mask, Disp: p.stride * p.step}
	if s.evex {
		KMOVW(m, opmask[1])
	} else {
		VMOVUPS(m, s.vec(3))
	}
	write := func(v reg.VecPhysical, m Mem) {
		if s.evex {
			VMOVUPS(v, opmask[1], m)
		} else {
			VMASKMOVPS(v, s.vec(3), m)
		}
	}
	if p.stride == 2 { // first, so that it does no harm if there is no place of its own
		write(odd, Mem{Base: p.to, Index: p.second, Scale: 1})
	}
	write(v, Mem{Base: p.to})
}

func convPad() {
	for _, s := range []isa{{"Z", 16, true}, {"Y", 8, false}} {
		if s.evex {
			evenTable[s.lanes] = table("padEvens", s.lanes, func(l int) int { return 2 * l })
			oddTable[s.lanes] = table("padOdds", s.lanes, func(l int) int { return 2*l + 1 })
		}
		s.pad(1)
		s.pad(2)
	}
}
