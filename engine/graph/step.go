// A causal decoder computed one position at a time: keys and values of the positions before
// are kept (Pope et al., arXiv 2211.05102), and everything else is about the newest position.

package graph

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrStep is wrapped by errors about models that cannot be computed one position at a time.
var ErrStep = errors.New("not computed by positions")

// Steps is what a decoder of T positions computes for one of them. The bits are those that the
// whole graph has there: sums are as long as before, and what is masked adds zeros.
type Steps struct {
	// Graph has the parameters of the whole one, in the same order. Its input 0 is the token
	// [1]; input 1 is 1 at the position and 0 elsewhere, [T]. Tables and caches follow.
	Graph  *Graph
	Tables []Table
	Caches []Cache
}

// Table is an operand with a row for each position; the step reads one of them.
type Table struct {
	Operand
	Param string // state-dict name of the operand's parameter; none: constants
	Axis  int    // of positions, in Shape
	Input int    // of the step's graph
}

// Row fills dst with what the table has at a position; param is the parameter, if it has one.
func (t *Table) Row(dst []float32, at int, param []float32) {
	s := Shape(t.Shape)
	inner, n := s[t.Axis+1:].Elems(), s[t.Axis]
	for i := range dst {
		e := (i/inner*n+at)*inner + i%inner
		switch {
		case len(t.Data) > 0:
			dst[i] = math.Float32frombits(t.Data[e])
		case t.Index != nil:
			dst[i] = param[t.Index[e]]
		default:
			dst[i] = param[e]
		}
	}
}

// Cache is a value that later positions read of all positions up to their own.
type Cache struct {
	Whole int // the value in the whole graph
	Axis  int // of positions in its row
	Input int // of the step's graph: the value's row, 0 from the step's position on
	New   int // the value in the step's graph that belongs to its position
}

// Rows calls f with where rows of a position lie in the whole value, and in the step's.
func (c *Cache) Rows(whole Shape, at int, f func(whole, step, n int)) {
	inner, n := whole[c.Axis+1:].Elems(), whole[c.Axis]
	for o := range whole[:c.Axis].Elems() {
		f((o*n+at)*inner, o*inner, inner)
	}
}

// track is how a value depends on positions.
type track struct {
	// at is the row's axis of positions. Element t depends on tokens up to t.
	at int
	// key is the axis of the positions that are looked at, in scores of pairs; -1 in others.
	key    int
	hidden bool // scores of keys after the position are too low to count
	zero   bool // scores became probabilities, which are 0 there
	table  *Operand
}

// stepper is Steps at work.
type stepper struct {
	g, out *Graph
	t      int // positions
	steps  *Steps
	tracks []track
	whole  map[int]string // values of all positions, by value of g
	names  int
}

// hides is the highest score, added to one, that hides a key.
const hides = -1e9

// Steps finds what the graph computes for one position. Errors wrap ErrStep.
func (g *Graph) Steps() (*Steps, error) {
	if len(g.Inputs) != 1 || len(g.Inputs[0].Shape) != 1 || g.Inputs[0].Shape[0] < 2 {
		return nil, fmt.Errorf("%w: the model does not read tokens [N,T]", ErrStep)
	}
	s := &stepper{g: g, t: g.Inputs[0].Shape[0], whole: map[int]string{}, tracks: make([]track, g.Values())}
	in := g.Inputs[0]
	s.out = &Graph{Name: g.Name, Output: g.Output, unlimited: true}
	s.steps = &Steps{Graph: s.out}
	s.out.Inputs = []Input{{Name: in.Name, Shape: Shape{1}, Constant: true}, {Name: s.name("here"), Shape: Shape{s.t}, Constant: true}}
	s.tracks[0] = track{key: -1}
	for i := range g.Nodes {
		t, err := s.node(i)
		if err != nil {
			n := &g.Nodes[i]
			return nil, fmt.Errorf("%w: node %q (%s): %w", ErrStep, n.Name, n.Op.Kind(), err)
		}
		s.tracks[g.Result(i)] = t
	}
	if t := s.tracks[g.output]; t.at != 0 || t.key >= 0 || t.table != nil {
		return nil, fmt.Errorf("%w: the answer has no axis of positions", ErrStep)
	}
	if err := s.out.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStep, err)
	}
	s.out.idle = g.idle // parameters live where those of the whole graph do
	for i := range s.steps.Caches {
		c := &s.steps.Caches[i]
		c.New = s.out.index[g.ValueName(c.Whole)]
	}
	return s.steps, nil
}

// name is one that neither graph has.
func (s *stepper) name(what string) string {
	for {
		s.names++
		n := fmt.Sprintf("step.%s_%d", what, s.names)
		if _, taken := s.g.index[n]; !taken {
			return n
		}
	}
}

