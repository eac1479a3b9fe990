// Package importer lowers programs of torch.export to graphs that the engine trains.
//
// A graph is about one row of a batch, a program about all of them: every tensor of a
// program that depends on the input has one axis that holds the batch, alone or folded
// together with others ([N·heads, T, D], [T·N, C]). The importer follows that axis
// through every operator. What works on each sample by itself becomes an operation on rows,
// and therefore trains at any batch size, whether the program was exported with a symbolic
// batch or a fixed one; what mixes samples is refused. What depends on no input folds to
// constants; rearrangements of a parameter stay a parameter with an index.
//
// Whatever cannot be lowered is collected, so that the error names all of it at once.
package importer

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/state"
)

// ErrUnsupported is wrapped by the error that lists what a program has and the engine
// does not.
var ErrUnsupported = errors.New("the model uses what the engine does not have")

// Options of an import.
type Options struct {
	Name   string // of the graph
	Output int    // which of the program's outputs is the model's answer
	More   []int  // further outputs to keep, for losses that look at them
}

// Model is an imported program.
type Model struct {
	Graph   *graph.Graph
	More    []string   // names of the further outputs, in the order of Options.More
	Outputs int        // tensors that the program returns
	Weights state.Dict // what the archive has of the graph's state dict, in its order
	// Unused are tensors of the archive's state dict that the answer does not depend on.
	Unused []string
	// Rest is those tensors: what a strict load_state_dict wants beside Weights, names that are
	// Tied left out.
	Rest state.Dict
	// Tied maps parameters that share their elements with an earlier one to that one.
	Tied map[string]string
	// Notes are what the user should know of the file, a sentence each.
	Notes []string
	// Loss tells that the answer is the mean of the batch's losses, of which a row has the sample's.
	Loss bool
}

// Problem is an operator that could not be lowered.
type Problem struct {
	Target string // the operator, as "aten.conv3d.default"
	Reason string
	Where  string // file:line of the first, if the archive tells
	Module string // of the first
	Count  int
}

// Problems lists what could not be lowered.
type Problems []Problem

// Error lists them, one a line.
func (ps Problems) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d kinds of operators", ErrUnsupported, len(ps))
	for _, p := range ps {
		fmt.Fprintf(&b, "\n  %s", p.Target)
		if p.Count > 1 {
			fmt.Fprintf(&b, " (%d times)", p.Count)
		}
		if p.Where != "" {
			fmt.Fprintf(&b, " at %s", p.Where)
		}
		if p.Module != "" {
			fmt.Fprintf(&b, " in %s", p.Module)
		}
		fmt.Fprintf(&b, ": %s", p.Reason)
	}
	return b.String()
}

// Unwrap makes errors.Is find ErrUnsupported.
func (Problems) Unwrap() error { return ErrUnsupported }

// Import lowers the program of an archive and loads its weights.
func Import(a *pt2.Archive, o Options) (m *Model, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			m, err = nil, fmt.Errorf("%w: %s", ErrUnsupported, r.reason)
		default:
			panic(r)
		}
	}()
	lowered := func(samples int) (*Model, error) {
		l := newLowering(a, o)
		l.program, l.samples = a.Program, samples
		if err := l.inputs(); err != nil {
			return nil, err
		}
		l.run(&a.Program.Graph)
		return l.model(o)
	}
	p := primes(a.Program)
	if m, err = lowered(p[0]); err != nil {
		return nil, err
	}
	if _, ok := m.Graph.Compares(); !ok {
		return m, nil
	}
	again, err := lowered(p[1])
	if err != nil {
		return nil, err
	}
	return m, agree(m, again)
}

// model is the outcome of a lowering.
func (l *lowering) model(o Options) (*Model, error) {
	out, err := l.output(o.Output)
	if len(l.problems) > 0 {
		return nil, l.report()
	}
	if err != nil {
		return nil, err
	}
	var more []string
	for _, k := range o.More {
		v, err := l.output(k)
		if err != nil {
			return nil, err
		}
		more = append(more, v.name)
	}
	m, err := l.finish(out, more)
	if err == nil && out.pooled != "" {
		m.Loss = true
	}
	return m, err
}

