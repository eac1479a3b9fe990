// The windows of a convolution as a matrix that is never materialised (implicit GEMM).
//
// A row of the matrix is a channel and a tap (a place in the window), a column is a position
// of the window. Element (r,c) is the float at rows[r]+cols[c] of a zero-padded copy of the
// source. With a stride of more than one the copy is split by phase, so that the floats that
// one tap reads at neighbouring positions are adjacent.

package kernel

import (
	"math"
	"unsafe"
)

// axis is one spatial dimension. Tap i has the offset e = i*step + from. Forward, the tap
// reads element p*stride + e of the source at position p. For the gradient of x the stride
// applies to the output instead: the tap reads element p + e/stride where that is an
// integer. Positions then fall into phases (remainders by the stride), and the offset of
// phase f is e + f.
type axis struct {
	taps, step, from int
	stride           int
	in, out          int // elements of the source; positions
	phases           int // 0: forward, the stride applies to the source
	// dense keeps one copy of the source, through which positions advance by the stride.
	// It serves where images are innermost, as vectors are contiguous then anyway.
	dense bool

	lo, padded int // first element of the copy, and its length
	slots      int // phases of the source, each with a copy of its own
}

// tap returns the copy that tap i reads in a phase, and where in it at position 0. ok is
// false if no position of the phase has the tap.
func (a *axis) tap(phase, i int) (slot, at int, ok bool) {
	e := i*a.step + a.from + phase
	if a.dense {
		return 0, e - a.lo, true
	}
	at = e / a.stride
	if e%a.stride < 0 {
		at--
	}
	rest := e - at*a.stride
	switch {
	case a.phases > 0:
		return 0, at - a.lo, rest == 0
	case a.taps < a.stride:
		return i, at - a.lo, true
	}
	return rest, at - a.lo, true
}

// reached reports whether any tap belongs to a phase.
func (a *axis) reached(phase int) bool {
	for i := range a.taps {
		if _, _, ok := a.tap(phase, i); ok {
			return true
		}
	}
	return false
}

// origin is the first element of the source that a copy takes.
func (a *axis) origin(slot int) int {
	if !a.dense && a.phases == 0 && a.taps < a.stride {
		slot = ((slot*a.step+a.from)%a.stride + a.stride) % a.stride
	}
	return slot
}

// plan derives lo, padded and slots from the other fields.
func (a *axis) plan() {
	a.slots, a.lo = 1, 0
	if a.phases == 0 && !a.dense {
		a.slots = min(a.taps, a.stride)
	}
	lo, hi := math.MaxInt, math.MinInt
	for phase := range max(a.phases, 1) {
		for i := range a.taps {
			if _, at, ok := a.tap(phase, i); ok {
				lo, hi = min(lo, at), max(hi, at)
			}
		}
	}
	if lo > hi {
		lo, hi = 0, 0 // no phase has a tap
	}
	a.lo, a.padded = lo, (a.out-1)*a.advance()+1+hi-lo
}

// sampling is the distance in the source between elements that are adjacent in a copy.
func (a *axis) sampling() int {
	if a.phases > 0 || a.dense {
		return 1
	}
	return a.stride
}

// advance is the distance in a copy from one position to the next.
func (a *axis) advance() int {
	if a.dense {
		return a.stride
	}
	return 1
}

// isSource reports whether the copy would equal the source.
func (a *axis) isSource() bool { return a.sampling() == 1 && a.lo == 0 && a.padded == a.in }

// windows are the windows of some images over the channels of one group.
type windows struct {
	together, channels int
	y, x               axis
	// inner makes images the innermost dimension, so that vectors are contiguous even where
	// planes are small.
	inner bool
	// byImage orders positions by image although images are innermost, as the gradient of
	// the weights sums over them.
	byImage         bool
	data            []float32 // [channels, slots of y, of x, together, y.padded, x.padded], or together last
	interleaved     []float32 // images innermost, without padding
	taps, positions []int32
}

const (
	// enough is the number of columns at which a product reaches full speed. Images with
	// smaller planes are batched until there are as many.
	enough = 400
	// Planes of at most innerPlane elements get at least innerImages images.
	innerPlane, innerImages = 64, 16
)

func newWindows(n, channels int, y, x axis) windows {
	y.plan()
	x.plan()
	return windows{together: min(n, max(1, enough/(y.out*x.out))), channels: channels, y: y, x: x}
}

