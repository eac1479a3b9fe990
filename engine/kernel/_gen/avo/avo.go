// Package avo writes the kernels for amd64 that are no loops over blocks of elements, by
// the assembler of that name.
//
// It builds into one global file, so a process can write only one: see [File.Write].
package avo

import (
	"flag"
	"os"

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
	reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23, reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y30, reg.Y31,
}

var xmm = []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7}

// File is a file of kernels: z_NAME_amd64.s, and z_NAME_amd64.go that declares them.
type File struct {
	Name  string
	write func()
}

// Files lists what this package writes.
var Files = []File{
	{"gemm", gemm},
	{"gemm_bf16", gemmBF16},
	{"conv_depth", convDepth},
	{"conv_depth_weight", convDepthWeight},
	{"conv_direct", convDirect},
	{"conv_gather", convGather},
	{"conv_lane", convLane},
	{"conv_line", convLine},
	{"conv_narrow", convNarrow},
	{"conv_pad", convPad},
	{"pool", pool},
	{"transpose", transpose},
}

// Write writes f into the directory of package kernel.
func (f *File) Write(dir string) {
	os.Args = os.Args[:1] // what the header quotes
	flag.Parse()
	base := dir + "/z_" + f.Name + "_amd64"
	for name, value := range map[string]string{"out": base + ".s", "stubs": base + ".go", "pkg": "kernel"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	ConstraintExpr("!purego")
	f.write()
	Generate()
}

// lanes is a sliding window of masks: 8 lanes set, then 8 not.
var lanes Mem

func laneTable() {
	lanes = GLOBL("lanes", RODATA|NOPTR)
	for i := range 16 {
		v := U32(0)
		if i < 8 {
			v = ^v
		}
		DATA(4*i, v)
	}
}

// maskY loads the mask of the first n lanes; n is overwritten.
func maskY(n reg.GPPhysical, table reg.GPPhysical, mask reg.VecPhysical) {
	LEAQ(lanes.Offset(32), table)
	SHLQ(Imm(2), n)
	SUBQ(n, table)
	VMOVUPS(Mem{Base: table}, mask)
}

// maskZ loads the mask of the first n lanes.
func maskZ(n reg.GPPhysical, tmp reg.GPPhysical, mask reg.OpmaskPhysical) {
	MOVQ(I32(0xffff), tmp)
	BZHIQ(n, tmp, tmp)
	KMOVW(tmp.As32(), mask)
}
