// Convolution over [N,C,H,W] as matrix products over unfolded windows.
//
// The specification is the plain loop in conv_test.go: every output element is one
// dot product,
//
//	forward           over (channel, kernel row, kernel column) ascending,
//	gradient of x     over (output channel, kernel row, kernel column) ascending,
//	gradient of w     over (image, output row, output column) ascending,
//
// where taps in the padding, and those that a stride skips, multiply by zero.

package kernel

import "fmt"

// Conv is the geometry of a convolution: x [N,C,H,W], w [O,C/Groups,KH,KW],
// y [N,O,OH,OW], strides, paddings (top, left, bottom, right) and dilations.
type Conv struct {
	N, C, H, W     int
	O, KH, KW      int
	SH, SW         int
	PT, PL, PB, PR int
	DH, DW         int
	Groups         int
}

// OH is the height of the output.
func (c *Conv) OH() int { return (c.H+c.PT+c.PB-c.DH*(c.KH-1)-1)/c.SH + 1 }

// OW is the width of the output.
func (c *Conv) OW() int { return (c.W+c.PL+c.PR-c.DW*(c.KW-1)-1)/c.SW + 1 }

// Sizes of the unfolded blocks: enough columns for the product's kernels, few enough
// floats for the second-level cache.
const (
	foldFloats = 96 << 10
	foldCols   = 192
)

// images is how many images of a batch are unfolded together, so that a product has
// some columns even where an image has few.
func images(n, rows, cols int) int {
	k := max(1, min(foldCols/max(cols, 1), foldFloats/max(rows*cols, 1)))
	return min(max(n, 1), k)
}

// lines is how many output lines of one image are unfolded together.
func lines(rows, h, w int) int {
	return min(h, max(1, max(foldFloats/max(rows*w, 1), foldCols/max(w, 1))))
}

func (c *Conv) check() {
	if c.N < 1 || c.Groups < 1 || c.C%c.Groups != 0 || c.O%c.Groups != 0 || c.OH() < 1 || c.OW() < 1 {
		panic(fmt.Sprintf("kernel: bad convolution %+v", *c))
	}
}

// plan of one direction: how the batch is cut and what scratch that takes.
type foldPlan struct {
	rows     int // of the unfolded matrix
	h, w     int // of the plane that the columns run over
	together int // images at once; 1: by lines
	lines    int // lines at once where together is 1
}

func newFold(n, rows, h, w int) foldPlan {
	f := foldPlan{rows: rows, h: h, w: w, together: images(n, rows, h*w), lines: h}
	if f.together == 1 {
		f.lines = lines(rows, h, w)
	}
	return f
}

func (f *foldPlan) cols() int { return f.together * f.lines * f.w }

// ConvScratch is the floats of scratch that the three directions need for up to c.N
// images.
func ConvScratch(c *Conv) int {
	cg, og, k := c.C/c.Groups, c.O/c.Groups, c.KH*c.KW
	fw := newFold(c.N, cg*k, c.OH(), c.OW())
	a := fw.rows*fw.cols() + og*fw.cols() + GemmScratch(og, fw.cols(), fw.rows)
	bd := newFold(c.N, og*k, c.H, c.W)
	b := bd.rows*bd.cols() + cg*bd.cols() + GemmScratch(cg, bd.cols(), bd.rows) + cg*og*k
	d := fw.rows*fw.cols() + og*fw.cols() + GemmScratch(og, fw.rows, fw.cols())
	return max(a, b, d)
}

// window is how an unfolded row finds its source.
type window struct {
	h, w   int // source plane
	dh, dw int // output plane
	sh, sw int // step of the source per step of the output
	ph, pw int // source = output*s + tap - p
	vh, vw int // only every v-th source position exists (the gradient of a strided convolution)
}

// unfold writes row r = (channel, kh, kw) of the columns for lines [y0,y1) of an image
// into dst[r*ld+at:].
func (v *window) unfold(dst []float32, ld, at int, src []float32, channels, kh, kw, th, tw, y0, y1 int) {
	r := 0
	plane := v.h * v.w
	for ch := range channels {
		s := src[ch*plane:][:plane]
		for a := range kh {
			for b := range kw {
				d := dst[r*ld+at:][:(y1-y0)*v.dw]
				r++
				for y := y0; y < y1; y++ {
					v.line(d[(y-y0)*v.dw:][:v.dw], s, y*v.sh+a*th-v.ph, b*tw-v.pw)
				}
			}
		}
	}
}

