//go:build !purego

package kernel

// maxFast is a vectorised MaxPool for windows without padding. It reports whether it applied.
func maxFast(p *Pool, y, x []float32, arg []int32, inside bool) bool {
	lanes := 8
	switch {
	case !inside:
		return false
	case vecAVX512:
		lanes = 16
	case !vecAVX2:
		return false
	}
	plane, out := p.H*p.W, p.OH*p.OW
	// Small planes share a vector; the remaining ones follow.
	side := max(1, lanes/out)
	whole := p.N * p.C / side * side
	for _, part := range [][3]int{{0, whole / side, side}, {whole, 1, p.N*p.C - whole}} {
		first, planes, side := part[0], part[1], part[2]
		if planes*side == 0 {
			continue
		}
		var offs, shift [16]int32
		for o := 0; o < side*out; o += lanes {
			n := min(lanes, side*out-o)
			for l := range n {
				q, i := (o+l)/out, (o+l)%out
				shift[l] = int32(q * plane)
				offs[l] = shift[l] + int32(i/p.OW*p.SH*p.W+i%p.OW*p.SW)
			}
			var at *int32
			if arg != nil {
				at = &arg[first*out+o]
			}
			switch span := int(offs[n-1]-offs[0]) + p.KW; {
			case lanes == 16 && span <= 64:
				windowMaxNearZ(planes, &x[first*plane], 4*side*plane, &offs[0], &shift[0], n, span, p.KH, p.KW, p.W, &y[first*out+o], at, 4*side*out)
			case lanes == 16:
				windowMaxZ(planes, &x[first*plane], 4*side*plane, &offs[0], &shift[0], n, p.KH, p.KW, p.W, &y[first*out+o], at, 4*side*out)
			default:
				windowMaxY(planes, &x[first*plane], 4*side*plane, &offs[0], &shift[0], n, p.KH, p.KW, p.W, &y[first*out+o], at, 4*side*out)
			}
		}
	}
	return true
}

//go:noescape
func maxGradZ(dx, dy *float32, arg *int32, planes, plane, out int, window, place *[64]int32)

// maxGradFast is a vectorised MaxPoolGrad for windows that do not overlap. It reports whether
// it applied.
func maxGradFast(p *Pool, dx, dy []float32, arg []int32) bool {
	plane, out := p.H*p.W, p.OH*p.OW
	if !vecAVX512 || plane > 64 || out > 16 || p.SH < p.KH || p.SW < p.KW {
		return false
	}
	// Small planes share a vector; the remaining ones follow.
	side := min(64/plane, 16/out)
	var window, place [64]int32
	for i := range side * plane {
		oy, ox := (i%plane/p.W+p.PT)/p.SH, (i%p.W+p.PL)/p.SW
		if oy < p.OH && ox < p.OW {
			window[i], place[i] = int32(i/plane*out+oy*p.OW+ox), int32(i%plane)
		} else {
			place[i] = -1 // in no window
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
