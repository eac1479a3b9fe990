package onnx_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/state"
)

func small() *onnx.Model {
	m := &onnx.Model{IR: 9, Producer: "test", Opset: map[string]int64{"": 20}}
	m.Graph = onnx.Graph{
		Name:    "g",
		Nodes:   []onnx.Node{{Name: "n", Op: "Gemm", Inputs: []string{"x", "w", ""}, Outputs: []string{"y"}, Attrs: []onnx.Attr{onnx.OfInt("transB", 1), onnx.OfFloat("alpha", 0.5), onnx.OfText("s", "a"), onnx.OfInts("is", 1, -2)}}},
		Tensors: []onnx.Tensor{onnx.Floats("w", []int{2, 3}, []float32{1, 2, 3, 4, 5, 6}), onnx.Ints("i", []int{2}, []int64{-1, 1 << 40})},
		Inputs:  []onnx.Value{{Name: "x", Type: onnx.Float, Dims: []onnx.Dim{{Name: "N"}, {N: 3}}}},
		Outputs: []onnx.Value{{Name: "y", Type: onnx.Float, Dims: []onnx.Dim{{Name: "N"}, {N: 2}}}},
	}
	return m
}

func written(t testing.TB, m *onnx.Model) []byte {
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestWriteAndRead: a model survives its file.
func TestWriteAndRead(t *testing.T) {
	m, err := onnx.Parse(written(t, small()))
	if err != nil {
		t.Fatal(err)
	}
	n := m.Graph.Nodes[0]
	if m.Opset[""] != 20 || n.Op != "Gemm" || len(n.Inputs) != 3 || n.Inputs[2] != "" || n.Attr("transB").Int != 1 || n.Attr("alpha").Float != 0.5 || n.Attr("s").Text != "a" || n.Attr("is").Ints[1] != -2 || n.Attr("none") != nil {
		t.Errorf("got %+v", m)
	}
	if d := m.Graph.Inputs[0].Dims; d[0].Name != "N" || d[1].N != 3 {
		t.Errorf("the input is %+v", d)
	}
	w, err := m.Graph.Tensors[0].Load(nil)
	if err != nil || len(w.F32) != 6 || w.F32[5] != 6 || w.Shape[1] != 3 {
		t.Errorf("got %+v, %v", w, err)
	}
	i, err := m.Graph.Tensors[1].Load(nil)
	if err != nil || i.I64[0] != -1 || i.I64[1] != 1<<40 {
		t.Errorf("got %+v, %v", i, err)
	}
}

// field is a length-delimited field of a protocol buffer.
func field(num byte, b ...byte) []byte { return append([]byte{num<<3 | 2, byte(len(b))}, b...) }

// model is a file with one initializer.
func model(tensor []byte) []byte {
	return bytes.Join([][]byte{{1 << 3, 9}, field(8, 2<<3, 20), field(7, field(5, tensor...)...)}, nil)
}

// TestElsewhere: elements in another file are read from there, and only whole.
func TestElsewhere(t *testing.T) {
	entry := func(key, value string) []byte {
		return field(13, append(field(1, []byte(key)...), field(2, []byte(value)...)...)...)
	}
	file := func(entries ...[]byte) []byte {
		return model(bytes.Join(append([][]byte{{1 << 3, 2, 2 << 3, 1, 14 << 3, 1}, field(8, 'w')}, entries...), nil))
	}
	data := []byte{0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64}
	open := func(name string) (io.ReaderAt, int64, error) {
		if name != "w.bin" {
			return nil, 0, errors.New("no such file")
		}
		return bytes.NewReader(data), int64(len(data)), nil
	}
	m, err := onnx.Parse(file(entry("location", "w.bin"), entry("offset", "4"), entry("length", "8")))
	if err != nil {
		t.Fatal(err)
	}
	w, err := m.Graph.Tensors[0].Load(open)
	if err != nil || w.F32[0] != 1 || w.F32[1] != 2 {
		t.Errorf("got %v, %v", w, err)
	}
	if _, err := m.Graph.Tensors[0].Load(nil); !errors.Is(err, onnx.ErrFormat) {
		t.Errorf("without files: %v", err)
	}
	for want, entries := range map[string][][]byte{
		"which has 12":   {entry("location", "w.bin"), entry("offset", "8")},
		"no such file":   {entry("location", "x")},
		"are 8 bytes at": {entry("location", "w.bin"), entry("length", "4")},
	} {
		m, err := onnx.Parse(file(entries...))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Graph.Tensors[0].Load(open); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := onnx.Parse(file(entry("location", "w.bin"), entry("offset", "-4"))); !errors.Is(err, onnx.ErrFormat) {
		t.Errorf("a negative offset: %v", err)
	}
}

// TestRefuses: what is no model, and what lies about its sizes.
func TestRefuses(t *testing.T) {
	whole := written(t, small())
	for name, b := range map[string][]byte{
		"nothing":   {},
		"text":      []byte("not a model"),
		"cut short": whole[:len(whole)-5],
		"no graph":  {1 << 3, 9, 8<<3 | 2, 2, 2 << 3, 20},
	} {
		if _, err := onnx.Parse(b); !errors.Is(err, onnx.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tensor := range map[string][]byte{
		"an axis below zero": {1 << 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1},
		"too many elements":  {1 << 3, 255, 255, 255, 255, 15, 1 << 3, 255, 255, 255, 255, 15},
	} {
		if _, err := onnx.Parse(model(tensor)); !errors.Is(err, onnx.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m, err := onnx.Parse(model(append([]byte{1 << 3, 100, 2 << 3, 1}, field(9, 1, 2, 3, 4)...)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Graph.Tensors[0].Load(nil); !errors.Is(err, onnx.ErrFormat) || !strings.Contains(err.Error(), "has 4 bytes") {
		t.Errorf("a lying shape: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(written(f, small()))
	f.Add(model(append([]byte{1 << 3, 1, 2 << 3, 1}, field(9, 1, 2, 3, 4)...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := onnx.Parse(b)
		if err != nil {
			if !errors.Is(err, onnx.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		for i := range m.Graph.Tensors {
			if x, err := m.Graph.Tensors[i].Load(nil); err == nil && state.CheckName(x.Name) == nil && x.Validate() != nil {
				t.Fatalf("tensor %q is not well formed: %v", x.Name, x.Validate())
			}
		}
	})
}
