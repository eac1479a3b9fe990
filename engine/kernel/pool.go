// Pooling over windows of [N,C,H,W].

package kernel

import (
	"fmt"
	"math"
)

// Pool describes windows of KH x KW with strides SH, SW over planes of H x W with padding of
// PT rows at the top and PL columns on the left. The padding at the bottom and on the right
// follows from the output size OH x OW. In floor mode OH is (H+2*PT-KH)/SH + 1 (PoolOut).
// Padding never is a maximum, and counts as zeros in an average.
type Pool struct {
	N, C, H, W     int
	KH, KW, SH, SW int
	PT, PL         int
	OH, OW         int
	// Exclude: padding does not count in an average.
	Exclude bool
}

// PoolOut is the output size in floor mode of a window k with the given stride and
// padding on both sides of n elements, 0 if it does not fit.
func PoolOut(n, k, stride, pad int) int {
	if n+2*pad < k {
		return 0
	}
	return (n+2*pad-k)/stride + 1
}

// Err says what is wrong with p, if anything. Every window must hold at least one
// element that is not padding.
func (p *Pool) Err() error {
	ok := func(n, k, s, pad, out int) bool {
		return n > 0 && k > 0 && s > 0 && pad >= 0 && pad < k && out > 0 && (out-1)*s-pad < n
	}
	if p.N < 0 || p.C < 1 || !ok(p.H, p.KH, p.SH, p.PT, p.OH) || !ok(p.W, p.KW, p.SW, p.PL, p.OW) {
		return fmt.Errorf("kernel: pool %+v has an empty window or a size that is not positive", *p)
	}
	return nil
}

// sizes checks p and returns the elements of x and y.
func (p *Pool) sizes() (in, out int) {
	if err := p.Err(); err != nil {
		panic(err)
	}
	return p.N * p.C * p.H * p.W, p.N * p.C * p.OH * p.OW
}

// span is the window [lo, hi) of output o, clipped to the n elements.
func span(o, stride, pad, k, n int) (lo, hi int) {
	lo = o*stride - pad
	return max(lo, 0), min(lo+k, n)
}

// MaxPool sets y [N,C,OH,OW] to the maximum of each window of x [N,C,H,W], and arg, where
// it is not nil, to the maximum's position in its plane of x, row*W + column. The first
// of equals in scan order wins; NaN beats all and a later NaN an earlier one, as in
// PyTorch.
func MaxPool(p *Pool, y, x []float32, arg []int32) {
	in, out := p.sizes()
	x, y = x[:in], y[:out]
	if arg != nil {
		arg = arg[:out]
	}
	inside := p.PT == 0 && p.PL == 0 && (p.OH-1)*p.SH+p.KH <= p.H && (p.OW-1)*p.SW+p.KW <= p.W
	if p.N > 0 && maxFast(p, y, x, arg, inside) {
		return
	}
	if inside && p.KH == 2 && p.KW == 2 && p.SH == 2 && p.SW == 2 && maxPool2(p, y, x, arg) {
		return
	}
	plane := p.H * p.W
	for o := 0; len(x) > 0; x = x[plane:] {
		for oy := range p.OH {
			p.maxLine(y[o:][:p.OW], x[:plane], from(arg, o), oy, 0)
			o += p.OW
		}
	}
}

// from is arg from i on, nil if arg is.
func from(arg []int32, i int) []int32 {
	if arg == nil {
		return nil
	}
	return arg[i:]
}

// maxLine is MaxPool for the windows of row oy of a plane from ox on, one for each of y.
func (p *Pool) maxLine(y, plane []float32, arg []int32, oy, ox int) {
	y0, y1 := span(oy, p.SH, p.PT, p.KH, p.H)
	for i := range y {
		x0, x1 := span(ox+i, p.SW, p.PL, p.KW, p.W)
		at := y0*p.W + x0
		m := plane[at]
		for r := y0; r < y1; r++ {
			for q, v := range plane[r*p.W+x0 : r*p.W+x1] {
				if v > m || v != v {
					m, at = v, r*p.W+x0+q
				}
			}
		}
		y[i] = m
		if arg != nil {
			arg[i] = int32(at)
		}
	}
}

