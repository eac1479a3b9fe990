//go:build !amd64 || purego

package kernel

// multiplyPairs: only AVX512-BF16 has kernels of pairs.
func (*GemmArgs) multiplyPairs(*tiling, []float32) bool { return false }

// packA is for kernels of pairs.
func (*GemmArgs) packA([]float32, int, int) { panic("kernel: no kernels of pairs here") }

func (*GemmArgs) finishAsm(_, _, _, _ int) bool { return false }
