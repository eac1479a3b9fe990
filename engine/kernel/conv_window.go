// Windows of a convolution as a matrix that is never written out.
//
// A row is a channel and a tap (a place in the window), a column a position of the
// window. The element is one float of a copy of the source that has zeros around it and,
// if windows step by more than one, the rows and columns apart that a tap meets: then
// what one tap sees lies side by side, and every element is at rows[r]+cols[c].

package kernel

import (
	"math"
	"unsafe"
)

// axis is one dimension. At position p, tap i looks where e = i*step + from points: with
// a stride that steps through the source at p*stride + e, with one that steps through the
// output (the gradient of x) at p + e/stride, if that is whole; there are turns such
// grids of positions, each one further.
type axis struct {
	taps, step, from int
	stride           int
	in, out          int // elements of the source, positions
	turns            int // 0: the stride is the source's
	// dense has one copy of the whole source, through which positions step by the stride:
	// images side by side are vectors anyway.
	dense bool

	lo, padded int // first element of the copy and their number
	slots      int // copies apart
}

// tap is the copy that tap i meets, and where it is at position 0. ok is false if the tap
// meets nothing.
func (a *axis) tap(turn, i int) (slot, at int, ok bool) {
	e := i*a.step + a.from + turn
	if a.dense {
		return 0, e - a.lo, true
	}
	at = e / a.stride
	if e%a.stride < 0 {
		at--
	}
	phase := e - at*a.stride
	switch {
	case a.turns > 0:
		return 0, at - a.lo, phase == 0
	case a.taps < a.stride:
		return i, at - a.lo, true
	}
	return phase, at - a.lo, true
}

// hits says that some tap meets something in a turn.
func (a *axis) hits(turn int) bool {
	for i := range a.taps {
		if _, _, ok := a.tap(turn, i); ok {
			return true
		}
	}
	return false
}

// phase is the first element of the source that a copy takes.
func (a *axis) phase(slot int) int {
	if !a.dense && a.turns == 0 && a.taps < a.stride {
		slot = ((slot*a.step+a.from)%a.stride + a.stride) % a.stride
	}
	return slot
}

// plan sets what follows from the rest.
func (a *axis) plan() {
	a.slots, a.lo = 1, 0
	if a.turns == 0 && !a.dense {
		a.slots = min(a.taps, a.stride)
	}
	lo, hi := math.MaxInt, math.MinInt
	for turn := range max(a.turns, 1) {
		for i := range a.taps {
			if _, at, ok := a.tap(turn, i); ok {
				lo, hi = min(lo, at), max(hi, at)
			}
		}
	}
	if lo > hi {
		lo, hi = 0, 0 // nothing meets anything
	}
	a.lo, a.padded = lo, (a.out-1)*a.pace()+1+hi-lo
}

// every is the step through the source that a copy takes.
func (a *axis) every() int {
	if a.turns > 0 || a.dense {
		return 1
	}
	return a.stride
}

// pace is the step through the copy from one position to the next.
func (a *axis) pace() int {
	if a.dense {
		return a.stride
	}
	return 1
}

// whole says that the copy would be the source.
func (a *axis) whole() bool { return a.every() == 1 && a.lo == 0 && a.padded == a.in }

// windows are those of some images over one group's channels.
type windows struct {
	together, channels int
	y, x               axis
	// inner has images side by side: what a vector of the product needs is in one place
	// even where planes are small.
	inner bool
	// byImage has positions of images side by side sorted by image, as the gradient of the
	// weights takes them.
	byImage         bool
	data            []float32 // [channels, slots of y, of x, together, y.padded, x.padded], or together last
	turned          []float32 // images side by side without padding, where inner
	taps, positions []int32
}

const (
	// enough is the columns that let a product run at full speed: images whose planes are
	// smaller go together.
	enough = 400
	// Planes so small have at least so many images side by side.
	innerPlane, innerImages = 64, 16
)

func newWindows(n, channels int, y, x axis) windows {
	y.plan()
	x.plan()
	return windows{together: min(n, max(1, enough/(y.out*x.out))), channels: channels, y: y, x: x}
}

// sideBySide is v with images innermost if that is faster.
func (v windows) sideBySide(n int) windows {
	back := v.y.turns > 0 && v.y.stride*v.x.stride > 1 // positions go to places apart
	if plane := v.y.out * v.x.out; n >= 8 && plane <= innerPlane && !back {
		v.lie(min(n, max(innerImages, enough/plane&^(innerImages-1))))
	}
	return v
}

// lie has that many images lie side by side.
func (v *windows) lie(together int) {
	v.inner, v.together = true, together
	for _, a := range []*axis{&v.y, &v.x} {
		a.dense = a.turns == 0
		a.plan()
	}
}

// columns of a whole group of images.
func (v *windows) columns() int { return v.together * v.y.out * v.x.out }

// whole says that the copy is the source, but for the order of the images.
func (v *windows) whole() bool { return v.y.whole() && v.x.whole() }

// copied is the floats of the copy, 0 if the source serves.
func (v *windows) copied() int {
	if v.together == 1 && v.whole() {
		return 0
	}
	return v.channels * v.y.slots * v.x.slots * v.together * v.y.padded * v.x.padded
}

