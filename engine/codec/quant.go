// This file exists to say, in portable Go, what each kind does to a number: the
// lossy half of the codec, and the specification of any faster form of it.
package codec

import (
	"fmt"
	"math"
)

// INT8 quantises blocks of quantBlock elements (counted from the tensor's first)
// by their largest magnitude a, after the 8-bit blockwise scheme of Dettmers et
// al., arXiv 2110.02861, with linear steps:
//
//	q  = round to nearest even of x * (127/a), all in float32; in [-127, 127]
//	x' = float32(float64(q) * float64(a) / 127)
//
// so that |x - x'| <= a/254 (and a few rounding errors of float32), a itself
// comes back exactly, and quantising x' again changes nothing. The scale on the
// wire is a. Three kinds of block send no words:
//
//	all zeros: the scale is 0
//	a NaN or an infinity in it: training has to see these where they are, not
//	  as numbers, so the scale is scaleEscape and the elements follow as float32
//	a below minScale, where 127/a would overflow: escaped likewise
const (
	quantBlock  = 4096
	scaleEscape = 0x7fc00000        // float32 bits, the canonical NaN
	minScale    = (127 - 100) << 23 // float32 bits of 2^-100
	infBits     = 0x7f800000
)

// RoundTrip writes to dst what a receiver sees of x sent as k: bit for bit what
// Encode and then Decode give. dst may be x. It panics when the lengths differ
// or k is no kind.
func RoundTrip(k Kind, dst, x []float32) {
	if len(dst) != len(x) {
		panic(fmt.Sprintf("codec: round trip of %d elements into %d", len(x), len(dst)))
	}
	switch k {
	case FP32:
		copy(dst, x)
	case FP16:
		for i, v := range x {
			dst[i] = fromHalf(toHalf(math.Float32bits(v)))
		}
	case BF16:
		for i, v := range x {
			dst[i] = math.Float32frombits(toBF16(math.Float32bits(v)) << 16)
		}
	case INT8:
		for len(x) > 0 {
			n := min(len(x), quantBlock)
			roundTrip8(dst[:n], x[:n])
			dst, x = dst[n:], x[n:]
		}
	default:
		panic("codec: round trip of unknown " + k.String())
	}
}

func roundTrip8(dst, x []float32) {
	scale := scaleOf(x)
	switch scale {
	case 0:
		clear(dst)
	case scaleEscape:
		copy(dst, x)
	default:
		inv := 127 / math.Float32frombits(scale)
		var t [256]float32
		steps(&t, scale)
		for i, v := range x {
			dst[i] = t[quant8(v, inv)]
		}
	}
}

// toHalf gives the binary16 bits, in the low half, of a float32's bits.
func toHalf(b uint32) uint32 {
	sign := b >> 16 & 0x8000
	a := b & 0x7fffffff
	switch {
	case a > infBits: // NaN: keep the payload's top, and keep it a NaN
		m := a >> 13 & 0x3ff
		if m == 0 {
			m = 0x200
		}
		return sign | 0x7c00 | m
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

// scaleOf gives the bits of x's INT8 scale; len(x) <= quantBlock.
func scaleOf(x []float32) uint32 {
	// The bits of non-negative floats are ordered as the floats are, and
	// infinity and NaN come last.
	var a uint32
	for _, v := range x {
		a = max(a, math.Float32bits(v)&0x7fffffff)
	}
	if a != 0 && (a < minScale || a >= infBits) {
		return scaleEscape
	}
	return a
}

// validScale reports whether scaleOf can have given s.
func validScale(s uint32) bool {
	return s == 0 || s == scaleEscape || s >= minScale && s < infBits
}

// quant8 gives the byte of one element; inv is 127/a. The sum's unit in the last
// place is 1, so the float32 addition rounds, half to even, and leaves q as two's
// complement in the low bits.
func quant8(v, inv float32) byte {
	const magic = 3 << 22
	return byte(math.Float32bits(float32(v*inv) + magic))
}

// steps fills t with the values of the 256 bytes at a scale. Byte 128 stands for
// -128, which no encoder makes and no decoder lets by.
func steps(t *[256]float32, scale uint32) {
	a := float64(math.Float32frombits(scale))
	for q := 1; q < 128; q++ {
		v := float32(float64(q) * a / 127)
		t[q], t[256-q] = v, -v
	}
}
