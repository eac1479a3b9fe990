// Convolution over [N,C,H,W] as matrix products over windows.
//
// The specification is the plain loop in conv_test.go: every output element is one
// dot product,
//
//	forward           over (channel, kernel row, kernel column) ascending,
//	gradient of x     over (output channel, kernel row, kernel column) ascending,
//	gradient of w     over (image, output row, output column) ascending,
//
// where taps in the padding multiply by zero or are left out, as are those that a stride
// skips. Windows are never written out (no im2col): see conv_window.go and conv_line.go.

package kernel

import "fmt"

// Conv is the geometry of a convolution: x [N,C,H,W], w [O,C/Groups,KH,KW],
// y [N,O,OH,OW], strides, paddings (top, left, bottom, right) and dilations.
type Conv struct {
	N, C, H, W     int
	O, KH, KW      int
	SH, SW         int
	PT, PL, PB, PR int
	DH, DW         int
	Groups         int
	// BF16 tells that x and the gradient of y are operands in bfloat16 already ([RoundBF16]), for
	// machines that compute such products faster. w is rounded on its way.
	BF16 bool
	// Kept, if set, is x as [PackBF16] keeps it, which is read in place of the argument x.
	Kept []uint32
}

// OH is the height of the output.
func (c *Conv) OH() int { return (c.H+c.PT+c.PB-c.DH*(c.KH-1)-1)/c.SH + 1 }

// OW is the width of the output.
func (c *Conv) OW() int { return (c.W+c.PL+c.PR-c.DW*(c.KW-1)-1)/c.SW + 1 }

func (c *Conv) check() {
	if c.N < 1 || c.Groups < 1 || c.C%c.Groups != 0 || c.O%c.Groups != 0 || c.OH() < 1 || c.OW() < 1 {
		panic(fmt.Sprintf("kernel: bad convolution %+v", *c))
	}
}

// ConvScratch is the floats of scratch that each of the three directions needs for up to c.N
// images. For depthwise convolutions each further thread of a team has as much of its own.
func ConvScratch(c *Conv) int {
	if c.depthwise() {
		return depthwiseScratch(c)
	}
	cg, og, k := c.C/c.Groups, c.O/c.Groups, c.KH*c.KW
	w := c.windowsOfWeights()
	return max(
		c.lineScratch(), c.forwardScratch(), c.dataScratch()+og*k*cg,
		w.scratch()+og*w.columns()+w.swapped(og)+GemmScratch(max(og, cg*k), max(og, cg*k), w.columns()),
		w.scratch()+maxLanes+(w.columns()+cg*k)*laneWidth())
}

// lineScratch is the scratch of both directions where vectors run over channels.
func (c *Conv) lineScratch() int {
	f, _ := c.lines(false, 1)
	b, _ := c.lines(true, 1)
	return max(f.need(), b.need())
}

// forwardScratch is the scratch of a group of the forward pass as products.
func (c *Conv) forwardScratch() int {
	v, og := c.windows().withImagesInner(c.N), c.O/c.Groups
	return v.scratch() + og*v.columns() + GemmScratch(og, v.columns(), c.C/c.Groups*c.KH*c.KW)
}

// dataScratch is that of the gradient of x, but for a copy of the weights.
func (c *Conv) dataScratch() int {
	v, cg := c.windowsBack().withImagesInner(c.N), c.C/c.Groups
	return v.scratch() + v.halves()*cg*v.columns() + GemmScratch(cg, v.columns(), c.O/c.Groups*c.KH*c.KW)
}

// windows are the windows over x, one for each element of y.
func (c *Conv) windows() windows {
	return newWindows(c.N, c.C/c.Groups,
		axis{taps: c.KH, step: c.DH, from: -c.PT, stride: c.SH, in: c.H, out: c.OH()},
		axis{taps: c.KW, step: c.DW, from: -c.PL, stride: c.SW, in: c.W, out: c.OW()})
}

// windowsBack are the windows over y, one for each element of x. Phase (i,j) are the rows of
// x from i on in steps of SH, and the columns from j on in steps of SW.
func (c *Conv) windowsBack() windows {
	return newWindows(c.N, c.O/c.Groups,
		axis{taps: c.KH, step: -c.DH, from: c.PT, stride: c.SH, phases: min(c.SH, c.H), in: c.OH(), out: (c.H + c.SH - 1) / c.SH},
		axis{taps: c.KW, step: -c.DW, from: c.PL, stride: c.SW, phases: min(c.SW, c.W), in: c.OW(), out: (c.W + c.SW - 1) / c.SW})
}

