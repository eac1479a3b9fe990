// Arguments of the current node.

package importer

import (
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// arg finds an argument by name.
func arg(n *pt2.Node, name string) (pt2.Arg, bool) {
	for _, a := range n.Args {
		if a.Name == name {
			return a.Arg, a.Kind != pt2.None
		}
	}
	return pt2.Arg{}, false
}

// tensor is a tensor argument; it may have one of several names.
func (l *lowering) tensor(n *pt2.Node, names ...string) *value {
	v := l.optional(n, names...)
	if v == nil {
		fail("it has no tensor %q", names[0])
	}
	return v
}

// optional is a tensor argument, nil if it is missing.
func (l *lowering) optional(n *pt2.Node, names ...string) *value {
	for _, name := range names {
		a, ok := arg(n, name)
		if !ok || a.Kind != pt2.Tensor {
			continue
		}
		v := l.vals[a.Names[0]]
		if v == nil {
			fail("the tensor %q is not computed before it is used", a.Names[0])
		}
		return v
	}
	return nil
}

// tensors is an argument of several tensors.
func (l *lowering) tensors(n *pt2.Node, name string) []*value {
	a, ok := arg(n, name)
	if !ok || a.Kind != pt2.Tensors {
		fail("it has no tensors %q", name)
	}
	vs := make([]*value, len(a.Names))
	for i, t := range a.Names {
		if t == "" {
			continue
		}
		if vs[i] = l.vals[t]; vs[i] == nil {
			fail("the tensor %q is not computed before it is used", t)
		}
	}
	return vs
}

// number resolves an integer of the program.
func (l *lowering) number(s pt2.Size) number { return l.concrete(l.factor(s)) }

// factor is an integer of the program, where the batch is one with that as a factor.
func (l *lowering) factor(s pt2.Size) number {
	if s.Expr == "" {
		return number{n: int(s.N)}
	}
	if n, ok := l.ints[s.Expr]; ok {
		return n
	}
	if e, ok := l.graph.Ints[s.Expr]; ok {
		return l.multiple(e)
	}
	return l.multiple(s)
}

// coefficients are those of an integer as a polynomial in the number of samples; nil: it is none.
func (l *lowering) coefficients(s pt2.Size) []int64 {
	if e, ok := l.graph.Ints[s.Expr]; ok && e.Expr != s.Expr {
		s = e
	}
	return s.Polynomial(func(symbol string) bool { return l.symbol != "" && (symbol == l.symbol || l.symbols[symbol]) })
}

// integer is an integer argument, or def.
func (l *lowering) integer(n *pt2.Node, name string, def int) int {
	a, ok := arg(n, name)
	if !ok || len(a.Ints) == 0 {
		return def
	}
	m := l.number(a.Ints[0])
	if m.unknown || m.batched {
		fail("%s depends on the batch", name)
	}
	return m.n
}

// integers are those of an argument, or nil.
func (l *lowering) list(n *pt2.Node, name string) []number {
	a, ok := arg(n, name)
	if !ok || a.Kind != pt2.Ints && a.Kind != pt2.Int {
		return nil
	}
	out := make([]number, len(a.Ints))
	for i, s := range a.Ints {
		if out[i] = l.number(s); out[i].unknown {
			fail("%s has the size %s", name, s)
		}
	}
	return out
}

// plain are integers none of which is the batch.
func (l *lowering) plain(n *pt2.Node, name string) []int {
	ns := l.list(n, name)
	out := make([]int, len(ns))
	for i, m := range ns {
		if m.batched {
			fail("%s depends on the batch", name)
		}
		out[i] = m.n
	}
	return out
}

// pair is an argument of one or two integers, or def.
func (l *lowering) pair(n *pt2.Node, name string, def int) [2]int {
	switch v := l.plain(n, name); len(v) {
	case 0:
		return [2]int{def, def}
	case 1:
		return [2]int{v[0], v[0]}
	case 2:
		return [2]int{v[0], v[1]}
	default:
		fail("%s has %d numbers", name, len(v))
		return [2]int{}
	}
}

// flag is a truth value.
func (l *lowering) flag(n *pt2.Node, name string, def bool) bool {
	a, ok := arg(n, name)
	if !ok || len(a.Ints) == 0 {
		return def
	}
	return a.Ints[0].N != 0
}

// scalar is a number, or def.
func (l *lowering) scalar(n *pt2.Node, name string, def float64) float64 {
	a, ok := arg(n, name)
	switch {
	case !ok:
		return def
	case a.Kind == pt2.Float:
		return a.Floats[0]
	case a.Kind == pt2.Int || a.Kind == pt2.Bool:
		m := l.number(a.Ints[0])
		if m.unknown || m.batched {
			fail("%s depends on the batch", name)
		}
		return float64(m.n)
	}
	fail("%s is not a number", name)
	return 0
}

// text is a string argument.
func text(n *pt2.Node, name, def string) string {
	if a, ok := arg(n, name); ok && a.Kind == pt2.String {
		return a.Text
	}
	return def
}

// axisOf resolves a possibly negative axis.
func axisOf(a, rank int) int {
	if a < 0 {
		a += rank
	}
	if a < 0 || a >= max(rank, 1) {
		fail("there is no axis %d of %d", a, rank)
	}
	return a
}

// axes are those of an argument, all if there is none.
func (l *lowering) axes(n *pt2.Node, name string, rank int) []int {
	v := l.plain(n, name)
	if len(v) == 0 {
		all := make([]int, rank)
		for i := range all {
			all[i] = i
		}
		return all
	}
	for i, a := range v {
		v[i] = axisOf(a, rank)
	}
	return v
}

// integers evaluates arithmetic of sizes. It tells whether the node was such.
func (l *lowering) integers(n *pt2.Node) bool {
	if !strings.HasPrefix(n.Target, "_operator.") && !strings.HasPrefix(n.Target, "math.") && !strings.HasPrefix(n.Target, "sym_") {
		return false
	}
	if len(n.Outputs) == 0 {
		return true
	}
	o := n.Outputs[0]
	if o.Kind != pt2.Int && o.Kind != pt2.Bool {
		return true // a float; who needs it will say so
	}
	if e, ok := l.graph.Ints[o.Ints[0].Expr]; ok {
		l.ints[o.Ints[0].Expr] = l.multiple(e)
	}
	return true
}