// maxPool2 is MaxPool for 2x2 windows with stride 2. It reports false if x may have NaN; the
// result is invalid then. Comparisons select among bits, so that they compile to no branches.
func maxPool2(p *Pool, y, x []float32, arg []int32) bool {
	w, o := p.W, 0
	var t float32 // becomes NaN if x has one, or infinities of both signs
	for base := 0; base < len(x); base += p.H * w {
		for oy := range p.OH {
			k := int32(2 * oy * w)
			i := base + 2*oy*w
			for end := o + p.OW; o < end; o++ {
				a, b := x[i:i+2], x[i+w:i+w+2]
				a0, a1, b0, b1 := a[0], a[1], b[0], b[1]
				m, km := math.Float32bits(a0), k
				if u := math.Float32bits(a1); a1 > a0 {
					m, km = u, k+1
				}
				n, kn := math.Float32bits(b0), k+int32(w)
				if u := math.Float32bits(b1); b1 > b0 {
					n, kn = u, k+int32(w)+1
				}
				if math.Float32frombits(n) > math.Float32frombits(m) {
					m, km = n, kn
				}
				t += (a0 + a1) + (b0 + b1)
				y[o] = math.Float32frombits(m)
				if arg != nil {
					arg[o] = km
				}
				i += 2
				k += 2
			}
		}
	}
	return t == t
}

// MaxPoolGrad sets dx [N,C,H,W] to the sum, in ascending order of outputs and from +0, of
// the dy [N,C,OH,OW] whose maximum it was.
func MaxPoolGrad(p *Pool, dx, dy []float32, arg []int32) {
	in, out := p.sizes()
	dx, dy, arg = dx[:in], dy[:out], arg[:out]
	if p.N > 0 && maxGradFast(p, dx, dy, arg) {
		return
	}
	clear(dx)
	plane, n := p.H*p.W, p.OH*p.OW
	for ; len(dx) > 0; dx, dy, arg = dx[plane:], dy[n:], arg[n:] {
		d, g := dx[:plane], dy[:n]
		for i, k := range arg[:n] {
			d[k] += g[i]
		}
	}
}

// AvgPool sets y [N,C,OH,OW] to the mean of each window of x [N,C,H,W]: a sequential sum
// in scan order from +0, divided by the window's size, padding included
// (count_include_pad). Where the output is larger than in floor mode, the part of a
// window beyond a padding of PT (PL) at the far side does not count, as in PyTorch.
func AvgPool(p *Pool, y, x []float32) {
	in, out := p.sizes()
	x, y = x[:in], y[:out]
	plane := p.H * p.W
	o := 0
	for ; len(x) > 0; x = x[plane:] {
		for oy := range p.OH {
			y0, y1 := span(oy, p.SH, p.PT, p.KH, p.H)
			for ox := range p.OW {
				x0, x1 := span(ox, p.SW, p.PL, p.KW, p.W)
				var s float32
				for r := y0; r < y1; r++ {
					for _, v := range x[r*p.W+x0 : r*p.W+x1] {
						s += v
					}
				}
				y[o] = s / p.count(oy, ox)
				o++
			}
		}
	}
}

// count is the divisor of an average.
func (p *Pool) count(oy, ox int) float32 {
	if p.Exclude {
		y0, y1 := span(oy, p.SH, p.PT, p.KH, p.H)
		x0, x1 := span(ox, p.SW, p.PL, p.KW, p.W)
		return float32((y1 - y0) * (x1 - x0))
	}
	h := min(p.KH, p.H+p.PT-(oy*p.SH-p.PT))
	w := min(p.KW, p.W+p.PL-(ox*p.SW-p.PL))
	return float32(h * w)
}

// AvgPoolGrad sets dx [N,C,H,W] to the sum, in ascending order of outputs and from +0, of
// dy / size over the windows that hold the element.
func AvgPoolGrad(p *Pool, dx, dy []float32) {
	in, out := p.sizes()
	dx, dy = dx[:in], dy[:out]
	clear(dx)
	plane := p.H * p.W
	o := 0
	for ; len(dx) > 0; dx = dx[plane:] {
		for oy := range p.OH {
			y0, y1 := span(oy, p.SH, p.PT, p.KH, p.H)
			for ox := range p.OW {
				x0, x1 := span(ox, p.SW, p.PL, p.KW, p.W)
				g := dy[o] / p.count(oy, ox)
				o++
				for r := y0; r < y1; r++ {
					d := dx[r*p.W+x0 : r*p.W+x1]
					for i := range d {
						d[i] += g
					}
				}
			}
		}
	}
}
