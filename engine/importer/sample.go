// Sampling at computed positions, as spatial transformers and flows do.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var sampleOperators = map[string]operator{
	"grid_sampler": gridSample, "grid_sampler_2d": gridSample, "grid_sampler_3d": gridSample, "affine_grid_generator": affineGrid,
}

// How what lies between elements is read, as PyTorch numbers it.
const (
	sampleBetween = iota
	sampleNearest
	sampleCubic
)

// What is read outside of all elements.
const (
	outsideZeros = iota
	outsideBorder
	outsideReflected
)

// grid is a sampling under way. Positions are [N, points], one value for each axis, the last axis
// of the image first.
type grid struct {
	l       *lowering
	x       *value // [N, elements, C]
	size    []int  // of each axis
	outside int
	corners bool
}

// gridSample is torch.nn.functional.grid_sample: x [N, C, ...] at positions [N, ..., axes] of -1 to
// 1, of which that along the last axis comes first.
func gridSample(l *lowering, n *pt2.Node) {
	x, at := l.leading(l.tensor(n, "input", "self")), l.tensor(n, "grid")
	axes := len(x.shape) - 2
	if axes < 2 || axes > 3 || len(at.shape) != axes+2 || at.shape[axes+1] != axes {
		fail("of %v at %v", x.shape, at.shape)
	}
	mode, outside := l.integer(n, "interpolation_mode", 0), l.integer(n, "padding_mode", 0)
	if mode < 0 || mode > sampleCubic || mode == sampleCubic && axes != 2 || outside < 0 || outside > outsideReflected {
		fail("with mode %d and padding %d", mode, outside)
	}
	l.define(l.gridSample(x, at, mode, outside, l.flag(n, "align_corners", false)))
}

func (l *lowering) gridSample(x, at *value, mode, outside int, corners bool) *value {
	axes, c := len(x.shape)-2, x.shape[1]
	at = l.alike(at, x)
	shape := slices.Concat([]int{1, c}, at.shape[1:axes+1])
	g := &grid{l: l, outside: outside, corners: corners, x: l.moved(l.regrouped(x, []int{1, c, elems(x.shape[2:])}), 1)}
	at = l.regrouped(at, []int{1, elems(shape[2:]), axes})
	var ps []*value
	for a := range axes {
		d := x.shape[len(x.shape)-1-a]
		g.size = append(g.size, d)
		p, half := l.without(l.cut(at, 2, a, 1, 1), 2), float64(d-1)/2
		if corners { // -1 and 1 are the middles of the first and of the last element
			p = l.unary("affine", p, half, half)
		} else {
			p = l.unary("affine", p, float64(d)/2, half)
		}
		if mode != sampleCubic { // of which each element that is read is bounded
			p = g.bounded(p, a)
		}
		ps = append(ps, p)
	}
	var y *value
	switch mode {
	case sampleNearest:
		for a, p := range ps {
			ps[a] = l.rounded(l.detached(p))
		}
		y = g.read(ps)
	case sampleBetween:
		y = g.between(ps, 0, 1, func(t *value, k int) *value {
			if k == 0 {
				return l.unary("rsub", t, 1, 1)
			}
			return t
		})
	default:
		y = g.between(ps, -1, 2, l.cubicWeight)
	}
	return l.regrouped(l.moved(y, 1), shape)
}

// bounded moves positions along axis a into the image.
func (g *grid) bounded(p *value, a int) *value {
	l, d := g.l, float64(g.size[a])
	switch g.outside {
	case outsideZeros:
		return p
	case outsideReflected:
		first, span := -0.5, d // at which edges they turn back
		if g.corners {
			first, span = 0, d-1
		}
		if span == 0 {
			return l.unary("affine", p, 0, 0)
		}
		far := l.unary("abs", l.unary("affine", p, 1, -first), 0, 0)
		times := l.unary("floor", l.detached(l.unary("affine", far, 1/span, 0)), 0, 0)
		rest := l.binary("sub", far, l.unary("affine", times, span, 0))
		half := l.unary("affine", times, 0.5, 0)
		odd := l.unary("ne", l.binary("sub", half, l.unary("floor", half, 0, 0)), 0, 0)
		turned := l.unary("rsub", rest, 1, span)
		p = l.unary("affine", l.where(odd, turned, rest), 1, first)
	}
	return l.unary("clamp", p, 0, d-1)
}

