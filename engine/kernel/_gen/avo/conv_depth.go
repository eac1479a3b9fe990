// This file exists to write depthwise convolutions, which have a filter for each channel, on
// planes in place.
//
// Vectors run along a line of a plane: a tap reads the line at an offset, unaligned, and masks
// cut off what is padding. Nothing is copied. Two images are computed at a time, with the same
// weights. Every element is one chain of fused multiply-adds over the taps in ascending order.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set: Z is AVX-512 with vectors of 16, V AVX-512 with vectors of 8, Y
// AVX2, whose masks are vectors.
type isa struct {
	name  string
	lanes int
	evex  bool
}

func (s isa) vec(i int) reg.VecPhysical {
	if s.lanes == 16 {
		return zmm[i]
	}
	return ymm[i]
}

func (s isa) bytes() int { return 4 * s.lanes }

var opmask = []reg.OpmaskPhysical{reg.K1, reg.K2, reg.K3, reg.K4, reg.K5, reg.K6, reg.K7}

// General registers, the same in every kernel.
var (
	images, t, tmp = reg.RDX, reg.RCX, reg.RAX
	xbase, ybase   = reg.RBX, reg.R15
	xs             = []reg.GPPhysical{reg.R8, reg.R9}
	ys             = []reg.GPPhysical{reg.R10, reg.R11}
	step, step3    = reg.R12, reg.R13
	w, masks       = reg.RSI, reg.RDI
)

const signature = "func(images int, x *float32, xat, xnext, xpitch, xstep, skip, rows, steps int, w *float32, bias, floor float32, masks *int32, full int, y *float32, yat, ynext, ypitch int)"

// param is the memory operand of an argument.
func param(name string) Mem {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

// plane writes what all kernels share. A kernel computes one strip of columns of a plane, all
// its lines, for some images.
type plane struct {
	isa
	k     int
	masks int // number of masks, the last for stores

	used int // vector registers taken
}

// take allocates a register.
func (p *plane) take() reg.VecPhysical {
	p.used++
	if p.used > 16 && !p.evex {
		panic("out of registers")
	}
	return p.vec(p.used - 1)
}

func (p *plane) takes(n int) []reg.VecPhysical {
	v := make([]reg.VecPhysical, n)
	for i := range v {
		v[i] = p.take()
	}
	return v
}

func (p *plane) zero(v reg.VecPhysical) {
	if p.evex {
		VPXORD(v, v, v)
	} else {
		VXORPS(v, v, v)
	}
}

// load loads the lanes of mask i and zeros the others. It clobbers spare on AVX2.
func (p *plane) load(m Mem, i int, to, spare reg.VecPhysical) {
	if p.evex {
		VMOVUPS_Z(m, opmask[i], to)
		return
	}
	VMOVUPS(Mem{Base: masks, Disp: i * p.bytes()}, spare)
	VMASKMOVPS(m, spare, to)
}

// store stores the lanes of mask i, or all if full is not 0.
func (p *plane) store(v reg.VecPhysical, m Mem, i int, spare reg.VecPhysical, label string) {
	CMPQ(param("full"), Imm(0))
	JE(LabelRef(label + "part"))
	VMOVUPS(v, m)
	JMP(LabelRef(label + "done"))
	Label(label + "part")
	if p.evex {
		VMOVUPS(v, opmask[i], m)
	} else {
		VMOVUPS(Mem{Base: masks, Disp: i * p.bytes()}, spare)
		VMASKMOVPS(v, spare, m)
	}
	Label(label + "done")
}

// weights broadcasts the weights of all taps into registers, if there are enough of these.
func (p *plane) weights() []reg.VecPhysical {
	if p.k > 3 || !p.evex {
		return nil
	}
	v := p.takes(p.k * p.k)
	for i, r := range v {
		VBROADCASTSS(Mem{Base: w, Disp: 4 * i}, r)
	}
	return v
}

// fma adds the products of tap q with x to sums.
func (p *plane) fma(q int, weights, x, sums []reg.VecPhysical, spare reg.VecPhysical) {
	m := Mem{Base: w, Disp: 4 * q}
	switch {
	case weights != nil:
		for i := range x {
			VFMADD231PS(weights[q], x[i], sums[i])
		}
	case p.evex:
		for i := range x {
			VFMADD231PS_BCST(m, x[i], sums[i])
		}
	default:
		VBROADCASTSS(m, spare)
		for i := range x {
			VFMADD231PS(spare, x[i], sums[i])
		}
	}
}

// write writes a kernel: its prologue, and the body for two images at a time and for a last
// single one.
func (p *plane) write(name, doc string, body func(many int)) {
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
	Doc(name + " " + doc)
	Load(Param("images"), images)
	Load(Param("x"), xbase)
	ADDQ(param("xat"), xbase)
	Load(Param("y"), ybase)
	ADDQ(param("yat"), ybase)
	Load(Param("xstep"), step)
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, step3)
	Load(Param("w"), w)
	Load(Param("masks"), masks)
	if p.evex {
		for i := range p.masks {
			v := p.vec(0)
			VMOVDQU32(Mem{Base: masks, Disp: i * p.bytes()}, v)
			VPMOVD2M(v, opmask[i])
		}
	}
	Label("images")
	SUBQ(Imm(2), images)
	JL(LabelRef("last"))
	for _, many := range []int{2, 1} {
		if many == 1 {
			Label("last")
			ADDQ(Imm(2), images)
			JZ(LabelRef("end"))
		}
		p.used = 0
		for i := range many {
			MOVQ(xbase, xs[i])
			ADDQ(param("xnext"), xbase)
			MOVQ(ybase, ys[i])
			ADDQ(param("ynext"), ybase)
		}
		XORQ(t, t)
		body(many)
		if many == 2 {
			JMP(LabelRef("images"))
		}
	}
	Label("end")
	VZEROUPPER()
	RET()
}