func (s *stepper) emit(n Node) string {
	s.out.Nodes = append(s.out.Nodes, n)
	return n.Name
}

// add emits an operation that the whole graph has not.
func (s *stepper) add(op Op, in ...string) string {
	return s.emit(Node{Name: s.name(op.Kind()), Op: op, Inputs: in})
}

// keep emits node i as it is.
func (s *stepper) keep(i int, t track) (track, error) {
	s.emit(s.g.Nodes[i])
	return t, nil
}

var (
	errMixes = errors.New("it mixes positions")
	errAxis  = errors.New("its axis of positions is lost")
)

// node emits what node i computes for one position.
func (s *stepper) node(i int) (track, error) {
	n, in, out := &s.g.Nodes[i], s.g.ArgShapes(i), s.g.shapes[s.g.Result(i)]
	if p, ok := n.Op.(*Parameter); ok {
		return s.keep(i, track{key: -1, table: &p.Operand})
	}
	if len(in) == 0 {
		return track{}, errAxis
	}
	switch op := n.Op.(type) {
	case *Binary:
		if op.Operand != nil {
			return s.operand(i, op)
		}
		return s.pair(i, op.Function)
	case *Add:
		return s.pair(i, "add")
	}
	for _, v := range s.g.Args(i) {
		if s.tracks[v].table != nil {
			return track{}, errors.New("it reads a parameter as a value")
		}
	}
	t, last := s.tracks[s.g.Args(i)[0]], len(in[0])-1
	switch op := n.Op.(type) {
	case *MatMul:
		return s.matmul(i, op)
	case *Dropout, *StochasticDepth:
		return s.keep(i, t)
	case *Softmax:
		if t.at == last || t.key >= 0 && (t.key != last || !t.hidden) {
			return t, errMixes
		}
		t.zero = t.key >= 0
		return s.keep(i, t)
	case *Reshape, *Flatten:
		return s.reshape(i, t, in[0], out)
	case *Permute:
		if t.at = slices.Index(op.Axes, t.at); t.key >= 0 {
			t.key = slices.Index(op.Axes, t.key)
		}
		return s.keep(i, t)
	case *Expand:
		return s.expand(i, t, in[0], op)
	}
	if t.key >= 0 {
		if _, ok := n.Op.(*Unary); ok && !t.hidden {
			return s.keep(i, t)
		}
		return t, errMixes
	}
	return s.along(i, t, in, last)
}

// along emits an operation on values that are no scores.
func (s *stepper) along(i int, t track, in []Shape, last int) (track, error) {
	n := &s.g.Nodes[i]
	switch op := n.Op.(type) {
	case *Embedding, *ReLU, *Unary, *GELU, *Tanh, *TokenMask:
		return s.keep(i, t)
	case *Linear, *Linears, *LayerNorm, *CumSum, *Sort:
		if t.at == last {
			return t, errMixes
		}
		return s.keep(i, t)
	case *Reduce:
		if t.at > last-op.Axes {
			return t, errMixes
		}
		return s.keep(i, t)
	case *Slice:
		if t.at == op.Axis {
			return t, errMixes
		}
		return s.keep(i, t)
	case *Select:
		if t.at == 0 {
			return t, errMixes
		}
		t.at--
		return s.keep(i, t)
	case *Concat:
		for _, v := range s.g.Args(i) {
			if u := s.tracks[v]; u != t || u.at == op.Axis {
				return t, errMixes
			}
		}
		return s.keep(i, t)
	case *Position:
		return s.position(i, t, op, in[0])
	case *Attention:
		if len(in) != 1 || !op.Causal || t.at != 0 {
			return t, errMixes
		}
		return s.attention(i, op, in[0])
	}
	return t, errors.New("nothing says how it treats positions")
}

// moved is where axis a of a row of shape x is in a reshaped one, y.
func moved(x, y Shape, a int) (int, error) {
	before := x[:a].Elems()
	for b, d := range y {
		if d == x[a] && y[:b].Elems() == before {
			return b, nil
		}
	}
	return 0, errAxis
}

func (s *stepper) reshape(i int, t track, x, y Shape) (_ track, err error) {
	if t.at, err = moved(x, y, t.at); err != nil {
		return t, err
	}
	if t.key >= 0 {
		if t.key, err = moved(x, y, t.key); err != nil {
			return t, err
		}
	}
	n := s.g.Nodes[i]
	r := &Reshape{Shape: slices.Clone(y)}
	r.Shape[t.at] = 1
	n.Op = r
	s.emit(n)
	return t, nil
}

