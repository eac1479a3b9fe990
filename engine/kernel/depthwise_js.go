//go:build !purego

package kernel

import "unsafe"

//go:wasmimport kernel pointwise
//go:noescape
func wasmPointwise(m int32, rows unsafe.Pointer, k int32, cols, a, b, c unsafe.Pointer, acc int32)

//go:wasmimport kernel lanewise
//go:noescape
func wasmLanewise(m int32, rows unsafe.Pointer, rstep, k int32, cols unsafe.Pointer, cstep int32, a, b, c unsafe.Pointer, acc int32)

// laneWidth is the floats of lanewise's rows, 0 if this machine has no such kernel.
func laneWidth() int {
	if vecModule {
		return 16
	}
	return 0
}

// pointwise is lanewise where the other factor is the float of b at that place.
func pointwise(m int, rows []int32, k int, cols []int32, a, b, c []float32, acc bool) {
	_, _, _ = c[m*laneWidth()-1], a[k*laneWidth()-1], b[int(rows[m-1])+int(cols[k-1])]
	wasmPointwise(int32(m), unsafe.Pointer(&rows[0]), int32(k), unsafe.Pointer(&cols[0]), unsafe.Pointer(&a[0]), unsafe.Pointer(&b[0]), unsafe.Pointer(&c[0]), bit(acc))
}

// lanewise sets row i of c, i < m, to the sum over ascending k of row k of a times that of
// b at rows[i*rstep] + cols[k*cstep]; with acc it continues what is in c.
func lanewise(m int, rows []int32, rstep, k int, cols []int32, cstep int, a, b, c []float32, acc bool) {
	_, _, _ = c[m*laneWidth()-1], a[k*laneWidth()-1], b[int(rows[(m-1)*rstep])+int(cols[(k-1)*cstep])]
	wasmLanewise(int32(m), unsafe.Pointer(&rows[0]), int32(4*rstep), int32(k), unsafe.Pointer(&cols[0]), int32(4*cstep), unsafe.Pointer(&a[0]), unsafe.Pointer(&b[0]), unsafe.Pointer(&c[0]), bit(acc))
}
