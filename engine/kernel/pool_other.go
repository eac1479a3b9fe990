//go:build (!amd64 && !js) || purego

package kernel

// maxFast is MaxPool if this machine is faster at it.
func maxFast(*Pool, []float32, []float32, []int32, bool) bool { return false }

// maxGradFast is MaxPoolGrad if this machine is faster at it.
func maxGradFast(*Pool, []float32, []float32, []int32) bool { return false }
