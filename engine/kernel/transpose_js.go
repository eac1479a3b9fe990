//go:build !purego

// The loops of a browser's module (wasm/kernel/transpose.ts).

package kernel

import "unsafe"

//go:wasmimport kernel transpose
//go:noescape
func wasmTranspose(dst unsafe.Pointer, ds int32, src unsafe.Pointer, ss, rows, cols int32)

//go:wasmimport kernel evens
//go:noescape
func wasmEvens(dst, src unsafe.Pointer, n int32)

//go:wasmimport kernel zip
//go:noescape
func wasmZip(dst, a, b unsafe.Pointer, n int32)

//go:wasmimport kernel mask
//go:noescape
func wasmMask(dst unsafe.Pointer, words int32, s unsafe.Pointer, block, high, drop uint32)

// transposeBlocks transposes the leading rows and columns, in whole blocks of 4x4, and returns
// how many.
func transposeBlocks(dst []float32, ds int, src []float32, ss, rows, cols int) (r, c int) {
	r, c = rows&^3, cols&^3
	if !vecModule || r == 0 || c == 0 {
		return 0, 0
	}
	_, _ = src[(rows-1)*ss+cols-1], dst[(cols-1)*ds+rows-1]
	wasmTranspose(unsafe.Pointer(&dst[0]), int32(4*ds), unsafe.Pointer(&src[0]), int32(4*ss), int32(r), int32(c))
	return r, c
}

// evenBlocks copies every second float of src to the first elements of dst and returns their
// number.
func evenBlocks(dst, src []float32) int {
	n := min(len(dst)/4, len(src)/8) * 4
	if !vecModule || n == 0 {
		return 0
	}
	wasmEvens(unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0]), int32(n))
	return n
}

// zipLines interleaves the first floats of lines of a and b, of n at most, and returns how many of
// each.
func zipLines(lines, n int, dst []float32, dpitch int, a, b []float32, pitch int) int {
	n &^= 3
	if !vecModule || n == 0 {
		return 0
	}
	for r := range lines {
		d := dst[r*dpitch:][:2*n]
		wasmZip(unsafe.Pointer(&d[0]), unsafe.Pointer(&a[r*pitch:][:n][0]), unsafe.Pointer(&b[r*pitch:][:n][0]), int32(n))
	}
	return n
}

// maskWords sets the bits of dst whose random numbers, from those of block on, are at least
// drop, and reports true if this machine has a loop for it. Numbers of blocks must not cross
// a multiple of 1<<32.
func maskWords(dst []uint32, s *Stream, block, drop uint64) bool {
	if vecModule {
		wasmMask(unsafe.Pointer(unsafe.SliceData(dst)), int32(len(dst)), unsafe.Pointer(s), uint32(block), uint32(block>>32), uint32(drop))
	}
	return vecModule
}
