// The operators with parameters, and those that are one operation of the graph.

package importer

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

type operator = func(l *lowering, n *pt2.Node)

var operators map[string]operator

func init() {
	operators = map[string]operator{
		"linear": linear, "addmm": addmm,
		"batch_norm": batchNorm, "layer_norm": layerNorm, "group_norm": groupNorm, "instance_norm": instanceNorm, "rms_norm": rmsNorm,
		"embedding": embedding, "dropout": dropout, "feature_dropout": featureDropout, "alpha_dropout": noDropout("alpha_dropout"),
		"max_pool2d": pool(true), "avg_pool2d": pool(false), "adaptive_avg_pool2d": adaptive(2), "adaptive_avg_pool1d": adaptive(1),
		"max_pool1d": pool1(true), "avg_pool1d": pool1(false),
		"gelu": gelu, "softmax": softmax, "log_softmax": logSoftmax, "scaled_dot_product_attention": attention,

		"sym_size": symSize, "sym_constrain_range_for_size": nothing, "_assert_tensor_metadata": nothing, "_assert_scalar": nothing, "_assert_async": nothing,
		"bernoulli": bernoulli, "wrap_with_set_grad_enabled": inlined, "wrap_with_autocast": autocast, "_weight_norm": weightNorm, "lstm_cell": oneStep(lstmCell(0, 1, 2, 3)), "gru_cell": oneStep(gruCell(0, 1, 2, false)),
		"rnn_tanh_cell": oneStep(rnnCell("tanh")), "rnn_relu_cell": oneStep(rnnCell("relu")), "bilinear": bilinear,
	}
	for _, more := range []map[string]operator{
		resampleOperators, recurrentOperators, viewOperators, arithmeticOperators, constantOperators, positionOperators, functionOperators, windowOperators, volumeOperators, sampleOperators, unpoolOperators, lossOperators, noiseOperators, truthOperators, fourierOperators, tableOperators,
	} {
		maps.Copy(operators, more)
	}
}

func nothing(*lowering, *pt2.Node) {}

// inlined lowers a part of the program that is kept as a graph of its own, such as what is
// computed without gradients.
func inlined(l *lowering, n *pt2.Node) {
	for _, a := range n.Args {
		if a.Kind != pt2.Subgraph {
			continue
		}
		l.run(a.Graph)
		l.node = n
		stops := base(n) == "wrap_with_set_grad_enabled" && len(n.Args) > 0 && n.Args[0].Kind == pt2.Bool && n.Args[0].Ints[0].N == 0
		var results []string
		for _, r := range a.Graph.Results {
			results = append(results, r.Names...)
		}
		names := outputs(n)
		if len(results) != len(names) {
			fail("it returns %d tensors for %d", len(results), len(names))
		}
		for i, name := range names {
			v := l.vals[results[i]]
			if v == nil {
				fail("the tensor %q is not computed", results[i])
			}
			if stops {
				v = l.detached(v)
			}
			l.vals[name] = v
		}
		return
	}
	fail("it has no graph")
}

// autocast is a part of the program in which products may be of another type.
func autocast(l *lowering, n *pt2.Node) {
	if len(n.Args) > 2 && n.Args[2].Kind == pt2.Bool && n.Args[2].Ints[0].N != 0 {
		fail("it computes in half precision; export without autocast, and give the job \"precision\": \"bf16\"")
	}
	inlined(l, n)
}

// weightNorm is v·g/|v|, where the norm is over all axes but one, or all.
func weightNorm(l *lowering, n *pt2.Node) {
	v, g := l.value(l.tensor(n, "v")), l.tensor(n, "g")
	dim := l.integer(n, "dim", 0)
	var axes []int
	for a := range v.shape {
		if a != dim {
			axes = append(axes, a)
		}
	}
	norm := l.unary("sqrt", l.reduce("sum", l.unary("pow", v, 2, 0), axes, true), 0, 0)
	l.define(l.binary("mul", v, l.binary("div", g, norm)))
}

