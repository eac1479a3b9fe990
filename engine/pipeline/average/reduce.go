package average

import (
	"context"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Exchange brings what the holders of replicas have to the same values, in place. Every
// holder calls with vectors of the same length, in the same order.
type Exchange interface {
	// Max makes each scale the largest that any holder has.
	Max(ctx context.Context, scale []float32) error
	// Sum makes each sum that over all holders. Magnitudes stay within those of weights that
	// add up to weights, which bounds their width on a wire.
	Sum(ctx context.Context, rule Rule, sum []int64, weights int64) error
}

// Alone is the Exchange of who holds all replicas.
type Alone struct{}

// Max implements Exchange.
func (Alone) Max(context.Context, []float32) error { return nil }

// Sum implements Exchange.
func (Alone) Sum(context.Context, Rule, []int64, int64) error { return nil }

// Term is one replica's values of a tensor.
type Term struct {
	X      []float32
	Weight int64
	Draws  kernel.Stream // not read where the rule rounds to nearest
}

// Reducer computes sums and means of tensors over replicas, some of which may be elsewhere.
type Reducer struct {
	Exchange Exchange
	scale    []float32
	sum      []int64
}

// ReducerBytes is what a Reducer keeps for tensors of at most n elements.
func ReducerBytes(n int) int { return 8*n + 4*Blocks(n) }

// Reduce writes the sum of all terms, by weight, over den to dst, which may be one of them.
// weights is the sum of all weights, of the terms elsewhere too.
func (m *Reducer) Reduce(ctx context.Context, r Rule, dst []float32, terms []Term, weights, den int64) error {
	if err := r.Check(weights); err != nil {
		return err
	}
	n := len(dst)
	if cap(m.sum) < n {
		m.sum, m.scale = make([]int64, n), make([]float32, Blocks(n))
	}
	sum, scale := m.sum[:n], m.scale[:Blocks(n)]
	clear(sum)
	clear(scale)
	for _, t := range terms {
		if err := Scale(scale, t.X); err != nil {
			return err
		}
	}
	if err := m.Exchange.Max(ctx, scale); err != nil {
		return err
	}
	for _, t := range terms {
		if err := r.Add(sum, t.X, scale, t.Weight, t.Draws); err != nil {
			return err
		}
	}
	if err := m.Exchange.Sum(ctx, r, sum, weights); err != nil {
		return err
	}
	r.Mean(dst, sum, scale, den)
	return nil
}
