// The multiply-add that every dot product is made of.

package kernel

import "math"

// FMA is x*y+z rounded once to float32, as fused multiply-add instructions do.
//
// The product of two float32 is exact in float64 and the sum is rounded to float64;
// rounding that again to float32 is wrong only where the float64 result lies on a tie
// of float32, or where the float32 result is subnormal. There the sum is first made
// odd in its last bit if it was not exact (Boldo and Melquiond, "Emulation of FMA and
// correctly rounded sums: proved algorithms using rounding to odd", IEEE TC 2008).
func FMA(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	b := math.Float64bits(s)
	if b&0x1fffffff != 0x10000000 && b>>52&0x7ff >= 897 {
		return float32(s)
	}
	return fmaOdd(p, c, s, b)
}

//go:noinline
func fmaOdd(p, c, s float64, b uint64) float32 {
	if b>>52&0x7ff == 0x7ff || b&1 == 1 {
		return float32(s)
	}
	t := s - p
	if e := (p - (s - t)) + (c - t); e != 0 { // the exact error of s
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return float32(math.Float64frombits(b))
}

// Class is the numeric class of this build's dot products: "fma" everywhere but in a
// browser whose hardware cannot fuse.
func Class() string { return "fma" }
