//go:build !amd64 || purego

package kernel

// vec does op if this machine has it.
func vec(vecOp, *vecArgs) bool { return false }

// vecForms lists what this machine can run, for tests.
func vecForms() map[string]func() { return map[string]func(){"portable": func() {}} }