// windowsOfWeights are the windows for the gradient of the weights, where vectors run over
// taps. Long lines are transposed as they are; short ones load faster with images innermost.
func (c *Conv) windowsOfWeights() windows {
	v := c.windows()
	v.byImage = true
	if c.KH*c.KW > 1 && (v.x.out < 8 || c.narrow()) {
		return v.withImagesInner(c.N)
	}
	return v
}

// ConvForward computes y = conv(x, w) + bias, then ReLU if asked; bias may be nil.
func ConvForward(t *Team, c *Conv, y, x, w, bias []float32, relu bool, scratch []float32) {
	c.check()
	if j, ok := c.lines(false, t.Threads()); ok && !c.depthwise() {
		x, scratch = c.whole(t, x, scratch)
		j.y, j.x, j.w, j.bias, j.relu, j.scratch = y, x, w, bias, relu, scratch
		t.lines(j)
		return
	}
	packs := c.packsWeights(false)
	if c.BF16 && !packs {
		w, scratch = c.operands(t, w, scratch)
	}
	if c.depthwise() {
		x, scratch = c.whole(t, x, scratch)
		t.depthwise(depthwiseTask{c: *c, direction: forward, y: y, x: x, w: w, bias: bias, relu: relu, scratch: scratch})
		return
	}
	t.groups(groupTask{c: *c, direction: forward, y: y, x: x, kept: c.kept(), w: w, bias: bias, relu: relu, packs: packs, scratch: scratch})
}

func (j *groupTask) forward(t *Team, gr int, scratch []float32) {
	c, y, w := &j.c, j.y, j.w
	cg, og, plane := c.C/c.Groups, c.O/c.Groups, c.OH()*c.OW()
	k := cg * c.KH * c.KW
	v := j.apart(c.windows().withImagesInner(c.N))
	scratch = v.begin(scratch)
	room, scratch := scratch[:c.keptRoom()], scratch[c.keptRoom():]
	v.setPhase(0, 0)
	out, scratch := scratch[:og*v.columns()], scratch[og*v.columns():]
	g := GemmArgs{M: og, A: w[gr*og*k:], RS: k, KS: 1, ReLU: j.relu, BF16: c.BF16, packed: j.pairs}
	if j.bias != nil {
		g.RowBias = j.bias[gr*og:]
	}
	for n := 0; n < c.N; n += v.together {
		images := min(v.together, c.N-n)
		x, step := j.source(t, gr, n, images, room)
		v.loadAll(t, x, step, images)
		v.operand(&g, images)
		dst := y[(n*c.O+gr*og)*plane:]
		if v.together == 1 {
			g.C, g.LDC = dst, plane
			gemm(t, &g, scratch)
			continue
		}
		g.C, g.LDC = out, v.columns()
		gemm(t, &g, scratch)
		v.storeAll(t, dst, c.O*plane, out, images, og)
	}
}

// ConvBackwardData computes the gradient of x from that of y.
func ConvBackwardData(t *Team, c *Conv, dx, dy, w, scratch []float32) {
	c.check()
	if j, ok := c.lines(true, t.Threads()); ok && !c.depthwise() {
		j.y, j.x, j.w, j.scratch = dx, dy, w, scratch
		t.lines(j)
		return
	}
	packs := c.packsWeights(true)
	if c.BF16 && !packs && (c.KH*c.KW == 1 || c.depthwise()) { // others round what they arrange
		w, scratch = c.operands(t, w, scratch)
	}
	if c.depthwise() {
		t.depthwise(depthwiseTask{c: *c, direction: backwardData, y: dy, x: dx, w: w, scratch: scratch})
		return
	}
	t.groups(groupTask{c: *c, direction: backwardData, y: dy, x: dx, w: w, packs: packs, scratch: scratch})
}

