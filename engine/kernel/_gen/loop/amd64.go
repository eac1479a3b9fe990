// This file exists to write the loops for AVX-512, where a block is one register, and for
// AVX2, where it is two. Remainders are masked.

package loop

import (
	"fmt"
	"slices"
	"strings"
)

// General registers: AX arguments, BX rows to do, CX bytes of a row's whole blocks, DX
// elements of the remainder, SI stride, DI offset in the row, R8 to R11 slices, R12 bits of the
// mask, R13 masks of lanes, R15 scratch.

// x86 writes one kernel.
type x86 struct {
	*kernel
	*strings.Builder
	pool  *pool
	wide  bool
	width int // lanes of a register

	regs  registers
	masks registers
	at    []int // register of each node of the part that is being written; -1: none
	fixed [][]int
	sums  []int
	held  map[node]int // registers of constants and parameters in a loop
	part
	tail bool
}

// part is the share of one register in a block.
type part struct {
	half  int
	index int // of the block, of those that are interleaved
}

func (w *x86) op(format string, a ...any) { fmt.Fprintf(w, "\t"+format+"\n", a...) }

func (w *x86) v(r int) string {
	if w.wide {
		return fmt.Sprintf("Z%d", r)
	}
	return fmt.Sprintf("Y%d", r)
}

func (w *x86) halves() int { return 16 / w.width }

// writeX86 writes a kernel for AVX-512 (wide) or AVX2.
func writeX86(out *strings.Builder, k *kernel, pool *pool, wide bool) string {
	w := &x86{kernel: k, Builder: out, pool: pool, wide: wide, width: 8}
	suffix := "Y"
	w.regs = newRegisters(16)
	if wide {
		w.width, suffix = 16, "Z"
		w.regs = newRegisters(32)
		w.masks = newRegisters(8)
		w.masks.take() // K0 means no mask
		w.masks.take() // K1 masks the tail
	}
	name := k.name + suffix
	fmt.Fprintf(w, "\n// %s\nTEXT %s<>(SB), NOSPLIT, $0-16\n", k.doc, name)
	w.prologue()
	fmt.Fprintf(w, "\nrow:\n")
	w.op("XORQ DI, DI")
	if wide && len(k.nodes) > 20 {
		w.several()
	}
	w.op("CMPQ DI, CX")
	w.op("JGE tail")
	fmt.Fprintf(w, "\nblock:\n")
	w.block()
	w.op("ADDQ $64, DI")
	w.op("CMPQ DI, CX")
	w.op("JLT block")
	fmt.Fprintf(w, "\ntail:\n")
	w.op("TESTQ DX, DX")
	w.op("JZ next")
	w.tail = true
	w.block()
	fmt.Fprintf(w, "\nnext:\n")
	w.op("DECQ BX")
	w.op("JLE done")
	read, written, _ := k.slices()
	for i := range 4 {
		if read[i] || written[i] {
			w.op("ADDQ SI, R%d", 8+i)
		}
	}
	w.op("JMP row")
	fmt.Fprintf(w, "\ndone:\n")
	if len(w.sums) > 0 {
		w.op("MOVQ vecArgs_sums(AX), R15")
		w.eachSum("VMOVUPS %[2]s, %[1]d(R15)")
	}
	w.op("VZEROUPPER")
	w.op("RET")
	return name
}