// bilinear is x1ᵀ W x2 + b for every output.
func bilinear(l *lowering, n *pt2.Node) {
	x, y, w, b := l.tensor(n, "input1"), l.value(l.tensor(n, "input2")), l.tensor(n, "weight"), l.optional(n, "bias")
	if len(x.shape) != 2 || len(y.shape) != 2 || len(w.shape) != 3 {
		fail("of %v and %v", x.shape, y.shape)
	}
	out, i, j := w.shape[0], w.shape[1], w.shape[2]
	flat := l.viewAs(l.permuted(w, []int{1, 0, 2}), plainNumbers([]int{i, out * j}))
	z := l.regrouped(l.linear(x, flat, nil, true), []int{1, out, j})
	v := l.reduce("sum", l.binary("mul", z, l.with(y, 1)), []int{2}, false)
	if b != nil {
		v = l.binary("add", v, b)
	}
	l.define(v)
}

func symSize(l *lowering, n *pt2.Node) {
	o := n.Outputs[0]
	v := l.tensor(n, "self")
	a := axisOf(l.integer(n, "dim", 0), len(v.shape))
	m := number{n: v.shape[a], batched: a == v.batch && l.symbol != ""}
	if a == v.batch && l.symbol == "" {
		m.n *= l.batch
	}
	if len(o.Ints) > 0 {
		l.ints[o.Ints[0].Expr] = m
	}
}

// whole is the name of a parameter that an operation takes as it is.
func whole(v *value, what string) string {
	if v.param == "" || v.index != nil || !slices.Equal(v.shape, v.paramShape) {
		fail("its %s is not a parameter of the model, but computed", what)
	}
	return v.param
}

// names collects the state-dict names of weight and bias.
func names(w, b *value) map[string]string {
	m := map[string]string{"weight": whole(w, "weight")}
	if b != nil {
		m["bias"] = whole(b, "bias")
	}
	return m
}

// leading is a graph value whose row is all axes but the first: the batch is the first axis.
// What is the same for all samples may be a batch of one, as position embeddings that are scaled.
func (l *lowering) leading(v *value) *value {
	v = l.value(v)
	if v.batch < 0 {
		if len(v.shape) < 2 || v.shape[0] != 1 {
			fail("its input does not depend on the model's input")
		}
		w := *v
		w.batch, l.single = 0, true
		w.name, _ = l.reshape(v.name, w.row())
		return &w
	}
	if v.batch != 0 || !v.alone() {
		fail("its first axis is not the batch alone, but %v with the batch on axis %d", v.shape, v.batch)
	}
	return v
}

// lastAxis checks that an operator over the last axis leaves the batch alone.
func lastAxis(v *value) {
	if len(v.shape) == 0 || v.batch >= 0 && v.batch == len(v.shape)-1 {
		fail("it works along the batch")
	}
}

func linear(l *lowering, n *pt2.Node) {
	x, w, b := l.tensor(n, "input"), l.tensor(n, "weight"), l.optional(n, "bias")
	if w.scale == nil {
		l.define(l.linear(x, w, b, false))
		return
	}
	y := l.rescaled(w.scale, l.linear(x, w.scale.weight, nil, false))
	if b != nil {
		y = l.binary("add", y, b)
	}
	l.define(y)
}

// linear is x wᵀ + b, or x w + b if turned.
func (l *lowering) linear(x, w, b *value, turned bool) *value {
	x = l.value(x)
	lastAxis(x)
	if w.param == "" || w.index != nil || len(w.shape) != 2 || !slices.Equal(w.shape, w.paramShape) {
		return l.linearOf(x, w, b, turned)
	}
	if b != nil && (b.param == "" || b.index != nil || !slices.Equal(b.shape, b.paramShape)) { // computed
		return l.binary("add", l.linear(x, w, nil, turned), b)
	}
	o := &graph.Linear{In: w.shape[1], Out: w.shape[0], Bias: b != nil, Transposed: turned}
	if turned {
		o.In, o.Out = o.Out, o.In
	}
	y, s := l.emit(o, names(w, b), x.name)
	shape := slices.Clone(x.shape)
	shape[len(shape)-1] = o.Out
	return l.result(y, s, shape, x.batch, x.outer)
}

