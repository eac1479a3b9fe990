// The multiply-add that every dot product is made of.

package kernel

import "math"

// FMA is x*y+z rounded once to float32. The product of two float32 is exact in
// float64; the sum is rounded to odd where a second rounding could go wrong.
func FMA(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	b := math.Float64bits(s)
	if b&0x1fffffff != 0x10000000 && b>>52&0x7ff >= 897 {
		return float32(s)
	}
	if b>>52&0x7ff == 0x7ff || b&1 == 1 {
		return float32(s)
	}
	t := s - p
	if e := (p - (s - t)) + (c - t); e != 0 {
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return float32(math.Float64frombits(b))
}

// Class is the numeric class of this machine's dot products.
func Class() string { return "fma" }
