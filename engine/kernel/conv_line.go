// Convolutions whose vectors run over channels of the output.
//
// A tile is a few positions of a line, in two images at once, by two vectors of channels; or,
// where lines are short, one position of many images. Each float of the source is broadcast
// from where it is and multiplied by packed weights. No window is copied, and a list of taps
// for each position skips those that fall into padding.

package kernel

// lineKernel computes two groups of positions by one or two vectors of channels. Distances
// are in bytes: xnext from one position to the next in the source, second and ysecond from
// the first group to the second in x and y, xstep and wstep from one channel of the source
// to the next, ldc from one channel of y to the next. Positions are adjacent in y. Each
// channel of the source has n taps of three ints: the offset of the first position's float,
// the offset of the weights (counted for one vector), and which position the tap skips
// because it falls into padding: 0 none, 1 the first, 2 the last. bias may be nil. The
// source is prefetched ahead bytes in advance.
type lineKernel func(x, w, y, bias *float32, taps *int32, n, channels, xnext, xstep, wstep, second, ysecond, ldc, relu, ahead int)

// lineKernels are the kernels of one instruction set.
type lineKernels struct {
	least, most int             // positions of a group
	vector      int             // channels of a vector
	short       bool            // serves short lines only, so no tap skips a position
	kernel      [][2]lineKernel // [positions-least][vectors-1]
	// transpose transposes n blocks of vector rows by cols <= vector floats. Rows are row
	// floats apart in src and drow in dst, blocks next and dnext.
	transpose func(n int, src []float32, next, row, cols int, dst []float32, dnext, drow int)
}

const (
	shortLine  = 4         // tiles of shorter lines run across images
	lineBlock  = 160 << 10 // floats of weights that stay in the L2 cache
	leastDot   = 192       // shorter dot products do not pay for transposing tiles
	tapInts    = 3
	leastAhead = 8       // taps between a prefetch and its use
	mostLooks  = 1 << 28 // lists of taps of windows that stand far apart take longer than they save
)

// lineTask is such a convolution, forward or the gradient of x, split into tiles: a block of
// output channels for a part of the images.
type lineTask struct {
	*lineKernels
	c       Conv
	back    bool
	v       windows
	inPlace bool // the source is read without a padded copy
	across  bool // a kernel's positions are one of many images
	outputs int  // channels of y in a convolution group
	block   int  // channels of a tile
	parts   int  // parts of the images, each but the last of an even number

	y, x, w, bias []float32 // y is what is computed, x its source
	relu          bool

	team    *Team
	scratch []float32
}

// lines returns the task for c on that many threads; ok reports whether it is worth it here.
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
		worth = c.N >= 2*j.least && !(j.strided() && c.BF16 && tile.pairs != nil)
	} else if c.BF16 && tile.pairs != nil {
		worth = false // products of pairs are faster
	}
	if !worth || taps == 1 || j.outputs%j.vector != 0 {
		return j, false
	}
	v.together = min(v.together+v.together%2, c.N)
	if as := j; as.readInPlace() {
		j = as
	}
	j.divide(threads)
	return j, !j.across || j.inPlace
}

// readInPlace skips the padded copy if every list of taps can do without zeros.
func (j *lineTask) readInPlace() bool {
	v := &j.v
	if max(1, v.y.phases)*max(1, v.x.phases)*v.y.out*v.x.out*(v.y.taps+v.x.taps) > mostLooks {
		return false
	}
	j.inPlace = true
	for _, a := range []*axis{&v.y, &v.x} {
		a.dense = a.phases == 0
		a.plan()
	}
	for ty := range max(1, v.y.phases) {
		for tx := range max(1, v.x.phases) {
			for y := range v.y.out {
				for x, n := 0, 0; x < v.x.out; x += n {
					n = j.run(x)
					if active, ok := j.list(nil, ty, tx, y, x, n); !ok || active == 0 && (j.across || !j.back) {
						return false
					}
				}
			}
		}
	}
	return true
}

