//go:build !purego

package kernel

import (
	"runtime"
	"unsafe"
)

//go:wasmimport kernel depthwise
//go:noescape
func wasmDepthwise(a unsafe.Pointer)

//go:wasmimport kernel pointwise
//go:noescape
func wasmPointwise(m int32, rows unsafe.Pointer, k int32, cols, a, b, c unsafe.Pointer, acc int32)

//go:wasmimport kernel lanewise
//go:noescape
func wasmLanewise(m int32, rows unsafe.Pointer, rstep, k int32, cols unsafe.Pointer, cstep int32, a, b, c unsafe.Pointer, acc int32)

// laneWidth is the lanes of a row of lanewise, 0 if this machine has no such kernel.
func laneWidth() int {
	if vecModule {
		return 16
	}
	return 0
}

// narrowLanes are the lanes for any number of filters.
func narrowLanes(int) int { return laneWidth() }

// pointwise is lanewise with one float of b, broadcast, in place of a row.
func pointwise(_, m int, rows []int32, k int, cols []int32, a, b, c []float32, acc bool) {
	_, _, _ = c[m*laneWidth()-1], a[k*laneWidth()-1], b[int(rows[m-1])+int(cols[k-1])]
	wasmPointwise(int32(m), unsafe.Pointer(&rows[0]), int32(k), unsafe.Pointer(&cols[0]), unsafe.Pointer(&a[0]), unsafe.Pointer(&b[0]), unsafe.Pointer(&c[0]), bit(acc))
}

// lanewise sets row i of c, i < m, to the sum over ascending k of row k of a times that of
// b at rows[i*rstep] + cols[k*cstep]; with acc it continues what is in c.
func lanewise(m int, rows []int32, rstep, k int, cols []int32, cstep int, a, b, c []float32, acc bool) {
	_, _, _ = c[m*laneWidth()-1], a[k*laneWidth()-1], b[int(rows[(m-1)*rstep])+int(cols[(k-1)*cstep])]
	wasmLanewise(int32(m), unsafe.Pointer(&rows[0]), int32(4*rstep), int32(k), unsafe.Pointer(&cols[0]), int32(4*cstep), unsafe.Pointer(&a[0]), unsafe.Pointer(&b[0]), unsafe.Pointer(&c[0]), bit(acc))
}

// planeArgs are the arguments of the module's depthwise (wasm/kernel/conv_depth.ts): one
// channel of some images, from planes of [h,w], xnext bytes apart, to planes of [oh,ow],
// ynext bytes apart.
type planeArgs struct {
	images        int32
	h, w, oh, ow  int32
	kh, kw        int32
	top, left     int32 // padding
	back          int32 // the gradient of x
	relu          int32
	x             uint32
	xnext         int32
	y             uint32
	ynext         int32
	weights       uint32
	bias, scratch uint32
}

// inModule computes channels [from,to), plane by plane, if the module can.
func (j *depthwiseTask) inModule(scratch []float32, from, to int) bool {
	c := &j.c
	back := j.direction == backwardData
	if j.direction == backwardWeight || c.DH*c.DW*c.SH*c.SW != 1 {
		return false
	}
	a := planeArgs{
		images: int32(c.N), h: int32(c.H), w: int32(c.W), oh: int32(c.OH()), ow: int32(c.OW()),
		kh: int32(c.KH), kw: int32(c.KW), top: int32(c.PT), left: int32(c.PL),
		back: bit(back), relu: bit(j.relu),
	}
	src, dst := j.x, j.y
	if back {
		src, dst = dst, src
		a.h, a.w, a.oh, a.ow = a.oh, a.ow, a.h, a.w
		a.top, a.left = a.kh-1-a.top, a.kw-1-a.left
	}
	in, out, k := int(a.h*a.w), int(a.oh*a.ow), c.KH*c.KW
	a.xnext, a.ynext = int32(4*c.C*in), int32(4*c.C*out)
	a.scratch = address(scratch)
	if len(scratch) < planeScratch(&a) {
		return false
	}
	for i := from; i < to; i++ {
		a.x, a.y, a.weights = address(src[i*in:]), address(dst[i*out:]), address(j.w[i*k:])
		if j.bias != nil {
			a.bias = address(j.bias[i:])
		}
		wasmDepthwise(unsafe.Pointer(&a))
	}
	runtime.KeepAlive(j)
	runtime.KeepAlive(scratch)
	return true
}

// planeScratch is the floats of scratch that the module needs.
func planeScratch(a *planeArgs) int {
	const chunk = 32
	kh, kw, oh, ow := int(a.kh), int(a.kw), int(a.oh), int(a.ow)
	pitch := ow + kw - 1
	return kh*kw + (oh+kh-1)*pitch + chunk + (oh-1)*pitch + ow + chunk
}
