// This file exists to write the loops for NEON: a block is four registers, and the body is
// written for each quarter. The remainder of a row, which does not fill a block, is copied
// to the stack, goes through the same code as one more block, and is copied back.

package loop

import (
	"fmt"
	"strings"
)

// General registers: R0 arguments, R1 to R4 slices, R5 bits of the mask, R6 rows to do, R7
// bytes of a row's whole blocks, R8 elements of the remainder, R9 stride, R10 bytes to do,
// R11 constants, R12 masks of lanes, R13 bits of lanes, R14 sums, R16 whether the block is
// the remainder, R20 to R23 slices within the row, R24 the stack; R15, R19, R25 and R26
// scratch.

// The stack: a block of each slice, then the sums before the remainder.
const (
	neonSaved = 4 * 64
	neonFrame = neonSaved + 2*64
)

// neon writes one kernel.
type neon struct {
	*kernel
	*strings.Builder
	pool *pool

	regs    registers
	at      []int       // register of each node; -1: none
	hoisted map[int]int // constants and parameters that are loaded once
	fixed   [4][]int    // parameters by lane
	sums    []int
	quarter int
}

func (w *neon) op(format string, a ...any) { fmt.Fprintf(w, "\t"+format+"\n", a...) }

// word writes an instruction that Go's assembler does not know: d = n op m.
func (w *neon) word(name string, code uint32, d, n, m int) {
	w.op("WORD $%#08x // %s V%d.4S, V%d.4S, V%d.4S", code|uint32(m)<<16|uint32(n)<<5|uint32(d), name, d, n, m)
}

// writeNEON writes a kernel.
func writeNEON(out *strings.Builder, k *kernel, pool *pool) string {
	w := &neon{kernel: k, Builder: out, pool: pool, regs: newRegisters(32), hoisted: map[int]int{}}
	read, written, _ := k.slices()
	var used []int
	for i := range 4 {
		if read[i] || written[i] {
			used = append(used, i)
		}
	}
	name := k.name + "N"
	fmt.Fprintf(w, "\n// %s\nTEXT %s<>(SB), NOSPLIT, $%d-16\n", k.doc, name, neonFrame)
	w.prologue(used)
	fmt.Fprintf(w, "\nrow:\n")
	for _, i := range used {
		w.op("MOVD R%d, R%d", 1+i, 20+i)
	}
	w.op("CBZ R7, rest")
	w.op("MOVD R7, R10")
	fmt.Fprintf(w, "\nblock:\n")
	w.block()
	for _, i := range used {
		w.op("ADD $64, R%d", 20+i)
	}
	w.op("SUB $64, R10")
	w.op("CBNZ R10, block")
	w.op("CBNZ R16, copied")
	fmt.Fprintf(w, "\nrest:\n")
	w.op("CBZ R8, next")
	for _, i := range used {
		if read[i] {
			w.copy(i, "in")
		}
		w.op("ADD $%d, R24, R%d", 64*i, 20+i)
	}
	for i, r := range w.sums {
		w.op("FMOVQ F%d, %d(R24)", r, neonSaved+16*i)
	}
	w.op("MOVD $1, R16")
	w.op("MOVD $64, R10")
	w.op("B block")
	fmt.Fprintf(w, "\ncopied:\n")
	w.op("MOVD $0, R16")
	for _, i := range used {
		if written[i] {
			w.copy(i, "out")
		}
	}
	w.restore()
	fmt.Fprintf(w, "\nnext:\n")
	w.op("SUB $1, R6")
	w.op("CMP $0, R6")
	w.op("BLE done")
	for _, i := range used {
		w.op("ADD R9, R%d", 1+i)
	}
	w.op("B row")
	fmt.Fprintf(w, "\ndone:\n")
	for i, r := range w.sums {
		w.op("FMOVQ F%d, %d(R14)", r, 16*i)
	}
	w.op("RET")
	return name
}

