// Command gen writes gemm_amd64.s: the microkernels of the matrix product, one for
// each number of rows and vectors, so that edges need no other path.
//
// A kernel computes C[mr, nv*W] = A[mr, kc] B[kc, nv*W], adding to C if acc is set by
// starting the accumulators from it. Every element is one chain of fused multiply-adds
// in ascending k, whatever the tile: that is the specification's order.
//
//go:generate go run . -out ../gemm_amd64.s -stubs ../gemm_stub_amd64.go -pkg kernel
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

var ymm = []reg.VecPhysical{
	reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
}

// shape of a family of kernels.
type shape struct {
	prefix string
	wide   bool // zmm with masks; else ymm, whole vectors only
	rows   int
	vecs   int
}

const unroll = 2

func (s shape) kernel(mr, nv int) {
	name := fmt.Sprintf("%s%dx%d", s.prefix, mr, nv)
	TEXT(name, NOSPLIT, "func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc int, acc int, mask uint64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s multiplies %d rows by %d vectors; strides are in bytes, kc > 0.", name, mr, nv))
	v, w := ymm, 32
	if s.wide {
		v, w = zmm, 64
	}
	kc, a, b, c := reg.RCX, reg.RSI, reg.RDI, reg.RDX
	bks, aks, s1, s3, s5, s7, ldc, t := reg.RBX, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.RAX
	Load(Param("kc"), kc)
	Load(Param("a"), a)
	Load(Param("ars"), s1)
	Load(Param("aks"), aks)
	Load(Param("b"), b)
	Load(Param("bks"), bks)
	Load(Param("c"), c)
	Load(Param("ldc"), ldc)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 2}, s3)
	LEAQ(Mem{Base: s1, Index: s1, Scale: 4}, s5)
	LEAQ(Mem{Base: s3, Index: s1, Scale: 4}, s7)
	if s.wide {
		Load(Param("mask"), t)
		KMOVW(reg.EAX, reg.K1)
	}
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
	sum := func(i, j int) reg.VecPhysical { return v[i*nv+j] }
	vec := func(j int) reg.VecPhysical { return v[mr*nv+j] }
	bcast := v[len(v)-1]
	masked := func(j int) bool { return s.wide && j == nv-1 }

	// Accumulators: zero, or what C holds.
	Load(Param("acc"), t)
	TESTQ(t, t)
	JZ(LabelRef("zero"))
	MOVQ(c, t)
	for i := range mr {
		for j := range nv {
			m := Mem{Base: t, Disp: j * w}
			if masked(j) {
				VMOVUPS_Z(m, reg.K1, sum(i, j))
			} else {
				VMOVUPS(m, sum(i, j))
			}
		}
		if i < mr-1 {
			ADDQ(ldc, t)
		}
	}
	JMP(LabelRef("begin"))
	Label("zero")
	MOVQ(c, t)
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
	step := func() {
		for j := range nv {
			m := Mem{Base: b, Disp: j * w}
			if masked(j) {
				VMOVUPS_Z(m, reg.K1, vec(j))
			} else {
				VMOVUPS(m, vec(j))
			}
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
		ADDQ(bks, b)
		ADDQ(aks, a)
	}
	MOVQ(kc, t)
	SHRQ(Imm(1), t)
	JZ(LabelRef("tail"))
	Label("loop")
	for range unroll {
		step()
	}
	DECQ(t)
	JNZ(LabelRef("loop"))
	Label("tail")
	ANDQ(Imm(unroll-1), kc)
	JZ(LabelRef("store"))
	step()
	Label("store")
	for i := range mr {
		for j := range nv {
			m := Mem{Base: c, Disp: j * w}
			if masked(j) {
				VMOVUPS(sum(i, j), reg.K1, m)
			} else {
				VMOVUPS(sum(i, j), m)
			}
		}
		if i < mr-1 {
			ADDQ(ldc, c)
		}
	}
	VZEROUPPER()
	RET()
}

func main() {
	ConstraintExpr("!purego")
	for _, s := range []shape{{"gemmZ", true, 8, 3}, {"gemmY", false, 6, 2}} {
		for mr := 1; mr <= s.rows; mr++ {
			for nv := 1; nv <= s.vecs; nv++ {
				s.kernel(mr, nv)
			}
		}
	}
	Generate()
}
