// Convolutions whose vectors run over channels of the output.
//
// A tile is a few positions of a line, in two images at once, or where lines are short one
// position of many images, by two vectors of channels: each float of the source, read where
// it lies, meets weights that were laid out for it. No window is copied, and a list of taps
// for each place of a line leaves out those that meet padding.

package kernel

// lineKernel computes some positions, and as many others, by one or two vectors of channels.
// Steps are in bytes: xnext leads to the source of the next position, second and ysecond to
// the others, xstep and wstep to the source's next channel, ldc to the next channel of y,
// where positions lie side by side. For each channel of the source there are n taps: where
// the first position's float is, where the weights are (of single vectors), and what meets
// nothing: 1 the first position, 2 the last. bias may be nil. What is ahead bytes from the
// source is fetched.
type lineKernel func(x, w, y, bias *float32, taps *int32, n, channels, xnext, xstep, wstep, second, ysecond, ldc, relu, ahead int)

// lineKernels is what one instruction set has.
type lineKernels struct {
	least, most int             // positions of a kernel
	vector      int             // channels of a vector
	short       bool            // only short lines are worth it: no edges of lines are asked for
	kernel      [][2]lineKernel // [positions-least][vectors-1]
	// turn turns n blocks of vector rows, row floats apart, of cols <= vector floats into cols
	// rows of vector, drow floats apart. Blocks are next and dnext floats apart.
	turn func(n int, src []float32, next, row, cols int, dst []float32, dnext, drow int)
}

const (
	shortLine  = 4         // lines that are shorter have tiles across images
	lineBlock  = 160 << 10 // floats of weights that stay in the second-level cache
	leastDot   = 192       // shorter dot products of lines do not pay for turning tiles
	tapInts    = 3
	leastAhead = 8 // taps between a fetch and its use
)

// lineTask is such a convolution, forward or the gradient of x. A tile is a block of
// channels for a part of the images.
type lineTask struct {
	*lineKernels
	c       Conv
	back    bool
	v       windows
	lies    bool // the source is read without zeros around it
	across  bool // a kernel's positions are one of many images
	outputs int  // channels of y in a group
	block   int  // those of a tile
	parts   int  // of the images, each but the last of an even number

	y, x, w, bias []float32 // y is what is computed, x its source
	relu          bool

	team    *Team
	scratch []float32
}

// lines is the task for c on some threads; ok says that there are kernels for it.
func (c *Conv) lines(back bool, threads int) (j lineTask, ok bool) {
	if tile.lines == nil {
		return j, false
	}
	j = lineTask{lineKernels: tile.lines, c: *c, back: back, v: c.windows(), outputs: c.O / c.Groups}
	if back {
		j.v, j.outputs = c.windowsBack(), c.C/c.Groups
	}
	v := &j.v
	taps := v.y.taps * v.x.taps
	j.across = v.x.out < shortLine
	worth := c.N >= 2 && v.channels*taps >= leastDot && !j.short
	if j.across {
		worth = c.N >= 2*j.least && !j.apart()
	}
	if !worth || taps == 1 || j.outputs%j.vector != 0 {
		return j, false
	}
	v.together = min(v.together+v.together%2, c.N)
	if as := j; as.lie() {
		j = as
	}
	j.divide(threads)
	return j, !j.across || j.lies
}

// lie has the source be read as it lies, if every list of taps can do without zeros.
func (j *lineTask) lie() bool {
	v := &j.v
	j.lies = true
	for _, a := range []*axis{&v.y, &v.x} {
		a.dense = a.turns == 0
		a.plan()
	}
	for ty := range max(1, v.y.turns) {
		for tx := range max(1, v.x.turns) {
			for y := range v.y.out {
				for x, n := 0, 0; x < v.x.out; x += n {
					n = j.run(x)
					if met, ok := j.list(nil, ty, tx, y, x, n); !ok || met == 0 && (j.across || !j.back) {
						return false
					}
				}
			}
		}
	}
	return true
}

// divide sets what a tile is: a block of weights stays in the cache, and every thread has
// some.
func (j *lineTask) divide(threads int) {
	all, most := (j.outputs+j.panel()-1)/j.panel(), (j.c.N+1)/2
	if j.across {
		most = j.c.N / (4 * j.least) // no part is too small for a kernel
	}
	panels := min(all, max(1, lineBlock/(j.panel()*j.dot())))
	j.parts = 1
	if threads > 1 {
		panels = min(panels, (all*j.c.Groups+2*threads-1)/(2*threads))
		j.parts = max(1, min(most, (2*threads+all-1)/all))
	}
	j.block = panels * j.panel()
}

// begin is the first image of a part.
func (j *lineTask) begin(part int) int { return min(j.c.N, (j.c.N+1)/2*part/j.parts*2) }

// panel is the channels of a kernel of two vectors.
func (k *lineKernels) panel() int { return 2 * k.vector }

// apart says that a pair of turns computes positions that do not lie side by side.
func (j *lineTask) apart() bool { return j.back && j.c.SH*j.c.SW > 1 }

// dot is the length of the dot products.
func (j *lineTask) dot() int { return j.v.channels * j.v.y.taps * j.v.x.taps }