// line writes one line: element x comes from source line sy, position x*sw + sx.
func (v *window) line(d, s []float32, sy, sx int) {
	if sy < 0 || sy%v.vh != 0 || sy/v.vh >= v.h {
		clear(d)
		return
	}
	s = s[sy/v.vh*v.w:][:v.w]
	if v.sw == 1 && v.vw == 1 {
		lo := min(max(-sx, 0), len(d))
		hi := max(min(len(s)-sx, len(d)), lo)
		clear(d[:lo])
		copy(d[lo:hi], s[min(max(sx, 0), len(s)):])
		clear(d[hi:])
		return
	}
	for x := range d {
		p := x*v.sw + sx
		if p < 0 || p%v.vw != 0 || p/v.vw >= len(s) {
			d[x] = 0
		} else {
			d[x] = s[p/v.vw]
		}
	}
}

// ConvForward computes y = conv(x, w) + bias, then ReLU if asked; bias may be nil.
func ConvForward(t *Team, c *Conv, y, x, w, bias []float32, relu bool, scratch []float32) {
	c.check()
	cg, og, oh, ow := c.C/c.Groups, c.O/c.Groups, c.OH(), c.OW()
	v := window{h: c.H, w: c.W, dh: oh, dw: ow, sh: c.SH, sw: c.SW, ph: c.PT, pw: c.PL, vh: 1, vw: 1}
	f := newFold(c.N, cg*c.KH*c.KW, oh, ow)
	for gr := range c.Groups {
		var b []float32
		if bias != nil {
			b = bias[gr*og:][:og]
		}
		f.product(t, &v, product{
			n: c.N, a: w[gr*og*f.rows:][:og*f.rows], m: og, rowBias: b, relu: relu,
			dst: y[gr*og*oh*ow:], dstImage: c.O * oh * ow,
			src: x[gr*cg*c.H*c.W:], srcImage: c.C * c.H * c.W,
			channels: cg, kh: c.KH, kw: c.KW, th: c.DH, tw: c.DW,
		}, scratch)
	}
}

// ConvBackwardData computes the gradient of x from that of y.
func ConvBackwardData(t *Team, c *Conv, dx, dy, w, scratch []float32) {
	c.check()
	cg, og, oh, ow, k := c.C/c.Groups, c.O/c.Groups, c.OH(), c.OW(), c.KH*c.KW
	// Position (y,x) of the input meets tap (a,b) at output ((y+PT-a*DH)/SH, ...).
	v := window{h: oh, w: ow, dh: c.H, dw: c.W, sh: 1, sw: 1, ph: -c.PT, pw: -c.PL, vh: c.SH, vw: c.SW}
	f := newFold(c.N, og*k, c.H, c.W)
	turned, rest := scratch[:cg*og*k], scratch[cg*og*k:]
	for gr := range c.Groups {
		// w [og,cg,k] as a [cg, og*k].
		wg := w[gr*og*cg*k:]
		for ci := range cg {
			for o := range og {
				copy(turned[(ci*og+o)*k:][:k], wg[(o*cg+ci)*k:])
			}
		}
		f.product(t, &v, product{
			n: c.N, a: turned, m: cg,
			dst: dx[gr*cg*c.H*c.W:], dstImage: c.C * c.H * c.W,
			src: dy[gr*og*oh*ow:], srcImage: c.O * oh * ow,
			channels: og, kh: c.KH, kw: c.KW, th: -c.DH, tw: -c.DW,
		}, rest)
	}
}

// product is dst[m, columns] = a[m, rows] * unfold(src) for every image.
type product struct {
	n                  int
	a                  []float32
	m                  int
	rowBias            []float32
	relu               bool
	dst, src           []float32
	dstImage, srcImage int // floats from one image to the next
	channels           int
	kh, kw, th, tw     int
}

