// This file exists to write the loop that draws dropout masks: Philox4x32-10 in 64-bit lanes,
// one block of four numbers per lane. The upper halves of lanes are garbage, as the
// multiplication reads the lower ones only.

package loop

import (
	"fmt"
	"strings"
)

// The multipliers and the steps of the key.
const (
	philoxMul0, philoxMul1 = 0xD2511F53, 0xCD9E8D57
	philoxKey0, philoxKey1 = 0x9E3779B9, 0xBB67AE85
	philoxRounds           = 10
)

// maskWriter writes func maskZ or maskY.
type maskWriter struct {
	*strings.Builder
	pool  *pool
	wide  bool
	name  string
	count int // blocks side by side, one a 64-bit lane
}

func (w *maskWriter) op(format string, a ...any) { fmt.Fprintf(w, "\t"+format+"\n", a...) }

// r is vector register i.
func (w *maskWriter) r(i int) string {
	if w.wide {
		return fmt.Sprintf("Z%d", i)
	}
	return fmt.Sprintf("Y%d", i)
}

func (w *maskWriter) constant(u uint32) string {
	return fmt.Sprintf("vecConst<>+%d(SB)", 32*w.pool.index(u))
}

// key is the register of half a key: wide code has room for the keys of all rounds.
func (w *maskWriter) key(round, half int) string {
	if w.wide {
		return w.r(12 + 2*round + half)
	}
	return w.r(12 + half)
}

// writeMask writes func maskZ or maskY. Blocks are dealt to the lanes such that two
// unpackings put their numbers in order.
func writeMask(b *strings.Builder, pool *pool, wide bool) {
	w := &maskWriter{b, pool, wide, "maskY", 4}
	if wide {
		w.name, w.count = "maskZ", 8
	}
	fmt.Fprintf(b, "\n// func %s(dst *uint32, words int, s *Stream, block, drop uint64)\n", w.name)
	fmt.Fprintf(b, "TEXT ·%s(SB), NOSPLIT, $0-40\n", w.name)
	w.prologue()
	fmt.Fprintf(b, "\nloop:\n")
	w.compare(w.rounds())
	w.op("VPADDQ %sStep<>(SB), %[2]s, %[2]s", w.name, w.r(6))
	w.op("DECQ CX")
	w.op("JNZ loop")
	w.op("VZEROUPPER")
	w.op("RET")
	w.tables()
}

// prologue loads the counter into registers 6 (the blocks' numbers) to 9, the multipliers
// into 10 and 11, and the keys.
func (w *maskWriter) prologue() {
	op, r := w.op, w.r
	op("MOVQ dst+0(FP), DI")
	op("MOVQ words+8(FP), CX")
	op("MOVQ s+16(FP), SI")
	op("VPBROADCASTQ block+24(FP), %s", r(6))
	op("VPADDQ %sBlocks<>(SB), %[2]s, %[2]s", w.name, r(6))
	op("MOVQ block+24(FP), AX")
	op("SHRQ $32, AX")
	op("ORL Stream_c1(SI), AX")
	op("VMOVD AX, X7")
	op("VPBROADCASTD X7, %s", r(7))
	op("VPBROADCASTD Stream_c2(SI), %s", r(8))
	op("VPBROADCASTD Stream_c3(SI), %s", r(9))
	op("VPBROADCASTD %s, %s", w.constant(philoxMul0), r(10))
	op("VPBROADCASTD %s, %s", w.constant(philoxMul1), r(11))
	if !w.wide {
		op("VPBROADCASTD drop+32(FP), Y14")
		op("SHLQ $1, CX") // half words
		return
	}
	op("VPBROADCASTD Stream_key(SI), Z12")
	op("VPBROADCASTD (Stream_key+4)(SI), Z13")
	for i := 2; i < 2*philoxRounds; i++ {
		op("VPADDD.BCST %s, Z%d, Z%d", w.constant([]uint32{philoxKey0, philoxKey1}[i%2]), 10+i, 12+i)
	}
	op("MOVL $0xaaaa, AX")
	op("KMOVW AX, K1")
}

