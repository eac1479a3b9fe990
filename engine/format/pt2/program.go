// The program of an archive: torch's JSON schema (major version 8), turned into plain
// data. Fields that this reader does not know are passed over, because every release of
// PyTorch adds some; kinds of arguments that it does not know are kept by name, so that
// only who needs one is refused.

package pt2

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/state"
)

// Program is a model's forward pass as torch.export saw it.
type Program struct {
	Torch   string // version that wrote it
	Dialect string // "TRAINING", "ATEN", ...
	Inputs  []Input
	Outputs []Output
	Graph
}

// Graph is a list of nodes in an order in which they may run.
type Graph struct {
	Args    []Arg // its inputs
	Results []Arg
	Nodes   []Node
	Tensors map[string]Meta // of every tensor of the graph
	Ints    map[string]Size // of every symbolic integer
}

// InputKind says what a program's input is.
type InputKind uint8

// The kinds of inputs.
const (
	UserInput InputKind = iota
	Parameter
	Buffer
	Constant
)

// Input is an input of the program.
type Input struct {
	Kind       InputKind
	Value      string // its name in the graph; "" for a user input that is no tensor
	Name       string // in the state dict; of a user input that in the graph
	Persistent bool   // a buffer of the state dict
	Arg        Arg    // of a user input
}

// Output is an output of the program.
type Output struct {
	Kind  string // "user_output", "buffer_mutation", ...
	Value string // its name in the graph; "" where it is no tensor
	Name  string // of a mutated buffer
}

// Node is one call of an operator.
type Node struct {
	Target  string // without "torch.ops."
	Args    []Named
	Outputs []Arg
	Module  string // path of the module that it belongs to
	Class   string // that module's class
	File    string // where the user's source calls it
	Line    int
	// ByHand: it belongs to the forward method of a torch.autograd.Function, whose backward method
	// no archive holds, or to that of a module that is none of the model's.
	ByHand bool
}

// Named is an argument by its name in the operator's schema.
type Named struct {
	Name string
	Arg
}

// ArgKind is what an argument holds.
type ArgKind uint8

// The kinds of arguments.
const (
	None    ArgKind = iota
	Tensor          // Names[0]
	Tensors         // Names; "" where an optional one is missing
	Int             // Ints[0]
	Ints
	Float // Floats[0]
	Floats
	Bool // Ints[0] is 0 or 1
	Bools
	String  // Text
	Complex // Floats[0] and, imaginary, Floats[1]
	Subgraph
	Other // Text is the kind's name in the schema, and of an enumeration Ints[0] its value
)

// Arg is an argument or a result.
type Arg struct {
	Kind   ArgKind
	Names  []string
	Ints   []Size
	Floats []float64
	Text   string
	Graph  *Graph
}

// Size is an integer that may depend on sizes of inputs: N where Expr is "". Within a
// node's arguments Expr is the name of a symbolic integer of the graph.
type Size struct {
	N    int64
	Expr string
}

// String is the number or the expression.
func (s Size) String() string {
	if s.Expr != "" {
		return s.Expr
	}
	return strconv.FormatInt(s.N, 10)
}

// Linear takes an expression apart that is a number times one symbol, as "8*s0" or in
// SymPy's own form, "Mul(Integer(8), Symbol('s0', integer=True))".
func (s Size) Linear() (k int64, symbol string, ok bool) {
	if s.Expr == "" {
		return s.N, "", true
	}
	text := s.Expr
	for { // assumptions of a symbol say nothing here
		head, rest, found := strings.Cut(text, "Symbol('")
		name, tail, closed := strings.Cut(rest, "'")
		_, after, ended := strings.Cut(tail, ")")
		if !found || !closed || !ended {
			break
		}
		text = head + name + after
	}
	if args, found := strings.CutPrefix(text, "Mul("); found {
		text = strings.ReplaceAll(strings.TrimSuffix(args, ")"), ",", "*")
	}
	text = strings.ReplaceAll(text, "Integer(", "(")
	k = 1
	for part := range strings.SplitSeq(text, "*") {
		part = strings.Trim(part, " ()")
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			if n < 0 || n > math.MaxInt32 || k > math.MaxInt32 {
				return 0, "", false
			}
			k *= n
			continue
		}
		if symbol != "" || !identifier(part) {
			return 0, "", false
		}
		symbol = part
	}
	return k, symbol, true
}

