//go:build !purego

// Dispatch to the generated loops of vec_amd64.s.

package kernel

//go:noescape
func vecZ(op vecOp, a *vecArgs)

//go:noescape
func vecY(op vecOp, a *vecArgs)

// vec does op if this machine has it.
func vec(op vecOp, a *vecArgs) bool {
	switch {
	case vecAVX512:
		vecZ(op, a)
	case vecAVX2:
		vecY(op, a)
	default:
		return false
	}
	return true
}

// What vec uses; tests switch between them.
var vecAVX512, vecAVX2 = hasAVX512, hasAVX2

// vecForms lists what this machine can run, for tests: each call of use makes it so.
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
