// Conversions between float32 and the formats of wires and files: binary16, bfloat16 and
// 8-bit integers, each value in a uint32.

package kernel

import (
	"math"
	"unsafe"
)

// floats reinterprets words as floats.
func floats(w []uint32) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(w))), len(w))
}

// vecWords runs a loop that reads x and writes w.
func vecWords(op vecOp, w []uint32, x []float32, k float32) bool {
	return vec(op, &vecArgs{n: len(x), p: ptrs(floats(w[:len(x)]), x, nil, nil), k: [10]float32{k}})
}

// vecFloats runs a loop that reads w and writes x.
func vecFloats(op vecOp, x []float32, w []uint32) bool {
	return vec(op, &vecArgs{n: len(x), p: ptrs(x, floats(w[:len(x)]), nil, nil)})
}

// ToBits sets w to the bits of x.
func ToBits(w []uint32, x []float32) { copy(floats(w[:len(x)]), x) }

// FromBits sets x to the floats of bits w.
func FromBits(x []float32, w []uint32) { copy(x, floats(w[:len(x)])) }

// ToHalf sets w to the binary16 bits of x, rounded to nearest even: 65520 and more becomes
// infinity, NaN stays NaN and becomes quiet.
func ToHalf(w []uint32, x []float32) {
	if vecWords(vecToHalf, w, x, 0) {
		return
	}
	for i, v := range x {
		w[i] = toHalf(math.Float32bits(v))
	}
}

// FromHalf sets x to the values of binary16 bits w, each below 1<<16.
func FromHalf(x []float32, w []uint32) {
	if vecFloats(vecFromHalf, x, w) {
		return
	}
	for i := range x {
		x[i] = fromHalf(w[i])
	}
}

// ToBFloat16 sets w to the bfloat16 bits of x, rounded to nearest even; NaN stays NaN.
func ToBFloat16(w []uint32, x []float32) {
	if vecWords(vecToBFloat16, w, x, 0) {
		return
	}
	for i, v := range x {
		w[i] = toBF16(math.Float32bits(v))
	}
}

// FromBFloat16 sets x to the values of bfloat16 bits w.
func FromBFloat16(x []float32, w []uint32) {
	if vecFloats(vecFromBFloat16, x, w) {
		return
	}
	for i := range x {
		x[i] = math.Float32frombits(w[i] << 16)
	}
}

// Quantise8 sets w to round(x*scale), ties to even, as a byte in two's complement; x*scale
// lies within -127..127.
func Quantise8(w []uint32, x []float32, scale float32) {
	if vecWords(vecQuantise8, w, x, scale) {
		return
	}
	// The sum's unit in the last place is 1.
	const magic = 3 << 22
	for i, v := range x {
		w[i] = math.Float32bits(float32(v*scale)+magic) & 0xff
	}
}

// AbsMax returns the largest magnitude in x, +0 if x is empty. finite is false, and the
// magnitude meaningless, if x has an infinity or NaN.
func AbsMax(x []float32) (a float32, finite bool) {
	var s [2]lanes // the lanes' maxima; how many are not finite
	if vec(vecAbsMax, &vecArgs{n: len(x), p: ptrs(x, nil, nil, nil), sums: &s[0]}) {
		return s[0].max(), s[1].total() == 0
	}
	// Magnitudes compare as their bits do; infinity and NaN come last.
	m := uint32(0)
	for _, v := range x {
		m = max(m, math.Float32bits(v)&^signBit)
	}
	return math.Float32frombits(m), m < infBits
}

// maxCount bounds what a float32 lane counts exactly.
const maxCount = 1 << 24

// CountZeros counts the words that are zero.
func CountZeros(w []uint32) int {
	var l lanes
	if len(w) < maxCount && vec(vecCountZeros, &vecArgs{n: len(w), p: ptrs(floats(w), nil, nil, nil), sums: &l}) {
		return int(l.total())
	}
	n := 0
	for _, v := range w {
		n += int(^(v | -v) >> 31)
	}
	return n
}

// CountEqual counts the words of w that equal x's.
func CountEqual(x, w []uint32) int {
	x = x[:len(w)]
	var l lanes
	if len(w) < maxCount && vec(vecCountEqual, &vecArgs{n: len(w), p: ptrs(floats(x), floats(w), nil, nil), sums: &l}) {
		return int(l.total())
	}
	n := 0
	for i, v := range w {
		d := v ^ x[i]
		n += int(^(d | -d) >> 31)
	}
	return n
}

// TakeEqual sets dst to x where x equals w, over the length of w.
func TakeEqual(dst, x, w []uint32) {
	dst, x = dst[:len(w)], x[:len(w)]
	if vec(vecTakeEqual, &vecArgs{n: len(w), p: ptrs(floats(dst), floats(x), floats(w), nil)}) {
		return
	}
	for i, v := range w {
		if x[i] == v {
			dst[i] = v
		}
	}
}

// toHalf gives the binary16 bits, in the low half, of a float32's bits.
func toHalf(b uint32) uint32 {
	sign := b >> 16 & 0x8000
	a := b & 0x7fffffff
	switch {
	case a > infBits: // NaN: keep the payload's top and make it quiet, as instructions do
		return sign | 0x7e00 | a>>13&0x3ff
	case a >= 143<<23: // 2^16 and up, infinity
		return sign | 0x7c00
	case a < 113<<23: // below 2^-14: a subnormal half; adding 0.5 lets the
		// float32 addition round at bit 2^-24
		return sign | (math.Float32bits(math.Float32frombits(a)+0.5) - 126<<23)
	}
	// Round half to even at bit 13; a carry walks into the exponent, up to
	// infinity, as it should.
	return sign | (a-112<<23+0xfff+a>>13&1)>>13
}

// fromHalf is exact.
func fromHalf(h uint32) float32 {
	sign := h & 0x8000 << 16
	a := h & 0x7fff << 13
	switch a & (31 << 23) {
	case 31 << 23: // infinity, NaN
		return math.Float32frombits(sign | a | infBits)
	case 0: // zero and subnormals: a counts steps of 2^-24
		f := math.Float32frombits(a+113<<23) - math.Float32frombits(113<<23)
		return math.Float32frombits(sign | math.Float32bits(f))
	}
	return math.Float32frombits(sign | (a + 112<<23))
}

// toBF16 gives the bfloat16 bits, in the low half, of a float32's bits.
func toBF16(b uint32) uint32 {
	if b&0x7fffffff > infBits {
		if b>>16&0x7f == 0 {
			return b>>16 | 0x40
		}
		return b >> 16
	}
	return (b + 0x7fff + b>>16&1) >> 16
}