func (w *x86) prologue() {
	read, written, sums := w.slices()
	w.op("MOVQ a+8(FP), AX")
	w.op("MOVQ vecArgs_rows(AX), BX")
	w.op("MOVQ vecArgs_stride(AX), SI")
	w.op("SHLQ $2, SI")
	w.op("MOVQ vecArgs_n(AX), DX")
	w.op("MOVQ DX, CX")
	w.op("SHRQ $4, CX")
	w.op("SHLQ $6, CX")
	w.op("ANDQ $15, DX")
	for i := range 4 {
		if read[i] || written[i] {
			w.op("MOVQ (vecArgs_p+%d)(AX), R%d", 8*i, 8+i)
		}
	}
	for _, n := range w.nodes {
		if n.op == bits {
			w.op("MOVQ vecArgs_bits(AX), R12")
			break
		}
	}
	if w.wide {
		// K1 = the first DX lanes.
		w.op("MOVL $-1, R15")
		w.op("BZHIL DX, R15, R15")
		w.op("KMOVW R15, K1")
	} else {
		w.op("LEAQ vecLanes<>+64(SB), R13")
		w.op("MOVQ DX, R15")
		w.op("SHLQ $2, R15")
		w.op("SUBQ R15, R13")
	}
	if sums > 0 {
		w.op("MOVQ vecArgs_sums(AX), R15")
		for range sums * w.halves() {
			w.sums = append(w.sums, w.regs.take())
		}
		w.eachSum("VMOVUPS %d(R15), %s")
	}
	if !w.lanewise {
		return
	}
	w.fixed = make([][]int, w.halves())
	for h := range w.fixed {
		for range w.params {
			w.fixed[h] = append(w.fixed[h], w.regs.take())
		}
	}
	w.op("MOVQ vecArgs_lanes(AX), R15")
	w.op("TESTQ R15, R15")
	w.op("JZ same")
	w.eachParam(func(p, h int) {
		w.op("VMOVUPS %d(R15), %s", 64*p+4*w.width*h, w.v(w.fixed[h][p]))
	})
	w.op("JMP row")
	fmt.Fprintf(w, "\nsame:\n")
	w.eachParam(func(p, h int) {
		w.op("VBROADCASTSS (vecArgs_k+%d)(AX), %s", 4*p, w.v(w.fixed[h][p]))
	})
}

func (w *x86) eachParam(f func(p, h int)) {
	for h := range w.halves() {
		for p := range w.params {
			f(p, h)
		}
	}
}

// eachSum formats an instruction for the offset and the register of each partial sum.
func (w *x86) eachSum(format string) {
	for i, r := range w.sums {
		w.op(format, 4*w.width*i, w.v(r))
	}
}

func (w *x86) block() {
	var parts []part
	for h := range w.halves() {
		parts = append(parts, part{half: h})
	}
	// Interleaved, the parts hide each other's latency; one by one they need fewer registers.
	if !w.try(func() { w.body(parts...) }) {
		for _, p := range parts {
			w.body(p)
		}
	}
	for _, n := range w.nodes {
		if n.op == bits {
			w.op("ADDQ $2, R12")
			break
		}
	}
}

// longBody is a number of nodes.
const longBody = 60

// several writes a loop over as many blocks at a time as there are registers for, with as many
// constants and parameters in registers as there is room for then. In one block alone every
// operation of a polynomial waits for the one before, and operands in memory compete for the load
// ports; two are enough for short bodies. Of long ones the processor's schedulers do not hold as
// many operations as it could do at once (GELU on a Zen 4: 0.81 ns an element with two blocks, 0.65
// with six).
func (w *x86) several() {
	var operands []node
	for _, n := range w.nodes {
		if (n.op == constant || n.op == param && !w.lanewise) && !slices.Contains(operands, n) {
			operands = append(operands, n)
		}
	}
	blocks := 2
	if len(w.nodes) > longBody {
		blocks = 6
	}
	for ; blocks > 1; blocks-- {
		for held := len(operands); held >= 0; held-- {
			if w.try(func() { w.interleaved(blocks, operands[:held]) }) {
				return
			}
		}
	}
	panic(errRegisters)
}

// interleaved writes a loop over some blocks at a time with some operands in registers.
func (w *x86) interleaved(blocks int, operands []node) {
	w.op("MOVQ CX, R13")
	w.op("SUBQ $%d, R13", 64*(blocks-1))
	w.op("JLE single")
	w.held = map[node]int{}
	for _, n := range operands {
		w.held[n] = w.regs.take()
		w.operand(n, w.held[n])
	}
	fmt.Fprintf(w, "\nseveral:\n")
	parts := make([]part, blocks)
	for i := range parts {
		parts[i].index = i
	}
	w.body(parts...)
	for _, r := range w.held {
		w.regs.free(r)
	}
	w.held = nil
	w.op("ADDQ $%d, DI", 64*blocks)
	w.op("CMPQ DI, R13")
	w.op("JLT several")
	fmt.Fprintf(w, "\nsingle:\n")
}

// operand loads a constant or a parameter.
func (w *x86) operand(n node, r int) {
	if n.op == constant && n.imm == 0 {
		w.op("VXORPS X%[1]d, X%[1]d, X%[1]d", r)
		return
	}
	w.op("VBROADCASTSS %s, %s", w.mem(n), w.v(r))
}

