//go:build (!amd64 && !js) || purego

package kernel

// laneWidth is the lanes of a vector of lanewise: this machine has no such kernel.
func laneWidth() int { return 0 }

func lanewise(int, []int32, int, int, []int32, int, []float32, []float32, []float32, bool) {
	panic("kernel: no lanewise product here")
}

func narrowLanes(int) int { return 0 }

func pointwise(int, int, []int32, int, []int32, []float32, []float32, []float32, bool) {
	panic("kernel: no pointwise product here")
}
