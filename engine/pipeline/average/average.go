// Package average computes means of the changes that replicas make to a model, with one
// result whatever the order and grouping of the additions.
//
// Floating-point sums depend on their order, and the order in which clusters finish is
// chance. So the terms become integers first. Every tensor is divided into blocks of
// BlockSize elements, counted from the tensor's own start, so that no cut of the model
// moves them. The largest magnitude of a block over all replicas is its scale; a maximum
// has no order. With the scales agreed upon, each replica rounds its elements to integers
// of Bits bits, and integers are added. Two clusters or seven, a ring or a star, regrouped
// in the middle: the mean is the same to the last bit. (SwitchML, NSDI 2021, adds integers
// against agreed scales in network switches.)
//
// Fewer bits are compression with the same arithmetic. Below ExactBits the rounding is
// stochastic, since nearest rounding would drop small changes in every round alike: draws
// are addressed by replica, tensor and element, never by who computes.
package average

import (
	"errors"
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/kernel"
)

// BlockSize is how many elements of a tensor share a scale. It is part of the numeric
// contract.
const BlockSize = 256

// ExactBits is the width from which rounding is to nearest: float32's own 24 bits of
// significand and four bits for elements below the block's largest.
const ExactBits = 28

// Bits bounds.
const (
	MinBits = 2
	MaxBits = 32
)

// ErrNotFinite is wrapped when a change holds NaN or an infinity: there is no mean.
var ErrNotFinite = errors.New("a change is not finite")

// Rule is the arithmetic that all replicas of a job share.
type Rule struct {
	Bits int // of a rounded element, sign included: MinBits to MaxBits
}

// Check reports a rule that cannot be carried out for this sum of weights.
func (r Rule) Check(total int64) error {
	if r.Bits < MinBits || r.Bits > MaxBits {
		return fmt.Errorf("average: %d bits, want %d to %d", r.Bits, MinBits, MaxBits)
	}
	if total < 1 || total > math.MaxInt64/4/r.levels() {
		return fmt.Errorf("average: the weights' sum %d is not from 1 to %d", total, math.MaxInt64/4/r.levels())
	}
	return nil
}

// levels is the largest rounded magnitude.
func (r Rule) levels() int64 { return 1<<(r.Bits-1) - 1 }

// Blocks is the number of blocks of a tensor of n elements.
func Blocks(n int) int { return (n + BlockSize - 1) / BlockSize }

// Scale raises scale[b] to the largest magnitude of block b of x. scale has Blocks(len(x))
// elements and starts as zeros.
func Scale(scale, x []float32) error {
	for b, m := range scale {
		a, finite := kernel.AbsMax(x[b*BlockSize : min((b+1)*BlockSize, len(x))])
		if !finite {
			return fmt.Errorf("%w: element in block %d", ErrNotFinite, b)
		}
		scale[b] = max(m, a)
	}
	return nil
}

// Add rounds x by the agreed scales and adds weight times the integers to sum. draws
// addresses the random numbers of this replica's change of this tensor in this round; it
// is not read where r rounds to nearest. first is the number of x[0] in its tensor, which
// begins a block. An element above its block's scale, which only a scale that was not agreed
// upon has, is an error.
func (r Rule) Add(sum []int64, x, scale []float32, weight int64, draws kernel.Stream, first int) error {
	top := r.levels()
	exact := r.Bits >= ExactBits
	for b, m := range scale {
		lo, hi := b*BlockSize, min((b+1)*BlockSize, len(x))
		if m == 0 {
			for _, v := range x[lo:hi] {
				if v != 0 {
					return fmt.Errorf("average: element in block %d is above the block's scale 0", b)
				}
			}
			continue
		}
		step := float64(top) / float64(m)
		within := below(x[lo:hi], m)
		var err error
		switch {
		case exact && within:
			nearest(sum[lo:hi], x[lo:hi], step, weight)
		case exact:
			err = addNearest(sum[lo:hi], x[lo:hi], step, float64(top), weight)
		case within:
			drawn(sum[lo:hi], x[lo:hi], step, top, weight, &draws, uint64(first+lo)/4) // blocks begin at multiples of 4
		default:
			err = addDrawn(sum[lo:hi], x[lo:hi], step, float64(top), weight, &draws, uint64(first+lo)/4)
		}
		if err != nil {
			return fmt.Errorf("average: %w in block %d is above the block's scale %v", err, b, m)
		}
	}
	return nil
}

// below reports whether no element of x is above m.
func below(x []float32, m float32) bool {
	a, finite := kernel.AbsMax(x)
	return finite && a <= m
}

// element is one that is above its block's scale.
type element float32

func (e element) Error() string { return fmt.Sprintf("element %v", float32(e)) }

// clamp takes back the level by which rounding of a product may lift the largest element.
func clamp(x float32, v, q, top float64) (float64, error) {
	if !(math.Abs(v) <= top+0.5) {
		return 0, element(x)
	}
	return math.Copysign(top, q), nil
}

