// The operations that imported models are made of: views, arithmetic with broadcasting,
// reductions, products of values, and parameters and constants that take part in
// arithmetic. They work on rows, so an axis is one of the row's, the batch left out.

package graph

import (
	"errors"
	"fmt"
	"slices"
)

func init() {
	for kind, f := range map[string]func() Op{
		"reshape":         func() Op { return &Reshape{} },
		"permute":         func() Op { return &Permute{} },
		"slice":           func() Op { return &Slice{} },
		"concat":          func() Op { return &Concat{} },
		"pad":             func() Op { return &Pad{} },
		"expand":          func() Op { return &Expand{} },
		"unary":           func() Op { return &Unary{} },
		"binary":          func() Op { return &Binary{} },
		"reduce":          func() Op { return &Reduce{} },
		"matmul":          func() Op { return &MatMul{} },
		"cumsum":          func() Op { return &CumSum{} },
		"resample":        func() Op { return &Resample{} },
		"parameter":       func() Op { return &Parameter{} },
		"convtranspose2d": func() Op { return &ConvTranspose2d{Bias: true} },
		"stochasticdepth": func() Op { return &StochasticDepth{} },
		"noise":           func() Op { return &Noise{} },
	} {
		registry[kind] = f
	}
}

// Reshape gives the elements of a row another shape. It costs nothing.
type Reshape struct {
	stateless
	Shape []int `json:"shape"` // of one row
}

// Kind implements Op.
func (*Reshape) Kind() string { return "reshape" }

// Infer implements Op.
func (r *Reshape) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	s := Shape(r.Shape)
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.Elems() != x.Elems() {
		return nil, fmt.Errorf("%s has %d elements, %s has %d", x, x.Elems(), s, s.Elems())
	}
	return slices.Clone(s), nil
}

// Cost implements Op.
func (*Reshape) Cost([]Shape, Shape) Cost { return Cost{} }

// Permute reorders the axes of a row: axis i of the result is axis Axes[i] of the input.
type Permute struct {
	stateless
	Axes []int `json:"axes"`
}

// Kind implements Op.
func (*Permute) Kind() string { return "permute" }

// Infer implements Op.
func (p *Permute) Infer(in []Shape) (Shape, error) {
	x, err := one(in, len(p.Axes))
	if err != nil {
		return nil, err
	}
	y, seen := make(Shape, len(x)), make([]bool, len(x))
	for i, a := range p.Axes {
		if a < 0 || a >= len(x) || seen[a] {
			return nil, fmt.Errorf("axes %v are not an order of %d axes", p.Axes, len(x))
		}
		seen[a], y[i] = true, x[a]
	}
	return y, nil
}

// Cost implements Op.
func (*Permute) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// Slice takes Count elements of one axis, from Start on, each Step apart.
type Slice struct {
	stateless
	Axis  int `json:"axis"`
	Start int `json:"start"`
	Count int `json:"count"`
	Step  int `json:"step,omitempty"` // zero: 1
}

// Kind implements Op.
func (*Slice) Kind() string { return "slice" }

// Stride is the step.
func (s *Slice) Stride() int { return max(s.Step, 1) }

// Infer implements Op.
func (s *Slice) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if s.Axis < 0 || s.Axis >= len(x) {
		return nil, fmt.Errorf("there is no axis %d in %s", s.Axis, x)
	}
	d := x[s.Axis]
	if s.Start < 0 || s.Count < 1 || s.Step < 0 || s.Step > MaxDim || s.Start >= d || s.Count > d || s.Start+(s.Count-1)*s.Stride() >= d {
		return nil, fmt.Errorf("%d elements from %d in steps of %d are outside of axis %d of %s", s.Count, s.Start, s.Stride(), s.Axis, x)
	}
	y := slices.Clone(x)
	y[s.Axis] = s.Count
	return y, nil
}

// Cost implements Op.
func (*Slice) Cost(in []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackInput: float64(in[0].Elems())}
}