// sides is the floats of images side by side.
func (v *windows) sides() int {
	if !v.inner || v.whole() {
		return 0
	}
	return v.together * v.channels * v.y.in * v.x.in
}

// scratch is what begin takes.
func (v *windows) scratch() int {
	return v.copied() + v.sides() + v.channels*v.y.taps*v.x.taps + v.columns()
}

// begin takes memory from scratch, lays out the offsets of the positions, and returns the
// rest.
func (v *windows) begin(scratch []float32) []float32 {
	n, taps, cols := v.copied(), v.channels*v.y.taps*v.x.taps, v.columns()
	if max(n, v.channels*v.y.in*v.x.in) > math.MaxInt32 {
		panic("kernel: images of a convolution are too large")
	}
	v.data, scratch = scratch[:n], scratch[n:]
	v.turned, scratch = scratch[:v.sides()], scratch[v.sides():]
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

// place is where a position of the first image begins if images lie side by side.
func (v *windows) place(y, x int) int {
	return (y*v.y.pace()*v.x.padded + x*v.x.pace()) * v.together
}

// ints is scratch for offsets.
func ints(s []float32) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(s))), len(s))
}

// turn lays out the offsets of the taps that meet something in one pair of turns.
func (v *windows) turn(ty, tx int) {
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

// met lists the taps that meet something in one pair of turns. It lies where the offsets
// of turn do.
func (v *windows) met(ty, tx int) []int32 {
	met := v.taps[:0]
	for a := range v.y.taps {
		for b := range v.x.taps {
			_, _, oky := v.y.tap(ty, a)
			if _, _, okx := v.x.tap(tx, b); oky && okx {
				met = append(met, int32(a*v.x.taps+b))
			}
		}
	}
	return met
}

// load copies images of src, which lie image floats apart.
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
	size, step := y.padded*x.padded, x.every()
	for slot := range v.channels * y.slots * x.slots {
		c, py, px := slot/(y.slots*x.slots), y.phase(slot/x.slots%y.slots), x.phase(slot%x.slots)
		top, bottom := y.inside(py)
		left, right := x.inside(px)
		for i := range images {
			dst, plane := v.data[(slot*v.together+i)*size:][:size], src[i*image+c*y.in*x.in:][:y.in*x.in]
			if v.whole() {
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
				src := plane[((r+y.lo)*y.every()+py)*x.in+(left+x.lo)*step+px:]
				if step == 1 {
					copy(line[left:right], src)
				} else {
					skip(line[left:right], src, step)
				}
			}
		}
	}
}

// loadInner is load with images side by side.
func (v *windows) loadInner(src []float32, image, images int) {
	y, x, g := &v.y, &v.x, v.together
	if v.whole() {
		transpose(v.data, g, src, image, images, v.channels*y.in*x.in)
		return
	}
	transpose(v.turned, g, src, image, images, v.channels*y.in*x.in)
	size := y.padded * x.padded * g
	top, bottom := y.inside(0)
	left, right := x.inside(0)
	if left == right {
		bottom = top // nothing but padding
	}
	for c := range v.channels {
		dst, plane := v.data[c*size:][:size], v.turned[c*y.in*x.in*g:][:y.in*x.in*g]
		clear(dst)
		for r := top; r < bottom; r++ {
			copy(dst[(r*x.padded+left)*g:][:(right-left)*g], plane[((r+y.lo)*x.in+left+x.lo)*g:])
		}
	}
}

// inside is the part of a copy that is not padding.
func (a *axis) inside(phase int) (lo, hi int) {
	n := (a.in - phase + a.every() - 1) / a.every()
	lo = min(max(0, -a.lo), a.padded)
	return lo, max(lo, min(n-a.lo, a.padded))
}

// points says that the matrix is the copy as it lies: its windows are of one point.
func (v *windows) points() bool {
	return v.y.taps*v.x.taps == 1 && v.x.padded == v.x.out && v.y.padded == v.y.out
}

// operand makes the windows of some images the B of g: a row for every tap, a column for
// every position. Side by side there are always columns for all images.
func (v *windows) operand(g *GemmArgs, images int) {
	g.B, g.K, g.N = v.data, len(v.taps), v.columns()
	if !v.inner {
		g.N = images * v.y.out * v.x.out
	}
	if v.points() {
		g.BK, g.BJ = v.columns(), 1
		return
	}
	g.rows, g.cols, g.run = v.taps, v.positions[:g.N], 1
}

// operandT makes the transpose the B of g.
func (v *windows) operandT(g *GemmArgs, images int) {
	g.B, g.K, g.N = v.data, images*v.y.out*v.x.out, len(v.taps)
	if v.inner {
		g.rows, g.cols, g.run = v.positions[:g.K], v.taps, 1
		return
	}
	if v.points() {
		g.BK, g.BJ = 1, v.columns()
		return
	}
	g.rows, g.cols, g.run = v.positions[:g.K], v.taps, v.x.out
}

// swapped is the floats of the transposed gradient of the weights of og channels, where
// that is computed: the side of a product that is laid out is the shorter one then. Both
// sides have to lie along the sums.
func (v *windows) swapped(og int) int {
	if !v.points() || v.inner || og >= v.channels {
		return 0
	}
	return og * v.channels
}

// store brings rows of a product to images that lie image floats apart.
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