func (j *groupTask) data(t *Team, gr int, scratch []float32) {
	c, dx, dy := &j.c, j.x, j.y
	cg, og, plane := c.C/c.Groups, c.O/c.Groups, c.OH()*c.OW()
	v := j.apart(c.windowsBack().withImagesInner(c.N))
	scratch = v.begin(scratch)
	size := cg * v.columns()
	out, scratch := scratch[:v.halves()*size], scratch[v.halves()*size:]
	weights := cg * og * c.KH * c.KW
	w, single := j.w[gr*weights:], c.KH*c.KW == 1
	var arranged []float32
	if !single && j.pairs == nil {
		arranged, scratch = scratch[:weights], scratch[weights:]
		v.arrangeWeights(arranged, w, cg)
		if c.BF16 {
			RoundBF16(t, arranged, arranged)
		}
	}
	points := single && c.SH*c.SW > 1 && c.W <= shortPoints && !v.inner
	for n := 0; n < c.N; n += v.together {
		images := min(v.together, c.N-n)
		v.loadAll(t, dy[(n*c.O+gr*og)*plane:], c.O*plane, images)
		dst := dx[(n*c.C+gr*cg)*c.H*c.W:]
		if points {
			j.points(t, &v, dst, out[:size], w, images, scratch)
			continue
		}
		a, pairs := arranged, j.pairs
		for ty := range v.y.phases {
			for tx := range v.x.phases {
				v.setPhase(ty, tx)
				k := len(v.taps)
				half := out[tx%v.halves()*size:][:size]
				g := GemmArgs{M: cg, A: a, RS: k, KS: 1, C: half, LDC: v.columns(), BF16: c.BF16, packed: pairs}
				switch {
				case single:
					g.A, g.RS, g.KS = w, 1, cg
				case pairs != nil:
					pairs = pairs[packedA(cg, k):]
				default:
					a = a[cg*k:]
				}
				v.operand(&g, images)
				if v.together*c.SH*c.SW == 1 {
					g.C, g.LDC = dst, c.H*c.W
				}
				if k > 0 {
					gemm(t, &g, scratch)
				} else if v.y.reached(ty) {
					clear(half)
				}
				if v.together*c.SH*c.SW > 1 {
					v.scatter(t, c, dst, out, ty, tx, images)
				}
			}
		}
	}
}

// shortPoints is the longest line of x that is cleared before what lies a stride apart is stored. Longer
// ones are made of the phases, zeros included, in vectors.
const shortPoints = 14

// points is data of windows of one element on short lines: most of dx is zero, and one pair of phases
// computes the rest.
func (j *groupTask) points(t *Team, v *windows, dx, out, w []float32, images int, scratch []float32) {
	c := &j.c
	cg := c.C / c.Groups
	task := copyTask{dst: dx, image: c.C * c.H * c.W, images: images, channels: cg, strided: true, points: true, c: *c}
	for ty := range v.y.phases {
		for tx := range v.x.phases {
			if !v.y.reached(ty) || !v.x.reached(tx) {
				continue
			}
			v.setPhase(ty, tx)
			g := GemmArgs{M: cg, A: w, RS: 1, KS: cg, C: out, LDC: v.columns(), BF16: c.BF16, packed: j.pairs}
			v.operand(&g, images)
			gemm(t, &g, scratch)
			task.src, task.ty, task.tx = out, ty, tx
		}
	}
	if task.v = *v; t.Threads() == 1 || cg*v.columns() < smallCopy {
		task.spread(0, cg)
		return
	}
	t.copy(task)
}

// spreadPoints stores n channels from channel from on, and zeros around them.
func (j *copyTask) spreadPoints(from, n int) {
	v, c := &j.v, &j.c
	plane := c.H * c.W
	for i := range j.images {
		all := j.dst[i*j.image+from*plane:][:n*plane]
		clear(all)
		if j.src == nil {
			continue // no window has an element
		}
		for ci := range n {
			src := j.src[(from+ci)*v.columns()+i*v.y.out*v.x.out:]
			for y := j.ty; y < c.H; y += c.SH {
				line := all[ci*plane+y*c.W:][:c.W]
				q := 0
				for x := j.tx; x < len(line); x += c.SW {
					line[x] = src[q]
					q++
				}
				src = src[v.x.out:]
			}
		}
	}
}

