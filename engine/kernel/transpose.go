// Transposition: what convolutions of small planes do to bring a batch's images side by
// side.

package kernel

// transpose sets dst[c*ds+r] to src[r*ss+c] for r < rows and c < cols.
func transpose(dst []float32, ds int, src []float32, ss, rows, cols int) {
	r0, c0 := transposeBlocks(dst, ds, src, ss, rows, cols)
	for r := range rows {
		from := c0
		if r >= r0 {
			from = 0
		}
		line := src[r*ss:][:cols]
		for c := from; c < cols; c++ {
			dst[c*ds+r] = line[c]
		}
	}
}
