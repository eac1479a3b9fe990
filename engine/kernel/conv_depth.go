// Depthwise convolutions on planes in place.
//
// Vectors run along a line: a tap reads the line at an offset, unaligned, and masks cut off
// what is padding. Nothing is copied. For windows of 3x3 and 5x5 with stride 1 or 2 the time
// is that of reading x and writing y.

package kernel

import "math"

// planeKernel computes one strip of columns, a vector wide, of all lines of y, for some
// images with the same weights. Distances are in bytes.
//
// With stride 1, each of the steps adds one line of x to the lines of y whose windows hold
// it, and completes one line of y. Steps [skip, skip+rows) have a line of x. Lines of x are
// xpitch apart, the floats of neighbouring taps xstep. With stride 2, each step is a line of
// y, and x begins skip lines above the first.
//
// masks has a vector for each tap along a line (with stride 2: two for each pair of taps),
// and then those of the stores, which are used if full is 0. The bias is added, and results
// below floor become floor.
type planeKernel func(images int, x *float32, xat, xnext, xpitch, xstep, skip, rows, steps int,
	w *float32, bias, floor float32, masks *int32, full int, y *float32, yat, ynext, ypitch int)

// planes are the windows of a depthwise convolution with this machine's kernel for them.
type planes struct {
	run          planeKernel
	lanes        int
	wide         int // columns of a strip
	strips       int
	masks        int // mask vectors of each strip
	x, y         axis
	c            *Conv
	back, halves bool // halves: the gradient of x with stride 2
}

// planes returns the windows of c in one direction; run is nil if there is no kernel.
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

// scratch is the floats that prepare takes.
func (p *planes) scratch() int {
	if p.run == nil {
		return 0
	}
	return p.strips * p.masks * p.lanes
}

// from is the first column of y in a strip. The last strip ends with the line if lines are
// long enough.
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

// within sets the lanes of mask to -1 whose column, counted from from, is in [0,n).
func within(mask []int32, from, n int) {
	for l := range mask {
		mask[l] = 0
		if i := from + l; i >= 0 && i < n {
			mask[l] = -1
		}
	}
}

// prepare computes the masks.
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

// taps returns, for the gradient of x with stride 2, the column of dy that the first even and
// the first odd tap read for columns from and from+1 of x.
func (p *planes) taps(from int) (even, odd int) {
	odd = p.c.PL % 2
	even = (from + odd + p.c.PL) / 2
	return even, even - odd
}

// plane computes one channel of all images; windows read x.
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
		case p.back: // from the last line to the first
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

// planes computes channels [from,to) of a task.
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
