//go:build !amd64 || purego

package kernel

// padLanes are the lanes of a vector of a padCopy: there is no kernel.
func padLanes() (lanes, ints int) { return 0, 0 }

func (*padCopy) run([]float32, []int32, []float32) { panic("kernel: no padded copy here") }
