// The operations as kernel calls. One type per op; each resolves its attributes once
// and then only moves rows.

package exec

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// aliasing says whether an op's output may lie in the buffer of an input.
type aliasing uint8

const (
	aliasNone    aliasing = iota
	aliasView             // the output is the input: always the same buffer
	aliasInPlace          // may overwrite an input that is dead
)

// op runs one node. x and y are its forward values, dy the gradient of y; the frame
// tells rows, parameters and slot.
type op interface {
	forward(f *frame)
	// gradInput writes the gradient of input arg to dst, which may be dy's own buffer
	// if gradInPlace.
	gradInput(f *frame, arg int, dst []float32)
	// gradParams writes (or adds to, if f.acc) the gradients of the parameters.
	gradParams(f *frame)
	// saves tells which forward values an instruction of the backward pass reads.
	saves(k autodiff.Kind) (x, y bool)
	// reads tells what both passes need to know of an input, or, for -1, of the output.
	reads(arg int) reading
	// sums tells that gradParams reads the gradient of the output as it is, beside products.
	sums() bool
	alias() aliasing
	gradInPlace() bool
	// rowwise tells whether forward and gradInput may run on part of the rows, at once with
	// other parts.
	rowwise() (forward, grad bool)
	// passes tells that the gradient of each input is dy as it is.
	passes() bool
	// inputFirst tells that gradInput makes the gradients of the parameters on its way.
	inputFirst() bool
	// cheap tells that forward costs about as much as reading what it reads, the only
	// input.
	cheap() bool
	scratch() int // floats of kernel scratch
}

// base has the parts that most ops share.
type base struct {
	i int // node
}

func (base) gradParams(*frame)               {}
func (base) saves(autodiff.Kind) (x, y bool) { return false, false }
func (base) reads(int) reading               { return exactly }
func (base) sums() bool                      { return false }
func (base) alias() aliasing                 { return aliasNone }
func (base) gradInPlace() bool               { return false }
func (base) rowwise() (forward, grad bool)   { return false, false }
func (base) passes() bool                    { return false }
func (base) inputFirst() bool                { return false }
func (base) cheap() bool                     { return false }
func (base) scratch() int                    { return 0 }

// words reserves 32-bit words in every slot.
func (p *Plan) words(n int) int { p.slotW += n; return p.slotW - n }

// param is the offset of node i's parameter called name, -1 if it has none.
func (p *Plan) param(i int, name string) int {
	n := &p.g.Nodes[i]
	if !slices.ContainsFunc(n.Op.Params(), func(s graph.Spec) bool { return s.Name == name }) {
		return -1
	}
	off, ok := p.offs[n.Full(name)]
	if !ok {
		return -1
	}
	return off
}

