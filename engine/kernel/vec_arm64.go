//go:build !purego

// Dispatch to the generated loops of vec_arm64.s. Every arm64 machine has NEON.

package kernel

//go:noescape
func vecN(op vecOp, a *vecArgs)

// vecNEON says that vec may; tests turn it off.
var vecNEON = true

// vec does op if this machine has it.
func vec(op vecOp, a *vecArgs) bool {
	if !vecNEON || op >= vecWide {
		return false
	}
	vecN(op, a)
	return true
}

// maskWords sets the bits of the words' elements, the first of block, that are at least
// drop, if this machine has a loop for it.
func maskWords([]uint32, *Stream, uint64, uint64) bool { return false }

// vecForms lists what this machine can run, for tests: each call of use makes it so.
func vecForms() map[string]func() {
	use := func(on bool) func() { return func() { vecNEON = on } }
	return map[string]func(){"portable": use(false), "neon": use(true)}
}
