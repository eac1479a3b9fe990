//go:build !purego

// AVX2 and BMI2, eight words at a time: a byte of a bitmap, or of each plane.

#include "textflag.h"

// Byte numbers in order: what PEXT and PDEP deal out.
DATA order<>+0(SB)/8, $0x0706050403020100
GLOBL order<>(SB), RODATA|NOPTR, $8

DATA ones<>+0(SB)/8, $0x0101010101010101
GLOBL ones<>(SB), RODATA|NOPTR, $8

DATA lanes<>+0(SB)/8, $0x0000000200000001
DATA lanes<>+8(SB)/8, $0x0000000800000004
DATA lanes<>+16(SB)/8, $0x0000002000000010
DATA lanes<>+24(SB)/8, $0x0000008000000040
GLOBL lanes<>(SB), RODATA|NOPTR, $32

// Bytes of equal significance of four words together, in each half of a register.
DATA planes<>+0(SB)/8, $0x0d0905010c080400
DATA planes<>+8(SB)/8, $0x0f0b07030e0a0602
DATA planes<>+16(SB)/8, $0x0d0905010c080400
DATA planes<>+24(SB)/8, $0x0f0b07030e0a0602
GLOBL planes<>(SB), RODATA|NOPTR, $32

// The two halves' quarters in turn.
DATA halves<>+0(SB)/8, $0x0000000400000000
DATA halves<>+8(SB)/8, $0x0000000500000001
DATA halves<>+16(SB)/8, $0x0000000600000002
DATA halves<>+24(SB)/8, $0x0000000700000003
GLOBL halves<>(SB), RODATA|NOPTR, $32

// func packAVX2(bitmap *byte, w *uint32, groups int, base *uint32, period int) (n int)
TEXT ·packAVX2(SB), NOSPLIT, $0-48
	MOVQ bitmap+0(FP), DI
	MOVQ w+8(FP), SI
	MOVQ groups+16(FP), CX
	MOVQ base+24(FP), R8
	MOVQ period+32(FP), R9
	MOVQ SI, DX // where words go; never behind where they come from
	XORQ R10, R10 // column
	MOVQ order<>(SB), R11
	MOVQ ones<>(SB), R12

group:
	VMOVDQU (SI), Y0
	VPCMPEQD (R8)(R10*4), Y0, Y1
	VMOVMSKPS Y1, AX
	XORL $0xff, AX
	MOVB AX, (DI)
	POPCNTL AX, BX

	// A byte of ones for each bit; the numbers of those bytes.
	PDEPQ R12, AX, AX
	MOVQ AX, R13
	SHLQ $8, AX
	SUBQ R13, AX
	PEXTQ AX, R11, AX
	VMOVQ AX, X1
	VPMOVZXBD X1, Y1
	VPERMD Y0, Y1, Y0
	VMOVDQU Y0, (DX)
	LEAQ (DX)(BX*4), DX

	ADDQ $32, SI
	INCQ DI
	ADDQ $8, R10
	MOVQ R10, R13
	SUBQ R9, R13
	CMOVQGE R13, R10
	DECQ CX
	JNZ group
	SUBQ w+8(FP), DX
	SHRQ $2, DX
	MOVQ DX, n+40(FP)
	VZEROUPPER
	RET

// func unpackAVX2(w *uint32, bitmap *byte, groups int, n int, base *uint32, period int, column int)
TEXT ·unpackAVX2(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), DI
	MOVQ bitmap+8(FP), SI
	MOVQ groups+16(FP), CX
	MOVQ n+24(FP), DX
	LEAQ (DI)(DX*4), DX // behind the words still to be placed
	MOVQ base+32(FP), R8
	MOVQ period+40(FP), R9
	MOVQ column+48(FP), R10
	MOVQ order<>(SB), R11
	MOVQ ones<>(SB), R12
	VMOVDQU lanes<>(SB), Y3