func (s *stepper) expand(i int, t track, x Shape, op *Expand) (track, error) {
	by := len(op.Shape) - len(x)
	if t.at += by; t.key >= 0 {
		t.key += by
	}
	e := &Expand{Shape: slices.Clone(op.Shape)}
	e.Shape[t.at] = 1
	n := s.g.Nodes[i]
	n.Op = e
	s.emit(n)
	return t, nil
}

// input gives the step's graph another input.
func (s *stepper) input(what string, shape Shape) (name string, number int) {
	name = s.name(what)
	s.out.Inputs = append(s.out.Inputs, Input{Name: name, Shape: shape, Constant: true})
	return name, len(s.out.Inputs) - 1
}

// row is the input that has the row of an operand at the position.
func (s *stepper) row(o *Operand, param string, axis int) string {
	shape := slices.Clone(o.Shape)
	shape[axis] = 1
	name, k := s.input("table", shape)
	s.steps.Tables = append(s.steps.Tables, Table{Operand: *o, Param: param, Axis: axis, Input: k})
	return name
}

// hold emits a node that has node i's parameter, so that the layout stays.
func (s *stepper) hold(i int) (param string) {
	n := s.g.Nodes[i]
	p := n.Op.Params()[0]
	s.emit(Node{
		Name: s.name("held"), Op: &Parameter{Operand{Shape: p.Shape, Param: p.Shape}},
		Names: map[string]string{p.Name: n.Full(p.Name)}, Frozen: n.Frozen,
	})
	return n.Full(p.Name)
}

// lowers tells whether the constants of o, which are added to scores of a result of rank axes,
// hide every key after the position.
func (s *stepper) lowers(o *Operand, t track, rank int) bool {
	shape := Shape(o.Shape)
	at, key := t.at-(rank-len(shape)), t.key-(rank-len(shape))
	if len(o.Data) == 0 || at < 0 || key < 0 || shape[at] != s.t || shape[key] != s.t {
		return false
	}
	ia, ik := shape[at+1:].Elems(), shape[key+1:].Elems()
	for e, v := range o.Constants() {
		if e/ik%s.t > e/ia%s.t && !(v <= hides) {
			return false
		}
	}
	return true
}

// operand emits arithmetic with an operand.
func (s *stepper) operand(i int, op *Binary) (track, error) {
	n := s.g.Nodes[i]
	v := s.g.Args(i)[0]
	t, rank := s.tracks[v], len(s.g.shapes[s.g.Result(i)])
	if t.table != nil {
		return t, errors.New("it reads a parameter as a value")
	}
	by := rank - len(s.g.shapes[v])
	if t.at += by; t.key >= 0 {
		t.key += by
		lowers := op.Function == "add" && s.lowers(op.Operand, t, rank)
		if t.zero || t.hidden && !lowers {
			return t, errMixes
		}
		t.hidden = lowers
	}
	axis := t.at - (rank - len(op.Operand.Shape))
	if axis < 0 || op.Operand.Shape[axis] == 1 {
		return s.keep(i, t)
	}
	param := ""
	if len(op.Params()) > 0 {
		param = s.hold(i)
	}
	row := s.row(op.Operand, param, axis)
	n.Op, n.Names, n.Frozen = &Binary{Function: op.Function}, nil, nil
	if n.Inputs = []string{n.Inputs[0], row}; op.Swap {
		slices.Reverse(n.Inputs)
	}
	s.emit(n)
	return t, nil
}

// pair emits arithmetic of two values.
func (s *stepper) pair(i int, function string) (track, error) {
	n, args := s.g.Nodes[i], s.g.Args(i)
	n.Inputs = slices.Clone(n.Inputs)
	rank := len(s.g.shapes[s.g.Result(i)])
	var ts []track
	for k, v := range args {
		t, by := s.tracks[v], rank-len(s.g.shapes[v])
		if t.table != nil {
			continue
		}
		if t.zero || t.hidden && function != "add" {
			return t, errMixes
		}
		if t.at += by; t.key >= 0 {
			t.key += by
		}
		if ts = append(ts, t); k > 0 && len(ts) == 2 && (ts[0].at != t.at || ts[0].key != t.key) {
			return t, errMixes
		}
	}
	if len(ts) == 0 {
		return track{}, errors.New("it reads parameters only")
	}
	t := ts[0]
	t.hidden = t.hidden || ts[len(ts)-1].hidden
	for k, v := range args {
		o := s.tracks[v].table
		if o == nil {
			continue
		}
		if axis := t.at - (rank - len(o.Shape)); axis >= 0 && o.Shape[axis] != 1 {
			p := s.g.Nodes[v-len(s.g.Inputs)]
			param := ""
			if len(p.Op.Params()) > 0 {
				param = p.Full("weight")
			}
			n.Inputs[k] = s.row(o, param, axis)
		}
	}
	s.emit(n)
	return t, nil
}