func newOp(p *Plan, i int) (op, error) {
	n := p.g.Nodes[i]
	in, out := p.g.ArgShapes(i), p.g.Shape(p.g.Result(i))
	b := base{i}
	switch o := n.Op.(type) {
	case *graph.Conv2d:
		stride, dil, groups, pad := o.Window()
		c := kernel.Conv{
			N: p.cfg.Rows, C: o.In, H: in[0][1], W: in[0][2], O: o.Out, KH: o.Kernel[0], KW: o.Kernel[1],
			SH: stride[0], SW: stride[1], PT: pad[0], PL: pad[1], PB: pad[2], PR: pad[3], DH: dil[0], DW: dil[1], Groups: groups, BF16: p.cfg.Precision != Float32,
		}
		return &conv{product: product{b, p}, c: c, w: p.param(i, "weight"), b: p.param(i, "bias"), wn: o.Out * o.In / groups * c.KH * c.KW, hw: out[1] * out[2]}, nil
	case *graph.Linear:
		return &linear{product: product{b, p}, in: o.In, out: o.Out, wide: o.Out, per: out.Elems() / o.Out, rows: p.rows(i), turned: o.Transposed, w: p.param(i, "weight"), b: p.param(i, "bias")}, nil
	case *graph.ReLU:
		return &relu{base: b}, nil
	case *graph.MaxPool2d:
		s := o.Step()
		k := kernel.Pool{
			N: p.cfg.Rows, C: in[0][0], H: in[0][1], W: in[0][2], KH: o.Kernel[0], KW: o.Kernel[1],
			SH: s[0], SW: s[1], PT: o.Padding[0], PL: o.Padding[1], OH: out[1], OW: out[2],
		}
		m := &maxpool{base: b, p: k}
		if p.cfg.Train {
			m.arg, m.per = p.words(p.cfg.Rows*out.Elems()), out.Elems()
		}
		return m, nil
	case *graph.AvgPool2d:
		s := o.Step()
		return &avgpool{base: b, p: kernel.Pool{
			N: p.cfg.Rows, C: in[0][0], H: in[0][1], W: in[0][2], KH: o.Kernel[0], KW: o.Kernel[1],
			SH: s[0], SW: s[1], PT: o.Padding[0], PL: o.Padding[1], OH: out[1], OW: out[2], Exclude: o.Exclude,
		}}, nil
	case *graph.AdaptiveAvgPool2d:
		return &adaptive{base: b, p: kernel.AdaptivePool{N: p.cfg.Rows, C: in[0][0], H: in[0][1], W: in[0][2], OH: out[1], OW: out[2]}}, nil
	case *graph.Dropout:
		d := &dropout{base: b, p: o.P, per: out.Elems(), off: !p.cfg.Train || o.P == 0, node: uint32(p.Layout.first + i)}
		if !d.off {
			d.bits = p.words((p.rows(i)*d.per + 31) / 32)
			d.scale = float32(1 / (1 - o.P))
		}
		return d, nil
	case *graph.BatchNorm:
		d := &batchnorm{
			base: b, c: o.Features, hw: out.Elems() / o.Features, eps: float32(o.Eps), momentum: float32(o.Momentum),
			train: p.cfg.Train || o.Untracked, tracked: !o.Untracked,
		}
		if o.Plain {
			d.plain = true
			p.shared.norm = max(p.shared.norm, d.c)
		} else {
			d.w, d.b = p.param(i, "weight"), p.param(i, "bias")
		}
		if d.tracked {
			d.mean, d.va, d.count = p.param(i, "running_mean"), p.param(i, "running_var"), p.param(i, "num_batches_tracked")
		}
		// Saved statistics: mean, 1/std, and the two sums of the backward pass.
		d.stat = p.slotF
		p.slotF += 4 * pad(d.c)
		return d, nil
	case *graph.Flatten, *graph.Batch, *graph.Rows:
		return &flatten{base: b}, nil
	case *graph.Softmax:
		return &softmax{base: b, cols: out[len(out)-1], per: out.Elems()}, nil
	case *graph.Add:
		return &add{base: b}, nil
	}
	if o := newSequenceOp(p, i); o != nil {
		return o, nil
	}
	if o := newTensorOp(p, i); o != nil {
		return o, nil
	}
	if o := newPositionOp(p, i); o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("no kernel for op %q", n.Op.Kind())
}

// conv is Conv2d: x [N,C,H,W], w [O,C/groups,KH,KW], y [N,O,OH,OW].
type conv struct {
	product
	c      kernel.Conv
	w, b   int
	wn, hw int
	relu   bool
}

func (o *conv) fuseReLU() (gradient bool) {
	o.relu = true
	return false
}

func (o *conv) forward(f *frame) {
	o.c.N = f.rows
	var bias []float32
	if o.b >= 0 {
		bias = f.params[o.b:][:o.c.O]
	}
	x, scratch := o.source(f, f.scratch)
	kernel.ConvForward(f.team, &o.c, f.y(o.i), x, f.params[o.w:][:o.wn], bias, o.relu, scratch)
	o.c.Kept = nil
}

// source is x as an operand, or nil where the kernel reads what is kept of it.
func (o *conv) source(f *frame, scratch []float32) (x, rest []float32) {
	if p := f.e.p.kept[f.e.p.g.Args(o.i)[0]]; p.half {
		o.c.Kept = f.halves(p)
		return nil, scratch
	}
	return o.operand(f, 0, scratch)
}

