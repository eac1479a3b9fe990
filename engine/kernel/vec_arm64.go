//go:build !purego

// Dispatch to the generated loops of z_vec_arm64.s. Every arm64 machine has NEON.

package kernel

import "unsafe"

//go:noescape
func vecN(op vecOp, a *vecArgs)

// vecNEON says that the loops may run; tests turn it off.
var vecNEON = true

// vec does op if this machine has it.
func vec(op vecOp, a *vecArgs) bool {
	if !vecNEON || op >= vecWide {
		return false
	}
	vecN(op, a)
	return true
}

//go:noescape
func maskN(dst *uint32, words int, s *Stream, block, drop uint64)

// maskWords sets the bits of the words' elements, the first of block, that are at least
// drop, if this machine has a loop for it. No number of a block may pass 1<<32.
func maskWords(dst []uint32, s *Stream, block, drop uint64) bool {
	if vecNEON {
		maskN(unsafe.SliceData(dst), len(dst), s, block, drop)
	}
	return vecNEON
}

// vecForms lists what this machine can run, for tests: each call of use makes it so.
func vecForms() map[string]func() {
	use := func(on bool) func() { return func() { vecNEON = on } }
	return map[string]func(){"portable": use(false), "neon": use(true)}
}