// Near magic, numbers are integers, and differ from it as their bits do: so floats become integers
// and back, in a few cycles less than by conversion, as long as they are below 2^51.
const (
	magic     = 3 << 51
	magicBits = 0x4338000000000000
)

// addNearest rounds to the nearest integer, halves to even. It is what nearest has to agree with.
func addNearest(sum []int64, x []float32, step, top float64, weight int64) error {
	sum = sum[:len(x)]
	for i, f := range x {
		v := float64(float64(f) * step) // rounded, not fused with what follows
		q := float64(v+magic) - magic
		if !(q <= top && -q <= top) {
			var err error
			if q, err = clamp(f, v, q, top); err != nil {
				return err
			}
		}
		sum[i] += weight * int64(q)
	}
	return nil
}

// nearest is addNearest of elements that are not above the block's scale m. Then |v| is at most
// top (1 + 2^-51), as step is top/m, and rounds to no more than top, which is below 2^31.
func nearest(sum []int64, x []float32, step float64, weight int64) {
	sum = sum[:len(x)]
	for i, f := range x {
		v := float64(float64(f) * step)
		sum[i] += weight * (int64(math.Float64bits(v+magic)) - magicBits)
	}
}

// addDrawn rounds up as often as the fraction says, by the draws from a block on. It is what drawn
// has to agree with.
func addDrawn(sum []int64, x []float32, step, top float64, weight int64, draws *kernel.Stream, block uint64) error {
	sum = sum[:len(x)]
	var word [4]uint32
	for i, f := range x {
		if i&3 == 0 {
			word = draws.Block(block + uint64(i)/4)
		}
		v := float64(float64(f) * step)
		n := int64(v)
		if float64(n) > v {
			n-- // the largest integer that is not above v
		}
		if frac := v - float64(n); frac > float64(word[i&3])/(1<<32) {
			n++
		}
		if q := float64(n); !(q <= top && -q <= top) {
			q, err := clamp(f, v, q, top)
			if err != nil {
				return err
			}
			n = int64(q)
		}
		sum[i] += weight * n
	}
	return nil
}

// drawn is addDrawn of elements that are not above the block's scale. Its choices are no branches:
// they are random, and to guess wrong costs more than the rest.
func drawn(sum []int64, x []float32, step float64, top, weight int64, draws *kernel.Stream, block uint64) {
	const one = 0x3ff0000000000000 // bits of 1, to which 52 bits of a fraction add
	var words [BlockSize]uint32
	draws.Words(words[:len(x)], block)
	sum = sum[:len(x)]
	for i, f := range x {
		v := float64(float64(f) * step)
		whole := math.Floor(v)
		n := int64(math.Float64bits(whole+magic)) - magicBits
		// Neither is negative, so they compare as their bits do, whose difference has a sign.
		draw := math.Float64frombits(one|uint64(words[i&(BlockSize-1)])<<20) - 1
		n += int64((math.Float64bits(draw) - math.Float64bits(v-whole)) >> 63)
		sum[i] += weight * max(min(n, top), -top)
	}
}

// Mean writes the mean: sum, in units of scale, over the sum of all weights.
func (r Rule) Mean(dst []float32, sum []int64, scale []float32, total int64) {
	den := float64(total) * float64(r.levels())
	for b, m := range scale {
		lo, hi := b*BlockSize, min((b+1)*BlockSize, len(dst))
		if !meanSmall(dst[lo:hi], sum[lo:hi], float64(m), den) {
			meanAny(dst[lo:hi], sum[lo:hi], float64(m), den)
		}
	}
}

// meanAny is the mean of a block. It is what meanSmall has to agree with.
func meanAny(dst []float32, sum []int64, scale, den float64) {
	for i, s := range sum[:len(dst)] {
		n := float64(s) * scale
		dst[i] = float32(n / den)
	}
}

// meanSmall is meanAny, and false where a sum is not below 2^51.
func meanSmall(dst []float32, sum []int64, scale, den float64) bool {
	large := uint64(0)
	dst = dst[:len(sum)]
	for i, s := range sum {
		large |= uint64(s+1<<51) >> 52
		n := (math.Float64frombits(uint64(s+magicBits)) - magic) * scale
		dst[i] = float32(n / den)
	}
	return large == 0
}

// Reduced divides weights by their greatest common divisor: replicas of equal size then
// weigh 1, and sums need fewer bits. Weights are not negative, one at least is positive.
func Reduced(weights []int64) []int64 {
	var g int64
	for _, w := range weights {
		for a := w; a != 0; {
			g, a = a, g%a
		}
	}
	out := make([]int64, len(weights))
	if g == 0 {
		return out
	}
	for i, w := range weights {
		out[i] = w / g
	}
	return out
}