func (o *conv) gradInput(f *frame, _ int, dst []float32) {
	o.c.N = f.rows
	dy, scratch := o.gradient(f, f.scratch)
	kernel.ConvBackwardData(f.team, &o.c, dst, dy, f.params[o.w:][:o.wn], scratch)
}

func (o *conv) gradParams(f *frame) {
	o.c.N = f.rows
	if o.b >= 0 {
		kernel.SumChannels(f.grad(o.i, o.b, o.c.O), f.dy(o.i), kernel.AllChannels(f.rows, o.c.O, o.hw), f.acc)
	}
	dy, scratch := o.gradient(f, f.scratch)
	x, scratch := o.source(f, scratch)
	kernel.ConvBackwardWeight(f.team, &o.c, f.grad(o.i, o.w, o.wn), dy, x, f.acc, scratch)
	o.c.Kept = nil
}

func (o *conv) saves(k autodiff.Kind) (x, y bool) { return k == autodiff.GradParams, false }
func (o *conv) sums() bool                        { return o.b >= 0 }

func (o *conv) scratch() int {
	c := o.c
	return kernel.ConvScratch(&c) + o.copies(kernel.ConvScratchBF16(&c)-kernel.ConvScratch(&c))
}

// room is the floats of scratch that reading what is kept of x takes.
func (o *conv) room() int {
	c := o.c
	c.Kept = []uint32{} // as it will be
	return kernel.ConvScratchKept(&c)
}

// linear is y = x wᵀ + b: x [N*per, in], w [out, in], y [N*per, out]. In a row of linear
// layers y and dy are the columns from first on of a matrix of wide columns.
type linear struct {
	product
	in, out, per, rows int
	first, wide        int
	w, b               int
	relu, turned       bool // turned: w is [in, out]
}

// strides are those of w as [out, in].
func (o *linear) strides() (out, in int) {
	if o.turned {
		return 1, o.out
	}
	return o.in, 1
}

func (o *linear) fuseReLU() (gradient bool) {
	o.relu = true
	return false
}

func (o *linear) forward(f *frame) {
	x, scratch := o.operand(f, 0, f.scratch)
	o.multiply(f, x, scratch)
}

// multiply is forward with its operand.
func (o *linear) multiply(f *frame, x, scratch []float32) {
	so, si := o.strides()
	g := kernel.GemmArgs{M: f.rows * o.per, N: o.out, K: o.in, RS: o.in, KS: 1, BK: si, BJ: so, LDC: o.wide, ReLU: o.relu, BF16: o.rounds(), RoundB: o.rounds()}
	g.A, g.B, g.C = x, f.params[o.w:][:o.out*o.in], f.y(o.i)[o.first:]
	if o.b >= 0 {
		g.ColBias = f.params[o.b:][:o.out]
	}
	kernel.Gemm(f.team, &g, scratch)
}

func (o *linear) gradInput(f *frame, _ int, dst []float32) {
	dy, scratch := o.gradient(f, f.scratch)
	o.addInput(f, dst, dy, false, scratch)
}

// addInput: dx [N*per, in] = dy [N*per, out] w [out, in], or += with acc.
func (o *linear) addInput(f *frame, dst, dy []float32, acc bool, scratch []float32) {
	so, si := o.strides()
	kernel.Gemm(f.team, &kernel.GemmArgs{
		M: f.rows * o.per, N: o.in, K: o.out, A: dy[o.first:], RS: o.wide, KS: 1,
		B: f.params[o.w:][:o.out*o.in], BK: so, BJ: si, C: dst, LDC: o.in, Acc: acc, BF16: o.rounds(), RoundB: o.rounds(),
	}, scratch)
}

func (o *linear) gradParams(f *frame) {
	if o.b >= 0 {
		kernel.AddRowsGrad(f.team, f.grad(o.i, o.b, o.out), f.dy(o.i), f.rows*o.per, f.acc)
	}
	dy, scratch := o.gradient(f, f.scratch)
	x, scratch := o.operand(f, 0, scratch)
	o.gradWeight(f, dy, x, scratch)
}

