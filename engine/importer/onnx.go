// Models in ONNX: the file as a source of tensors, its inputs and weights, and the walk over its
// nodes. What an operator is lowered to is that of PyTorch's operators wherever there is one.

package importer

import (
	"fmt"
	"math"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/state"
)

// onnxFile is the archive that an ONNX model is.
type onnxFile struct {
	tensors map[string]*onnx.Tensor // by their name in the graph
	counts  map[string]bool         // batches that its normalisations count
	parts   map[string]onnxPart     // of tensors, by the names of parameters
	open    onnx.Opener
}

func (f *onnxFile) Has(name string) bool  { return f.tensors[name] != nil || f.counts[name] }
func (*onnxFile) Tied() map[string]string { return nil }

func (f *onnxFile) Load(name string) (state.Tensor, error) {
	if f.counts[name] {
		return state.Tensor{Name: name, Shape: []int{}, I64: []int64{0}}, nil
	}
	if p, ok := f.parts[name]; ok {
		x, err := f.tensors[p.of].Load(f.open)
		if err != nil {
			return x, err
		}
		return state.Tensor{Name: name, Shape: p.shape, F32: x.F32[p.from:][:elems(p.shape)]}, nil
	}
	t := f.tensors[name]
	if t == nil {
		return state.Tensor{}, fmt.Errorf("%w: it has no tensor %q", ErrUnsupported, name)
	}
	x, err := t.Load(f.open)
	x.Name = name
	return x, err
}

// ImportONNX lowers an ONNX model. open opens files beside it, which may hold its weights.
//
// A node of batch normalisation becomes a layer that trains with the statistics of its batches,
// whether the file was made for training or for inference. Weights are what the file says are
// parameters; where it says nothing, floating-point constants in the place of a layer's weights.
func ImportONNX(m *onnx.Model, open onnx.Opener, o Options) (model *Model, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			model, err = nil, fmt.Errorf("%w: %s", ErrUnsupported, r.reason)
		default:
			panic(r)
		}
	}()
	f := &onnxFile{tensors: map[string]*onnx.Tensor{}, counts: map[string]bool{}, open: open}
	l := newLowering(f, o)
	l.onnx = m
	if err := plainML(&m.Graph); err != nil {
		return nil, err
	}
	if err := l.onnxInputs(); err != nil {
		return nil, err
	}
	if err := l.onnxWeights(f); err != nil {
		return nil, err
	}
	l.graph = &pt2.Graph{}
	for i := range m.Graph.Nodes {
		l.onnxNode(&m.Graph.Nodes[i])
	}
	for _, v := range m.Graph.Outputs {
		l.outputs = append(l.outputs, v.Name)
	}
	if model, err = l.model(o); err != nil {
		return nil, err
	}
	if len(model.Graph.Shared()) > 0 && strings.EqualFold(m.Producer, "pytorch") {
		model.Notes = append(model.Notes, "torch.onnx.export's optimizer joins weights whose numbers are equal; if those layers were not tied, export with optimize=False")
	}
	return model, nil
}

// onnxInputs defines the model's inputs: the axis without a size is the batch, else the first.
func (l *lowering) onnxInputs() error {
	g := &l.onnx.Graph
	weights := map[string]bool{}
	for _, t := range g.Tensors {
		weights[t.Name] = true
	}
	inputs := slices.DeleteFunc(slices.Clone(g.Inputs), func(v onnx.Value) bool { return weights[v.Name] })
	fixed := !slices.ContainsFunc(inputs, func(v onnx.Value) bool {
		return slices.ContainsFunc(v.Dims, func(d onnx.Dim) bool { return d.N <= 0 })
	})
	if !fixed {
		l.symbol = "N"
	}
	for _, in := range inputs {
		v := &value{batch: -1, outer: 1, whole: in.Type != onnx.Float && in.Type != onnx.Double && in.Type != onnx.Float16 && in.Type != onnx.BFloat16}
		if in.Type == onnx.Float16 || in.Type == onnx.BFloat16 {
			return fmt.Errorf("%w: input %q is of half precision; export a model in float32", ErrUnsupported, in.Name)
		}
		if len(in.Dims) == 0 {
			return fmt.Errorf("%w: input %q is a number, or its shape is not told", ErrUnsupported, in.Name)
		}
		for i, d := range in.Dims {
			if d.N > graph.MaxDim {
				return fmt.Errorf("%w: input %q has %d elements on axis %d", ErrUnsupported, in.Name, d.N, i)
			}
			if v.shape = append(v.shape, int(d.N)); d.N > 0 {
				continue
			}
			if v.batch >= 0 {
				return fmt.Errorf("%w: input %q has no size on axes %d and %d; export with one dynamic dimension, the batch", ErrUnsupported, in.Name, v.batch, i)
			}
			v.batch, v.shape[i] = i, 1
		}
		if fixed {
			if l.batch == 0 {
				l.batch = v.shape[0]
			}
			if v.shape[0] != l.batch {
				return fmt.Errorf("%w: the first axis of input %q has %d elements, that of the first input %d; the first axis is taken as the batch", ErrUnsupported, in.Name, v.shape[0], l.batch)
			}
			v.batch, v.shape[0] = 0, 1
		}
		if v.batch < 0 {
			return fmt.Errorf("%w: input %q has no batch axis", ErrUnsupported, in.Name)
		}
		v.name = l.unique(in.Name)
		l.vals[in.Name] = v
		l.g.Inputs = append(l.g.Inputs, graph.Input{Name: v.name, Shape: v.row(), Constant: v.whole})
		l.shapes[v.name] = v.row()
	}
	if len(l.g.Inputs) == 0 {
		return fmt.Errorf("%w: it has no input that is a tensor", ErrUnsupported)
	}
	return nil
}

