// Operands of products in bfloat16, such that a product has the same bits on every machine.
//
// A product of two bfloat16 values has at most 16 significant bits, so it is exact in
// float32 as long as it neither overflows nor underflows: multiplying and then adding
// rounds once, as a fused multiply-add does. What is left are the ends of the range, where
// machines differ: some flush subnormal operands or sums to zero (VDPBF16PS always does),
// and an unfused product overflows where a fused sum would not. Operands are therefore
// confined to what makes these cases impossible. Let b be x rounded to bfloat16, to nearest
// even. The operand is
//
//	NaN             where x is NaN,
//	±infinity       where |b| >= 2^64,
//	±0              where |b| < 2^-56,
//	b               otherwise.
//
// The last bit of an operand is worth at least 2^-63, so every product is a multiple of
// 2^-126 and below 2^128 in magnitude, or infinite or NaN: exact in float32, and normal or
// zero. Sums of multiples of 2^-126 are multiples of 2^-126 after every rounding, hence
// normal or zero as well: there is nothing to flush. A dot product over ascending k from +0
// is then one sequence of roundings that fused and unfused machines, and those that flush
// and those that do not, carry out alike. (A sum that continues what is in C keeps this
// where C holds such a sum.)
//
// Without subnormals, (c + x1*y1) + x0*y0 in float32 is also what VDPBF16PS computes.
//
// Every float32 kernel of this package therefore is a bfloat16 kernel, once its operands are
// rounded.

package kernel

import "math"

// Bounds of the magnitude of operands, as float32 bits.
const (
	bf16Least    = (127 - 56) << 23 // 2^-56: less is zero
	bf16Infinite = (127 + 64) << 23 // 2^64: this and more is infinity
)

// RoundBF16 sets y to the bfloat16 operands that products take in place of x, on the
// team's threads. y may be x.
func RoundBF16(t *Team, y, x []float32) {
	y = y[:len(x)]
	if t.Threads() == 1 || len(x) < smallCopy {
		roundBF16(y, x)
		return
	}
	j := &t.round
	*j = roundTask{y: y, x: x}
	t.Run((len(x)+roundStripe-1)/roundStripe, j)
	*j = roundTask{} // nothing of the caller's is kept
}

// roundStripe is the floats of a tile of roundTask.
const roundStripe = 1 << 14

// roundTask is RoundBF16 in stripes.
type roundTask struct{ y, x []float32 }

// Tile implements [Task].
func (j *roundTask) Tile(_, i int) {
	from := i * roundStripe
	n := min(roundStripe, len(j.x)-from)
	roundBF16(j.y[from:][:n], j.x[from:][:n])
}

func roundBF16(y, x []float32) {
	if vec(vecRoundBF16, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for i, v := range x {
		y[i] = bf16Operand(v)
	}
}

// bf16Operand is the specification.
func bf16Operand(x float32) float32 {
	b := math.Float32bits(x)
	sign := b & signBit
	if b&^signBit > infBits {
		return math.Float32frombits(b | 1<<22) // quiet
	}
	switch b = (b&^signBit + 0x7fff + b>>16&1) &^ 0xffff; {
	case b < bf16Least:
		b = 0
	case b >= bf16Infinite:
		b = infBits
	}
	return math.Float32frombits(sign | b)
}