// linearOf is linear with a weight that is computed or part of a parameter.
func (l *lowering) linearOf(x, w, b *value, turned bool) *value {
	if len(w.shape) != 2 {
		fail("its weight is %v", w.shape)
	}
	if w.param != "" && len(w.index) == elems(w.paramShape) && len(w.paramShape) == 2 && !turned && l.isTransposed(w) {
		return l.linear(x, &value{param: w.param, paramShape: w.paramShape, shape: w.paramShape, batch: -1}, b, true)
	}
	if w.param != "" && len(w.index) == elems(w.paramShape) && len(w.paramShape) == 2 && turned && l.isTransposed(w) {
		return l.linear(x, &value{param: w.param, paramShape: w.paramShape, shape: w.paramShape, batch: -1}, b, false)
	}
	k, out := w.shape[1], w.shape[0]
	if turned {
		k, out = out, k
	}
	wv := l.value(w)
	rows := elems(x.row()) / k
	flat, _ := l.reshape(x.name, graph.Shape{rows, k})
	y, s := l.emit(&graph.MatMul{TransB: !turned}, nil, flat, wv.name)
	shape := slices.Clone(x.shape)
	shape[len(shape)-1] = out
	v := l.result(y, s, shape, x.batch, x.outer)
	if b != nil {
		v = l.binary("add", v, b)
	}
	return v
}

// isTransposed tells whether w is its parameter with the two axes exchanged.
func (l *lowering) isTransposed(w *value) bool {
	r, c := w.paramShape[0], w.paramShape[1]
	if w.shape[0] != c || w.shape[1] != r {
		return false
	}
	for i, k := range w.index {
		if k != i%r*c+i/r {
			return false
		}
	}
	return true
}

func addmm(l *lowering, n *pt2.Node) {
	b, x, w := l.tensor(n, "self"), l.tensor(n, "mat1"), l.tensor(n, "mat2")
	alpha, beta := l.scalar(n, "alpha", 1), l.scalar(n, "beta", 1)
	if alpha == 1 && beta == 1 && len(b.shape) == 1 {
		l.define(l.linear(x, w, b, true))
		return
	}
	y := l.linear(x, w, nil, true)
	if alpha != 1 {
		y = l.unary("affine", y, alpha, 0)
	}
	if beta != 0 {
		y = l.binary("add", y, l.unary("affine", b, beta, 0))
	}
	l.define(y)
}

func batchNorm(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "input"))
	folded := x.batch == 0 && !x.alone() // [N·k, C, ...], of which the statistics are those of [N, C, k, ...]
	if folded {
		x = l.unfolded(x)
	}
	x = l.leading(x)
	w, b, mean, va := l.optional(n, "weight"), l.optional(n, "bias"), l.optional(n, "running_mean"), l.optional(n, "running_var")
	eps := l.scalar(n, "eps", 1e-5)
	if l.single && mean == nil { // each channel of the one is normalised, as weights are
		l.define(l.groupNorm(x, w, b, x.shape[1], eps))
		return
	}
	var y *value
	switch training := l.flag(n, "training", l.flag(n, "use_input_stats", true)); {
	case (w == nil) != (b == nil) || (mean == nil) != (va == nil):
		fail("with a weight and no bias, or one of two running statistics")
	case training:
		count := ""
		if mean != nil {
			base, ok := strings.CutSuffix(mean.archived, "running_mean")
			if count = base + "num_batches_tracked"; !ok || !l.a.Has(count) {
				fail("it does not count its batches; use track_running_stats=True")
			}
		}
		y = l.batchNorm(x, w, b, mean, va, count, eps, l.scalar(n, "momentum", 0.1))
	case mean == nil || !l.survey().trains:
		fail("it was exported in evaluation mode; call model.train() before torch.export.export")
	default: // a layer that stays in evaluation mode among others that do not
		y = l.asBefore(x, w, b, mean, va, eps)
	}
	if folded {
		y = l.foldedBack(y, l.tensor(n, "input"))
	}
	l.define(y)
}

// asBefore normalises x by statistics that no step moves.
func (l *lowering) asBefore(x, w, b, mean, va *value, eps float64) *value {
	rank := len(x.shape)
	over := l.unary("rsqrt", l.unary("affine", va, 1, eps), 0, 0)
	y := l.binary("mul", l.binary("sub", x, perChannel(mean, rank)), perChannel(over, rank))
	if w != nil {
		y = l.binary("add", l.binary("mul", y, perChannel(w, rank)), perChannel(b, rank))
	}
	return y
}

// unfolded is [N·k, C, ...] as [N, C, k, rest].
func (l *lowering) unfolded(x *value) *value {
	if len(x.shape) < 2 {
		fail("of %v", x.shape)
	}
	k, c := x.shape[0], x.shape[1]
	name, _ := l.reshape(x.name, graph.Shape{k, c, elems(x.shape[2:])})
	name, s := l.permute(name, []int{1, 0, 2})
	return l.result(name, s, slices.Concat([]int{1}, s), 0, 1)
}