// run is the number of positions of a line that are computed together from p on.
func (j *lineTask) run(p int) int {
	if j.across {
		return 1
	}
	return even(p, j.v.x.out, j.most)
}

// even is the length of the part that begins at p if size is cut into parts of at most most
// whose lengths differ by one.
func even(p, size, most int) int {
	parts := (size + most - 1) / most
	n, longer := size/parts, size%parts
	if p < longer*(n+1) {
		n++
	}
	return n
}

// meets says that position p's tap i meets the source.
func (a *axis) meets(turn, i, p int) bool {
	slot, at, _ := a.tap(turn, i)
	lo, hi := a.inside(a.phase(slot))
	at += p * a.pace()
	return lo <= at && at < hi
}

// list puts down the taps of n positions of line y from x on, for a pair of turns, and
// returns their number. ok is false if they need zeros around the source.
func (j *lineTask) list(taps []int32, ty, tx, y, x, n int) (count int, ok bool) {
	v := &j.v
	pitch, plane := v.x.padded, v.together*v.y.padded*v.x.padded
	if j.lies {
		pitch = v.x.in
	}
	some := false // a line of taps meets the source
	for a := range v.y.taps {
		some = some || v.y.meets(ty, a, y)
	}
	for a := range v.y.taps {
		sy, ay, ok := v.y.tap(ty, a)
		if !ok || some && !v.y.meets(ty, a, y) {
			continue
		}
		for b := range v.x.taps {
			sx, ax, ok := v.x.tap(tx, b)
			if !ok {
				continue
			}
			edge, outside := int32(0), 0
			for p := range n {
				if v.x.meets(tx, b, x+p) {
					continue
				}
				outside++
				switch p {
				case 0:
					edge = 1
				case n - 1:
					edge = 2
				}
			}
			if outside == n && j.lies {
				continue
			}
			if outside > 1 || outside == 1 && edge == 0 {
				if j.lies {
					return 0, false
				}
				edge = 0
			}
			if taps != nil {
				at := (sy*v.x.slots+sx)*plane + (ay+y*v.y.pace())*pitch + ax + x*v.x.pace()
				if j.lies {
					at += v.y.lo*pitch + v.x.lo
				}
				t := (*[tapInts]int32)(taps[tapInts*count:])
				*t = [tapInts]int32{int32(4 * at), int32(4 * j.vector * (a*v.x.taps + b)), edge}
			}
			count++
		}
	}
	return count, some || !j.lies
}

// need is the floats of scratch for a tile.
func (j *lineTask) need() int {
	n := j.block*j.dot() + tapInts*j.v.y.taps*j.v.x.taps + maxLanes
	if !j.lies {
		n += j.v.copied()
	}
	if j.across || j.apart() {
		n += j.v.halves() * j.block * j.v.columns()
	}
	return n
}

// lines computes the task on the team.
func (t *Team) lines(task lineTask) {
	tiles := task.c.Groups * task.blocks() * task.parts
	if t.Threads() == 1 {
		for i := range tiles {
			task.tile(i, task.scratch)
		}
		return
	}
	j := &t.line
	*j = task
	j.team = t
	t.Run(tiles, j)
	*j = lineTask{} // nothing of the caller's is kept
}

func (j *lineTask) blocks() int { return (j.outputs + j.block - 1) / j.block }

// Tile implements [Task].
func (j *lineTask) Tile(worker, i int) {
	j.tile(i, j.team.scratch(worker, j.need(), j.scratch))
}

// lineTile is a tile at work on some images.
type lineTile struct {
	lineTask
	weights []float32 // panels of [channels, taps, panel], the last may be narrower
	taps    []int32
	width   int // channels of y

	src            []float32 // channels channel floats apart, images image floats apart
	channel, image int
	images         int
	dst            []float32 // as src
	ldc, dimage    int
}

