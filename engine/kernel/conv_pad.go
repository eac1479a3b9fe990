// Copies of planes with their padding, in vectors.

package kernel

// padCopy copies lines of planes behind top lines of zeros and before bottom ones. A line is
// vectors of lanes floats, which have the source's every float, or for a stride of two every
// second, and the others odd bytes further, if odd is not 0. Distances are in bytes; a line of
// the source begins at bytes from src. masks has, for each vector, a mask for every vector of the
// source, and that of the store.
type padCopy struct {
	lanes, stride                           int
	planes, top, lines, bottom, vectors     int
	at, splane, spitch, dplane, dpitch, odd int
}

// padMasks are the ints of the masks of a line, at most.
const padMasks = 768

// loadLines is load in vectors, where this machine has a kernel for it and images are not innermost.
func (v *windows) loadLines(src []float32, image, images int) bool {
	y, x := &v.y, &v.x
	step := x.sampling()
	lanes, ints := padLanes()
	if lanes == 0 || step > 2 || v.isSource() {
		return false
	}
	vectors := (x.padded + lanes - 1) / lanes
	if vectors*(step+1)*ints > padMasks {
		return false
	}
	var masks [padMasks]int32
	size, slots := y.padded*x.padded, y.slots*x.slots
	odd := 0
	if step == 2 && x.slots == 2 {
		odd = v.together * size
	}
	for slot := range slots {
		if odd > 0 && slot%2 == 1 {
			continue // came with the one before
		}
		py, px := y.origin(slot/x.slots), x.origin(slot%x.slots)
		top, bottom := y.inside(py)
		first := x.lo*step + px // column of the source
		m := masks[:]
		put := func(from, n int) {
			if ints == 1 {
				m[0] = maskBits(from, n)
			} else {
				within(m[:ints], from, n)
			}
			m = m[ints:]
		}
		for i := range vectors {
			for j := range step {
				put(first+(i*step+j)*lanes, x.in)
			}
			put(i*lanes, x.padded)
		}
		at := ((top+y.lo)*y.sampling()+py)*x.in + first
		p := padCopy{
			lanes: lanes, stride: step, planes: v.channels, top: top, lines: bottom - top, bottom: y.padded - bottom, vectors: vectors,
			at: 4 * at, splane: 4 * y.in * x.in, spitch: 4 * y.sampling() * x.in, dplane: 4 * slots * v.together * size, dpitch: 4 * x.padded, odd: 4 * odd,
		}
		for i := range images {
			p.run(src[i*image:], masks[:], v.data[(slot*v.together+i)*size:])
		}
	}
	return true
}

// maskBits is within as the bits of a word.
func maskBits(from, n int) int32 {
	lo, hi := min(max(0, -from), 16), min(max(0, n-from), 16)
	return int32(uint16(1)<<hi-1) &^ int32(uint16(1)<<lo-1)
}