// gradWeight: dw [out, in] = dyᵀ [out, N*per] x [N*per, in].
func (o *linear) gradWeight(f *frame, dy, x, scratch []float32) {
	if o.turned { // dw [in, out] = xᵀ [in, N*per] dy [N*per, out]
		kernel.Gemm(f.team, &kernel.GemmArgs{
			M: o.in, N: o.out, K: f.rows * o.per, A: x, RS: 1, KS: o.in,
			B: dy, BK: o.out, BJ: 1, C: f.grad(o.i, o.w, o.out*o.in), LDC: o.out, Acc: f.acc, BF16: o.rounds(),
		}, scratch)
		return
	}
	kernel.Gemm(f.team, &kernel.GemmArgs{
		M: o.out, N: o.in, K: f.rows * o.per, A: dy[o.first:], RS: 1, KS: o.wide,
		B: x, BK: o.in, BJ: 1, C: f.grad(o.i, o.w, o.out*o.in), LDC: o.in, Acc: f.acc, BF16: o.rounds(),
	}, scratch)
}

func (o *linear) saves(k autodiff.Kind) (x, y bool) { return k == autodiff.GradParams, false }
func (o *linear) sums() bool                        { return o.b >= 0 }

func (o *linear) scratch() int {
	m := o.rows * o.per
	return max(o.gemmScratch(m, o.out, o.in), o.gemmScratch(m, o.in, o.out), kernel.GemmScratch(o.out, o.in, m), kernel.GemmScratch(o.in, o.out, m)) +
		o.copies(0)
}

// relu reads its output in the backward pass, so its input may be overwritten.
type relu struct {
	base
	fused     bool // done by the node before
	gradFused bool // and so is its gradient
}

func (o *relu) forward(f *frame) {
	if !o.fused {
		kernel.ReLU(f.y(o.i), f.x(o.i, 0))
	}
}

func (o *relu) gradInput(f *frame, _ int, dst []float32) {
	if o.gradFused {
		f.pass(o.i, dst)
		return
	}
	dy := f.dy(o.i)
	if y := f.vals[f.e.p.g.Result(o.i)]; y.half {
		kernel.ReLUGradBF16(dst, dy, f.halves(y), f.from*y.per)
		return
	}
	kernel.ReLUGrad(dst, dy, f.y(o.i))
}

func (o *relu) reads(arg int) reading {
	if arg < 0 {
		return bySign
	}
	return exactly
}

func (o *relu) saves(autodiff.Kind) (x, y bool) { return false, !o.gradFused }

func (o *relu) alias() aliasing {
	if o.fused {
		return aliasView
	}
	return aliasInPlace
}

func (o *relu) gradInPlace() bool { return true }
func (o *relu) passes() bool      { return o.gradFused }
func (o *relu) cheap() bool       { return !o.fused }

func (o *relu) rowwise() (forward, grad bool) { return !o.fused, !o.gradFused }

// maxpool keeps the position of each window's maximum.
type maxpool struct {
	base
	p        kernel.Pool
	arg, per int
}

func (o *maxpool) argmax(f *frame) []int32 {
	if !f.train {
		return nil
	}
	return f.ints(o.arg+f.from*o.per, f.rows*o.per)
}

func (o *maxpool) forward(f *frame) {
	p := o.p
	p.N = f.rows
	kernel.MaxPool(&p, f.y(o.i), f.x(o.i, 0), o.argmax(f))
}

func (o *maxpool) gradInput(f *frame, _ int, dst []float32) {
	p := o.p
	p.N = f.rows
	kernel.MaxPoolGrad(&p, dst, f.dy(o.i), o.argmax(f))
}

func (o *maxpool) rowwise() (forward, grad bool) { return true, true }

// avgpool is the mean over windows.
type avgpool struct {
	base
	p kernel.Pool
}

func (o *avgpool) forward(f *frame) {
	p := o.p
	p.N = f.rows
	kernel.AvgPool(&p, f.y(o.i), f.x(o.i, 0))
}

