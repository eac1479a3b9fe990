// Writing a model.

package onnx

import (
	"encoding/binary"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The kinds of attributes.
const (
	attrFloat  = 1
	attrInt    = 2
	attrString = 3
	attrInts   = 7
)

// Floats is a tensor of float32.
func Floats(name string, shape []int, v []float32) Tensor {
	raw := make([]byte, 0, 4*len(v))
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return Tensor{Name: name, Type: Float, Shape: shape, raw: raw, n: -1}
}

// Ints is a tensor of int64.
func Ints(name string, shape []int, v []int64) Tensor {
	raw := make([]byte, 0, 8*len(v))
	for _, i := range v {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(i))
	}
	return Tensor{Name: name, Type: Int64, Shape: shape, raw: raw, n: -1}
}

// OfFloat, OfInt, OfText and OfInts are attributes.
func OfFloat(name string, v float64) Attr { return Attr{Name: name, Kind: attrFloat, Float: v} }

// OfInt is an attribute of one integer.
func OfInt(name string, v int) Attr { return Attr{Name: name, Kind: attrInt, Int: int64(v)} }

// OfText is an attribute of text.
func OfText(name, v string) Attr { return Attr{Name: name, Kind: attrString, Text: v} }

// OfInts is an attribute of integers.
func OfInts(name string, vs ...int) Attr {
	a := Attr{Name: name, Kind: attrInts}
	for _, v := range vs {
		a.Ints = append(a.Ints, int64(v))
	}
	return a
}

func appendText(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendInt(b []byte, num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}

// Write writes the model. It fails where the file would be larger than a protocol buffer may be.
// The tensors are those of Floats and Ints.
func (m *Model) Write(w io.Writer) error {
	g := m.Graph.head()
	size := int64(len(g))
	heads := make([][]byte, len(m.Graph.Tensors))
	for i := range m.Graph.Tensors {
		heads[i] = m.Graph.Tensors[i].head()
		size += int64(len(heads[i]) + len(m.Graph.Tensors[i].raw))
	}
	var b []byte
	b = appendInt(b, 1, m.IR)
	b = appendText(b, 2, m.Producer)
	for domain, version := range m.Opset { // one, as a rule
		var o []byte
		if domain != "" {
			o = appendText(o, 1, domain)
		}
		b = appendBytes(b, 8, appendInt(o, 2, version))
	}
	if size > MaxBytes-int64(len(b))-64 {
		return bad("%d bytes, at most %d can be written", size, int64(MaxBytes))
	}
	b = protowire.AppendTag(b, 7, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	for _, p := range [][]byte{b, g} {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	for i := range heads {
		for _, p := range [][]byte{heads[i], m.Graph.Tensors[i].raw} {
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// head is the tensor as a field of a graph, up to its elements, which come last.
func (t *Tensor) head() []byte {
	var f []byte
	for _, d := range t.Shape {
		f = appendInt(f, 1, int64(d))
	}
	f = appendInt(f, 2, t.Type)
	f = appendText(f, 8, t.Name)
	f = protowire.AppendTag(f, 9, protowire.BytesType)
	f = protowire.AppendVarint(f, uint64(len(t.raw)))
	b := protowire.AppendTag(nil, 5, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(f)+len(t.raw)))
	return append(b, f...)
}

// head is the graph without its tensors.
func (g *Graph) head() []byte {
	var b []byte
	for i := range g.Nodes {
		b = appendBytes(b, 1, g.Nodes[i].bytes())
	}
	b = appendText(b, 2, g.Name)
	for _, v := range g.Inputs {
		b = appendBytes(b, 11, v.bytes())
	}
	for _, v := range g.Outputs {
		b = appendBytes(b, 12, v.bytes())
	}
	return b
}

func (n *Node) bytes() []byte {
	var b []byte
	for _, s := range n.Inputs {
		b = appendText(b, 1, s)
	}
	for _, s := range n.Outputs {
		b = appendText(b, 2, s)
	}
	b = appendText(b, 3, n.Name)
	b = appendText(b, 4, n.Op)
	for _, a := range n.Attrs {
		f := appendText(nil, 1, a.Name)
		switch a.Kind {
		case attrFloat:
			f = protowire.AppendFixed32(protowire.AppendTag(f, 2, protowire.Fixed32Type), math.Float32bits(float32(a.Float)))
		case attrInt:
			f = appendInt(f, 3, a.Int)
		case attrString:
			f = appendText(f, 4, a.Text)
		case attrInts:
			for _, v := range a.Ints {
				f = appendInt(f, 8, v)
			}
		}
		b = appendBytes(b, 5, appendInt(f, 20, a.Kind))
	}
	return b
}

func (v *Value) bytes() []byte {
	var shape []byte
	for _, d := range v.Dims {
		if d.Name != "" {
			shape = appendBytes(shape, 1, appendText(nil, 2, d.Name))
		} else {
			shape = appendBytes(shape, 1, appendInt(nil, 1, d.N))
		}
	}
	t := appendBytes(appendInt(nil, 1, v.Type), 2, shape)
	return appendBytes(appendText(nil, 1, v.Name), 2, appendBytes(nil, 1, t))
}