// Concat puts its inputs one after the other along one axis.
type Concat struct {
	stateless
	Axis int `json:"axis"`
}

// Kind implements Op.
func (*Concat) Kind() string { return "concat" }

// Infer implements Op.
func (c *Concat) Infer(in []Shape) (Shape, error) {
	if len(in) == 0 {
		return nil, errors.New("takes at least 1 input, has none")
	}
	if c.Axis < 0 || c.Axis >= len(in[0]) {
		return nil, fmt.Errorf("there is no axis %d in %s", c.Axis, in[0])
	}
	y := slices.Clone(in[0])
	for _, x := range in[1:] {
		if len(x) != len(y) || !slices.Equal(x[:c.Axis], y[:c.Axis]) || !slices.Equal(x[c.Axis+1:], y[c.Axis+1:]) {
			return nil, fmt.Errorf("%s and %s differ beside axis %d", in[0], x, c.Axis)
		}
		y[c.Axis] += x[c.Axis]
	}
	return y, nil
}

// Cost implements Op.
func (*Concat) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// Pad surrounds a row with a constant: Before and After are elements for each axis;
// negative ones cut away.
type Pad struct {
	stateless
	Before []int   `json:"before"`
	After  []int   `json:"after"`
	Value  float32 `json:"value,omitempty"`
}

// Kind implements Op.
func (*Pad) Kind() string { return "pad" }

// Infer implements Op.
func (p *Pad) Infer(in []Shape) (Shape, error) {
	x, err := one(in, len(p.Before))
	if err != nil {
		return nil, err
	}
	if len(p.After) != len(x) {
		return nil, fmt.Errorf("%d axes before, %d after", len(p.Before), len(p.After))
	}
	y := slices.Clone(x)
	for i := range y {
		for _, n := range []int{p.Before[i], p.After[i]} {
			if n < 0 || n > MaxDim {
				return nil, fmt.Errorf("padding %d is outside 0..%d", n, MaxDim)
			}
			y[i] += n
		}
	}
	return y, nil
}

// Cost implements Op.
func (*Pad) Cost(in []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackInput: float64(in[0].Elems())}
}

// Expand repeats axes of size 1.
type Expand struct {
	stateless
	Shape []int `json:"shape"` // of one row
}

// Kind implements Op.
func (*Expand) Kind() string { return "expand" }

// Infer implements Op.
func (e *Expand) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	s := Shape(e.Shape)
	if err := s.check(); err != nil {
		return nil, err
	}
	if y, err := broadcast(s, x); err != nil || !slices.Equal(y, s) {
		return nil, fmt.Errorf("%s cannot be expanded to %s", x, s)
	}
	return slices.Clone(s), nil
}

// Cost implements Op.
func (*Expand) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// broadcast is the shape of arithmetic of a and b, aligned at their last axes.
func broadcast(a, b Shape) (Shape, error) {
	y := make(Shape, max(len(a), len(b)))
	for i := range y {
		p, q := 1, 1
		if k := i - (len(y) - len(a)); k >= 0 {
			p = a[k]
		}
		if k := i - (len(y) - len(b)); k >= 0 {
			q = b[k]
		}
		if p != q && p != 1 && q != 1 {
			return nil, fmt.Errorf("%s and %s do not match", a, b)
		}
		y[i] = max(p, q)
	}
	return y, nil
}

// unaries are the functions of Unary: true for those without a slope.
var unaries = map[string]bool{
	"affine": false, "rsub": false, "rdiv": false, "silu": false, "sigmoid": false, "clamp": false, "hardtanh": false,
	"hardsigmoid": false, "hardswish": false, "leaky_relu": false, "elu": false, "selu": false, "softplus": false,
	"mish": false, "logsigmoid": false, "softsign": false, "pow": false, "abs": false, "exp": false, "log": false,
	"sqrt": false, "rsqrt": false, "erf": false, "sin": false, "cos": false, "atan": false,
	"eq": true, "ne": true, "lt": true, "le": true, "gt": true, "ge": true, "floor": true, "trunc": true, "sign": true, "detach": true,
}

