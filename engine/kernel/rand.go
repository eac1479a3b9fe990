// Random numbers as a function of their address. There is no generator state, so neither the
// cut of a model into stages, nor that of a batch into micro-batches, nor the number of
// threads can change a mask or an initial weight.

package kernel

import (
	"fmt"
	"math"
)

// The multipliers of Philox4x32 and the steps of its key.
const (
	mul0, mul1 = 0xD2511F53, 0xCD9E8D57
	key0, key1 = 0x9E3779B9, 0xBB67AE85
)

// Philox is Philox4x32 with 10 rounds: Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011.
func Philox(ctr [4]uint32, key [2]uint32) [4]uint32 {
	a, b, c, d := philox(ctr[0], ctr[1], ctr[2], ctr[3], key[0], key[1])
	return [4]uint32{a, b, c, d}
}

// philox takes and returns its words in registers, which arrays do not.
func philox(c0, c1, c2, c3, k0, k1 uint32) (uint32, uint32, uint32, uint32) {
	for range 10 {
		p, q := uint64(c0)*mul0, uint64(c2)*mul1
		c0, c1, c2, c3 = uint32(q>>32)^c1^k0, uint32(q), uint32(p>>32)^c3^k1, uint32(p)
		k0 += key0
		k1 += key1
	}
	return c0, c1, c2, c3
}

// Domain keeps the draws for different purposes apart, so that a weight's first value
// never follows a dropout mask.
type Domain uint8

// The purposes of random numbers. Their values are part of the numeric contract.
const (
	DomainDropout Domain = iota + 1
	DomainInit
	DomainShuffle
	DomainTest
	DomainData     // of synthetic data sets
	DomainAverage  // of stochastic rounding
	DomainAugment  // of changes to the rows of a data set
	DomainGenerate // of tokens that a decoder chooses
	DomainNoise    // of a model's own random numbers
)

// Stream addresses random numbers. The Philox key is the 64-bit seed; the counter is
//
//	bits   0..47  block: number of the element / 4
//	bits  48..55  domain
//	bits  56..95  step
//	bits  96..127 node
//
// so that no two addresses share a counter. An element e reads lane e%4 of block e/4.
type Stream struct {
	key        [2]uint32
	c1, c2, c3 uint32
}

// NewStream addresses the numbers of a domain, a step (below 1<<40) and a node under a
// seed.
func NewStream(seed uint64, domain Domain, step uint64, node uint32) Stream {
	if step >= 1<<40 {
		panic(fmt.Sprintf("kernel: step %d of a random stream is not below 1<<40", step))
	}
	return Stream{
		key: [2]uint32{uint32(seed), uint32(seed >> 32)},
		c1:  uint32(domain)<<16 | uint32(step&0xff)<<24,
		c2:  uint32(step >> 8),
		c3:  node,
	}
}

// maxElement bounds the elements of a stream: 48 bits of blocks.
const maxElement = 1 << 50

// Block gives elements 4b to 4b+3; b is below 1<<48.
func (s *Stream) Block(b uint64) [4]uint32 {
	return Philox([4]uint32{uint32(b), s.c1 | uint32(b>>32), s.c2, s.c3}, s.key)
}

// pair is blocks b and b+1, below 1<<48. Computing two at once hides the latency of the
// multiplications.
func (s *Stream) pair(b uint64) (a0, a1, a2, a3, b0, b1, b2, b3 uint32) {
	a0, a1, a2, a3 = uint32(b), s.c1|uint32(b>>32), s.c2, s.c3
	b++
	b0, b1, b2, b3 = uint32(b), s.c1|uint32(b>>32), a2, a3
	k0, k1 := s.key[0], s.key[1]
	for range 10 {
		p, q := uint64(a0)*mul0, uint64(a2)*mul1
		a0, a1, a2, a3 = uint32(q>>32)^a1^k0, uint32(q), uint32(p>>32)^a3^k1, uint32(p)
		p, q = uint64(b0)*mul0, uint64(b2)*mul1
		b0, b1, b2, b3 = uint32(q>>32)^b1^k0, uint32(q), uint32(p>>32)^b3^k1, uint32(p)
		k0 += key0
		k1 += key1
	}
	return a0, a1, a2, a3, b0, b1, b2, b3
}

// Words sets dst to the elements from 4b on; their blocks are below 1<<48.
func (s *Stream) Words(dst []uint32, b uint64) {
	for ; len(dst) >= 8; dst, b = dst[8:], b+2 {
		d := (*[8]uint32)(dst)
		d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = s.pair(b)
	}
	for ; len(dst) > 0; b++ {
		w := s.Block(b)
		dst = dst[copy(dst, w[:]):]
	}
}

// Uint32 gives element e, below 1<<50.
func (s *Stream) Uint32(e uint64) uint32 {
	r := s.Block(e / 4)
	return r[e%4]
}

// DropoutMask sets bit i%32 of dst[i/32] for i < n where element first+i is kept, which
// is where its number is at least round(p * 2^32). The rest of the last word is zero.
// The fate of an element depends on its number alone, not on the calls that ask.
func DropoutMask(dst []uint32, s Stream, first uint64, n int, p float64) {
	if !(p >= 0 && p <= 1) {
		panic(fmt.Sprintf("kernel: dropout probability %v is outside 0..1", p))
	}
	if n < 0 || first > maxElement || uint64(n) > maxElement-first {
		panic("kernel: dropout mask beyond element 1<<50")
	}
	drop := uint64(math.Floor(float64(p*(1<<32)) + 0.5))
	dst = dst[:(n+31)/32]
	done := s.vecMask(dst, first/4, int(first%4), drop)
	s.mask(dst[done:], first+32*uint64(done), drop)
	if n%32 != 0 {
		dst[n/32] &= 1<<(n%32) - 1
	}
}