// foldedBack is what unfolded gave, with the shape of like.
func (l *lowering) foldedBack(y, like *value) *value {
	name, _ := l.permute(y.name, []int{1, 0, 2})
	name, s := l.reshape(name, like.row())
	return l.result(name, s, like.shape, 0, like.outer)
}

// batchNorm normalises the channels of x, [N,C] or [N,C,...]. w and b may be nil, and so may mean
// and va.
func (l *lowering) batchNorm(x, w, b, mean, va *value, count string, eps, momentum float64) *value {
	m := map[string]string{}
	if w != nil {
		m["weight"], m["bias"] = whole(w, "weight"), whole(b, "bias")
	}
	if mean != nil {
		m["running_mean"], m["running_var"], m["num_batches_tracked"] = mean.archived, va.archived, count
	}
	o := &graph.BatchNorm{Rank: 3, Features: x.shape[1], Eps: eps, Momentum: momentum, Plain: w == nil, Untracked: mean == nil}
	row := graph.Shape{x.shape[1]}
	if len(x.shape) == 2 {
		o.Rank = 1
	} else {
		row = graph.Shape{x.shape[1], 1, 1}
		for i, d := range x.shape[2:] {
			row[min(i, 1)+1] *= d
		}
		if len(x.shape) == 3 {
			row = graph.Shape{x.shape[1], 1, x.shape[2]}
		}
	}
	name, _ := l.reshape(x.name, row)
	y, s := l.emit(o, m, name)
	return l.result(y, s, x.shape, 0, 1)
}

func layerNorm(l *lowering, n *pt2.Node) {
	x, w, b := l.value(l.tensor(n, "input")), l.optional(n, "weight"), l.optional(n, "bias")
	dims := l.plain(n, "normalized_shape")
	l.define(l.layerNorm(x, w, b, len(dims), l.scalar(n, "eps", 1e-5)))
}

// layerNorm normalises the last axes of x.
func (l *lowering) layerNorm(x, w, b *value, axes int, eps float64) *value {
	first := len(x.shape) - axes
	if first < 0 || x.batch >= first {
		fail("it normalises along the batch")
	}
	size := elems(x.shape[first:])
	row := x.row()
	row = append(slices.Clone(row[:len(row)-axes]), size)
	name, _ := l.reshape(x.name, row)
	o := &graph.LayerNorm{Shape: []int{size}, Eps: eps}
	plain := w != nil && b != nil && axes == 1 && w.param != "" && b.param != "" && w.index == nil && b.index == nil
	var m map[string]string
	if plain {
		o.Affine, m = true, names(w, b)
	}
	y, s := l.emit(o, m, name)
	v := l.result(y, s, x.shape, x.batch, x.outer)
	if plain {
		return v
	}
	if w != nil {
		v = l.binary("mul", v, w)
	}
	if b != nil {
		v = l.binary("add", v, b)
	}
	return v
}

// perChannel is a parameter [C] to be broadcast over [N,C,...].
func perChannel(w *value, rank int) *value {
	shape := slices.Repeat([]int{1}, rank-1)
	shape[0] = w.shape[0]
	return w.rearranged(nil, shape, -1, 1)
}

func groupNorm(l *lowering, n *pt2.Node) {
	x, w, b := l.images(l.tensor(n, "input")), l.optional(n, "weight"), l.optional(n, "bias")
	l.define(l.groupNorm(x, w, b, l.integer(n, "num_groups", 1), l.scalar(n, "eps", 1e-5)))
}

// images is [N, C, ...], or [N·k, C, ...] of several a sample.
func (l *lowering) images(x *value) *value {
	if x = l.value(x); l.several(x) {
		return x
	}
	return l.leading(x)
}

func (l *lowering) groupNorm(x, w, b *value, groups int, eps float64) *value {
	if len(x.shape) < 2 || groups < 1 || x.shape[1]%groups != 0 {
		fail("%d groups of %v", groups, x.shape)
	}
	groups *= x.shape[0]
	name, _ := l.reshape(x.name, graph.Shape{groups, elems(x.shape) / groups})
	y, s := l.emit(&graph.LayerNorm{Shape: []int{s2(l.shapes[name])}, Eps: eps}, nil, name)
	v := l.result(y, s, x.shape, 0, x.outer)
	if w != nil {
		v = l.binary("mul", v, perChannel(w, len(x.shape)))
	}
	if b != nil {
		v = l.binary("add", v, perChannel(b, len(x.shape)))
	}
	return v
}

