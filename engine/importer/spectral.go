// Spectral normalisation, which a program has as power iterations that write to two buffers.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// spectral is what a tensor is on the way to a weight's greatest singular value.
type spectral struct {
	weight *value // the parameter as it is
	dim    int    // its axis that is the matrix's rows
	rows   bool   // of a vector: it has an element for each row
	buffer string // of a vector that is kept: where; "" of a product that is not divided by its length yet
	length bool   // it is the length of such a product
}

// iterated is how a weight's vectors are moved.
type iterated struct {
	u, v   string
	times  [2]int // how often u and v are
	vFirst bool
	eps    float64
}

// spectralNode lowers a node of a power iteration. It tells whether it was such.
func (l *lowering) spectralNode(n *pt2.Node, op string) bool {
	var of *spectral
	for _, a := range n.Args {
		for _, name := range a.Names {
			if v := l.vals[name]; v != nil && v.spectral != nil && of == nil {
				of = v.spectral
			}
		}
	}
	if slices.ContainsFunc(n.Args, func(a pt2.Named) bool { return a.Kind == pt2.Subgraph }) {
		return false // who takes it looks at it there
	}
	switch {
	case op == "mv" && (of != nil || l.survey().divides):
		return l.spectralProduct(n)
	case of == nil:
		return false
	}
	pass := func(s spectral) {
		sizes, _ := l.meta(outputs(n)[0])
		v := &value{batch: -1, outer: 1, spectral: &s}
		for _, d := range sizes {
			v.shape = append(v.shape, d.n)
		}
		l.vals[outputs(n)[0]] = v
	}
	switch op {
	case "linalg_vector_norm", "clamp_min", "clamp_min_", "expand_as":
		s := *of
		s.length = true
		if op == "clamp_min" || op == "clamp_min_" {
			l.iteration(s).eps = l.scalar(n, "min", 1e-12)
		}
		pass(s)
	case "clone", "detach", "alias", "contiguous", "t":
		pass(*of)
	case "div", "div_":
		l.spectralUnit(n, pass)
	case "dot", "vdot":
		l.spectralValue(n)
	default:
		fail("it takes a vector that spectral_norm keeps")
	}
	return true
}

// spectralProduct is a weight, or its transpose, times a vector.
func (l *lowering) spectralProduct(n *pt2.Node) bool {
	m, by := l.tensor(n, "self"), l.tensor(n, "vec")
	if m.param == "" || len(m.shape) != 2 || by.spectral == nil && (by.archived == "" || !by.isConst()) {
		return false
	}
	for dim := range m.paramShape {
		w := &value{shape: m.paramShape, param: m.param, paramShape: m.paramShape, batch: -1, outer: 1}
		order := []int{dim}
		for a := range m.paramShape {
			if a != dim {
				order = append(order, a)
			}
		}
		rows := m.paramShape[dim]
		matrix := l.permuted(w, order)
		matrix = matrix.rearranged(nil, []int{rows, elems(m.paramShape) / rows}, -1, 1)
		if sameElements(m, matrix) {
			l.spectralVector(n, w, dim, true, by)
			return true
		}
		if sameElements(m, l.permuted(matrix, []int{1, 0})) {
			l.spectralVector(n, w, dim, false, by)
			return true
		}
	}
	return false
}

// sameElements tells whether two views of a parameter have the same elements.
func sameElements(a, b *value) bool {
	if !slices.Equal(a.shape, b.shape) {
		return false
	}
	for i := range elems(a.shape) {
		x, y := i, i
		if a.index != nil {
			x = a.index[i]
		}
		if b.index != nil {
			y = b.index[i]
		}
		if x != y {
			return false
		}
	}
	return true
}

