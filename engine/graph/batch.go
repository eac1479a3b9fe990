// Values of a whole batch, for what compares samples with each other, as contrastive losses do.
//
// Values are of samples: each has a row, and no operation looks at those of others. Batch makes one
// value of all rows, [N,...], N being the samples of the batch. What reads that is one value as well,
// until Rows makes rows of samples of it again. In such operations a size may depend on N: -k is k
// times N.

package graph

import (
	"errors"
	"fmt"
	"slices"
)

func init() {
	registry["batch"] = func() Op { return &Batch{} }
	registry["rows"] = func() Op { return &Rows{} }
	registry["range"] = func() Op { return &Range{} }
}

// fewest are the samples of the batch that a graph's shapes are of, unless At says how many.
const fewest = 2

// Samples is how many samples the batch has that shapes are of.
func (g *Graph) Samples() int {
	if g.samples == 0 {
		return fewest
	}
	return g.samples
}

// Batch is one value of the rows of all samples: [N,...].
type Batch struct {
	stateless
	samples int
}

// Kind implements Op.
func (*Batch) Kind() string { return "batch" }

// Infer implements Op.
func (b *Batch) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	return append(Shape{b.samples}, x...), err
}

// Cost implements Op.
func (*Batch) Cost([]Shape, Shape) Cost { return Cost{} }

// Rows is the opposite of Batch: sample i has element i of the first axis.
type Rows struct {
	stateless
	Shape   []int `json:"shape"` // of one row, which does not depend on N
	samples int
}

// Kind implements Op.
func (*Rows) Kind() string { return "rows" }

// Infer implements Op.
func (r *Rows) Infer(in []Shape) (Shape, error) {
	x, err := one(in, len(r.Shape)+1)
	if err != nil {
		return nil, err
	}
	if y := slices.Concat(Shape{r.samples}, r.Shape); !slices.Equal(x, y) {
		return nil, fmt.Errorf("takes %v for a batch of %d, got %v", []int(y), r.samples, []int(x))
	}
	return slices.Concat(Shape{}, r.Shape), nil
}

// Cost implements Op.
func (*Rows) Cost([]Shape, Shape) Cost { return Cost{} }

// Range is the numbers 0, 1, ... up to Count, a value of the whole batch.
type Range struct {
	stateless
	Count int `json:"count"`
}

// Kind implements Op.
func (*Range) Kind() string { return "range" }

// Infer implements Op.
func (r *Range) Infer(in []Shape) (Shape, error) {
	if len(in) != 0 {
		return nil, fmt.Errorf("takes no input, has %d", len(in))
	}
	if r.Count > 1<<24 {
		return nil, fmt.Errorf("float32 does not count up to %d", r.Count)
	}
	return Shape{r.Count}, nil
}

// Cost implements Op.
func (*Range) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 0) }

var errKinds = errors.New(`reads values of samples and of the whole batch; "batch" and "rows" make one of the other`)

// resolve is the op of node n with its sizes for the batch that the graph is of, and whether its
// result is a value of the whole batch.
func (g *Graph) resolve(n *Node, args []int) (op Op, whole bool, err error) {
	some, all := false, len(args) > 0
	for _, v := range args {
		some, all = some || g.whole[v], all && g.whole[v]
	}
	samples := g.Samples()
	size := func(k int) int {
		if k < 0 && k >= -MaxDim {
			return -k * samples
		}
		return k
	}
	sizes := func(s []int) []int {
		y := slices.Clone(s)
		for i, k := range y {
			y[i] = size(k)
		}
		return y
	}
	switch o := n.Op.(type) {
	case *Batch:
		if some {
			return nil, false, errors.New("takes a value of samples, got one of the whole batch")
		}
		return &Batch{samples: samples}, true, nil
	case *Range:
		return &Range{Count: size(o.Count)}, true, nil
	case *Rows:
		if !all {
			return nil, false, errors.New("takes a value of the whole batch, got one of samples")
		}
		return &Rows{Shape: o.Shape, samples: samples}, false, nil
	}
	switch {
	case !some:
		return n.Op, false, nil
	case !all:
		return nil, false, errKinds
	}
	switch o := n.Op.(type) {
	case *Reshape:
		return &Reshape{Shape: sizes(o.Shape)}, true, nil
	case *Expand:
		return &Expand{Shape: sizes(o.Shape)}, true, nil
	case *Slice:
		return &Slice{Axis: o.Axis, Start: size(o.Start), Count: size(o.Count), Step: o.Step}, true, nil
	}
	if !OfBatch(n.Op) {
		return nil, false, errors.New("is not computed of a whole batch")
	}
	return n.Op, true, nil
}

// OfBatch tells whether an operation can be computed of a whole batch.
func OfBatch(op Op) bool {
	switch op.(type) {
	case *Reshape, *Expand, *Slice, *Permute, *Concat, *Pad, *Unary, *Binary, *Reduce, *CumSum, *MatMul, *Softmax, *Add, *ReLU, *GELU, *Tanh,
		*Linear, *LayerNorm, *Dropout, *Embedding, *Resample, *Sort, *Gather, *Scatter:
		return true
	}
	return false
}

// Compares is the first node that makes a value of the whole batch, where there is one: the model
// compares samples with each other.
func (g *Graph) Compares() (node string, ok bool) {
	if v := slices.Index(g.whole, true); v >= 0 {
		return g.ValueName(v), true
	}
	return "", false
}

// Whole tells whether value v is one of the whole batch.
func (g *Graph) Whole(v int) bool { return g.whole[v] }

// Once tells whether node i is computed once for a whole batch, and not for each row.
func (g *Graph) Once(i int) bool {
	return g.whole[g.Result(i)] && (len(g.args[i]) == 0 || g.whole[g.args[i][0]])
}

// Op is the operation of node i with its sizes for the batch that the graph is of.
func (g *Graph) Op(i int) Op {
	op, _, _ := g.resolve(&g.Nodes[i], g.args[i]) // Check has found no error
	return op
}

// At is the graph with its shapes for batches of so many samples, which only those of values of the
// whole batch depend on.
func (g *Graph) At(samples int) (*Graph, error) {
	if _, ok := g.Compares(); !ok || samples == g.samples || samples < 1 {
		return g, nil
	}
	h := *g
	h.samples = samples
	if err := h.Check(); err != nil {
		return nil, fmt.Errorf("for a batch of %d: %w", samples, err)
	}
	h.ties, h.homes, h.idle = g.ties, g.homes, g.idle // as of a stage
	return &h, nil
}

// within marks the nodes before which no stage begins, since a value of the whole batch would cross.
func (g *Graph) within(marks []bool) {
	last := make([]int, len(g.Nodes)) // by node: who reads it last, if it is such
	for i := range g.Nodes {
		for _, v := range g.args[i] {
			if g.whole[v] {
				last[v-len(g.Inputs)] = i
			}
		}
	}
	to := 0
	for i := range g.Nodes {
		marks[i] = marks[i] || i > 0 && i <= to
		to = max(to, last[i])
	}
}
