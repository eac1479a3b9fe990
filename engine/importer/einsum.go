// torch.einsum, two tensors at a time.

package importer

import (
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// labelled is a tensor with a letter for each axis.
type labelled struct {
	v      *value
	labels []rune
}

func einsum(l *lowering, n *pt2.Node) {
	vs := l.tensors(n, "tensors")
	equation := strings.ReplaceAll(text(n, "equation", ""), " ", "")
	equation = named(equation, vs)
	left, right, explicit := strings.Cut(equation, "->")
	terms := strings.Split(left, ",")
	if strings.Contains(equation, ".") || len(terms) != len(vs) {
		fail("%q for %d tensors", equation, len(vs))
	}
	xs := make([]labelled, len(vs))
	size := map[rune]int{}
	for i, t := range terms {
		x := labelled{vs[i], []rune(t)}
		if len(x.labels) != len(x.v.shape) {
			fail("%q names %d axes of %v", t, len(x.labels), x.v.shape)
		}
		for a, c := range x.labels {
			d := x.v.shape[a]
			if s, ok := size[c]; ok && s != d {
				fail("%q with axis %c of %d and of %d elements", equation, c, s, d)
			}
			size[c] = d
		}
		xs[i] = l.diagonals(x)
	}
	out := []rune(right)
	if !explicit { // those that occur once, sorted
		for c := range size {
			if strings.Count(left, string(c)) == 1 {
				out = append(out, c)
			}
		}
		slices.Sort(out)
	}
	x := xs[0]
	for i, y := range xs[1:] {
		keep := slices.Clone(out)
		for _, later := range xs[i+2:] {
			keep = append(keep, later.labels...)
		}
		x = l.contract(x, y, keep)
	}
	x = l.summed(x, out)
	l.define(l.ordered(x, out).v)
}

// diagonals takes the elements whose numbers along two axes of one letter are equal.
func (l *lowering) diagonals(x labelled) labelled {
	for b := 1; b < len(x.labels); b++ {
		a := slices.Index(x.labels[:b], x.labels[b])
		if a < 0 {
			continue
		}
		c := x.labels[b]
		x = labelled{l.diagonal(x.v, a, b), append(slices.Delete(slices.Delete(slices.Clone(x.labels), b, b+1), a, a+1), c)}
		b = 0
	}
	return x
}

// named gives the axes of ellipses names of their own: capital letters that the equation has not,
// counted from the last axis.
func named(equation string, vs []*value) string {
	if !strings.Contains(equation, "...") {
		return equation
	}
	var free []rune
	for c := 'A'; c <= 'Z'; c++ {
		if !strings.ContainsRune(equation, c) {
			free = append(free, c)
		}
	}
	left, right, explicit := strings.Cut(equation, "->")
	terms, most := strings.Split(left, ","), 0
	for i, t := range terms {
		if i >= len(vs) || !strings.Contains(t, "...") {
			continue
		}
		n := len(vs[i].shape) - (len(t) - 3)
		if n < 0 || n > len(free) {
			fail("%q of %v", t, vs[i].shape)
		}
		most = max(most, n)
		terms[i] = strings.Replace(t, "...", backwards(free[:n]), 1)
	}
	if !explicit {
		fail("%q with an ellipsis and without an output; write what it gives after ->", equation)
	}
	return strings.Join(terms, ",") + "->" + strings.Replace(right, "...", backwards(free[:most]), 1)
}

func backwards(r []rune) string {
	r = slices.Clone(r)
	slices.Reverse(r)
	return string(r)
}

// summed sums over the axes that are not to be kept.
func (l *lowering) summed(x labelled, keep []rune) labelled {
	var axes []int
	var rest []rune
	for a, c := range x.labels {
		if slices.Contains(keep, c) {
			rest = append(rest, c)
		} else {
			axes = append(axes, a)
		}
	}
	if len(axes) == 0 {
		return x
	}
	return labelled{l.reduce("sum", x.v, axes, false), rest}
}

// ordered permutes the axes to the order of labels.
func (l *lowering) ordered(x labelled, labels []rune) labelled {
	if len(labels) != len(x.labels) {
		fail("it computes the axes %s, not %s", string(x.labels), string(labels))
	}
	axes := make([]int, len(labels))
	for i, c := range labels {
		if axes[i] = slices.Index(x.labels, c); axes[i] < 0 {
			fail("no tensor has the axis %c", c)
		}
	}
	if slices.IsSorted(axes) {
		return x
	}
	return labelled{l.permuted(x.v, axes), labels}
}

// contract multiplies two tensors and sums over the axes that both have and nothing needs any
// more.
func (l *lowering) contract(x, y labelled, keep []rune) labelled {
	x, y = l.summed(x, slices.Concat(keep, y.labels)), l.summed(y, slices.Concat(keep, x.labels))
	batch := func(z labelled) rune { // the axis that holds the samples
		if z.v.batch < 0 {
			return 0
		}
		return z.labels[z.v.batch]
	}
	var both, mine, theirs, inner []rune
	for _, c := range x.labels {
		switch {
		case !slices.Contains(y.labels, c) && c != batch(x):
			mine = append(mine, c)
		case slices.Contains(keep, c):
			both = append(both, c)
		case c == batch(x) || c == batch(y):
			fail("it sums over the batch")
		default:
			inner = append(inner, c)
		}
	}
	for _, c := range y.labels {
		switch {
		case slices.Contains(x.labels, c):
		case c == batch(y):
			both = append(both, c)
		default:
			theirs = append(theirs, c)
		}
	}
	if len(both) == 1 && both[0] == batch(x) && !slices.Contains(y.labels, both[0]) && len(inner) > 0 && y.v.batch < 0 {
		p, _ := l.grouped(x, both, mine, inner)
		q, shape := l.grouped(y, nil, inner, theirs)
		q = l.viewAs(q, plainNumbers(q.shape))
		r := l.linear(p, q, nil, true)
		return l.split(r, both, mine, theirs, x, shape)
	}
	p, _ := l.grouped(x, both, mine, inner)
	q, shape := l.grouped(y, both, inner, theirs)
	return l.split(l.matmul(p, q, false, 0), both, mine, theirs, x, shape)
}

// grouped brings x to [both..., rows, cols]: groups of axes become one each, and an axis of
// both that x does not have is one of size 1. sizes are those of x's axes.
func (l *lowering) grouped(x labelled, both, rows, cols []rune) (v *value, sizes map[rune]int) {
	sizes = map[rune]int{}
	for a, c := range x.labels {
		sizes[c] = x.v.shape[a]
	}
	var order []rune
	for _, c := range slices.Concat(both, rows, cols) {
		if _, ok := sizes[c]; ok {
			order = append(order, c)
		}
	}
	x = l.ordered(x, order)
	shape := make([]int, 0, len(both)+2)
	for _, c := range both {
		shape = append(shape, max(sizes[c], 1))
	}
	for _, g := range [][]rune{rows, cols} {
		n := 1
		for _, c := range g {
			n *= sizes[c]
		}
		shape = append(shape, n)
	}
	if slices.Equal(shape, x.v.shape) {
		return x.v, sizes
	}
	return l.regrouped(x.v, shape), sizes
}

// split gives the groups of a product [both..., rows, cols] their axes back.
func (l *lowering) split(v *value, both, rows, cols []rune, x labelled, theirs map[rune]int) labelled {
	labels := slices.Concat(both, rows, cols)
	shape := slices.Clone(v.shape[:len(both)])
	for _, c := range rows {
		shape = append(shape, x.v.shape[slices.Index(x.labels, c)])
	}
	for _, c := range cols {
		shape = append(shape, theirs[c])
	}
	if !slices.Equal(shape, v.shape) {
		v = l.regrouped(v, shape)
	}
	return labelled{v, labels}
}
