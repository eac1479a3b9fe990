// Package graph is the model as data: operations, their attributes, shapes, costs
// and PyTorch's parameter names, in a JSON form that a stranger can be handed.
//
// A graph never holds code. Everything about a run (shapes, parameter sizes, floating
// point operations, where it may be cut) follows from the graph alone, before
// anything runs.
package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/strict"
)

// Version of the JSON form. History: 1, first form.
const Version = 1

// Limits on a graph that comes from outside. They bound the work of Parse and keep
// every product of dimensions far from overflow.
const (
	MaxBytes   = 8 << 20 // of the JSON form
	MaxNodes   = 16384
	MaxInputs  = 16
	MaxName    = 256
	MaxRank    = 8       // of one row
	MaxDim     = 1 << 24 // of one axis
	MaxRow     = 1 << 28 // elements of one row of one value
	MaxParams  = 1 << 33 // elements of all parameters
	maxNodeArg = 256
)

// ErrInvalid is wrapped by every error that says a graph is not well formed.
var ErrInvalid = errors.New("invalid model graph")

// Shape is the shape of one row of a value: the leading batch axis is left out,
// so an image batch [N,1,8,8] has Shape{1,8,8} and a scalar per row has Shape{}.
type Shape []int

// Elems is the number of elements of one row.
func (s Shape) Elems() int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// String prints the shape with its batch axis, as "[N,1,8,8]".
func (s Shape) String() string {
	var b strings.Builder
	b.WriteString("[N")
	for _, d := range s {
		fmt.Fprintf(&b, ",%d", d)
	}
	b.WriteByte(']')
	return b.String()
}

func (s Shape) check() error {
	if len(s) > MaxRank {
		return fmt.Errorf("%s has %d axes, at most %d are supported", s, len(s), MaxRank)
	}
	n := 1
	for _, d := range s {
		if d < 1 || d > MaxDim {
			return fmt.Errorf("axis of size %d in %s is outside 1..%d", d, s, MaxDim)
		}
		if n *= d; n > MaxRow {
			return fmt.Errorf("a row of shape %s has more than %d elements", s, MaxRow)
		}
	}
	return nil
}

// Input is a value that enters the graph.
type Input struct {
	Name  string `json:"name"`
	Shape Shape  `json:"shape"` // of one row
	// Constant: no gradient of it is ever wanted, because no parameter has a part in it.
	Constant bool `json:"constant,omitempty"`
}

// Node is one operation. Its name is the PyTorch module path ("layer1.0.conv1"):
// its parameters are the name, a dot and the parameter's own name.
type Node struct {
	Name   string
	Op     Op
	Inputs []string // names of graph inputs or earlier nodes
	// Names are the state-dict names of the parameters that are not called as usual. Nodes
	// that name the same parameter share it.
	Names map[string]string
	// Frozen are the parameters, by the op's names, that training leaves alone.
	Frozen []string
}

// Full is the state-dict name of the node's parameter.
func (n *Node) Full(param string) string {
	if f, ok := n.Names[param]; ok {
		return f
	}
	return n.Name + "." + param
}

// Graph is a model: nodes in topological order and the value that is its answer.
// Values are numbered: the inputs first, then one per node.
type Graph struct {
	Name   string
	Inputs []Input
	Nodes  []Node
	Output string

	shapes []Shape        // of every value; set by Check
	whole  []bool         // by value: one of the whole batch, not of samples
	args   [][]int        // values that each node reads
	index  map[string]int // value by name
	output int
	ties   []Tie
	idle   map[string]bool // parameters that training leaves alone; a stage has its whole model's
	homes  map[string]Home // of a stage's parameters, where the whole model has ties

	unlimited bool // it was made here, and may have any number of inputs
	samples   int  // of the batch that shapes are of; 0: not said
}

// Sequential is torch.nn.Sequential: a graph of nodes in which each reads the one before and the
// last is the output. A node that names its inputs reads those instead. Errors wrap ErrInvalid.
func Sequential(name string, in Input, nodes ...Node) (*Graph, error) {
	g := &Graph{Name: name, Inputs: []Input{in}, Nodes: slices.Clone(nodes), Output: in.Name}
	for i := range g.Nodes {
		if n := &g.Nodes[i]; len(n.Inputs) == 0 {
			n.Inputs = []string{g.Output}
		}
		g.Output = g.Nodes[i].Name
	}
	return g, g.Check()
}

// jsonNode is the JSON form of a Node; attrs depend on op.
type jsonNode struct {
	Name  string          `json:"name"`
	Op    string          `json:"op"`
	In    []string        `json:"in"`
	Attrs json.RawMessage `json:"attrs,omitempty"`

	Names  map[string]string `json:"names,omitempty"`
	Frozen []string          `json:"frozen,omitempty"`
}