// Unary is a function of each element, by name. A and B are its constants: "affine" is A x + B, "rsub"
// B - A x, "rdiv" A / x, "clamp" and "hardtanh" are bounded by A and B and have at the bounds the
// slopes 1 and 0, "detach" is x whose gradient stops, "leaky_relu" is A x below 0, "elu" has the
// factor A, "softplus" the factor A and the threshold B, "pow" is x to the power A, comparisons are
// with A.
type Unary struct {
	stateless
	Function string  `json:"function"`
	A        float32 `json:"a,omitempty"`
	B        float32 `json:"b,omitempty"`
}

// Kind implements Op.
func (*Unary) Kind() string { return "unary" }

// Infer implements Op.
func (u *Unary) Infer(in []Shape) (Shape, error) {
	if _, ok := unaries[u.Function]; !ok {
		return nil, fmt.Errorf("there is no function %q", u.Function)
	}
	return one(in, -1)
}

// Cost implements Op.
func (u *Unary) Cost(_ []Shape, out Shape) Cost {
	switch u.Function {
	case "affine", "clamp", "hardtanh", "leaky_relu":
		return perElement(out, 2, 2)
	}
	return perElement(out, 10, 12)
}

// Discrete implements Op: steps and comparisons have no slope.
func (u *Unary) Discrete(int) bool { return unaries[u.Function] }

// Operand is a tensor that takes part in arithmetic and is the same for every row: a
// parameter of the node called weight, elements of one, or constants.
type Operand struct {
	Shape []int  `json:"shape"`
	Param []int  `json:"param,omitzero"`  // shape of the parameter, [] where it is one number
	Index Packed `json:"index,omitempty"` // element of the parameter for each of Shape; none: all, in order
	Data  Packed `json:"data,omitempty"`  // bits of constants
}

func (o *Operand) check() error {
	s := Shape(o.Shape)
	if err := s.check(); err != nil {
		return err
	}
	n := s.Elems()
	if len(o.Data) > 0 {
		if len(o.Data) != n || o.Param != nil || o.Index != nil {
			return fmt.Errorf("%d constants for %d elements, or a parameter beside them", len(o.Data), n)
		}
		return nil
	}
	p := Shape(o.Param)
	if err := p.check(); err != nil || o.Param == nil {
		return errors.Join(err, fmt.Errorf("an operand of shape %v without a parameter or constants", o.Shape))
	}
	switch {
	case o.Index == nil && p.Elems() != n:
		return fmt.Errorf("%d elements of a parameter of %d", n, p.Elems())
	case o.Index != nil && len(o.Index) != n:
		return fmt.Errorf("%d indices for %d elements", len(o.Index), n)
	}
	for _, i := range o.Index {
		if int(i) >= p.Elems() {
			return fmt.Errorf("index %d is outside of a parameter of %d elements", i, p.Elems())
		}
	}
	return nil
}

func (o *Operand) packed() []*Packed {
	if o == nil {
		return nil
	}
	return []*Packed{&o.Index, &o.Data}
}

func (o *Operand) params() []Spec {
	if o == nil || len(o.Data) > 0 {
		return nil
	}
	return []Spec{{Name: "weight", Shape: slices.Concat([]int{}, o.Param), Init: Init{Std: 0.02}}}
}

// Constants are the values of Data, which must not be written to.
func (o *Operand) Constants() []float32 {
	if o == nil || len(o.Data) == 0 {
		return nil
	}
	return o.Data.Floats()
}

// ariths are the functions of Binary.
var ariths = []string{"add", "sub", "mul", "div", "max", "min", "pow", "mask"}

