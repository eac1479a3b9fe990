// The operations of imported models as kernel calls.

package exec

import (
	"slices"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

func newTensorOp(p *Plan, i int) op {
	b := base{i}
	in, out := p.g.ArgShapes(i), p.g.Shape(p.g.Result(i))
	switch o := p.g.Op(i).(type) {
	case *graph.Reshape:
		return &flatten{base: b}
	case *graph.Permute:
		x := dense(in[0])
		s := make([]int, len(x))
		for k, a := range o.Axes {
			s[k] = x[a]
		}
		return &view{base: b, l: kernel.NewStrided(out, s, 0, in[0].Elems())}
	case *graph.Slice:
		s := dense(in[0])
		first := o.Start * s[o.Axis]
		s[o.Axis] *= o.Stride()
		return &view{base: b, l: kernel.NewStrided(out, s, first, in[0].Elems())}
	case *graph.Expand:
		return &view{base: b, l: kernel.NewStrided(out, repeated(in[0], out), 0, in[0].Elems())}
	case *graph.Pad:
		s, first := dense(out), 0
		for a, n := range o.Before {
			first += n * s[a]
		}
		return &padding{base: b, value: o.Value, l: kernel.NewStrided(in[0], s, first, out.Elems())}
	case *graph.Concat:
		c := &concat{base: b}
		s, first := dense(out), 0
		for _, x := range in {
			c.parts = append(c.parts, kernel.NewStrided(x, s, first, out.Elems()))
			first += x[o.Axis] * s[o.Axis]
		}
		return c
	case *graph.Outputs:
		c, first := &concat{base: b}, 0
		for _, x := range in {
			c.parts = append(c.parts, kernel.NewStrided(x, dense(x), first, out.Elems()))
			first += x.Elems()
		}
		return c
	case *graph.Unary:
		u := kernel.Unaries[o.Function]
		return &unary{base: b, u: u, a: o.A, b: o.B}
	case *graph.Binary:
		return newBinary(p, b, o, in, out)
	case *graph.Parameter:
		return &parameter{operand: newOperand(p, b, &o.Operand)}
	case *graph.Reduce:
		cols := graph.Shape(in[0][len(in[0])-o.Axes:]).Elems()
		r := &reduction{base: b, cols: cols, per: out.Elems(), scale: 1, most: o.Function == "amax"}
		if o.Function == "mean" {
			r.scale = 1 / float32(cols)
		}
		return r
	case *graph.CumSum:
		return &cumsum{base: b, cols: out[len(out)-1], per: out.Elems()}
	case *graph.Resample:
		return newResample(b, o, in[0], out)
	case *graph.MatMul:
		m := &matmul{product: product{b, p}, rows: p.rows(i), ta: o.TransA, tb: o.TransB, scale: o.Scale}
		m.batch, m.m, m.k, m.n, _ = o.Sizes(in[0], in[1])
		return m
	case *graph.Range:
		return &numbers{base: b}
	case *graph.StochasticDepth:
		return &depth{base: b, p: o.P, per: out.Elems(), off: !p.cfg.Train || o.P == 0, node: uint32(p.Layout.first + i)}
	case *graph.Noise:
		return &noise{base: b, uniform: o.Uniform, per: out.Elems(), off: !p.cfg.Train, node: uint32(p.Layout.first + i)}
	case *graph.ConvTranspose2d:
		stride, dil, groups, pad := o.Conv().Window()
		c := kernel.Conv{
			N: p.cfg.Rows, C: o.Out, H: out[1], W: out[2], O: o.In, KH: o.Kernel[0], KW: o.Kernel[1],
			SH: stride[0], SW: stride[1], PT: pad[0], PL: pad[1], PB: pad[2], PR: pad[3], DH: dil[0], DW: dil[1], Groups: groups, BF16: p.cfg.Precision != Float32,
		}
		return &convTranspose{product: product{b, p}, c: c, w: p.param(i, "weight"), b: p.param(i, "bias"), wn: o.Out * o.In / groups * c.KH * c.KW, hw: out[1] * out[2]}
	}
	return nil
}

// dense are the strides of a row.
func dense(s graph.Shape) []int {
	st := make([]int, len(s))
	for i, n := len(s)-1, 1; i >= 0; i-- {
		st[i], n = n, n*s[i]
	}
	return st
}

// repeated are the strides of x seen with the shape out: 0 along axes that it repeats.
func repeated(x, out graph.Shape) []int {
	st, d := make([]int, len(out)), dense(x)
	for i := range out {
		if k := i - (len(out) - len(x)); k >= 0 && x[k] != 1 {
			st[i] = d[k]
		}
	}
	return st
}

// view copies the elements that a strided view of x has.
type view struct {
	base
	l kernel.Strided
}

func (o *view) forward(f *frame)                         { o.l.Gather(f.y(o.i), f.x(o.i, 0), f.rows) }
func (o *view) gradInput(f *frame, _ int, dst []float32) { o.l.Scatter(dst, f.dy(o.i), f.rows) }
func (o *view) rowwise() (forward, grad bool)            { return true, true }

// padding surrounds x with a constant.
type padding struct {
	base
	value float32
	l     kernel.Strided
}

func (o *padding) forward(f *frame) {
	y := f.y(o.i)
	kernel.Fill(y, o.value)
	o.l.Put(y, f.x(o.i, 0), f.rows)
}

func (o *padding) gradInput(f *frame, _ int, dst []float32) { o.l.Gather(dst, f.dy(o.i), f.rows) }
func (o *padding) rowwise() (forward, grad bool)            { return true, true }

// concat puts its inputs side by side.
type concat struct {
	base
	parts []kernel.Strided
}

func (o *concat) forward(f *frame) {
	y := f.y(o.i)
	for k := range o.parts {
		o.parts[k].Put(y, f.x(o.i, k), f.rows)
	}
}

func (o *concat) gradInput(f *frame, arg int, dst []float32) {
	o.parts[arg].Gather(dst, f.dy(o.i), f.rows)
}
func (o *concat) rowwise() (forward, grad bool) { return true, true }

// unary is a function of each element.
type unary struct {
	base
	u    kernel.Unary
	a, b float32
}

func (o *unary) forward(f *frame) { o.u.F(f.y(o.i), f.x(o.i, 0), o.a, o.b) }

func (o *unary) gradInput(f *frame, _ int, dst []float32) {
	switch {
	case o.u.Flat:
		clear(dst)
	case o.u.Neither:
		o.u.G(dst, f.dy(o.i), nil, nil, o.a, o.b)
	case o.u.ByOutput:
		o.u.G(dst, f.dy(o.i), nil, f.y(o.i), o.a, o.b)
	default:
		o.u.G(dst, f.dy(o.i), f.x(o.i, 0), nil, o.a, o.b)
	}
}

func (o *unary) saves(autodiff.Kind) (x, y bool) {
	return !o.u.Flat && !o.u.Neither && !o.u.ByOutput, o.u.ByOutput
}
func (o *unary) rowwise() (forward, grad bool) { return true, true }
func (o *unary) gradInPlace() bool             { return true }
func (o *unary) cheap() bool                   { return true }

func (o *unary) alias() aliasing {
	if o.u.ByOutput || o.u.Neither {
		return aliasInPlace
	}
	return aliasNone
}

// operand is a tensor that is the same for all rows.
type operand struct {
	base
	w, n   int // parameter: its offset and elements
	index  []uint32
	consts []float32
	size   int
}

func newOperand(p *Plan, b base, o *graph.Operand) operand {
	d := operand{base: b, consts: o.Constants(), index: o.Index, size: graph.Shape(o.Shape).Elems()}
	if d.consts == nil {
		d.w, d.n = p.param(b.i, "weight"), graph.Shape(o.Param).Elems()
		if d.index != nil {
			p.shared.picked = max(p.shared.picked, d.size)
		}
	}
	return d
}

// values are the operand's elements.
func (o *operand) values(f *frame) []float32 {
	switch {
	case o.consts != nil:
		return o.consts
	case o.index == nil:
		return f.params[o.w:][:o.n]
	}
	w := f.params[o.w:][:o.n]
	picked := f.e.shared.picked[:o.size]
	for i, k := range o.index {
		picked[i] = w[k]
	}
	return picked
}

// add takes in the gradient of the operand's elements.
func (o *operand) add(f *frame, g []float32) {
	dst := f.grad(o.i, o.w, o.n)
	if !f.acc {
		clear(dst)
	}
	if o.index == nil {
		kernel.AddTo(dst, g)
		return
	}
	for i, k := range o.index {
		dst[k] += g[i]
	}
}

// parameter is an operand as a value.
type parameter struct {
	operand
}

func (o *parameter) forward(f *frame) {
	y, v := f.y(o.i), o.values(f)
	for r := range f.rows {
		copy(y[r*o.size:][:o.size], v)
	}
}

func (o *parameter) gradInput(*frame, int, []float32) {}

func (o *parameter) gradParams(f *frame) {
	sum := f.scratch[:o.size]
	kernel.AddRowsGrad(f.team, sum, f.dy(o.i), f.rows, false)
	o.add(f, sum)
}

func (o *parameter) scratch() int { return o.size }

// numbers are 0, 1, ...
type numbers struct{ base }

func (o *numbers) forward(f *frame) {
	y := f.y(o.i)
	for i := range y {
		y[i] = float32(i)
	}
}

func (o *numbers) gradInput(*frame, int, []float32) {}

// binary is arithmetic with broadcasting.
type binary struct {
	base
	l       kernel.Broadcast
	operand *operand
	at      int     // which of the two the operand is
	own     [2]bool // has the result's shape
}

func newBinary(p *Plan, b base, o *graph.Binary, in []graph.Shape, out graph.Shape) op {
	d := &binary{base: b, at: -1}
	shapes := slices.Clone(in)
	rows := [2]int{in[0].Elems()}
	if o.Operand != nil {
		d.at = 1
		shapes = append(shapes, o.Operand.Shape)
		if o.Swap {
			d.at = 0
			slices.Reverse(shapes)
			rows[0], rows[1] = 0, rows[0]
		}
		x := newOperand(p, b, o.Operand)
		d.operand = &x
	} else {
		rows[1] = in[1].Elems()
	}
	for k := range 2 {
		d.own[k] = rows[k] == out.Elems()
	}
	d.l = kernel.NewBroadcast(arith[o.Function], out, shapes[0], shapes[1], rows[0], rows[1])
	return d
}

var arith = map[string]kernel.Arith{
	"add": kernel.ArithAdd, "sub": kernel.ArithSub, "mul": kernel.ArithMul, "div": kernel.ArithDiv,
	"max": kernel.ArithMax, "min": kernel.ArithMin, "pow": kernel.ArithPow, "mask": kernel.ArithMask,
}

func (o *binary) linear() bool { return o.l.Op == kernel.ArithAdd || o.l.Op == kernel.ArithSub }

// both are the two operands.
func (o *binary) both(f *frame) (a, b []float32) {
	switch o.at {
	case 0:
		return o.operand.values(f), f.x(o.i, 0)
	case 1:
		return f.x(o.i, 0), o.operand.values(f)
	}
	return f.x(o.i, 0), f.x(o.i, 1)
}

func (o *binary) forward(f *frame) {
	a, b := o.both(f)
	o.l.Forward(f.y(o.i), a, b, f.rows)
}

func (o *binary) gradInput(f *frame, arg int, dst []float32) {
	if o.at == 0 {
		arg = 1
	}
	var a, b []float32
	if !o.linear() {
		a, b = o.both(f)
	}
	o.l.Grad(dst, f.dy(o.i), a, b, arg, f.rows)
}

func (o *binary) gradParams(f *frame) {
	sum := f.scratch[:o.operand.size]
	var a, b []float32
	if !o.linear() {
		a, b = o.both(f)
	}
	o.l.Grad(sum, f.dy(o.i), a, b, o.at, f.rows)
	o.operand.add(f, sum)
}

// saves: what a product or quotient is of. With constants the input's gradient needs the
// constants only, unless it divides by the input.
func (o *binary) saves(autodiff.Kind) (x, y bool) { return !o.linear(), false }

func (o *binary) rowwise() (forward, grad bool) {
	ok := o.operand == nil || o.operand.index == nil
	return ok, ok
}

func (o *binary) scratch() int {
	if o.operand == nil {
		return 0
	}
	return o.operand.size
}

func (o *binary) alias() aliasing {
	if o.linear() && (o.at == 1 && o.own[0] || o.at == 0 && o.own[1] || o.at < 0 && o.own[0] && o.own[1]) {
		return aliasInPlace
	}
	return aliasNone
}

// reduction is a sum, mean or maximum over the last axes.
type reduction struct {
	base
	cols, per int
	scale     float32
	most      bool
}

func (o *reduction) forward(f *frame) {
	if o.most {
		kernel.MaxRows(f.y(o.i), f.x(o.i, 0), f.rows*o.per, o.cols)
		return
	}
	kernel.MeanRows(f.y(o.i), f.x(o.i, 0), f.rows*o.per, o.cols, o.scale)
}

func (o *reduction) gradInput(f *frame, _ int, dst []float32) {
	if o.most {
		kernel.MaxRowsGrad(dst, f.dy(o.i), f.x(o.i, 0), f.y(o.i), f.rows*o.per, o.cols)
		return
	}
	kernel.MeanRowsGrad(dst, f.dy(o.i), f.rows*o.per, o.cols, o.scale)
}

func (o *reduction) saves(autodiff.Kind) (x, y bool) { return o.most, o.most }
func (o *reduction) rowwise() (forward, grad bool)   { return true, true }

// resample makes elements of an axis weighted sums of others.
type resample struct {
	base
	r     kernel.Resample
	outer int // of a row
}

func newResample(b base, o *graph.Resample, in, out graph.Shape) *resample {
	return &resample{base: b, outer: in[:o.Axis].Elems(), r: kernel.Resample{
		In: in[o.Axis], Out: out[o.Axis], Taps: o.Taps, Inner: in[o.Axis+1:].Elems(), Index: o.Index, Weight: o.Weight.Floats(),
	}}
}

func (o *resample) forward(f *frame) { o.r.Forward(f.y(o.i), f.x(o.i, 0), f.rows*o.outer) }

func (o *resample) gradInput(f *frame, _ int, dst []float32) {
	o.r.Grad(dst, f.dy(o.i), f.rows*o.outer)
}

func (o *resample) rowwise() (forward, grad bool) { return true, true }

// cumsum is the running sum along the last axis.
type cumsum struct {
	base
	cols, per int
}

func (o *cumsum) forward(f *frame) {
	kernel.CumSumRows(f.y(o.i), f.x(o.i, 0), f.rows*o.per/o.cols, o.cols)
}

func (o *cumsum) gradInput(f *frame, _ int, dst []float32) {
	kernel.CumSumRowsGrad(dst, f.dy(o.i), f.rows*o.per/o.cols, o.cols)
}

func (o *cumsum) rowwise() (forward, grad bool) { return true, true }

// matmul is a product of matrices for each row and each of batch.
type matmul struct {
	product
	rows           int
	batch, m, k, n int
	ta, tb         bool
	scale          float32
}

// multiply sets c [m,n] = a [m,k] b [k,n], each given by the strides of its axes.
func (o *matmul) multiply(f *frame, m, n, k int, c, a []float32, ars, aks int, b []float32, bk, bj int, scratch []float32) {
	for r := range f.rows * o.batch {
		kernel.Gemm(f.team, &kernel.GemmArgs{
			M: m, N: n, K: k, A: a[r*m*k:][:m*k], RS: ars, KS: aks, B: b[r*k*n:][:k*n], BK: bk, BJ: bj, C: c[r*m*n:][:m*n], LDC: n, BF16: o.rounds(),
		}, scratch)
	}
	if o.scale != 0 {
		kernel.Scale(c, c, o.scale)
	}
}

func (o *matmul) strides() (ars, aks, bk, bj int) {
	ars, aks, bk, bj = o.k, 1, o.n, 1
	if o.ta {
		ars, aks = 1, o.m
	}
	if o.tb {
		bk, bj = 1, o.k
	}
	return ars, aks, bk, bj
}

func (o *matmul) forward(f *frame) {
	ars, aks, bk, bj := o.strides()
	a, scratch := o.operand(f, 0, f.scratch)
	b, scratch := o.operand(f, 1, scratch)
	o.multiply(f, o.m, o.n, o.k, f.y(o.i), a, ars, aks, b, bk, bj, scratch)
}

func (o *matmul) gradInput(f *frame, arg int, dst []float32) {
	ars, aks, bk, bj := o.strides()
	dy, scratch := o.gradient(f, f.scratch)
	x, scratch := o.operand(f, 1-arg, scratch) // the other factor
	switch {
	case arg == 0 && !o.ta: // da [m,k] = dy [m,n] bᵀ [n,k]
		o.multiply(f, o.m, o.k, o.n, dst, dy, o.n, 1, x, bj, bk, scratch)
	case arg == 0: // daᵀ [k,m] = b [k,n] dyᵀ [n,m]
		o.multiply(f, o.k, o.m, o.n, dst, x, bk, bj, dy, 1, o.n, scratch)
	case !o.tb: // db [k,n] = aᵀ [k,m] dy [m,n]
		o.multiply(f, o.k, o.n, o.m, dst, x, aks, ars, dy, o.n, 1, scratch)
	default: // dbᵀ [n,k] = dyᵀ [n,m] a [m,k]
		o.multiply(f, o.n, o.k, o.m, dst, dy, 1, o.n, x, ars, aks, scratch)
	}
}

func (o *matmul) saves(autodiff.Kind) (x, y bool) { return true, false }

func (o *matmul) scratch() int {
	return max(kernel.GemmScratch(o.m, o.n, o.k), kernel.GemmScratch(o.m, o.k, o.n), kernel.GemmScratch(o.k, o.m, o.n),
		kernel.GemmScratch(o.k, o.n, o.m), kernel.GemmScratch(o.n, o.k, o.m)) + o.copies(0)
}

// depth is stochastic depth: it draws one number for each row of the batch.
type depth struct {
	base
	p    float64
	per  int
	node uint32
	off  bool
}

func (o *depth) scale(f *frame, dst, src []float32) {
	if o.off {
		if &dst[0] != &src[0] {
			copy(dst, src)
		}
		return
	}
	s := kernel.NewStream(f.seed, kernel.DomainDropout, f.step, o.node)
	var bits [1]uint32
	for r := range f.rows {
		kernel.DropoutMask(bits[:], s, uint64(f.row0+r), 1, o.p)
		d := dst[r*o.per:][:o.per]
		if bits[0]&1 == 0 {
			clear(d)
		} else {
			kernel.Scale(d, src[r*o.per:][:o.per], float32(1/(1-o.p)))
		}
	}
}

func (o *depth) forward(f *frame)                         { o.scale(f, f.y(o.i), f.x(o.i, 0)) }
func (o *depth) gradInput(f *frame, _ int, dst []float32) { o.scale(f, dst, f.dy(o.i)) }
func (o *depth) alias() aliasing                          { return aliasInPlace }
func (o *depth) gradInPlace() bool                        { return true }

// noise draws numbers of its own, by their place in the whole batch.
type noise struct {
	base
	uniform bool
	per     int
	node    uint32
	off     bool
}

func (o *noise) forward(f *frame) {
	y, s := f.y(o.i), kernel.NewStream(f.seed, kernel.DomainNoise, f.step, o.node)
	y = y[:f.rows*o.per]
	switch first := uint64(f.row0) * uint64(o.per); {
	case o.off && o.uniform:
		for i := range y {
			y[i] = 0.5
		}
	case o.off:
		clear(y)
	case o.uniform:
		kernel.UniformFrom(y, s, first)
	default:
		kernel.NormalFrom(y, s, first)
	}
}

func (*noise) gradInput(*frame, int, []float32) {} // graph.Noise has none

// convTranspose is the gradient of a convolution c as a layer: x is c's output.
type convTranspose struct {
	product
	c      kernel.Conv
	w, b   int
	wn, hw int
}

func (o *convTranspose) forward(f *frame) {
	o.c.N = f.rows
	y := f.y(o.i)
	x, scratch := o.operand(f, 0, f.scratch)
	kernel.ConvBackwardData(f.team, &o.c, y, x, f.params[o.w:][:o.wn], scratch)
	if o.b < 0 {
		return
	}
	for k, b := range f.params[o.b:][:o.c.C] {
		for r := range f.rows {
			plane := y[(r*o.c.C+k)*o.hw:][:o.hw]
			for i := range plane {
				plane[i] += b
			}
		}
	}
}

func (o *convTranspose) gradInput(f *frame, _ int, dst []float32) {
	o.c.N = f.rows
	dy, scratch := o.gradient(f, f.scratch)
	kernel.ConvForward(f.team, &o.c, dst, dy, f.params[o.w:][:o.wn], nil, false, scratch)
}

func (o *convTranspose) gradParams(f *frame) {
	o.c.N = f.rows
	if o.b >= 0 {
		kernel.SumChannels(f.grad(o.i, o.b, o.c.C), f.dy(o.i), kernel.AllChannels(f.rows, o.c.C, o.hw), f.acc)
	}
	x, scratch := o.operand(f, 0, f.scratch)
	dy, scratch := o.gradient(f, scratch)
	kernel.ConvBackwardWeight(f.team, &o.c, f.grad(o.i, o.w, o.wn), x, dy, f.acc, scratch)
}

func (o *convTranspose) saves(k autodiff.Kind) (x, y bool) { return k == autodiff.GradParams, false }
func (o *convTranspose) sums() bool                        { return o.b >= 0 }

func (o *convTranspose) scratch() int {
	return kernel.ConvScratch(&o.c) + o.copies(kernel.ConvScratchBF16(&o.c)-kernel.ConvScratch(&o.c))
}
