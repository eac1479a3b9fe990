// This file exists to write the microkernels of products for browsers: each tile keeps its
// sums in variables, which AssemblyScript cannot index.

package loop

import (
	"fmt"
	"strings"
)

// form says how a tile addresses its operands.
type form struct {
	name, doc string
	params    string
	before    string // once
	vector    string // the address of row k of B
	next      string // after each k
	// row is the address of float (i,k) of A; "" is a vector for each of B's, in which
	// case rows are those of B and A is what they share.
	start, row, step string
}

var forms = []form{
	{
		name: "", doc: "from a panel",
		params: "a: usize, ars: i32, aks: i32, b: usize, bks: i32",
		vector: "b", next: "b += bks",
		start: "a + %d * ars", row: "a%d", step: "a%d += aks",
	},
	{
		name: "Windows", doc: "from windows in place; rowAt are their offsets",
		params: "a: usize, ars: i32, aks: i32, b: usize, rowAt: usize",
		before: "const p = b + (load<i32>(rowAt) << 2);",
		vector: "p", next: "rowAt += 4",
		start: "a + %d * ars", row: "a%d", step: "a%d += aks",
	},
	{
		name: "Points", doc: "of which A are windows in place: float (i,k) is at rowAt[i]+colAt[k]",
		params: "a: usize, rowAt: usize, colAt: usize, b: usize, bks: i32",
		before: "const at = load<i32>(colAt) << 2;",
		vector: "b", next: "b += bks, colAt += 4",
		start: "a + (load<i32>(rowAt + %d * 4) << 2)", row: "a%d + at",
	},
	{
		name: "Lanes", doc: "lane by lane: a vector of A, which all rows share, times one of windows",
		params: "b: usize, rowAt: usize, rstep: i32, colAt: usize, cstep: i32, a: usize, next: i32",
		before: "const at = load<i32>(colAt) << 2;",
		vector: "a", next: "a += next, colAt += cstep",
		start: "b + (load<i32>(rowAt + %d * rstep) << 2)", row: "a%d + at",
	},
}

// writeTile writes a tile of rows by vectors of four columns, of which the last has last
// lanes.
func writeTile(b *strings.Builder, f *form, rows, vectors int) {
	line := func(indent int, format string, a ...any) {
		fmt.Fprintf(b, strings.Repeat("  ", indent)+format+"\n", a...)
	}
	each := func(f func(r, v int) string) string {
		var all []string
		for r := range rows {
			for v := range vectors {
				all = append(all, f(r, v))
			}
		}
		return strings.Join(all, ", ")
	}
	byRow := func(format string) string {
		var all []string
		for r := range rows {
			all = append(all, fmt.Sprintf(format, r))
		}
		return strings.Join(all, ", ")
	}
	line(0, "\n// tile%dx%d%s is %d rows of %d vectors %s.", rows, vectors, f.name, rows, vectors, f.doc)
	line(0, "export function tile%dx%d%s(kn: i32, %s, c: usize, ldc: i32, acc: i32, last: i32): void {", rows, vectors, f.name, f.params)
	line(1, "let %s;", each(func(r, v int) string { return fmt.Sprintf("s%d%d = f32x4.splat(0)", r, v) }))
	line(1, "const c0 = c%s;", func() (s string) {
		for r := 1; r < rows; r++ {
			s += fmt.Sprintf(", c%d = c%d + ldc", r, r-1)
		}
		return s
	}())
	at := func(r, v int) string { return fmt.Sprintf("c%d + %d", r, 16*v) }
	line(1, "if (acc) {")
	line(2, "%s;", each(func(r, v int) string {
		if v == vectors-1 {
			return fmt.Sprintf("s%d%d = take(%s, last)", r, v, at(r, v))
		}
		return fmt.Sprintf("s%d%d = v128.load(%s)", r, v, at(r, v))
	}))
	line(1, "}")
	var starts []string
	for r := range rows {
		starts = append(starts, fmt.Sprintf("a%d = "+f.start, r, r))
	}
	let := "let"
	if f.step == "" {
		let = "const"
	}
	line(1, "%s %s;", let, strings.Join(starts, ", "))
	line(1, "for (let k = 0; k < kn; k++) {")
	if f.before != "" {
		line(2, "%s", f.before)
	}
	// Hold the shorter of A's column and B's row in variables, and stream the longer.
	switch {
	case f.name == "Lanes":
		for v := range vectors {
			line(2, "const x%d = v128.load(%s, %d);", v, f.vector, 16*v)
		}
		for r := range rows {
			for v := range vectors {
				line(2, "s%d%d = madd(x%d, v128.load("+f.row+", %d), s%[1]d%[2]d);", r, v, v, r, 16*v)
			}
		}
	case vectors > rows:
		for r := range rows {
			line(2, "const x%d = v128.load32_splat("+f.row+");", r, r)
		}
		for v := range vectors {
			line(2, "const y%d = v128.load(%s, %d);", v, f.vector, 16*v)
			for r := range rows {
				line(2, "s%d%d = madd(x%[1]d, y%[2]d, s%[1]d%[2]d);", r, v)
			}
		}
	default:
		for v := range vectors {
			line(2, "const y%d = v128.load(%s, %d);", v, f.vector, 16*v)
		}
		for r := range rows {
			line(2, "const x%d = v128.load32_splat("+f.row+");", r, r)
			for v := range vectors {
				line(2, "s%d%d = madd(x%[1]d, y%[2]d, s%[1]d%[2]d);", r, v)
			}
		}
	}
	if f.step != "" {
		line(2, "%s;", byRow(f.step))
	}
	line(2, "%s;", f.next)
	line(1, "}")
	line(1, "%s;", each(func(r, v int) string {
		if v == vectors-1 {
			return fmt.Sprintf("give(%s, s%d%d, last)", at(r, v), r, v)
		}
		return fmt.Sprintf("v128.store(%s, s%d%d)", at(r, v), r, v)
	}))
	line(0, "}")
}

