// Convolutions of operands in bfloat16 by pairs of terms, forward and the gradient of x.
//
// Weights are packed once for all images, and rounded on the way. Threads then take images, each
// with windows of its own, so nothing is packed twice and no thread waits between products.

package kernel

const (
	packRows = 16 // rows of weights that a tile packs
	// leastColumns are the columns of a thread's images from which weights pay that are read anew
	// for them, if there are so many.
	leastColumns = 192
)

// packsWeights tells whether c, forward or back, multiplies weights that are packed once; lines has
// said no.
func (c *Conv) packsWeights(back bool) bool {
	if tile.pairs == nil || !c.BF16 || c.depthwise() {
		return false
	}
	rows, terms := c.O/c.Groups, c.C/c.Groups*c.KH*c.KW
	if back {
		rows, terms = c.C/c.Groups, c.O/c.Groups // at least, where a phase has a tap
	}
	return rows >= pairLeastRows && terms >= pairLeastTerms
}

// ConvScratchBF16 is ConvScratch for operands in bfloat16, where the weights are rounded on their
// way: what the forward pass and the gradient of x need. That of w needs ConvScratch.
func ConvScratchBF16(c *Conv) int {
	n := ConvScratch(c)
	if c.depthwise() {
		return n + c.weights() + maxLanes
	}
	few := *c // no images innermost
	few.N = min(c.N, 7)
	forward, data := max(c.forwardScratch(), few.forwardScratch()), max(c.dataScratch(), few.dataScratch())
	rows := packRows*c.O/c.Groups*c.KH*c.KW + c.KH*c.KW
	return max(n,
		max(c.weights()+maxLanes, c.packedWeights(false))+forward,
		c.packedWeights(true)+max(data, rows),
		c.pointWeights()+maxLanes+data)
}

// pointWeights is the floats of w where its windows are points, and the gradient of x reads w as it is.
func (c *Conv) pointWeights() int {
	if c.KH*c.KW > 1 {
		return 0
	}
	return c.weights()
}

// weights is the floats of w.
func (c *Conv) weights() int { return c.O * c.C / c.Groups * c.KH * c.KW }

// packedWeights is the words of the packed weights of a group.
func (c *Conv) packedWeights(back bool) int {
	rows, terms := c.O/c.Groups, c.C/c.Groups*c.KH*c.KW
	if !back {
		return packedA(rows, terms)
	}
	rows, terms = c.C/c.Groups, c.O/c.Groups
	if c.KH*c.KW == 1 {
		return packedA(rows, terms)
	}
	v, n := c.windowsBack(), 0
	ys, xs := v.y.kinds(), v.x.kinds()
	for _, y := range ys {
		for _, x := range xs {
			n += y.phases * x.phases * packedA(rows, terms*y.taps*x.taps)
		}
	}
	return n
}

// kind is the phases that have so many taps.
type kind struct{ taps, phases int }

// kinds are the phases by how many taps they have: none, or one of two neighbouring numbers.
func (a *axis) kinds() (ks [3]kind) {
	n := 0
next:
	for phase := range a.phases {
		taps := a.active(phase)
		for i := range n {
			if ks[i].taps == taps {
				ks[i].phases++
				continue next
			}
		}
		ks[n] = kind{taps, 1}
		n++
	}
	return ks
}

// active is the number of taps of a phase.
func (a *axis) active(phase int) (n int) {
	for i := range a.taps {
		if _, _, ok := a.tap(phase, i); ok {
			n++
		}
	}
	return n
}

// packedA is the words of m rows of k terms, packed in whole vectors of rows.
func packedA(m, k int) int { return wholeLanes(m) * ((k + 1) / 2) }

// operands are the weights, rounded at the front of scratch.
func (c *Conv) operands(t *Team, w, scratch []float32) (operands, rest []float32) {
	operands, rest = scratch[:c.weights()], scratch[c.weights():]
	RoundBF16(t, operands, w[:c.weights()])
	return operands, rest
}

