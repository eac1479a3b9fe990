// Tensors kept in 16 bits an element where all that reads them are products in bfloat16, and
// ReLU's gradient: half the memory, and the bits that rounding from float32 would give.
//
// An element is kept as the upper half of its operand, but for one thing: what is too small for
// an operand, and not zero, is kept as ±2^-57. As an operand that is zero, and ReLU's gradient
// still sees its sign.
//
// A tensor is a row of blocks of 1024 elements, the last one shorter. A block of n is (n+1)/2
// words: element i in the lower half of word i, element (n+1)/2+i in the upper half. So loops
// need no loads or stores narrower than a word.

package kernel

import "math"

// packBlock is the elements of a block.
const packBlock = 1024

// PackedBF16 is the words that n elements are kept in.
func PackedBF16(n int) int { return n/packBlock*(packBlock/2) + (n%packBlock+1)/2 }

// PackBF16 keeps x in w, which has PackedBF16(len(x)) words, on the team's threads. With round
// it also rounds x in place, as RoundBF16 does.
func PackBF16(t *Team, w []uint32, x []float32, round bool) {
	t.packed(&packTask{w: w[:PackedBF16(len(x))], x: x, pack: true, round: round})
}

// UnpackBF16 sets x to the operands that w keeps, those of RoundBF16.
func UnpackBF16(t *Team, x []float32, w []uint32) {
	t.packed(&packTask{w: w[:PackedBF16(len(x))], x: x})
}

// packed runs j in stripes.
func (t *Team) packed(j *packTask) {
	blocks := (len(j.x) + packBlock - 1) / packBlock
	if t.Threads() == 1 || len(j.x) < smallCopy {
		j.blocks(0, blocks)
		return
	}
	p := &t.keep
	*p = *j
	t.Run((blocks+packStripe-1)/packStripe, p)
	*p = packTask{} // nothing of the caller's is kept
}

// packStripe is the blocks of a tile of packTask.
const packStripe = 16

// packTask is PackBF16 or UnpackBF16.
type packTask struct {
	w           []uint32
	x           []float32
	pack, round bool
}

// Tile implements [Task].
func (j *packTask) Tile(_, i int) {
	from := i * packStripe
	j.blocks(from, min(from+packStripe, (len(j.x)+packBlock-1)/packBlock))
}

// blocks does the blocks [from,to).
func (j *packTask) blocks(from, to int) {
	for b := from; b < to; b++ {
		x := j.x[b*packBlock:]
		x = x[:min(len(x), packBlock)]
		w := j.w[b*packBlock/2:][:(len(x)+1)/2]
		switch {
		case !j.pack:
			unpackBlock(x, w)
		case j.round:
			packBlockRound(w, x)
		default:
			packOne(w, x)
		}
	}
}

// halves are the elements that the two halves of a block's words keep; the lower half has one
// more where their number is odd.
func halves(x []float32) (lo, hi []float32) {
	m := (len(x) + 1) / 2
	return x[:m], x[m:]
}

func packOne(w []uint32, x []float32) {
	lo, hi := halves(x)
	n := len(hi)
	if !vec(vecPackBF16, &vecArgs{n: n, p: ptrs(floats(w[:n]), lo, hi, nil)}) {
		for i, v := range hi {
			w[i] = keptBF16(lo[i])>>16 | keptBF16(v)
		}
	}
	if len(lo) > n {
		w[n] = keptBF16(lo[n]) >> 16
	}
}

func packBlockRound(w []uint32, x []float32) {
	lo, hi := halves(x)
	n := len(hi)
	if !vec(vecPackRoundBF16, &vecArgs{n: n, p: ptrs(floats(w[:n]), lo, hi, nil)}) {
		for i := range hi {
			a, b := keptBF16(lo[i]), keptBF16(hi[i])
			w[i], lo[i], hi[i] = a>>16|b, operandBF16(a), operandBF16(b)
		}
	}
	if len(lo) > n {
		a := keptBF16(lo[n])
		w[n], lo[n] = a>>16, operandBF16(a)
	}
}

func unpackBlock(x []float32, w []uint32) {
	lo, hi := halves(x)
	n := len(hi)
	if !vec(vecUnpackBF16, &vecArgs{n: n, p: ptrs(lo, hi, floats(w[:n]), nil)}) {
		for i, v := range w[:n] {
			lo[i], hi[i] = operandBF16(v<<16), operandBF16(v&0xffff0000)
		}
	}
	if len(lo) > n {
		lo[n] = operandBF16(w[n] << 16)
	}
}

// ReLUGradBF16 is ReLUGrad where w keeps the ReLU's whole output, and dy is that of its elements
// from element from on. dx may be dy.
func ReLUGradBF16(dx, dy []float32, w []uint32, from int) {
	dx = dx[:len(dy)]
	var y [packBlock]float32
	for len(dy) > 0 {
		at := from % packBlock
		n := min(packBlock-at, len(dy))
		words := w[(from-at)/2:]
		// Whole blocks in place; whoever ends a tensor or begins within a block goes by element.
		if n == packBlock {
			if &dx[0] != &dy[0] {
				copy(dx, dy[:n])
			}
			lo, hi := halves(dx[:n])
			if vec(vecReluGradBF16, &vecArgs{n: len(hi), p: ptrs(lo, hi, floats(words[:len(hi)]), nil)}) {
				dx, dy, from = dx[n:], dy[n:], from+n
				continue
			}
		}
		m := packBlock / 2 // elements in the block's lower halves
		if len(words) < m {
			m = len(words)
		}
		for i := range n {
			if e := at + i; e < m {
				y[i] = math.Float32frombits(words[e] << 16)
			} else {
				y[i] = math.Float32frombits(words[e-m] & 0xffff0000)
			}
		}
		ReLUGrad(dx[:n], dy[:n], y[:n])
		dx, dy, from = dx[n:], dy[n:], from+n
	}
}

// keptBF16 is the specification of what is kept of x, in the upper half.
func keptBF16(x float32) uint32 {
	b := math.Float32bits(x)
	sign, a := b&signBit, b&^signBit
	if a == 0 {
		return sign
	}
	if a > infBits {
		return sign | 0x7fc00000
	}
	switch a = (a + 0x7fff + a>>16&1) &^ 0xffff; {
	case a < bf16Least:
		a = bf16Least - 1<<23
	case a >= bf16Infinite:
		a = infBits
	}
	return sign | a
}

// operandBF16 is what is kept as an operand.
func operandBF16(b uint32) float32 {
	if b&^signBit < bf16Least {
		b &= signBit
	}
	return math.Float32frombits(b)
}