// archive is where a model's tensors are.
type archive interface {
	Has(name string) bool
	Load(name string) (state.Tensor, error)
	Tied() map[string]string // parameters by the earlier one that they share their elements with
}

func newLowering(a archive, o Options) *lowering {
	return &lowering{
		a: a, vals: map[string]*value{}, ints: map[string]number{}, symbols: map[string]bool{}, used: map[string]bool{}, tried: map[string]int{}, surveys: map[*pt2.Graph]*survey{}, tied: a.Tied(), fixed: map[string]bool{}, iterations: map[string]*iterated{},
		wholes: map[string]bool{}, joined: map[string]string{}, singles: map[string]string{},
		g: &graph.Graph{Name: o.Name}, made: map[string]int{}, shapes: map[string]graph.Shape{},
	}
}

// lowering is an import under way.
type lowering struct {
	a          archive
	program    *pt2.Program // nil where it is an ONNX model
	outputs    []string     // names of the values that are the model's outputs
	dict       []string     // names of its state dict
	onnx       *onnx.Model  // nil where it is a program
	g          *graph.Graph
	vals       map[string]*value
	ints       map[string]number
	used       map[string]bool        // names of graph values
	tried      map[string]int         // of how many names that begin alike were tried
	made       map[string]int         // node by name
	shapes     map[string]graph.Shape // row shape by name of a graph value
	tied       map[string]string
	fixed      map[string]bool      // parameters that are not to be trained
	notes      []string             // what the user should know
	still      bool                 // dropout is left out, since it was exported in evaluation mode
	iterations map[string]*iterated // of spectral norms, by the weight's name
	symbol     string               // of the batch, "" where it is fixed
	symbols    map[string]bool      // other names of it: each input may have its own
	batch      int                  // its size where it is fixed
	node       *pt2.Node
	graph      *pt2.Graph
	surveys    map[*pt2.Graph]*survey
	single     bool // the current node's input is one image, the same for all samples
	problems   []Problem

	samples int               // the prime that stands for the size of a whole batch; 0: none does
	entire  bool              // the current node is lowered over the whole batch
	wholes  map[string]bool   // graph values of the whole batch
	joined  map[string]string // those that hold the rows of others
	singles map[string]string // and what is the same for all samples
}

// failure is what a lowering function panics with; run turns it into a Problem.
type failure struct{ reason string }

func fail(format string, a ...any) { panic(failure{fmt.Sprintf(format, a...)}) }