// try calls write and keeps its output if the registers suffice.
func (w *x86) try(write func()) (ok bool) {
	b, regs, masks := w.Builder, slices.Clone(w.regs.used), slices.Clone(w.masks.used)
	w.Builder = new(strings.Builder)
	defer func() {
		text := w.Builder.String()
		w.Builder = b
		if e := recover(); e != nil {
			if e != errRegisters {
				panic(e)
			}
			w.regs.used, w.masks.used, w.held = regs, masks, nil
			return
		}
		w.WriteString(text)
		ok = true
	}()
	write()
	return
}

// x86bin are the instructions of two operands.
var x86bin = map[opcode][2]string{ // AVX-512, AVX2
	add:  {"VADDPS", "VADDPS"},
	sub:  {"VSUBPS", "VSUBPS"},
	mul:  {"VMULPS", "VMULPS"},
	div:  {"VDIVPS", "VDIVPS"},
	and:  {"VPANDD", "VANDPS"},
	or:   {"VPORD", "VORPS"},
	xor:  {"VPXORD", "VXORPS"},
	iadd: {"VPADDD", "VPADDD"},
	isub: {"VPSUBD", "VPSUBD"},
}

// The predicates of VCMPPS, quiet; ordered but for nlt.
var x86cmp = map[opcode]int{gt: 30, lt: 17, ge: 29, nlt: 21}

// body writes the operations on some parts, interleaved.
func (w *x86) body(parts ...part) {
	last := w.lastUse()
	at := make([][]int, len(parts))
	for p := range at {
		at[p] = slices.Repeat([]int{-1}, len(w.nodes))
	}
	for i, n := range w.nodes {
		for p := range parts {
			w.part, w.at = parts[p], at[p]
			w.operation(i, n, last)
		}
	}
}

// operation writes node i. last is the last reader of each node.
func (w *x86) operation(i int, n node, last []int) {
	o := &x86op{x86: w, i: i, n: n, last: last}
	switch n.op {
	case constant, param:
	case load, store, bits:
		o.memory()
	case gt, lt, ge, nlt, igt, ieq:
		o.compare()
	case keep, drop, choose:
		o.pick()
	case acrossMax, acrossAdd:
		w.across(n.op, o.reg(n.a), o.dst())
	case accAdd, accMax:
		o.accumulate()
	default:
		o.arithmetic()
	}
}

// x86op is the node that is being written.
type x86op struct {
	*x86
	i     int
	n     node
	last  []int // last reader of each node
	temps []int // registers that hold operands until free
}

// reg returns the register of a node, after loading it if it is in memory.
func (o *x86op) reg(a int) string {
	switch m := o.nodes[a]; {
	case m.op == param && o.lanewise:
		return o.v(o.fixed[o.half][m.i])
	case m.op == constant || m.op == param:
		if r, ok := o.held[m]; ok {
			return o.v(r)
		}
		r := o.regs.take()
		o.temps = append(o.temps, r)
		o.operand(m, r)
		return o.v(r)
	}
	return o.v(o.at[a])
}

// last2 returns the suffix of an instruction and its last operand, which may be in memory.
func (o *x86op) last2(a int) (string, string) {
	m := o.nodes[a]
	if _, ok := o.held[m]; ok {
		return "", o.reg(a)
	}
	switch {
	case o.wide && (m.op == constant && m.imm != 0 || m.op == param && !o.lanewise):
		return ".BCST", o.mem(m)
	case !o.wide && m.op == constant && m.imm != 0:
		return "", o.mem(m)
	}
	return "", o.reg(a)
}

// free releases the registers of nodes whose last reader this is.
func (o *x86op) free() {
	for _, r := range o.temps {
		o.regs.free(r)
	}
	n := o.n
	for j, a := range []int{n.a, n.b, n.c} {
		if a < 0 || o.last[a] != o.i || o.at[a] < 0 || j > 0 && a == n.a || j > 1 && a == n.b {
			continue
		}
		if o.isMask(a) {
			o.masks.free(o.at[a])
		} else {
			o.regs.free(o.at[a])
		}
	}
}

// dst frees the operands and takes a register for the result.
func (o *x86op) dst() string {
	o.free()
	o.at[o.i] = o.regs.take()
	return o.v(o.at[o.i])
}