// weightInputs are the inputs of operators that hold weights.
var weightInputs = map[string][]int{
	"Conv": {1, 2}, "ConvTranspose": {1, 2}, "Gemm": {1, 2}, "MatMul": {0, 1}, "Gather": {0}, "LayerNormalization": {1, 2}, "BatchNormalization": {1, 2},
	"InstanceNormalization": {1, 2}, "GroupNormalization": {1, 2}, "RMSNormalization": {1}, "PRelu": {1}, "LSTM": {1, 2, 3}, "GRU": {1, 2, 3}, "RNN": {1, 2, 3},
	"Attention": {1, 2}, "MultiHeadAttention": {3}, "BiasGelu": {1}, "FastGelu": {1}, "SkipLayerNormalization": {2, 3, 4}, "SkipSimplifiedLayerNormalization": {2, 3}, "SimplifiedLayerNormalization": {1}, "FusedMatMul": {0, 1},
}

// onnxWeights defines the initializers.
func (l *lowering) onnxWeights(f *onnxFile) error {
	g := &l.onnx.Graph
	kinds := map[string]string{}
	for _, vs := range [][]onnx.Value{g.Values, g.Inputs} {
		for _, v := range vs {
			if k := v.Meta["pkg.torch.export.graph_signature.InputSpec.kind"]; k != "" {
				kinds[v.Name] = k
			}
		}
	}
	layers := map[string]bool{} // used as a layer's weights
	for _, n := range g.Nodes {
		for _, k := range weightInputs[n.Op] {
			if k < len(n.Inputs) {
				layers[n.Inputs[k]] = true
			}
		}
	}
	for _, n := range g.Nodes { // a weight that is turned first
		if n.Op == "Transpose" && len(n.Inputs) == 1 && len(n.Outputs) == 1 && layers[n.Outputs[0]] {
			layers[n.Inputs[0]] = true
		}
	}
	products := map[string]bool{}
	for _, n := range g.Nodes { // a product's bias is added by a node of its own
		switch {
		case n.Op == "MatMul" && len(n.Inputs) == 2 && len(n.Outputs) == 1 && layers[n.Inputs[1]]:
			products[n.Outputs[0]] = true
		case n.Op == "Add" && len(n.Inputs) == 2 && products[n.Inputs[0]]:
			layers[n.Inputs[1]] = true
		case n.Op == "Add" && len(n.Inputs) == 2 && products[n.Inputs[1]]:
			layers[n.Inputs[0]] = true
		}
	}
	for i := range g.Tensors {
		t := &g.Tensors[i]
		if t.Type == onnx.Float16 || t.Type == onnx.BFloat16 {
			return fmt.Errorf("%w: %q is of half precision; export a model in float32", ErrUnsupported, t.Name)
		}
		name := l.unique(t.Name)
		delete(l.used, name) // nodes may be called so
		for k := 2; f.tensors[name] != nil; k++ {
			name = fmt.Sprintf("%s_%d", l.unique(t.Name), k)
		}
		f.tensors[name] = t
		v := &value{shape: slices.Clone(t.Shape), batch: -1, outer: 1, whole: !t.Floating(), archived: name}
		if v.shape == nil {
			v.shape = []int{}
		}
		kind, told := kinds[t.Name]
		trains := kind == "PARAMETER"
		if !told {
			named := strings.Contains(t.Name, ".") && !strings.HasPrefix(t.Name, "/") && !strings.Contains(t.Name, "::")
			trains = layers[t.Name] || named && !isStatistic(t.Name)
		}
		if trains = trains && t.Floating() && t.Elems() > 0; trains {
			v.param, v.paramShape = name, v.shape
			l.dict = append(l.dict, name)
		} else {
			v.buf = &buffer{load: name, whole: v.whole}
			if kind == "BUFFER" && t.Floating() {
				l.dict = append(l.dict, name)
			}
		}
		l.vals[t.Name] = v
	}
	return nil
}

