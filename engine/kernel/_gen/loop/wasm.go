// This file exists to write the loops for browsers, in AssemblyScript. A block is four vectors
// whose operations are interleaved, which hides the latency of polynomials. Remainders are
// computed by single vectors, the last of them loaded and stored lane by lane.

package loop

import (
	"fmt"
	"strings"
)

// ts writes one kernel.
type ts struct {
	*kernel
	*strings.Builder
	constants map[uint32]string
	sums      int
	// away has the sums of a long body in memory between blocks: as variables of the loop
	// they would cost what they save many times over.
	away bool
}

func (w *ts) line(indent int, format string, a ...any) {
	fmt.Fprintf(w, strings.Repeat("  ", indent)+format+"\n", a...)
}

// Fields of vecArgs, as vec_js.go checks them.
const tsFields = `
import { give, take } from "./lane";

// Fields of vecArgs in vec.go. The upper half of ROWS is zero, which the optimiser does not
// know: it leaves constants that are made with it in variables, and does not write all their
// 16 bytes wherever they are used.
const ROWS = 0, STRIDE = 8, N = 16, P = 24, BITS = 56, PARAMS = 64, LANES = 104, SUMS = 112;
`

const tsHelpers = `
// bits is the mask of four elements from i on, by the set bits of words.
// @ts-ignore: decorator
@inline
function bits(words: usize, i: i32): v128 {
  const word = load<u32>(words + ((i >> 5) << 2)) >> (i & 31);
  return i32x4.ne(v128.and(i32x4.splat(word), i32x4(1, 2, 4, 8)), i32x4.splat(0));
}
`

// writeTS writes a kernel as a function.
func writeTS(out *strings.Builder, k *kernel) {
	w := &ts{kernel: k, Builder: out, constants: map[uint32]string{}}
	var read, written [4]bool
	read, written, w.sums = k.slices()
	w.line(0, "\n// %s", k.doc)
	w.line(0, "function %s(a: usize): void {", k.tsName())
	w.line(1, "const n = load<i32>(a, N), stride = load<i32>(a, STRIDE) << 2;")
	var used []int
	for i := range 4 {
		if read[i] || written[i] {
			used = append(used, i)
			w.line(1, "let p%d = <usize>load<u32>(a, P + %d);", i, 8*i)
		}
	}
	for _, n := range k.nodes {
		if _, known := w.constants[n.imm]; n.op == constant && !known {
			if len(w.constants) == 0 {
				w.line(1, "const zero = load<i32>(a, ROWS + 4);")
			}
			w.constants[n.imm] = fmt.Sprintf("c%d", len(w.constants))
			w.line(1, "const %s = i32x4.splat(%#08x | zero);", w.constants[n.imm], n.imm)
		}
		if n.op == bits {
			w.line(1, "const words = <usize>load<u32>(a, BITS);")
		}
	}
	switch {
	case k.params > 0 && k.lanewise:
		w.line(1, "const lanes = <usize>load<u32>(a, LANES);")
		for p := range k.params {
			for q := range 4 {
				w.line(1, "const k%d%d = lanes ? v128.load(lanes, %d) : v128.load32_splat(a, PARAMS + %d);", p, q, 64*p+16*q, 4*p)
			}
		}
	default:
		for p := range k.params {
			w.line(1, "const k%d = v128.load32_splat(a, PARAMS + %d);", p, 4*p)
		}
	}
	if w.sums > 0 {
		w.away = len(k.nodes) > 20
		w.line(1, "const sums = <usize>load<u32>(a, SUMS);")
		if !w.away {
			w.eachSum(func(i, q int) { w.line(1, "let s%d%d = v128.load(sums, %d);", i, q, 64*i+16*q) })
		}
	}
	w.line(1, "let rows = load<i32>(a, ROWS);")
	w.line(1, "do {")
	w.line(2, "let i = 0;")
	block := []int{0, 1, 2, 3}
	w.line(2, "for (; i + 16 <= n; i += 16) {")
	w.body(3, block, "")
	w.line(2, "}")
	// Without sums and parameters of lanes, all quarters are alike.
	if w.sums == 0 && (!k.lanewise || k.params == 0) {
		block = block[:1]
		w.line(2, "for (; i + 4 <= n; i += 4) {")
		w.body(3, block, "")
		w.line(2, "}")
	}
	for _, q := range block {
		w.line(2, "if (i + %d < n) {", 4*q)
		w.line(3, "const left = n - i - %d;", 4*q)
		if w.sums > 0 {
			w.line(3, "const there = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(left));")
		}
		w.body(3, []int{q}, "left")
		w.line(2, "}")
	}
	var steps []string
	for _, i := range used {
		steps = append(steps, fmt.Sprintf("p%d += stride", i))
	}
	w.line(2, "%s;", strings.Join(steps, ", "))
	w.line(1, "} while (--rows > 0);")
	if !w.away {
		w.eachSum(func(i, q int) { w.line(1, "v128.store(sums, s%d%d, %d);", i, q, 64*i+16*q) })
	}
	w.line(0, "}")
}

