// Spectral normalisation as kernel calls.

package exec

import (
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// spectralNorm is a weight's greatest singular value. The vectors that a backward pass needs are
// kept in the slot, since the next step moves them.
type spectralNorm struct {
	base
	s          kernel.Spectral
	w, n       int // parameter
	u, v       int // buffers
	stat       int // slot: u, v, the value
	iterations int
	eps        float64
	vFirst     bool
	train      bool
}

func newSpectralNorm(p *Plan, b base, o *graph.SpectralNorm) *spectralNorm {
	rows, cols, inner := o.Sizes()
	d := &spectralNorm{
		base: b, s: kernel.Spectral{Rows: rows, Cols: cols, Inner: inner}, w: p.param(b.i, "weight"), n: rows * cols, u: p.param(b.i, "u"), v: p.param(b.i, "v"),
		stat: p.slotF, iterations: o.Iterations, eps: o.Eps, vFirst: o.VFirst, train: p.cfg.Train,
	}
	p.shared.sums = max(p.shared.sums, rows, cols)
	p.slotF += pad(rows) + pad(cols) + pad(1)
	return d
}

// kept are the vectors and the value of the slot's forward pass.
func (o *spectralNorm) kept(f *frame) (u, v, value []float32) {
	s := f.slot.f[o.stat:]
	return s[:o.s.Rows], s[pad(o.s.Rows):][:o.s.Cols], s[pad(o.s.Rows)+pad(o.s.Cols):][:1]
}

func (o *spectralNorm) forward(f *frame) {
	u, v, value := o.kept(f)
	sum := f.e.shared.sums[:max(o.s.Rows, o.s.Cols)]
	w, su, sv := f.params[o.w:][:o.n], f.state.Buffers[o.u:][:o.s.Rows], f.state.Buffers[o.v:][:o.s.Cols]
	for range o.iterations {
		if !o.train {
			break
		}
		if o.vFirst {
			o.s.Left(sv, w, su, sum, o.eps)
		}
		o.s.Right(su, w, sv, sum, o.eps)
		if !o.vFirst {
			o.s.Left(sv, w, su, sum, o.eps)
		}
	}
	copy(u, su)
	copy(v, sv)
	value[0] = o.s.Value(w, u, v, sum)
	kernel.Fill(f.y(o.i), value[0])
}

func (*spectralNorm) gradInput(*frame, int, []float32) {}

func (o *spectralNorm) gradParams(f *frame) {
	u, v, _ := o.kept(f)
	g := float32(0)
	for _, d := range f.dy(o.i)[:f.rows] {
		g += d
	}
	o.s.Grad(f.grad(o.i, o.w, o.n), u, v, g, f.acc)
}
