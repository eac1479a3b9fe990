//go:build (!amd64 && !js) || purego

package kernel

// transposeBlocks transposes no rows and columns: this machine has no faster way.
func transposeBlocks([]float32, int, []float32, int, int, int) (rows, cols int) { return 0, 0 }

func evenBlocks(_, _ []float32) int { return 0 }

func zipLines(int, int, []float32, int, []float32, []float32, int) int { return 0 }
