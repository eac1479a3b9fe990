//go:build !js || purego

package kernel

// inModule is for browsers only.
func (*GemmArgs) inModule([]float32) { panic("kernel: no module here") }

func (*gemmTask) inModule() bool { panic("kernel: no module here") }

func (*depthwiseTask) inModule([]float32, int, int) bool { return false }

func mostThreads() int { return maxThreads }