type jsonGraph struct {
	Version int        `json:"version"`
	Name    string     `json:"name"`
	Inputs  []Input    `json:"inputs"`
	Nodes   []jsonNode `json:"nodes"`
	Output  string     `json:"output"`
}

// Parse decodes and checks the JSON form. Errors wrap ErrInvalid and name the node.
func Parse(data []byte) (*Graph, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes of JSON, at most %d are read", ErrInvalid, len(data), MaxBytes)
	}
	var j jsonGraph
	if _, err := strict.Decode(data, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if j.Version != Version {
		return nil, fmt.Errorf("%w: version %d, this program reads version %d", ErrInvalid, j.Version, Version)
	}
	if len(j.Nodes) > MaxNodes {
		return nil, fmt.Errorf("%w: %d nodes, at most %d are supported", ErrInvalid, len(j.Nodes), MaxNodes)
	}
	g := &Graph{Name: j.Name, Inputs: j.Inputs, Output: j.Output, Nodes: make([]Node, len(j.Nodes))}
	ls := newLists()
	for i, n := range j.Nodes {
		mk, ok := registry[n.Op]
		if !ok {
			return nil, fmt.Errorf("%w: node %q: unknown op %q; known ops are %s", ErrInvalid, n.Name, n.Op, strings.Join(Kinds(), ", "))
		}
		op := mk()
		if len(n.Attrs) > 0 {
			if _, err := strict.Decode(n.Attrs, op); err != nil {
				return nil, fmt.Errorf("%w: node %q (%s): attrs: %w", ErrInvalid, n.Name, n.Op, err)
			}
			if err := ls.take(op); err != nil {
				return nil, fmt.Errorf("%w: node %q (%s): %w", ErrInvalid, n.Name, n.Op, err)
			}
		}
		g.Nodes[i] = Node{Name: n.Name, Op: op, Inputs: n.In, Names: n.Names, Frozen: n.Frozen}
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

// JSON is the canonical, indented JSON form; Parse reads it back.
func (g *Graph) JSON() ([]byte, error) {
	j := jsonGraph{Version: Version, Name: g.Name, Inputs: g.Inputs, Output: g.Output, Nodes: make([]jsonNode, len(g.Nodes))}
	for i, n := range g.Nodes {
		attrs, err := json.Marshal(n.Op)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", n.Name, err)
		}
		if string(attrs) == "{}" {
			attrs = nil
		}
		j.Nodes[i] = jsonNode{Name: n.Name, Op: n.Op.Kind(), In: append([]string{}, n.Inputs...), Attrs: attrs, Names: n.Names, Frozen: n.Frozen}
	}
	b, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func checkName(s string) error {
	if s == "" || len(s) > MaxName {
		return fmt.Errorf("a name of %d bytes is outside 1..%d", len(s), MaxName)
	}
	for _, r := range s {
		if r != '_' && r != '.' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return fmt.Errorf("name %q has the character %q; letters, digits, dot, dash and underscore are allowed", s, r)
		}
	}
	return nil
}

// Check validates the graph and computes every shape. It must have succeeded
// before any other method but JSON is called; Parse has called it.
func (g *Graph) Check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, a...))
	}
	if len(g.Nodes) == 0 || len(g.Nodes) > MaxNodes {
		return bad("%d nodes, 1..%d are supported", len(g.Nodes), MaxNodes)
	}
	if len(g.Inputs) == 0 || len(g.Inputs) > MaxInputs && !g.unlimited {
		return bad("%d inputs, 1..%d are supported", len(g.Inputs), MaxInputs)
	}
	values := len(g.Inputs) + len(g.Nodes)
	g.index = make(map[string]int, values)
	g.shapes = make([]Shape, 0, values)
	g.whole = make([]bool, len(g.Inputs), values)
	g.args = make([][]int, len(g.Nodes))
	for i, in := range g.Inputs {
		if err := checkName(in.Name); err != nil {
			return bad("input %d: %w", i, err)
		}
		if _, dup := g.index[in.Name]; dup {
			return bad("input %q appears twice", in.Name)
		}
		if err := in.Shape.check(); err != nil {
			return bad("input %q: %w", in.Name, err)
		}
		g.index[in.Name] = i
		g.shapes = append(g.shapes, in.Shape)
	}
	params := 0
	owner := map[string]Spec{}
	for i, n := range g.Nodes {
		out, more, err := g.checkNode(i, owner)
		if err != nil {
			return bad("%w", err)
		}
		if params += more; params > MaxParams {
			return bad("node %q: the parameters add up to more than %d elements", n.Name, MaxParams)
		}
		g.index[n.Name] = len(g.shapes)
		g.shapes = append(g.shapes, out)
	}
	out, ok := g.index[g.Output]
	switch {
	case !ok || out < len(g.Inputs):
		return bad("output %q is not a node", g.Output)
	case g.whole[out]:
		return bad("output %q is a value of the whole batch; end with \"rows\"", g.Output)
	}
	g.output = out
	g.ties, g.homes, g.idle = g.findTies(), nil, g.findIdle()
	if len(g.ties) > maxTies {
		return bad("%d parameters are shared by several nodes, at most %d are supported", len(g.ties), maxTies)
	}
	return nil
}