func (w *neon) prologue(used []int) {
	w.op("MOVD a+8(FP), R0")
	w.op("MOVD vecArgs_rows(R0), R6")
	w.op("MOVD vecArgs_stride(R0), R9")
	w.op("LSL $2, R9")
	w.op("MOVD vecArgs_n(R0), R8")
	w.op("LSR $4, R8, R7")
	w.op("LSL $6, R7")
	w.op("AND $15, R8")
	for _, i := range used {
		w.op("MOVD (vecArgs_p+%d)(R0), R%d", 8*i, 1+i)
	}
	w.op("MOVD vecArgs_bits(R0), R5")
	w.op("MOVD $vecConst<>(SB), R11")
	w.op("MOVD $vecLanes<>+64(SB), R12")
	w.op("SUB R8<<2, R12")
	w.op("MOVD $vecBits<>(SB), R13")
	w.op("MOVD vecArgs_sums(R0), R14")
	w.op("MOVD $copy-%d(SP), R24", neonFrame)
	w.op("MOVD $0, R16")
	_, _, sums := w.slices()
	for i := range 4 * sums {
		w.sums = append(w.sums, w.regs.take())
		w.op("FMOVQ %d(R14), F%d", 16*i, w.sums[i])
	}
	if w.lanewise {
		w.parameters()
	}
	// Besides constants, bodies need a dozen registers at most.
	for i, n := range w.nodes {
		if (n.op == constant || n.op == param && !w.lanewise) && w.regs.left() > 12 {
			r := w.regs.take()
			w.operand(n, r)
			w.hoisted[i] = r
		}
	}
}

// parameters loads the parameters of all lanes.
func (w *neon) parameters() {
	for q := range 4 {
		for range w.params {
			w.fixed[q] = append(w.fixed[q], w.regs.take())
		}
	}
	w.op("MOVD vecArgs_lanes(R0), R15")
	w.op("CBZ R15, same")
	for q := range 4 {
		for p, r := range w.fixed[q] {
			w.op("FMOVQ %d(R15), F%d", 64*p+16*q, r)
		}
	}
	w.op("B loaded")
	fmt.Fprintf(w, "\nsame:\n")
	for p := range w.params {
		for q := range 4 {
			w.operand(node{op: param, i: p}, w.fixed[q][p])
		}
	}
	fmt.Fprintf(w, "\nloaded:\n")
}

// operand loads a constant or a parameter.
func (w *neon) operand(n node, r int) {
	if n.op == constant {
		w.op("FMOVQ %d(R11), F%d", 32*w.pool.index(n.imm), r)
		return
	}
	w.op("ADD $(vecArgs_k+%d), R0, R19", 4*n.i)
	w.op("VLD1R (R19), [V%d.S4]", r)
}

// restore resets the lanes of the sums beyond the remainder to their values before it.
func (w *neon) restore() {
	if len(w.sums) == 0 {
		return
	}
	// No body is under way: all registers but the sums and the parameters are free.
	mask, old := w.regs.take(), w.regs.take()
	for q := range 4 {
		w.op("FMOVQ %d(R12), F%d", 16*q, mask)
		for i := q; i < len(w.sums); i += 4 {
			w.op("FMOVQ %d(R24), F%d", neonSaved+16*i, old)
			w.word("BIF", 0x6ee01c00, w.sums[i], old, mask)
		}
	}
	w.regs.free(mask)
	w.regs.free(old)
}

// copy moves the remainder of a row between a slice and the stack.
func (w *neon) copy(slice int, dir string) {
	from, to := "R25", "R26"
	if dir == "out" {
		from, to = to, from
	}
	w.op("ADD R7, R%d, R25", 1+slice)
	w.op("ADD $%d, R24, R26", 64*slice)
	w.op("MOVD R8, R19")
	fmt.Fprintf(w, "\n%s%d:\n", dir, slice)
	w.op("MOVWU.P 4(%s), R15", from)
	w.op("MOVW.P R15, 4(%s)", to)
	w.op("SUB $1, R19")
	w.op("CBNZ R19, %s%d", dir, slice)
}

func (w *neon) block() {
	for w.quarter = range 4 {
		w.body()
	}
	w.op("ADD $2, R5")
}

// Instructions of two operands.
var neonBin = map[opcode]struct {
	name string
	code uint32
}{
	add:  {"FADD", 0x4e20d400},
	sub:  {"FSUB", 0x4ea0d400},
	mul:  {"FMUL", 0x6e20dc00},
	div:  {"FDIV", 0x6e20fc00},
	and:  {"AND", 0x4e201c00},
	or:   {"ORR", 0x4ea01c00},
	xor:  {"EOR", 0x6e201c00},
	iadd: {"ADD", 0x4ea08400},
	isub: {"SUB", 0x6ea08400},
	gt:   {"FCMGT", 0x6ea0e400},
	ge:   {"FCMGE", 0x6e20e400},
	igt:  {"CMGT", 0x4ea03400},
	ieq:  {"CMEQ", 0x6ea08c00},
	keep: {"AND", 0x4e201c00},

	lesser: {"FMIN", 0x4ea0f400},
	larger: {"FMAX", 0x4e20f400},
}