// finish adds the bias and clamps to the floor.
func (p *plane) finish(v, bias, floor reg.VecPhysical) {
	VADDPS(bias, v, v)
	VMAXPS(v, floor, v)
}

// constants loads bias and floor.
func (p *plane) constants() (bias, floor reg.VecPhysical) {
	bias, floor = p.take(), p.take()
	VBROADCASTSS(param("bias"), bias)
	VBROADCASTSS(param("floor"), floor)
	return bias, floor
}

// stride1 writes the kernel for stride 1: a line is loaded once and added to the k lines of
// the output whose windows hold it.
func (s isa) stride1(k int) {
	p := plane{isa: s, k: k, masks: k + 1}
	p.write(fmt.Sprintf("dw%ds1%s", k, s.name), "is a planeKernel for a stride of one.", func(many int) {
		l := func(name string) string { return fmt.Sprint(name, many) }
		sums := make([][]reg.VecPhysical, k) // of the lines of the output that the current line adds to, the newest first
		for i := range sums {
			sums[i] = p.takes(many)
			for _, v := range sums[i] {
				p.zero(v)
			}
		}
		x := p.takes(many)
		bias, floor := p.constants()
		weights := p.weights()
		spare := p.take()
		wide := spare
		if !p.evex {
			wide = x[0] // free after the last product
		}
		Label(l("line"))
		MOVQ(t, tmp)
		SUBQ(param("skip"), tmp)
		CMPQ(tmp, param("rows"))
		JAE(LabelRef(l("outside")))
		for b := range k {
			for i := range many {
				m := Mem{Base: xs[i]}
				switch b {
				case 1, 2, 4:
					m.Index, m.Scale = step, uint8(b)
				case 3:
					m.Index, m.Scale = step3, 1
				}
				p.load(m, b, x[i], spare)
			}
			for a := range k {
				p.fma(a*k+b, weights, x, sums[a], spare)
			}
		}
		for i := range many {
			ADDQ(param("xpitch"), xs[i])
		}
		Label(l("outside"))
		CMPQ(t, Imm(uint64(k-1)))
		JL(LabelRef(l("early")))
		for i, v := range sums[k-1] {
			p.finish(v, bias, floor)
			p.store(v, Mem{Base: ys[i]}, k, wide, fmt.Sprint(l("store"), i))
			ADDQ(param("ypitch"), ys[i])
		}
		Label(l("early"))
		for a := k - 1; a > 0; a-- {
			for i := range many {
				VMOVAPS(sums[a-1][i], sums[a][i])
			}
		}
		for _, v := range sums[0] {
			p.zero(v)
		}
		INCQ(t)
		CMPQ(t, param("steps"))
		JL(LabelRef(l("line")))
	})
}

