// Reordering copies. Convolutions transpose to make images innermost, and with a stride of
// two they take every second column and interleave results again.

package kernel

// transpose sets dst[c*ds+r] to src[r*ss+c] for r < rows and c < cols.
func transpose(dst []float32, ds int, src []float32, ss, rows, cols int) {
	r0, c0 := transposeBlocks(dst, ds, src, ss, rows, cols)
	if r0 > 0 && c0 < cols {
		transposeGo(dst[c0*ds:], ds, src[c0:], ss, r0, cols-c0)
	}
	switch {
	case r0 == 0:
		transposeGo(dst, ds, src, ss, rows, cols)
	case r0 < rows:
		transpose(dst[r0:], ds, src[r0*ss:], ss, rows-r0, cols)
	}
}

func transposeGo(dst []float32, ds int, src []float32, ss, rows, cols int) {
	for r := range rows {
		for c, v := range src[r*ss:][:cols] {
			dst[c*ds+r] = v
		}
	}
}

// subsample copies every step-th float of src.
func subsample(dst, src []float32, step int) {
	i := 0
	if step == 2 {
		i = evenBlocks(dst, src)
	}
	for ; i < len(dst); i++ {
		dst[i] = src[i*step]
	}
}

// interleaveLines sets lines of n floats of dst to the elements of lines of even and odd
// alternately. Lines are dpitch and pitch floats apart.
func interleaveLines(lines, n int, dst []float32, dpitch int, even, odd []float32, pitch int) {
	done := zipLines(lines, n/2, dst, dpitch, even, odd, pitch)
	if 2*done == n {
		return
	}
	for r := range lines {
		d, e, o := dst[r*dpitch:][:n], even[r*pitch:], odd[r*pitch:]
		for i := done; i < n/2; i++ {
			d[2*i], d[2*i+1] = e[i], o[i]
		}
		if n%2 != 0 {
			d[n-1] = e[n/2]
		}
	}
}
