//go:build !purego

package kernel

// transposeBlocks is transpose of the first rows and columns, whole blocks of eight.
func transposeBlocks(dst []float32, ds int, src []float32, ss, rows, cols int) (r, c int) {
	if !hasAVX2 || rows < 8 || cols < 8 {
		return 0, 0
	}
	_, _ = src[(rows-1)*ss+cols-1], dst[(cols-1)*ds+rows-1]
	var lines [8]int
	for i := range lines {
		lines[i] = 4 * i * ss
	}
	for ; r+8 <= rows; r += 8 {
		trans8(cols/8, ptr(src, r*ss), &lines, ptr(dst, r), 4*ds)
	}
	return r, cols &^ 7
}