// body writes the operations on one register of the block.
func (w *neon) body() {
	last := w.lastUse()
	w.at = make([]int, len(w.nodes))
	for i := range w.at {
		w.at[i] = -1
	}
	for i, n := range w.nodes {
		var temps []int
		reg := func(a int) int {
			m := w.nodes[a]
			if m.op == param && w.lanewise {
				return w.fixed[w.quarter][m.i]
			}
			if m.op != constant && m.op != param {
				return w.at[a]
			}
			if r, ok := w.hoisted[a]; ok {
				return r
			}
			r := w.regs.take()
			temps = append(temps, r)
			w.operand(m, r)
			return r
		}
		// free releases the registers of nodes whose last reader this is.
		free := func() {
			for _, r := range temps {
				w.regs.free(r)
			}
			for _, a := range []int{n.a, n.b, n.c} {
				if a >= 0 && last[a] == i && w.at[a] >= 0 {
					w.regs.free(w.at[a])
				}
			}
		}
		dst := func() int {
			free()
			w.at[i] = w.regs.take()
			return w.at[i]
		}
		slice := fmt.Sprintf("%d(R%d)", 16*w.quarter, 20+n.i)
		switch n.op {
		case constant, param:
		case load:
			w.op("FMOVQ %s, F%d", slice, dst())
		case store:
			w.op("FMOVQ F%d, %s", reg(n.a), slice)
			free()
		case add, sub, mul, div, and, or, xor, iadd, isub, gt, ge, igt, ieq, keep, lesser, larger:
			x, y := reg(n.a), reg(n.b)
			w.word(neonBin[n.op].name, neonBin[n.op].code, dst(), x, y)
		case lt:
			x, y := reg(n.a), reg(n.b)
			w.word("FCMGT", neonBin[gt].code, dst(), y, x)
		case drop:
			x, y := reg(n.a), reg(n.b)
			w.word("BIC", 0x4e601c00, dst(), y, x)
		case sqrt:
			x, d := reg(n.a), dst()
			w.op("WORD $%#08x // FSQRT V%d.4S, V%d.4S", 0x6ea1f800|x<<5|d, d, x)
		case shl:
			x, d := reg(n.a), dst()
			w.op("WORD $%#08x // SHL $%d, V%d.4S, V%d.4S", 0x4f005400|(32+n.i)<<16|x<<5|d, n.i, x, d)
		case sar:
			x, d := reg(n.a), dst()
			w.op("WORD $%#08x // SSHR $%d, V%d.4S, V%d.4S", 0x4f000400|(64-n.i)<<16|x<<5|d, n.i, x, d)
		case bits:
			t, d := w.regs.take(), dst()
			w.op("MOVHU (R5), R15")
			w.op("VDUP R15, V%d.S4", d)
			w.op("FMOVQ %d(R13), F%d", 16*w.quarter, t)
			w.word("CMTST", 0x4ea08c00, d, d, t)
			w.regs.free(t)
		case choose:
			// The mask becomes the result: no other node reads it.
			x, y := reg(n.b), reg(n.c)
			w.word("BSL", 0x6e601c00, w.at[n.a], x, y)
			w.at[i], w.at[n.a] = w.at[n.a], -1
			free()
		case accAdd, accMax:
			x, s, t := reg(n.a), w.sums[4*n.i+w.quarter], w.regs.take()
			if n.op == accMax {
				w.word("FCMGT", neonBin[gt].code, t, x, s)
			}
			if n.op == accAdd {
				w.word("FADD", neonBin[add].code, s, s, x)
			} else {
				w.word("BIT", 0x6ea01c00, s, x, t)
			}
			w.regs.free(t)
			free()
		}
	}
}