// isStatistic tells whether PyTorch calls a buffer so.
func isStatistic(name string) bool {
	for _, s := range []string{"running_mean", "running_var", "inv_freq", "position_ids", "relative_position_index", "attn_mask"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// onnxNode lowers one node.
func (l *lowering) onnxNode(n *onnx.Node) {
	target := n.Op
	if n.Domain != "" && n.Domain != "ai.onnx" {
		target = n.Domain + "." + n.Op
	}
	l.node = &pt2.Node{Target: target, Module: modulePath(n)}
	for _, o := range n.Outputs {
		l.node.Outputs = append(l.node.Outputs, pt2.Arg{Kind: pt2.Tensor, Names: []string{o}})
	}
	l.node.File, l.node.Line = n.Source()
	at := l.node
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			l.problem(at, r.reason)
		case runtime.Error:
			l.problem(at, fmt.Sprintf("its inputs are not those that the operator takes (%v)", r))
		default:
			panic(r)
		}
	}()
	for _, in := range n.Inputs {
		if v := l.vals[in]; v != nil && v.bad {
			l.poison(at)
			return
		}
	}
	f, ok := onnxOperators[target]
	if !ok {
		reason := "there is no such operation"
		if a, ok := onnxAdvice[n.Op]; ok {
			reason = a
		}
		fail("%s", reason)
	}
	if slices.ContainsFunc(n.Attrs, func(a onnx.Attr) bool { return a.Graph }) {
		fail("it holds a graph of its own")
	}
	f(l, n)
}

// onnxAdvice says what to do instead.
var onnxAdvice = map[string]string{
	"NonZero": "its size depends on the data; use a mask", "GridSample": "sampling at computed positions is not supported",
	"Loop": "loops are not supported; export with a fixed number of steps", "Scan": "loops are not supported; export with a fixed number of steps",
	"If": "a choice that depends on the data is not supported", "ScatterND": "writing to computed positions is not supported; use torch.where",
	"QLinearConv": "quantised models cannot be trained; export the model in float32", "QuantizeLinear": "quantised models cannot be trained; export the model in float32",
}

// modulePath is the path of the module that a node belongs to, "" where the file does not tell.
func modulePath(n *onnx.Node) string {
	if scopes := strings.Trim(n.Meta["pkg.torch.onnx.name_scopes"], "[]"); scopes != "" {
		parts := strings.Split(scopes, ", ")
		if len(parts) >= 2 {
			return strings.Trim(parts[len(parts)-2], "'")
		}
	}
	if !strings.HasPrefix(n.Name, "/") {
		return ""
	}
	p := ""
	for _, s := range strings.Split(path.Dir(n.Name), "/") {
		switch {
		case s == "":
		case p == "" || strings.HasPrefix(s, p+"."):
			p = s
		default:
			p += "." + s
		}
	}
	return p
}

// in is input k of a node, nil if it is missing.
func (l *lowering) in(n *onnx.Node, k int) *value {
	if k >= len(n.Inputs) || n.Inputs[k] == "" {
		return nil
	}
	v := l.vals[n.Inputs[k]]
	if v == nil {
		fail("the tensor %q is not computed before it is used", n.Inputs[k])
	}
	return v
}

// need is input k, which must be there.
func (l *lowering) need(n *onnx.Node, k int) *value {
	v := l.in(n, k)
	if v == nil {
		fail("it has no input %d", k)
	}
	return v
}

// Attributes of a node, or what they are where they are missing.
func attrInt(n *onnx.Node, name string, def int) int {
	if a := n.Attr(name); a != nil {
		if a.Int > math.MaxInt32 || a.Int < math.MinInt32 {
			fail("%s is %d", name, a.Int)
		}
		return int(a.Int)
	}
	return def
}

func attrInts(n *onnx.Node, name string) []int {
	a := n.Attr(name)
	if a == nil {
		return nil
	}
	out := make([]int, len(a.Ints))
	for i, v := range a.Ints {
		if v > math.MaxInt32 || v < math.MinInt32 {
			fail("%s has %d", name, v)
		}
		out[i] = int(v)
	}
	return out
}

