//go:build !purego

package kernel

//go:noescape
func maxGradZ(dx, dy *float32, arg *int32, planes, plane, out int, window, place *[64]int32)

// maxGradFast is MaxPoolGrad if this machine is faster at it: where windows do not overlap.
func maxGradFast(p *Pool, dx, dy []float32, arg []int32) bool {
	plane, out := p.H*p.W, p.OH*p.OW
	if !vecAVX512 || plane > 64 || out > 16 || p.SH < p.KH || p.SW < p.KW {
		return false
	}
	// Small planes go side by side, then those that are left over.
	side := min(64/plane, 16/out)
	var window, place [64]int32
	for i := range side * plane {
		oy, ox := (i%plane/p.W+p.PT)/p.SH, (i%p.W+p.PL)/p.SW
		if oy < p.OH && ox < p.OW {
			window[i], place[i] = int32(i/plane*out+oy*p.OW+ox), int32(i%plane)
		} else {
			place[i] = -1 // no window holds it
		}
	}
	run := func(first, planes, side int) {
		if planes*side > 0 {
			maxGradZ(&dx[first*plane], &dy[first*out], &arg[first*out], planes, side*plane, side*out, &window, &place)
		}
	}
	left := p.N * p.C % side
	run(0, p.N*p.C/side, side)
	run(p.N*p.C-left, 1, left)
	return true
}
