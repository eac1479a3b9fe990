// Loading images into padded copies, and storing results, on all threads.

package kernel

// smallCopy is the number of floats below which waking a thread takes longer than copying.
const smallCopy = 1 << 15

// copyTask is a load, or a store if dst is set, split into stripes of channels. With
// strided set, it stores the phase (ty,tx) of the gradient of x.
type copyTask struct {
	v              windows
	dst, src       []float32
	image, images  int
	channels, step int
	strided        bool
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

func (t *Team) copy(task copyTask) {
	j := &t.copies
	*j = task
	step, tiles := stripes(j.channels, 1, 2*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = copyTask{} // do not retain the caller's slices
}