func (f *foldPlan) product(t *Team, v *window, p product, scratch []float32) {
	plane, ld := f.h*f.w, f.cols()
	cols, out, rest := scratch[:f.rows*ld], scratch[f.rows*ld:][:p.m*ld], scratch[(f.rows+p.m)*ld:]
	g := GemmArgs{M: p.m, K: f.rows, A: p.a, RS: f.rows, KS: 1, B: cols, BK: ld, BJ: 1, RowBias: p.rowBias, ReLU: p.relu}
	if f.together > 1 {
		for n0 := 0; n0 < p.n; n0 += f.together {
			k := min(f.together, p.n-n0)
			for i := range k {
				v.unfold(cols, ld, i*plane, p.src[(n0+i)*p.srcImage:], p.channels, p.kh, p.kw, p.th, p.tw, 0, f.h)
			}
			g.N, g.C, g.LDC = k*plane, out, ld
			Gemm(t, &g, rest)
			for i := range k {
				for r := range p.m {
					copy(p.dst[(n0+i)*p.dstImage+r*plane:][:plane], out[r*ld+i*plane:])
				}
			}
		}
		return
	}
	// A 1x1 window of stride 1 without padding is the plane itself.
	plain := p.kh*p.kw == 1 && v.sh*v.sw*v.vh*v.vw == 1 && v.ph == 0 && v.pw == 0 && v.h == f.h && v.w == f.w
	for n := range p.n {
		src, dst := p.src[n*p.srcImage:], p.dst[n*p.dstImage:]
		if plain {
			g.N, g.B, g.BK, g.C, g.LDC = plane, src, plane, dst, plane
			Gemm(t, &g, scratch)
			continue
		}
		for y0 := 0; y0 < f.h; y0 += f.lines {
			y1 := min(y0+f.lines, f.h)
			v.unfold(cols, ld, 0, src, p.channels, p.kh, p.kw, p.th, p.tw, y0, y1)
			g.N, g.C, g.LDC = (y1-y0)*f.w, dst[y0*f.w:], plane
			Gemm(t, &g, rest)
		}
	}
}

// ConvBackwardWeight computes the gradient of w from that of y; acc continues the dot
// products that are in dw.
func ConvBackwardWeight(t *Team, c *Conv, dw, dy, x []float32, acc bool, scratch []float32) {
	c.check()
	cg, og, oh, ow := c.C/c.Groups, c.O/c.Groups, c.OH(), c.OW()
	plane := oh * ow
	v := window{h: c.H, w: c.W, dh: oh, dw: ow, sh: c.SH, sw: c.SW, ph: c.PT, pw: c.PL, vh: 1, vw: 1}
	f := newFold(c.N, cg*c.KH*c.KW, oh, ow)
	ld := f.cols()
	cols, grads, rest := scratch[:f.rows*ld], scratch[f.rows*ld:][:og*ld], scratch[(f.rows+og)*ld:]
	for gr := range c.Groups {
		first := !acc
		g := GemmArgs{M: og, N: f.rows, KS: 1, B: cols, BK: 1, BJ: ld, C: dw[gr*og*f.rows:], LDC: f.rows}
		for n0 := 0; n0 < c.N; n0 += f.together {
			k := min(f.together, c.N-n0)
			for y0 := 0; y0 < oh; y0 += f.lines {
				y1 := min(y0+f.lines, oh)
				for i := range k {
					v.unfold(cols, ld, i*plane, x[((n0+i)*c.C+gr*cg)*c.H*c.W:], cg, c.KH, c.KW, c.DH, c.DW, y0, y1)
				}
				dyg := dy[(n0*c.O+gr*og)*plane:]
				if f.together > 1 {
					// The contracted index runs over several images: bring their gradients together.
					for i := range k {
						for o := range og {
							copy(grads[o*ld+i*plane:][:plane], dyg[(i*c.O+o)*plane:])
						}
					}
					g.A, g.RS = grads, ld
				} else {
					g.A, g.RS = dyg[y0*ow:], plane
				}
				g.K, g.Acc = k*(y1-y0)*ow, !first
				Gemm(t, &g, rest)
				first = false
			}
		}
	}
}
