//go:build !amd64 || purego

package kernel

// tilings lists what this machine can run, for tests.
func tilings() map[string]*tiling { return map[string]*tiling{"portable": nil} }
