//go:build !purego

package kernel

// transposeBlocks is transpose of the first rows and columns, whole blocks of eight columns
// and rows, or of sixteen rows.
func transposeBlocks(dst []float32, ds int, src []float32, ss, rows, cols int) (r, c int) {
	if !hasAVX2 || rows < 8 || cols < 8 && (rows < 16 || !hasAVX512) {
		return 0, 0
	}
	_, _ = src[(rows-1)*ss+cols-1], dst[(cols-1)*ds+rows-1]
	if hasAVX512 && rows >= 16 {
		// Blocks follow one another along the longer side.
		r = rows &^ 15
		if rows < cols {
			n := cols / 16
			for i := 0; i < r; i += 16 {
				turn16(n, ptr(src, i*ss), 4*16, 4*ss, 16, ptr(dst, i), 4*16*ds, 4*ds)
			}
			c = 16 * n
		}
		for ; c < cols; c += 16 {
			turn16(r/16, ptr(src, c), 4*16*ss, 4*ss, min(16, cols-c), ptr(dst, c*ds), 4*16, 4*ds)
		}
		return r, cols
	}
	var lines [8]int
	for i := range lines {
		lines[i] = 4 * i * ss
	}
	r, c = rows&^7, cols&^7
	// Eight lines of the output grow at a time where they are long: more of them, apart by
	// a power of two, would not stay in the first-level cache.
	step := c
	if rows > cols {
		step = 8
	}
	for j := 0; j < c; j += step {
		for i := 0; i < r; i += 8 {
			trans8(step/8, ptr(src, i*ss+j), &lines, ptr(dst, j*ds+i), 4*ds)
		}
	}
	return r, c
}

// apart is where sixteen lines begin that are step floats apart, in bytes.
func apart(step int) (lines [16]int) {
	for i := range lines {
		lines[i] = 4 * i * step
	}
	return lines
}

// evenBlocks copies every second float of src for the first outputs and returns their
// number.
func evenBlocks(dst, src []float32) int {
	n := min(len(dst)/8, len(src)/16)
	if !hasAVX2 || n == 0 {
		return 0
	}
	evens(n, &src[0], &dst[0])
	if rest := len(dst) - 8; len(src) >= 2*len(dst) { // the last eight, some of them again
		evens(1, &src[2*rest], &dst[rest])
		return len(dst)
	}
	return 8 * n
}

// zipBlocks writes the first floats of a and b to dst by turns and returns how many of
// each.
func zipBlocks(dst, a, b []float32) int {
	n := min(len(a), len(b), len(dst)/2) / 8
	if !hasAVX2 || n == 0 {
		return 0
	}
	zip(n, &a[0], &b[0], &dst[0])
	return 8 * n
}
