//go:build !purego

package kernel

// depthWeightTable are the kernels by instruction set and window (3, 5, 7).
var depthWeightTable = struct{ z, y [3]depthWeights }{
	z: [3]depthWeights{
		{
			lanes: 16, spread: depthSpreadZ, rows: []int{3}, run: []depthWeightKernel{depthWeight3x3Z},
			inPlace: [2]depthWeightInPlace{depthWeightInPlace3s1, depthWeightInPlace3s2},
		},
		{lanes: 16, spread: depthSpreadZ, rows: []int{5}, run: []depthWeightKernel{depthWeight5x5Z}},
		{lanes: 16, spread: depthSpreadZ, rows: []int{4, 3}, run: []depthWeightKernel{depthWeight4x7Z, depthWeight3x7Z}},
	},
	y: [3]depthWeights{
		{lanes: 8, spread: depthSpreadY, rows: []int{3}, run: []depthWeightKernel{depthWeight3x3Y}},
		{lanes: 8, spread: depthSpreadY, rows: []int{3, 2}, run: []depthWeightKernel{depthWeight3x5Y, depthWeight2x5Y}},
		{lanes: 8, spread: depthSpreadY, rows: []int{2, 2, 2, 1}, run: []depthWeightKernel{depthWeight2x7Y, depthWeight2x7Y, depthWeight2x7Y, depthWeight1x7Y}},
	},
}

// depthWeightsFor returns the kernels for windows of kh x kw; nil if there are none.
func depthWeightsFor(kh, kw int) *depthWeights {
	switch {
	case kh != kw || kh != 3 && kh != 5 && kh != 7:
		return nil
	case vecAVX512:
		return &depthWeightTable.z[kh/2-1]
	case vecAVX2:
		return &depthWeightTable.y[kh/2-1]
	}
	return nil
}