// arrangeWeights rearranges w [channels, cg, taps] into a matrix [cg, channels*taps] for each
// pair of phases, with the taps of that phase.
func (v *windows) arrangeWeights(dst, w []float32, cg int) {
	const block = 16 // rows written at a time
	for ty := range v.y.phases {
		for tx := range v.x.phases {
			active := v.activeTaps(ty, tx)
			if len(active) == 0 {
				continue
			}
			row := v.channels * len(active)
			for c0 := 0; c0 < cg; c0 += block {
				v.arrangeRows(dst[c0*row:], w, active, cg, c0, min(block, cg-c0))
			}
			dst = dst[cg*row:]
		}
	}
}

// arrangeRows writes n rows from row c0 on of such a matrix, of the phase with the active taps.
func (v *windows) arrangeRows(dst, w []float32, active []int32, cg, c0, n int) {
	k := v.y.taps * v.x.taps
	row := v.channels * len(active)
	for o := range v.channels {
		for i := range n {
			d, s := dst[i*row+o*len(active):][:len(active)], w[(o*cg+c0+i)*k:][:k]
			if len(d) < len(s) {
				for i, tap := range active {
					d[i] = s[tap]
				}
			} else if k == 9 {
				nine := *(*[9]float32)(s) // at once: a copy of slices that may overlap is a call
				*(*[9]float32)(d) = nine
			} else {
				copy(d, s)
			}
		}
	}
}

// halves is the number of phases along a line that are interleaved when they are stored.
func (v *windows) halves() int {
	if v.x.phases == 2 {
		return 2
	}
	return 1
}

// complete reports whether a phase is the last of those stored together.
func (v *windows) complete(tx int) bool { return tx%v.halves() == v.halves()-1 }

// scatter stores the columns of a pair of phases in dx, once those stored together are there.
func (v *windows) scatter(t *Team, c *Conv, dx, out []float32, ty, tx, images int) {
	cg := c.C / c.Groups
	if c.SH*c.SW == 1 {
		v.storeAll(t, dx, c.C*c.H*c.W, out, images, cg)
		return
	}
	if !v.complete(tx) {
		return
	}
	task := copyTask{v: *v, dst: dx, src: out, image: c.C * c.H * c.W, images: images, channels: cg, strided: true, c: *c, ty: ty, tx: tx}
	if t.Threads() == 1 || cg*v.columns() < smallCopy {
		task.spread(0, cg)
		return
	}
	t.copy(task)
}

// spread stores n channels from channel from on of a pair of phases in dx.
func (j *copyTask) spread(from, n int) {
	if j.points {
		j.spreadPoints(from, n)
		return
	}
	v, c := &j.v, &j.c
	reached := v.y.reached(j.ty)
	for i := range j.images {
		for ci := from; ci < from+n; ci++ {
			if !reached {
				for y := j.ty; y < c.H; y += c.SH {
					clear(j.dst[i*j.image+(ci*c.H+y)*c.W:][:c.W])
				}
				continue
			}
			v.spread(c, j.dst[i*j.image+ci*c.H*c.W:][:c.H*c.W], j.src[ci*v.columns()+i*v.y.out*v.x.out:], j.channels*v.columns(), j.ty, j.tx)
		}
	}
}

// spread stores a pair of phases in a plane of x; the second of two halves follows half
// floats later.
func (v *windows) spread(c *Conv, plane, src []float32, half, ty, tx int) {
	if !v.complete(tx) {
		return
	}
	if v.halves() == 2 {
		interleaveLines((c.H-ty+c.SH-1)/c.SH, c.W, plane[ty*c.W:], c.SH*c.W, src, src[half:], v.x.out)
		return
	}
	for r, y := 0, ty; y < c.H; r, y = r+1, y+c.SH {
		to, line := plane[y*c.W:][:c.W], src[r*v.x.out:]
		for q, x := 0, tx; x < c.W; q, x = q+1, x+c.SW {
			to[x] = line[q]
		}
	}
}

// ConvBackwardWeight computes the gradient of w from that of y; acc continues the dot
// products that are in dw.
func ConvBackwardWeight(t *Team, c *Conv, dw, dy, x []float32, acc bool, scratch []float32) {
	c.check()
	if c.depthwise() {
		x, scratch = c.whole(t, x, scratch)
		t.depthwise(depthwiseTask{c: *c, direction: backwardWeight, y: dy, x: x, w: dw, acc: acc, scratch: scratch})
		return
	}
	t.groups(groupTask{c: *c, direction: backwardWeight, y: dy, x: x, kept: c.kept(), w: dw, acc: acc, scratch: scratch})
}

