// Positions that depend on the data, in ONNX.

package exporter

import (
	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/graph"
)

// sort is the order of the last axis.
func (e *exporter) sort(o *graph.Sort, x string, row graph.Shape) string {
	largest := 0
	if o.Descending {
		largest = 1
	}
	e.add("TopK", attrs(onnx.OfInt("axis", -1), onnx.OfInt("largest", largest), onnx.OfInt("sorted", 1)), x, e.ints(row[len(row)-1]))
	n := &e.m.Graph.Nodes[len(e.m.Graph.Nodes)-1]
	at := e.unique(e.out + ".TopK.at")
	n.Outputs = append(n.Outputs, at)
	return e.add("Cast", attrs(onnx.OfInt("to", onnx.Float)), at)
}

// places are the positions of node i, [N·A, K, 1]: size where it is none of an axis of that size.
func (e *exporter) places(i, axis, size int) string {
	at, s := e.x(i, 1)
	none := e.number(float32(size))
	is := e.add("And", nil, e.add("GreaterOrEqual", nil, at, e.number(0)), e.add("Less", nil, at, none))
	is = e.add("And", nil, is, e.add("Equal", nil, at, e.add("Floor", nil, at)))
	at = e.add("Cast", attrs(onnx.OfInt("to", onnx.Int64)), e.add("Where", nil, is, at, none))
	return e.add("Reshape", nil, at, e.ints(-1, s[axis:].Elems(), 1))
}

// gather reads elements: a position that is none reads a row of zeros behind the others.
func (e *exporter) gather(o *graph.Gather, i int, x string, in, row graph.Shape) string {
	size, inner := in[o.Axis], in[o.Axis+1:].Elems()
	at := e.places(i, o.Axis, size)
	x = e.add("Reshape", nil, x, e.ints(-1, size, inner))
	x = e.add("Pad", nil, x, e.ints(0, 0, 0, 0, 1, 0), e.number(0))
	return e.reshape(e.add("GatherND", attrs(onnx.OfInt("batch_dims", 1)), x, at), row...)
}

// scatter writes elements: one without a position goes to a row behind the others, which is cut off.
func (e *exporter) scatter(o *graph.Scatter, i int, x string, in, row graph.Shape) string {
	_, s := e.x(i, 1)
	count, inner := s[o.Axis:].Elems(), in[len(s):].Elems()
	at := e.places(i, o.Axis, o.Size)
	x = e.add("Reshape", nil, x, e.ints(-1, count, inner))
	at = e.add("Expand", nil, at, e.ints(1, 1, inner))
	rows := e.add("Slice", nil, e.add("Shape", nil, x), e.ints(0), e.ints(1))
	zeros := e.add("Expand", nil, e.number(0), e.add("Concat", attrs(onnx.OfInt("axis", 0)), rows, e.ints(o.Size+1, inner)))
	how := "add"
	if o.Last {
		how = "none"
	}
	y := e.add("ScatterElements", attrs(onnx.OfInt("axis", 1), onnx.OfText("reduction", how)), zeros, at, x)
	y = e.add("Slice", nil, y, e.ints(0), e.ints(o.Size), e.ints(1), e.ints(1))
	return e.reshape(y, row...)
}

// spectralNorm is uᵀw v of the vectors that training left.
func (e *exporter) spectralNorm(o *graph.SpectralNorm) string {
	rows, cols, _ := o.Sizes()
	perm := []int{o.Dim}
	for a := range o.Shape {
		if a != o.Dim {
			perm = append(perm, a)
		}
	}
	w := e.add("Transpose", attrs(onnx.OfInts("perm", perm...)), e.param("weight"))
	w = e.add("Reshape", nil, w, e.ints(rows, cols))
	y := e.add("MatMul", nil, e.add("Reshape", nil, e.param("u"), e.ints(1, rows)), w)
	return e.add("MatMul", nil, y, e.add("Reshape", nil, e.param("v"), e.ints(cols, 1)))
}
