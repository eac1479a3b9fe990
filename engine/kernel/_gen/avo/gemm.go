// This file exists to write the microkernels of the matrix product, one for each number of
// rows and vectors, so that edges need no other path.
//
// A kernel computes C[mr, nv*W] = A[mr, kc] B[kc, nv*W], continuing C if acc is set by
// starting the accumulators from it. Every element is one chain of fused multiply-adds
// in ascending k, whatever the tile: that is the specification's order.

package avo

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// shape of a family of kernels.
type shape struct {
	prefix string
	wide   bool // zmm; else ymm
	pack   bool // copy B to a panel
	rows   int
	vecs   int
}

const unroll = 2

func (s shape) kernel(mr, nv int) {
	name := fmt.Sprintf("%s%dx%d", s.prefix, mr, nv)
	TEXT(name, NOSPLIT, "func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, acc, last int, side *float32, step int)")
	Pragma("noescape")
	doc := fmt.Sprintf("%s multiplies %d rows by %d vectors, the last of them of that many lanes; strides are in bytes, kc > 0.", name, mr, nv)
	if s.pack {
		doc += " B is copied to side, vectors filled up with zeros."
	} else {
		doc += " The line at side is fetched, and one a step further for each of kc."
	}
	Doc(doc)
	v, w := ymm, 32
	if s.wide {
		v, w = zmm, 64
	}
	kc, a, b, c := reg.RCX, reg.RSI, reg.RDI, reg.RDX
	bks, aks, s1, s3, s5, s7, ldc, t, side, step := reg.RBX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.RAX, reg.R15, reg.R14
	sum := func(i, j int) reg.VecPhysical { return v[i*nv+j] }
	vec := func(j int) reg.VecPhysical { return v[mr*nv+j] }
	bcast, mask := v[15], v[14] // of ymm
	load := func(m Mem, j int, r reg.VecPhysical, masked bool) {
		switch {
		case j < nv-1 || !masked:
			VMOVUPS(m, r)
		case s.wide:
			VMOVUPS_Z(m, reg.K1, r)
		default:
			VMASKMOVPS(m, mask, r)
		}
	}

	if s.wide {
		Load(Param("last"), reg.RBX)
		maskZ(reg.RBX, t, reg.K1)
	} else {
		Load(Param("last"), reg.RBX)
		maskY(reg.RBX, t, mask)
	}
	Load(Param("kc"), kc)
	Load(Param("a"), a)
	Load(Param("ars"), s1)
	Load(Param("aks"), aks)
	Load(Param("b"), b)
	Load(Param("bks"), bks)
	Load(Param("c"), c)
	Load(Param("ldc"), ldc)
	Load(Param("side"), side)
	if !s.pack {
		Load(Param("step"), step)
	}
	LEAQ(Mem{Base: s1, Index: s1, Scale: 2}, s3)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 4}, s5)
	LEAQ(Mem{Base: s3, Index: s1, Scale: 4}, s7)
	// row addresses row i of A
	row := func(i int) Mem {
		return []Mem{
			{Base: a},
			{Base: a, Index: s1, Scale: 1},
			{Base: a, Index: s1, Scale: 2},
			{Base: a, Index: s3, Scale: 1},
			{Base: a, Index: s1, Scale: 4},
			{Base: a, Index: s5, Scale: 1},
			{Base: a, Index: s3, Scale: 2},
			{Base: a, Index: s7, Scale: 1},
		}[i]
	}

	// Accumulators: zero, or what C holds.
	Load(Param("acc"), t)
	TESTQ(t, t)
	MOVQ(c, t)
	JZ(LabelRef("zero"))
	for i := range mr {
		for j := range nv {
			load(Mem{Base: t, Disp: j * w}, j, sum(i, j), true)
		}
		for j := nv * w; j < 2*nv*w; j += 64 {
			PREFETCHT0(Mem{Base: t, Disp: j}) // of the next tile
		}
		if i < mr-1 {
			ADDQ(ldc, t)
		}
	}
	JMP(LabelRef("begin"))
	Label("zero")
	for i := range mr {
		for j := range nv {
			if s.wide {
				VPXORD(sum(i, j), sum(i, j), sum(i, j))
			} else {
				VXORPS(sum(i, j), sum(i, j), sum(i, j))
			}
		}
		for j := 0; j < nv*w; j += 64 {
			PREFETCHT0(Mem{Base: t, Disp: j})
		}
		if i < mr-1 {
			ADDQ(ldc, t)
		}
	}
	Label("begin")
	term := func() {
		for j := range nv {
			// Panels hold whole vectors, so AVX2 needs no mask, which would cost an
			// instruction.
			load(Mem{Base: b, Disp: j * w}, j, vec(j), s.wide || s.pack)
			if s.pack {
				if j*w%64 == 0 {
					PREFETCHT0(Mem{Base: b, Index: bks, Scale: 8, Disp: j * w})
				}
				VMOVUPS(vec(j), Mem{Base: side, Disp: j * w})
			}
		}
		if s.pack {
			ADDQ(Imm(uint64(nv*w)), side)
		}
		for i := range mr {
			if s.wide {
				for j := range nv {
					VFMADD231PS_BCST(row(i), vec(j), sum(i, j))
				}
				continue
			}
			VBROADCASTSS(row(i), bcast)
			for j := range nv {
				VFMADD231PS(bcast, vec(j), sum(i, j))
			}
		}
		if !s.pack {
			PREFETCHT1(Mem{Base: side})
			ADDQ(step, side)
		}
		ADDQ(bks, b)
		ADDQ(aks, a)
	}
	MOVQ(kc, t)
	SHRQ(Imm(1), t)
	JZ(LabelRef("tail"))
	Label("loop")
	for range unroll {
		term()
	}
	DECQ(t)
	JNZ(LabelRef("loop"))
	Label("tail")
	ANDQ(Imm(unroll-1), kc)
	JZ(LabelRef("store"))
	term()
	Label("store")
	store := func(masked bool) {
		for i := range mr {
			for j := range nv {
				m := Mem{Base: c, Disp: j * w}
				switch {
				case j < nv-1 || !masked:
					VMOVUPS(sum(i, j), m)
				case s.wide:
					VMOVUPS(sum(i, j), reg.K1, m)
				default:
					VMASKMOVPS(sum(i, j), mask, m)
				}
			}
			if i < mr-1 {
				ADDQ(ldc, c)
			}
		}
		VZEROUPPER()
		RET()
	}
	if !s.wide {
		// Masked stores are slow, and few tiles need them.
		Load(Param("last"), t)
		CMPQ(t, Imm(8))
		JNE(LabelRef("part"))
		store(false)
		Label("part")
	}
	store(true)
}

