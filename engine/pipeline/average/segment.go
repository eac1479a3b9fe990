// Package average is about clusters agreeing on parameters. It starts with who holds
// what in common: clusters cut the same model in different places, so a stage of one
// shares parameters with several stages of another.
//
// The package works on numbers only and imports nothing of the engine.
package average

import (
	"errors"
	"fmt"
	"slices"
)

// ErrCuts is wrapped by errors about cuts that do not divide a model.
var ErrCuts = errors.New("invalid cuts")

// Segment is a run of the model's nodes that no cluster cuts: in each cluster one
// stage holds all of it. One ring averages its parameters, with exactly one member
// from each cluster.
type Segment struct {
	From, To int   // nodes [From, To) of the whole model
	Holders  []int // by cluster: the stage that holds it
}

// Segments returns the coarsest segments of a model of n nodes, in order. cuts[c] lists
// the first node of each stage of cluster c: the first is 0 and the rest ascend below n.
// Segments are the common refinement of all cuts: one begins wherever any cluster's
// stage does. Errors wrap ErrCuts.
func Segments(n int, cuts [][]int) ([]Segment, error) {
	if len(cuts) == 0 {
		return nil, fmt.Errorf("%w: no clusters", ErrCuts)
	}
	var starts []int
	for c, cut := range cuts {
		if len(cut) == 0 || cut[0] != 0 {
			return nil, fmt.Errorf("%w: cluster %d: the first stage must start at node 0", ErrCuts, c)
		}
		for k, s := range cut {
			if s >= n || (k > 0 && s <= cut[k-1]) {
				return nil, fmt.Errorf("%w: cluster %d: starts %v do not ascend within %d nodes", ErrCuts, c, cut, n)
			}
		}
		starts = append(starts, cut...)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	segments := make([]Segment, len(starts))
	at := make([]int, len(cuts)) // by cluster: the stage that holds the segment
	for i, from := range starts {
		to := n
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		for c, cut := range cuts {
			if k := at[c]; k+1 < len(cut) && cut[k+1] == from {
				at[c]++
			}
		}
		segments[i] = Segment{From: from, To: to, Holders: slices.Clone(at)}
	}
	return segments, nil
}