// Binary is arithmetic with broadcasting: of two inputs, or of one and Operand.
type Binary struct {
	Function string   `json:"function"` // add, sub, mul, div, max, min, pow; mask: the first where the second is not 0, else 0
	Operand  *Operand `json:"operand,omitempty"`
	Swap     bool     `json:"swap,omitempty"` // the operand comes first
}

// Kind implements Op.
func (*Binary) Kind() string { return "binary" }

// Infer implements Op.
func (b *Binary) Infer(in []Shape) (Shape, error) {
	if !slices.Contains(ariths, b.Function) {
		return nil, fmt.Errorf("there is no function %q", b.Function)
	}
	if b.Operand != nil {
		x, err := one(in, -1)
		if err != nil {
			return nil, err
		}
		if err := b.Operand.check(); err != nil {
			return nil, err
		}
		return broadcast(x, b.Operand.Shape)
	}
	if len(in) != 2 {
		return nil, fmt.Errorf("takes 2 inputs, has %d", len(in))
	}
	return broadcast(in[0], in[1])
}

// Params implements Op.
func (b *Binary) Params() []Spec { return b.Operand.params() }

// Discrete implements Op: a mask has no slope.
func (b *Binary) Discrete(arg int) bool {
	return b.Function == "mask" && (arg == 1 || b.Operand != nil && b.Swap)
}

func (b *Binary) packed() []*Packed { return b.Operand.packed() }

// Cost implements Op.
func (b *Binary) Cost(_ []Shape, out Shape) Cost {
	c := perElement(out, 1, 2)
	if b.Function == "pow" {
		c = perElement(out, 40, 90)
	}
	if len(b.Params()) > 0 {
		c.BackWeight = 2 * float64(out.Elems())
	}
	return c
}

// Reduce is a sum, mean or maximum over the last axes of a row.
type Reduce struct {
	stateless
	Function string `json:"function"`       // sum, mean, amax
	Axes     int    `json:"axes"`           // how many of the last
	Keep     bool   `json:"keep,omitempty"` // they stay, with size 1
}

// Kind implements Op.
func (*Reduce) Kind() string { return "reduce" }

// Infer implements Op.
func (r *Reduce) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"sum", "mean", "amax"}, r.Function) {
		return nil, fmt.Errorf("there is no reduction %q", r.Function)
	}
	if r.Axes < 1 || r.Axes > len(x) {
		return nil, fmt.Errorf("%s has no %d last axes", x, r.Axes)
	}
	y := slices.Clone(x[:len(x)-r.Axes])
	if r.Keep {
		y = append(y, slices.Repeat([]int{1}, r.Axes)...)
	}
	return y, nil
}

// Cost implements Op.
func (*Reduce) Cost(in []Shape, _ Shape) Cost { return perElement(in[0], 1, 1) }

// CumSum is the running sum along the last axis.
type CumSum struct{ stateless }

// Kind implements Op.
func (*CumSum) Kind() string { return "cumsum" }

// Infer implements Op.
func (*CumSum) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err == nil && len(x) == 0 {
		err = fmt.Errorf("takes at least one axis, got %s", x)
	}
	return x, err
}

// Cost implements Op.
func (*CumSum) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// Resample makes element o of an axis the sum over t of Weight[o,t] times element Index[o,t],
// each of Taps for every o: padding that mirrors or repeats, interpolation, picked elements.
type Resample struct {
	stateless
	Axis   int    `json:"axis"`
	Taps   int    `json:"taps"`
	Index  Packed `json:"index"`            // [elements, Taps]
	Weight Packed `json:"weight,omitempty"` // bits of the weights, [elements, Taps]; none: 1
}

// Kind implements Op.
func (*Resample) Kind() string { return "resample" }

