//go:build !purego

// Dispatch to the generated microkernels of z_gemm_arm64.s. Every arm64 machine has NEON
// with fused multiply-add.

package kernel

var tileNEON = &tiling{
	mr: 8, nv: 3, vw: 4,
	kernel: &[8][3]micro{
		{gemmN1x1, gemmN1x2, gemmN1x3},
		{gemmN2x1, gemmN2x2, gemmN2x3},
		{gemmN3x1, gemmN3x2, gemmN3x3},
		{gemmN4x1, gemmN4x2, gemmN4x3},
		{gemmN5x1, gemmN5x2, gemmN5x3},
		{gemmN6x1, gemmN6x2, gemmN6x3},
		{gemmN7x1, gemmN7x2, gemmN7x3},
		{gemmN8x1, gemmN8x2, gemmN8x3},
	},
}

func init() { tile = tileNEON }

// tilings lists the tilings of this machine for tests.
func tilings() map[string]*tiling {
	return map[string]*tiling{"portable": tilePortable, "neon": tileNEON}
}

func (g *GemmArgs) packAsm(p []float32, _, w, pc, kn, j, n int) { g.packGo(p, w, pc, kn, j, n) }