func (o *avgpool) gradInput(f *frame, _ int, dst []float32) {
	p := o.p
	p.N = f.rows
	kernel.AvgPoolGrad(&p, dst, f.dy(o.i))
}

func (o *avgpool) rowwise() (forward, grad bool) { return true, true }

// adaptive is the mean over windows that follow from the output's size.
type adaptive struct {
	base
	p kernel.AdaptivePool
}

func (o *adaptive) forward(f *frame) {
	p := o.p
	p.N = f.rows
	kernel.AdaptiveAvgPool(&p, f.y(o.i), f.x(o.i, 0))
}

func (o *adaptive) gradInput(f *frame, _ int, dst []float32) {
	p := o.p
	p.N = f.rows
	kernel.AdaptiveAvgPoolGrad(&p, dst, f.dy(o.i))
}

func (o *adaptive) rowwise() (forward, grad bool) { return true, true }

// dropout draws its mask from (seed, step, node, element of the batch).
type dropout struct {
	base
	p     float64
	scale float32
	per   int
	bits  int
	node  uint32
	off   bool
}

func (o *dropout) forward(f *frame) {
	if o.off {
		return
	}
	n := f.rows * o.per
	bits := o.mask(f, n)
	s := kernel.NewStream(f.seed, kernel.DomainDropout, f.step, o.node)
	if !f.again {
		kernel.DropoutMask(bits, s, uint64(f.row0)*uint64(o.per), n, o.p)
	}
	kernel.Dropout(f.y(o.i), f.x(o.i, 0), bits, o.scale)
}

func (o *dropout) gradInput(f *frame, _ int, dst []float32) {
	if o.off {
		f.pass(o.i, dst)
		return
	}
	dy := f.dy(o.i)
	kernel.Dropout(dst, dy, o.mask(f, len(dy)), o.scale)
}

// mask has a bit for each of n elements.
func (o *dropout) mask(f *frame, n int) []uint32 {
	return f.words(o.bits+f.from*o.per/32, (n+31)/32)
}

// rowwise: where rows are whole words of the mask.
func (o *dropout) rowwise() (forward, grad bool) { return o.per%32 == 0, o.per%32 == 0 }

func (o *dropout) alias() aliasing {
	if o.off {
		return aliasView
	}
	return aliasInPlace
}

func (o *dropout) gradInPlace() bool { return true }
func (o *dropout) passes() bool      { return o.off }

// batchnorm is over x [N,C,hw]. The sums over rows that the input gradient needs are
// the parameter gradients too: they are taken once, in gradInput or gradParams,
// whichever runs first, and kept in the slot.
type batchnorm struct {
	base
	c, hw           int
	eps, momentum   float32
	w, b            int
	plain           bool // it has neither
	mean, va, count int  // in the buffers and counters
	tracked         bool // it has those
	stat            int  // slot: mean, 1/std, dgamma, dbeta
	train, relu     bool
}

// fuseReLU: the gradient of the output is read and written anyway, and from x it follows
// where the output was positive.
func (o *batchnorm) fuseReLU() (gradient bool) {
	o.relu = true
	return true
}

func (o *batchnorm) stats(f *frame, k int) []float32 {
	return f.slot.f[o.stat+k*pad(o.c):][:o.c]
}

func (o *batchnorm) kernel(f *frame) kernel.BatchNorm {
	b := kernel.BatchNorm{
		N: f.rows, C: o.c, HW: o.hw, ReLU: o.relu, Eps: o.eps, Mean: o.stats(f, 0), InvStd: o.stats(f, 1),
	}
	if o.plain {
		b.Gamma, b.Beta = f.e.shared.ones[:o.c], f.e.shared.zeros[:o.c]
	} else {
		b.Gamma, b.Beta = f.params[o.w:][:o.c], f.params[o.b:][:o.c]
	}
	if !o.train {
		b.Mean = f.state.Buffers[o.mean:][:o.c]
	}
	return b
}

