// Positions that depend on the data: the order of elements, and what is read or written at
// positions. A position is a float32, as a token is: exact below 2^24.

package graph

import (
	"fmt"
	"slices"
)

func init() {
	registry["sort"] = func() Op { return &Sort{} }
	registry["gather"] = func() Op { return &Gather{} }
	registry["scatter"] = func() Op { return &Scatter{} }
}

// Sort gives the positions of the elements of the last axis in ascending order. Equal elements
// keep theirs, and NaN is greater than any number, as in PyTorch.
type Sort struct {
	stateless
	Descending bool `json:"descending,omitempty"`
	Count      int  `json:"count,omitempty"` // only the first so many; 0: all
}

// Kind implements Op.
func (*Sort) Kind() string { return "sort" }

// Infer implements Op.
func (s *Sort) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if len(x) == 0 {
		return nil, fmt.Errorf("takes at least one axis, got %s", x)
	}
	last := x[len(x)-1]
	if s.Count < 0 || s.Count > last {
		return nil, fmt.Errorf("%d elements of an axis of %d", s.Count, last)
	}
	y := slices.Clone(x)
	if s.Count > 0 {
		y[len(y)-1] = s.Count
	}
	return y, nil
}

// Cost implements Op.
func (*Sort) Cost(in []Shape, _ Shape) Cost {
	n, f := in[0].Elems(), 4.0
	for k := 1; len(in[0]) > 0 && k < in[0][len(in[0])-1]; k *= 2 {
		f += 8
	}
	return Cost{Forward: f * float64(n)}
}

// Discrete implements Op: a position has no slope.
func (*Sort) Discrete(int) bool { return true }

// Gather reads an axis of its first input at the positions that the second has:
// [A.., D, C..] at [A.., K..] is [A.., K.., C..], where A are the axes before Axis. At a position
// that is no integer of the axis it reads 0.
type Gather struct {
	stateless
	Axis int `json:"axis"`
}

// Kind implements Op.
func (*Gather) Kind() string { return "gather" }

// Infer implements Op.
func (g *Gather) Infer(in []Shape) (Shape, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("takes 2 inputs, has %d", len(in))
	}
	x, at := in[0], in[1]
	if g.Axis < 0 || g.Axis >= len(x) || g.Axis > len(at) || !slices.Equal(x[:g.Axis], at[:g.Axis]) {
		return nil, fmt.Errorf("positions %s do not fit axis %d of %s", at, g.Axis, x)
	}
	y := slices.Concat(at, x[g.Axis+1:])
	return y, y.check()
}

// Cost implements Op.
func (*Gather) Cost(in []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackInput: float64(in[0].Elems() + out.Elems())}
}

// Discrete implements Op: a position has no slope.
func (*Gather) Discrete(arg int) bool { return arg == 1 }

// Scatter adds its first input to an axis of zeros at the positions that the second has:
// [A.., K.., C..] at [A.., K..] is [A.., Size, C..]. It is what Gather does, backwards: what has a
// position that is no integer of the axis is left out. With Last the last of several that have the
// same position counts, instead of their sum; all of them get its gradient, as in PyTorch.
type Scatter struct {
	stateless
	Axis int  `json:"axis"`
	Size int  `json:"size"`
	Last bool `json:"last,omitempty"`
}

// Kind implements Op.
func (*Scatter) Kind() string { return "scatter" }

// Infer implements Op.
func (s *Scatter) Infer(in []Shape) (Shape, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("takes 2 inputs, has %d", len(in))
	}
	x, at := in[0], in[1]
	if s.Axis < 0 || s.Axis > len(at) || len(at) > len(x) || !slices.Equal(x[:len(at)], at) {
		return nil, fmt.Errorf("positions %s do not fit %s from axis %d on", at, x, s.Axis)
	}
	if s.Size < 1 || s.Size > MaxDim {
		return nil, fmt.Errorf("size %d is outside 1..%d", s.Size, MaxDim)
	}
	y := slices.Concat(at[:s.Axis], Shape{s.Size}, x[len(at):])
	return y, y.check()
}

// Cost implements Op.
func (*Scatter) Cost(in []Shape, out Shape) Cost {
	return Cost{Forward: float64(in[0].Elems() + out.Elems()), BackInput: float64(in[0].Elems())}
}

// Discrete implements Op: a position has no slope.
func (*Scatter) Discrete(arg int) bool { return arg == 1 }
