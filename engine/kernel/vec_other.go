//go:build (!amd64 && !arm64 && !js) || purego

package kernel

// vec does op if this machine has it.
func vec(vecOp, *vecArgs) bool { return false }

// maskWords sets the bits of the words' elements, the first of block, that are at least
// drop, if this machine has a loop for it.
func maskWords([]uint32, *Stream, uint64, uint64) bool { return false }

// vecForms lists what this machine can run, for tests.
func vecForms() map[string]func() { return map[string]func(){"portable": func() {}} }