func (o *batchnorm) forward(f *frame) {
	b, x, y := o.kernel(f), f.x(o.i, 0), f.y(o.i)
	team := f.sharing(len(x))
	switch {
	case f.again: // the statistics are there
		kernel.BatchNormForward(team, &b, y, x, nil)
	case !o.train:
		kernel.InvStd(b.InvStd, f.state.Buffers[o.va:][:o.c], o.eps)
		kernel.BatchNormForward(team, &b, y, x, nil)
	default:
		va := o.stats(f, 2) // free until the backward pass
		kernel.BatchNormForward(team, &b, y, x, va)
		f.slot.summed[o.i] = false
		if !o.tracked {
			return
		}
		rm, rv := f.state.Buffers[o.mean:][:o.c], f.state.Buffers[o.va:][:o.c]
		kernel.BatchNormRunning(rm, rv, b.Mean, va, o.momentum, f.rows*o.hw)
		f.state.Counters[o.count]++
	}
}

func (o *batchnorm) gradInput(f *frame, _ int, dst []float32) { o.backward(f, dst) }

// backward takes the sums, and computes the gradient of the input if there is a place for it.
func (o *batchnorm) backward(f *frame, dst []float32) {
	b, x := o.kernel(f), f.x(o.i, 0)
	b.RoundDX = f.roundOut
	kernel.BatchNormBackward(f.sharing(len(x)), &b, dst, f.dy(o.i), x, o.stats(f, 2), o.stats(f, 3))
	f.slot.summed[o.i] = true
}

func (o *batchnorm) gradParams(f *frame) {
	if !f.slot.summed[o.i] {
		o.backward(f, nil)
	}
	dgamma, dbeta := o.stats(f, 2), o.stats(f, 3)
	gw, gb := f.grad(o.i, o.w, o.c), f.grad(o.i, o.b, o.c)
	if f.acc {
		kernel.AddTo(gw, dgamma)
		kernel.AddTo(gb, dbeta)
		return
	}
	copy(gw, dgamma)
	copy(gb, dbeta)
}

func (o *batchnorm) saves(autodiff.Kind) (x, y bool) { return true, false }
func (o *batchnorm) cheap() bool                     { return true }
func (o *batchnorm) inputFirst() bool                { return true }

// gradInPlace: whoever comes first takes the sums, and dy is not read for them again.
func (o *batchnorm) gradInPlace() bool { return true }

// flatten is a view.
type flatten struct{ base }

func (o *flatten) forward(*frame) {}

func (o *flatten) gradInput(f *frame, _ int, dst []float32) { f.pass(o.i, dst) }

func (o *flatten) alias() aliasing   { return aliasView }
func (o *flatten) gradInPlace() bool { return true }
func (o *flatten) passes() bool      { return true }

// softmax is over the last axis.
type softmax struct {
	base
	cols, per int
}

func (o *softmax) forward(f *frame) {
	kernel.Softmax(f.y(o.i), f.x(o.i, 0), f.rows*o.per/o.cols, o.cols)
}

func (o *softmax) gradInput(f *frame, _ int, dst []float32) {
	kernel.SoftmaxGrad(dst, f.dy(o.i), f.y(o.i), f.rows*o.per/o.cols, o.cols)
}

func (o *softmax) rowwise() (forward, grad bool)   { return true, true }
func (o *softmax) saves(autodiff.Kind) (x, y bool) { return false, true }
func (o *softmax) alias() aliasing                 { return aliasInPlace }
func (o *softmax) gradInPlace() bool               { return true }

// add is a residual connection: the gradient goes to both inputs unchanged.
type add struct {
	base
	relu bool
}

func (o *add) fuseReLU() (gradient bool) {
	o.relu = true
	return false
}

func (o *add) forward(f *frame) {
	if o.relu {
		kernel.AddReLU(f.y(o.i), f.x(o.i, 0), f.x(o.i, 1))
		return
	}
	kernel.Add(f.y(o.i), f.x(o.i, 0), f.x(o.i, 1))
}

func (o *add) gradInput(f *frame, _ int, dst []float32) { f.pass(o.i, dst) }

func (o *add) alias() aliasing               { return aliasInPlace }
func (o *add) gradInPlace() bool             { return true }
func (o *add) rowwise() (forward, grad bool) { return true, true }
func (o *add) passes() bool                  { return true }
