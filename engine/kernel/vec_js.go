//go:build !purego

// The loops of a browser's module (wasm/kernel/z_vec.ts).

package kernel

import "unsafe"

//go:wasmimport kernel vec
//go:noescape
func wasmVec(op int32, a unsafe.Pointer)

// The module relies on these offsets of vecArgs. A difference makes the constant negative,
// which does not compile.
const (
	_ = -(unsafe.Offsetof(vecArgs{}.stride) ^ 8)
	_ = -(unsafe.Offsetof(vecArgs{}.n) ^ 16)
	_ = -(unsafe.Offsetof(vecArgs{}.p) ^ 24)
	_ = -(unsafe.Offsetof(vecArgs{}.bits) ^ 56)
	_ = -(unsafe.Offsetof(vecArgs{}.k) ^ 64)
	_ = -(unsafe.Offsetof(vecArgs{}.lanes) ^ 104)
	_ = -(unsafe.Offsetof(vecArgs{}.sums) ^ 112)
)

// vecModule enables the module; tests turn it off.
var vecModule = level() > 0

// vec runs op and reports true if the module has it.
func vec(op vecOp, a *vecArgs) bool {
	if !vecModule || op >= vecWide {
		return false
	}
	wasmVec(int32(op), unsafe.Pointer(a))
	return true
}

// vecForms lists the implementations of this machine for tests, with a function that selects
// each.
func vecForms() map[string]func() {
	use := func(on bool) func() { return func() { vecModule = on } }
	m := map[string]func(){"portable": use(false)}
	if level() > 0 {
		m["module"] = use(true)
	}
	return m
}