func (j *groupTask) weight(t *Team, gr int, scratch []float32) {
	c, dy := &j.c, j.y
	cg, og, plane := c.C/c.Groups, c.O/c.Groups, c.OH()*c.OW()
	k := cg * c.KH * c.KW
	v := c.windowsOfWeights()
	scratch = v.begin(scratch)
	v.setPhase(0, 0)
	room, scratch := scratch[:c.keptRoom()], scratch[c.keptRoom():]
	if c.narrow() && (t.Threads() == 1 || og*k*v.columns() < smallWork) {
		v.narrowWeight(j, gr, room, scratch)
		return
	}
	grads, scratch := scratch[:og*v.columns()], scratch[og*v.columns():]
	transposed, scratch := scratch[:v.swapped(og)], scratch[v.swapped(og):]
	swap := len(transposed) > 0
	dw := j.w[gr*og*k:]
	g := GemmArgs{M: og, KS: 1, C: dw, LDC: k, Acc: j.acc, BF16: c.BF16}
	if swap && j.acc {
		t.transpose(transposed, og, dw, k, og, k)
	}
	for n := 0; n < c.N; n += v.together {
		images := min(v.together, c.N-n)
		x, step := j.source(t, gr, n, images, room)
		v.loadAll(t, x, step, images)
		v.operandT(&g, images)
		g.A, g.RS = dy[(n*c.O+gr*og)*plane:], plane
		if v.together > 1 {
			v.gatherAll(t, grads, g.A, c.O*plane, images, og)
			g.A, g.RS = grads, v.columns()
		}
		if swap {
			gemm(t, &GemmArgs{M: k, N: og, K: g.K, A: g.B, RS: g.BJ, KS: 1, B: g.A, BK: 1, BJ: g.RS, C: transposed, LDC: og, Acc: g.Acc, BF16: g.BF16}, scratch)
		} else {
			gemm(t, &g, scratch)
		}
		g.Acc = true
	}
	if swap {
		t.transpose(dw, k, transposed, og, k, og)
	}
}

// groupTask is one direction of a convolution as matrix products; a tile is a group.
type groupTask struct {
	c         Conv
	direction direction
	y, x, w   []float32  // or their gradients
	kept      keptTensor // x, where c.Kept is set
	bias      []float32
	relu, acc bool
	packs     bool // the weights are packed, once for all images
	team      *Team
	scratch   []float32

	// While packed weights are made and used.
	step    groupStep
	gr, per int       // group; images of a tile
	pairs   []float32 // the packed weights; nil: they are read as they are
}

// groupStep is what a tile of a groupTask does.
type groupStep uint8

const (
	groupOf   groupStep = iota // a group
	packStep                   // packs some rows of weights
	imageStep                  // some images
)

// groups computes the groups one after another with all threads each, or, if there are many,
// one on each thread.
func (t *Team) groups(task groupTask) {
	n := task.c.Groups
	if t.Threads() == 1 || n < 2*t.Threads() {
		for gr := range n {
			task.group(t, gr, task.scratch)
		}
		return
	}
	j := &t.group
	*j = task
	j.team = t
	t.Run(n, j)
	*j = groupTask{} // do not retain the caller's slices
}

// Tile implements [Task].
func (j *groupTask) Tile(worker, i int) {
	n := ConvScratch(&j.c)
	if j.packs {
		n = ConvScratchBF16(&j.c)
	}
	n += j.c.keptRoom()
	if scratch := j.team.scratch(worker, n, j.scratch); j.step == groupOf {
		j.group(nil, i, scratch)
	} else {
		j.tile(i, scratch)
	}
}

func (j *groupTask) group(t *Team, gr int, scratch []float32) {
	if j.packs {
		j.packed(t, gr, scratch)
		return
	}
	j.product(t, gr, scratch)
}

// product computes a group as matrix products.
func (j *groupTask) product(t *Team, gr int, scratch []float32) {
	switch j.direction {
	case forward:
		j.forward(t, gr, scratch)
	case backwardData:
		j.data(t, gr, scratch)
	case backwardWeight:
		j.weight(t, gr, scratch)
	}
}
