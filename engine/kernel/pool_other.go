//go:build (!amd64 && !js) || purego

package kernel

// maxFast is a vectorised MaxPool. It reports whether it applied.
func maxFast(*Pool, []float32, []float32, []int32, bool) bool { return false }

// maxGradFast is a vectorised MaxPoolGrad. It reports whether it applied.
func maxGradFast(*Pool, []float32, []float32, []int32) bool { return false }
