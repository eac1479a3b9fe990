//go:build !purego

package kernel

// laneWidth is the lanes of a vector of lanewise, 0 if this machine has no such kernel.
func laneWidth() int {
	switch {
	case vecAVX512:
		return 16
	case vecAVX2:
		return 8
	}
	return 0
}

// narrowLanes are the lanes for n filters. Vectors of 8 take half the time of those of 16.
func narrowLanes(n int) int {
	if vecAVX512 && n > 8 {
		return 16
	}
	return 8
}

// pointwise is lanewise with one float of b, broadcast, in place of a vector.
func pointwise(lanes, m int, rows []int32, k int, cols []int32, a, b, c []float32, acc bool) {
	_, _, _ = c[m*lanes-1], a[k*lanes-1], b[int(rows[m-1])+int(cols[k-1])]
	run := 0
	if acc {
		run = 1
	}
	if lanes == 16 {
		pointwiseZ(m, &rows[0], k, &cols[0], &a[0], &b[0], &c[0], run)
	} else {
		pointwiseY(m, &rows[0], k, &cols[0], &a[0], &b[0], &c[0], run)
	}
}

// lanewise sets vector i of c, i < m, to the sum over ascending k of vector k of a times
// the vector of b at rows[i*rstep] + cols[k*cstep]; with acc it continues what is in c.
func lanewise(m int, rows []int32, rstep, k int, cols []int32, cstep int, a, b, c []float32, acc bool) {
	_, _, _ = c[m*laneWidth()-1], a[k*laneWidth()-1], b[int(rows[(m-1)*rstep])+int(cols[(k-1)*cstep])]
	run := 0
	if acc {
		run = 1
	}
	if vecAVX512 {
		lanewiseZ(m, &rows[0], 4*rstep, k, &cols[0], 4*cstep, &a[0], &b[0], &c[0], run)
	} else {
		lanewiseY(m, &rows[0], 4*rstep, k, &cols[0], 4*cstep, &a[0], &b[0], &c[0], run)
	}
}

// planeKernels by instruction set, window (3, 5) and kind: stride 1, stride 2, gradient of x
// with stride 2.
var planeKernels = struct{ z, v, y [2][3]planeKernel }{
	z: [2][3]planeKernel{{dw3s1Z, dw3s2Z, dw3s2tZ}, {dw5s1Z, dw5s2Z, dw5s2tZ}},
	v: [2][3]planeKernel{{dw3s1V, dw3s2V, dw3s2tV}, {dw5s1V, dw5s2V, dw5s2tV}},
	y: [2][3]planeKernel{{dw3s1Y, dw3s2Y, dw3s2tY}, {dw5s1Y, dw5s2Y, dw5s2tY}},
}

// planeKernelFor returns the kernel for windows of k x k and lines of out results, and its
// lanes; nil if there is none.
func planeKernelFor(k, stride int, back bool, out int) (planeKernel, int) {
	kind := stride - 1
	if back && stride == 2 {
		kind = 2
	}
	switch {
	case k != 3 && k != 5 || stride > 2:
	case vecAVX512 && out > 8:
		return planeKernels.z[k/4][kind], 16
	case vecAVX512:
		return planeKernels.v[k/4][kind], 8
	case vecAVX2:
		return planeKernels.y[k/4][kind], 8
	}
	return nil, 0
}