// dstMask is dst for a mask register.
func (o *x86op) dstMask() string {
	o.free()
	o.at[o.i] = o.masks.take()
	return fmt.Sprintf("K%d", o.at[o.i])
}

// lane is the offset in bytes of the register's first lane in its block.
func (o *x86op) lane() int { return 4 * o.width * o.half }

// memory writes loads, stores and the bits of a mask.
func (o *x86op) memory() {
	at := o.lane()
	at += 64 * o.index
	slice := fmt.Sprintf("%d(R%d)(DI*1)", at, 8+o.n.i)
	switch o.n.op {
	case load:
		switch d := o.dst(); {
		case !o.tail:
			o.op("VMOVUPS %s, %s", slice, d)
		case o.wide:
			o.op("VMOVUPS.Z %s, K1, %s", slice, d)
		default:
			o.op("VMOVUPS %d(R13), %s", o.lane(), d)
			o.op("VMASKMOVPS %s, %s, %s", slice, d, d)
		}
	case store:
		switch x := o.reg(o.n.a); {
		case !o.tail:
			o.op("VMOVUPS %s, %s", x, slice)
		case o.wide:
			o.op("VMOVUPS %s, K1, %s", x, slice)
		default:
			t := o.regs.take()
			o.op("VMOVUPS %d(R13), %s", o.lane(), o.v(t))
			o.op("VMASKMOVPS %s, %s, %s", x, o.v(t), slice)
			o.regs.free(t)
		}
		o.free()
	case bits:
		if o.wide {
			o.op("KMOVW (R12), %s", o.dstMask())
			return
		}
		d := o.dst()
		o.op("MOVBLZX %d(R12), R15", o.half)
		o.op("VMOVD R15, X%d", o.at[o.i])
		o.op("VPBROADCASTD X%d, %s", o.at[o.i], d)
		o.op("VPAND vecBits<>(SB), %s, %s", d, d)
		o.op("VPCMPEQD vecBits<>(SB), %s, %s", d, d)
	}
}

// arithmetic writes what makes numbers of numbers, lane by lane.
func (o *x86op) arithmetic() {
	n := o.n
	x := o.reg(n.a)
	switch n.op {
	case add, sub, mul, div, and, or, xor, iadd, isub:
		suffix, y := o.last2(n.b)
		name := x86bin[n.op][1]
		if o.wide {
			name = x86bin[n.op][0]
		}
		o.op("%s%s %s, %s, %s", name, suffix, y, x, o.dst())
	case lesser, larger:
		// The instruction returns its second operand, the first in Go's order, for NaN.
		y := o.reg(n.b)
		o.op("%s %s, %s, %s", map[opcode]string{lesser: "VMINPS", larger: "VMAXPS"}[n.op], x, y, o.dst())
	case round:
		o.op("VRNDSCALEPS $0, %s, %s", x, o.dst())
	case half:
		d := o.dst()
		o.op("VCVTPS2PH $0, %s, Y%d", x, o.at[o.i])
		o.op("VPMOVZXWD Y%d, %s", o.at[o.i], d)
	case scale2:
		y := o.reg(n.b)
		if n.c < 0 {
			o.op("VSCALEFPS %s, %s, %s", y, x, o.dst())
			return
		}
		// Lanes that the mask excludes take no time for their underflow.
		mask := o.at[n.c]
		o.op("VSCALEFPS.Z %s, %s, K%d, %s", y, x, mask, o.dst())
	case sqrt:
		o.op("VSQRTPS %s, %s", x, o.dst())
	case shl, sar:
		o.op("%s $%d, %s, %s", map[opcode]string{shl: "VPSLLD", sar: "VPSRAD"}[n.op], n.i, x, o.dst())
	}
}

// compare writes comparisons, whose result is a mask.
func (o *x86op) compare() {
	n := o.n
	x := o.reg(n.a)
	switch n.op {
	case gt, lt, ge, nlt:
		suffix, y := o.last2(n.b)
		if o.wide {
			o.op("VCMPPS%s $%d, %s, %s, %s", suffix, x86cmp[n.op], y, x, o.dstMask())
		} else {
			o.op("VCMPPS $%d, %s, %s, %s", x86cmp[n.op], y, x, o.dst())
		}
	case igt, ieq:
		name := map[opcode]string{igt: "VPCMPGTD", ieq: "VPCMPEQD"}[n.op]
		suffix, y := o.last2(n.b)
		if o.wide {
			o.op("%s%s %s, %s, %s", name, suffix, y, x, o.dstMask())
		} else {
			o.op("%s %s, %s, %s", name, y, x, o.dst())
		}
	}
}

