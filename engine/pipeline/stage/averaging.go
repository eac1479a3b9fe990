// What the end of a round computes: which tensors are averaged, in which groups, and the
// arithmetic of one group. A group is small enough for a cache, so that its elements come
// from memory once, and large enough for a message.

package stage

import (
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/average"
)

// Elements of a group: with one cluster, and for each member of a ring.
const (
	groupAlone = 1 << 14
	groupRing  = 1 << 15
)

// window is how many groups of a segment are under way at once: enough that neither the
// arithmetic nor the link's delay leaves the link idle.
const window = 4

// A vector is one of those that a state is made of.
type vector struct {
	kind vectorKind
	slot int    // of the optimizer
	name string // for people
}

type vectorKind uint8

const (
	parameters vectorKind = iota
	gradients
	slotVector
	statistics
)

// role is that of the tensors in the vector.
func (v vector) role() graph.Role {
	if v.kind == statistics {
		return graph.Buffer
	}
	return graph.Trainable
}

// rooted tells whether the roots of the elements are averaged. Second moments span the square
// of what gradients do; their roots have the range of first moments, so that neither is rounded
// to zero where the other is not.
func (v vector) rooted() bool { return v.name == rootedSlot }

const rootedSlot = "exp_avg_sq"

// vectorsOf are the vectors that job j averages.
func vectorsOf(j job.Spec) []vector {
	var vs []vector
	if j.Gradients() {
		vs = append(vs, vector{kind: gradients, name: "gradients"})
	} else {
		vs = append(vs, vector{kind: parameters, name: "parameters"})
		if j.Averaging().Optimizer == job.AverageState {
			for i, name := range optim.Slots(j.Optimizer) {
				vs = append(vs, vector{kind: slotVector, slot: i, name: name})
			}
		}
	}
	return append(vs, vector{kind: statistics, name: "running statistics"})
}

// piece is a run of the elements of a tensor, in whole blocks but for the tensor's last.
type piece struct {
	entry int // of the layout
	first int // number of its first element in the tensor
	off   int // and in the vector
	n     int
	scale int // of its first block, in the segment
}

// group is what is summed at once.
type group struct {
	vector int
	pieces []piece
	n      int // elements
}

// share is what is averaged of a segment. It follows from the job and the segment alone, so
// all members of a ring have the same groups.
type share struct {
	segment
	groups   []group
	scales   int   // blocks of all groups
	largest  int   // elements of the largest group
	counters []int // offsets among the counters
}

// sharesOf returns the shares of a layout whose first node is node first of the model. Without
// segments the whole layout is one share. Parameters in elsewhere are averaged by another stage.
func sharesOf(j job.Spec, l *exec.Layout, first int, segments []segment, clusters int, elsewhere map[string]bool) []share {
	if j.Replica() == 1 {
		return nil
	}
	most := groupAlone
	if len(segments) == 0 {
		segments = []segment{{to: math.MaxInt}}
	} else {
		most = groupMost(clusters)
	}
	shares := make([]share, len(segments))
	for i, g := range segments {
		s := &shares[i]
		s.segment = g
		for v, vec := range vectorsOf(j) {
			s.add(l, first, v, vec.role(), most, elsewhere)
		}
		for _, e := range l.Entries {
			if e.Role == graph.Counter && s.has(first+e.Node) {
				s.counters = append(s.counters, e.Off)
			}
		}
		for _, g := range s.groups {
			s.largest = max(s.largest, g.n)
		}
	}
	return shares
}

// groupMost is the most elements of a group that so many clusters average.
func groupMost(clusters int) int { return min(groupRing*clusters, pieceElems) }

func (s *segment) has(node int) bool { return s.from <= node && node < s.to }

// add cuts a vector's tensors into groups of at most so many elements.
func (s *share) add(l *exec.Layout, first, v int, role graph.Role, most int, elsewhere map[string]bool) {
	g := group{vector: v}
	done := func() {
		if g.n > 0 {
			s.groups = append(s.groups, g)
		}
		g = group{vector: v}
	}
	for i, e := range l.Entries {
		if e.Role != role || !s.has(first+e.Node) || elsewhere[e.Full] {
			continue
		}
		for at := 0; at < e.Elems(); {
			room := (most - g.n) / average.BlockSize * average.BlockSize
			if room == 0 {
				done()
				continue
			}
			n := min(e.Elems()-at, room)
			g.pieces = append(g.pieces, piece{entry: i, first: at, off: e.Off + at, n: n, scale: s.scales})
			s.scales += average.Blocks(n)
			g.n += n
			at += n
		}
	}
	done()
}

// bytes is what the arithmetic of the shares keeps.
func bytesOf(shares []share, ring bool) int {
	n := 0
	for _, s := range shares {
		n += 4*s.scales + 8*s.largest*buffers(s, ring)
	}
	return n
}

// buffers is how many groups of a share are under way at once.
func buffers(s share, ring bool) int {
	if ring {
		return min(window, len(s.groups))
	}
	return 1
}

