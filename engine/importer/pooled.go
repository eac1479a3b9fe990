// Means and sums over the batch, which the loss of a batch is. A row of the graph has a sample's part
// of them; what a program may still do to them is what may be done to the parts as well.

package importer

import (
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// pool is a mean or a sum over axes, all if there are none. Over the batch it is the sample's part.
func (l *lowering) pool(f string, x *value, axes []int, keep bool) *value {
	if axes == nil {
		for a := range x.shape {
			axes = append(axes, a)
		}
	}
	if x.batch < 0 || !slices.Contains(axes, x.batch) || f != "mean" && f != "sum" {
		return l.reduce(f, x, axes, keep)
	}
	b := x.batch
	own := slices.DeleteFunc(slices.Clone(axes), func(a int) bool { return a == b })
	if len(own) > 0 {
		x = l.reduce(f, x, own, true)
	}
	if !x.alone() { // several elements of the sample on the batch axis
		w := *x
		w.shape = slices.Insert(slices.Clone(x.shape), b+1, x.shape[b])
		w.shape[b], w.outer = 1, 1
		x = l.reduce(f, &w, []int{b + 1}, false)
	}
	shape := []int{}
	for a, d := range x.shape {
		if keep || !slices.Contains(axes, a) {
			shape = append(shape, d)
		}
	}
	v := &value{shape: shape, batch: -1, outer: 1, pooled: f}
	v.name, _ = l.reshape(x.name, v.row())
	return v
}

// linearOfOne are operators that may be done to each sample's part of a mean or sum.
var linearOfOne = []string{"neg", "alias", "clone", "contiguous", "to", "float", "type_as", "squeeze", "unsqueeze", "view", "reshape", "detach", "mean", "sum", "_to_copy"}

// pooledNode lowers a node that takes a mean or a sum over the batch. It tells whether it was such.
func (l *lowering) pooledNode(n *pt2.Node, op string) bool {
	kind := ""
	var given []*value
	saved := map[string]*value{}
	for _, a := range n.Args {
		for _, name := range a.Names {
			v := l.vals[name]
			if s, ok := saved[name]; ok {
				v = s
			}
			if v == nil || name == "" {
				continue
			}
			given = append(given, v)
			if v.pooled == "" {
				continue
			}
			if kind != "" && kind != v.pooled {
				fail("it takes a mean over the batch and a sum over it; divide the sum by the number of samples first")
			}
			kind = v.pooled
			w := *v
			w.pooled = ""
			saved[name], l.vals[name] = v, &w
		}
	}
	if kind == "" {
		return false
	}
	defer func() {
		for name, v := range saved {
			l.vals[name] = v
		}
	}()
	all := !slices.ContainsFunc(given, func(v *value) bool { return v.pooled == "" })
	same := !slices.ContainsFunc(given, func(v *value) bool { return v.pooled == "" && v.batch >= 0 })
	written := writes(op)
	if written {
		op = strings.TrimSuffix(op, "_")
	}
	switch {
	case slices.Contains(linearOfOne, op):
	case (op == "add" || op == "sub" || op == "rsub") && same && (kind == "mean" || all && len(given) == 2):
	case op == "mul" && same && !(all && len(given) == 2):
	case op == "div" && same && given[0].pooled != "" && !(all && len(given) == 2) && text(n, "rounding_mode", "") == "":
		if a, ok := arg(n, "other"); ok && a.Kind == pt2.Int {
			if m := l.number(a.Ints[0]); m.batched || m.n%max(l.batch, 1) == 0 && l.symbol == "" && kind == "sum" {
				l.perSample(n, kind, m)
				return true
			}
		}
	default:
		fail("it works on the %s over the batch, of which only sums and multiples are taken; compute it for each sample", kind)
	}
	operators[op](l, n)
	for _, name := range outputs(n) {
		w := *l.vals[name]
		w.pooled = kind
		l.vals[name] = &w
		if self := first(n); written && saved[self] != nil {
			saved[self] = &w
		}
	}
	return true
}

// perSample divides a sum over the batch by a multiple of the number of samples.
func (l *lowering) perSample(n *pt2.Node, kind string, m number) {
	if kind != "sum" || m.n < 1 || m.unknown {
		fail("it divides a mean over the batch by the number of samples")
	}
	k := m.n
	if l.symbol == "" {
		k /= l.batch
	}
	v := l.unary("affine", l.tensor(n, "self"), 1/float64(k), 0)
	w := *v
	w.pooled = "mean"
	l.define(&w)
}
