//go:build (!amd64 && !arm64 && !js) || purego

package kernel

// vec runs op and reports true if this machine has it.
func vec(vecOp, *vecArgs) bool { return false }

// maskWords sets no bits: this machine has no loop for it.
func maskWords([]uint32, *Stream, uint64, uint64) bool { return false }

// vecForms lists the implementations of this machine for tests.
func vecForms() map[string]func() { return map[string]func(){"portable": func() {}} }
