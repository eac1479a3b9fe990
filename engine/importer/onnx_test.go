package importer_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
)

// onnxFile is a model of nodes between x [N,4] and y.
func onnxFile(t testing.TB, nodes []onnx.Node, dims []onnx.Dim, tensors ...onnx.Tensor) []byte {
	t.Helper()
	m := &onnx.Model{IR: 9, Producer: "test", Opset: map[string]int64{"": 20}, Graph: onnx.Graph{
		Name: "g", Nodes: nodes, Tensors: tensors,
		Inputs:  []onnx.Value{{Name: "x", Type: onnx.Float, Dims: dims}},
		Outputs: []onnx.Value{{Name: "y", Type: onnx.Float}},
	}}
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importONNX(t testing.TB, b []byte) (*importer.Model, error) {
	t.Helper()
	m, err := onnx.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return importer.ImportONNX(m, nil, importer.Options{Name: "g"})
}

func node(op string, out string, in ...string) onnx.Node {
	return onnx.Node{Op: op, Name: "/block/block.0/" + op, Inputs: in, Outputs: []string{out}}
}

var batch = []onnx.Dim{{Name: "N"}, {N: 4}}

// TestONNXProblems: all that cannot be imported is named at once, with the module.
func TestONNXProblems(t *testing.T) {
	nodes := []onnx.Node{node("TopK", "a", "x"), node("NonZero", "b", "x"), node("Frobnicate", "c", "a"), node("Frobnicate", "d", "x"), node("Add", "y", "c", "b")}
	nodes = append(nodes, onnx.Node{Op: "FusedMatMul", Domain: "com.microsoft", Inputs: []string{"x"}, Outputs: []string{"e"}})
	_, err := importONNX(t, onnxFile(t, nodes, batch))
	var ps importer.Problems
	if !errors.As(err, &ps) || len(ps) != 4 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"TopK", "NonZero", "its size depends on the data", "in block.0", "Frobnicate: there is no such operation", "Frobnicate"} {
		if !strings.Contains(strings.ReplaceAll(err.Error(), " in block.0:", ":"), strings.ReplaceAll(want, "in block.0", "")) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestONNXRefuses: files that cannot be a model of rows.
func TestONNXRefuses(t *testing.T) {
	w := onnx.Floats("w", []int{4, 4}, make([]float32, 16))
	for want, b := range map[string][]byte{
		"one dynamic dimension, the batch":  onnxFile(t, []onnx.Node{node("Relu", "y", "x")}, []onnx.Dim{{Name: "N"}, {Name: "T"}}),
		"there is no output 0":              onnxFile(t, []onnx.Node{node("Relu", "z", "x")}, batch),
		"does not depend on the input":      onnxFile(t, []onnx.Node{node("Relu", "y", "w")}, batch, w),
		"is not computed before it is used": onnxFile(t, []onnx.Node{node("Relu", "y", "later")}, batch),
		"[1 4] cannot be seen as [3 -1]":    onnxFile(t, []onnx.Node{node("Reshape", "y", "x", "s")}, batch, onnx.Ints("s", []int{2}, []int64{3, -1})),
		"it reduces the batch":              onnxFile(t, []onnx.Node{node("ReduceSum", "y", "x", "s")}, batch, onnx.Ints("s", []int{1}, []int64{0})),
		"its inputs are not those that":     onnxFile(t, []onnx.Node{{Op: "Split", Inputs: []string{"x"}}, node("Relu", "y", "x")}, batch),
		"is too large":                      onnxFile(t, []onnx.Node{node("ConstantOfShape", "c", "s"), node("Add", "y", "x", "c")}, batch, onnx.Ints("s", []int{2}, []int64{1 << 20, 1 << 20})),
	} {
		if _, err := importONNX(t, b); !errors.Is(err, importer.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestONNXSizes: arithmetic with the batch's size, as exporters write it, finds the batch again.
func TestONNXSizes(t *testing.T) {
	ints := func(name string, v ...int64) onnx.Tensor { return onnx.Ints(name, []int{len(v)}, v) }
	m, err := importONNX(t, onnxFile(t, []onnx.Node{
		node("Shape", "s", "x"), node("Gather", "n", "s", "zero"), node("Mul", "n2", "n", "two"), node("Concat", "to", "n2", "half"),
		node("Reshape", "r", "x", "to"), node("MatMul", "m", "r", "w"), node("Concat", "back", "n", "four"), node("Reshape", "y", "m", "back"),
	}, batch, ints("zero", 0), ints("two", 2), ints("half", 2), ints("four", 4), onnx.Floats("w", []int{2, 2}, []float32{1, 2, 3, 4})))
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Graph.Shape(m.Graph.OutputValue()); s.String() != "[N,4]" || len(m.Weights) != 1 {
		t.Errorf("the answer is %s with %d weights", s, len(m.Weights))
	}
}

func FuzzImportONNX(f *testing.F) {
	for _, name := range []string{"cnn", "tied_decoder"} {
		f.Add(load(f, "onnx/"+name+".onnx"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := onnx.Parse(b)
		if err != nil {
			return
		}
		if _, err := importer.ImportONNX(m, nil, importer.Options{Name: "g"}); err == nil {
			return
		}
	})
}

// TestLinearML: the numbers of linear models are weights that are trained, and so is what is added
// behind a product; trees are refused by name.
func TestLinearML(t *testing.T) {
	read := func() *onnx.Model {
		m, err := onnx.Parse(load(t, "onnx/ml_regressor.onnx"))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m, err := importer.ImportONNX(read(), nil, importer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range m.Graph.Params() {
		if p.Role == graph.Trainable {
			names = append(names, p.Full)
		}
	}
	slices.Sort(names)
	if want := []string{"LinearRegressor.bias", "LinearRegressor.weight", "coefs", "intercept"}; !slices.Equal(names, want) {
		t.Errorf("%v are trained, want %v", names, want)
	}
	x := read()
	for i := range x.Graph.Nodes {
		if n := &x.Graph.Nodes[i]; n.Op == "LinearRegressor" {
			n.Op = "TreeEnsembleRegressor"
		}
	}
	if _, err := importer.ImportONNX(x, nil, importer.Options{}); !errors.Is(err, importer.ErrUnsupported) || !strings.Contains(err.Error(), "trees are not trained by gradients") {
		t.Error(err)
	}
}
