// Constants and sizes of ONNX models.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
)

// tensorValue is a constant of the file.
func (l *lowering) tensorValue(t *onnx.Tensor) *value {
	x, err := t.Load(l.a.(*onnxFile).open)
	if err != nil {
		fail("%v", err)
	}
	d := make([]float64, x.Len())
	for i := range d {
		if x.F32 != nil {
			d[i] = float64(x.F32[i])
		} else {
			d[i] = float64(x.I64[i])
		}
	}
	shape := x.Shape
	if shape == nil {
		shape = []int{}
	}
	return constant(d, shape, x.F32 == nil)
}

func onnxConstant(l *lowering, n *onnx.Node) {
	for _, a := range n.Attrs {
		switch a.Name {
		case "value":
			if a.Tensor == nil {
				fail("without a tensor")
			}
			l.set(n, l.tensorValue(a.Tensor))
		case "value_float":
			l.set(n, constant([]float64{a.Float}, []int{}, false))
		case "value_int":
			l.set(n, constant([]float64{float64(a.Int)}, []int{}, true))
		case "value_floats":
			l.set(n, constant(slices.Clone(a.Floats), []int{len(a.Floats)}, false))
		case "value_ints":
			d := make([]float64, len(a.Ints))
			for i, v := range a.Ints {
				d[i] = float64(v)
			}
			l.set(n, constant(d, []int{len(d)}, true))
		default:
			fail("of a %s", a.Name)
		}
	}
}

func constantOfShape(l *lowering, n *onnx.Node) {
	v, whole := 0.0, false
	if a := n.Attr("value"); a != nil && a.Tensor != nil {
		t := l.tensorValue(a.Tensor)
		v, whole = l.scalarOf(t, "its value"), t.whole
	}
	shape := []int{}
	for _, m := range l.numbers(l.need(n, 0), "its shape") {
		shape = append(shape, m.n)
	}
	if elems(shape) > maxElems {
		fail("a constant of %v is too large", shape)
	}
	l.set(n, constant(slices.Repeat([]float64{v}, elems(shape)), shape, whole))
}

func onnxShape(l *lowering, n *onnx.Node) {
	d := l.dims(l.need(n, 0))
	from, to := attrInt(n, "start", 0), attrInt(n, "end", len(d))
	if from < 0 {
		from += len(d)
	}
	if to < 0 {
		to += len(d)
	}
	from = min(max(from, 0), len(d))
	d = d[from:max(min(to, len(d)), from)]
	l.set(n, sizesValue(d, []int{len(d)}))
}

func onnxSize(l *lowering, n *onnx.Node) {
	all := number{n: 1}
	for _, d := range l.dims(l.need(n, 0)) {
		all.n *= d.n
		all.batched = all.batched || d.batched
	}
	l.set(n, sizesValue([]number{all}, []int{}))
}

// samples are the numbers of the batch's samples, in a tensor of such a shape.
func samples(shape []number) *value {
	dims := make([]int, len(shape))
	for i, s := range shape {
		dims[i] = s.n
	}
	v := constant(make([]float64, elems(dims)), dims, true)
	v.sample, v.along = true, slices.IndexFunc(shape, func(s number) bool { return s.batched })
	return v
}

func onnxRange(l *lowering, n *onnx.Node) {
	start, limit, step := l.need(n, 0), l.need(n, 1), l.need(n, 2)
	if limit.sizes != nil {
		if l.scalarOf(start, "its start") != 0 || l.scalarOf(step, "its step") != 1 || limit.sizes[0] != (number{n: 1, batched: true}) {
			fail("it counts more than the samples")
		}
		l.set(n, samples([]number{{n: 1, batched: true}}))
		return
	}
	a, b, s := l.scalarOf(start, "its start"), l.scalarOf(limit, "its limit"), l.scalarOf(step, "its step")
	count := math.Ceil((b - a) / s)
	if s == 0 || math.IsNaN(count) || count > maxElems {
		fail("from %v to %v by %v", a, b, s)
	}
	d := make([]float64, int(max(count, 0)))
	for i := range d {
		d[i] = a + float64(i)*s
	}
	l.set(n, constant(d, []int{len(d)}, start.whole))
}