// vecMask sets words with the machine's loop and returns how many: those of whole blocks
// whose numbers share their upper bits.
func (s *Stream) vecMask(dst []uint32, block uint64, shift int, drop uint64) int {
	n := min(len(dst), int((1<<32-uint64(uint32(block)))/8))
	if drop == 1<<32 || n == 0 || !maskWords(dst[:n], s, block, drop) {
		return 0
	}
	if shift == 0 {
		return n
	}
	// The loop starts at a block boundary; shift out what precedes the first element.
	for i := range n - 1 {
		dst[i] = dst[i]>>shift | dst[i+1]<<(32-shift)
	}
	dst[n-1] = dst[n-1]>>shift | uint32(s.keep8(block+8*uint64(n), drop)<<(32-shift))
	return n
}

// mask sets all words: eight bits at a time, past those of the first that come before
// `first`.
func (s *Stream) mask(dst []uint32, first, drop uint64) {
	if len(dst) == 0 {
		return
	}
	block := first / 4
	acc, fill := s.keep8(block, drop)>>(first%4), 8-first%4
	for i := range dst {
		for fill < 32 {
			block += 2
			acc |= s.keep8(block, drop) << fill
			fill += 8
		}
		dst[i] = uint32(acc)
		acc >>= 32
		fill -= 32
	}
}

// keep8 sets bit l where word l of blocks b and b+1 is at least drop <= 1<<32.
func (s *Stream) keep8(b, drop uint64) uint64 {
	a0, a1, a2, a3, b0, b1, b2, b3 := s.pair(b)
	return 0xff ^ (below(a0, drop, 0) | below(a1, drop, 1) | below(a2, drop, 2) | below(a3, drop, 3) |
		below(b0, drop, 4) | below(b1, drop, 5) | below(b2, drop, 6) | below(b3, drop, 7))
}

// below is bit l if r < drop: the sign of the difference.
func below(r uint32, drop uint64, l int) uint64 { return (uint64(r) - drop) >> 63 << l }

// unit maps a word to [0, 1) in steps of 2^-24.
func unit(r uint32) float32 { return float32(float32(r>>8) * (1.0 / (1 << 24))) }

// Uniform draws element i of the stream into dst[i], uniform in [lo, hi): lo plus a
// rounded product, so hi itself can appear by rounding.
func Uniform(dst []float32, s Stream, lo, hi float32) { UniformIn(dst, s, 0, lo, hi) }

// UniformIn draws the elements from first on, a multiple of 4, of those that Uniform draws.
func UniformIn(dst []float32, s Stream, first uint64, lo, hi float32) {
	span := hi - lo
	for i := 0; i < len(dst); i += 4 {
		r := s.Block(first/4 + uint64(i/4))
		for l := range min(4, len(dst)-i) {
			dst[i+l] = lo + float32(span*unit(r[l]))
		}
	}
}

// UniformFrom draws the elements from first on, uniform in [0, 1).
func UniformFrom(dst []float32, s Stream, first uint64) {
	for i := range dst {
		dst[i] = unit(s.Uint32(first + uint64(i)))
	}
}

// NormalFrom draws the elements from first on of those that Normal draws.
func NormalFrom(dst []float32, s Stream, first uint64) {
	var block [4]float32
	for i := 0; i < len(dst); {
		e := first + uint64(i)
		normals(&block, s.Block(e/4))
		i += copy(dst[i:], block[e%4:])
	}
}

// Normal draws standard normal numbers by the Box-Muller transform: words 0 and 1 of a
// block make elements 0 and 1, words 2 and 3 the others.
func Normal(dst []float32, s Stream) {
	var z [4]float32
	for i := 0; i < len(dst); i += 4 {
		normals(&z, s.Block(uint64(i/4)))
		copy(dst[i:], z[:])
	}
}

// normals are those of a block.
func normals(z *[4]float32, r [4]uint32) {
	for h := 0; h < 4; h += 2 {
		// 1 - u is in (0, 1]: its logarithm is finite.
		m := Sqrt(float32(-2 * Log(1-unit(r[h]))))
		a := float32(2 * unit(r[h+1]))
		z[h], z[h+1] = m*Cospi(a), m*Sinpi(a)
	}
}

// Perm fills dst with a random order of 0..len(dst)-1 (Fisher-Yates from the end, every
// draw unbiased by Lemire's rejection, arXiv 1805.10941).
func Perm(dst []int32, s Stream) {
	for i := range dst {
		dst[i] = int32(i)
	}
	var e uint64
	for i := len(dst) - 1; i > 0; i-- {
		n := uint32(i + 1)
		m := uint64(s.Uint32(e)) * uint64(n)
		e++
		if uint32(m) < n {
			for t := -n % n; uint32(m) < t; e++ {
				m = uint64(s.Uint32(e)) * uint64(n)
			}
		}
		j := m >> 32
		dst[i], dst[j] = dst[j], dst[i]
	}
}
