// The operations of transformers as kernel calls.

package exec

import (
	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

func newSequenceOp(p *Plan, i int) op {
	b := base{i}
	in, out := p.g.ArgShapes(i), p.g.Shape(p.g.Result(i))
	switch o := p.g.Nodes[i].Op.(type) {
	case *graph.Embedding:
		return &embedding{base: b, num: o.Num, dim: o.Dim, padding: o.Padding - 1, w: p.param(i, "weight")}
	case *graph.Position:
		d := &position{base: b, num: o.Num, dim: o.Dim, reps: 1, w: p.param(i, "weight")}
		if d.n = out.Elems(); o.Fixed {
			d.n, d.reps = o.Dim, out[0]
		}
		return d
	case *graph.LayerNorm:
		return newLayerNorm(p, b, o, out)
	case *graph.Linears:
		l := &linears{product: product{b, p}}
		for k, name := range o.Names {
			l.each = append(l.each, linear{
				product: product{b, p}, in: o.In, out: o.Out, per: in[0].Elems() / o.In, rows: p.cfg.Rows,
				w: p.param(i, name+".weight"), b: p.param(i, name+".bias"), first: k * o.Out, wide: len(o.Names) * o.Out,
			})
		}
		return l
	case *graph.Attention:
		a := &attention{product: product{b, p}, node: uint32(p.Layout.first + i), masked: len(in) == 2}
		a.a = kernel.Attention{N: p.cfg.Rows, T: out[0], C: out[1], Heads: o.Heads, Causal: o.Causal, BF16: p.cfg.Precision == BF16}
		if p.cfg.Train {
			a.a.P = o.P
		}
		return a
	case *graph.TokenMask:
		return &tokenMask{base: b, token: float32(o.Token)}
	case *graph.GELU:
		if o.Approximate == "tanh" {
			return &activation{base: b, f: kernel.GELUTanh, grad: kernel.GELUTanhGrad}
		}
		return &activation{base: b, f: kernel.GELU, grad: kernel.GELUGrad}
	case *graph.Tanh:
		return &activation{base: b, f: kernel.TanhForward, grad: kernel.TanhGrad, byOutput: true}
	case *graph.Select:
		return &selection{base: b, from: in[0].Elems(), at: o.Index * out.Elems(), n: out.Elems()}
	}
	return nil
}

// embedding looks tokens [N,..] up in w [num,dim].
type embedding struct {
	base
	num, dim, w int
	padding     int // token whose row gets no gradient, -1: none
}

func (o *embedding) forward(f *frame) {
	kernel.Embed(f.y(o.i), f.x(o.i, 0), f.params[o.w:][:o.num*o.dim], o.num, o.dim)
}

func (o *embedding) gradInput(*frame, int, []float32) {}

func (o *embedding) gradParams(f *frame) {
	g := f.grad(o.i, o.w, o.num*o.dim)
	if o.padding < 0 {
		kernel.EmbedGrad(g, f.dy(o.i), f.x(o.i, 0), o.num, o.dim, f.acc)
		return
	}
	row, kept := g[o.padding*o.dim:][:o.dim], f.scratch[:o.dim]
	if copy(kept, row); !f.acc {
		clear(kept)
	}
	kernel.EmbedGrad(g, f.dy(o.i), f.x(o.i, 0), o.num, o.dim, f.acc)
	copy(row, kept)
}

func (o *embedding) scratch() int {
	if o.padding < 0 {
		return 0
	}
	return o.dim
}

func (o *embedding) saves(k autodiff.Kind) (x, y bool) { return k == autodiff.GradParams, false }

// position adds the first n elements of w [num,dim] to each of the reps parts of a row.
type position struct {
	base
	num, dim, n, reps, w int
}

func (o *position) forward(f *frame) {
	kernel.AddRows(f.y(o.i), f.x(o.i, 0), f.params[o.w:][:o.n], f.rows*o.reps)
}

func (o *position) gradInput(f *frame, _ int, dst []float32) { f.pass(o.i, dst) }

func (o *position) gradParams(f *frame) {
	g := f.grad(o.i, o.w, o.num*o.dim)
	kernel.AddRowsGrad(f.team, g[:o.n], f.dy(o.i), f.rows*o.reps, f.acc)
	if !f.acc {
		clear(g[o.n:])
	}
}

func (o *position) alias() aliasing { return aliasInPlace }
func (o *position) passes() bool    { return true }

// layerNorm is over the last axis of x [N,per,cols]; mean and 1/std of each row of cols
// stay in the slot.
type layerNorm struct {
	base
	per, cols  int
	eps        float32
	w, b       int
	stat, most int
	plain      bool // there are no weight and bias
}

func newLayerNorm(p *Plan, b base, o *graph.LayerNorm, out graph.Shape) op {
	l := &layerNorm{base: b, cols: o.Shape[0], per: out.Elems() / o.Shape[0], eps: float32(o.Eps), w: p.param(b.i, "weight"), b: p.param(b.i, "bias")}
	l.most = pad(p.rows(b.i) * l.per)
	l.stat = p.slotF
	p.slotF += 2 * l.most
	if !o.Affine {
		l.plain = true
		p.shared.norm = max(p.shared.norm, l.cols)
	}
	return l
}

func (o *layerNorm) affine(f *frame) (gamma, beta []float32) {
	if o.plain {
		return f.e.shared.ones[:o.cols], f.e.shared.zeros[:o.cols]
	}
	return f.params[o.w:][:o.cols], f.params[o.b:][:o.cols]
}

func (o *layerNorm) stats(f *frame) (mean, inv []float32) {
	n, at := f.rows*o.per, o.stat+f.from*o.per
	return f.slot.f[at:][:n], f.slot.f[at+o.most:][:n]
}

func (o *layerNorm) forward(f *frame) {
	gamma, beta := o.affine(f)
	mean, inv := o.stats(f)
	kernel.LayerNorm(f.y(o.i), f.x(o.i, 0), gamma, beta, mean, inv, f.rows*o.per, o.cols, o.eps)
}

func (o *layerNorm) gradInput(f *frame, _ int, dst []float32) {
	gamma, _ := o.affine(f)
	mean, inv := o.stats(f)
	kernel.LayerNormGradInput(dst, f.dy(o.i), f.x(o.i, 0), gamma, mean, inv, f.rows*o.per, o.cols)
}

func (o *layerNorm) gradParams(f *frame) {
	mean, inv := o.stats(f)
	kernel.LayerNormGradParams(f.grad(o.i, o.w, o.cols), f.grad(o.i, o.b, o.cols), f.dy(o.i), f.x(o.i, 0), mean, inv, f.rows*o.per, o.cols, f.acc)
}

func (o *layerNorm) saves(autodiff.Kind) (x, y bool) { return true, false }
func (o *layerNorm) cheap() bool                     { return true }
func (o *layerNorm) rowwise() (forward, grad bool)   { return true, true }

// linears are linear layers of one input, side by side in the output.
type linears struct {
	product
	each []linear
}

func (o *linears) forward(f *frame) {
	x, scratch := o.operand(f, 0, f.scratch)
	for k := range o.each {
		o.each[k].multiply(f, x, scratch)
	}
}

func (o *linears) gradInput(f *frame, _ int, dst []float32) {
	dy, scratch := o.gradient(f, f.scratch)
	for k := range o.each {
		o.each[k].addInput(f, dst, dy, k > 0, scratch)
	}
}

func (o *linears) gradParams(f *frame) {
	if o.each[0].b >= 0 {
		o.gradBias(f)
	}
	dy, scratch := o.gradient(f, f.scratch)
	x, scratch := o.operand(f, 0, scratch)
	for k := range o.each {
		o.each[k].gradWeight(f, dy, x, scratch)
	}
}

// gradBias sums the gradients of all biases side by side.
func (o *linears) gradBias(f *frame) {
	l := &o.each[0]
	bias := f.scratch[:l.wide]
	if f.acc {
		for k := range o.each {
			copy(bias[k*l.out:][:l.out], f.grad(o.i, o.each[k].b, l.out))
		}
	}
	kernel.AddRowsGrad(f.team, bias, f.dy(o.i), f.rows*l.per, f.acc)
	for k := range o.each {
		copy(f.grad(o.i, o.each[k].b, l.out), bias[k*l.out:])
	}
}

func (o *linears) sums() bool { return o.each[0].b >= 0 }

func (o *linears) saves(k autodiff.Kind) (x, y bool) { return k == autodiff.GradParams, false }
func (o *linears) scratch() int                      { return max(o.each[0].scratch(), o.each[0].wide) }

// attention keeps nothing but its inputs: the backward pass takes the softmax again.
type attention struct {
	product
	a      kernel.Attention
	node   uint32
	masked bool
}

func (o *attention) bind(f *frame) (mask []float32) {
	o.a.N, o.a.Row0 = f.rows, f.row0
	o.a.Drop = kernel.NewStream(f.seed, kernel.DomainDropout, f.step, o.node)
	if o.masked {
		mask = f.x(o.i, 1)
	}
	return mask
}

func (o *attention) forward(f *frame) {
	mask := o.bind(f)
	qkv, scratch := o.operand(f, 0, f.scratch)
	kernel.AttentionForward(f.team, &o.a, f.y(o.i), qkv, mask, scratch)
}

func (o *attention) gradInput(f *frame, _ int, dst []float32) {
	mask := o.bind(f)
	dy, scratch := o.gradient(f, f.scratch)
	qkv, scratch := o.operand(f, 0, scratch)
	kernel.AttentionBackward(f.team, &o.a, dst, dy, qkv, mask, scratch)
}

func (o *attention) saves(autodiff.Kind) (x, y bool) { return true, false }

// reads: a mask is no operand.
func (o *attention) reads(arg int) reading {
	if arg > 0 {
		return exactly
	}
	return o.product.reads(arg)
}

func (o *attention) scratch() int { return kernel.AttentionScratch(&o.a) + o.copies(0) }

// tokenMask is 1 where x is not the token.
type tokenMask struct {
	base
	token float32
}

func (o *tokenMask) forward(f *frame) {
	y := f.y(o.i)
	for i, v := range f.x(o.i, 0) {
		y[i] = 0
		if v != o.token {
			y[i] = 1
		}
	}
}

func (o *tokenMask) gradInput(*frame, int, []float32) {}

// activation is y = f(x), whose gradient reads x or, byOutput, y.
type activation struct {
	base
	f        func(y, x []float32)
	grad     func(dx, dy, xy []float32)
	byOutput bool
}

func (o *activation) forward(f *frame) { o.f(f.y(o.i), f.x(o.i, 0)) }

func (o *activation) gradInput(f *frame, _ int, dst []float32) {
	xy := f.x(o.i, 0)
	if o.byOutput {
		xy = f.y(o.i)
	}
	o.grad(dst, f.dy(o.i), xy)
}

func (o *activation) saves(autodiff.Kind) (x, y bool) { return !o.byOutput, o.byOutput }
func (o *activation) gradInPlace() bool               { return true }
func (o *activation) cheap() bool                     { return true }
func (o *activation) rowwise() (forward, grad bool)   { return true, true }

func (o *activation) alias() aliasing {
	if o.byOutput {
		return aliasInPlace
	}
	return aliasNone
}

// selection copies n floats from position at of each row of from floats.
type selection struct {
	base
	from, at, n int
}

func (o *selection) forward(f *frame) {
	x, y := f.x(o.i, 0), f.y(o.i)
	for r := range f.rows {
		copy(y[r*o.n:][:o.n], x[r*o.from+o.at:])
	}
}

func (o *selection) gradInput(f *frame, _ int, dst []float32) {
	dy := f.dy(o.i)
	clear(dst)
	for r := range f.rows {
		copy(dst[r*o.from+o.at:], dy[r*o.n:][:o.n])
	}
}
