// Recurrent layers, step by step. Their weights are shared by all steps: tied, so that a cut may
// stand between some of them.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var recurrentOperators = map[string]operator{
	"lstm": recurrent(4, lstmCell(0, 1, 2, 3)), "gru": recurrent(3, gruCell(0, 1, 2, false)),
	"rnn_tanh": recurrent(1, rnnCell("tanh")), "rnn_relu": recurrent(1, rnnCell("relu")),
}

// maxSteps bounds the nodes that a recurrent layer becomes.
const maxSteps = 1024

// cell takes one step: x are the gates' parts of the input [N, gates·H], h and c the state
// before, nil where it is zero, and r gives the gates' parts of a state.
type cell func(l *lowering, x, h, c *value, r func(h *value) *value) (nextH, nextC *value)

// recurrent lowers a layer, or several, of a cell with so many gates. Its outputs are that of
// all steps, then the last states.
func recurrent(gates int, step cell) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "input")
		params := l.tensors(n, "params")
		biases, layers, both := l.flag(n, "has_biases", true), l.integer(n, "num_layers", 1), l.flag(n, "bidirectional", false)
		first := l.flag(n, "batch_first", false)
		if len(x.shape) != 3 {
			fail("of an input %v; one with the batch, steps and features is needed", x.shape)
		}
		if !first {
			x = l.permuted(x, []int{1, 0, 2})
		}
		if x = l.value(x); !l.several(x) {
			if !first && x.batch == 1 {
				fail("it takes the samples for steps; make the layer with batch_first=True")
			}
			x = l.leading(x)
		}
		drop := l.scalar(n, "dropout", 0)
		if !l.flag(n, "train", false) {
			drop = 0
		}
		ways, per := 1, 2
		if both {
			ways = 2
		}
		if biases {
			per = 4
		}
		if gates == 4 && len(params) == layers*ways*(per+1) { // states are projected to fewer numbers
			per++
		}
		if layers < 1 || layers > len(params) || len(params) != layers*ways*per {
			fail("with %d parameters for %d layers", len(params), layers)
		}
		if t := x.shape[1]; t < 1 || t > maxSteps || t*layers*ways > maxSteps {
			fail("of %d steps; all layers together may take %d", t, maxSteps)
		}
		begin := l.states(n, layers*ways, x)
		var lastH, lastC []*value
		for k := range layers {
			var outs []*value
			for w := range ways {
				p := params[(k*ways+w)*per:][:per]
				var c *value
				if len(begin) > 1 {
					c = begin[1][k*ways+w]
				}
				ys, h, c := l.layer(x, p, gates, step, w == 1, begin[0][k*ways+w], c)
				outs, lastH, lastC = append(outs, ys), append(lastH, h), append(lastC, c)
			}
			if x = l.cat(outs, 2); drop > 0 && k < layers-1 {
				name, s := l.emit(&graph.Dropout{P: drop}, nil, x.name)
				x = l.result(name, s, x.shape, x.batch, x.outer)
			}
		}
		out := x
		if !first {
			out = l.permuted(x, []int{1, 0, 2})
		}
		names := outputs(n)
		l.defineAs(names[0], out)
		for i, last := range [][]*value{lastH, lastC} {
			if i+1 < len(names) {
				l.defineAs(names[i+1], l.stacked(last))
			}
		}
	}
}

// oneStep is a cell that the model calls itself.
func oneStep(step cell) operator {
	return func(l *lowering, n *pt2.Node) {
		var h, c *value
		if a, ok := arg(n, "hx"); ok && a.Kind == pt2.Tensors {
			vs := l.tensors(n, "hx")
			h, c = vs[0], vs[1]
		} else {
			h = l.tensor(n, "hx")
		}
		wh, bh := l.tensor(n, "w_hh"), l.optional(n, "b_hh")
		x := l.linear(l.tensor(n, "input"), l.tensor(n, "w_ih"), l.optional(n, "b_ih"), false)
		h, c = step(l, x, h, c, func(h *value) *value { return l.linear(h, wh, bh, false) })
		names := outputs(n)
		l.defineAs(names[0], h)
		if len(names) > 1 {
			l.defineAs(names[1], c)
		}
	}
}

// states are the states to begin with, [N, H] for every layer and way, nil where they are zero. x is
// the input.
func (l *lowering) states(n *pt2.Node, count int, x *value) [][]*value {
	var vs []*value
	if a, ok := arg(n, "hx"); ok && a.Kind == pt2.Tensors {
		vs = l.tensors(n, "hx")
	} else {
		vs = []*value{l.tensor(n, "hx")}
	}
	out := make([][]*value, len(vs))
	for i, v := range vs {
		out[i] = make([]*value, count)
		if v.isConst() && !slices.ContainsFunc(l.data(v), func(f float64) bool { return f != 0 }) {
			continue
		}
		if v.batch < 0 && !v.isConst() && len(v.shape) == 3 && v.shape[0] == count { // learnt, the same for all samples
			if x.alone() {
				v = l.toward(v, -2, 1, 1)
			} else {
				v = l.alike(v, &value{shape: []int{count, x.shape[0], v.shape[2]}, batch: 1, outer: x.outer})
			}
			for k := range count {
				out[i][k] = l.without(l.cut(v, 0, k, 1, 1), 0)
			}
			continue
		}
		if v.batch != 1 || len(v.shape) != 3 || v.shape[0] != count {
			fail("it begins with a state of %v that is neither zero nor computed from the input", v.shape)
		}
		for k := range count {
			out[i][k] = l.without(l.cut(v, 0, k, 1, 1), 0)
		}
	}
	return out
}

