//go:build (!amd64 && !js) || purego

package kernel

// maxGradApart is MaxPoolGrad where windows do not overlap, if this machine is faster at it.
func maxGradApart(*Pool, []float32, []float32, []int32) bool { return false }
