// Gradients of depthwise weights.
//
// Every weight is one chain of sums over all positions of all images, so a lane is a channel.
// Some lines at a time are transposed into a ring of lines with padding, which stays in the L1
// cache, where every line is read by the windows of all lines of the output that hold it.

package kernel

// depthWeightKernel continues the sums of some rows of a window, in the order of the window,
// for n positions of each of some lines. Each line has an offset in bytes from x for every row
// of the window, of which the kernel reads its own. A position of x is step bytes from the one
// before; gradients follow one another.
type depthWeightKernel func(lines, n int, x *float32, rows *int32, step int, dy, sums *float32)

// depthWeightInPlace is such a kernel for all rows of a window, where gradients lie as they are in
// planes plane bytes apart, for n >= leastSpread. The stride is its own.
type depthWeightInPlace func(lines, n int, x *float32, rows *int32, dy *float32, plane int, sums *float32)

// depthWeights are the kernels of a machine for a window.
type depthWeights struct {
	lanes int
	rows  []int // of the window, kernel by kernel
	run   []depthWeightKernel
	// spread sets the vector at dst+at[j], in bytes, to column j of as many rows as there are
	// lanes, row bytes apart, for j < cols.
	spread  func(cols int, src *float32, row int, at *int32, dst *float32)
	inPlace [2]depthWeightInPlace // by strides; nil if there is none
}

// leastSpread is the least number of columns of a spread.
const leastSpread = 4

// depthRing is the floats of lines that are meant to stay in the L1 cache.
const depthRing = 8 << 10

// depthGrad is the gradient of the weights with such kernels.
type depthGrad struct {
	*depthWeights
	c     Conv
	lines int // of dy at a time
	slots int // of the ring; one more has zeros
	pitch int // positions of a slot

	at, offs          []int32 // of the floats of a plane of x, of the rows of every window
	ring, grads, sums []float32
}

// depthGrad returns the plan of c; ok is false if there is no kernel for it.
func (c *Conv) depthGrad() (g depthGrad, ok bool) {
	g = depthGrad{depthWeights: depthWeightsFor(c.KH, c.KW), c: *c}
	if g.depthWeights == nil || c.DH*c.DW != 1 || c.C < g.lanes || c.W < leastSpread {
		return g, false
	}
	g.pitch = max(c.PL+c.W, (c.OW()-1)*c.SW+c.KW)
	line := g.lanes * (g.pitch*c.SH + c.OW())
	g.lines = max(1, min(c.OH(), (depthRing-g.lanes*g.pitch*c.KH)/line))
	g.slots = (g.lines-1)*c.SH + c.KH
	return g, true
}

// scratch is the floats that begin takes.
func (g *depthGrad) scratch() int {
	c := &g.c
	return maxLanes + (g.slots+1)*g.pitch*g.lanes + g.lines*c.OW()*g.lanes + c.KH*c.KW*g.lanes + c.H*c.W + c.OH()*c.KH
}

// begin takes memory from scratch and computes offsets.
func (g *depthGrad) begin(scratch []float32) {
	c := &g.c
	take := func(n int) (s []float32) {
		s, scratch = scratch[:n], scratch[n:]
		return s
	}
	scratch = aligned(scratch)
	slot := g.pitch * g.lanes
	g.ring, g.grads, g.sums = take((g.slots+1)*slot), take(g.lines*c.OW()*g.lanes), take(c.KH*c.KW*g.lanes)
	g.at, g.offs = ints(take(c.H*c.W)), ints(take(c.OH()*c.KH))
	clear(g.ring)
	for y := range c.H {
		for x := range c.W {
			g.at[y*c.W+x] = int32(4 * (y%g.slots*slot + (c.PL+x)*g.lanes))
		}
	}
	for i := range g.offs {
		y := i/c.KH*c.SH - c.PT + i%c.KH
		if y < 0 || y >= c.H {
			y = g.slots
		} else {
			y %= g.slots
		}
		g.offs[i] = int32(4 * y * slot)
	}
}

// weight computes channels [from,to) of a task.
func (g *depthGrad) weight(j *depthwiseTask, scratch []float32, from, to int) {
	c := &g.c
	in, out, k := c.H*c.W, c.OH()*c.OW(), c.KH*c.KW
	g.begin(scratch)
	for c0 := from; c0 < to; c0 += g.lanes {
		// The last channels come with some before them, whose sums are dropped.
		n, first := min(g.lanes, to-c0), min(c0, c.C-g.lanes)
		own := g.sums[c0-first:]
		clear(g.sums)
		if j.acc {
			transpose(own, g.lanes, j.w[c0*k:], k, n, k)
		}
		for i := range c.N {
			g.image(j.x[(i*c.C+first)*in:], j.y[(i*c.C+first)*out:])
		}
		transpose(j.w[c0*k:], k, own, g.lanes, k, n)
	}
}

// image adds an image.
func (g *depthGrad) image(x, dy []float32) {
	c := &g.c
	in, ow, done := c.H*c.W, c.OW(), 0
	plane := c.OH() * ow
	_, _ = x[g.lanes*in-1], dy[g.lanes*plane-1]
	for oy := 0; oy < c.OH(); oy += g.lines {
		lines := min(g.lines, c.OH()-oy)
		if end := min(c.H, (oy+lines-1)*c.SH-c.PT+c.KH); end > done {
			g.spread((end-done)*c.W, &x[done*c.W], 4*in, &g.at[done*c.W], &g.ring[0])
			done = end
		}
		if s := c.SW - 1; s < 2 && g.inPlace[s] != nil && ow >= leastSpread {
			g.inPlace[s](lines, ow, &g.ring[0], &g.offs[oy*c.KH], &dy[oy*ow], 4*plane, &g.sums[0])
			continue
		}
		transpose(g.grads, g.lanes, dy[oy*ow:], plane, g.lanes, lines*ow)
		row := 0
		for i, run := range g.run {
			run(lines, ow, &g.ring[0], &g.offs[oy*c.KH+row], 4*c.SW*g.lanes, &g.grads[0], &g.sums[row*c.KW*g.lanes])
			row += g.rows[i]
		}
	}
}