// inputs defines the program's inputs.
func (l *lowering) inputs() error {
	p := l.program
	for _, o := range p.Outputs {
		if o.Kind == "user_output" || o.Kind == "loss_output" {
			l.outputs = append(l.outputs, o.Value)
		}
	}
	for _, in := range p.UserInputs() {
		if in.Value == "" {
			continue
		}
		sizes := p.Tensors[in.Value].Sizes
		for _, s := range sizes {
			if _, sym, ok := s.Linear(); ok && sym != "" && l.symbol == "" {
				l.symbol = sym
			}
		}
	}
	for _, in := range p.UserInputs() {
		if in.Value == "" {
			continue
		}
		m := p.Tensors[in.Value]
		v := &value{batch: -1, outer: 1}
		for i, s := range m.Sizes {
			k, sym, ok := s.Linear()
			if ok && sym != "" && sym != l.symbol && i == 0 && k == 1 && v.batch < 0 {
				l.symbols[sym], sym = true, l.symbol // nothing in the program compares the two
			}
			switch {
			case !ok || sym != "" && sym != l.symbol && !l.symbols[sym]:
				return fmt.Errorf("%w: input %q has the size %s on axis %d; export with one dynamic dimension, the batch", ErrUnsupported, in.Name, s, i)
			case sym != "":
				if v.batch >= 0 {
					return fmt.Errorf("%w: input %q has the batch on two axes", ErrUnsupported, in.Name)
				}
				v.batch = i
			}
			v.shape = append(v.shape, int(k))
		}
		if l.symbol == "" {
			if len(v.shape) == 0 {
				return fmt.Errorf("%w: input %q is a number", ErrUnsupported, in.Name)
			}
			if l.batch == 0 {
				l.batch = v.shape[0]
			}
			if v.shape[0] != l.batch || l.batch < 1 {
				return fmt.Errorf("%w: the first axis of input %q has %d elements, that of the first input %d; the first axis is taken as the batch", ErrUnsupported, in.Name, v.shape[0], l.batch)
			}
			v.batch, v.shape[0] = 0, 1
		}
		if v.batch < 0 {
			return fmt.Errorf("%w: input %q has no batch axis", ErrUnsupported, in.Name)
		}
		if m.DType.Complex() {
			return fmt.Errorf("%w: input %q is complex; give real and imaginary parts as [..., 2]", ErrUnsupported, in.Name)
		}
		v.name = l.unique(in.Name)
		v.whole = !m.DType.Floating()
		l.vals[in.Value] = v
		l.g.Inputs = append(l.g.Inputs, graph.Input{Name: v.name, Shape: v.row(), Constant: v.whole})
		l.shapes[v.name] = v.row()
	}
	if len(l.g.Inputs) == 0 {
		return fmt.Errorf("%w: it has no input that is a tensor", ErrUnsupported)
	}
	return l.held()
}

// held defines the parameters, buffers and constants that the program brings.
func (l *lowering) held() error {
	p := l.program
	for _, in := range p.Inputs {
		if in.Kind == pt2.UserInput {
			continue
		}
		if in.Kind == pt2.Parameter || in.Kind == pt2.Buffer && in.Persistent {
			l.dict = append(l.dict, in.Name)
		}
		m := p.Tensors[in.Value]
		v := &value{shape: []int{}, batch: -1, outer: 1, whole: !m.DType.Floating(), archived: in.Name}
		for _, s := range m.Sizes {
			if s.Expr != "" || s.N < 0 || s.N > graph.MaxRow {
				return fmt.Errorf("%w: the tensor %q has the size %s", ErrUnsupported, in.Name, s)
			}
			v.shape = append(v.shape, int(s.N))
		}
		if m.DType.Complex() {
			if in.Kind == pt2.Parameter || in.Persistent {
				return fmt.Errorf("%w: %q is complex; keep real and imaginary parts in one tensor [..., 2] of float32 and use torch.view_as_complex", ErrUnsupported, in.Name)
			}
			l.vals[in.Value] = complexBuffer(v)
			continue
		}
		if in.Kind == pt2.Parameter {
			l.fixed[in.Name] = m.Fixed
			v.param = in.Name
			if t, ok := l.tied[in.Name]; ok {
				v.param = t
			}
			v.paramShape = v.shape
		} else {
			v.buf = &buffer{load: in.Name, whole: v.whole}
		}
		l.vals[in.Value] = v
	}
	return nil
}

// run lowers the nodes of a graph.
func (l *lowering) run(g *pt2.Graph) {
	outer := l.graph
	l.graph = g
	for i := range g.Nodes {
		l.node = &g.Nodes[i]
		l.lower()
	}
	l.graph = outer
}

