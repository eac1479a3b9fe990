// Package onnx reads and writes the files of the Open Neural Network Exchange: a graph of
// operators and its weights as one protocol buffer (onnx.proto, versions 3 to 13 of its
// intermediate representation).
//
// Reading knows the file and not the operators: what a node means is for the importer. A file
// is data and stays hostile until read: every count and size is checked before anything is
// allocated for it. Tensors may lie in files beside the model's, which the caller opens.
package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ravnest/ravnest/engine/state"
)

// ErrFormat is wrapped by every error that says that a file is not an ONNX model.
var ErrFormat = errors.New("invalid ONNX model")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits on a file.
const (
	MaxBytes   = math.MaxInt32 // a protocol buffer's own limit
	maxNodes   = 1 << 17
	maxTensors = 1 << 17
	maxValues  = 1 << 18
	maxList    = 1 << 20 // numbers of an attribute
	maxInts    = 1 << 26 // integers of a tensor that are not raw data
)

// The element types of tensors.
const (
	Float    = 1
	Uint8    = 2
	Int8     = 3
	Int32    = 6
	Int64    = 7
	Bool     = 9
	Float16  = 10
	Double   = 11
	BFloat16 = 16
)

// Model is a file.
type Model struct {
	IR       int64
	Producer string
	Opset    map[string]int64 // version by domain; "" is ONNX's own
	Graph    Graph
	// Functions are the operators that the model defines itself.
	Functions []string
}

// Graph is a list of nodes in an order in which they may run.
type Graph struct {
	Name    string
	Nodes   []Node
	Tensors []Tensor // initializers
	Inputs  []Value  // initializers may be among them
	Outputs []Value
	Values  []Value // what is known of others
}

// Node is one call of an operator.
type Node struct {
	Name, Op, Domain string
	Inputs, Outputs  []string // "" where an optional one is missing
	Attrs            []Attr
	Meta             map[string]string
}

// Attr is an attribute. Kind is its type in onnx.proto.
type Attr struct {
	Name   string
	Kind   int64
	Float  float64
	Int    int64
	Text   string
	Tensor *Tensor
	Floats []float64
	Ints   []int64
	Texts  []string
	Graph  bool // it holds a graph, which is not read
}

// Attr finds an attribute, nil if there is none.
func (n *Node) Attr(name string) *Attr {
	for i := range n.Attrs {
		if n.Attrs[i].Name == name {
			return &n.Attrs[i]
		}
	}
	return nil
}

// Dim is the size of an axis: N, or one that has a name, or neither is known.
type Dim struct {
	N    int64
	Name string
}

// Value is what the file says of a tensor of the graph.
type Value struct {
	Name string
	Type int64 // of its elements, 0: not a tensor, or not known
	Dims []Dim
	Meta map[string]string
}

// Tensor is a constant or a weight.
type Tensor struct {
	Name  string
	Type  int64
	Shape []int

	raw   []byte // little endian; nil if the numbers are in ints or elsewhere
	ints  []int64
	place string // in another file
	at, n int64  // bytes of it; n is -1 if not told
	found bool   // some field held elements
}

// Elems is the number of its elements.
func (t *Tensor) Elems() int {
	n, err := state.Elems(t.Shape)
	if err != nil {
		return 0 // Parse has checked it
	}
	return n
}

// Floating tells whether its elements are floating-point numbers.
func (t *Tensor) Floating() bool {
	return t.Type == Float || t.Type == Double || t.Type == Float16 || t.Type == BFloat16
}

// reader walks the fields of a message.
type reader struct {
	b   []byte
	num protowire.Number
	typ protowire.Type
	val []byte // of a length-delimited field
	u   uint64 // of any other
	err error
}