// pick writes choices by a mask.
func (o *x86op) pick() {
	n := o.n
	mask := fmt.Sprintf("K%d", o.at[n.a]) // where o.wide
	switch n.op {
	case keep:
		x := o.reg(n.b)
		if o.wide {
			o.op("VMOVAPS.Z %s, %s, %s", x, mask, o.dst())
		} else {
			o.op("VANDPS %s, %s, %s", x, o.reg(n.a), o.dst())
		}
	case drop:
		x := o.reg(n.b)
		if o.wide {
			o.op("KNOTW %s, %s", mask, mask)
			o.op("VMOVAPS.Z %s, %s, %s", x, mask, o.dst())
		} else {
			o.op("VANDNPS %s, %s, %s", x, o.reg(n.a), o.dst())
		}
	case choose:
		z := o.reg(n.c)
		suffix, y := o.last2(n.b)
		if o.wide {
			o.op("VBLENDMPS%s %s, %s, %s, %s", suffix, y, z, mask, o.dst())
		} else {
			o.op("VBLENDVPS %s, %s, %s, %s", o.reg(n.a), y, z, o.dst())
		}
	}
}

// accumulate adds to a sum or maximum of each lane.
func (o *x86op) accumulate() {
	n := o.n
	x, s := o.reg(n.a), o.v(o.sums[n.i*o.halves()+o.half])
	from, mask := x, ""
	if o.tail && o.wide {
		mask = "K1, "
	} else if o.tail {
		// Lanes beyond the row add nothing: no sum is ever -0.
		t := o.regs.take()
		o.temps = append(o.temps, t)
		from = o.v(t)
		o.op("VMOVUPS %d(R13), %s", o.lane(), from)
		if n.op == accAdd {
			o.op("VANDPS %s, %s, %s", x, from, from)
		} else {
			o.op("VBLENDVPS %s, %s, %s, %s", from, x, s, from)
		}
	}
	if n.op == accAdd {
		o.op("VADDPS %s, %s, %s%s", from, s, mask, s)
	} else {
		o.op("VMAXPS %s, %s, %s%s", s, from, mask, s)
	}
	o.free()
}

// across joins the lanes of x by the tree of vec_sum.go, in every lane alike. d may be x.
func (w *x86) across(op opcode, x, d string) {
	name := map[opcode]string{acrossMax: "VMAXPS", acrossAdd: "VADDPS"}[op]
	r := w.regs.take()
	defer w.regs.free(r)
	t := w.v(r)
	mask, zero := "", ""
	if w.tail {
		mask, zero = "K1, ", ".Z"
	}
	if op == acrossAdd {
		// Sums begin at +0, which makes +0 of -0.
		w.op("VXORPS X%[1]d, X%[1]d, X%[1]d", r)
		w.op("VADDPS%s %s, %s, %s%s", zero, t, x, mask, d)
	} else {
		w.op("VBROADCASTSS %s, %s", w.mem(node{op: constant, imm: 0xff800000}), t)
		w.op("VMAXPS %s, %s, %s%s", t, x, mask, t)
		w.op("VMOVAPS %s, %s", t, d)
	}
	for _, step := range []string{"VSHUFF32X4 $0x4e, %[1]s, %[1]s, %[2]s", "VSHUFF32X4 $0xb1, %[1]s, %[1]s, %[2]s", "VPERMILPS $0x4e, %[1]s, %[2]s", "VPERMILPS $0xb1, %[1]s, %[2]s"} {
		w.op(step, d, t)
		w.op("%s %s, %s, %s", name, t, d, d)
	}
}

// isMask reports whether a node's value is in a mask register.
func (w *x86) isMask(n int) bool {
	switch w.nodes[n].op {
	case gt, lt, ge, nlt, igt, ieq, bits:
		return w.wide
	}
	return false
}

// mem is the address of a constant or parameter.
func (w *x86) mem(n node) string {
	if n.op == param {
		return fmt.Sprintf("(vecArgs_k+%d)(AX)", 4*n.i)
	}
	return fmt.Sprintf("vecConst<>+%d(SB)", 32*w.pool.index(n.imm))
}