// table is a vector of indices for permutations.
func table(name string, lanes int, at func(l int) int) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for l := range lanes {
		DATA(4*l, U32(uint32(at(l))))
	}
	return m
}

// tables sets the indices of the even and of the odd lanes of two vectors, and of both
// vectors interleaved.
func (s isa) tables() {
	if !s.evex {
		return
	}
	n := s.lanes
	evenTable[n] = table("evens"+s.name, n, func(l int) int { return 2 * l })
	oddTable[n] = table("odds"+s.name, n, func(l int) int { return 2*l + 1 })
	lowerTable[n] = table("lower"+s.name, n, func(l int) int { return l/2 + l%2*n })
	upperTable[n] = table("upper"+s.name, n, func(l int) int { return (n+l)/2 + l%2*n })
}

var evenTable, oddTable, lowerTable, upperTable = map[int]Mem{}, map[int]Mem{}, map[int]Mem{}, map[int]Mem{}

// stride2 writes the kernel for stride 2: two vectors of a line are split into even and odd
// columns.
func (s isa) stride2(k int) {
	p := plane{isa: s, k: k, masks: k + 2}
	p.write(fmt.Sprintf("dw%ds2%s", k, s.name), "is a planeKernel for a stride of two.", func(many int) {
		l := func(name string, i int) string { return fmt.Sprint(name, i, "of", many) }
		row := []reg.GPPhysical{step, step3}
		sums, even, odd := p.takes(many), p.takes(many), p.takes(many)
		second := p.take()
		bias, floor := p.constants()
		weights := p.weights()
		spare := p.take()
		var evenly, oddly reg.VecPhysical
		if p.evex {
			evenly, oddly = p.take(), p.take()
			VMOVDQU32(evenTable[s.lanes], evenly)
			VMOVDQU32(oddTable[s.lanes], oddly)
		}
		Label(l("line", 0))
		for i := range many {
			MOVQ(xs[i], row[i])
			p.zero(sums[i])
		}
		for a := range k {
			LEAQ(Mem{Base: t, Index: t, Scale: 1, Disp: a}, tmp)
			SUBQ(param("skip"), tmp)
			CMPQ(tmp, param("rows"))
			JAE(LabelRef(l("outside", a)))
			for b := 0; b < k; b += 2 {
				for i := range many {
					p.load(Mem{Base: row[i], Disp: 4 * b}, b, even[i], spare)
					p.load(Mem{Base: row[i], Disp: 4*b + s.bytes()}, b+1, second, spare)
					if p.evex {
						if b+1 < k {
							VMOVAPS(even[i], odd[i])
							VPERMT2PS(second, oddly, odd[i])
						}
						VPERMT2PS(second, evenly, even[i])
						continue
					}
					if b+1 < k {
						VSHUFPS(Imm(0xdd), second, even[i], odd[i])
						VPERMPD(Imm(0xd8), odd[i], odd[i])
					}
					VSHUFPS(Imm(0x88), second, even[i], even[i])
					VPERMPD(Imm(0xd8), even[i], even[i])
				}
				p.fma(a*k+b, weights, even, sums, spare)
				if b+1 < k {
					p.fma(a*k+b+1, weights, odd, sums, spare)
				}
			}
			Label(l("outside", a))
			if a < k-1 {
				for i := range many {
					ADDQ(param("xpitch"), row[i])
				}
			}
		}
		for i, v := range sums {
			p.finish(v, bias, floor)
			p.store(v, Mem{Base: ys[i]}, k+1, spare, l("store", i))
			ADDQ(param("ypitch"), ys[i])
			ADDQ(param("xpitch"), xs[i])
			ADDQ(param("xpitch"), xs[i])
		}
		INCQ(t)
		CMPQ(t, param("steps"))
		JL(LabelRef(l("line", 0)))
	})
}