// writeMaskNEON writes func maskN: four blocks of Philox side by side, a register for each
// of their words.
func writeMaskNEON(out *strings.Builder) {
	w := &neon{Builder: out}
	fmt.Fprintf(w, "\n// func maskN(dst *uint32, words int, s *Stream, block, drop uint64)\n")
	fmt.Fprintf(w, "TEXT ·maskN(SB), NOSPLIT, $0-40\n")
	w.op("MOVD dst+0(FP), R0")
	w.op("MOVD words+8(FP), R1")
	w.op("LSL $1, R1") // halves
	w.op("MOVD s+16(FP), R2")
	w.op("MOVD block+24(FP), R3")
	w.op("MOVD drop+32(FP), R4")
	w.op("MOVD $maskConst<>(SB), R5")
	dup := func(v int) { w.op("VDUP R6, V%d.S4", v) }
	// V20 the blocks' numbers, V21 to V23 the rest of the counter, V24 and V25 multipliers,
	// V26 and V27 steps of the key, V28 drop, V29 four; V16 to V19 bits.
	w.op("VDUP R3, V20.S4")
	w.op("FMOVQ (R5), F0")
	w.word("ADD", neonBin[iadd].code, 20, 20, 0)
	for i := range 4 {
		w.op("FMOVQ %d(R5), F%d", 16+16*i, 16+i)
	}
	w.op("LSR $32, R3, R6")
	w.op("MOVWU Stream_c1(R2), R7")
	w.op("ORR R7, R6")
	dup(21)
	for i, field := range []string{"c2", "c3"} {
		w.op("MOVWU Stream_%s(R2), R6", field)
		dup(22 + i)
	}
	for i, u := range []uint32{philoxMul0, philoxMul1, philoxKey0, philoxKey1} {
		w.op("MOVD $%#x, R6", u)
		dup(24 + i)
	}
	w.op("VDUP R4, V28.S4")
	w.op("MOVD $4, R6")
	dup(29)
	fmt.Fprintf(w, "\nhalf:\n")
	for half := range 2 {
		w.op("MOVWU (Stream_key+%d)(R2), R6", 4*half)
		dup(30 + half)
	}
	c := [4]int{20, 21, 22, 23}
	for round := range philoxRounds {
		// Registers 0 to 7 and 8 to 15 in turn.
		at := round % 2 * 8
		for i := range 2 {
			const umull, umull2, uzp1, uzp2 = 0x2ea0c000, 0x6ea0c000, 0x4e801800, 0x4e805800
			a, b := at+4*i, at+4*i+1
			w.word("UMULL", umull, a, c[2*i], 24+i)
			w.word("UMULL2", umull2, b, c[2*i], 24+i)
			w.word("UZP1", uzp1, a+2, a, b)
			w.word("UZP2", uzp2, a+3, a, b)
		}
		// The lower halves of a product stay, the upper ones meet a word and the key.
		for i := range 2 {
			hi := at + 4*(1-i) + 3
			w.word("EOR", neonBin[xor].code, hi, hi, c[2*i+1])
			w.word("EOR", neonBin[xor].code, hi, hi, 30+i)
			w.word("ADD", neonBin[iadd].code, 30+i, 30+i, 26+i)
		}
		c = [4]int{at + 7, at + 6, at + 3, at + 2}
	}
	for i, r := range c {
		w.word("CMHS", 0x6ea03c00, r, r, 28)
		w.word("AND", neonBin[and].code, r, r, 16+i)
		if i > 0 {
			w.word("ORR", neonBin[or].code, c[0], c[0], r)
		}
	}
	w.op("WORD $%#08x // ADDV V%d.4S, S%[2]d", 0x4eb1b800|uint32(c[0])<<5|uint32(c[0]), c[0])
	w.op("FMOVS F%d, R6", c[0])
	w.op("MOVH.P R6, 2(R0)")
	w.word("ADD", neonBin[iadd].code, 20, 20, 29)
	w.op("SUB $1, R1")
	w.op("CBNZ R1, half")
	w.op("RET")
	// Numbers of the blocks, then the bits of word i of each.
	w.WriteString("\n")
	for b := range 4 {
		fmt.Fprintf(w, "DATA maskConst<>+%d(SB)/4, $%d\n", 4*b, b)
	}
	for i := range 16 {
		fmt.Fprintf(w, "DATA maskConst<>+%d(SB)/4, $%d\n", 16+4*i, 1<<(i%4*4+i/4))
	}
	w.WriteString("GLOBL maskConst<>(SB), RODATA|NOPTR, $80\n")
}

func arm64(all []*kernel) string {
	var b strings.Builder
	b.WriteString(header + "//go:build !purego\n\n#include \"go_asm.h\"\n#include \"textflag.h\"\n")
	var constants pool
	var names []string
	for _, k := range all {
		names = append(names, writeNEON(&b, k, &constants))
	}
	writeTable(&b, "vecTableN", names)
	b.WriteString("\n// func vecN(op vecOp, a *vecArgs)\nTEXT ·vecN(SB), NOSPLIT, $0-16\n")
	b.WriteString("\tMOVD op+0(FP), R1\n\tMOVD $vecTableN<>(SB), R2\n\tMOVD (R2)(R1<<3), R2\n\tJMP (R2)\n")
	writeMaskNEON(&b)
	constants.write(&b)
	writeLanes(&b)
	writeBits(&b, 16)
	return b.String()
}