// withImagesInner is v with images innermost if that is faster.
func (v windows) withImagesInner(n int) windows {
	back := v.y.phases > 0 && v.y.stride*v.x.stride > 1 // results are scattered
	if plane := v.y.out * v.x.out; n >= 8 && plane <= innerPlane && !back {
		v.setImagesInner(min(n, max(innerImages, enough/plane&^(innerImages-1))))
	}
	return v
}

// setImagesInner makes images the innermost dimension, that many at a time.
func (v *windows) setImagesInner(together int) {
	v.inner, v.together = true, together
	for _, a := range []*axis{&v.y, &v.x} {
		a.dense = a.phases == 0
		a.plan()
	}
}

// columns is the number of columns for a full batch of images.
func (v *windows) columns() int { return v.together * v.y.out * v.x.out }

// isSource reports whether the copy equals the source but for the order of images.
func (v *windows) isSource() bool { return v.y.isSource() && v.x.isSource() }

// copied is the size of the copy in floats, 0 if the source itself is used.
func (v *windows) copied() int {
	if v.together == 1 && v.isSource() {
		return 0
	}
	return v.channels * v.y.slots * v.x.slots * v.together * v.y.padded * v.x.padded
}

// interleavedSize is the floats of the transposed source.
func (v *windows) interleavedSize() int {
	if !v.inner || v.isSource() {
		return 0
	}
	return v.together * v.channels * v.y.in * v.x.in
}

// scratch is the floats that begin takes.
func (v *windows) scratch() int {
	return v.copied() + v.interleavedSize() + v.channels*v.y.taps*v.x.taps + v.columns()
}

// begin takes memory from scratch, fills in the offsets of the positions, and returns the
// scratch that is left.
func (v *windows) begin(scratch []float32) []float32 {
	n, taps, cols := v.copied(), v.channels*v.y.taps*v.x.taps, v.columns()
	if max(n, v.channels*v.y.in*v.x.in) > math.MaxInt32 {
		panic("kernel: images of a convolution are too large")
	}
	v.data, scratch = scratch[:n], scratch[n:]
	v.interleaved, scratch = scratch[:v.interleavedSize()], scratch[v.interleavedSize():]
	v.taps, scratch = ints(scratch[:taps]), scratch[taps:]
	v.positions, scratch = ints(scratch[:cols]), scratch[cols:]
	if v.inner {
		i, step, image := 0, v.together, 1
		if v.byImage {
			step, image = 1, v.y.out*v.x.out
		}
		for y := range v.y.out {
			for x := range v.x.out {
				at := v.place(y, x)
				for n := range v.together {
					v.positions[i+n*image] = int32(at + n)
				}
				i += step
			}
		}
		return scratch
	}
	i := 0
	for line := range v.together * v.y.out {
		at := (line/v.y.out*v.y.padded + line%v.y.out) * v.x.padded
		for p := range v.x.out {
			v.positions[i] = int32(at + p)
			i++
		}
	}
	return scratch
}

// place is the offset of a position where images are innermost.
func (v *windows) place(y, x int) int {
	return (y*v.y.advance()*v.x.padded + x*v.x.advance()) * v.together
}

// ints is scratch reinterpreted for offsets.
func ints(s []float32) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(s))), len(s))
}

// setPhase fills in the offsets of the taps of one pair of phases.
func (v *windows) setPhase(ty, tx int) {
	v.taps = v.taps[:0]
	plane, wide := v.together*v.y.padded*v.x.padded, 1
	if v.inner {
		wide = v.together
	}
	for c := range v.channels {
		for a := range v.y.taps {
			sy, ay, ok := v.y.tap(ty, a)
			if !ok {
				continue
			}
			for b := range v.x.taps {
				if sx, ax, ok := v.x.tap(tx, b); ok {
					slot := (c*v.y.slots+sy)*v.x.slots + sx
					v.taps = append(v.taps, int32(slot*plane+(ay*v.x.padded+ax)*wide))
				}
			}
		}
	}
}

// activeTaps lists the taps of one pair of phases. It overwrites the offsets of setPhase.
func (v *windows) activeTaps(ty, tx int) []int32 {
	active := v.taps[:0]
	for a := range v.y.taps {
		for b := range v.x.taps {
			_, _, oky := v.y.tap(ty, a)
			if _, _, okx := v.x.tap(tx, b); oky && okx {
				active = append(active, int32(a*v.x.taps+b))
			}
		}
	}
	return active
}