// decimal is the shortest number that is f in 32 bits: what somebody wrote.
func decimal(f float64) float64 {
	d, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', -1, 32), 64)
	if err != nil {
		return f
	}
	return d
}

func attrFloat(n *onnx.Node, name string, def float64) float64 {
	if a := n.Attr(name); a != nil {
		return decimal(a.Float)
	}
	return def
}

func attrText(n *onnx.Node, name, def string) string {
	if a := n.Attr(name); a != nil {
		return a.Text
	}
	return def
}

// numbers are the integers of a value that is known: sizes among them.
func (l *lowering) numbers(v *value, what string) []number {
	if v.sizes != nil {
		return v.sizes
	}
	if !v.isConst() {
		fail("%s depends on the data", what)
	}
	d := l.data(v)
	out := make([]number, len(d))
	for i, f := range d {
		switch {
		case f >= math.MaxInt32:
			out[i].n = math.MaxInt32 // to the end
		case f <= math.MinInt32:
			out[i].n = math.MinInt32
		default:
			out[i].n = int(f)
		}
	}
	return out
}

// known are numbers none of which is the batch.
func (l *lowering) known(v *value, what string) []int {
	var out []int
	for _, m := range l.numbers(v, what) {
		if m.batched {
			fail("%s depends on the batch", what)
		}
		out = append(out, m.n)
	}
	return out
}

// scalarOf is the number that a constant of one element is.
func (l *lowering) scalarOf(v *value, what string) float64 {
	if !v.isConst() || elems(v.shape) != 1 {
		fail("%s is not a number", what)
	}
	return l.data(v)[0]
}

// list are integers of an attribute or, in later versions, of input k; nil if there are none.
func (l *lowering) intsOf(n *onnx.Node, name string, k int) []int {
	if v := attrInts(n, name); v != nil {
		return v
	}
	if v := l.in(n, k); v != nil {
		return l.known(v, name)
	}
	return nil
}

// sizesValue is a vector of integers, or a number, some of which may be multiples of the batch.
func sizesValue(ns []number, shape []int) *value {
	d := make([]float64, len(ns))
	for i, m := range ns {
		if m.batched {
			return &value{shape: shape, batch: -1, outer: 1, whole: true, sizes: ns}
		}
		d[i] = float64(m.n)
	}
	return constant(d, shape, true)
}

// dims are the sizes of v's axes.
func (l *lowering) dims(v *value) []number {
	out := make([]number, len(v.shape))
	for i, d := range v.shape {
		if v.sample && i == v.along {
			out[i] = number{n: 1, batched: true}
			continue
		}
		if out[i].n = d; i == v.batch {
			if out[i].batched = l.symbol != ""; l.symbol == "" {
				out[i].n *= l.batch
			}
		}
	}
	return out
}

// set defines a node's first output.
func (l *lowering) set(n *onnx.Node, v *value) { l.vals[n.Outputs[0]] = v }

// call runs PyTorch's operator on the node.
func (l *lowering) call(op string, args ...pt2.Named) {
	l.node.Args = args
	operators[op](l, l.node)
}

// apply is call for an operator of one tensor.
func onnxCall(op string) func(l *lowering, n *onnx.Node) {
	return func(l *lowering, n *onnx.Node) { l.call(op, tensorArg("self", n, 0)) }
}

func tensorArg(name string, n *onnx.Node, k int) pt2.Named {
	if k >= len(n.Inputs) || n.Inputs[k] == "" {
		return pt2.Named{Name: name}
	}
	return pt2.Named{Name: name, Arg: pt2.Arg{Kind: pt2.Tensor, Names: []string{n.Inputs[k]}}}
}

func intArg(name string, v int) pt2.Named {
	return pt2.Named{Name: name, Arg: pt2.Arg{Kind: pt2.Int, Ints: []pt2.Size{{N: int64(v)}}}}
}

func intsArg(name string, vs []int) pt2.Named {
	a := pt2.Arg{Kind: pt2.Ints}
	for _, v := range vs {
		a.Ints = append(a.Ints, pt2.Size{N: int64(v)})
	}
	return pt2.Named{Name: name, Arg: a}
}

func floatArg(name string, v float64) pt2.Named {
	return pt2.Named{Name: name, Arg: pt2.Arg{Kind: pt2.Float, Floats: []float64{v}}}
}

func textArg(name, v string) pt2.Named {
	return pt2.Named{Name: name, Arg: pt2.Arg{Kind: pt2.String, Text: v}}
}

func tensorsArg(name string, names []string) pt2.Named {
	return pt2.Named{Name: name, Arg: pt2.Arg{Kind: pt2.Tensors, Names: names}}
}
