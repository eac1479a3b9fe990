// Instructions that Go's assembler does not know, by their bytes: of V1 and V2, to V0.

#include "textflag.h"

#define LOAD \
	MOVD n+0(FP), R0       \
	MOVD sums+8(FP), R1    \
	MOVD a+16(FP), R2      \
	MOVD b+24(FP), R3      \
	VLD1 (R1), [V0.S4]     \
	VLD1 (R2), [V1.S4]     \
	VLD1 (R3), [V2.S4]

#define STORE \
	SUBS $1, R0            \
	BNE  loop              \
	VST1 [V0.S4], (R1)     \
	RET

// func bfdot(n int, sums *[256]float32, a, b *[256]uint32)
TEXT ·bfdot(SB), NOSPLIT, $0-32
	LOAD

loop:
	WORD $0x6E42FC20 // BFDOT
	STORE

// func bfmmla(n int, sums *[256]float32, a, b *[256]uint32)
TEXT ·bfmmla(SB), NOSPLIT, $0-32
	LOAD

loop:
	WORD $0x6E42EC20 // BFMMLA
	STORE

// func bfmlal(n int, sums *[256]float32, a, b *[256]uint32)
TEXT ·bfmlal(SB), NOSPLIT, $0-32
	LOAD

loop:
	WORD $0x2EC2FC20 // BFMLALB
	WORD $0x6EC2FC20 // BFMLALT
	STORE
