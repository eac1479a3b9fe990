// The fused multiply-add of dot products.

package kernel

import "math"

// FMA is x*y+z rounded once to float32, as fused multiply-add instructions do.
//
// The product of two float32 is exact in float64 and the sum is rounded to float64;
// rounding that again to float32 is wrong only where the float64 result lies on a tie
// of float32, or where the float32 result is subnormal. There the sum is first made
// odd in its last bit if it was not exact (Boldo and Melquiond, "Emulation of FMA and
// correctly rounded sums: proved algorithms using rounding to odd", IEEE TC 2008).
//
// Where multiply-adds cannot be fused (see Class) it is rounded twice.
func FMA(x, y, z float32) float32 {
	if !fused {
		return float32(x*y) + z
	}
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	if mayMisround(s) {
		s = addOdd(p, c)
	}
	return float32(s)
}

// mayMisround reports whether rounding s, a sum rounded to float64, again to float32 could
// differ from rounding once: s is on a tie of float32, or below its normal numbers.
func mayMisround(s float64) bool {
	b := math.Float64bits(s)
	return b&0x1fffffff == 0x10000000 || b<<1 < 897<<53
}

// addOdd is p+c rounded to odd.
//
//go:noinline
func addOdd(p, c float64) float64 {
	s := p + c
	b := math.Float64bits(s)
	if b>>52&0x7ff == 0x7ff || b&1 == 1 {
		return s
	}
	t := s - p
	if e := (p - (s - t)) + (c - t); e != 0 { // the exact error of s
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return math.Float64frombits(b)
}

// fused is false in a browser without fused multiply-adds. Emulating them exactly takes fifty
// times as long there.
var fused = true

// Class is the numeric class of this process's float32 dot products: "fma" everywhere but in
// such a browser. Classes differ in their bits, except in products of bfloat16 operands
// ([RoundBF16]).
func Class() string {
	if fused {
		return "fma"
	}
	return "nofma"
}
