// Convolutions of one filter per group, which have too few rows for the tiles of a product.
//
// A depthwise convolution has one filter per channel: channels are made the innermost
// dimension, and each lane of a vector has a filter of its own.

package kernel

// depthwise reports whether c is depthwise and this machine has a kernel for it.
func (c *Conv) depthwise() bool {
	return c.Groups > 1 && c.Groups == c.C && c.C == c.O && laneWidth() > 0
}

// lanesOf turns the windows of one image into those of as many of its channels as a vector
// has lanes.
func lanesOf(v windows) windows {
	v.channels = 1
	v.setImagesInner(laneWidth())
	return v
}

// depthwiseScratch is ConvScratch.
func depthwiseScratch(c *Conv) int {
	f, b := lanesOf(c.windows()), lanesOf(c.windowsBack())
	pf, pb := c.planes(false), c.planes(true)
	n := max(f.scratch()+f.columns(), b.scratch()+(1+b.halves())*b.columns(), pf.scratch(), pb.scratch()) + c.KH*c.KW*laneWidth()
	if g, ok := c.depthGrad(); ok {
		n = max(n, g.scratch())
	}
	return n
}

// depthwiseTask is a depthwise convolution, split into stripes of channels.
type depthwiseTask struct {
	c         Conv
	direction direction
	y, x, w   []float32 // or their gradients
	bias      []float32
	relu, acc bool
	team      *Team
	step      int
	scratch   []float32
}

type direction int

const (
	forward direction = iota
	backwardData
	backwardWeight
)

// depthwise runs the task on the team.
func (t *Team) depthwise(task depthwiseTask) {
	if t.Threads() == 1 {
		task.stripe(task.scratch, 0, task.c.C)
		return
	}
	j := &t.lanes
	*j = task
	j.team = t
	step, tiles := stripes(j.c.C, laneWidth(), 2*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = depthwiseTask{} // do not retain the caller's slices
}

// Tile implements [Task].
func (j *depthwiseTask) Tile(worker, i int) {
	scratch := j.team.scratch(worker, depthwiseScratch(&j.c), j.scratch)
	j.stripe(scratch, i*j.step, min((i+1)*j.step, j.c.C))
}

// stripe computes channels [from,to).
func (j *depthwiseTask) stripe(scratch []float32, from, to int) {
	if j.inModule(scratch, from, to) {
		return
	}
	if j.direction != backwardWeight {
		if p := j.c.planes(j.direction == backwardData); p.run != nil {
			j.planes(&p, scratch, from, to)
			return
		}
	}
	switch j.direction {
	case forward:
		j.forward(scratch, from, to)
	case backwardData:
		j.data(scratch, from, to)
	case backwardWeight:
		if g, ok := j.c.depthGrad(); ok {
			g.weight(j, scratch, from, to)
			return
		}
		j.weight(scratch, from, to)
	}
}

func (j *depthwiseTask) forward(scratch []float32, from, to int) {
	c, y, x := &j.c, j.y, j.x
	v := lanesOf(c.windows())
	in, plane, lanes, k := c.H*c.W, c.OH()*c.OW(), v.together, c.KH*c.KW
	scratch = v.begin(scratch)
	v.setPhase(0, 0)
	filters, out := scratch[:k*lanes], scratch[k*lanes:][:v.columns()]
	for c0 := from; c0 < to; c0 += lanes {
		n := min(lanes, to-c0)
		transpose(filters, lanes, j.w[c0*k:], k, n, k)
		for i := range c.N {
			at := i*c.C + c0
			v.load(x[at*in:], in, n)
			lanewise(plane, v.positions, lanes, k, v.taps, 1, filters, v.data, out, false)
			v.store(y[at*plane:], plane, out, n, 1)
			g := GemmArgs{M: n, C: y[at*plane:], LDC: plane, ReLU: j.relu}
			if j.bias != nil {
				g.RowBias = j.bias[c0:]
			}
			g.finish(0, n, 0, plane)
		}
	}
}

func (j *depthwiseTask) data(scratch []float32, from, to int) {
	c, dy, dx := &j.c, j.y, j.x
	v := lanesOf(c.windowsBack())
	in, plane, lanes, k := c.H*c.W, c.OH()*c.OW(), v.together, c.KH*c.KW
	scratch = v.begin(scratch)
	filters, scratch := scratch[:k*lanes], scratch[k*lanes:]
	out, grid := scratch[:v.columns()], scratch[v.columns():][:v.halves()*v.columns()]
	size := v.columns() / lanes
	for c0 := from; c0 < to; c0 += lanes {
		n := min(lanes, to-c0)
		for i := range c.N {
			at := i*c.C + c0
			v.load(dy[at*plane:], plane, n)
			for ty := range v.y.phases {
				for tx := range v.x.phases {
					for q, tap := range v.activeTaps(ty, tx) {
						for l := range n {
							filters[q*lanes+l] = j.w[(c0+l)*k+int(tap)]
						}
					}
					v.setPhase(ty, tx)
					if len(v.taps) > 0 {
						lanewise(size, v.positions, lanes, len(v.taps), v.taps, 1, filters, v.data, out, false)
					} else {
						clear(out)
					}
					if c.SH*c.SW == 1 {
						v.store(dx[at*in:], in, out, n, 1)
						continue
					}
					v.store(grid[tx%v.halves()*len(out):], size, out, n, 1)
					for l := range n {
						v.spread(c, dx[(at+l)*in:][:in], grid[l*size:], len(out), ty, tx)
					}
				}
			}
		}
	}
}

func (j *depthwiseTask) weight(scratch []float32, from, to int) {
	c, dy, x, dw := &j.c, j.y, j.x, j.w
	v := lanesOf(c.windows())
	in, plane, lanes, k := c.H*c.W, c.OH()*c.OW(), v.together, c.KH*c.KW
	scratch = v.begin(scratch)
	v.setPhase(0, 0)
	filters, grads := scratch[:k*lanes], scratch[k*lanes:][:v.columns()]
	for c0 := from; c0 < to; c0 += lanes {
		n := min(lanes, to-c0)
		transpose(filters, lanes, dw[c0*k:], k, n, k)
		for i := range c.N {
			at := i*c.C + c0
			v.load(x[at*in:], in, n)
			transpose(grads, lanes, dy[at*plane:], plane, n, plane)
			lanewise(k, v.taps, 1, plane, v.positions, lanes, grads, v.data, filters, j.acc || i > 0)
		}
		transpose(dw[c0*k:], k, filters, lanes, k, n)
	}
}