// checkNode is node i's output and the elements of its parameters. owner has those of the nodes before.
func (g *Graph) checkNode(i int, owner map[string]Spec) (out Shape, params int, err error) {
	n := &g.Nodes[i]
	if err := checkName(n.Name); err != nil {
		return nil, 0, fmt.Errorf("node %d: %w", i, err)
	}
	if n.Op == nil {
		return nil, 0, fmt.Errorf("node %q: no op", n.Name)
	}
	if _, dup := g.index[n.Name]; dup {
		return nil, 0, fmt.Errorf("node %q: the name appears twice", n.Name)
	}
	if len(n.Inputs) > maxNodeArg {
		return nil, 0, fmt.Errorf("node %q: %d inputs, at most %d are supported", n.Name, len(n.Inputs), maxNodeArg)
	}
	ins := make([]Shape, len(n.Inputs))
	g.args[i] = make([]int, len(n.Inputs))
	for k, name := range n.Inputs {
		v, ok := g.index[name]
		if !ok {
			return nil, 0, fmt.Errorf("node %q: input %q is neither a graph input nor an earlier node", n.Name, name)
		}
		g.args[i][k], ins[k] = v, g.shapes[v]
	}
	op, whole, err := g.resolve(n, g.args[i])
	if err == nil {
		out, err = op.Infer(ins)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("node %q (%s): %w", n.Name, n.Op.Kind(), err)
	}
	g.whole = append(g.whole, whole)
	if err := out.check(); err != nil {
		return nil, 0, fmt.Errorf("node %q (%s): output: %w", n.Name, n.Op.Kind(), err)
	}
	if err := errors.Join(n.checkNames(owner), n.checkFrozen()); err != nil {
		return nil, 0, fmt.Errorf("node %q (%s): %w", n.Name, n.Op.Kind(), err)
	}
	for _, p := range n.Op.Params() {
		if err := Shape(p.Shape).check(); err != nil {
			return nil, 0, fmt.Errorf("node %q (%s): parameter %q: %w", n.Name, n.Op.Kind(), p.Name, err)
		}
		params += p.Elems()
	}
	return out, params, nil
}

// Values is the number of values: inputs and node outputs.
func (g *Graph) Values() int { return len(g.shapes) }

// Shape of one row of value v.
func (g *Graph) Shape(v int) Shape { return g.shapes[v] }

// Args are the values that node i reads.
func (g *Graph) Args(i int) []int { return g.args[i] }

// Result is the value that node i computes.
func (g *Graph) Result(i int) int { return len(g.Inputs) + i }

// OutputValue is the number of the value that is the model's answer.
func (g *Graph) OutputValue() int { return g.output }

// ValueName is the name of value v: a graph input's or a node's.
func (g *Graph) ValueName(v int) string {
	if v < len(g.Inputs) {
		return g.Inputs[v].Name
	}
	return g.Nodes[v-len(g.Inputs)].Name
}

// ArgShapes are the shapes that node i reads.
func (g *Graph) ArgShapes(i int) []Shape {
	s := make([]Shape, len(g.args[i]))
	for k, v := range g.args[i] {
		s[k] = g.shapes[v]
	}
	return s
}

// Param is one entry of the state dict, with the node that owns it.
type Param struct {
	Spec
	Node  int    // owner
	Index int    // among the entries that the node owns, from 1
	Full  string // state-dict name: node name, dot, parameter name
	Kind  string // of the owner's op
	// Home is set in a stage of a model with ties: where the whole model has the entry.
	Home *Home
}

