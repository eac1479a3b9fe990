//go:build !purego

package kernel

import "unsafe"

// maxInside is MaxPool where no window holds padding, if this machine is faster at it.
func maxInside(p *Pool, y, x []float32, arg []int32) bool {
	lanes := 8
	switch {
	case vecAVX512:
		lanes = 16
	case !vecAVX2:
		return false
	}
	plane, out := p.H*p.W, p.OH*p.OW
	var offs [16]int32
	for o := 0; o < out; o += lanes {
		n := min(lanes, out-o)
		for l := range n {
			offs[l] = int32((o+l)/p.OW*p.SH*p.W + (o+l)%p.OW*p.SW)
		}
		var at *int32
		if arg != nil {
			at = &arg[o]
		}
		if lanes == 16 {
			windowMaxZ(p.N*p.C, unsafe.SliceData(x), 4*plane, &offs[0], n, p.KH, p.KW, p.W, &y[o], at, 4*out)
		} else {
			windowMaxY(p.N*p.C, unsafe.SliceData(x), 4*plane, &offs[0], n, p.KH, p.KW, p.W, &y[o], at, 4*out)
		}
	}
	return true
}