func s2(s graph.Shape) int { return s[len(s)-1] }

func instanceNorm(l *lowering, n *pt2.Node) {
	x, w, b := l.images(l.tensor(n, "input")), l.optional(n, "weight"), l.optional(n, "bias")
	if l.optional(n, "running_mean") != nil {
		fail("with running statistics; use track_running_stats=False")
	}
	l.define(l.groupNorm(x, w, b, x.shape[1], l.scalar(n, "eps", 1e-5)))
}

func rmsNorm(l *lowering, n *pt2.Node) {
	x, w := l.value(l.tensor(n, "input")), l.optional(n, "weight")
	if len(l.plain(n, "normalized_shape")) != 1 {
		fail("over several axes")
	}
	s := l.reduce("mean", l.unary("pow", x, 2, 0), []int{len(x.shape) - 1}, true)
	y := l.binary("mul", x, l.unary("rsqrt", l.unary("affine", s, 1, l.scalar(n, "eps", 1.1920929e-07)), 0, 0))
	if w != nil {
		y = l.binary("mul", y, w)
	}
	l.define(y)
}

func embedding(l *lowering, n *pt2.Node) {
	w, x := l.tensor(n, "weight"), l.tensor(n, "indices")
	if x.isConst() {
		if w.param == "" && !w.isConst() {
			fail("its table is computed")
		}
		ids := l.data(x)
		dim := w.shape[len(w.shape)-1]
		index := make([]int, 0, len(ids)*dim)
		for _, id := range ids {
			k := int(id)
			if k < 0 || k >= w.shape[0] {
				fail("there is no row %d in a table of %d", k, w.shape[0])
			}
			for c := range dim {
				index = append(index, k*dim+c)
			}
		}
		v := w.rearranged(index, append(slices.Clone(x.shape), dim), -1, 1)
		l.define(l.withoutPadding(v, ids, l.integer(n, "padding_idx", -1)))
		return
	}
	if l.flag(n, "scale_grad_by_freq", false) {
		fail("with scale_grad_by_freq")
	}
	l.define(l.lookedUp(w, x, l.integer(n, "padding_idx", -1)))
}

// withoutPadding is v, the rows of a table at constant ids, where the row of padding has no gradient.
func (l *lowering) withoutPadding(v *value, ids []float64, padding int) *value {
	if v.param == "" || padding < 0 || !slices.Contains(ids, float64(padding)) {
		return v
	}
	shape := slices.Clone(v.shape)
	shape[len(shape)-1] = 1
	learnt := make([]float64, len(ids))
	for i, id := range ids {
		learnt[i] = truth(id != float64(padding))
	}
	if !slices.Contains(learnt, 1) {
		return l.detached(v)
	}
	return l.where(constant(learnt, shape, true), v, l.detached(v))
}

// lookedUp are the rows of a table at x. One that is computed is multiplied by rows of zeros with
// a one.
func (l *lowering) lookedUp(w, x *value, padding int) *value {
	if !isWhole(w) || w.param == "" {
		if len(w.shape) == 0 || elems(x.shape) > maxTable/max(w.shape[0], 1) {
			fail("its table of %v is computed, and too large for that; compute with what is looked up instead", w.shape)
		}
		return l.rows(w, x)
	}
	o := &graph.Embedding{Num: w.shape[0], Dim: w.shape[1]}
	if padding >= 0 {
		o.Padding = padding + 1
	}
	y, s := l.emit(o, map[string]string{"weight": w.param}, x.name)
	return l.result(y, s, append(slices.Clone(x.shape), o.Dim), x.batch, x.outer)
}

func dropout(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "input", "self")
	p := l.scalar(n, "p", 0.5)
	if p == 0 || !l.flag(n, "train", true) {
		l.still = l.still || p > 0
		l.define(x)
		return
	}
	x = l.value(x)
	y, s := l.emit(&graph.Dropout{P: p}, nil, x.name)
	l.define(l.result(y, s, x.shape, x.batch, x.outer))
}

