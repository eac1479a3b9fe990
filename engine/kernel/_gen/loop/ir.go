// This file exists to describe loops independently of the machine.

package loop

import "math"

// kernel is the body of a loop over blocks of 16 elements: a graph of nodes, each an operation
// on all elements of a block.
type kernel struct {
	name, doc string
	// lanewise: parameters may be given for each lane, so they live in registers.
	lanewise bool
	// wide: the operations from round on may be used, which only AVX-512 has.
	wide   bool
	params int
	nodes  []node
}

// opcode is an operation on float32 values, int32 values or masks.
type opcode int

const (
	constant opcode = iota // imm
	param                  // parameter i
	load                   // block of slice i
	store                  // a to slice i
	add
	sub
	mul
	div
	lesser // b where a > b, else a; b is not zero
	larger // b where a < b, else a; b is not zero
	sqrt
	and
	or
	xor
	iadd
	isub
	shl       // by i
	sar       // by i
	gt        // mask
	lt        // mask
	ge        // mask
	igt       // mask
	ieq       // mask
	bits      // mask from the bit set
	keep      // b where the mask a is set, else +0
	drop      // b where the mask a is not set, else +0
	choose    // b where the mask a is set, else c
	accAdd    // sum i += a
	accMax    // sum i = a > sum ? a : sum
	round     // a to the nearest integer, ties to even; its zeros have the sign of a
	scale2    // a * 2^b, rounded once; +0 where there is a mask c and it is not set
	nlt       // mask: not a < b
	half      // bits of a in binary16
	acrossMax // the largest lane of a row that is one block, in every lane
	acrossAdd // the sum of such a row
)

// node is an operation on earlier nodes.
type node struct {
	op      opcode
	a, b, c int // nodes; -1: none
	i       int
	imm     uint32
}

// value is a node of a kernel under construction.
type value struct {
	k *kernel
	n int
}

func (k *kernel) node(n node) value {
	k.nodes = append(k.nodes, n)
	return value{k, len(k.nodes) - 1}
}

func (k *kernel) load(slice int) value { return k.node(node{op: load, a: -1, b: -1, c: -1, i: slice}) }
func (k *kernel) mask() value          { return k.node(node{op: bits, a: -1, b: -1, c: -1}) }
func (k *kernel) bits(u uint32) value {
	return k.node(node{op: constant, a: -1, b: -1, c: -1, imm: u})
}
func (k *kernel) num(f float64) value { return k.bits(math.Float32bits(float32(f))) }
func (k *kernel) param(i int) value {
	k.params = max(k.params, i+1)
	return k.node(node{op: param, a: -1, b: -1, c: -1, i: i})
}

func (k *kernel) store(slice int, x value) {
	k.node(node{op: store, a: x.n, b: -1, c: -1, i: slice})
}
func (k *kernel) sum(i int, x value) { k.node(node{op: accAdd, a: x.n, b: -1, c: -1, i: i}) }
func (k *kernel) max(i int, x value) { k.node(node{op: accMax, a: x.n, b: -1, c: -1, i: i}) }

func (x value) bin(op opcode, y value) value { return x.k.node(node{op: op, a: x.n, b: y.n, c: -1}) }
func (x value) add(y value) value            { return x.bin(add, y) }
func (x value) sub(y value) value            { return x.bin(sub, y) }
func (x value) mul(y value) value            { return x.bin(mul, y) }
func (x value) div(y value) value            { return x.bin(div, y) }
func (x value) lesser(y value) value         { return x.bin(lesser, y) }
func (x value) larger(y value) value         { return x.bin(larger, y) }
func (x value) and(y value) value            { return x.bin(and, y) }
func (x value) or(y value) value             { return x.bin(or, y) }
func (x value) xor(y value) value            { return x.bin(xor, y) }
func (x value) iadd(y value) value           { return x.bin(iadd, y) }
func (x value) isub(y value) value           { return x.bin(isub, y) }
func (x value) gt(y value) value             { return x.bin(gt, y) }
func (x value) lt(y value) value             { return x.bin(lt, y) }
func (x value) ge(y value) value             { return x.bin(ge, y) }
func (x value) igt(y value) value            { return x.bin(igt, y) }
func (x value) ieq(y value) value            { return x.bin(ieq, y) }
func (x value) keep(y value) value           { return x.bin(keep, y) }
func (x value) drop(y value) value           { return x.bin(drop, y) }
func (x value) sqrt() value                  { return x.k.node(node{op: sqrt, a: x.n, b: -1, c: -1}) }

func (x value) round() value      { return x.k.node(node{op: round, a: x.n, b: -1, c: -1}) }
func (x value) half() value       { return x.k.node(node{op: half, a: x.n, b: -1, c: -1}) }
func (x value) nlt(y value) value { return x.bin(nlt, y) }

// scale2 is x * 2^y where the mask is set, or everywhere where it is no node.
func (x value) scale2(y, mask value) value {
	return x.k.node(node{op: scale2, a: x.n, b: y.n, c: mask.n})
}

func (x value) shl(by int) value { return x.k.node(node{op: shl, a: x.n, b: -1, c: -1, i: by}) }

func (x value) sar(by int) value { return x.k.node(node{op: sar, a: x.n, b: -1, c: -1, i: by}) }

func (x value) acrossMax() value { return x.k.node(node{op: acrossMax, a: x.n, b: -1, c: -1}) }
func (x value) acrossAdd() value { return x.k.node(node{op: acrossAdd, a: x.n, b: -1, c: -1}) }
func (x value) choose(y, z value) value {
	return x.k.node(node{op: choose, a: x.n, b: y.n, c: z.n})
}

// slices tells which slices are read and which are written, and how many sums there are.
func (k *kernel) slices() (read, written [4]bool, sums int) {
	for _, n := range k.nodes {
		switch n.op {
		case load:
			read[n.i] = true
		case store:
			written[n.i] = true
		case accAdd, accMax:
			sums = max(sums, n.i+1)
		}
	}
	return read, written, sums
}

// lastUse gives, for each node, the last node that reads it.
func (k *kernel) lastUse() []int {
	last := make([]int, len(k.nodes))
	for i, n := range k.nodes {
		for _, a := range []int{n.a, n.b, n.c} {
			if a >= 0 {
				last[a] = i
			}
		}
	}
	return last
}
