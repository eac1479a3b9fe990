//go:build !amd64 || purego

package codec

// vector says that there are loops faster than planes.go's.
var vector = false

func packGroups([]byte, []uint32, *columns) (done, n int) { return 0, 0 }

func unpackGroups([]uint32, []byte, int, int, *columns) bool { return false }

func splitGroups([]byte, []uint32, int, int) int { return 0 }

func mergeGroups([]uint32, *[maxPlanes][]byte, int) int { return 0 }
