// Spectral normalisation (Miyato et al., arXiv 1802.05957): a weight is divided by its greatest
// singular value, which power iterations find, one or more in each step.

package graph

import (
	"fmt"
	"math"
	"slices"
)

func init() {
	registry["spectralnorm"] = func() Op { return &SpectralNorm{Iterations: 1, Eps: 1e-12} }
}

// SpectralNorm is the greatest singular value of a weight, seen as a matrix whose rows are those of
// one axis: a number, the same for every row. u and v are its vectors. In training they move by some
// iterations first; the gradient takes them as they are, as PyTorch's does.
type SpectralNorm struct {
	Shape      []int   `json:"shape"`         // of the weight
	Dim        int     `json:"dim,omitempty"` // the axis
	Iterations int     `json:"iterations"`    // of a step
	Eps        float64 `json:"eps"`           // least length that a vector is divided by
	VFirst     bool    `json:"v_first,omitempty"`
}

// Kind implements Op.
func (*SpectralNorm) Kind() string { return "spectralnorm" }

// maxIterations of a step.
const maxIterations = 64

// Infer implements Op.
func (s *SpectralNorm) Infer(in []Shape) (Shape, error) {
	if len(in) != 0 {
		return nil, fmt.Errorf("takes no input, has %d", len(in))
	}
	w := Shape(s.Shape)
	if err := w.check(); err != nil {
		return nil, err
	}
	if s.Dim < 0 || s.Dim >= len(w) {
		return nil, fmt.Errorf("there is no axis %d in %s", s.Dim, w)
	}
	if s.Iterations < 1 || s.Iterations > maxIterations || !(s.Eps > 0 && s.Eps < 1) {
		return nil, fmt.Errorf("%d iterations are outside 1..%d, or eps %v outside 0..1", s.Iterations, maxIterations, s.Eps)
	}
	return Shape{1}, nil
}

// Sizes are those of the matrix, and how many elements lie between two rows' neighbours:
// element (r, c) is (c/inner·rows + r)·inner + c%inner.
func (s *SpectralNorm) Sizes() (rows, cols, inner int) {
	w := Shape(s.Shape)
	rows = w[s.Dim]
	return rows, w.Elems() / rows, w[s.Dim+1:].Elems()
}

// Params implements Op.
func (s *SpectralNorm) Params() []Spec {
	if s.Dim < 0 || s.Dim >= len(s.Shape) || Shape(s.Shape).Elems() == 0 {
		return nil
	}
	rows, cols, _ := s.Sizes()
	bound := float32(1 / math.Sqrt(float64(max(cols, 1))))
	return []Spec{
		{Name: "weight", Shape: slices.Clone(s.Shape), Init: Init{Bound: bound}},
		{Name: "u", Shape: []int{rows}, Role: Buffer, Init: Init{Value: float32(1 / math.Sqrt(float64(rows)))}},
		{Name: "v", Shape: []int{cols}, Role: Buffer, Init: Init{Value: float32(1 / math.Sqrt(float64(cols)))}},
	}
}

// Cost implements Op. It is of a step, not of a row.
func (s *SpectralNorm) Cost([]Shape, Shape) Cost {
	n := float64(Shape(s.Shape).Elems())
	return Cost{Forward: (4*float64(s.Iterations) + 2) * n, BackWeight: 2 * n}
}
