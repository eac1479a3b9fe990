//go:build !purego

package kernel

// transposeBlocks transposes the leading rows and columns, in whole blocks of 8x8 or of 16
// rows, and returns how many.
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
				trans16Strided(n, ptr(src, i*ss), 4*16, 4*ss, 16, ptr(dst, i), 4*16*ds, 4*ds)
			}
			c = 16 * n
		}
		for ; c < cols; c += 16 {
			trans16Strided(r/16, ptr(src, c), 4*16*ss, 4*ss, min(16, cols-c), ptr(dst, c*ds), 4*16, 4*ds)
		}
		return r, cols
	}
	var lines [8]int
	for i := range lines {
		lines[i] = 4 * i * ss
	}
	r, c = rows&^7, cols&^7
	// Where lines of the output are long, write eight at a time: more of them, a power of two
	// apart, would not stay in the L1 cache.
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

// rowOffsets are the offsets in bytes of sixteen rows that are step floats apart.
func rowOffsets(step int) (lines [16]int) {
	for i := range lines {
		lines[i] = 4 * i * step
	}
	return lines
}

// evenBlocks copies every second float of src to the first elements of dst and returns their
// number.
func evenBlocks(dst, src []float32) int {
	n := min(len(dst)/8, len(src)/16)
	if !hasAVX2 || n == 0 {
		return 0
	}
	evens(n, &src[0], &dst[0])
	if rest := len(dst) - 8; len(src) >= 2*len(dst) { // the last eight, overlapping
		evens(1, &src[2*rest], &dst[rest])
		return len(dst)
	}
	return 8 * n
}

// zipLines interleaves the first n floats of lines of a and b, and returns how many of each.
func zipLines(lines, n int, dst []float32, dpitch int, a, b []float32, pitch int) int {
	if !hasAVX2 || n < 8 || lines == 0 {
		return 0
	}
	last := lines - 1
	_, _, _ = dst[last*dpitch+2*n-1], a[last*pitch+n-1], b[last*pitch+n-1]
	zip(lines, n, &a[0], &b[0], 4*pitch, &dst[0], 4*dpitch)
	return n
}