// featureDropout zeroes whole channels of [N,C,...].
func featureDropout(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "input", "self")
	p := l.scalar(n, "p", 0.5)
	if p == 0 || !l.flag(n, "train", true) {
		l.define(x)
		return
	}
	x = l.leading(x)
	ones := l.value(constant(slices.Repeat([]float64{1}, x.shape[1]), []int{x.shape[1]}, false))
	mask, _ := l.emit(&graph.Dropout{P: p}, nil, ones.name)
	shape := slices.Repeat([]int{1}, len(x.shape))
	shape[1] = x.shape[1]
	v := l.result(mask, l.shapes[mask], shape, 0, 1)
	l.define(l.binary("mul", x, v))
}

func noDropout(what string) operator {
	return func(l *lowering, n *pt2.Node) {
		if l.scalar(n, "p", 0.5) != 0 && l.flag(n, "train", true) {
			fail("%s is not supported; use dropout", what)
		}
		l.define(l.tensor(n, "input", "self"))
	}
}

// bernoulli fills a new tensor of one number a sample: stochastic depth.
func bernoulli(l *lowering, n *pt2.Node) {
	x := l.tensor(n, "self")
	p := l.scalar(n, "p", 0.5)
	if elems(x.shape) != 1 && !(l.symbol == "" && elems(x.shape) == l.batch) || len(x.shape) < 1 {
		fail("only one number a sample can be drawn, as stochastic depth with mode \"row\" does")
	}
	// It is drawn already scaled by 1/p, so that p times it is what the program has.
	one := l.value(constant([]float64{p}, []int{1}, false))
	name, _ := l.emit(&graph.StochasticDepth{P: 1 - p}, nil, one.name)
	shape := slices.Repeat([]int{1}, len(x.shape))
	l.define(l.result(name, l.shapes[name], shape, 0, 1))
}

func pool(most bool) operator {
	return func(l *lowering, n *pt2.Node) {
		k := l.pair(n, "kernel_size", 1)
		p := graph.MaxPool2d{Kernel: graph.Pair(k), Ceil: l.flag(n, "ceil_mode", false), Padding: graph.Pair(l.pair(n, "padding", 0))}
		if s := l.plain(n, "stride"); len(s) > 0 {
			p.Stride = graph.Pair(l.pair(n, "stride", 1))
		}
		if d := l.pair(n, "dilation", 1); d != [2]int{1, 1} {
			l.define(l.planes(l.tensor(n, "self"), func(x *value) *value { return l.dilatedPool(x, p, d, most) }))
			return
		}
		var o graph.Op = &p
		divisor := 0
		if !most {
			if divisor = l.integer(n, "divisor_override", 0); divisor > 0 && p.Ceil {
				fail("with divisor_override and ceil_mode")
			}
			o = &graph.AvgPool2d{MaxPool2d: p, Exclude: divisor == 0 && p.Padding != graph.Pair{} && !l.flag(n, "count_include_pad", true)}
		}
		l.define(l.planes(l.tensor(n, "self"), func(x *value) *value {
			y, s := l.emit(o, nil, x.name)
			v := l.result(y, s, []int{1, s[0], s[1], s[2]}, 0, 1)
			if divisor > 0 {
				v = l.unary("affine", v, float64(k[0]*k[1])/float64(divisor), 0)
			}
			return v
		}))
	}
}

// dilatedPool takes the greatest elements of windows with holes, or their means.
func (l *lowering) dilatedPool(x *value, p graph.MaxPool2d, dilation [2]int, most bool) *value {
	if p.Padding != (graph.Pair{}) || p.Ceil {
		fail("with dilation, and padding or ceil_mode")
	}
	y, out := l.unfold(x, windows{kernel: p.Kernel, stride: p.Step(), dilation: dilation})
	y = l.regrouped(y, []int{1, x.shape[1], p.Kernel[0] * p.Kernel[1], y.shape[2]})
	if most {
		y = l.most(y, 2, false)
	} else {
		y = l.reduce("mean", y, []int{2}, false)
	}
	return l.regrouped(y, []int{1, x.shape[1], out[0], out[1]})
}

