//go:build (!amd64 && !arm64 && !js) || purego

package kernel

// tilings lists the tilings of this machine for tests.
func tilings() map[string]*tiling { return map[string]*tiling{"portable": tilePortable} }

func (g *GemmArgs) packAsm(p []float32, _, w, pc, kn, j, n int) { g.packGo(p, w, pc, kn, j, n) }
