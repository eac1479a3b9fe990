//go:build !purego

// The matrix product in a browser: a separate module (wasm/kernel/gemm.ts) computes it in
// this program's memory. The loader instantiates that module first and passes its functions
// as the imports below, so calls go straight from one module to the other.

package kernel

import (
	"runtime"
	"unsafe"
)

// level tells what the module supports: 0 nothing (its functions must not be called), 1 SIMD,
// 2 SIMD with fused multiply-add.
//
//go:wasmimport kernel level
func level() int32

//go:wasmimport kernel gemm
//go:noescape
func wasmGemm(job unsafe.Pointer)

// gemmJob is GemmArgs as the module reads it.
type gemmJob struct {
	m, n, k          int32
	a                uint32
	rs, ks           int32
	b                uint32
	bk, bj           int32
	c                uint32
	ldc, acc         int32
	rowBias, colBias uint32
	relu             int32
	scratch          uint32
	rows, cols       uint32 // of a convolution's windows, or 0
}

// address is the address of a slice, 0 for nil.
func address(s []float32) uint32 { return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(s)))) }

func bit(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// product is the job of the current call, which is over before another goroutine runs.
var product gemmJob

var tileWasm = &tiling{mr: 6, nv: 2, vw: 4, module: true}

func (g *GemmArgs) inModule(scratch []float32) {
	product.set(g, scratch)
	wasmGemm(unsafe.Pointer(&product))
	runtime.KeepAlive(g)
	runtime.KeepAlive(scratch)
}

func (j *gemmJob) set(g *GemmArgs, scratch []float32) {
	*j = gemmJob{
		m: int32(g.M), n: int32(g.N), k: int32(g.K),
		a: address(g.A), rs: int32(g.RS), ks: int32(g.KS),
		b: address(g.B), bk: int32(g.BK), bj: int32(g.BJ),
		c: address(g.C), ldc: int32(g.LDC), acc: bit(g.Acc),
		rowBias: address(g.RowBias), colBias: address(g.ColBias), relu: bit(g.ReLU),
		scratch: address(scratch),
		rows:    uint32(uintptr(unsafe.Pointer(unsafe.SliceData(g.rows)))), cols: uint32(uintptr(unsafe.Pointer(unsafe.SliceData(g.cols)))),
	}
}

func init() {
	if l := level(); l > 0 {
		tile, fused = tileWasm, l == 2
	}
}

// tilings lists the tilings of this machine for tests.
func tilings() map[string]*tiling {
	m := map[string]*tiling{"portable": tilePortable}
	if level() > 0 {
		m["wasm"] = tileWasm
	}
	return m
}

func (g *GemmArgs) packAsm(p []float32, _, w, pc, kn, j, n int) { g.packGo(p, w, pc, kn, j, n) }