// tile computes tile i.
func (j *lineTask) tile(i int, scratch []float32) {
	c := &j.c
	first, end := j.begin(i%j.parts), j.begin(i%j.parts+1)
	i /= j.parts
	o, gr := i%j.blocks()*j.block, i/j.blocks()
	t := lineTile{lineTask: *j, width: min(j.block, j.outputs-o)}
	v := &t.v
	scratch = aligned(scratch)
	t.weights, scratch = scratch[:t.width*j.dot()], scratch[t.width*j.dot():]
	taps := tapInts * v.y.taps * v.x.taps
	t.taps, scratch = ints(scratch[:taps]), scratch[taps:]
	if !j.lies {
		v.data, scratch = scratch[:v.copied()], scratch[v.copied():]
	}
	out := scratch
	from := gr*j.outputs + o // the first channel of y
	if j.bias != nil {
		t.bias = j.bias[from:]
	}
	if j.back {
		t.layOutBack(j.w[gr*j.outputs*j.dot():], o)
	} else {
		t.layOut(j.w[from*j.dot():])
	}
	in, xplane, plane := v.channels*c.Groups, v.y.in*v.x.in, j.plane()
	for n := first; n < end; n += t.images {
		t.images = min(v.together, end-n)
		if j.across {
			t.images = even(n-first, end-first, v.together)
		}
		t.src, t.channel, t.image = j.x[(n*in+gr*v.channels)*xplane:], xplane, in*xplane
		if !j.lies {
			v.load(t.src, t.image, t.images)
			t.src, t.image = v.data, v.y.padded*v.x.padded
			t.channel = v.y.slots * v.x.slots * v.together * t.image
		}
		y := j.y[(n*j.outputs*c.Groups+from)*plane:]
		if j.across {
			t.dst, t.ldc, t.dimage = out, v.columns(), 1
			t.computeAcross()
			transpose(y, j.outputs*c.Groups*plane, out, v.together, t.width*plane, t.images)
			continue
		}
		if !j.apart() {
			t.dst, t.ldc, t.dimage = y, plane, j.outputs*c.Groups*plane
			t.compute(0, 0)
			continue
		}
		size := t.width * v.columns()
		for ty := range v.y.turns {
			for tx := range v.x.turns {
				t.dst, t.ldc, t.dimage = out[tx%v.halves()*size:][:size], v.columns(), v.y.out*v.x.out
				t.compute(ty, tx)
				for i := range t.images {
					for o := range t.width {
						v.spread(c, y[(i*c.C+o)*plane:][:plane], out[o*t.ldc+i*t.dimage:], size, ty, tx)
					}
				}
			}
		}
	}
}

// plane is the floats of a channel of y.
func (j *lineTask) plane() int {
	if j.back {
		return j.c.H * j.c.W
	}
	return j.c.OH() * j.c.OW()
}

// place is where the weights of the vector of channels from o on begin, and the floats from
// one product to the next.
func (t *lineTile) place(o int) (at, row int) {
	panel := o / t.panel() * t.panel()
	return panel*t.dot() + o - panel, min(t.panel(), t.width-panel)
}

// layOut lays out weights [outputs, channels, taps].
func (t *lineTile) layOut(w []float32) {
	dot := t.dot()
	for o := 0; o < t.width; o += t.vector {
		at, row := t.place(o)
		transpose(t.weights[at:], row, w[o*dot:], dot, t.vector, dot)
	}
}

// layOutBack lays out weights [channels, all outputs, taps] from output first on.
func (t *lineTile) layOutBack(w []float32, first int) {
	taps := t.v.y.taps * t.v.x.taps
	for o := 0; o < t.width; o += t.vector {
		at, row := t.place(o)
		for tap := 0; tap < taps; tap += t.vector {
			t.turn(t.v.channels, w[(first+o)*taps+tap:], taps*t.outputs, taps, min(t.vector, taps-tap), t.weights[at+tap*row:], taps*row, row)
		}
	}
}

// compute computes one pair of turns.
func (t *lineTile) compute(ty, tx int) {
	v := &t.v
	for y := range v.y.out {
		for x, n := 0, 0; x < v.x.out; x += n {
			n = t.run(x)
			at := y*v.x.out + x
			met, _ := t.list(t.taps, ty, tx, y, x, n)
			if met == 0 {
				t.clear(at, n)
				continue
			}
			for i := 0; i < t.images; i += 2 {
				second, dsecond := t.image, t.dimage
				if i+1 == t.images {
					second, dsecond = 0, 0 // the same again
				}
				t.panels(n, met, i, i*t.dimage+at, v.x.pace(), second, dsecond)
			}
		}
	}
}

// computeAcross is compute with positions of many images.
func (t *lineTile) computeAcross() {
	v := &t.v
	for at := range v.y.out * v.x.out {
		met, _ := t.list(t.taps, 0, 0, at/v.x.out, at%v.x.out, 1)
		for i, n := 0, 0; i < t.images; i += n {
			n = even(i, t.images, 2*t.most)
			half := (n + 1) / 2 // the others of an odd number begin with its last
			t.panels(half, met, i, at*v.together+i, t.image, (n-half)*t.image, n-half)
		}
	}
}

// panels computes n positions from image i on and from at on in dst, and as many others.
func (t *lineTile) panels(n, met, i, at, next, second, dsecond int) {
	v, dot := &t.v, t.dot()
	relu := 0
	if t.relu {
		relu = 1
	}
	ahead := (leastAhead + met - 1) / met * t.channel
	for o := 0; o < t.width; o += t.panel() {
		nv := min(t.panel(), t.width-o) / t.vector
		var bias *float32
		if t.bias != nil {
			bias = &t.bias[o]
		}
		t.kernel[n-t.least][nv-1](&t.src[i*t.image], &t.weights[o*dot], &t.dst[at+o*t.ldc], bias, &t.taps[0],
			met, v.channels, 4*next, 4*t.channel, 4*t.vector*nv*v.y.taps*v.x.taps, 4*second, 4*dsecond, 4*t.ldc, relu, 4*ahead)
	}
}

// clear clears n positions that no tap meets: only turns of a stride have such.
func (t *lineTile) clear(at, n int) {
	for i := range t.images {
		for o := range t.width {
			clear(t.dst[i*t.dimage+o*t.ldc+at:][:n])
		}
	}
}
