// ONNX's recurrent layers. Their weights hold both directions and, in the bias, those of the
// input and of the state; here each is a parameter of its own.

package importer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
)

// recurrentONNX defines the operators of this file.
func recurrentONNX() {
	onnxOperators["LSTM"] = func(l *lowering, n *onnx.Node) {
		l.onnxRecurrent(n, 4, lstmCell(0, 2, 3, 1), "sigmoid tanh tanh")
	}
	onnxOperators["GRU"] = func(l *lowering, n *onnx.Node) {
		l.onnxRecurrent(n, 3, gruCell(1, 0, 2, attrInt(n, "linear_before_reset", 0) == 0), "sigmoid tanh")
	}
	onnxOperators["RNN"] = func(l *lowering, n *onnx.Node) {
		f := "tanh"
		if a := n.Attr("activations"); a != nil && len(a.Texts) > 0 {
			f = strings.ToLower(a.Texts[0])
		}
		if f != "tanh" && f != "relu" {
			fail("with the activation %.40q", f)
		}
		l.onnxRecurrent(n, 1, rnnCell(f), f)
	}
}

// onnxPart is a tensor that holds some elements of one of the file's.
type onnxPart struct {
	of    string
	from  int
	shape []int
}

// part is elements of a weight, from the given one on, as a parameter of its own.
func (l *lowering) part(v *value, name string, from int, shape []int) *value {
	f := l.a.(*onnxFile)
	full := v.param + "." + name
	if f.parts == nil {
		f.parts = map[string]onnxPart{}
	}
	f.parts[full] = onnxPart{v.param, from, shape}
	l.dict = slices.DeleteFunc(l.dict, func(d string) bool { return d == v.param })
	if !slices.Contains(l.dict, full) {
		l.dict = append(l.dict, full)
	}
	return &value{param: full, paramShape: shape, shape: shape, batch: -1, outer: 1, archived: full}
}

// recurrentWeights are weights and biases of the input and of the state for each direction.
func (l *lowering) recurrentWeights(n *onnx.Node, ways, gates int) [][]*value {
	w, r, b := l.need(n, 1), l.need(n, 2), l.in(n, 3)
	if len(w.shape) != 3 || len(r.shape) != 3 || w.shape[0] != ways || r.shape[0] != ways || r.shape[1] != gates*r.shape[2] || w.shape[1] != r.shape[1] {
		fail("its weights are %v and %v", w.shape, r.shape)
	}
	rows := r.shape[1]
	if b != nil && !slices.Equal(b.shape, []int{ways, 2 * rows}) {
		fail("its bias is %v", b.shape)
	}
	take := func(v *value, name string, d, from int, shape ...int) *value {
		if v.param != "" && v.index == nil && slices.Equal(v.shape, v.paramShape) {
			if ways > 1 {
				name = fmt.Sprintf("%d.%s", d, name)
			}
			return l.part(v, name, d*elems(v.shape[1:])+from, shape)
		}
		x := l.without(l.cut(v, 0, d, 1, 1), 0)
		if len(shape) == 1 {
			x = l.cut(x, 0, from, shape[0], 1)
		}
		if x.batch >= 0 {
			fail("with weights that depend on the input")
		}
		return l.value(x) // once for all steps
	}
	var ps [][]*value
	for d := range ways {
		p := []*value{take(w, "input", d, 0, rows, w.shape[2]), take(r, "state", d, 0, rows, r.shape[2])}
		if b != nil {
			p = append(p, take(b, "input_bias", d, 0, rows), take(b, "state_bias", d, rows, rows))
		}
		ps = append(ps, p)
	}
	return ps
}

// onnxRecurrent lowers a layer of cells with so many gates, whose usual activations are given.
func (l *lowering) onnxRecurrent(n *onnx.Node, gates int, step cell, usual string) {
	x := l.need(n, 0)
	ways := map[string]int{"forward": 1, "reverse": 1, "bidirectional": 2}[attrText(n, "direction", "forward")]
	if len(x.shape) != 3 || ways == 0 {
		fail("of an input %v in the direction %.40q", x.shape, attrText(n, "direction", ""))
	}
	if a := n.Attr("activations"); a != nil && len(a.Texts) > 0 && !strings.EqualFold(strings.Join(a.Texts, " "), strings.TrimSuffix(strings.Repeat(usual+" ", ways), " ")) {
		fail("with the activations %.100q; those of PyTorch are supported", a.Texts)
	}
	if attrFloat(n, "clip", 0) != 0 || attrInt(n, "input_forget", 0) != 0 || l.in(n, 7) != nil {
		fail("with clipping, coupled gates or peepholes")
	}
	first := attrInt(n, "layout", 0) == 1
	if !first {
		x = l.permuted(x, []int{1, 0, 2})
	}
	x = l.leading(x)
	steps := x.shape[1]
	if steps < 1 || steps*ways > maxSteps {
		fail("of %d steps; all directions together may take %d", steps, maxSteps)
	}
	if ends := l.in(n, 4); ends != nil && (!ends.isConst() || slices.ContainsFunc(l.data(ends), func(e float64) bool { return e != float64(steps) })) {
		fail("with sequences of several lengths; use a mask")
	}
	var begin [2][]*value
	for i := range begin {
		begin[i] = l.onnxStates(l.in(n, 5+i), ways, first)
	}
	var outs, lastH, lastC []*value
	for d, p := range l.recurrentWeights(n, ways, gates) {
		ys, h, c := l.layer(x, p, gates, step, d == 1 || attrText(n, "direction", "") == "reverse", begin[0][d], begin[1][d])
		y := &value{shape: []int{steps, 1, 1, ys.shape[2]}, batch: 2, outer: 1}
		if first {
			y = &value{shape: []int{1, steps, 1, ys.shape[2]}, batch: 0, outer: 1}
		}
		y.name, _ = l.reshape(ys.name, y.row())
		outs, lastH, lastC = append(outs, y), append(lastH, h), append(lastC, c)
	}
	axis := 1
	if first {
		axis = 2
	}
	results := []func() *value{
		func() *value { return l.cat(outs, axis) },
		func() *value { return l.lastStates(lastH, first) }, func() *value { return l.lastStates(lastC, first) },
	}
	for i, name := range n.Outputs {
		if name != "" && i < len(results) {
			l.defineAs(name, results[i]())
		}
	}
}

// lastStates joins [N, H] of every direction to [directions, N, H], or [N, directions, H].
func (l *lowering) lastStates(vs []*value, first bool) *value {
	v := l.stacked(vs)
	if first {
		v = l.permuted(v, []int{1, 0, 2})
	}
	return v
}

// onnxStates are the states to begin with, [N, H] for each direction, nil where they are zero.
func (l *lowering) onnxStates(v *value, ways int, first bool) []*value {
	out := make([]*value, ways)
	if v == nil || v.isConst() && !slices.ContainsFunc(l.data(v), func(f float64) bool { return f != 0 }) {
		return out
	}
	if first && v.batch >= 0 {
		v = l.permuted(v, []int{1, 0, 2})
	}
	if v.batch != 1 || len(v.shape) != 3 || v.shape[0] != ways {
		fail("it begins with a state of %v that is neither zero nor computed from the input", v.shape)
	}
	for d := range ways {
		out[d] = l.without(l.cut(v, 0, d, 1, 1), 0)
	}
	return out
}