func pool1(most bool) operator {
	return func(l *lowering, n *pt2.Node) {
		one := func(name string, def int) int {
			if v := l.plain(n, name); len(v) > 0 {
				return v[0]
			}
			return def
		}
		k := one("kernel_size", 1)
		p := graph.MaxPool2d{Kernel: graph.Pair{1, k}, Stride: graph.Pair{1, one("stride", k)}, Padding: graph.Pair{0, one("padding", 0)}, Ceil: l.flag(n, "ceil_mode", false)}
		if one("dilation", 1) != 1 {
			fail("with dilation")
		}
		var o graph.Op = &p
		if !most {
			o = &graph.AvgPool2d{MaxPool2d: p, Exclude: p.Padding[1] != 0 && !l.flag(n, "count_include_pad", true)}
		}
		l.define(l.planes(l.tensor(n, "self"), func(x *value) *value {
			name, _ := l.reshape(x.name, graph.Shape{x.shape[1], 1, x.shape[2]})
			y, s := l.emit(o, nil, name)
			return l.result(y, s, []int{1, s[0], s[2]}, 0, 1)
		}))
	}
}

func adaptive(dims int) operator {
	return func(l *lowering, n *pt2.Node) {
		x := l.tensor(n, "self")
		size := l.plain(n, "output_size")
		if len(size) != dims || len(x.shape) != dims+2 {
			fail("of %v to %v", x.shape, size)
		}
		o := &graph.AdaptiveAvgPool2d{Out: graph.Pair{1, size[len(size)-1]}}
		if dims == 2 {
			o.Out[0] = size[0]
		}
		l.define(l.planes(x, func(x *value) *value {
			name := l.image(x).name
			y, s := l.emit(o, nil, name)
			shape := []int{1, s[0], s[1], s[2]}
			if dims == 1 {
				shape = []int{1, s[0], s[2]}
			}
			return l.result(y, s, shape, 0, 1)
		}))
	}
}

func gelu(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	y, s := l.emit(&graph.GELU{Approximate: text(n, "approximate", "none")}, nil, x.name)
	l.define(l.result(y, s, x.shape, x.batch, x.outer))
}

// alongLast runs f on x with the given axis moved to the end, and moves it back.
func (l *lowering) alongLast(x *value, axis int, f func(name string) (string, graph.Shape)) *value {
	axis = axisOf(axis, len(x.shape))
	if axis == x.batch {
		fail("it works along the batch")
	}
	a, rank := x.axis(axis), len(x.row())
	if a == rank-1 {
		y, s := f(x.name)
		return l.result(y, s, x.shape, x.batch, x.outer)
	}
	to, back := make([]int, 0, rank), make([]int, rank)
	for i := range rank {
		if i != a {
			to = append(to, i)
		}
	}
	to = append(to, a)
	for i, k := range to {
		back[k] = i
	}
	name, _ := l.permute(x.name, to)
	y, _ := f(name)
	y, s := l.permute(y, back)
	return l.result(y, s, x.shape, x.batch, x.outer)
}

func softmax(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	l.define(l.softmax(x, l.integer(n, "dim", -1)))
}

func (l *lowering) softmax(x *value, axis int) *value {
	return l.alongLast(x, axis, func(name string) (string, graph.Shape) { return l.emit(&graph.Softmax{}, nil, name) })
}

func logSoftmax(l *lowering, n *pt2.Node) {
	x := l.value(l.tensor(n, "self"))
	l.define(l.logSoftmax(x, axisOf(l.integer(n, "dim", -1), len(x.shape))))
}

func (l *lowering) logSoftmax(x *value, axis int) *value {
	d := l.binary("sub", x, l.reduce("amax", x, []int{axis}, true))
	return l.binary("sub", d, l.unary("log", l.reduce("sum", l.unary("exp", d, 0, 0), []int{axis}, true), 0, 0))
}