const tilesHead = `// Microkernels of products: tiles of C as sums of outer products. Strides are in bytes.

` + header + `import { give, take } from "./lane";

// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (FUSED) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, b));
}
`

// tiles are the sizes of each form: [rows, vectors]. They fit 16 registers; with few rows
// there are enough vectors to hide the latency of an addition.
var tiles = [][][2]int{
	{{6, 2}, {5, 2}, {4, 2}, {3, 2}, {2, 2}, {1, 2}, {6, 1}, {5, 1}, {4, 1}, {3, 1}, {2, 1}, {1, 1}, {3, 4}, {2, 4}, {1, 8}},
	{{6, 2}, {5, 2}, {4, 2}, {3, 2}, {2, 2}, {1, 2}, {3, 4}, {2, 4}, {1, 8}},
	{{6, 2}, {3, 2}, {1, 2}},
	{{6, 2}, {3, 2}, {1, 2}},
}

// writePick writes the choice among a form's tiles.
func writePick(b *strings.Builder, f *form, sizes [][2]int) {
	var names []string
	for _, p := range strings.Split(f.params, ", ") {
		name, _, _ := strings.Cut(p, ":")
		names = append(names, name)
	}
	args := "kn, " + strings.Join(names, ", ") + ", c, ldc, acc, last"
	fmt.Fprintf(b, "\n// tile%s does the tile of rows by vectors.\n", f.name)
	fmt.Fprintf(b, "export function tile%s(rows: i32, vectors: i32, kn: i32, %s, c: usize, ldc: i32, acc: i32, last: i32): void {\n", f.name, f.params)
	b.WriteString("  switch (rows | (vectors << 3)) {\n")
	for _, s := range sizes {
		fmt.Fprintf(b, "    case %d:\n      tile%dx%d%s(%s);\n      break;\n", s[0]|s[1]<<3, s[0], s[1], f.name, args)
	}
	b.WriteString("  }\n}\n")
}

func tilesTS() string {
	var b strings.Builder
	b.WriteString(tilesHead)
	for i := range forms {
		for _, s := range tiles[i] {
			writeTile(&b, &forms[i], s[0], s[1])
		}
		writePick(&b, &forms[i], tiles[i])
	}
	return b.String()
}
