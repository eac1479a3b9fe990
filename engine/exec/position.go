// Positions that depend on the data, as kernel calls.

package exec

import (
	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

func newPositionOp(p *Plan, i int) op {
	b, in, out := base{i}, p.g.ArgShapes(i), p.g.Shape(p.g.Result(i))
	switch o := p.g.Nodes[i].Op.(type) {
	case *graph.SpectralNorm:
		return newSpectralNorm(p, b, o)
	case *graph.Sort:
		cols := in[0][len(in[0])-1]
		p.shared.order = max(p.shared.order, cols)
		return &sorting{base: b, cols: cols, count: out[len(out)-1], per: in[0].Elems() / cols, down: o.Descending}
	case *graph.Gather:
		return &gathering{base: b, outer: in[0][:o.Axis].Elems(), p: kernel.Positions{
			Size: in[0][o.Axis], Count: in[1][o.Axis:].Elems(), Inner: in[0][o.Axis+1:].Elems(),
		}}
	case *graph.Scatter:
		return &gathering{base: b, back: true, last: o.Last, outer: in[1][:o.Axis].Elems(), p: kernel.Positions{
			Size: o.Size, Count: in[1][o.Axis:].Elems(), Inner: in[0][len(in[1]):].Elems(),
		}}
	}
	return nil
}

// sorting gives the positions of elements in order.
type sorting struct {
	base
	cols, count, per int
	down             bool
}

func (o *sorting) forward(f *frame) {
	kernel.SortRows(f.y(o.i), f.x(o.i, 0), f.e.shared.order[:o.cols], f.rows*o.per, o.cols, o.count, o.down)
}

func (*sorting) gradInput(*frame, int, []float32) {} // graph.Sort has none

// gathering reads at positions, or, back, adds at them. Each is the other's gradient.
type gathering struct {
	base
	p     kernel.Positions
	outer int // of a row
	back  bool
	last  bool
}

func (o *gathering) forward(f *frame) { o.move(f, f.y(o.i), f.x(o.i, 0), o.back) }

func (o *gathering) gradInput(f *frame, _ int, dst []float32) { o.move(f, dst, f.dy(o.i), !o.back) }

func (o *gathering) move(f *frame, dst, src []float32, back bool) {
	if at := f.x(o.i, 1); back {
		o.p.Scatter(dst, src, at, f.rows*o.outer, o.last)
	} else {
		o.p.Gather(dst, src, at, f.rows*o.outer)
	}
}

func (o *gathering) saves(autodiff.Kind) (x, y bool) { return true, false }
func (o *gathering) rowwise() (forward, grad bool)   { return true, true }