// spectralVector defines the product of a weight with a vector.
func (l *lowering) spectralVector(n *pt2.Node, w *value, dim int, rows bool, by *value) {
	s := spectral{weight: w, dim: dim, rows: rows}
	if f := by.spectral; f != nil && (f.weight.param != w.param || f.dim != dim || f.rows == rows || f.buffer == "" || f.length) {
		fail("it multiplies a weight by a vector of another")
	}
	count := elems(w.shape) / w.shape[dim]
	if rows {
		count = w.shape[dim]
	}
	l.vals[outputs(n)[0]] = &value{shape: []int{count}, batch: -1, outer: 1, spectral: &s}
}

func (l *lowering) iteration(s spectral) *iterated {
	it := l.iterations[s.weight.param]
	if it == nil {
		it = &iterated{eps: 1e-12}
		l.iterations[s.weight.param] = it
	}
	return it
}

// spectralUnit is a product divided by its length, written to the buffer that keeps it.
func (l *lowering) spectralUnit(n *pt2.Node, pass func(s spectral)) {
	x, by := l.tensor(n, "self"), l.tensor(n, "other")
	a, ok := arg(n, "out")
	if !ok || x.spectral == nil || by.spectral == nil || x.spectral.length || !by.spectral.length || x.spectral.buffer != "" {
		fail("it takes a vector that spectral_norm keeps")
	}
	s := *x.spectral
	out := l.vals[a.Names[0]]
	switch {
	case out != nil && out.archived != "":
		s.buffer = out.archived
	case out != nil && out.spectral != nil && out.spectral.buffer != "": // once more
		s.buffer = out.spectral.buffer
	default:
		fail("it writes to a tensor that is no buffer")
	}
	it := l.iteration(s)
	if it.times == [2]int{} {
		it.vFirst = !s.rows
	}
	if s.rows {
		it.u = s.buffer
		it.times[0]++
	} else {
		it.v = s.buffer
		it.times[1]++
	}
	pass(s)
	l.vals[a.Names[0]] = l.vals[outputs(n)[0]]
}

// spectralValue is uᵀw v.
func (l *lowering) spectralValue(n *pt2.Node) {
	u, wv := l.tensor(n, "self"), l.tensor(n, "tensor", "other")
	if u.spectral == nil || wv.spectral == nil || u.spectral.buffer == "" || !u.spectral.rows || wv.spectral.buffer != "" || !wv.spectral.rows || wv.spectral.length || u.spectral.weight.param != wv.spectral.weight.param {
		fail("it takes a vector that spectral_norm keeps")
	}
	s := u.spectral
	it := l.iteration(*s)
	if it.u == "" || it.v == "" || it.times[0] != it.times[1] {
		fail("its vectors are moved %d and %d times a step", it.times[0], it.times[1])
	}
	op := &graph.SpectralNorm{Shape: s.weight.shape, Dim: s.dim, Iterations: it.times[0], Eps: it.eps, VFirst: it.vFirst}
	name, _ := l.emit(op, map[string]string{"weight": s.weight.param, "u": it.u, "v": it.v})
	it.times = [2]int{} // whoever uses the weight once more moves them once more
	v := &value{shape: []int{}, batch: -1, outer: 1}
	v.name, _ = l.reshape(name, graph.Shape{})
	l.define(v)
}

// scaled notes that v is the parameter w as it is, times a number, or divided by one: what is linear
// in w may be scaled instead.
func (l *lowering) scaled(f string, w, by, v *value) *value {
	if f != "mul" && f != "div" || !isWhole(w) || w.param == "" || by.batch >= 0 || by.spectral != nil || elems(by.shape) != 1 || !slices.Equal(v.shape, w.shape) {
		return v
	}
	s := *v
	s.scale = &scale{w, by, f}
	return &s
}

// scale is how a computed weight comes from a parameter.
type scale struct {
	weight, by *value
	f          string
}

// rescaled is y, computed with the parameter, as with the weight that is scaled.
func (l *lowering) rescaled(s *scale, y *value) *value {
	by := *s.by
	if by.name != "" {
		by.shape = []int{}
		by.name, _ = l.reshape(s.by.name, graph.Shape{})
	} else {
		by = *l.viewAs(s.by, nil)
	}
	return l.binary(s.f, y, &by)
}