// divide chooses the size of tiles such that a block of weights stays in the cache and every
// thread gets some.
func (j *lineTask) divide(threads int) {
	all, most := (j.outputs+j.panel()-1)/j.panel(), (j.c.N+1)/2
	if j.across {
		most = j.c.N / (4 * j.least) // every part is large enough for a kernel
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

// strided reports whether a pair of phases computes positions that are not adjacent.
func (j *lineTask) strided() bool { return j.back && j.c.SH*j.c.SW > 1 }

// dot is the length of the dot products.
func (j *lineTask) dot() int { return j.v.channels * j.v.y.taps * j.v.x.taps }

// run is the number of positions from p on that one kernel call computes.
func (j *lineTask) run(p int) int {
	if j.across {
		return 1
	}
	return even(p, j.v.x.out, j.most)
}

// even is the length of the part that begins at p if size is split as evenly as possible
// into parts of at most most.
func even(p, size, most int) int {
	parts := (size + most - 1) / most
	n, longer := size/parts, size%parts
	if p < longer*(n+1) {
		n++
	}
	return n
}

// reaches reports whether tap i at position p reads the source rather than padding.
func (a *axis) reaches(phase, i, p int) bool {
	slot, at, _ := a.tap(phase, i)
	lo, hi := a.inside(a.origin(slot))
	at += p * a.advance()
	return lo <= at && at < hi
}

// list writes the taps of n positions of line y from x on, for a pair of phases, and returns
// their number. ok is false if they need zeros around the source.
func (j *lineTask) list(taps []int32, ty, tx, y, x, n int) (count int, ok bool) {
	v := &j.v
	pitch, plane := j.pitch(), v.together*v.y.padded*v.x.padded
	some := false // some row of taps reads the source
	for a := range v.y.taps {
		some = some || v.y.reaches(ty, a, y)
	}
	for a := range v.y.taps {
		sy, ay, ok := v.y.tap(ty, a)
		if !ok || some && !v.y.reaches(ty, a, y) {
			continue
		}
		for b := range v.x.taps {
			sx, ax, ok := v.x.tap(tx, b)
			if !ok {
				continue
			}
			edge, outside := int32(0), 0
			for p := range n {
				if v.x.reaches(tx, b, x+p) {
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
			if outside == n && j.inPlace {
				continue
			}
			if outside > 1 || outside == 1 && edge == 0 {
				if j.inPlace {
					return 0, false
				}
				edge = 0
			}
			if taps != nil {
				at := (sy*v.x.slots+sx)*plane + (ay+y*v.y.advance())*pitch + ax + x*v.x.advance()
				if j.inPlace {
					at += v.y.lo*pitch + v.x.lo
				}
				t := (*[tapInts]int32)(taps[tapInts*count:])
				*t = [tapInts]int32{int32(4 * at), int32(4 * j.vector * (a*v.x.taps + b)), edge}
			}
			count++
		}
	}
	return count, some || !j.inPlace
}

// need is the floats of scratch of a tile.
func (j *lineTask) need() int {
	if j.lineKernels == nil {
		return 0
	}
	n := j.block*j.dot() + j.listsInts() + maxLanes
	if !j.inPlace {
		n += j.v.copied()
	}
	switch {
	case j.across:
		n += j.block * j.v.together * j.plane()
	case j.strided():
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
	*j = lineTask{} // do not retain the caller's slices
}

func (j *lineTask) blocks() int { return (j.outputs + j.block - 1) / j.block }

// Tile implements [Task].
func (j *lineTask) Tile(worker, i int) {
	j.tile(i, j.team.scratch(worker, j.need(), j.scratch))
}

// lineTile is a tile while it is computed, for some images.
type lineTile struct {
	lineTask
	weights []float32 // panels [channels, taps, panel]; the last may be narrower
	taps    []int32   // lists of a line, or one
	width   int       // channels of y

	src            []float32 // channels are channel floats apart, images image floats
	channel, image int
	images         int
	dst            []float32 // like src
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
	lists := j.listsInts()
	t.taps, scratch = ints(scratch[:lists]), scratch[lists:]
	if !j.inPlace {
		v.data, scratch = scratch[:v.copied()], scratch[v.copied():]
	}
	out := scratch
	from := gr*j.outputs + o // the first channel of y
	if j.bias != nil {
		t.bias = j.bias[from:]
	}
	if j.back {
		t.packWeightsBack(j.w[gr*j.outputs*j.dot():], o)
	} else {
		t.packWeights(j.w[from*j.dot():])
	}
	if c.BF16 {
		roundBF16(t.weights, t.weights)
	}
	in, xplane, plane := v.channels*c.Groups, v.y.in*v.x.in, j.plane()
	for n := first; n < end; n += t.images {
		t.images = min(v.together, end-n)
		if j.across {
			t.images = even(n-first, end-first, v.together)
		}
		t.src, t.channel, t.image = j.x[(n*in+gr*v.channels)*xplane:], xplane, in*xplane
		if !j.inPlace {
			v.load(t.src, t.image, t.images)
			t.src, t.image = v.data, v.y.padded*v.x.padded
			t.channel = v.y.slots * v.x.slots * v.together * t.image
		}
		y := j.y[(n*j.outputs*c.Groups+from)*plane:]
		if j.across {
			t.dst, t.ldc, t.dimage = out, v.together*plane, 1
			t.computeAcross()
			transpose(y, j.outputs*c.Groups*plane, out, v.together, t.width*plane, t.images)
			continue
		}
		if !j.strided() {
			t.dst, t.ldc, t.dimage = y, plane, j.outputs*c.Groups*plane
			t.compute(0, 0)
			continue
		}
		size := t.width * v.columns()
		for ty := range v.y.phases {
			for tx := range v.x.phases {
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

// plane is the size of a channel of y.
func (j *lineTask) plane() int {
	if j.back {
		return j.c.H * j.c.W
	}
	return j.c.OH() * j.c.OW()
}

// place is the offset of the weights of the vector of channels from o on, and the floats
// from one term of the dot product to the next.
func (t *lineTile) place(o int) (at, row int) {
	panel := o / t.panel() * t.panel()
	return panel*t.dot() + o - panel, min(t.panel(), t.width-panel)
}

// packWeights packs weights [outputs, channels, taps].
func (t *lineTile) packWeights(w []float32) {
	dot := t.dot()
	for o := 0; o < t.width; o += t.vector {
		at, row := t.place(o)
		transpose(t.weights[at:], row, w[o*dot:], dot, t.vector, dot)
	}
}

// packWeightsBack packs weights [channels, all outputs, taps] from output first on.
func (t *lineTile) packWeightsBack(w []float32, first int) {
	taps := t.v.y.taps * t.v.x.taps
	for o := 0; o < t.width; o += t.vector {
		at, row := t.place(o)
		for tap := 0; tap < taps; tap += t.vector {
			t.transpose(t.v.channels, w[(first+o)*taps+tap:], taps*t.outputs, taps, min(t.vector, taps-tap), t.weights[at+tap*row:], taps*row, row)
		}
	}
}

// compute computes the positions of one pair of phases.
func (t *lineTile) compute(ty, tx int) {
	v := &t.v
	for y := range v.y.out {
		t.lists(ty, tx, y)
		lists := t.taps
		for x, n := 0, 0; x < v.x.out; x += n {
			n = t.run(x)
			at := y*v.x.out + x
			active := int(lists[0])
			taps := &lists[1]
			if lists = lists[t.listInts():]; active == 0 {
				t.clear(at, n)
				continue
			}
			for i := 0; i < t.images; i += 2 {
				second, dsecond := t.image, t.dimage
				if i+1 == t.images {
					second, dsecond = 0, 0 // twice the same
				}
				t.panels(n, taps, active, i, i*t.dimage+at, v.x.advance(), second, dsecond)
			}
		}
	}
}

// lists has the lists of taps of line y ready, one after another, each behind its length. Those of
// the line before are a line's distance away where the same rows of taps read the source.
func (t *lineTile) lists(ty, tx, y int) {
	v := &t.v
	again := y > 0
	for a := range v.y.taps {
		_, _, ok := v.y.tap(ty, a)
		again = again && (!ok || v.y.reaches(ty, a, y) == v.y.reaches(ty, a, y-1))
	}
	step := int32(4 * v.y.advance() * t.pitch())
	lists := t.taps
	for x, n := 0, 0; x < v.x.out; x += n {
		n = t.run(x)
		if again {
			for i := range lists[0] {
				lists[1+tapInts*i] += step
			}
		} else {
			active, _ := t.list(lists[1:], ty, tx, y, x, n)
			lists[0] = int32(active)
		}
		lists = lists[t.listInts():]
	}
}

// listInts is the ints of a list of taps behind its length.
func (j *lineTask) listInts() int { return 1 + tapInts*j.v.y.taps*j.v.x.taps }

// listsInts is the ints of the lists of a line.
func (j *lineTask) listsInts() int {
	if j.across {
		return j.listInts()
	}
	return (j.v.x.out + j.most - 1) / j.most * j.listInts()
}

// pitch is the floats from one line of the source to the next.
func (j *lineTask) pitch() int {
	if j.inPlace {
		return j.v.x.in
	}
	return j.v.x.padded
}

// computeAcross is compute, of all phases, where a tile is one position of many images.
func (t *lineTile) computeAcross() {
	v, height, width := &t.v, t.c.OH(), t.c.OW()
	if t.back {
		height, width = t.c.H, t.c.W
	}
	ny, nx := max(1, v.y.phases), max(1, v.x.phases)
	for at := range height * width {
		y, x := at/width, at%width
		active, _ := t.list(t.taps, y%ny, x%nx, y/ny, x/nx, 1)
		for i, n := 0, 0; i < t.images; i += n {
			n = even(i, t.images, 2*t.most)
			half := (n + 1) / 2 // of an odd number the middle one is computed twice
			t.panels(half, &t.taps[0], active, i, at*v.together+i, t.image, (n-half)*t.image, n-half)
		}
	}
}

// panels computes two groups of n positions, the first from image i on and to dst[at:].
func (t *lineTile) panels(n int, taps *int32, active, i, at, next, second, dsecond int) {
	v, dot := &t.v, t.dot()
	relu := 0
	if t.relu {
		relu = 1
	}
	ahead := (leastAhead + active - 1) / active * t.channel
	for o := 0; o < t.width; o += t.panel() {
		nv := min(t.panel(), t.width-o) / t.vector
		var bias *float32
		if t.bias != nil {
			bias = &t.bias[o]
		}
		t.kernel[n-t.least][nv-1](&t.src[i*t.image], &t.weights[o*dot], &t.dst[at+o*t.ldc], bias, taps,
			active, v.channels, 4*next, 4*t.channel, 4*t.vector*nv*v.y.taps*v.x.taps, 4*second, 4*dsecond, 4*t.ldc, relu, 4*ahead)
	}
}

// clear clears n positions without taps, which only the phases of a stride have.
func (t *lineTile) clear(at, n int) {
	for i := range t.images {
		for o := range t.width {
			clear(t.dst[i*t.dimage+o*t.ldc+at:][:n])
		}
	}
}
