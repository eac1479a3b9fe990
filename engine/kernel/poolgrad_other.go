//go:build (!amd64 && !js) || purego

package kernel

// maxGradFast is MaxPoolGrad if this machine is faster at it.
func maxGradFast(*Pool, []float32, []float32, []int32) bool { return false }