// packed computes a group with packed weights.
func (j *groupTask) packed(t *Team, gr int, scratch []float32) {
	k := *j
	n := k.c.packedWeights(k.direction == backwardData)
	k.team, k.gr, k.pairs, k.scratch = t, gr, scratch[:n], scratch[n:]
	rows := k.c.O / k.c.Groups
	if k.direction == backwardData {
		rows = k.c.C / k.c.Groups
	}
	tiles := (rows + packRows - 1) / packRows
	k.step = packStep
	if n < smallCopy {
		k.all(tiles)
	} else {
		t.convolve(&k, tiles)
	}
	if k.per = k.images(t.Threads()); k.per == 0 {
		k.product(t, gr, k.scratch)
		return
	}
	k.step = imageStep
	t.convolve(&k, (k.c.N+k.per-1)/k.per)
}

// all does the tiles of a step on this thread.
func (j *groupTask) all(tiles int) {
	for i := range tiles {
		j.tile(i, j.scratch)
	}
}

// convolve does the tiles of a step of k.
func (t *Team) convolve(k *groupTask, tiles int) {
	if t.Threads() == 1 || tiles == 1 {
		k.all(tiles)
		return
	}
	j := &t.group
	*j = *k
	t.Run(tiles, j)
	*j = groupTask{} // do not retain the caller's slices
}

// tile is tile i of a step.
func (j *groupTask) tile(i int, scratch []float32) {
	if j.step == packStep {
		j.packRows(i, scratch)
	} else {
		j.part(i, scratch)
	}
}

// images is how many images a tile computes, 0 if the threads share each product.
func (j *groupTask) images(threads int) int {
	n := j.c.N
	if threads == 1 {
		return n
	}
	plane := j.c.OH() * j.c.OW()
	if j.direction == backwardData {
		plane = max(1, j.c.H*j.c.W/(j.c.SH*j.c.SW))
	}
	least := (leastColumns + plane - 1) / plane
	per := max((n+2*threads-1)/(2*threads), min((n+threads-1)/threads, least))
	if busiest(n, per, (n+per-1)/per, threads)*threads*4 > 5*n {
		return 0
	}
	return per
}

// part computes the images of tile i.
func (j *groupTask) part(i int, scratch []float32) {
	p := *j
	c := &p.c
	from := i * j.per
	c.N = min(j.per, c.N-from)
	at := from * c.C * c.H * c.W
	if p.kept.w != nil {
		p.kept.from = at
	} else {
		p.x = p.x[at:]
	}
	p.y = p.y[from*c.O*c.OH()*c.OW():]
	p.product(nil, j.gr, scratch)
}

// apart is v with images one by one where they need not be copied then and are large enough:
// packed weights are read anew for little.
func (j *groupTask) apart(v windows) windows {
	if j.pairs != nil && v.isSource() && v.y.taps*v.x.taps == 1 && v.y.out*v.x.out >= leastColumns {
		v.together = 1
	}
	return v
}

// packRows packs the rows of weights of tile i.
func (j *groupTask) packRows(i int, scratch []float32) {
	c := &j.c
	cg, og, taps := c.C/c.Groups, c.O/c.Groups, c.KH*c.KW
	w := j.w[j.gr*og*cg*taps:]
	at := i * packRows
	if j.direction == forward {
		g := GemmArgs{M: min(packRows, og-at), K: cg * taps, A: w[at*cg*taps:], RS: cg * taps, KS: 1}
		g.packA(j.pairs, og, at)
		return
	}
	rows := min(packRows, cg-at)
	if taps == 1 {
		g := GemmArgs{M: rows, K: og, A: w[at:], RS: 1, KS: cg}
		g.packA(j.pairs, cg, at)
		return
	}
	v := c.windowsBack()
	v.taps, scratch = ints(scratch[:taps]), scratch[taps:]
	pairs := j.pairs
	for ty := range v.y.phases {
		for tx := range v.x.phases {
			active := v.activeTaps(ty, tx)
			k := og * len(active)
			if k == 0 {
				continue
			}
			v.arrangeRows(scratch, w, active, cg, at, rows)
			g := GemmArgs{M: rows, K: k, A: scratch, RS: k, KS: 1}
			g.packA(pairs, cg, at)
			pairs = pairs[packedA(cg, k):]
		}
	}
}
