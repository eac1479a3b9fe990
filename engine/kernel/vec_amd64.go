//go:build !purego

// Dispatch to the generated loops of z_vec_amd64.s.

package kernel

import "unsafe"

//go:noescape
func vecZ(op vecOp, a *vecArgs)

//go:noescape
func vecY(op vecOp, a *vecArgs)

// vec runs op and reports true if this machine has it.
func vec(op vecOp, a *vecArgs) bool {
	switch {
	case vecAVX512:
		vecZ(op, a)
	case vecAVX2 && op < vecWide:
		vecY(op, a)
	default:
		return false
	}
	return true
}

//go:noescape
func maskZ(dst *uint32, words int, s *Stream, block, drop uint64)

//go:noescape
func maskY(dst *uint32, words int, s *Stream, block, drop uint64)

// maskWords sets the bits of dst whose random numbers, from those of block on, are at least
// drop, and reports true if this machine has a loop for it. Numbers of blocks must not cross
// a multiple of 1<<32.
func maskWords(dst []uint32, s *Stream, block, drop uint64) bool {
	switch {
	case vecAVX512:
		maskZ(unsafe.SliceData(dst), len(dst), s, block, drop)
	case vecAVX2:
		maskY(unsafe.SliceData(dst), len(dst), s, block, drop)
	default:
		return false
	}
	return true
}

// The instruction sets that the loops use; tests switch between them.
var vecAVX512, vecAVX2 = hasAVX512, hasAVX2

// vecForms lists the implementations of this machine for tests, with a function that selects
// each.
func vecForms() map[string]func() {
	use := func(z, y bool) func() { return func() { vecAVX512, vecAVX2 = z, y } }
	m := map[string]func(){"portable": use(false, false)}
	if hasAVX2 {
		m["avx2"] = use(false, true)
	}
	if hasAVX512 {
		m["avx512"] = use(true, true)
	}
	return m
}
