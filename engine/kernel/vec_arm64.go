//go:build !purego

// Dispatch to the generated loops of z_vec_arm64.s. Every arm64 machine has NEON.

package kernel

import "unsafe"

//go:noescape
func vecN(op vecOp, a *vecArgs)

// vecNEON enables the loops; tests turn it off.
var vecNEON = true

// vec runs op and reports true if this machine has it.
func vec(op vecOp, a *vecArgs) bool {
	if !vecNEON || op >= vecWide {
		return false
	}
	vecN(op, a)
	return true
}

//go:noescape
func maskN(dst *uint32, words int, s *Stream, block, drop uint64)

// maskWords sets the bits of dst whose random numbers, from those of block on, are at least
// drop, and reports true if this machine has a loop for it. Numbers of blocks must not cross
// a multiple of 1<<32.
func maskWords(dst []uint32, s *Stream, block, drop uint64) bool {
	if vecNEON {
		maskN(unsafe.SliceData(dst), len(dst), s, block, drop)
	}
	return vecNEON
}

// vecForms lists the implementations of this machine for tests, with a function that selects
// each.
func vecForms() map[string]func() {
	use := func(on bool) func() { return func() { vecNEON = on } }
	return map[string]func(){"portable": use(false), "neon": use(true)}
}
