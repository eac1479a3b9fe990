// Loading and storing images with all threads.

package kernel

// smallCopy is the floats below which waking a thread takes longer than a copy.
const smallCopy = 1 << 15

// copyTask is a load, or a store where dst is set, cut into stripes of channels. Where
// there are strides, what is stored is the turn (ty,tx) of the gradient of x.
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

// part is the windows of n channels from c on.
func (v *windows) part(c, n int) windows {
	p := *v
	p.channels = n
	if len(p.turned) > 0 {
		p.turned = p.turned[c*v.sides()/v.channels:]
	}
	p.data = p.data[c*v.copied()/v.channels:][:p.copied()]
	return p
}

// loadAll is load by the team.
func (v *windows) loadAll(t *Team, src []float32, image, images int) {
	if t.Threads() == 1 || v.copied() < smallCopy {
		v.load(src, image, images)
		return
	}
	t.copy(copyTask{v: *v, src: src, image: image, images: images, channels: v.channels})
}

// storeAll is store by the team.
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
	*j = copyTask{} // nothing of the caller's is kept
}