// lower lowers one node.
func (l *lowering) lower() {
	n := l.node
	l.single = false
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			l.problem(n, r.reason)
		case runtime.Error: // an index or a name that the archive does not have
			l.problem(n, fmt.Sprintf("its arguments are not those that the operator takes (%v)", r))
		default:
			panic(r)
		}
	}()
	for _, a := range n.Args {
		for _, name := range a.Names {
			if v := l.vals[name]; v != nil && v.bad {
				l.poison(n) // said already
				return
			}
		}
	}
	op := base(n)
	l.byHand(n)
	switch {
	case contains(n):
		l.overRows(n, op)
		return
	case l.readsBatch(n):
		l.overBatch(n, op)
		return
	}
	reason := attempt(func() { l.overRows(n, op) })
	if reason == "" {
		return
	}
	if l.program == nil {
		fail("%s", reason)
	}
	if l.symbol == "" || l.samples == 0 {
		if l.batch > 1 && (strings.Contains(reason, "sample") || strings.Contains(reason, "batch")) {
			reason += "; what compares the samples of a batch needs a batch of any size: export with dynamic_shapes, and take x.size(0) for their number"
		}
		fail("%s", reason)
	}
	if attempt(func() { l.overBatch(n, op) }) != "" {
		fail("%s", reason)
	}
}

// overRows lowers a node that works on each sample by itself.
func (l *lowering) overRows(n *pt2.Node, op string) {
	if l.spectralNode(n, op) {
		return
	}
	l.overSamples(n, op)
	if _, ok := arg(n, "out"); ok {
		fail("it writes to a tensor that is given as out=; assign the result to a new tensor")
	}
	if l.pooledNode(n, op) || l.complexNode(n, op) {
		return
	}
	if f, ok := operators[op]; ok {
		f(l, n)
		return
	}
	if f, ok := operators[strings.TrimSuffix(op, "_")]; ok && writes(op) {
		l.inPlace(f)
		return
	}
	if l.integers(n) {
		return
	}
	reason := "there is no such operation"
	if a, ok := advice[op]; ok {
		reason = a
	}
	fail("%s", reason)
}

// counting are the operators whose result over an axis depends on how long that is, also where its
// elements are the same.
var counting = []string{"sum", "cumsum", "prod", "softmax", "log_softmax", "logsumexp", "norm", "linalg_vector_norm", "var", "std", "var_mean", "std_mean"}

// overSamples refuses to take such a result of a constant over the batch, since a constant has one element
// for all samples.
func (l *lowering) overSamples(n *pt2.Node, op string) {
	if l.program == nil || !slices.Contains(counting, strings.TrimSuffix(op, "_")) {
		return
	}
	x := l.vals[first(n)]
	if x == nil || !x.isConst() {
		return
	}
	sizes, _ := l.meta(first(n))
	for _, a := range l.axes(n, "dim", len(sizes)) {
		if a >= 0 && a < len(sizes) && sizes[a].batched {
			fail("of a constant over the batch: the result depends on how many samples that has")
		}
	}
}

