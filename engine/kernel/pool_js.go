//go:build !purego

// Pooling in a browser's module (wasm/kernel/pool.ts).

package kernel

import (
	"runtime"
	"unsafe"
)

//go:wasmimport kernel maxPool
//go:noescape
func wasmMaxPool(a unsafe.Pointer)

//go:wasmimport kernel maxPoolGrad
//go:noescape
func wasmMaxPoolGrad(planes int32, dx unsafe.Pointer, plane int32, dy, arg unsafe.Pointer, out int32)

// poolArgs is a Pool and its slices as the module reads them.
type poolArgs struct {
	planes, h, w           int32
	kh, kw, sh, sw, pt, pl int32
	oh, ow                 int32
	x, y, arg              uint32
}

// maxFast is a vectorised MaxPool. It reports whether it applied.
func maxFast(p *Pool, y, x []float32, arg []int32, _ bool) bool {
	if !vecModule {
		return false
	}
	a := poolArgs{
		planes: int32(p.N * p.C), h: int32(p.H), w: int32(p.W),
		kh: int32(p.KH), kw: int32(p.KW), sh: int32(p.SH), sw: int32(p.SW), pt: int32(p.PT), pl: int32(p.PL),
		oh: int32(p.OH), ow: int32(p.OW),
		x: address(x), y: address(y), arg: uint32(uintptr(unsafe.Pointer(unsafe.SliceData(arg)))),
	}
	wasmMaxPool(unsafe.Pointer(&a))
	runtime.KeepAlive(x)
	runtime.KeepAlive(y)
	runtime.KeepAlive(arg)
	return true
}

// maxGradFast is a vectorised MaxPoolGrad. It reports whether it applied.
func maxGradFast(p *Pool, dx, dy []float32, arg []int32) bool {
	if vecModule {
		clear(dx)
		wasmMaxPoolGrad(int32(p.N*p.C), unsafe.Pointer(&dx[0]), int32(p.H*p.W), unsafe.Pointer(&dy[0]), unsafe.Pointer(&arg[0]), int32(p.OH*p.OW))
	}
	return vecModule
}
