// Package exporter writes a trained model as ONNX: a graph of the engine is about a row, the
// file about a batch of any size. Dropout is left out, and batch normalisation takes its running
// statistics, as in evaluation.
package exporter

import (
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/state"
)

// Versions of what is written: the operators have GELU and LayerNormalization from here on.
const (
	opset = 20
	ir    = 9
)

// ONNX makes a file of graph g and its weights. Tokens are int64 inputs, everything else is
// float32; the first axis of every input and output is the batch, called N.
func ONNX(g *graph.Graph, weights state.Dict) (*onnx.Model, error) {
	if node, ok := g.Compares(); ok {
		return nil, fmt.Errorf("node %q compares the samples of a batch with each other, which this ONNX does not: export the weights as .safetensors or .pt", node)
	}
	e := &exporter{
		g: g, m: &onnx.Model{IR: ir, Producer: "ravnest", Opset: map[string]int64{"": opset}},
		names: map[string]bool{}, numbers: map[string]int{}, vals: make([]string, g.Values()), whole: map[string]string{}, shared: map[string]string{},
	}
	e.m.Graph.Name = g.Name
	for _, t := range weights {
		if t.F32 != nil {
			e.names[t.Name] = true
			e.m.Graph.Tensors = append(e.m.Graph.Tensors, onnx.Floats(t.Name, t.Shape, t.F32))
		}
	}
	for v, in := range g.Inputs {
		x := onnx.Value{Name: e.unique(in.Name), Type: onnx.Float, Dims: dims(in.Shape)}
		if in.Constant {
			x.Type = onnx.Int64
			e.whole[x.Name] = x.Name
		}
		e.vals[v] = x.Name
		e.m.Graph.Inputs = append(e.m.Graph.Inputs, x)
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		e.node, e.out = n, e.unique(n.Name)
		y, err := e.lower(i)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op.Kind(), err)
		}
		e.vals[g.Result(i)] = y
	}
	for _, v := range g.Answers() {
		e.m.Graph.Outputs = append(e.m.Graph.Outputs, onnx.Value{Name: e.vals[v], Type: onnx.Float, Dims: dims(g.Shape(v))})
	}
	e.tidy()
	return e.m, nil
}

func dims(s graph.Shape) []onnx.Dim {
	ds := []onnx.Dim{{Name: "N"}}
	for _, d := range s {
		ds = append(ds, onnx.Dim{N: int64(d)})
	}
	return ds
}

type exporter struct {
	g       *graph.Graph
	m       *onnx.Model
	names   map[string]bool   // taken
	numbers map[string]int    // of how many names that begin alike were tried
	vals    []string          // of the graph's values
	whole   map[string]string // int64 form of a value, where there is one
	shared  map[string]string // constants by what they are
	node    *graph.Node       // current
	out     string            // what its result is called
}

// unique is a name that nothing else has.
func (e *exporter) unique(name string) string {
	n := name
	for k := e.numbers[name]; e.names[n]; k++ {
		n = fmt.Sprintf("%s_%d", name, k+2)
		e.numbers[name] = k + 1
	}
	e.names[n] = true
	return n
}

// add appends a node and returns its output's name, which last makes the current node's.
func (e *exporter) add(op string, attrs []onnx.Attr, inputs ...string) string {
	y := e.unique(e.out + "." + op)
	e.m.Graph.Nodes = append(e.m.Graph.Nodes, onnx.Node{Name: y, Op: op, Inputs: inputs, Outputs: []string{y}, Attrs: attrs})
	return y
}

func attrs(as ...onnx.Attr) []onnx.Attr { return as }

// ints is a constant vector.
func (e *exporter) ints(vs ...int) string {
	key := fmt.Sprint("ints", vs)
	if n, ok := e.shared[key]; ok {
		return n
	}
	d := make([]int64, len(vs))
	for i, v := range vs {
		d[i] = int64(v)
	}
	n := e.unique("const")
	e.m.Graph.Tensors = append(e.m.Graph.Tensors, onnx.Ints(n, []int{len(vs)}, d))
	e.shared[key] = n
	return n
}

// index is a constant integer.
func (e *exporter) index(v int) string {
	n := e.unique("const")
	e.m.Graph.Tensors = append(e.m.Graph.Tensors, onnx.Ints(n, []int{}, []int64{int64(v)}))
	return n
}

// floats is a constant tensor.
func (e *exporter) floats(shape []int, v []float32) string {
	n := e.unique("const")
	e.m.Graph.Tensors = append(e.m.Graph.Tensors, onnx.Floats(n, shape, v))
	return n
}

// number is a constant.
func (e *exporter) number(v float32) string {
	key := fmt.Sprint("number", math.Float32bits(v))
	if n, ok := e.shared[key]; ok {
		return n
	}
	n := e.floats([]int{}, []float32{v})
	e.shared[key] = n
	return n
}

// x is argument k of node i as float32, and its row.
func (e *exporter) x(i, k int) (string, graph.Shape) {
	v := e.g.Args(i)[k]
	name := e.vals[v]
	if w, ok := e.whole[name]; ok && w == name {
		name = e.add("Cast", attrs(onnx.OfInt("to", onnx.Float)), name)
		e.whole[name] = w
		e.vals[v] = name
	}
	return name, e.g.Shape(v)
}

// tokens is argument k of node i as int64.
func (e *exporter) tokens(i, k int) string {
	name := e.vals[e.g.Args(i)[k]]
	if w, ok := e.whole[name]; ok {
		return w
	}
	w := e.add("Cast", attrs(onnx.OfInt("to", onnx.Int64)), name)
	e.whole[name] = w
	return w
}

// param is the state-dict name of the current node's parameter.
func (e *exporter) param(name string) string { return e.node.Full(name) }

// reshape gives rows another shape.
func (e *exporter) reshape(x string, row ...int) string {
	return e.add("Reshape", nil, x, e.ints(append([]int{-1}, row...)...))
}

// fit gives rows axes of size 1 in front, so that there are rank.
func (e *exporter) fit(x string, row graph.Shape, rank int) string {
	if len(row) >= rank {
		return x
	}
	return e.reshape(x, append(slices.Repeat([]int{1}, rank-len(row)), row...)...)
}

// tidy drops the weights that no node reads, such as counters' kin, and keeps their order.
func (e *exporter) tidy() {
	used := map[string]bool{}
	for _, n := range e.m.Graph.Nodes {
		for _, in := range n.Inputs {
			used[in] = true
		}
	}
	e.m.Graph.Tensors = slices.DeleteFunc(e.m.Graph.Tensors, func(t onnx.Tensor) bool { return !used[t.Name] })
}
