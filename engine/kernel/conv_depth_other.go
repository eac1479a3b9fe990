//go:build !amd64 || purego

package kernel

func planeKernelFor(int, int, bool, int) (planeKernel, int) { return nil, 0 }

func depthWeightsFor(int, int) *depthWeights { return nil }
