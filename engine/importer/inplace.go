// Writing in place to a part of another tensor: x[a:b].zero_().

package importer

import (
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// writePart lowers an operator f that writes constants to a slice of another tensor, which
// becomes a product with a mask and, where they are not zeros, a sum with them. Nothing else may
// see the tensor's elements from before.
func (l *lowering) writePart(n *pt2.Node, name string, f operator) {
	const reason = "it writes in place to a view of another tensor; assign the result to a new tensor instead"
	at := slices.IndexFunc(l.graph.Nodes, func(m pt2.Node) bool { return len(m.Outputs) == 1 && slices.Contains(m.Outputs[0].Names, name) })
	if at < 0 {
		fail(reason)
	}
	part := &l.graph.Nodes[at]
	a, ok := arg(part, "self")
	op, _ := strings.CutPrefix(part.Target, "aten.")
	op, _, _ = strings.Cut(op, ".")
	if !ok || a.Kind != pt2.Tensor || !slices.Contains([]string{"slice", "select", "narrow"}, op) || l.isView(a.Names[0]) {
		fail(reason)
	}
	base := l.vals[a.Names[0]]
	if base.isConst() || base.bad {
		fail(reason)
	}
	now := false
	for i := range l.graph.Nodes {
		m := &l.graph.Nodes[i]
		if now = now || m == n; m == n || m == part {
			continue
		}
		for _, x := range m.Args {
			if !now && slices.Contains(x.Names, a.Names[0]) || now && slices.Contains(x.Names, name) {
				fail(reason) // it saw the elements from before, or sees the part
			}
		}
	}
	f(l, n)
	out := l.vals[n.Outputs[0].Names[0]]
	if !out.isConst() {
		fail(reason)
	}
	// The part of a tensor of numbers tells which elements it has.
	numbers := make([]float64, elems(base.shape))
	for i := range numbers {
		numbers[i] = float64(i)
	}
	view := l.vals[name]
	l.vals[a.Names[0]], l.node = constant(numbers, base.shape, true), part
	operators[op](l, part)
	has, with := l.data(l.vals[name]), l.data(out)
	l.vals[a.Names[0]], l.vals[name], l.node = base, view, n

	mask, sum, some := slices.Repeat([]float64{1}, len(numbers)), make([]float64, len(numbers)), false
	for i, k := range has {
		mask[int(k)], sum[int(k)] = 0, with[i]
		some = some || with[i] != 0
	}
	w := l.binary("mul", base, constant(mask, base.shape, false))
	if some {
		w = l.binary("add", w, constant(sum, base.shape, false))
	}
	l.vals[a.Names[0]] = w
}
