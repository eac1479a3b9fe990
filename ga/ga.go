// What the planner knows about a pool, what it refuses, and how it treats noise.

// Package ga decides who works with whom: it groups the providers of a pool into
// clusters with a genetic algorithm and cuts a model's chain of units into the
// contiguous stages that the nodes of one cluster run.
//
// Everything here is a function of its arguments. Costs arrive as numbers, so the
// planner needs neither the engine nor a network; randomness arrives as a seeded
// generator, so the same pool, model and seed give the same plan.
package ga

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Limits on what a pool or a model may claim. They bound the planner's work and keep
// every sum far from overflow.
const (
	MaxNodes     = 16384 // of a pool
	MaxUnits     = 4096  // of a model
	MaxStages    = 256   // of one cluster
	maxRAM       = 1e15  // bytes of one node or of the model
	maxBandwidth = 1e15  // bit/s
	maxCompute   = 1e18  // FLOP/s
	maxFLOPs     = 1e24  // of one unit
	maxBytes     = 1e15  // of one unit, in memory or on the wire
	maxParams    = 1e12  // of one unit
	minPositive  = 1e-12 // what counts as more than nothing
)

var (
	// ErrInvalid is wrapped by errors that name a node, unit or option whose value cannot be.
	ErrInvalid = errors.New("invalid plan input")
	// ErrRAM is wrapped by errors that say how much memory a pool, cluster or node lacks.
	ErrRAM = errors.New("not enough RAM")
	// ErrStages is wrapped by errors that say a model cannot be cut into so many stages.
	ErrStages = errors.New("too many stages")
)

// planError is a message meant for people that still answers to errors.Is.
type planError struct {
	msg  string
	kind error
}

func (e *planError) Error() string { return e.msg }
func (e *planError) Unwrap() error { return e.kind }

func fail(kind error, format string, args ...any) error {
	return &planError{msg: fmt.Sprintf(format, args...), kind: kind}
}

// Node is one provider as its benchmarks describe it.
type Node struct {
	Name      string  `json:"name"`
	RAM       float64 `json:"ram"`       // bytes it may use
	Bandwidth float64 `json:"bandwidth"` // bit/s
	Compute   float64 `json:"compute"`   // FLOP/s measured; 0: no benchmark
}

// label is what an error calls the node at position i of a list.
func (n Node) label(i int) string {
	if n.Name != "" {
		return fmt.Sprintf("%q", n.Name)
	}
	return fmt.Sprintf("%d", i)
}

func checkNodes(nodes []Node) error {
	if len(nodes) == 0 {
		return fail(ErrInvalid, "the pool has no nodes; start at least one provider")
	}
	if len(nodes) > MaxNodes {
		return fail(ErrInvalid, "the pool has %d nodes, at most %d are supported", len(nodes), MaxNodes)
	}
	for i, n := range nodes {
		for _, v := range []struct {
			what          string
			value, lo, hi float64
		}{
			{"RAM (bytes)", n.RAM, 1, maxRAM},
			{"bandwidth (bit/s)", n.Bandwidth, 1, maxBandwidth},
			{"compute (FLOP/s)", n.Compute, 0, maxCompute},
		} {
			if !(v.value >= v.lo && v.value <= v.hi) { // written so that NaN fails
				return fail(ErrInvalid, "node %s: %s is %v, it must be %g to %g", n.label(i), v.what, v.value, v.lo, v.hi)
			}
		}
		if n.Compute > 0 && n.Compute < 1 {
			return fail(ErrInvalid, "node %s: compute (FLOP/s) is %v, it must be 0 (no benchmark) or at least 1", n.label(i), n.Compute)
		}
	}
	return nil
}

// Repair returns the nodes with figures that can be planned with, for pools whose members
// are strangers: what Cluster and Partition refuse as impossible is as good as not measured.
// Such a bandwidth or compute becomes the least of the other nodes', such RAM one byte, which
// no stage fits. Where no node has a bandwidth, all get 10 Mbit/s. A node without a benchmark
// among nodes with one counts as the slowest of them.
func Repair(nodes []Node) []Node {
	out := slices.Clone(nodes)
	repair := func(field func(*Node) *float64, hi, none float64) {
		least := math.Inf(1)
		bad := func(v float64) bool { return !(v >= 1 && v <= hi) }
		for i := range out {
			if v := *field(&out[i]); !bad(v) {
				least = min(least, v)
			}
		}
		if math.IsInf(least, 1) {
			least = none
		}
		for i := range out {
			if v := field(&out[i]); bad(*v) {
				*v = least
			}
		}
	}
	for i := range out {
		if r := &out[i].RAM; !(*r >= 1) {
			*r = 1
		} else {
			*r = min(*r, maxRAM)
		}
	}
	repair(func(n *Node) *float64 { return &n.Bandwidth }, maxBandwidth, 10e6)
	repair(func(n *Node) *float64 { return &n.Compute }, maxCompute, 0)
	return out
}

// benchmarked says that every node reports its compute: a pool where some do and
// some do not cannot be compared by it.
func benchmarked(nodes []Node) bool {
	return !slices.ContainsFunc(nodes, func(n Node) bool { return n.Compute == 0 })
}

// notch is the grid on which measured figures are taken: two of them make a factor of two.
// Benchmarks of equal machines differ by 5 to 20 % from run to run; half a notch is
// 19 %, so equal machines come out equal, and so do their plans.
const notch = 2

// median is the lower of the middle values, so that it is one of them: the machines
// that it stands for sit in the middle of their notch.
func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.SortFunc(s, cmp.Compare[float64])
	return s[(len(s)-1)/2]
}

// notches is how many notches each value lies above the median of all.
func notches(v []float64) []int {
	m := median(v)
	q := make([]int, len(v))
	for i, x := range v {
		q[i] = int(math.Round(notch * math.Log2(x/m)))
	}
	return q
}

// quantise rounds measured values to whole notches from their median, and the median
// itself to a whole notch of the unit, so that two quantities with different noise
// (compute against link) are compared alike in every run.
func quantise(v []float64) []float64 {
	base := math.Round(notch * math.Log2(median(v)))
	q := make([]float64, len(v))
	for i, n := range notches(v) {
		q[i] = math.Pow(2, (base+float64(n))/notch)
	}
	return q
}

func column(nodes []Node, f func(Node) float64) []float64 {
	v := make([]float64, len(nodes))
	for i, n := range nodes {
		v[i] = f(n)
	}
	return v
}

// bytesText prints bytes as people read them, in decimal units like the vendors of memory and links.
func bytesText(b float64) string {
	switch {
	case b >= 0.95e9:
		return fmt.Sprintf("%.1f GB", b/1e9)
	case b >= 0.95e6:
		return fmt.Sprintf("%.1f MB", b/1e6)
	case b >= 0.95e3:
		return fmt.Sprintf("%.1f kB", b/1e3)
	}
	return fmt.Sprintf("%.0f bytes", math.Ceil(b))
}