// strips copies rows of a transposed A into strips.
func strips() {
	TEXT("strips", NOSPLIT, "func(n int, src *float32, ss, count, width int, dst *float32, ds int)")
	Pragma("noescape")
	Doc("strips copies count strips of 8 floats of each of n rows: strip i of row k from src+k*ss+i*width to dst+i*ds+32*k, in bytes; n, count > 0.")
	n, src, ss, count, width, dst, ds := reg.RCX, reg.RSI, reg.R8, reg.R9, reg.R10, reg.RDI, reg.R11
	s, d, i := reg.RAX, reg.RBX, reg.RDX
	for i, r := range []reg.GPPhysical{n, src, ss, count, width, dst, ds} {
		Load(ParamIndex(i), r)
	}
	Label("row")
	MOVQ(src, s)
	MOVQ(dst, d)
	MOVQ(count, i)
	Label("strip")
	PREFETCHT0(Mem{Base: s, Index: ss, Scale: 8})
	VMOVUPS(Mem{Base: s}, ymm[0])
	VMOVUPS(ymm[0], Mem{Base: d})
	ADDQ(width, s)
	ADDQ(ds, d)
	DECQ(i)
	JNZ(LabelRef("strip"))
	ADDQ(ss, src)
	ADDQ(Imm(32), dst)
	DECQ(n)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

func gemm() {
	laneTable()
	for _, s := range []shape{
		{"gemmZ", true, false, 8, 3},
		{"gemmPackZ", true, true, 8, 3},
		{"gemmY", false, false, 6, 2},
		{"gemmPackY", false, true, 6, 2},
	} {
		for mr := 1; mr <= s.rows; mr++ {
			for nv := 1; nv <= s.vecs; nv++ {
				s.kernel(mr, nv)
			}
		}
	}
	strips()
}
