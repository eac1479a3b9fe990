// This file exists to say, in portable Go, what each kind does to a number: the
// lossy half of the codec, and the specification of any faster form of it.
package codec

import (
	"math"

	"github.com/ravnest/ravnest/engine/kernel"
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

// scaleOf gives the bits of x's INT8 scale; len(x) <= quantBlock.
func scaleOf(x []float32) uint32 {
	a, finite := kernel.AbsMax(x)
	b := math.Float32bits(a)
	if !finite || b != 0 && b < minScale {
		return scaleEscape
	}
	return b
}

// validScale reports whether scaleOf can have given s.
func validScale(s uint32) bool {
	return s == 0 || s == scaleEscape || s >= minScale && s < infBits
}

// lookUp gives each byte of w its value.
func lookUp(dst []float32, w []uint32, t *[256]float32) {
	w = w[:len(dst)]
	for ; len(dst) >= 8 && len(w) >= 8; dst, w = dst[8:], w[8:] {
		d, q := (*[8]float32)(dst), (*[8]uint32)(w)
		d[0], d[1], d[2], d[3] = t[byte(q[0])], t[byte(q[1])], t[byte(q[2])], t[byte(q[3])]
		d[4], d[5], d[6], d[7] = t[byte(q[4])], t[byte(q[5])], t[byte(q[6])], t[byte(q[7])]
	}
	for i, q := range w {
		dst[i] = t[byte(q)]
	}
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