// stacked joins [N, H] of every layer to [layers, N, H].
func (l *lowering) stacked(vs []*value) *value {
	var parts []*value
	for _, v := range vs {
		w := &value{shape: []int{1, v.shape[0], v.shape[1]}, batch: 1, outer: v.outer}
		w.name, _ = l.reshape(v.name, w.row())
		parts = append(parts, w)
	}
	return l.cat(parts, 0)
}

// layer runs one way through all steps of x [N, T, F] and returns its outputs [N, T, H] and
// the last state.
func (l *lowering) layer(x *value, p []*value, gates int, step cell, back bool, h, c *value) (ys, lastH, lastC *value) {
	wi, wh := p[0], p[1]
	var bi, bh, project *value
	if len(p) > 3 {
		bi, bh = p[2], p[3]
	}
	if len(p)%2 == 1 {
		project = p[len(p)-1]
	}
	if len(wh.shape) != 2 || project == nil && wh.shape[0] != gates*wh.shape[1] || project != nil && (len(project.shape) != 2 || project.shape[0] != wh.shape[1] || wh.shape[0] != gates*project.shape[1]) {
		fail("its weights are %v and %v", wi.shape, wh.shape)
	}
	steps, size := x.shape[1], wh.shape[1]
	all := l.linear(x, wi, bi, false)
	r := func(h *value) *value {
		if h == nil { // of zeros only the bias is left
			if bh == nil {
				return nil
			}
			return bh
		}
		return l.linear(h, wh, bh, false)
	}
	outs := make([]*value, steps)
	for k := range steps {
		t := k
		if back {
			t = steps - 1 - k
		}
		h, c = step(l, l.without(l.cut(all, 1, t, 1, 1), 1), h, c, r)
		if project != nil {
			h = l.linear(h, project, nil, false)
		}
		y := &value{shape: []int{x.shape[0], 1, size}, batch: 0, outer: x.outer}
		y.name, _ = l.reshape(h.name, y.row())
		outs[t] = y
	}
	return l.cat(outs, 1), h, c
}

// plus is a + b, where b may be missing.
func (l *lowering) plus(a, b *value) *value {
	if b == nil {
		return a
	}
	return l.binary("add", a, b)
}

// gate is part k of x [N, gates·H], or of a bias.
func (l *lowering) gate(x *value, k, gates int) *value {
	if x == nil {
		return nil
	}
	a := len(x.shape) - 1
	h := x.shape[a] / gates
	return l.cut(x, a, k*h, h, 1)
}

func (l *lowering) tanh(x *value) *value {
	y, s := l.emit(&graph.Tanh{}, nil, x.name)
	return l.result(y, s, x.shape, x.batch, x.outer)
}

// lstmCell: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'). The numbers are the gates' places.
func lstmCell(i, f, g, o int) cell {
	return func(l *lowering, x, h, c *value, r func(h *value) *value) (nextH, nextC *value) {
		z := l.plus(x, r(h))
		sigmoid := func(k int) *value { return l.unary("sigmoid", l.gate(z, k, 4), 0, 0) }
		nextC = l.binary("mul", sigmoid(i), l.tanh(l.gate(z, g, 4)))
		if c != nil {
			nextC = l.binary("add", l.binary("mul", sigmoid(f), c), nextC)
		}
		return l.binary("mul", sigmoid(o), l.tanh(nextC)), nextC
	}
}

// gruCell: n = tanh(x_n + σ(r) h_n), h' = n + σ(z) (h - n). With early, h_n is that of σ(r) h
// instead, as in the first GRU (Cho et al., arXiv 1406.1078). The numbers are the gates' places.
func gruCell(reset, update, new int, early bool) cell {
	return func(l *lowering, x, h, _ *value, r func(h *value) *value) (nextH, nextC *value) {
		u := r(h)
		sigmoid := func(k int) *value { return l.unary("sigmoid", l.plus(l.gate(x, k, 3), l.gate(u, k, 3)), 0, 0) }
		n := l.gate(x, new, 3)
		switch {
		case early && h != nil:
			n = l.binary("add", n, l.gate(r(l.binary("mul", sigmoid(reset), h)), new, 3))
		case early:
			n = l.plus(n, l.gate(u, new, 3))
		case u != nil:
			n = l.binary("add", n, l.binary("mul", sigmoid(reset), l.gate(u, new, 3)))
		}
		n = l.tanh(n)
		z := sigmoid(update)
		if h == nil {
			return l.binary("sub", n, l.binary("mul", z, n)), nil
		}
		return l.binary("add", n, l.binary("mul", z, l.binary("sub", h, n))), nil
	}
}

func rnnCell(f string) cell {
	return func(l *lowering, x, h, _ *value, r func(h *value) *value) (nextH, nextC *value) {
		z := l.plus(x, r(h))
		if f == "tanh" {
			return l.tanh(z), nil
		}
		y, s := l.emit(&graph.ReLU{}, nil, z.name)
		return l.result(y, s, z.shape, z.batch, z.outer), nil
	}
}