// rounds returns the registers of a block's four numbers, each in the lower half of a lane.
func (w *maskWriter) rounds() [4]int {
	op, r := w.op, w.r
	if !w.wide {
		op("VPBROADCASTD Stream_key(SI), Y12")
		op("VPBROADCASTD (Stream_key+4)(SI), Y13")
	}
	c := [4]int{6, 7, 8, 9}
	for round := range philoxRounds {
		// Registers 0 to 5 in turn: two words each that are read, written, and next.
		p, q := 4, 5
		if round%2 == 1 {
			p, q = 1, 3
		}
		op("VPMULUDQ %s, %s, %s", r(10), r(c[0]), r(p))
		op("VPMULUDQ %s, %s, %s", r(11), r(c[2]), r(q))
		op("VPSRLQ $32, %s, %s", r(q), r(0))
		op("VPSRLQ $32, %s, %s", r(p), r(2))
		for half, x := range [2][2]int{{0, c[1]}, {2, c[3]}} {
			key := w.key(round, half)
			if w.wide {
				op("VPTERNLOGQ $0x96, %s, %s, %s", key, r(x[1]), r(x[0]))
				continue
			}
			op("VPXOR %s, %s, %s", r(x[1]), r(x[0]), r(x[0]))
			op("VPXOR %s, %s, %s", key, r(x[0]), r(x[0]))
			if round < philoxRounds-1 {
				op("VPADDD %s, %s, %s", w.constant([]uint32{philoxKey0, philoxKey1}[half]), key, key)
			}
		}
		c = [4]int{0, q, 2, p}
	}
	return c
}

// compare puts the numbers of registers c in order and stores a bit for each that is not
// below drop.
func (w *maskWriter) compare(c [4]int) {
	op, r := w.op, w.r
	// Pairs of words, then the four of a block, side by side.
	for i := range 2 {
		x, y := r(c[2*i]), r(c[2*i+1])
		op("VPSLLQ $32, %s, %[1]s", y)
		if w.wide {
			op("VPBLENDMD %s, %s, K1, %[2]s", y, x)
		} else {
			op("VPBLENDD $0xaa, %s, %s, %[2]s", y, x)
		}
	}
	op("VPUNPCKLQDQ %s, %s, %s", r(c[2]), r(c[0]), r(4))
	op("VPUNPCKHQDQ %s, %s, %s", r(c[2]), r(c[0]), r(5))
	if w.wide {
		op("VPCMPUD.BCST $5, drop+32(FP), Z4, K2")
		op("VPCMPUD.BCST $5, drop+32(FP), Z5, K3")
		op("KUNPCKWD K2, K3, K2")
		op("KMOVD K2, (DI)")
		op("ADDQ $4, DI")
		return
	}
	for i := 4; i <= 5; i++ {
		op("VPMAXUD Y14, Y%d, Y0", i)
		op("VPCMPEQD Y0, Y%d, Y%[1]d", i)
		op("VMOVMSKPS Y%d, %s", i, []string{"AX", "BX"}[i-4])
	}
	op("SHLL $8, BX")
	op("ORL BX, AX")
	op("MOVW AX, (DI)")
	op("ADDQ $2, DI")
}

// tables writes what the blocks' numbers begin with and are advanced by.
func (w *maskWriter) tables() {
	w.WriteString("\n")
	for i := range w.count {
		fmt.Fprintf(w, "DATA %sBlocks<>+%d(SB)/8, $%d\n", w.name, 8*i, i/2+i%2*w.count/2)
		fmt.Fprintf(w, "DATA %sStep<>+%d(SB)/8, $%d\n", w.name, 8*i, w.count)
	}
	fmt.Fprintf(w, "GLOBL %sBlocks<>(SB), RODATA|NOPTR, $%d\nGLOBL %[1]sStep<>(SB), RODATA|NOPTR, $%[2]d\n", w.name, 8*w.count)
}