// Polynomial takes an expression in SymPy's own form apart that is a polynomial in symbols which are
// all one number: the coefficients by degree, nil if it is none of a degree up to 4.
func (s Size) Polynomial(is func(symbol string) bool) []int64 {
	if s.Expr == "" {
		return []int64{s.N}
	}
	p := polynomial{text: s.Expr, is: is}
	c := p.expression(0)
	if p.bad || p.text != "" {
		return nil
	}
	return c
}

// polynomial reads an expression.
type polynomial struct {
	text string
	is   func(symbol string) bool
	bad  bool
}

// Limits on polynomials.
const (
	mostDegree      = 4
	mostCoefficient = 1 << 24
	mostNested      = 16
)

func (p *polynomial) take(s string) bool {
	rest, ok := strings.CutPrefix(p.text, s)
	if ok {
		p.text = rest
	}
	return ok
}

// fail makes the polynomial none.
func (p *polynomial) fail() []int64 {
	p.bad = true
	return nil
}

func (p *polynomial) expression(depth int) []int64 {
	switch {
	case p.bad || depth > mostNested:
		return p.fail()
	case p.take("Integer("):
		text, rest, ok := strings.Cut(p.text, ")")
		n, err := strconv.ParseInt(text, 10, 32)
		if !ok || err != nil {
			return p.fail()
		}
		p.text = rest
		return []int64{n}
	case p.take("Symbol('"):
		name, rest, ok := strings.Cut(p.text, "'")
		_, rest, closed := strings.Cut(rest, ")")
		if !ok || !closed || !p.is(name) {
			return p.fail()
		}
		p.text = rest
		return []int64{0, 1}
	case p.take("Add("):
		return p.fold(depth, func(a, b []int64) []int64 {
			c := make([]int64, max(len(a), len(b)))
			copy(c, a)
			for i, v := range b { // of 32 bits each, and so many bytes hold no sum beyond 64
				c[i] += v
			}
			return c
		})
	case p.take("Mul("):
		return p.fold(depth, times)
	case p.take("Pow("):
		return p.fold(depth, func(a, b []int64) []int64 {
			c := []int64{1}
			if len(b) != 1 || b[0] < 0 || b[0] > mostDegree {
				return p.fail()
			}
			for range b[0] {
				c = times(c, a)
			}
			return c
		})
	}
	return p.fail()
}

func times(a, b []int64) []int64 {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	c := make([]int64, len(a)+len(b)-1)
	for i, v := range a {
		for k, w := range b {
			if c[i+k] += v * w; c[i+k] > mostCoefficient || c[i+k] < -mostCoefficient {
				return nil
			}
		}
	}
	return c
}

// fold combines arguments up to the closing parenthesis.
func (p *polynomial) fold(depth int, f func(a, b []int64) []int64) []int64 {
	c := p.expression(depth + 1)
	for p.take(", ") {
		c = f(c, p.expression(depth+1))
		if p.bad || len(c) == 0 || len(c) > mostDegree+1 {
			return p.fail()
		}
	}
	if !p.take(")") {
		return p.fail()
	}
	for len(c) > 1 && c[len(c)-1] == 0 {
		c = c[:len(c)-1]
	}
	return c
}