func attention(l *lowering, n *pt2.Node) {
	q, k, v := l.value(l.tensor(n, "query")), l.value(l.tensor(n, "key")), l.value(l.tensor(n, "value"))
	r := len(q.shape)
	if r < 3 || q.batch >= r-2 {
		fail("query %v with the batch on axis %d", q.shape, q.batch)
	}
	d, mask := q.shape[r-1], l.optional(n, "attn_mask")
	p, causal := l.scalar(n, "dropout_p", 0), l.flag(n, "is_causal", false)
	scale := l.scalar(n, "scale", 1/math.Sqrt(float64(d)))
	if l.flag(n, "enable_gqa", false) && r == 4 && k.shape[1] != q.shape[1] {
		k, v = l.repeatHeads(k, q.shape[1]), l.repeatHeads(v, q.shape[1])
	}
	same := slices.Equal(q.shape, k.shape) && slices.Equal(q.shape, v.shape) && q.batch == k.batch
	if same && mask == nil && q.batch == 0 && q.alone() && r == 4 && math.Abs(scale*math.Sqrt(float64(d))-1) < 1e-6 {
		l.define(l.packed(q, k, v, causal, p))
		return
	}
	s := l.matmul(q, k, true, float32(scale))
	if causal {
		t, u := q.shape[r-2], k.shape[r-2]
		c := make([]float64, t*u)
		for i := range c {
			if i%u > i/u {
				c[i] = math.Inf(-1)
			}
		}
		s = l.binary("add", s, constant(c, []int{t, u}, false))
	}
	var sees *value
	if mask != nil {
		mask, sees = l.seeing(mask)
		s = l.binary("add", s, mask)
	}
	s = l.softmax(s, -1)
	if p > 0 {
		y, sh := l.emit(&graph.Dropout{P: p}, nil, s.name)
		s = l.result(y, sh, s.shape, s.batch, s.outer)
	}
	y := l.matmul(s, v, false, 0)
	if sees != nil {
		y = l.masked(y, sees)
	}
	l.define(y)
}

// seeing is a mask [..., queries, keys] as what is added to the products, and which queries see a key,
// [..., queries, 1]; nil where all do. Who sees none gets zeros: over minus infinities alone there is no
// softmax, so that none of them are added there.
func (l *lowering) seeing(mask *value) (added, sees *value) {
	if len(mask.shape) == 0 {
		fail("with a mask that is one number")
	}
	last := []int{len(mask.shape) - 1}
	if mask.whole {
		sees = l.reduce("amax", mask, last, true)
		mask = l.additive(l.binary("max", mask, l.unary("eq", sees, 0, 0)))
	} else {
		sees = l.unary("ge", l.reduce("amax", mask, last, true), -math.MaxFloat32, 0)
		mask = l.masked(mask, sees)
	}
	if sees.isConst() && !slices.Contains(l.data(sees), 0) {
		sees = nil
	}
	return mask, sees
}

// packed is attention in one operation, which holds no matrix of all pairs.
func (l *lowering) packed(q, k, v *value, causal bool, p float64) *value {
	h, t, d := q.shape[1], q.shape[2], q.shape[3]
	var parts []string
	for _, x := range []*value{q, k, v} {
		name, _ := l.permute(x.name, []int{1, 0, 2})
		name, _ = l.reshape(name, graph.Shape{t, h * d})
		parts = append(parts, name)
	}
	y, _ := l.emit(&graph.Concat{Axis: 1}, nil, parts...)
	y, _ = l.emit(&graph.Attention{Heads: h, Causal: causal, P: p}, nil, y)
	y, _ = l.reshape(y, graph.Shape{t, h, d})
	y, s := l.permute(y, []int{1, 0, 2})
	return l.result(y, s, q.shape, 0, 1)
}

// repeatHeads repeats each head of [N,H,T,D] so that there are heads.
func (l *lowering) repeatHeads(x *value, heads int) *value {
	h := x.shape[1]
	if h == 0 || heads%h != 0 || x.batch != 0 {
		fail("%d heads of the query, %d of the key", heads, h)
	}
	name, _ := l.reshape(x.name, graph.Shape{h, 1, x.shape[2] * x.shape[3]})
	name, _ = l.emit(&graph.Expand{Shape: []int{h, heads / h, x.shape[2] * x.shape[3]}}, nil, name)
	name, s := l.reshape(name, graph.Shape{heads, x.shape[2], x.shape[3]})
	return l.result(name, s, []int{1, heads, x.shape[2], x.shape[3]}, 0, 1)
}

// additive turns a mask of what may be seen into what is added: 0, or minus infinity.
func (l *lowering) additive(m *value) *value {
	if m.isConst() {
		d := slices.Clone(l.data(m))
		for i, v := range d {
			if d[i] = 0; v == 0 {
				d[i] = math.Inf(-1)
			}
		}
		c := constant(d, m.shape, false)
		c.batch = m.batch
		return c
	}
	// log(1) = 0, log(0) = -Inf; nothing flows back through a mask.
	return l.unary("log", m, 0, 0)
}
