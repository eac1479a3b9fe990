//go:build !purego

// Dispatch to the generated microkernels of gemm_amd64.s.

package kernel

import "golang.org/x/sys/cpu"

// What this machine has, decided once.
var (
	hasAVX512 = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA
)

// micro is the signature of a microkernel; strides in bytes.
type micro func(kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc int, acc int, mask uint64)

var microZ = [8][3]micro{
	{gemmZ1x1, gemmZ1x2, gemmZ1x3},
	{gemmZ2x1, gemmZ2x2, gemmZ2x3},
	{gemmZ3x1, gemmZ3x2, gemmZ3x3},
	{gemmZ4x1, gemmZ4x2, gemmZ4x3},
	{gemmZ5x1, gemmZ5x2, gemmZ5x3},
	{gemmZ6x1, gemmZ6x2, gemmZ6x3},
	{gemmZ7x1, gemmZ7x2, gemmZ7x3},
	{gemmZ8x1, gemmZ8x2, gemmZ8x3},
}

var microY = [6][2]micro{
	{gemmY1x1, gemmY1x2},
	{gemmY2x1, gemmY2x2},
	{gemmY3x1, gemmY3x2},
	{gemmY4x1, gemmY4x2},
	{gemmY5x1, gemmY5x2},
	{gemmY6x1, gemmY6x2},
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

var tileAVX512 = &tiling{mr: 8, nv: 3, vw: 16, masks: true, run: func(mr, nv, kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc int, acc bool, mask uint64) {
	microZ[mr-1][nv-1](kc, a, ars, aks, b, bks, c, ldc, asInt(acc), mask)
}}

var tileAVX2 = &tiling{mr: 6, nv: 2, vw: 8, run: func(mr, nv, kc int, a *float32, ars, aks int, b *float32, bks int, c *float32, ldc int, acc bool, mask uint64) {
	microY[mr-1][nv-1](kc, a, ars, aks, b, bks, c, ldc, asInt(acc), mask)
}}

func init() {
	switch {
	case hasAVX512:
		tile = tileAVX512
	case hasAVX2:
		tile = tileAVX2
	}
}

// tilings lists what this machine can run, for tests.
func tilings() map[string]*tiling {
	m := map[string]*tiling{"portable": nil}
	if hasAVX512 {
		m["avx512"] = tileAVX512
	}
	if hasAVX2 {
		m["avx2"] = tileAVX2
	}
	return m
}