func identifier(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// DType is an element type of torch.
type DType uint8

// The element types that models have.
const (
	Int64    DType = 5
	Float16  DType = 6
	Float32  DType = 7
	Float64  DType = 8
	Boolean  DType = 12
	BFloat16 DType = 13
)

// String is torch's name.
func (d DType) String() string {
	names := map[DType]string{
		1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
		9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
	}
	if n, ok := names[d]; ok {
		return n
	}
	return fmt.Sprintf("dtype %d", uint8(d))
}

// Floating tells whether it is a floating-point type.
func (d DType) Floating() bool { return d >= Float16 && d <= Float64 || d == BFloat16 || d.Complex() }

// Complex tells whether it is a type of complex numbers.
func (d DType) Complex() bool { return d >= 9 && d <= 11 }

func (d DType) state() (state.DType, bool) {
	dt, ok := map[DType]state.DType{
		1: state.U8, 2: state.I8, 3: state.I16, 4: state.I32, 5: state.I64, 6: state.F16, 7: state.F32, 8: state.F64, 12: state.Bool, 13: state.BF16,
	}[d]
	return dt, ok
}

// Meta is what is known of a tensor before the program runs.
type Meta struct {
	DType   DType
	Fixed   bool // of a parameter: it was not to be trained (requires_grad=False)
	Sizes   []Size
	Strides []Size
	Offset  Size
}

type jsonMeta struct {
	DType   DType      `json:"dtype"`
	Sizes   []jsonSize `json:"sizes"`
	Strides []jsonSize `json:"strides"`
	Offset  *jsonSize  `json:"storage_offset"`
	Grad    *bool      `json:"requires_grad"`
}

// jsonSize is as_int, as_expr or as_name.
type jsonSize struct {
	Int  *int64          `json:"as_int"`
	Name *string         `json:"as_name"`
	Expr json.RawMessage `json:"as_expr"`
}

func (j jsonSize) size() (Size, error) {
	switch {
	case j.Int != nil:
		return Size{N: *j.Int}, nil
	case j.Name != nil && *j.Name != "":
		return Size{Expr: *j.Name}, nil
	case len(j.Expr) > 0:
		var e struct {
			Expr string `json:"expr_str"`
		}
		if err := json.Unmarshal(j.Expr, &e); err != nil {
			return Size{}, err
		}
		if n, err := strconv.ParseInt(e.Expr, 10, 64); err == nil {
			return Size{N: n}, nil
		}
		if e.Expr == "" {
			return Size{}, errors.New("an empty expression for a size")
		}
		return Size{Expr: e.Expr}, nil
	}
	return Size{}, errors.New("a size that is neither a number nor an expression")
}

func sizes(js []jsonSize) ([]Size, error) {
	out := make([]Size, len(js))
	for i, j := range js {
		var err error
		if out[i], err = j.size(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (j *jsonMeta) meta() (Meta, error) {
	m := Meta{DType: j.DType, Fixed: j.Grad != nil && !*j.Grad}
	var err error
	if m.Sizes, err = sizes(j.Sizes); err != nil {
		return m, err
	}
	if j.Strides != nil {
		// Strides of a symbolic tensor may be any expression: nobody needs those.
		if m.Strides, err = sizes(j.Strides); err != nil {
			return m, err
		}
	}
	if j.Offset != nil {
		m.Offset, err = j.Offset.size()
	}
	return m, err
}

type jsonGraph struct {
	Inputs  []jsonArg           `json:"inputs"`
	Outputs []jsonArg           `json:"outputs"`
	Nodes   []jsonNode          `json:"nodes"`
	Tensors map[string]jsonMeta `json:"tensor_values"`
	Ints    map[string]jsonSize `json:"sym_int_values"`
}

type jsonArg = map[string]json.RawMessage

type jsonNode struct {
	Target string `json:"target"`
	Inputs []struct {
		Name string  `json:"name"`
		Arg  jsonArg `json:"arg"`
	} `json:"inputs"`
	Outputs  []jsonArg         `json:"outputs"`
	Metadata map[string]string `json:"metadata"`
}

type jsonProgram struct {
	Module struct {
		Graph     jsonGraph `json:"graph"`
		Signature struct {
			Inputs  []map[string]json.RawMessage `json:"input_specs"`
			Outputs []map[string]json.RawMessage `json:"output_specs"`
		} `json:"signature"`
	} `json:"graph_module"`
	Schema   json.RawMessage `json:"schema_version"`
	Dialect  string          `json:"dialect"`
	Verifier []string        `json:"verifiers"`
	Torch    string          `json:"torch_version"`
}

// parseProgram reads models/model.json.
func parseProgram(b []byte) (*Program, error) {
	b, err := tame(b)
	if err != nil {
		return nil, bad("the program: %w", err)
	}
	var j jsonProgram
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, bad("the program: %w", err)
	}
	var schema struct{ Major, Minor int }
	if len(j.Schema) > 0 {
		if err := json.Unmarshal(j.Schema, &schema); err != nil {
			return nil, bad("the program: schema_version: %w", err)
		}
	}
	if schema.Major != 8 {
		return nil, bad("the program has schema version %d.%d (PyTorch %s); version 8, of PyTorch 2.6 and later, is read", schema.Major, schema.Minor, j.Torch)
	}
	p := &Program{Torch: j.Torch, Dialect: j.Dialect}
	if len(j.Verifier) > 0 {
		p.Dialect = j.Verifier[0]
	}
	g, err := j.Module.Graph.graph()
	if err != nil {
		return nil, bad("the program: %w", err)
	}
	p.Graph = *g
	for i, spec := range j.Module.Signature.Inputs {
		in, err := inputSpec(spec)
		if err != nil {
			return nil, bad("the program: input %d: %w", i, err)
		}
		if _, ok := g.Tensors[in.Value]; in.Value != "" && !ok {
			return nil, bad("the program: input %q has no metadata", in.Value)
		}
		p.Inputs = append(p.Inputs, in)
	}
	for i, spec := range j.Module.Signature.Outputs {
		out, err := outputSpec(spec)
		if err != nil {
			return nil, bad("the program: output %d: %w", i, err)
		}
		p.Outputs = append(p.Outputs, out)
	}
	return p, nil
}

// only is the one entry of a tagged union.
func only(m map[string]json.RawMessage) (kind string, raw json.RawMessage, err error) {
	if len(m) != 1 {
		return "", nil, fmt.Errorf("a union with %d kinds at once", len(m))
	}
	for kind, raw = range m {
	}
	return kind, raw, nil
}

func inputSpec(m map[string]json.RawMessage) (Input, error) {
	kind, raw, err := only(m)
	if err != nil {
		return Input{}, err
	}
	if kind == "user_input" {
		var s struct{ Arg jsonArg }
		if err := json.Unmarshal(raw, &s); err != nil {
			return Input{}, err
		}
		a, err := argument(s.Arg)
		if err != nil {
			return Input{}, err
		}
		in := Input{Arg: a}
		if a.Kind == Tensor {
			in.Value, in.Name = a.Names[0], a.Names[0]
		}
		return in, nil
	}
	var s struct {
		Arg       struct{ Name string }
		Parameter string `json:"parameter_name"`
		Buffer    string `json:"buffer_name"`
		Constant  string `json:"tensor_constant_name"`
		Persist   bool   `json:"persistent"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return Input{}, err
	}
	in := Input{Value: s.Arg.Name}
	switch kind {
	case "parameter":
		in.Kind, in.Name = Parameter, s.Parameter
	case "buffer":
		in.Kind, in.Name, in.Persistent = Buffer, s.Buffer, s.Persist
	case "tensor_constant":
		in.Kind, in.Name = Constant, s.Constant
	case "constant_input":
		return Input{Arg: Arg{Kind: Other, Text: kind}}, nil
	default:
		return in, fmt.Errorf("it is a %s, which is not supported", kind)
	}
	if in.Value == "" {
		return in, fmt.Errorf("a %s without a name", kind)
	}
	return in, state.CheckName(in.Name)
}

func outputSpec(m map[string]json.RawMessage) (Output, error) {
	kind, raw, err := only(m)
	if err != nil {
		return Output{}, err
	}
	var s struct {
		Arg    json.RawMessage
		Buffer string `json:"buffer_name"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return Output{}, err
	}
	out := Output{Kind: kind, Name: s.Buffer}
	var plain struct{ Name string }
	var union jsonArg
	if json.Unmarshal(s.Arg, &union) == nil {
		if a, err := argument(union); err == nil && a.Kind == Tensor {
			out.Value = a.Names[0]
			return out, nil
		}
	}
	if json.Unmarshal(s.Arg, &plain) == nil {
		out.Value = plain.Name
	}
	return out, nil
}

func (j *jsonGraph) graph() (*Graph, error) {
	g := &Graph{Tensors: make(map[string]Meta, len(j.Tensors)), Ints: make(map[string]Size, len(j.Ints))}
	for name, m := range j.Tensors {
		t, err := m.meta()
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		g.Tensors[name] = t
	}
	for name, s := range j.Ints {
		n, err := s.size()
		if err != nil {
			return nil, fmt.Errorf("integer %q: %w", name, err)
		}
		g.Ints[name] = n
	}
	var err error
	if g.Args, err = arguments(j.Inputs); err != nil {
		return nil, fmt.Errorf("inputs: %w", err)
	}
	if g.Results, err = arguments(j.Outputs); err != nil {
		return nil, fmt.Errorf("outputs: %w", err)
	}
	g.Nodes = make([]Node, len(j.Nodes))
	for i := range j.Nodes {
		if g.Nodes[i], err = j.Nodes[i].node(); err != nil {
			return nil, fmt.Errorf("node %d (%s): %w", i, j.Nodes[i].Target, err)
		}
	}
	return g, nil
}

func arguments(js []jsonArg) ([]Arg, error) {
	out := make([]Arg, len(js))
	for i, j := range js {
		var err error
		if out[i], err = argument(j); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (j *jsonNode) node() (Node, error) {
	n := Node{Target: strings.TrimPrefix(j.Target, "torch.ops.")}
	for _, in := range j.Inputs {
		a, err := argument(in.Arg)
		if err != nil {
			return n, fmt.Errorf("argument %q: %w", in.Name, err)
		}
		n.Args = append(n.Args, Named{in.Name, a})
	}
	var err error
	if n.Outputs, err = arguments(j.Outputs); err != nil {
		return n, err
	}
	n.Module, n.Class = module(j.Metadata["nn_module_stack"])
	n.File, n.Line = source(j.Metadata["stack_trace"])
	n.ByHand = byHand(j.Metadata["stack_trace"], j.Metadata["nn_module_stack"])
	return n, nil
}

// module is the innermost entry of a module stack: entries "key,path,class" with ";"
// between them.
func module(stack string) (path, class string) {
	if i := strings.LastIndexByte(stack, ';'); i >= 0 {
		stack = stack[i+1:]
	}
	parts := strings.Split(stack, ",")
	if len(parts) < 3 {
		return "", ""
	}
	return parts[1], parts[2]
}

// source is the innermost line of a stack trace that does not lie in PyTorch itself.
func source(trace string) (file string, line int) {
	for l := range strings.Lines(trace) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(l), `File "`)
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(rest, `", line `)
		if !ok || file != "" && strings.Contains(strings.ReplaceAll(name, `\`, "/"), "/torch/") {
			continue
		}
		number, _, _ := strings.Cut(rest, ",")
		if n, err := strconv.Atoi(strings.TrimSpace(number)); err == nil {
			file, line = name, n
		}
	}
	return file, line
}

// byHand tells whether the innermost forward method of a stack trace is that of no module. Traces
// have methods of that name only, a module's one below the other, so that one more of them than
// modules is a torch.autograd.Function's, unless somebody calls such a method by its name, or has
// put modules of a list into a container that is none of the model's.
func byHand(trace, stack string) bool {
	if stack == "" {
		return false
	}
	modules, skipped, containers, parent := 0, 0, 0, ""
	for _, m := range strings.Split(stack, ";") {
		modules++
		_, rest, _ := strings.Cut(m, ",")
		path, class, _ := strings.Cut(rest, ",")
		if strings.HasPrefix(class, "torch.nn.modules.container.") {
			containers--
		}
		if strings.Count(strings.TrimPrefix(strings.TrimPrefix(path, parent), "."), ".") > 0 {
			skipped++ // a level of the model, such as a list, is not called itself
		}
		parent = path
	}
	methods, file, called, torch := 0, "", "", false
	for l := range strings.Lines(trace) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, `File "`) {
			if file = strings.ReplaceAll(l, `\`, "/"); !strings.HasSuffix(l, ", in forward") {
				file = ""
			}
			continue
		}
		if file == "" || strings.Contains(file, "/torch/utils/") || strings.Contains(file, "/torch/autograd/") {
			continue
		}
		if methods > 0 && strings.Contains(called, "forward(") {
			modules++
		}
		if strings.Contains(file, "/torch/nn/modules/container.py") {
			containers++
		}
		called, torch = l, strings.Contains(file, "/torch/")
		methods++
	}
	return !torch && methods > modules+max(min(containers, skipped), 0)
}

// number reads a float, also one that JSON cannot write.
func number(raw json.RawMessage) (float64, error) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		switch s {
		case "Infinity":
			return math.Inf(1), nil
		case "-Infinity":
			return math.Inf(-1), nil
		case "NaN":
			return math.NaN(), nil
		}
		return 0, fmt.Errorf("%q is not a number", s)
	}
	var f float64
	err := json.Unmarshal(raw, &f)
	return f, err
}

// argument reads the union Argument.
func argument(m jsonArg) (Arg, error) {
	kind, raw, err := only(m)
	if err != nil {
		return Arg{}, err
	}
	var a Arg
	switch kind {
	case "as_none":
		return a, nil
	case "as_tensor", "as_optional_tensor":
		err = a.tensor(raw)
	case "as_tensors", "as_optional_tensors":
		err = a.tensors(raw)
	case "as_int", "as_sym_int", "as_bool", "as_sym_bool":
		a.Ints = make([]Size, 1)
		a.Kind = Int
		if strings.HasSuffix(kind, "bool") {
			a.Kind = Bool
		}
		a.Ints[0], err = integer(raw)
	case "as_ints", "as_sym_ints", "as_bools", "as_sym_bools":
		a.Kind = Ints
		if strings.HasSuffix(kind, "bools") {
			a.Kind = Bools
		}
		var rs []json.RawMessage
		err = json.Unmarshal(raw, &rs)
		for _, r := range rs {
			s, e := integer(r)
			err = errors.Join(err, e)
			a.Ints = append(a.Ints, s)
		}
	case "as_float":
		a.Kind, a.Floats = Float, make([]float64, 1)
		a.Floats[0], err = number(raw)
	case "as_floats":
		a.Kind = Floats
		var rs []json.RawMessage
		err = json.Unmarshal(raw, &rs)
		for _, r := range rs {
			f, e := number(r)
			err = errors.Join(err, e)
			a.Floats = append(a.Floats, f)
		}
	case "as_complex":
		var c struct{ Real, Imag json.RawMessage }
		if err = json.Unmarshal(raw, &c); err == nil {
			a.Kind, a.Floats = Complex, make([]float64, 2)
			var e error
			a.Floats[0], err = number(c.Real)
			a.Floats[1], e = number(c.Imag)
			err = errors.Join(err, e)
		}
	case "as_string":
		a.Kind = String
		err = json.Unmarshal(raw, &a.Text)
	case "as_graph":
		var s struct{ Graph jsonGraph }
		if err = json.Unmarshal(raw, &s); err == nil {
			a.Kind = Subgraph
			a.Graph, err = s.Graph.graph()
		}
	default:
		a.Kind, a.Text = Other, kind
		if n, e := integer(raw); e == nil {
			a.Ints = []Size{n}
		}
	}
	if err != nil {
		return a, fmt.Errorf("%s: %w", kind, err)
	}
	return a, nil
}

func (a *Arg) tensor(raw json.RawMessage) error {
	name, err := tensorName(raw)
	if err == nil && name != "" {
		a.Kind, a.Names = Tensor, []string{name}
	}
	return err
}

func (a *Arg) tensors(raw json.RawMessage) error {
	a.Kind = Tensors
	var rs []json.RawMessage
	if err := json.Unmarshal(raw, &rs); err != nil {
		return err
	}
	for _, r := range rs {
		n, err := tensorName(r)
		if err != nil {
			return err
		}
		a.Names = append(a.Names, n)
	}
	return nil
}

// tensorName reads {"name": ...}, {"as_tensor": {"name": ...}} or {"as_none": ...}, for
// which it is "".
func tensorName(raw json.RawMessage) (string, error) {
	var s struct {
		Name   *string                 `json:"name"`
		Tensor *struct{ Name *string } `json:"as_tensor"`
		None   json.RawMessage         `json:"as_none"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", err
	}
	switch {
	case s.Name != nil:
		return *s.Name, nil
	case s.Tensor != nil && s.Tensor.Name != nil:
		return *s.Tensor.Name, nil
	case s.None != nil:
		return "", nil
	}
	return "", errors.New("a tensor without a name")
}

// integer reads a number, a bool, or the union of a number and a name.
func integer(raw json.RawMessage) (Size, error) {
	var n int64
	if json.Unmarshal(raw, &n) == nil {
		return Size{N: n}, nil
	}
	var b bool
	if json.Unmarshal(raw, &b) == nil {
		if b {
			return Size{N: 1}, nil
		}
		return Size{}, nil
	}
	var s struct {
		jsonSize
		Bool *bool `json:"as_bool"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return Size{}, err
	}
	if s.Bool != nil {
		if *s.Bool {
			return Size{N: 1}, nil
		}
		return Size{}, nil
	}
	return s.size()
}

// tame refuses JSON that nests deeper than a program does, and quotes the numbers that
// Python writes and JSON does not have: NaN, Infinity and -Infinity.
func tame(b []byte) ([]byte, error) {
	var out []byte
	depth, from := 0, 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return nil, fmt.Errorf("JSON nested more than %d deep", maxDepth)
			}
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case 'N', 'I', '-':
			for _, w := range []string{"NaN", "Infinity", "-Infinity"} {
				if strings.HasPrefix(string(b[i:min(i+len(w), len(b))]), w) {
					out = append(append(out, b[from:i]...), `"`+w+`"`...)
					i += len(w) - 1
					from = i + 1
					break
				}
			}
		}
	}
	if out == nil {
		return b, nil
	}
	return append(out, b[from:]...), nil
}