// stride2Transposed writes the kernel of the gradient of x with stride 2: columns of one
// parity sum the even taps, those of the other the odd ones.
func (s isa) stride2Transposed(k int) {
	p := plane{isa: s, k: k, masks: k + 2}
	p.write(fmt.Sprintf("dw%ds2t%s", k, s.name), "is a planeKernel for the gradient of x with a stride of two: y is that gradient, a strip two vectors; xstep is where odd taps begin.", func(many int) {
		l := func(name string, i int) string { return fmt.Sprint(name, i, "of", many) }
		sums := [][]reg.VecPhysical{p.takes(many), p.takes(many)} // of the even taps, of the odd
		x := p.takes(many)
		weights := p.weights()
		spare := p.take()
		var low, high reg.VecPhysical
		if p.evex {
			low, high = p.take(), p.take()
			VMOVDQU32(lowerTable[s.lanes], low)
			VMOVDQU32(upperTable[s.lanes], high)
		}
		Label(l("line", 0))
		for i := range many {
			p.zero(sums[0][i])
			p.zero(sums[1][i])
		}
		for a := range k {
			MOVQ(t, tmp)
			ADDQ(param("skip"), tmp)
			SUBQ(Imm(uint64(a)), tmp)
			SARQ(Imm(1), tmp)
			JCS(LabelRef(l("outside", a))) // between two lines
			CMPQ(tmp, param("rows"))
			JAE(LabelRef(l("outside", a)))
			IMULQ(param("xpitch"), tmp)
			for i := many - 1; i >= 0; i-- { // the first into tmp, last
				LEAQ(Mem{Base: xs[i], Index: tmp, Scale: 1}, row(i))
			}
			for b := range k {
				for i := range many {
					m := Mem{Base: row(i), Disp: -4 * (b / 2)}
					if b%2 == 1 {
						m.Index, m.Scale = step, 1
					}
					p.load(m, b, x[i], spare)
				}
				p.fma(a*k+b, weights, x, sums[b%2], spare)
			}
			Label(l("outside", a))
		}
		TESTQ(step, step)
		JNZ(LabelRef(l("odd", 0)))
		for i := range many {
			p.mesh(sums[0][i], sums[1][i], x[i], low, high)
			p.store(x[i], Mem{Base: ys[i]}, k, sums[1][i], l("evenlower", i))
			p.store(sums[0][i], Mem{Base: ys[i], Disp: s.bytes()}, k+1, sums[1][i], l("evenupper", i))
		}
		JMP(LabelRef(l("next", 0)))
		Label(l("odd", 0))
		for i := range many {
			p.mesh(sums[1][i], sums[0][i], x[i], low, high)
			p.store(x[i], Mem{Base: ys[i]}, k, sums[0][i], l("oddlower", i))
			p.store(sums[1][i], Mem{Base: ys[i], Disp: s.bytes()}, k+1, sums[0][i], l("oddupper", i))
		}
		Label(l("next", 0))
		for i := range many {
			ADDQ(param("ypitch"), ys[i])
		}
		INCQ(t)
		CMPQ(t, param("steps"))
		JL(LabelRef(l("line", 0)))
	})
}

// row is the register of the line of image i in stride2Transposed.
func row(i int) reg.GPPhysical { return []reg.GPPhysical{tmp, step3}[i] }

// mesh interleaves first and second into to and first. It clobbers second.
func (p *plane) mesh(first, second, to, low, high reg.VecPhysical) {
	if p.evex {
		VMOVAPS(first, to)
		VPERMT2PS(second, low, to)
		VPERMT2PS(second, high, first)
		return
	}
	VUNPCKLPS(second, first, to)
	VUNPCKHPS(second, first, second)
	VPERM2F128(Imm(0x31), second, to, first)
	VPERM2F128(Imm(0x20), second, to, to)
}

func convDepth() {
	for _, s := range []isa{{"Z", 16, true}, {"V", 8, true}, {"Y", 8, false}} {
		s.tables()
		for _, k := range []int{3, 5} {
			s.stride1(k)
			s.stride2(k)
			s.stride2Transposed(k)
		}
	}
}