// next moves to the next field.
func (r *reader) next() bool {
	if len(r.b) == 0 || r.err != nil {
		return false
	}
	num, typ, n := protowire.ConsumeTag(r.b)
	if n < 0 {
		r.err = protowire.ParseError(n)
		return false
	}
	r.b, r.num, r.typ, r.val, r.u = r.b[n:], num, typ, nil, 0
	switch typ {
	case protowire.VarintType:
		r.u, n = protowire.ConsumeVarint(r.b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(r.b)
		r.u = uint64(v)
	case protowire.Fixed64Type:
		r.u, n = protowire.ConsumeFixed64(r.b)
	case protowire.BytesType:
		r.val, n = protowire.ConsumeBytes(r.b)
	default:
		n = protowire.ConsumeFieldValue(num, typ, r.b)
	}
	if n < 0 {
		r.err = protowire.ParseError(n)
		return false
	}
	r.b = r.b[n:]
	return true
}

func (r *reader) text() string { return string(r.val) }

// floats appends a field of 32-bit floats, packed or not.
func (r *reader) floats(dst []float64) []float64 {
	if r.typ == protowire.Fixed32Type {
		return append(dst, float64(math.Float32frombits(uint32(r.u))))
	}
	for b := r.val; len(b) >= 4; b = b[4:] {
		dst = append(dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
	}
	return dst
}

// ints appends a field of varints, packed or not.
func (r *reader) ints(dst []int64) []int64 {
	if r.typ == protowire.VarintType {
		return append(dst, int64(r.u))
	}
	for b := r.val; len(b) > 0; {
		if len(dst) == maxInts {
			r.err = fmt.Errorf("more than %d numbers in a list", maxInts)
			return dst
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			r.err = protowire.ParseError(n)
			return dst
		}
		dst, b = append(dst, int64(v)), b[n:]
	}
	return dst
}

// Parse reads a model. It keeps b, in which the weights lie.
func Parse(b []byte) (*Model, error) {
	if int64(len(b)) > MaxBytes {
		return nil, bad("%d bytes, at most %d are read", len(b), int64(MaxBytes))
	}
	m := &Model{Opset: map[string]int64{}}
	r := reader{b: b}
	graphs := 0
	for r.next() {
		switch r.num {
		case 1:
			m.IR = int64(r.u)
		case 2:
			m.Producer = r.text()
		case 7:
			graphs++
			if err := m.Graph.parse(r.val); err != nil {
				return nil, err
			}
		case 8:
			domain, version := "", int64(0)
			o := reader{b: r.val}
			for o.next() {
				switch o.num {
				case 1:
					domain = o.text()
				case 2:
					version = int64(o.u)
				}
			}
			if len(m.Opset) < 256 {
				m.Opset[domain] = version
			}
		case 25:
			f := reader{b: r.val}
			for f.next() {
				if f.num == 1 && len(m.Functions) < maxNodes {
					m.Functions = append(m.Functions, f.text())
				}
			}
		}
	}
	switch {
	case r.err != nil:
		return nil, bad("%w", r.err)
	case m.IR == 0 || graphs != 1:
		return nil, bad("it has no graph; save the model by torch.onnx.export(model, (example,), path)")
	case m.Opset[""] == 0 && m.Opset["ai.onnx"] == 0:
		return nil, bad("it names no version of ONNX's operators")
	}
	if m.Opset[""] == 0 {
		m.Opset[""] = m.Opset["ai.onnx"]
	}
	return m, nil
}

func (g *Graph) parse(b []byte) error {
	r := reader{b: b}
	for r.next() {
		var err error
		switch r.num {
		case 1:
			if len(g.Nodes) == maxNodes {
				return bad("more than %d nodes", maxNodes)
			}
			g.Nodes = append(g.Nodes, Node{})
			err = g.Nodes[len(g.Nodes)-1].parse(r.val)
		case 2:
			g.Name = r.text()
		case 5:
			if len(g.Tensors) == maxTensors {
				return bad("more than %d initializers", maxTensors)
			}
			g.Tensors = append(g.Tensors, Tensor{})
			err = g.Tensors[len(g.Tensors)-1].parse(r.val)
		case 11:
			err = values(&g.Inputs, r.val)
		case 12:
			err = values(&g.Outputs, r.val)
		case 13:
			err = values(&g.Values, r.val)
		case 15:
			return bad("sparse weights are not supported")
		}
		if err != nil {
			return err
		}
	}
	if r.err != nil {
		return bad("the graph: %w", r.err)
	}
	return nil
}

func (n *Node) parse(b []byte) error {
	r := reader{b: b}
	for r.next() {
		switch r.num {
		case 1:
			n.Inputs = append(n.Inputs, r.text())
		case 2:
			n.Outputs = append(n.Outputs, r.text())
		case 3:
			n.Name = r.text()
		case 4:
			n.Op = r.text()
		case 5:
			if len(n.Attrs) == 64 {
				return bad("node %.80q has more than 64 attributes", n.Name)
			}
			n.Attrs = append(n.Attrs, Attr{})
			if err := n.Attrs[len(n.Attrs)-1].parse(r.val); err != nil {
				return fmt.Errorf("node %.80q: %w", n.Name, err)
			}
		case 7:
			n.Domain = r.text()
		case 9:
			meta(&n.Meta, r.val)
		}
	}
	if r.err != nil {
		return bad("node %.80q: %w", n.Name, r.err)
	}
	if len(n.Inputs) > 4096 || len(n.Outputs) > 4096 {
		return bad("node %.80q has %d inputs and %d outputs", n.Name, len(n.Inputs), len(n.Outputs))
	}
	return nil
}

func (a *Attr) parse(b []byte) error {
	r := reader{b: b}
	for r.next() {
		switch r.num {
		case 1:
			a.Name = r.text()
		case 2:
			a.Float = float64(math.Float32frombits(uint32(r.u)))
		case 3:
			a.Int = int64(r.u)
		case 4:
			a.Text = r.text()
		case 5:
			a.Tensor = &Tensor{}
			if err := a.Tensor.parse(r.val); err != nil {
				return err
			}
		case 6, 11:
			a.Graph = true
		case 7:
			a.Floats = r.floats(a.Floats)
		case 8:
			a.Ints = r.ints(a.Ints)
		case 9:
			a.Texts = append(a.Texts, r.text())
		case 20:
			a.Kind = int64(r.u)
		}
		if len(a.Ints) > maxList || len(a.Floats) > maxList || len(a.Texts) > maxList {
			return bad("attribute %.80q has more than %d elements", a.Name, maxList)
		}
	}
	if r.err != nil {
		return bad("attribute %.80q: %w", a.Name, r.err)
	}
	return nil
}

// meta takes in one key and its value.
func meta(m *map[string]string, b []byte) {
	key, value := "", ""
	r := reader{b: b}
	for r.next() {
		switch r.num {
		case 1:
			key = r.text()
		case 2:
			value = r.text()
		}
	}
	if *m == nil {
		*m = map[string]string{}
	}
	if len(*m) < 64 {
		(*m)[key] = value
	}
}

func values(vs *[]Value, b []byte) error {
	if len(*vs) == maxValues {
		return bad("more than %d values", maxValues)
	}
	var v Value
	r := reader{b: b}
	for r.next() {
		switch r.num {
		case 1:
			v.Name = r.text()
		case 2:
			v.kind(r.val)
		case 4:
			meta(&v.Meta, r.val)
		}
	}
	if r.err != nil {
		return bad("value %.80q: %w", v.Name, r.err)
	}
	*vs = append(*vs, v)
	return nil
}

// kind reads a TypeProto.
func (v *Value) kind(b []byte) {
	r := reader{b: b}
	for r.next() {
		if r.num != 1 {
			continue
		}
		t := reader{b: r.val}
		for t.next() {
			switch t.num {
			case 1:
				v.Type = int64(t.u)
			case 2:
				s := reader{b: t.val}
				for s.next() {
					if s.num != 1 || len(v.Dims) > state.MaxRank {
						continue
					}
					var d Dim
					f := reader{b: s.val}
					for f.next() {
						switch f.num {
						case 1:
							d.N = int64(f.u)
						case 2:
							d.Name = f.text()
						}
					}
					v.Dims = append(v.Dims, d)
				}
			}
		}
	}
}

func (t *Tensor) parse(b []byte) error {
	var dims []int64
	t.n = -1
	external := false
	r := reader{b: b}
	for r.next() {
		switch r.num {
		case 1:
			if dims = r.ints(dims); len(dims) > state.MaxRank {
				return bad("tensor %.80q has more than %d axes", t.Name, state.MaxRank)
			}
		case 2:
			t.Type = int64(r.u)
		case 4, 10: // packed floats and doubles are raw data
			if t.found = true; r.typ == protowire.BytesType {
				t.raw = append(t.raw, r.val...)
			} else if r.num == 4 {
				t.raw = binary.LittleEndian.AppendUint32(t.raw, uint32(r.u))
			} else {
				t.raw = binary.LittleEndian.AppendUint64(t.raw, r.u)
			}
		case 5, 7, 11:
			t.ints, t.found = r.ints(t.ints), true
		case 8:
			t.Name = r.text()
		case 9:
			t.raw, t.found = r.val, true
		case 13:
			var m map[string]string
			meta(&m, r.val)
			if err := t.elsewhere(m); err != nil {
				return err
			}
		case 14:
			external = r.u == 1
		}
	}
	if r.err != nil {
		return bad("tensor %.80q: %w", t.Name, r.err)
	}
	if external != (t.place != "") {
		return bad("tensor %.80q does not say where its elements are", t.Name)
	}
	for _, d := range dims {
		if d < 0 || d > state.MaxElems {
			return bad("tensor %.80q has an axis of %d elements", t.Name, d)
		}
		t.Shape = append(t.Shape, int(d))
	}
	if _, err := state.Elems(t.Shape); err != nil {
		return bad("tensor %.80q: %w", t.Name, err)
	}
	return nil
}

// elsewhere takes in one entry of external_data.
func (t *Tensor) elsewhere(m map[string]string) error {
	for key, value := range m {
		var n int64
		if key == "offset" || key == "length" {
			if _, err := fmt.Sscanf(value, "%d", &n); err != nil || n < 0 || len(value) > 18 {
				return bad("tensor %.80q lies at %s %.40q of another file", t.Name, key, value)
			}
		}
		switch key {
		case "location":
			t.place = value
		case "offset":
			t.at = n
		case "length":
			t.n = n
		}
	}
	return nil
}

// width is the bytes of an element, 0 for types that are not read.
func width(t int64) int {
	switch t {
	case Uint8, Int8, Bool:
		return 1
	case Float16, BFloat16:
		return 2
	case Float, Int32:
		return 4
	case Int64, Double:
		return 8
	}
	return 0
}

// Opener opens a file that lies beside the model's, by its name in the model.
type Opener func(name string) (r io.ReaderAt, size int64, err error)

// Load are the tensor's elements: floats for floating-point types, else integers.
func (t *Tensor) Load(open Opener) (state.Tensor, error) {
	out := state.Tensor{Name: t.Name, Shape: slices.Clone(t.Shape)}
	n, w := t.Elems(), width(t.Type)
	if w == 0 {
		return out, bad("tensor %.80q has elements of type %d, which is not supported", t.Name, t.Type)
	}
	raw := t.raw
	switch {
	case t.place != "":
		if open == nil {
			return out, bad("the elements of %.80q lie in another file, %.80q", t.Name, t.place)
		}
		r, size, err := open(t.place)
		if err != nil {
			return out, fmt.Errorf("the elements of %.80q: %w", t.Name, err)
		}
		length := int64(n) * int64(w)
		if t.n >= 0 && t.n != length || t.at > size || length > size-t.at {
			return out, bad("the elements of %.80q are %d bytes at %d of %.80q, which has %d", t.Name, length, t.at, t.place, size)
		}
		raw = make([]byte, length)
		if _, err := r.ReadAt(raw, t.at); err != nil && !errors.Is(err, io.EOF) {
			return out, fmt.Errorf("the elements of %.80q: %w", t.Name, err)
		}
	case t.ints != nil || n == 0 && raw == nil:
		if len(t.ints) != n {
			return out, bad("tensor %.80q has %d elements, its shape %v says %d", t.Name, len(t.ints), t.Shape, n)
		}
		return t.fromInts(out)
	}
	if len(raw) != n*w {
		return out, bad("tensor %.80q has %d bytes, its shape %v of type %d takes %d", t.Name, len(raw), t.Shape, t.Type, n*w)
	}
	le := binary.LittleEndian
	if t.Floating() {
		out.F32 = make([]float32, n)
		for i := range out.F32 {
			switch t.Type {
			case Float:
				out.F32[i] = math.Float32frombits(le.Uint32(raw[4*i:]))
			case Double:
				out.F32[i] = float32(math.Float64frombits(le.Uint64(raw[8*i:])))
			case BFloat16:
				out.F32[i] = math.Float32frombits(uint32(le.Uint16(raw[2*i:])) << 16)
			default:
				out.F32[i] = half(le.Uint16(raw[2*i:]))
			}
		}
		return out, nil
	}
	out.I64 = make([]int64, n)
	for i := range out.I64 {
		switch t.Type {
		case Int64:
			out.I64[i] = int64(le.Uint64(raw[8*i:]))
		case Int32:
			out.I64[i] = int64(int32(le.Uint32(raw[4*i:])))
		case Int8:
			out.I64[i] = int64(int8(raw[i]))
		default:
			out.I64[i] = int64(raw[i])
		}
	}
	return out, nil
}

// fromInts are elements that were written as varints.
func (t *Tensor) fromInts(out state.Tensor) (state.Tensor, error) {
	if !t.Floating() {
		out.I64 = append([]int64{}, t.ints...)
		return out, nil
	}
	out.F32 = make([]float32, len(t.ints))
	for i, v := range t.ints {
		switch t.Type {
		case Float16:
			out.F32[i] = half(uint16(v))
		case BFloat16:
			out.F32[i] = math.Float32frombits(uint32(uint16(v)) << 16)
		default:
			return out, bad("tensor %.80q of type %d has integers for elements", t.Name, t.Type)
		}
	}
	return out, nil
}

// half is the value of a binary16 number.
func half(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&1023
	switch {
	case exp == 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	case exp == 0:
		v := float32(frac) / (1 << 24)
		if sign != 0 {
			v = -v
		}
		return v
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// Source is the file and the line of the user's source that a node comes from, "" where the
// file does not tell.
func (n *Node) Source() (file string, line int) {
	for l := range strings.Lines(n.Meta["pkg.torch.onnx.stack_trace"]) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(l), `File "`)
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(rest, `", line `)
		if !ok || file != "" && strings.Contains(strings.ReplaceAll(name, `\`, "/"), "/torch/") {
			continue
		}
		var k int
		if _, err := fmt.Sscanf(rest, "%d", &k); err == nil {
			file, line = name, k
		}
	}
	return file, line
}