// eachSum is for every quarter of every sum.
func (w *ts) eachSum(f func(i, q int)) {
	for i := range w.sums {
		for q := range 4 {
			f(i, q)
		}
	}
}

// accumulate writes that sum i, of which quarter q is s, becomes what becomes says of s.
func (w *ts) accumulate(indent, i, q int, becomes func(s string) string) {
	s := fmt.Sprintf("s%d%d", i, q)
	if !w.away {
		w.line(indent, "%s = %s;", s, becomes(s))
		return
	}
	w.line(indent, "const %s = v128.load(sums, %d);", s, 64*i+16*q)
	w.line(indent, "v128.store(sums, %s, %d);", becomes(s), 64*i+16*q)
}

func (k *kernel) tsName() string { return "loop" + title(k.name) }

// Instructions of two operands.
var tsBin = map[opcode]string{
	add: "f32x4.add", sub: "f32x4.sub", mul: "f32x4.mul", div: "f32x4.div",
	and: "v128.and", or: "v128.or", xor: "v128.xor", keep: "v128.and",
	iadd: "i32x4.add", isub: "i32x4.sub", gt: "f32x4.gt", lt: "f32x4.lt", ge: "f32x4.ge", igt: "i32x4.gt_s", ieq: "i32x4.eq",
	lesser: "f32x4.pmin", larger: "f32x4.pmax",
}

// body writes the operations on some quarters in step; left is the variable with the number
// of lanes that there are, or "" for all.
func (w *ts) body(indent int, quarters []int, left string) {
	for i := range w.nodes {
		for _, q := range quarters {
			w.operation(indent, i, q, left)
		}
	}
}

// name is the variable of a node in quarter q.
func (w *ts) name(i, q int) string {
	switch n := w.nodes[i]; {
	case n.op == constant:
		return w.constants[n.imm]
	case n.op == param && w.lanewise:
		return fmt.Sprintf("k%d%d", n.i, q)
	case n.op == param:
		return fmt.Sprintf("k%d", n.i)
	}
	return fmt.Sprintf("x%d_%d", i, q)
}

// operation writes node i of quarter q.
func (w *ts) operation(indent, i, q int, left string) {
	n := w.nodes[i]
	name := func(i int) string { return w.name(i, q) }
	at := fmt.Sprintf("p%d + (i << 2), %d", n.i, 16*q)
	if left != "" {
		at = fmt.Sprintf("p%d + ((i + %d) << 2)", n.i, 4*q)
	}
	let := func(format string, a ...any) {
		w.line(indent, "const %s = "+format+";", append([]any{name(i)}, a...)...)
	}
	switch n.op {
	case constant, param:
	case load:
		if left == "" {
			let("v128.load(%s)", at)
		} else {
			let("take(%s, %s)", at, left)
		}
	case store:
		if left == "" {
			w.line(indent, "v128.store(p%d + (i << 2), %s, %d);", n.i, name(n.a), 16*q)
		} else {
			w.line(indent, "give(%s, %s, %s);", at, name(n.a), left)
		}
	case drop:
		let("v128.andnot(%s, %s)", name(n.b), name(n.a))
	case sqrt:
		let("f32x4.sqrt(%s)", name(n.a))
	case shl:
		let("i32x4.shl(%s, %d)", name(n.a), n.i)
	case sar:
		let("i32x4.shr_s(%s, %d)", name(n.a), n.i)
	case bits:
		let("bits(words, i + %d)", 4*q)
	case choose:
		let("v128.bitselect(%s, %s, %s)", name(n.b), name(n.c), name(n.a))
	case accAdd:
		x := name(n.a)
		if left != "" {
			// Lanes beyond the row add nothing: no sum is ever -0.
			x = fmt.Sprintf("v128.and(%s, there)", x)
		}
		w.accumulate(indent, n.i, q, func(s string) string { return fmt.Sprintf("f32x4.add(%s, %s)", s, x) })
	case accMax:
		x := name(n.a)
		w.accumulate(indent, n.i, q, func(s string) string {
			if left == "" {
				return fmt.Sprintf("f32x4.pmax(%s, %s)", s, x)
			}
			return fmt.Sprintf("v128.bitselect(%s, %s, v128.and(f32x4.gt(%s, %s), there))", x, s, x, s)
		})
	default:
		let("%s(%s, %s)", tsBin[n.op], name(n.a), name(n.b))
	}
}

func wasm(all []*kernel) string {
	var b strings.Builder
	b.WriteString("// The engine's loops over blocks of elements, for browsers; z_vec_op.go lists them.\n//\n" + header[:len(header)-1] + tsFields + tsHelpers)
	for _, k := range all {
		writeTS(&b, k)
	}
	b.WriteString("\n// vec does a loop by its number.\nexport function vec(op: i32, a: usize): void {\n  switch (op) {\n")
	for i, k := range all {
		fmt.Fprintf(&b, "    case %d:\n      %s(a);\n      break;\n", i, k.tsName())
	}
	b.WriteString("  }\n}\n")
	return b.String()
}