// Infer implements Op.
func (r *Resample) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if r.Axis < 0 || r.Axis >= len(x) {
		return nil, fmt.Errorf("there is no axis %d in %s", r.Axis, x)
	}
	if r.Taps < 1 || r.Taps > 64 || len(r.Index) == 0 || len(r.Index)%r.Taps != 0 {
		return nil, fmt.Errorf("%d indices are not a multiple of %d taps, which are 1 to 64", len(r.Index), r.Taps)
	}
	if r.Weight != nil && len(r.Weight) != len(r.Index) {
		return nil, fmt.Errorf("%d weights for %d indices", len(r.Weight), len(r.Index))
	}
	for _, i := range r.Index {
		if uint64(i) >= uint64(x[r.Axis]) {
			return nil, fmt.Errorf("index %d is outside of axis %d of %s", i, r.Axis, x)
		}
	}
	y := slices.Clone(x)
	y[r.Axis] = len(r.Index) / r.Taps
	return y, nil
}

func (r *Resample) packed() []*Packed { return []*Packed{&r.Index, &r.Weight} }

// Cost implements Op.
func (r *Resample) Cost(_ []Shape, out Shape) Cost {
	return perElement(out, 2*float64(r.Taps)-1, 2*float64(r.Taps))
}

// MatMul is the product of the last two axes of two inputs, for each of the axes before,
// which are equal: [..,M,K] and [..,K,N] become [..,M,N].
type MatMul struct {
	stateless
	TransA bool    `json:"transpose_a,omitempty"` // the first is [..,K,M]
	TransB bool    `json:"transpose_b,omitempty"` // the second is [..,N,K]
	Scale  float32 `json:"scale,omitempty"`       // of the result; 0: 1
}

// Kind implements Op.
func (*MatMul) Kind() string { return "matmul" }

// Sizes are those of each product, and their number in a row.
func (m *MatMul) Sizes(a, b Shape) (batch, rows, inner, cols int, err error) {
	n := len(a)
	if n < 2 || len(b) != n || !slices.Equal(a[:n-2], b[:n-2]) {
		return 0, 0, 0, 0, fmt.Errorf("takes matrices with equal axes before, got %s and %s", a, b)
	}
	rows, inner = a[n-2], a[n-1]
	if m.TransA {
		rows, inner = inner, rows
	}
	k, cols := b[n-2], b[n-1]
	if m.TransB {
		k, cols = cols, k
	}
	if k != inner {
		return 0, 0, 0, 0, fmt.Errorf("the inner axes of %s and %s differ", a, b)
	}
	return a[:n-2].Elems(), rows, inner, cols, nil
}

// Infer implements Op.
func (m *MatMul) Infer(in []Shape) (Shape, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("takes 2 inputs, has %d", len(in))
	}
	_, rows, _, cols, err := m.Sizes(in[0], in[1])
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(in[0][:len(in[0])-2]), rows, cols), nil
}

// Cost implements Op.
func (m *MatMul) Cost(in []Shape, _ Shape) Cost {
	b, r, k, c, err := m.Sizes(in[0], in[1])
	if err != nil {
		return Cost{}
	}
	f := 2 * float64(b) * float64(r) * float64(k) * float64(c)
	return Cost{Forward: f, BackInput: 2 * f}
}

// Parameter is a value without inputs: an operand, the same for every row.
type Parameter struct {
	Operand
}

// Kind implements Op.
func (*Parameter) Kind() string { return "parameter" }

// Infer implements Op.
func (p *Parameter) Infer(in []Shape) (Shape, error) {
	if len(in) != 0 {
		return nil, fmt.Errorf("takes no input, has %d", len(in))
	}
	return slices.Concat(Shape{}, p.Shape), p.check()
}

// Params implements Op.
func (p *Parameter) Params() []Spec { return p.params() }

// Cost implements Op.
func (*Parameter) Cost(_ []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackWeight: float64(out.Elems())}
}

// StochasticDepth is torchvision's, by rows: in training a row is zeroed with probability
// P and scaled by 1/(1-P) otherwise (Huang et al., arXiv 1603.09382).
type StochasticDepth struct {
	stateless
	P float64 `json:"p"`
}

// Kind implements Op.
func (*StochasticDepth) Kind() string { return "stochasticdepth" }