// all is the value of v at all positions up to the step's: what is kept, and the newest.
func (s *stepper) all(v int) string {
	if name, ok := s.whole[v]; ok {
		return name
	}
	t, shape := s.tracks[v], s.g.shapes[v]
	cache, k := s.input("cache", shape)
	s.steps.Caches = append(s.steps.Caches, Cache{Whole: v, Axis: t.at, Input: k})
	to := append(Shape{s.t}, slices.Repeat([]int{1}, len(shape)-1-t.at)...)
	here := s.add(&Reshape{Shape: to}, s.out.Inputs[1].Name)
	placed := s.add(&Binary{Function: "mul"}, s.g.ValueName(v), here)
	s.whole[v] = s.add(&Add{}, cache, placed)
	return s.whole[v]
}

// matmul is a product at each position, scores of pairs of positions, or sums over the
// positions that probabilities are of.
func (s *stepper) matmul(i int, op *MatMul) (track, error) {
	n, args := s.g.Nodes[i], s.g.Args(i)
	a, b, rank := s.tracks[args[0]], s.tracks[args[1]], len(s.g.shapes[args[0]])
	rows, inner, cols := rank-2, rank-1, rank-1
	if op.TransA {
		rows, inner = inner, rows
	}
	own := rank - 2 // of the second input's axes, the inner one
	if op.TransB {
		own, cols = cols, rank-2
	}
	switch {
	case b.key >= 0 || a.key >= 0 && (!a.zero || a.at != rows || a.key != inner || b.at != own):
		return a, errMixes
	case a.key >= 0:
		n.Inputs = []string{n.Inputs[0], s.all(args[1])}
		s.emit(n)
		return track{at: rank - 2, key: -1}, nil
	case a.at < rank-2 && a.at == b.at:
		return s.keep(i, a)
	case a.at == rows && b.at == cols && a.at != inner:
		n.Inputs = []string{n.Inputs[0], s.all(args[1])}
		s.emit(n)
		return track{at: rank - 2, key: rank - 1}, nil
	}
	return a, errMixes
}

// position is arithmetic with the rows of a table, or with its first row everywhere.
func (s *stepper) position(i int, t track, op *Position, x Shape) (track, error) {
	if op.Fixed || t.at != 0 {
		return s.keep(i, t)
	}
	o := &Operand{Shape: []int{x[0], x[1]}, Param: []int{op.Num, op.Dim}}
	if op.Num != x[0] {
		for e := range x.Elems() {
			o.Index = append(o.Index, uint32(e))
		}
	}
	n := s.g.Nodes[i]
	row := s.row(o, s.hold(i), 0)
	s.emit(Node{Name: n.Name, Op: &Add{}, Inputs: []string{n.Inputs[0], row}})
	return t, nil
}

// attention is causal attention of x [T,3C] written out for one query.
func (s *stepper) attention(i int, op *Attention, x Shape) (track, error) {
	n, v := s.g.Nodes[i], s.g.Args(i)[0]
	c := x[1] / 3
	d := c / op.Heads
	heads := func(from string, t, k int) string {
		part := s.add(&Slice{Axis: 1, Start: k * c, Count: c}, from)
		split := s.add(&Reshape{Shape: []int{t, op.Heads, d}}, part)
		return s.add(&Permute{Axes: []int{1, 0, 2}}, split)
	}
	all := s.all(v)
	q, k, w := heads(n.Inputs[0], 1, 0), heads(all, s.t, 1), heads(all, s.t, 2)
	scores := s.add(&MatMul{TransB: true}, q, k)
	scale := s.add(&Unary{Function: "affine", A: 1 / float32(math.Sqrt(float64(d)))}, scores)
	mask := make([]float32, s.t*s.t)
	for e := range mask {
		if e%s.t > e/s.t {
			mask[e] = float32(math.Inf(-1))
		}
	}
	row := s.row(&Operand{Shape: []int{s.t, s.t}, Data: PackFloats(mask)}, "", 0)
	seen := s.add(&Binary{Function: "add"}, scale, row)
	p := s.add(&Softmax{}, seen)
	y := s.add(&MatMul{}, p, w)
	y = s.add(&Permute{Axes: []int{1, 0, 2}}, y)
	s.emit(Node{Name: n.Name, Op: &Reshape{Shape: []int{1, c}}, Inputs: []string{y}})
	return track{key: -1}, nil
}
