// Writing in place. A program names tensors that share elements: y = x[:, 0]; y.add_(1) changes x
// too. Here every name has a value of its own, so a write gives new values to all names of those
// elements that something later reads.

package importer

import (
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// views are operators whose output has the elements of their input.
var views = []string{
	"select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "view", "view_as", "squeeze", "unsqueeze", "unflatten",
	"permute", "transpose", "t", "swapaxes", "numpy_T", "expand", "expand_as", "broadcast_to", "movedim", "detach", "alias",
}

// copies are operators whose output may have the elements of their input, or a copy.
var copies = []string{"reshape", "reshape_as", "flatten", "contiguous", "to", "type_as", "float"}

// base is the operator's name without its overload.
func base(n *pt2.Node) string {
	op := n.Target
	for _, prefix := range []string{"aten.", "higher_order."} {
		op = strings.TrimPrefix(op, prefix)
	}
	op, _, _ = strings.Cut(op, ".")
	return op
}

// writes tells whether an operator writes to its first argument.
func writes(op string) bool { return strings.HasSuffix(op, "_") && !strings.HasPrefix(op, "_") }

// first is the name of the tensor that an operator takes first, "" where it takes none.
func first(n *pt2.Node) string {
	for _, name := range []string{"self", "input"} {
		if a, ok := arg(n, name); ok && a.Kind == pt2.Tensor {
			return a.Names[0]
		}
	}
	return ""
}

// inPlace lowers an operator that writes to its first argument: the name now means the result.
// Constants are written to where they are.
func (l *lowering) inPlace(f operator) {
	n := l.node
	name, result := first(n), n.Outputs[0].Names[0]
	if name == "" {
		fail("it has no tensor to write to")
	}
	self := l.vals[name]
	if self.archived != "" && self.isConst() && self.whole && !l.readElsewhere(name, result) {
		l.vals[result] = self // num_batches_tracked += 1
		return
	}
	if o := l.vals[l.survey().of(name)]; o != nil && o.archived != "" {
		if o.param != "" {
			fail("it writes to the parameter %s; compute a new tensor, as weight.clamp(min=0)", o.archived)
		}
		fail("it keeps numbers from one step to the next in the buffer %s; only batch normalisation's are. Make them an input of the model", o.archived)
	}
	f(l, n)
	out := l.vals[result]
	if self.isConst() && out.isConst() {
		d := l.data(out)
		l.data(self)
		for i := range elems(self.shape) {
			k := i
			if self.index != nil {
				k = self.index[i]
			}
			self.buf.data[k] = d[i]
		}
		l.vals[result] = self
		return
	}
	l.spread(n, name, out)
	l.vals[name], l.vals[result] = out, out
}

// readElsewhere tells whether a node takes one of two tensors but to write to it.
func (l *lowering) readElsewhere(a, b string) bool {
	of := l.survey()
	return slices.ContainsFunc(slices.Concat(of.taken[a], of.taken[b]), func(i int) bool {
		if i == len(of.nodes) {
			return true // the model's answer is one of them
		}
		n := &of.nodes[i]
		f := first(n)
		return !writes(base(n)) || f != a && f != b
	})
}

// spread gives what node n wrote to a tensor to the others that have the same elements and are
// read behind n.
func (l *lowering) spread(n *pt2.Node, name string, out *value) {
	of := l.survey()
	at := of.maker[n.Outputs[0].Names[0]]
	read := of.readBehind(name, at)
	if len(read) == 0 {
		return
	}
	var again []int // what made those that are read, and what lies between them and the owner
	for _, i := range slices.Backward(of.makes[of.of(name)]) {
		m := &of.nodes[i]
		for _, x := range outputs(m) {
			p, _ := of.parent(x)
			if i >= at || !read[x] || p == "" {
				continue
			}
			read[p] = true
			if len(again) == 0 || again[len(again)-1] != i {
				again = append(again, i)
			}
		}
	}
	for x, v := name, out; ; { // from the part to the whole
		p, m := of.parent(x)
		if p == "" {
			l.vals[x] = v
			break
		}
		v = l.putBack(m, x, l.vals[p], v)
		x = p
		l.vals[x] = v
	}
	for _, i := range slices.Backward(again) {
		m := &l.graph.Nodes[i]
		if writes(base(m)) {
			l.vals[m.Outputs[0].Names[0]] = l.vals[first(m)]
			continue
		}
		l.node = m
		operators[base(m)](l, m)
	}
	l.node = n
}

// putBack is whole with the elements of part where node m took the tensor name from.
func (l *lowering) putBack(m *pt2.Node, name string, whole, part *value) *value {
	op := base(m)
	if writes(op) || op == "detach" || op == "alias" {
		return part
	}
	axis := func() int { return axisOf(l.integer(m, "dim", 0), len(whole.shape)) }
	switch op {
	case "select":
		a, i := axis(), l.integer(m, "index", 0)
		if i < 0 {
			i += whole.shape[a]
		}
		return l.put(whole, a, i, 1, l.with(part, a))
	case "slice":
		a, start, _, step := l.sliced(m, whole)
		return l.put(whole, a, start, step, part)
	case "narrow":
		return l.put(whole, axis(), l.integer(m, "start", 0), 1, part)
	case "split", "split_with_sizes", "chunk", "unbind":
		a, at := axis(), 0
		for _, out := range outputs(m) {
			if out == name {
				break
			}
			at++
			if sizes, _ := l.meta(out); op != "unbind" {
				at += sizes[a].n - 1
			}
		}
		if op == "unbind" {
			part = l.with(part, a)
		}
		return l.put(whole, a, at, 1, part)
	case "view", "view_as", "squeeze", "unsqueeze", "unflatten":
		p, _ := l.survey().parent(name)
		sizes, _ := l.meta(p)
		return l.viewAs(part, sizes)
	case "permute", "transpose", "t", "swapaxes", "numpy_T":
		axes := l.permutation(m, len(whole.shape))
		back := make([]int, len(axes))
		for i, a := range axes {
			back[a] = i
		}
		return l.permuted(part, back)
	}
	fail("it writes in place to what %s gave of another tensor, which is read later; assign the result to a new tensor instead", op)
	return nil
}

// with is v with one axis of size 1 more.
func (l *lowering) with(v *value, axis int) *value {
	w := *v
	w.shape = slices.Insert(slices.Clone(v.shape), axis, 1)
	if w.batch >= axis {
		w.batch++
	}
	w.archived = ""
	if w.name != "" {
		w.name, _ = l.reshape(w.name, w.row())
	}
	return &w
}

// put is v with the elements start, start+step, ... of an axis those of part.
func (l *lowering) put(v *value, axis, start, step int, part *value) *value {
	d, count := v.shape[axis], part.shape[axis]
	if axis == v.batch || axis == part.batch {
		each := func(x *value) int { // elements of a sample
			if x.batch == axis || l.symbol != "" {
				return x.shape[axis]
			}
			return x.shape[axis] / l.batch
		}
		if start == 0 && step == 1 && each(v) == each(part) {
			return part
		}
		fail("it writes to some samples of the batch")
	}
	if step == 1 || count == 1 {
		parts := []*value{part}
		if start > 0 {
			parts = slices.Insert(parts, 0, l.cut(v, axis, 0, start, 1))
		}
		if end := start + count; end < d {
			parts = append(parts, l.cut(v, axis, end, d-end, 1))
		}
		return l.cat(parts, axis)
	}
	from := make([]float64, d)
	for i := range from {
		if from[i] = float64(i); i >= start && (i-start)%step == 0 && (i-start)/step < count {
			from[i] = float64(d + (i-start)/step)
		}
	}
	return l.pick(l.cat([]*value{v, part}, axis), axis, from)
}