// between is the sum of the elements from low to high around positions, along all axes, each with
// the product of its weights along the axes. A weight depends on how far a position is behind an
// element.
func (g *grid) between(ps []*value, low, high int, weight func(t *value, k int) *value) *value {
	l := g.l
	floors, rests := make([]*value, len(ps)), make([]*value, len(ps))
	for a, p := range ps {
		floors[a] = l.unary("floor", l.detached(p), 0, 0)
		rests[a] = l.binary("sub", p, floors[a])
	}
	var sum *value
	at := make([]*value, len(ps))
	var walk func(a int, w *value)
	walk = func(a int, w *value) {
		if a < 0 {
			y := l.binary("mul", g.read(at), l.with(w, 2))
			if sum != nil {
				y = l.binary("add", sum, y)
			}
			sum = y
			return
		}
		for k := low; k <= high; k++ {
			if at[a] = l.unary("affine", floors[a], 1, float64(k)); high-low > 1 {
				at[a] = g.bounded(at[a], a)
			}
			v := weight(rests[a], k)
			if w != nil {
				v = l.binary("mul", w, v)
			}
			walk(a-1, v)
		}
	}
	walk(len(ps)-1, nil)
	return sum
}

// read are the elements at whole positions, 0 outside: [N, points, C].
func (g *grid) read(ps []*value) *value {
	l := g.l
	var at, in *value
	for a := len(ps) - 1; a >= 0; a-- {
		p, d := ps[a], float64(g.size[a])
		inside := l.binary("mul", l.unary("ge", p, 0, 0), l.unary("lt", p, d, 0))
		if at == nil {
			at, in = p, inside
			continue
		}
		at, in = l.binary("add", l.unary("affine", at, d, 0), p), l.binary("mul", in, inside)
	}
	at = l.unary("affine", l.binary("mask", l.unary("affine", at, 1, 1), in), 1, -1) // -1 is no element
	name, s := l.emit(&graph.Gather{}, nil, g.x.name, at.name)
	return l.result(name, s, []int{1, at.shape[1], g.x.shape[2]}, 0, 1)
}

// cubicWeight is Keys' kernel with -0.75, of the element k behind a position's own.
func (l *lowering) cubicWeight(t *value, k int) *value {
	const a = -0.75
	d := t // how far the element is
	switch k {
	case -1:
		d = l.unary("affine", t, 1, 1)
	case 1, 2:
		d = l.unary("rsub", t, 1, float64(k))
	}
	if k == 0 || k == 1 {
		w := l.binary("mul", l.unary("affine", d, a+2, -(a+3)), d)
		return l.unary("affine", l.binary("mul", w, d), 1, 1)
	}
	w := l.binary("mul", l.unary("affine", d, a, -5*a), d)
	return l.unary("affine", l.binary("mul", l.unary("affine", w, 1, 8*a), d), 1, -4*a)
}

// affineGrid are the positions of an image [N, C, ...] that is moved by theta [N, axes, axes+1].
func affineGrid(l *lowering, n *pt2.Node) {
	theta, size, corners := l.tensor(n, "theta"), l.list(n, "size"), l.flag(n, "align_corners", false)
	axes := len(size) - 2
	if axes < 2 || axes > 3 || len(theta.shape) != 3 || theta.shape[1] != axes || theta.shape[2] != axes+1 {
		fail("of %v to %v", theta.shape, size)
	}
	out, points := []int{1}, 1
	for _, s := range size[2:] {
		if s.batched || s.n < 1 {
			fail("to %v", size)
		}
		out, points = append(out, s.n), points*s.n
	}
	if points > maxElems/(axes+1) {
		fail("to %v", size)
	}
	base := make([]float64, 0, points*(axes+1))
	for i := range points {
		row, rest := make([]float64, axes+1), i
		for a := axes; a > 0; a-- {
			d := out[a]
			k := rest % d
			rest /= d
			switch {
			case d == 1:
			case corners:
				row[axes-a] = -1 + 2*float64(k)/float64(d-1)
			default:
				row[axes-a] = (2*float64(k)+1)/float64(d) - 1
			}
		}
		row[axes] = 1
		base = append(base, row...)
	}
	theta = l.value(l.toward(theta, -3, 1, 1))
	y := l.linear(theta, constant(base, []int{points, axes + 1}, false), nil, false) // [N, axes, points]
	l.define(l.regrouped(l.moved(y, 1), append(out, axes)))
}
