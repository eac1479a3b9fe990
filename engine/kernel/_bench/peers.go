package main

/*
#cgo CXXFLAGS: -O3 -std=c++17 -fopenmp
#cgo LDFLAGS: -ldnnl -lopenblas -lgomp
#include "peers.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/ravnest/ravnest/engine/kernel"
)

func peerThreads(n int) { C.peer_threads(C.int(n)) }

// roofline describes what the machine can do at all.
func roofline() string {
	r := C.roofline()
	return fmt.Sprintf("this machine: %.0f GFLOP/s in vectors of 16 floats, %.0f of 8; GB/s: read %.1f, update %.1f, triad %.1f, copy %.1f", r.wide, r.narrow, r.read, r.update, r.triad, r.copy)
}

// peerGemm is a product as both libraries take it.
type peerGemm func(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32)

func openblas(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32) {
	C.openblas_gemm(bit(ta), bit(tb), C.int(m), C.int(n), C.int(k), floats(a), C.int(lda), floats(b), C.int(ldb), floats(c))
}

func onednn(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32) {
	C.onednn_gemm(bit(ta), bit(tb), C.int(m), C.int(n), C.int(k), floats(a), C.int(lda), floats(b), C.int(ldb), floats(c))
}

func bit(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func floats(s []float32) *C.float { return (*C.float)(unsafe.Pointer(&s[0])) }

// peer is a primitive of oneDNN on tensors of its own.
type peer struct{ handle unsafe.Pointer }

// newPeerProduct is a product in bfloat16 of operands that lie as given. It reports false if
// oneDNN has none here.
func newPeerProduct(ta, tb bool, m, n, k int) (peer, bool) {
	h := C.product_new(bit(ta), bit(tb), C.int(m), C.int(n), C.int(k))
	return peer{h}, h != nil
}

// newPeerConv is a convolution, in bfloat16 with half set. direction counts forward, data,
// weights. It reports false if oneDNN has no such convolution.
func newPeerConv(c *kernel.Conv, direction int, half bool) (peer, bool) {
	i := func(n int) C.int { return C.int(n) }
	p := C.struct_conv{
		n: i(c.N), c: i(c.C), h: i(c.H), w: i(c.W), o: i(c.O), oh: i(c.OH()), ow: i(c.OW()), kh: i(c.KH), kw: i(c.KW),
		sh: i(c.SH), sw: i(c.SW), pt: i(c.PT), pl: i(c.PL), pb: i(c.PB), pr: i(c.PR), dh: i(c.DH), dw: i(c.DW), groups: i(c.Groups),
	}
	h := C.conv_new(&p, i(direction), bit(half))
	return peer{h}, h != nil
}

func (p peer) run()   { C.primitive_run(p.handle) }
func (p peer) close() { C.primitive_free(p.handle) }
