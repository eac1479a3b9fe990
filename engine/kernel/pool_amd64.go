//go:build !purego

package kernel

import "unsafe"

// maxFast is a vectorised MaxPool. It reports whether it applied.
func maxFast(p *Pool, y, x []float32, arg []int32, inside bool) bool {
	lanes := 8
	switch {
	case vecAVX512:
		lanes = 16
	case !vecAVX2:
		return false
	}
	if !inside {
		return maxPadded(p, y, x, arg, lanes)
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

// maxPadded is maxFast where some windows reach into padding. The others are computed in vectors,
// if there are enough of them in a row.
func maxPadded(p *Pool, y, x []float32, arg []int32, lanes int) bool {
	first := func(stride, pad int) int { return (pad + stride - 1) / stride }
	end := func(n, k, stride, pad, out int) int { return min(out, max(0, n+pad-k+stride)/stride) }
	y0, y1 := first(p.SH, p.PT), end(p.H, p.KH, p.SH, p.PT, p.OH)
	x0, x1 := first(p.SW, p.PL), end(p.W, p.KW, p.SW, p.PL, p.OW)
	if x1-x0 < lanes/2 {
		return false
	}
	size := p.H * p.W
	for i := range p.N * p.C * p.OH {
		oy, plane := i%p.OH, x[i/p.OH*size:][:size]
		line, at := y[i*p.OW:][:p.OW], from(arg, i*p.OW)
		if oy < y0 || oy >= y1 {
			p.maxLine(line, plane, at, oy, 0)
			continue
		}
		p.maxLine(line[:x0], plane, at, oy, 0)
		for ox := x0; ox < x1; ox += lanes {
			maxRun(p, line[ox:], plane, from(at, ox), (oy*p.SH-p.PT)*p.W+ox*p.SW-p.PL, min(lanes, x1-ox), lanes)
		}
		p.maxLine(line[x1:], plane, from(at, x1), oy, x1)
	}
	return true
}

// maxRun computes n <= lanes windows of a plane that follow one another, the first at offset off.
func maxRun(p *Pool, y, plane []float32, arg []int32, off, n, lanes int) {
	var offs, shift [16]int32
	for l := range offs[:n] {
		offs[l] = int32(off + l*p.SW)
	}
	switch span := (n-1)*p.SW + p.KW; {
	case lanes == 16 && span <= 64:
		windowMaxNearZ(1, &plane[0], 0, &offs[0], &shift[0], n, span, p.KH, p.KW, p.W, &y[0], unsafe.SliceData(arg), 0)
	case lanes == 16:
		windowMaxZ(1, &plane[0], 0, &offs[0], &shift[0], n, p.KH, p.KW, p.W, &y[0], unsafe.SliceData(arg), 0)
	default:
		windowMaxY(1, &plane[0], 0, &offs[0], &shift[0], n, p.KH, p.KW, p.W, &y[0], unsafe.SliceData(arg), 0)
	}
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