group:
	DECQ CX
	SUBQ $8, R10
	LEAQ (R10)(R9*1), R13
	CMOVQLT R13, R10
	MOVBLZX (SI)(CX*1), AX
	POPCNTL AX, BX
	SHLQ $2, BX
	SUBQ BX, DX
	VMOVD AX, X2
	VPBROADCASTD X2, Y2
	VPAND Y3, Y2, Y2
	VPCMPEQD Y3, Y2, Y2
	PDEPQ R12, AX, AX
	MOVQ AX, R13
	SHLQ $8, AX
	SUBQ R13, AX
	PDEPQ AX, R11, AX
	VMOVQ AX, X1
	VPMOVZXBD X1, Y1
	VPERMD (DX), Y1, Y0
	VMOVDQU (R8)(R10*4), Y1
	VPBLENDVB Y2, Y0, Y1, Y0
	MOVQ CX, BX
	SHLQ $5, BX
	VMOVDQU Y0, (DI)(BX*1)
	TESTQ CX, CX
	JNZ group
	VZEROUPPER
	RET

// func splitAVX2(p *byte, w *uint32, groups int, stride int, width int)
TEXT ·splitAVX2(SB), NOSPLIT, $0-40
	MOVQ p+0(FP), DI
	MOVQ w+8(FP), SI
	MOVQ groups+16(FP), CX
	MOVQ stride+24(FP), R9
	MOVQ width+32(FP), R10
	VMOVDQU planes<>(SB), Y2
	VMOVDQU halves<>(SB), Y3

	// DI the lowest byte's plane, R8 the next one, R11 and R12 those of words of four.
	LEAQ -1(R10), AX
	IMULQ R9, AX
	ADDQ AX, DI
	MOVQ DI, R8
	SUBQ R9, R8
	MOVQ R8, R11
	SUBQ R9, R11
	MOVQ R11, R12
	SUBQ R9, R12
	XORQ DX, DX

group:
	VMOVDQU (SI), Y0
	VPSHUFB Y2, Y0, Y0
	VPERMD Y0, Y3, Y0
	VMOVQ X0, (DI)(DX*1)
	CMPQ R10, $2
	JLT next
	VPEXTRQ $1, X0, (R8)(DX*1)
	JEQ next
	VEXTRACTI128 $1, Y0, X1
	VMOVQ X1, (R11)(DX*1)
	VPEXTRQ $1, X1, (R12)(DX*1)

next:
	ADDQ $32, SI
	ADDQ $8, DX
	DECQ CX
	JNZ group
	VZEROUPPER
	RET

// func mergeAVX2(w *uint32, p0, p1, p2, p3 *byte, groups int, width int)
TEXT ·mergeAVX2(SB), NOSPLIT, $0-56
	MOVQ w+0(FP), DI
	MOVQ p0+8(FP), R8
	MOVQ p1+16(FP), R9
	MOVQ p2+24(FP), R11
	MOVQ p3+32(FP), R12
	MOVQ groups+40(FP), CX
	MOVQ width+48(FP), R10
	XORQ DX, DX
	CMPQ R10, $2
	JEQ two
	JGT four

one:
	VPMOVZXBD (R8)(DX*1), Y0
	VMOVDQU Y0, (DI)
	ADDQ $32, DI
	ADDQ $8, DX
	DECQ CX
	JNZ one
	VZEROUPPER
	RET

two:
	VMOVQ (R8)(DX*1), X0
	VMOVQ (R9)(DX*1), X1
	VPUNPCKLBW X0, X1, X0
	VPMOVZXWD X0, Y0
	VMOVDQU Y0, (DI)
	ADDQ $32, DI
	ADDQ $8, DX
	DECQ CX
	JNZ two
	VZEROUPPER
	RET

four:
	VMOVQ (R8)(DX*1), X0
	VMOVQ (R9)(DX*1), X1
	VMOVQ (R11)(DX*1), X2
	VMOVQ (R12)(DX*1), X3
	VPUNPCKLBW X2, X3, X2 // lower halves
	VPUNPCKLBW X0, X1, X0 // upper halves
	VPUNPCKLWD X0, X2, X1
	VPUNPCKHWD X0, X2, X0
	VMOVDQU X1, (DI)
	VMOVDQU X0, 16(DI)
	ADDQ $32, DI
	ADDQ $8, DX
	DECQ CX
	JNZ four
	VZEROUPPER
	RET
