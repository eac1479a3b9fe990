// Gradients of the weights of few filters, as groups have, which have too few rows for the tiles of
// a product: a lane for each filter, times the floats of windows in place, broadcast.

package kernel

// narrow reports whether the gradient of the weights is faster with a lane for each filter.
func (c *Conv) narrow() bool {
	return c.O/c.Groups <= 32 && c.KH*c.KW > 1 && laneWidth() > 0
}

// narrowWeight computes the gradient of the weights of a group, with room for images that are kept.
func (v *windows) narrowWeight(j *groupTask, gr int, room, scratch []float32) {
	c, dy, dw := &j.c, j.y, j.w
	og, plane := c.O/c.Groups, c.OH()*c.OW()
	k := len(v.taps)
	scratch = aligned(scratch)
	for o := gr * og; o < (gr+1)*og; {
		n := (gr+1)*og - o
		lanes := narrowLanes(n)
		n = min(n, lanes)
		filters, grads := scratch[:k*lanes], scratch[k*lanes:][:v.columns()*lanes]
		transpose(filters, lanes, dw[o*k:], k, n, k)
		for n0 := 0; n0 < c.N; n0 += v.together {
			images := min(v.together, c.N-n0)
			x, step := j.source(nil, gr, n0, images, room)
			v.load(x, step, images)
			for i := range images {
				transpose(grads[i*plane*lanes:], lanes, dy[((n0+i)*c.O+o)*plane:], plane, n, plane)
			}
			pointwise(lanes, k, v.taps, images*plane, v.positions, grads, v.data, filters, j.acc || n0 > 0)
		}
		transpose(dw[o*k:], k, filters, lanes, k, n)
		o += n
	}
}