// load copies images of src, which are image floats apart.
func (v *windows) load(src []float32, image, images int) {
	y, x := &v.y, &v.x
	if v.copied() == 0 {
		v.data = src[:v.channels*y.in*x.in]
		return
	}
	if v.inner {
		v.loadInner(src, image, images)
		return
	}
	if v.loadLines(src, image, images) {
		return
	}
	size, step := y.padded*x.padded, x.sampling()
	for slot := range v.channels * y.slots * x.slots {
		c, py, px := slot/(y.slots*x.slots), y.origin(slot/x.slots%y.slots), x.origin(slot%x.slots)
		top, bottom := y.inside(py)
		left, right := x.inside(px)
		for i := range images {
			dst, plane := v.data[(slot*v.together+i)*size:][:size], src[i*image+c*y.in*x.in:][:y.in*x.in]
			if v.isSource() {
				copy(dst, plane)
				continue
			}
			clear(dst[:top*x.padded])
			clear(dst[bottom*x.padded:])
			for r := top; r < bottom; r++ {
				line := dst[r*x.padded:][:x.padded]
				for i := range line[:left] {
					line[i] = 0
				}
				for i := right; i < len(line); i++ {
					line[i] = 0
				}
				if left == right {
					continue
				}
				src := plane[((r+y.lo)*y.sampling()+py)*x.in+(left+x.lo)*step+px:]
				if step == 1 {
					copy(line[left:right], src)
				} else {
					subsample(line[left:right], src, step)
				}
			}
		}
	}
}

// loadInner is load with images innermost.
func (v *windows) loadInner(src []float32, image, images int) {
	y, x, g := &v.y, &v.x, v.together
	if v.isSource() {
		transpose(v.data, g, src, image, images, v.channels*y.in*x.in)
		return
	}
	transpose(v.interleaved, g, src, image, images, v.channels*y.in*x.in)
	size := y.padded * x.padded * g
	top, bottom := y.inside(0)
	left, right := x.inside(0)
	if left == right {
		bottom = top // all padding
	}
	for c := range v.channels {
		dst, plane := v.data[c*size:][:size], v.interleaved[c*y.in*x.in*g:][:y.in*x.in*g]
		clear(dst)
		for r := top; r < bottom; r++ {
			copy(dst[(r*x.padded+left)*g:][:(right-left)*g], plane[((r+y.lo)*x.in+left+x.lo)*g:])
		}
	}
}

// inside is the range of a copy that is not padding.
func (a *axis) inside(origin int) (lo, hi int) {
	n := (a.in - origin + a.sampling() - 1) / a.sampling()
	lo = min(max(0, -a.lo), a.padded)
	return lo, max(lo, min(n-a.lo, a.padded))
}

// isPlainMatrix reports whether the matrix is the copy itself, as for 1x1 windows.
func (v *windows) isPlainMatrix() bool {
	return v.y.taps*v.x.taps == 1 && v.x.padded == v.x.out && v.y.padded == v.y.out
}

// operand makes the windows of some images the matrix B of g: a row for every tap, a column
// for every position. With images innermost there are always columns for a full batch.
func (v *windows) operand(g *GemmArgs, images int) {
	g.B, g.K, g.N = v.data, len(v.taps), v.columns()
	if !v.inner {
		g.N = images * v.y.out * v.x.out
	}
	if v.isPlainMatrix() {
		g.BK, g.BJ = v.columns(), 1
		return
	}
	g.rows, g.cols, g.run = v.taps, v.positions[:g.N], 1
}

// operandT makes the transpose of that matrix the B of g.
func (v *windows) operandT(g *GemmArgs, images int) {
	g.B, g.K, g.N = v.data, images*v.y.out*v.x.out, len(v.taps)
	if v.inner {
		g.rows, g.cols, g.run = v.positions[:g.K], v.taps, 1
		return
	}
	if v.isPlainMatrix() {
		g.BK, g.BJ = 1, v.columns()
		return
	}
	g.rows, g.cols, g.run = v.positions[:g.K], v.taps, v.x.out
}

// swapped is the floats of a transposed gradient of the weights of og channels, 0 if the
// gradient is computed as it is. Transposed, the shorter operand is the one that is packed.
// Both operands must be contiguous along the sums.
func (v *windows) swapped(og int) int {
	if !v.isPlainMatrix() || v.inner || og >= v.channels {
		return 0
	}
	return og * v.channels
}

// store copies rows of a product to images that are image floats apart.
func (v *windows) store(dst []float32, image int, src []float32, images, rows int) {
	plane := v.y.out * v.x.out
	if v.inner {
		transpose(dst, image, src, v.together, rows*plane, images)
		return
	}
	for i := range images {
		for r := range rows {
			copy(dst[i*image+r*plane:][:plane], src[r*v.columns()+i*plane:])
		}
	}
}
