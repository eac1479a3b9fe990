// Filters for each channel on planes as they lie.
//
// A vector runs along a line: what a tap sees is the line some floats further, and masks
// leave out what is padding. Nothing is copied, and with windows of 3x3 or 5x5 that step by
// one or two the time is that of reading x and writing y.

package kernel

import "math"

// planeKernel does one strip of columns, a vector wide, of all lines of y, for some images
// with the same weights. Distances are in bytes.
//
// Where windows step by one it takes steps: in each a line of x is added to the lines of y
// that see it, from the one skip steps on and for rows of them, and one of y is done. The
// next line is xpitch further, what the next tap sees xstep. Where windows step by two each
// step is a line of y and x begins skip lines before the first.
//
// masks has a vector for each tap along a line (by two: two for each pair of them) and those
// of what is stored, which count if full is 0. bias is added, and what is below floor is
// floor.
type planeKernel func(images int, x *float32, xat, xnext, xpitch, xstep, skip, rows, steps int,
	w *float32, bias, floor float32, masks *int32, full int, y *float32, yat, ynext, ypitch int)

// planes are such windows and the kernel that this machine has for them.
type planes struct {
	run          planeKernel
	lanes        int
	wide         int // columns of a strip
	strips       int
	masks        int // vectors of each strip
	x, y         axis
	c            *Conv
	back, halves bool // the gradient of x, by two
}

// planes returns the windows of c in that direction; run is nil if there is no kernel.
func (c *Conv) planes(back bool) planes {
	v := c.windows()
	if back {
		v = c.windowsBack()
	}
	p := planes{x: v.x, y: v.y, c: c, back: back}
	k, stride := c.KH, c.SH
	if k != c.KW || stride != c.SW || c.DH*c.DW != 1 {
		return p
	}
	p.halves = back && stride == 2
	out := p.x.out
	if p.halves {
		out = c.W
	}
	p.run, p.lanes = planeKernelFor(k, stride, back, out)
	if p.run == nil {
		return p
	}
	p.wide, p.masks = p.lanes, k+1
	if stride == 2 {
		p.masks++
	}
	if p.halves {
		p.wide *= 2
	}
	p.strips = (out + p.wide - 1) / p.wide
	return p
}

// scratch is what prepare takes.
func (p *planes) scratch() int {
	if p.run == nil {
		return 0
	}
	return p.strips * p.masks * p.lanes
}

// from is the first column of y in a strip: the last ends where the line ends, if it can.
func (p *planes) from(strip int) (from int, full bool) {
	out := p.x.out
	if p.halves {
		out = p.c.W
	}
	from = max(0, min(strip*p.wide, out-p.wide))
	if p.halves {
		from += from % 2
	}
	return from, from+p.wide <= out
}

// within sets lanes to -1 whose column, from on, is one of n.
func within(mask []int32, from, n int) {
	for l := range mask {
		mask[l] = 0
		if i := from + l; i >= 0 && i < n {
			mask[l] = -1
		}
	}
}

// prepare lays out the masks.
func (p *planes) prepare(scratch []float32) []int32 {
	all := ints(scratch[:p.scratch()])
	k, n := p.c.KW, p.lanes
	for s := range p.strips {
		from, _ := p.from(s)
		mask := func(i, from, in int) { within(all[(s*p.masks+i)*n:][:n], from, in) }
		switch {
		case p.halves:
			even, odd := p.taps(from)
			for b := range k {
				mask(b, []int{even, odd}[b%2]-b/2, p.c.OW())
			}
			mask(k, from, p.c.W)
			mask(k+1, from+n, p.c.W)
		case p.c.SW == 2:
			for b := 0; b < k; b += 2 {
				mask(b, 2*from-p.c.PL+b, p.c.W)
				mask(b+1, 2*from-p.c.PL+b+n, p.c.W)
			}
			mask(k+1, from, p.x.out)
		default:
			for b := range k {
				mask(b, from+p.x.from+b*p.x.step, p.x.in)
			}
			mask(k, from, p.x.out)
		}
	}
	return all
}

// taps is where in a line of dy the first even and the first odd tap look that meet column
// from or the next one of x, by two.
func (p *planes) taps(from int) (even, odd int) {
	odd = p.c.PL % 2
	even = (from + odd + p.c.PL) / 2
	return even, even - odd
}

// plane does one channel of all images; x is what windows look at.
func (p *planes) plane(y, x, w []float32, bias, floor float32, masks []int32) {
	c := p.c
	in, out := p.x.in, p.x.out
	xplane, yplane := p.y.in*in, p.y.out*out
	if p.halves {
		out, yplane = c.W, c.H*c.W
	}
	_, _, _ = x[(c.N-1)*c.C*xplane+xplane-1], y[(c.N-1)*c.C*yplane+yplane-1], w[c.KH*c.KW-1]
	for s := range p.strips {
		from, whole := p.from(s)
		full := 0
		if whole {
			full = 1
		}
		xat, xpitch, xstep, yat, ypitch := 0, in, 1, from, out
		skip, rows, steps := c.PT, p.y.in, p.y.out
		switch {
		case p.halves:
			even, odd := p.taps(from)
			xat, xstep, steps = even, odd-even, c.H
		case c.SH == 2:
			xat = 2*from - c.PL - c.PT*in
		case p.back: // upwards
			steps += c.KH - 1
			skip = c.KH - 1 - c.PB
			rows += min(skip, 0)
			xat, xpitch, xstep = (rows-1)*in+from+p.x.from, -in, -1
			yat, ypitch = yplane-out+from, -out
			skip = max(skip, 0)
		default:
			steps += c.KH - 1
			xat = from + p.x.from
		}
		p.run(c.N, &x[0], 4*xat, 4*c.C*xplane, 4*xpitch, 4*xstep, skip, max(rows, 0), steps,
			&w[0], bias, floor, &masks[s*p.masks*p.lanes], full, &y[0], 4*yat, 4*c.C*yplane, 4*ypitch)
	}
}

// planes does the channels [from,to) of a task.
func (j *depthwiseTask) planes(p *planes, scratch []float32, from, to int) {
	masks := p.prepare(scratch)
	c, k := &j.c, j.c.KH*j.c.KW
	x, y, in, out := j.x, j.y, c.H*c.W, c.OH()*c.OW()
	if p.back {
		x, y, in, out = j.y, j.x, out, in
	}
	floor := float32(math.Inf(-1))
	if j.relu {
		floor = 0
	}
	for i := from; i < to; i++ {
		bias := float32(math.Copysign(0, -1)) // adding it changes nothing
		if j.bias != nil {
			bias = j.bias[i]
		}
		p.plane(y[i*out:], x[i*in:], j.w[i*k:], bias, floor, masks)
	}
}