// checkNames checks what the node's parameters are called; owner has those of the nodes
// before and takes in these.
func (n *Node) checkNames(owner map[string]Spec) error {
	specs := n.Op.Params()
	has := make(map[string]bool, len(specs))
	for _, s := range specs {
		has[s.Name] = true
	}
	for _, short := range slices.Sorted(maps.Keys(n.Names)) {
		if !has[short] {
			return fmt.Errorf("it has no parameter %q to name", short)
		}
		if err := checkName(n.Names[short]); err != nil {
			return err
		}
	}
	own := make(map[string]bool, len(specs))
	for _, s := range specs {
		full := n.Full(s.Name)
		if own[full] {
			return fmt.Errorf("two of its parameters are called %q", full)
		}
		own[full] = true
		o, shared := owner[full]
		if !shared {
			owner[full] = s
			continue
		}
		if s.Role != o.Role || !slices.Equal(o.Shape, s.Shape) {
			return fmt.Errorf("the parameter %q is %v here and %v in an earlier node", full, s.Shape, o.Shape)
		}
	}
	return nil
}

// Params lists the state dict in PyTorch's registration order: nodes in order,
// each with its parameters and then its buffers. A shared parameter is its first node's.
func (g *Graph) Params() []Param {
	var ps []Param
	seen := map[string]bool{}
	for i := range g.Nodes {
		n, index := &g.Nodes[i], 0
		for _, s := range n.Op.Params() {
			full := n.Full(s.Name)
			if seen[full] {
				continue
			}
			seen[full] = true
			index++
			p := Param{Spec: s, Node: i, Index: index, Full: full, Kind: n.Op.Kind()}
			p.Role = g.role(n, s)
			if h, ok := g.homes[full]; ok {
				p.Home = &h
			}
			ps = append(ps, p)
		}
	}
	return ps
}

// Shared lists the parameters that several nodes have, with those nodes, ascending.
func (g *Graph) Shared() map[string][]int {
	return g.shared(func(r Role) bool { return r == Trainable || r == Frozen })
}

// shared lists the entries of some roles that several nodes have.
func (g *Graph) shared(is func(r Role) bool) map[string][]int {
	nodes := map[string][]int{}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		for _, s := range n.Op.Params() {
			if is(s.Role) {
				nodes[n.Full(s.Name)] = append(nodes[n.Full(s.Name)], i)
			}
		}
	}
	for name, is := range nodes {
		if len(is) == 1 {
			delete(nodes, name)
		}
	}
	return nodes
}

// ParamCount is the number of trainable elements of nodes [from, to); those of a shared
// parameter count once.
func (g *Graph) ParamCount(from, to int) int {
	n := 0
	var seen map[string]bool
	for i := from; i < to; i++ {
		nd := &g.Nodes[i]
		for _, s := range nd.Op.Params() {
			if g.role(nd, s) != Trainable || seen[nd.Full(s.Name)] {
				continue
			}
			if nd.Names != nil {
				if seen == nil {
					seen = map[string]bool{}
				}
				seen[nd.Full(s.Name)] = true
			}
			n += s.Elems()
		}
	}
	return n
}

// Cost of nodes [from, to) in floating point operations per row.
func (g *Graph) Cost(from, to int) Cost {
	var c Cost
	for i := from; i < to; i++ {
		c = c.add(g.CostOf(i))
	}
	return c
}

// CostOf is that of node i.
func (g *Graph) CostOf(i int) Cost {
	c := g.Nodes[i].Op.Cost(g.ArgShapes(i), g.shapes[g.Result(i)])
	if g.Once(i) {
		n := float64(g.Samples())
		return Cost{c.Forward / n, c.BackInput / n, c.BackWeight / n}
	}
	return c
}

// Varying tells for every value whether a gradient reaches through it to a parameter or,
// if inputs, to an input that is not constant.
func (g *Graph) Varying(inputs bool) []bool {
	d := make([]bool, g.Values())
	for v, in := range g.Inputs {
		d[v] = inputs && !in.Constant
	}
	for i, n := range g.Nodes {
		r := g.Result(i)
		d[r] = g.trains(i)
		for k, v := range g.args[i] {
			d[r] = d[r] || (d[v] && HasGrad(n.Op, k))
		}
	}
	return d
}

// reaches tells for every node whether its result has a gradient: whether the answer depends on it
// in a way that gradients pass.
func (g *Graph) reaches() []bool {
	has, r := make([]bool, g.Values()), make([]bool, len(g.Nodes))
	has[g.output] = true
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		if r[i] = has[g.Result(i)]; !r[i] {
			continue
		}
		for k, v := range g.args[i] {
			has[v] = has[v] || HasGrad(g.Nodes[i].Op, k)
		}
	}
	return r
}

// reader is a node that reads a value, as which of its arguments.
type reader struct{ node, arg int }

// readers lists, for every value, who reads it, ascending.
func (g *Graph) readers() [][]reader {
	r := make([][]reader, g.Values())
	for i := range g.Nodes {
		for k, v := range g.args[i] {
			r[v] = append(r[v], reader{i, k})
		}
	}
	return r
}