// Infer implements Op.
func (s *StochasticDepth) Infer(in []Shape) (Shape, error) {
	if err := (&Dropout{P: s.P}).check(); err != nil {
		return nil, err
	}
	return one(in, -1)
}

// Cost implements Op.
func (*StochasticDepth) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// Noise has the shape of its input and, in training, numbers that are drawn: standard normal ones,
// or uniform in [0, 1). In evaluation they are their mean.
type Noise struct {
	stateless
	Uniform bool `json:"uniform,omitempty"`
}

// Kind implements Op.
func (*Noise) Kind() string { return "noise" }

// Infer implements Op.
func (*Noise) Infer(in []Shape) (Shape, error) { return one(in, -1) }

// Discrete implements Op: only the input's shape counts.
func (*Noise) Discrete(int) bool { return true }

// Cost implements Op.
func (*Noise) Cost(_ []Shape, out Shape) Cost { return perElement(out, 50, 0) }

// ConvTranspose2d is torch.nn.ConvTranspose2d over [N,C,H,W]: the gradient of a Conv2d
// as a layer.
type ConvTranspose2d struct {
	In       int  `json:"in_channels"`
	Out      int  `json:"out_channels"`
	Kernel   Pair `json:"kernel_size"`
	Stride   Pair `json:"stride,omitzero"` // zero: [1,1]
	Padding  Pair `json:"padding,omitzero"`
	Extra    Pair `json:"output_padding,omitzero"`
	Dilation Pair `json:"dilation,omitzero"` // zero: [1,1]
	Groups   int  `json:"groups,omitempty"`  // zero: 1
	Bias     bool `json:"bias"`
}

// Kind implements Op.
func (*ConvTranspose2d) Kind() string { return "convtranspose2d" }

// Conv is the convolution whose gradient this is.
func (c *ConvTranspose2d) Conv() *Conv2d {
	return &Conv2d{In: c.Out, Out: c.In, Kernel: c.Kernel, Stride: c.Stride, Padding: c.Padding, Dilation: c.Dilation, Groups: c.Groups}
}

// Infer implements Op.
func (c *ConvTranspose2d) Infer(in []Shape) (Shape, error) {
	x, err := one(in, 3)
	if err != nil {
		return nil, err
	}
	s, d := orOne(c.Stride), orOne(c.Dilation)
	if err := errors.Join(c.Padding.within("padding", 0, maxKernel), c.Extra.within("output_padding", 0, maxKernel),
		c.Kernel.within("kernel_size", 1, maxKernel), s.within("stride", 1, maxKernel), d.within("dilation", 1, maxKernel)); err != nil {
		return nil, err
	}
	y := Shape{c.Out, 0, 0}
	for a := range 2 {
		if c.Extra[a] >= s[a] {
			return nil, fmt.Errorf("output_padding %v is not smaller than the stride %v", [2]int(c.Extra), [2]int(s))
		}
		y[1+a] = (x[1+a]-1)*s[a] - 2*c.Padding[a] + d[a]*(c.Kernel[a]-1) + c.Extra[a] + 1
	}
	if err := y.check(); err != nil {
		return nil, err
	}
	back, err := c.Conv().Infer([]Shape{y})
	if err != nil {
		return nil, err
	}
	if !slices.Equal(back, x) {
		return nil, fmt.Errorf("in_channels is %d, but the input is %s", c.In, x)
	}
	return y, nil
}

// Params implements Op.
func (c *ConvTranspose2d) Params() []Spec {
	og := c.Out / max(c.Groups, 1)
	ps := weights([]int{c.In, og, c.Kernel[0], c.Kernel[1]}, og*c.Kernel[0]*c.Kernel[1], c.Bias, 0)
	if c.Bias {
		ps[1].Shape = []int{c.Out}
	}
	return ps
}

// Cost implements Op.
func (c *ConvTranspose2d) Cost(in []Shape, _ Shape) Cost {
	return c.Conv().Cost(nil, in[0])
}