// byHand refuses what is, as far as the archive tells, a torch.autograd.Function. A package may call
// modules that it has made on the spot, which look alike: of those the user is told.
func (l *lowering) byHand(n *pt2.Node) {
	if !n.ByHand {
		return
	}
	file := strings.ReplaceAll(n.File, `\`, "/")
	if !strings.Contains(file, "/site-packages/") && !strings.Contains(file, "/dist-packages/") {
		fail("it belongs to a torch.autograd.Function, whose own backward the file does not hold; write it with operators, as x + (f(x) - x).detach() for a gradient that passes straight through. If it is a module, make it an attribute of the one that calls it")
	}
	note := fmt.Sprintf("%s:%d: if this is a torch.autograd.Function, its own backward is not in the file; the gradient is that of what it computes", path.Base(file), n.Line)
	if len(l.notes) < 4 && !slices.Contains(l.notes, note) {
		l.notes = append(l.notes, note)
	}
}

// advice says what to write instead.
var advice = map[string]string{
	"as_strided":               "use x.unfold, or indices",
	"nonzero":                  "its size depends on the data; use a mask",
	"unique":                   "its size depends on the data; use a mask",
	"masked_select":            "its size depends on the data; use torch.where",
	"item":                     "a number that depends on the data cannot steer the model; keep it a tensor",
	"_local_scalar_dense":      "a number that depends on the data cannot steer the model; keep it a tensor",
	"embedding_renorm_":        "max_norm changes the table in place; normalise what is looked up instead, by torch.nn.functional.normalize",
	"rrelu":                    "slopes that are drawn are not supported; use leaky_relu",
	"_native_batch_norm_legit": "export with model.train() and torch.export.export, without run_decompositions",
}

func (l *lowering) poison(n *pt2.Node) {
	for _, o := range n.Outputs {
		for _, name := range o.Names {
			l.vals[name] = &value{bad: true, batch: -1}
		}
	}
}

func (l *lowering) problem(n *pt2.Node, reason string) {
	l.poison(n)
	for i := range l.problems {
		if p := &l.problems[i]; p.Target == n.Target && p.Reason == reason {
			p.Count++
			return
		}
	}
	p := Problem{Target: n.Target, Reason: reason, Module: n.Module, Count: 1}
	if n.File != "" {
		p.Where = fmt.Sprintf("%s:%d", path.Base(strings.ReplaceAll(n.File, `\`, "/")), n.Line)
	}
	l.problems = append(l.problems, p)
}

func (l *lowering) report() error { return Problems(l.problems) }

// answers are the tensors that the program returns.
func (l *lowering) answers() []*value {
	var outs []*value
	for _, name := range l.outputs {
		if v := l.vals[name]; name != "" && v != nil {
			outs = append(outs, v)
		}
	}
	return outs
}

// output is the value that is the model's answer.
func (l *lowering) output(k int) (*value, error) {
	outs := l.answers()
	if k < 0 || k >= len(outs) {
		return nil, fmt.Errorf("%w: there is no output %d; the model has %d that are tensors", ErrUnsupported, k, len(outs))
	}
	v := outs[k]
	switch {
	case v.bad || v.name != "" && v.batch >= 0:
		return v, nil
	case l.ofBatch(v):
		return l.answer(v), nil
	case v.pooled == "sum" && l.symbol != "" && l.samples > 0:
		return l.answer(l.unpooled(v)), nil
	case v.pooled == "sum":
		return nil, fmt.Errorf("%w: output %d is a sum over the batch; divide it by the number of samples, or take the mean", ErrUnsupported, k)
	case v.pooled != "":
		w := *v
		w.name, _ = l.reshape(v.name, graph.Shape{elems(v.shape)})
		return &w, nil
	}
	return nil, fmt.Errorf("%w: output %d does not depend on the input", ErrUnsupported, k)
}

// finish drops what the answer does not need, checks the graph and loads the weights.
func (l *lowering) finish(out *value, more []string) (*Model, error) {
	need := map[string]bool{}
	for _, name := range append([]string{out.name}, more...) {
		if _, ok := l.made[name]; !ok {
			return nil, fmt.Errorf("%w: the answer is the input itself", ErrUnsupported)
		}
		need[name] = true
	}
	var nodes []graph.Node
	for i := len(l.g.Nodes) - 1; i >= 0; i-- {
		n := l.g.Nodes[i]
		if !need[n.Name] {
			continue
		}
		for _, in := range n.Inputs {
			need[in] = true
		}
		nodes = append(nodes, n)
	}
	slices.Reverse(nodes)
	l.g.Nodes, l.g.Output = nodes, out.name
	l.g.Inputs = slices.DeleteFunc(l.g.Inputs, func(in graph.Input) bool { return !need[in.Name] })
	notes := append(l.notes, l.freeze()...)
	if l.still {
		notes = append(notes, "dropout is left out: the model was exported in evaluation mode; call model.train() before torch.export.export to train with it")
	}
	if err := l.g.Check(); err != nil {
		return nil, err
	}
	m := &Model{Graph: l.g, Tied: l.tied, More: more, Outputs: len(l.answers()), Notes: notes}
	has := map[string]bool{}
	for _, p := range l.g.Params() {
		t, err := l.a.Load(p.Full)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(t.Shape, p.Shape) {
			return nil, fmt.Errorf("%w: the tensor %q is %v, the graph has %v", ErrUnsupported, p.Full, t.Shape, p.Shape)
		}
		has[p.Full] = true
		m.Weights = append(m.Weights, t)
	}
	for _, name := range l.dict {
		if _, tied := l.tied[name]; has[name] || tied {
			continue
		}
		t, err := l.a.Load(name)
		if err != nil {
			return nil, err
		}
		m.Unused, m.Rest = append(m.Unused, name), append(m.Rest, t)
	}
	sort.Strings(m.Unused)
	return m, nil
}

// freeze leaves alone what the program did: parameters with requires_grad=False. A program without
// any others was exported to be looked at, not to be trained.
func (l *lowering) freeze() (notes []string) {
	frozen, trained := map[string]bool{}, false
	for i := range l.g.Nodes {
		n := &l.g.Nodes[i]
		for _, s := range n.Op.Params() {
			if s.Role != graph.Trainable {
				continue
			}
			if !l.fixed[n.Full(s.Name)] {
				trained = true
				continue
			}
			frozen[n.Full(s.Name)] = true
			n.Frozen = append(n.Frozen, s.Name)
		}
	}
	switch {
	case len(frozen) == 0:
	case trained:
		notes = append(notes, fmt.Sprintf("%d parameters stay as they are: the model was exported with requires_grad=False for them", len(frozen)))
	default:
		for i := range l.g.Nodes {
			l.g.Nodes[i].Frozen = nil
		}
		notes = append(notes, "all parameters have requires_grad=False; they are trained all the same")
	}
	return notes
}

// unique makes a name of a graph value out of a program's.
func (l *lowering) unique(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	clean = clean[:min(len(clean), graph.MaxName-8)]
	if clean == "" {
		clean = "value"
	}
	n := clean
	for k := l.tried[clean]; l.used[n]; k++ {
		n = fmt.Sprintf("%s_%d", clean, k+2)
		l.tried[clean] = k + 1
	}
	l.used[n] = true
	return n
}

// emit appends a node and returns its row shape and name. names are the state-dict names
// of the op's parameters.
func (l *lowering) emit(op graph.Op, names map[string]string, inputs ...string) (string, graph.Shape) {
	in := make([]graph.Shape, len(inputs))
	for i, n := range inputs {
		in[i] = l.shapes[n]
	}
	if slices.ContainsFunc(inputs, func(n string) bool { return l.wholes[n] }) {
		return l.emitOfBatch(op, names, inputs)
	}
	out, err := op.Infer(in)
	if err != nil {
		fail("%v", err)
	}
	return l.add(op, out, names, inputs...), out
}

// add appends a node whose rows have the given shape.
func (l *lowering) add(op graph.Op, out graph.Shape, names map[string]string, inputs ...string) string {
	// The node is called after its module where its parameters are called so.
	prefix, whole := "", len(names) > 0
	for short, full := range names {
		p, ok := strings.CutSuffix(full, "."+short)
		whole = whole && ok && (prefix == "" || prefix == p)
		prefix = p
	}
	n := graph.Node{Op: op, Inputs: slices.Clone(inputs)}
	if whole && !l.used[prefix] {
		n.Name = l.unique(prefix)
	}
	if n.Name == "" || n.Name != prefix {
		if n.Name == "" {
			n.Name = l.unique(l.hint())
		}
		n.Names = names
	}
	l.made[n.Name] = len(l.g.Nodes)
	l.g.Nodes = append(l.g.Nodes, n)
	l.shapes[n.Name] = out
	return n.Name
}

// hint is a name for a value of the current node: its module's path and the operator.
func (l *lowering) hint() string {
	n := l.node
	name := "value"
	if len(n.Outputs) > 0 && len(n.Outputs[0].Names) > 0 {
		name = n.Outputs[0].Names[0]
	}
	if n.Module != "" {
		name = n.Module + "." + name
	}
	return name
}

// producer is the node that makes a graph value, nil for an input.
func (l *lowering) producer(name string) *graph.Node {
	if i, ok := l.made[name]; ok {
		return &l.g.Nodes[i]
	}
	return nil
}