// round is what the average of one round is computed with.
type round struct {
	number  uint64
	samples []int64 // by replica, over their greatest common divisor
	ones    []int64 // 1 for a replica with samples
}

// arithmetic is the rule, the weights by replica, and what the sum is divided by.
func (r *Replicas) arithmetic(v vector, w *round) (rule average.Rule, weights []int64, den int64) {
	rule.Bits = average.ExactBits
	weights = w.samples
	switch v.kind {
	case parameters:
		rule.Bits = r.rule.Bits
	case gradients:
		// Each is of the batch's mean already: they are added up.
		rule.Bits = r.rule.Bits
		return rule, w.ones, 1
	}
	return rule, weights, sumOf(weights)
}

func sumOf(xs []int64) (sum int64) {
	for _, x := range xs {
		sum += x
	}
	return sum
}

// values is a vector of replica k.
func (r *Replicas) values(v vector, k int) []float32 {
	switch v.kind {
	case gradients:
		return r.of[k].grads
	case slotVector:
		return r.of[k].Optimizer.State().Vectors[v.slot]
	case statistics:
		return r.of[k].State.Buffers
	}
	return r.of[k].State.Params
}

// named says which tensor an error is about.
func (r *Replicas) named(v vector, p piece, err error) error {
	what := "average"
	if v.kind == gradients {
		what = "sum"
	}
	return fmt.Errorf("the %s of %s: %q: %w", what, v.name, r.layout.Entries[p.entry].Full, err)
}

// scale turns a group of the own replicas into what is averaged, in place, and raises the
// scales of its blocks.
func (r *Replicas) scale(g *group, w *round, scale []float32) error {
	v := r.vectors[g.vector]
	_, weights, _ := r.arithmetic(v, w)
	for _, k := range r.own {
		if weights[k] == 0 {
			continue
		}
		x := r.values(v, k)
		for _, p := range g.pieces {
			y := x[p.off:][:p.n]
			switch {
			case v.kind == parameters: // the change
				for i, s := range r.start[p.off:][:p.n] {
					y[i] -= s
				}
			case v.rooted():
				for i, s := range y {
					y[i] = kernel.Sqrt(s)
				}
			}
			if err := average.Scale(scale[p.scale:][:average.Blocks(p.n)], y); err != nil {
				return r.named(v, p, err)
			}
		}
	}
	return nil
}

// sum sets sum to that of a group over the own replicas.
func (r *Replicas) sum(g *group, w *round, scale []float32, sum []int64) error {
	clear(sum)
	v := r.vectors[g.vector]
	rule, weights, _ := r.arithmetic(v, w)
	for _, k := range r.own {
		if weights[k] == 0 {
			continue
		}
		x, at := r.values(v, k), 0
		for _, p := range g.pieces {
			draws := kernel.NewStream(r.job.Seed, kernel.DomainAverage, w.number, uint32(k)<<24|r.numbers[p.entry])
			if err := rule.Add(sum[at:][:p.n], x[p.off:][:p.n], scale[p.scale:][:average.Blocks(p.n)], weights[k], draws, p.first); err != nil {
				return r.named(v, p, err)
			}
			at += p.n
		}
	}
	return nil
}

// apply gives all own replicas what the sum of a group over all replicas makes. pass, if it is
// set, is told the mean of every piece.
func (r *Replicas) apply(g *group, w *round, scale []float32, sum []int64, pass func(vector int, p piece, y []float32)) {
	v := r.vectors[g.vector]
	rule, _, den := r.arithmetic(v, w)
	dst, at := r.values(v, r.own[0]), 0
	for _, p := range g.pieces {
		y := dst[p.off:][:p.n]
		rule.Mean(y, sum[at:][:p.n], scale[p.scale:][:average.Blocks(p.n)], den)
		at += p.n
		if pass != nil {
			pass(g.vector, p, y)
		}
		r.settle(v, p, y)
	}
}

// settle gives all own replicas what the mean of a piece makes, which stands in the first.
func (r *Replicas) settle(v vector, p piece, y []float32) {
	switch {
	case v.kind == parameters:
		r.move(y, p)
	case v.rooted():
		for i, x := range y {
			y[i] = float32(x * x)
		}
	}
	if v.kind == gradients {
		return // the update needs them once
	}
	for _, k := range r.own[1:] {
		copy(r.values(v, k)[p.off:][:p.n], y)
	}
}

// move applies the mean change y of some parameters to those of the round's start, and puts
// the result in place of both.
func (r *Replicas) move(y []float32, p piece) {
	start := r.start[p.off:][:p.n]
	if o := r.rule.Outer; o.Name == "nesterov" {
		for i, v := range y {
			y[i] = -v // a gradient points against the change
		}
		kernel.SGD(start, y, r.outer[p.off:][:p.n], kernel.SGDParams{
			LR: float32(o.LR), Momentum: float32(o.Momentum), OneMinusDampening: 1, Nesterov: true,
		})
		copy(y, start)
		return
	}
	for i, v := range start {
		y[i] += v
	}
	copy(start, y)
}
