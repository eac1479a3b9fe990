//go:build !amd64 || purego

package kernel

// multiplyPairs: only AVX512-BF16 has kernels of pairs.
func (*GemmArgs) multiplyPairs(*tiling, []float32) bool { return false }

func (*GemmArgs) finishAsm(_, _, _, _ int) bool { return false }
