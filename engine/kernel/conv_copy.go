// Loading images into padded copies, and storing results, on all threads.

package kernel

// smallCopy is the number of floats below which waking a thread takes longer than copying.
const smallCopy = 1 << 15

// copyTask is a load, or a store if dst is set, split into stripes of channels. With
// strided set, it stores the phase (ty,tx) of the gradient of x, with points and zeros in all others; with gather set, it reads what a
// store writes.
type copyTask struct {
	v              windows
	dst, src       []float32
	image, images  int
	channels, step int
	strided        bool
	points         bool // zeros, but for the phase
	gather         bool
	c              Conv
	ty, tx         int
}

// Tile implements [Task].
func (j *copyTask) Tile(_, i int) {
	c := i * j.step
	n := min(j.step, j.channels-c)
	switch {
	case j.strided:
		j.spread(c, n)
		return
	case j.gather:
		j.v.gather(j.dst[c*j.v.columns():], j.src[c*j.v.y.out*j.v.x.out:], j.image, j.images, n)
		return
	case j.dst != nil:
		j.v.store(j.dst[c*j.v.y.out*j.v.x.out:], j.image, j.src[c*j.v.columns():], j.images, n)
		return
	}
	p := j.v.part(c, n)
	p.load(j.src[c*j.v.y.in*j.v.x.in:], j.image, j.images)
}

// part is v restricted to n channels from c on.
func (v *windows) part(c, n int) windows {
	p := *v
	p.channels = n
	if len(p.interleaved) > 0 {
		p.interleaved = p.interleaved[c*v.interleavedSize()/v.channels:]
	}
	p.data = p.data[c*v.copied()/v.channels:][:p.copied()]
	return p
}

// loadAll is load on the team.
func (v *windows) loadAll(t *Team, src []float32, image, images int) {
	if t.Threads() == 1 || v.copied() < smallCopy {
		v.load(src, image, images)
		return
	}
	t.copy(copyTask{v: *v, src: src, image: image, images: images, channels: v.channels})
}

// storeAll is store on the team.
func (v *windows) storeAll(t *Team, dst []float32, image int, src []float32, images, rows int) {
	if t.Threads() == 1 || rows*v.columns() < smallCopy {
		v.store(dst, image, src, images, rows)
		return
	}
	t.copy(copyTask{v: *v, dst: dst, src: src, image: image, images: images, channels: rows})
}

// gather copies channels of images, image floats apart, to rows that hold all images each.
func (v *windows) gather(dst, src []float32, image, images, channels int) {
	plane := v.y.out * v.x.out
	for c := range channels {
		for i := range images {
			copy(dst[c*v.columns()+i*plane:][:plane], src[i*image+c*plane:])
		}
	}
}

// gatherAll is gather on the team.
func (v *windows) gatherAll(t *Team, dst, src []float32, image, images, channels int) {
	if t.Threads() == 1 || channels*v.columns() < smallCopy {
		v.gather(dst, src, image, images, channels)
		return
	}
	t.copy(copyTask{v: *v, dst: dst, src: src, image: image, images: images, channels: channels, gather: true})
}

// transpose is [transpose] on the team, by stripes of columns.
func (t *Team) transpose(dst []float32, ds int, src []float32, ss, rows, cols int) {
	if t.Threads() == 1 || rows*cols < smallCopy {
		transpose(dst, ds, src, ss, rows, cols)
		return
	}
	j := &t.turn
	*j = turnTask{dst: dst, src: src, ds: ds, ss: ss, rows: rows, cols: cols}
	step, tiles := stripes(cols, maxLanes, 2*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = turnTask{} // do not retain the caller's slices
}

// turnTask is a transposition in stripes of columns.
type turnTask struct {
	dst, src                 []float32
	ds, ss, rows, cols, step int
}

// Tile implements [Task].
func (j *turnTask) Tile(_, i int) {
	c := i * j.step
	transpose(j.dst[c*j.ds:], j.ds, j.src[c:], j.ss, j.rows, min(j.step, j.cols-c))
}

func (t *Team) copy(task copyTask) {
	j := &t.copies
	*j = task
	step, tiles := stripes(j.channels, 1, 2*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = copyTask{} // do not retain the caller's slices
}
