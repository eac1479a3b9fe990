// This file exists to write the gradient of max pooling for windows that do not overlap. Each
// element of a plane belongs to one window at most and compares its position with that of the
// maximum (a gather), where the portable code scatters.

package loop

import (
	"fmt"
	"strings"
)

// writeMaxGrad writes func maxGradZ: planes of 64 floats at most, which are four registers.
func writeMaxGrad(b *strings.Builder) {
	op := func(format string, a ...any) { fmt.Fprintf(b, "\t"+format+"\n", a...) }
	fmt.Fprintf(b, "\n// func maxGradZ(dx, dy *float32, arg *int32, planes, plane, out int, window, place *[64]int32)\n")
	fmt.Fprintf(b, "TEXT ·maxGradZ(SB), NOSPLIT, $0-64\n")
	op("MOVQ dx+0(FP), DI")
	op("MOVQ dy+8(FP), SI")
	op("MOVQ arg+16(FP), R8")
	op("MOVQ planes+24(FP), CX")
	op("MOVQ plane+32(FP), R9")
	op("MOVQ out+40(FP), R10")
	op("MOVQ window+48(FP), R11")
	op("MOVQ place+56(FP), R12")
	// K1 the results of a plane, K4 to K7 its floats.
	op("MOVQ $-1, AX")
	op("BZHIQ R10, AX, BX")
	op("KMOVW BX, K1")
	op("BZHIQ R9, AX, BX")
	for q := range 4 {
		op("KMOVW BX, K%d", 4+q)
		op("SHRQ $16, BX")
		op("VMOVDQU32 %d(R11), Z%d", 64*q, 16+q)
		op("VMOVDQU32 %d(R12), Z%d", 64*q, 20+q)
	}
	op("SHLQ $2, R9")
	op("SHLQ $2, R10")
	op("VPXORD Z0, Z0, Z0")
	fmt.Fprintf(b, "\nplane:\n")
	op("VMOVUPS.Z (SI), K1, Z1")
	op("VMOVDQU32.Z (R8), K1, Z2")
	for q := range 4 {
		op("VPERMD Z2, Z%d, Z%d", 16+q, 4+q)
		op("VPERMPS Z1, Z%d, Z%d", 16+q, 8+q)
		op("VPCMPEQD Z%d, Z%d, K2", 20+q, 4+q)
		op("VADDPS.Z Z0, Z%d, K2, Z%[1]d", 8+q)
		op("VMOVUPS Z%d, K%d, %d(DI)", 8+q, 4+q, 64*q)
	}
	op("ADDQ R9, DI")
	op("ADDQ R10, SI")
	op("ADDQ R10, R8")
	op("DECQ CX")
	op("JNZ plane")
	op("VZEROUPPER")
	op("RET")
}
