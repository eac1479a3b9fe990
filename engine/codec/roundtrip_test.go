package codec

import (
	"math"

	"github.com/ravnest/ravnest/engine/kernel"
)

// roundTrip writes to dst what a receiver sees of x sent as k: bit for bit what
// Encode and then Decode give. dst may be x.
func roundTrip(k Kind, dst, x []float32) {
	switch k {
	case FP32:
		copy(dst, x)
	case FP16, BF16:
		var w [quantBlock]uint32
		for len(x) > 0 {
			n := min(len(x), quantBlock)
			if k == FP16 {
				kernel.ToHalf(w[:], x[:n])
				kernel.FromHalf(dst[:n], w[:])
			} else {
				kernel.ToBFloat16(w[:], x[:n])
				kernel.FromBFloat16(dst[:n], w[:])
			}
			dst, x = dst[n:], x[n:]
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
		var w [quantBlock]uint32
		steps(&t, scale)
		kernel.Quantise8(w[:], x, inv)
		lookUp(dst, w[:], &t)
	}
}
