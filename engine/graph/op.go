// The operations: what each is called, which shapes it takes, which parameters it
// owns and what it costs. Kernels live elsewhere; this file is all a planner needs.

package graph

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Op is one kind of operation with its attributes. Implementations are pointers to
// plain structs whose exported fields are the JSON attrs.
type Op interface {
	// Kind is the op's name in the JSON form.
	Kind() string
	// Infer checks the attributes against the inputs' row shapes and returns the
	// output's row shape.
	Infer(in []Shape) (Shape, error)
	// Params lists what the op adds to the state dict, in PyTorch's order.
	Params() []Spec
	// Cost in floating point operations per row.
	Cost(in []Shape, out Shape) Cost
}

// Discrete is implemented by an Op that passes no gradient to some of its inputs:
// tokens, masks.
type Discrete interface {
	Discrete(arg int) bool
}

// HasGrad tells whether an op passes a gradient to its input arg.
func HasGrad(op Op, arg int) bool {
	d, ok := op.(Discrete)
	return !ok || !d.Discrete(arg)
}

// Cost in floating point operations per row; a multiply-add counts two.
type Cost struct {
	Forward    float64
	BackInput  float64 // gradient of the inputs
	BackWeight float64 // gradient of the parameters
}

func (c Cost) add(d Cost) Cost {
	return Cost{c.Forward + d.Forward, c.BackInput + d.BackInput, c.BackWeight + d.BackWeight}
}

// Total of forward and backward.
func (c Cost) Total() float64 { return c.Forward + c.BackInput + c.BackWeight }

// Role says how an entry of the state dict lives.
type Role uint8

// The roles of state-dict entries.
const (
	Trainable Role = iota // float32, updated by the optimiser
	Buffer                // float32, updated by the forward pass (running statistics)
	Counter               // int64 scalar (num_batches_tracked)
	Frozen                // float32, as Trainable, but training leaves it alone
)

// Init is the distribution of a parameter before training.
type Init struct {
	Bound float32 // uniform in [-Bound, Bound) where not 0
	Std   float32 // normal around 0 with this deviation where not 0
	Value float32 // otherwise this constant
}

// Spec is one entry of an op's state.
type Spec struct {
	Name  string
	Shape []int
	Role  Role
	Init  Init
}

// Elems is the number of elements.
func (s Spec) Elems() int { return Shape(s.Shape).Elems() }

// registry maps the JSON names to empty ops with PyTorch's default attributes.
var registry = map[string]func() Op{
	"conv2d":      func() Op { return &Conv2d{Bias: true} },
	"linear":      func() Op { return &Linear{Bias: true} },
	"relu":        func() Op { return &ReLU{} },
	"maxpool2d":   func() Op { return &MaxPool2d{} },
	"dropout":     func() Op { return &Dropout{} },
	"batchnorm1d": func() Op { return &BatchNorm{Rank: 1, Eps: 1e-5, Momentum: 0.1} },
	"batchnorm2d": func() Op { return &BatchNorm{Rank: 3, Eps: 1e-5, Momentum: 0.1} },
	"flatten":     func() Op { return &Flatten{} },
	"softmax":     func() Op { return &Softmax{} },
	"add":         func() Op { return &Add{} },

	"avgpool2d":         func() Op { return &AvgPool2d{} },
	"adaptiveavgpool2d": func() Op { return &AdaptiveAvgPool2d{} },

	"embedding": func() Op { return &Embedding{} },
	"position":  func() Op { return &Position{} },
	"layernorm": func() Op { return &LayerNorm{Eps: 1e-5, Affine: true} },
	"linears":   func() Op { return &Linears{Bias: true} },
	"attention": func() Op { return &Attention{} },
	"tokenmask": func() Op { return &TokenMask{} },
	"gelu":      func() Op { return &GELU{Approximate: "none"} },
	"tanh":      func() Op { return &Tanh{} },
	"select":    func() Op { return &Select{} },
}

// Kinds lists the known ops, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(registry)) }

func one(in []Shape, rank int) (Shape, error) {
	if len(in) != 1 {
		return nil, fmt.Errorf("takes 1 input, has %d", len(in))
	}
	if rank >= 0 && len(in[0]) != rank {
		return nil, fmt.Errorf("takes a row of %d axes, got %s", rank, in[0])
	}
	return in[0], nil
}

// Pair is a height and a width. In JSON it is [h,w].
type Pair [2]int

func (p Pair) within(what string, lo, hi int) error {
	for _, v := range p {
		if v < lo || v > hi {
			return fmt.Errorf("%s %v is outside %d..%d", what, [2]int(p), lo, hi)
		}
	}
	return nil
}

const maxKernel = 1024 // size, stride, dilation or padding of a window

// Conv2d is torch.nn.Conv2d over [N,C,H,W] with zero padding.
type Conv2d struct {
	In       int  `json:"in_channels"`
	Out      int  `json:"out_channels"`
	Kernel   Pair `json:"kernel_size"`
	Stride   Pair `json:"stride,omitzero"`   // zero: [1,1]
	Padding  Pair `json:"padding,omitzero"`  // each side
	Same     bool `json:"same,omitempty"`    // padding='same': output as large as the input
	Dilation Pair `json:"dilation,omitzero"` // zero: [1,1]
	Groups   int  `json:"groups,omitempty"`  // zero: 1
	Bias     bool `json:"bias"`

	Std float64 `json:"init_std,omitempty"` // as of Linear
	// Flat: the weight has no axis of height, as that of torch.nn.Conv1d, whose rows are
	// [C,1,L] here.
	Flat bool `json:"conv1d,omitempty"`
	// Depth, if not 0, is the taps of depth that a channel of torch.nn.Conv3d has: the weight is
	// [Out,C,Depth,H,W], and a row holds the taps of each of its channels one after the other.
	Depth int `json:"conv3d,omitempty"`
}

// Kind implements Op.
func (c *Conv2d) Kind() string { return "conv2d" }

func orOne(p Pair) Pair {
	if p == (Pair{}) {
		return Pair{1, 1}
	}
	return p
}

// Window resolves the defaults: stride, dilation, groups and the padding of the
// top, left, bottom and right side.
func (c *Conv2d) Window() (stride, dilation Pair, groups int, pad [4]int) {
	stride, dilation, groups = orOne(c.Stride), orOne(c.Dilation), max(c.Groups, 1)
	if !c.Same {
		return stride, dilation, groups, [4]int{c.Padding[0], c.Padding[1], c.Padding[0], c.Padding[1]}
	}
	// PyTorch puts the odd one to the bottom and right.
	h, w := dilation[0]*(c.Kernel[0]-1), dilation[1]*(c.Kernel[1]-1)
	return stride, dilation, groups, [4]int{h / 2, w / 2, h - h/2, w - w/2}
}

// Infer implements Op.
func (c *Conv2d) Infer(in []Shape) (Shape, error) {
	x, err := one(in, 3)
	if err != nil {
		return nil, err
	}
	s, d, g, pad := c.Window()
	if err := errors.Join(
		Pair{c.In, c.Out}.within("in_channels, out_channels", 1, MaxDim),
		c.Kernel.within("kernel_size", 1, maxKernel),
		s.within("stride", 1, maxKernel), d.within("dilation", 1, maxKernel),
		c.Padding.within("padding", 0, maxKernel), checkStd(c.Std),
	); err != nil {
		return nil, err
	}
	if c.Groups < 0 || c.In%g != 0 || c.Out%g != 0 {
		return nil, fmt.Errorf("groups %d does not divide in_channels %d and out_channels %d", c.Groups, c.In, c.Out)
	}
	if c.Same && s != (Pair{1, 1}) {
		return nil, fmt.Errorf("padding 'same' needs stride 1, not %v", [2]int(s))
	}
	if c.Flat && c.Kernel[0] != 1 {
		return nil, fmt.Errorf("a conv1d has a kernel of height %d", c.Kernel[0])
	}
	if c.Depth < 0 || c.Depth > 0 && (c.In/g%c.Depth != 0 || c.Flat) {
		return nil, fmt.Errorf("a conv3d of %d taps of depth does not divide the %d channels of a group", c.Depth, c.In/g)
	}
	if x[0] != c.In {
		return nil, fmt.Errorf("in_channels is %d, but the input is %s", c.In, x)
	}
	h := (x[1]+pad[0]+pad[2]-d[0]*(c.Kernel[0]-1)-1)/s[0] + 1
	w := (x[2]+pad[1]+pad[3]-d[1]*(c.Kernel[1]-1)-1)/s[1] + 1
	if x[1]+pad[0]+pad[2] < d[0]*(c.Kernel[0]-1)+1 || x[2]+pad[1]+pad[3] < d[1]*(c.Kernel[1]-1)+1 {
		return nil, fmt.Errorf("the %dx%d window does not fit into %s", c.Kernel[0], c.Kernel[1], x)
	}
	return Shape{c.Out, h, w}, nil
}

// Params implements Op.
func (c *Conv2d) Params() []Spec {
	cg := c.In / max(c.Groups, 1)
	shape := []int{c.Out, cg, c.Kernel[0], c.Kernel[1]}
	if c.Flat {
		shape = []int{c.Out, cg, c.Kernel[1]}
	}
	if c.Depth > 0 {
		shape = []int{c.Out, cg / c.Depth, c.Depth, c.Kernel[0], c.Kernel[1]}
	}
	return weights(shape, cg*c.Kernel[0]*c.Kernel[1], c.Bias, c.Std)
}

// weights are a weight and a bias. By default both are initialised by
// kaiming_uniform(a=sqrt(5)), which is uniform within 1/sqrt(fan_in); with std the weight
// is normal and the bias 0.
func weights(shape []int, fanIn int, bias bool, std float64) []Spec {
	w := Init{Bound: float32(1 / math.Sqrt(float64(max(fanIn, 1))))}
	b := w
	if std > 0 {
		w, b = Init{Std: float32(std)}, Init{}
	}
	ps := []Spec{{Name: "weight", Shape: shape, Init: w}}
	if bias {
		ps = append(ps, Spec{Name: "bias", Shape: shape[:1], Init: b})
	}
	return ps
}

func checkStd(std float64) error {
	if !(std >= 0 && std <= 1e3) {
		return fmt.Errorf("init_std %v is outside 0..1000", std)
	}
	return nil
}

// Cost implements Op.
func (c *Conv2d) Cost(_ []Shape, out Shape) Cost {
	f := 2 * float64(out.Elems()) * float64(c.In/max(c.Groups, 1)*c.Kernel[0]*c.Kernel[1])
	return Cost{f, f, f}
}

// Linear is torch.nn.Linear over the last axis.
type Linear struct {
	In   int  `json:"in_features"`
	Out  int  `json:"out_features"`
	Bias bool `json:"bias"`
	// Std, if not 0, is the deviation of the weight before training; the bias is 0 then.
	// 0 is PyTorch's default.
	Std float64 `json:"init_std,omitempty"`
	// Zero: the weight is 0 before training.
	Zero bool `json:"init_zero,omitempty"`
	// Transposed: the weight is [In,Out], as that of GPT-2's Conv1D.
	Transposed bool `json:"transposed,omitempty"`
}

// Kind implements Op.
func (l *Linear) Kind() string { return "linear" }

// Infer implements Op.
func (l *Linear) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if err := errors.Join((Pair{l.In, l.Out}).within("in_features, out_features", 1, MaxDim), checkStd(l.Std)); err != nil {
		return nil, err
	}
	if len(x) == 0 || x[len(x)-1] != l.In {
		return nil, fmt.Errorf("in_features is %d, but the input is %s", l.In, x)
	}
	y := slices.Clone(x)
	y[len(y)-1] = l.Out
	return y, nil
}

// Params implements Op.
func (l *Linear) Params() []Spec {
	ps := weights([]int{l.Out, l.In}, l.In, l.Bias, l.Std)
	if l.Zero {
		ps[0].Init = Init{}
	}
	if l.Transposed {
		ps[0].Shape = []int{l.In, l.Out}
		if l.Bias {
			ps[1].Shape = []int{l.Out}
		}
	}
	return ps
}

// Cost implements Op.
func (l *Linear) Cost(_ []Shape, out Shape) Cost {
	f := 2 * float64(out.Elems()) * float64(l.In)
	return Cost{f, f, f}
}

// stateless ops own no parameters.
type stateless struct{}

func (stateless) Params() []Spec { return nil }

// perElement costs f operations per output element forward and b backward.
func perElement(out Shape, f, b float64) Cost {
	n := float64(out.Elems())
	return Cost{Forward: f * n, BackInput: b * n}
}

// ReLU is torch.nn.ReLU.
type ReLU struct{ stateless }

// Kind implements Op.
func (*ReLU) Kind() string { return "relu" }

// Infer implements Op.
func (*ReLU) Infer(in []Shape) (Shape, error) { return one(in, -1) }

// Cost implements Op.
func (*ReLU) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 1) }

// MaxPool2d is torch.nn.MaxPool2d over [N,C,H,W].
type MaxPool2d struct {
	stateless
	Kernel  Pair `json:"kernel_size"`
	Stride  Pair `json:"stride,omitzero"` // zero: the kernel size
	Padding Pair `json:"padding,omitzero"`
	Ceil    bool `json:"ceil_mode,omitempty"`
}

// Kind implements Op.
func (*MaxPool2d) Kind() string { return "maxpool2d" }

// Step resolves the default stride.
func (p *MaxPool2d) Step() Pair {
	if p.Stride == (Pair{}) {
		return p.Kernel
	}
	return p.Stride
}

// Infer implements Op.
func (p *MaxPool2d) Infer(in []Shape) (Shape, error) {
	x, err := one(in, 3)
	if err != nil {
		return nil, err
	}
	s := p.Step()
	if err := errors.Join(p.Kernel.within("kernel_size", 1, maxKernel), s.within("stride", 1, maxKernel),
		p.Padding.within("padding", 0, maxKernel)); err != nil {
		return nil, err
	}
	for a := range 2 {
		if 2*p.Padding[a] > p.Kernel[a] {
			return nil, fmt.Errorf("padding %v is more than half of kernel_size %v", [2]int(p.Padding), [2]int(p.Kernel))
		}
		if x[1+a]+2*p.Padding[a] < p.Kernel[a] {
			return nil, fmt.Errorf("the %dx%d window does not fit into %s", p.Kernel[0], p.Kernel[1], x)
		}
	}
	y := Shape{x[0], 0, 0}
	for a := range 2 {
		n := x[1+a] + 2*p.Padding[a] - p.Kernel[a]
		y[1+a] = n/s[a] + 1
		// The last window may lie beyond the end, but not begin in the padding there.
		if p.Ceil && n%s[a] != 0 && y[1+a]*s[a] < x[1+a]+p.Padding[a] {
			y[1+a]++
		}
	}
	return y, nil
}

// Cost implements Op.
func (p *MaxPool2d) Cost(_ []Shape, out Shape) Cost {
	return perElement(out, float64(p.Kernel[0]*p.Kernel[1]), 1)
}

// AvgPool2d is torch.nn.AvgPool2d over [N,C,H,W]; padding counts unless Exclude.
type AvgPool2d struct {
	MaxPool2d
	Exclude bool `json:"exclude_padding,omitempty"`
}

// Kind implements Op.
func (*AvgPool2d) Kind() string { return "avgpool2d" }

// AdaptiveAvgPool2d is torch.nn.AdaptiveAvgPool2d over [N,C,H,W].
type AdaptiveAvgPool2d struct {
	stateless
	Out Pair `json:"output_size"`
}

// Kind implements Op.
func (*AdaptiveAvgPool2d) Kind() string { return "adaptiveavgpool2d" }

// Infer implements Op.
func (p *AdaptiveAvgPool2d) Infer(in []Shape) (Shape, error) {
	x, err := one(in, 3)
	if err != nil {
		return nil, err
	}
	if err := p.Out.within("output_size", 1, MaxDim); err != nil {
		return nil, err
	}
	return Shape{x[0], p.Out[0], p.Out[1]}, nil
}

// Cost implements Op.
func (*AdaptiveAvgPool2d) Cost(in []Shape, _ Shape) Cost {
	n := float64(in[0].Elems())
	return Cost{Forward: n, BackInput: n}
}

// Dropout is torch.nn.Dropout: in training an element is zeroed with probability P
// and scaled by 1/(1-P) otherwise.
type Dropout struct {
	stateless
	P float64 `json:"p"`
}

// Kind implements Op.
func (*Dropout) Kind() string { return "dropout" }

func (d *Dropout) check() error {
	if !(d.P >= 0 && d.P < 1) {
		return fmt.Errorf("p %v is outside 0 <= p < 1", d.P)
	}
	return nil
}

// Infer implements Op.
func (d *Dropout) Infer(in []Shape) (Shape, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	return one(in, -1)
}

// Cost implements Op.
func (*Dropout) Cost(_ []Shape, out Shape) Cost { return perElement(out, 12, 1) }

// BatchNorm is torch.nn.BatchNorm1d over [N,C] (Rank 1) or BatchNorm2d over [N,C,H,W]
// (Rank 3): batch statistics in training, running ones in evaluation.
type BatchNorm struct {
	Rank     int     `json:"-"`
	Features int     `json:"num_features"`
	Eps      float64 `json:"eps"`
	Momentum float64 `json:"momentum"`

	Plain     bool `json:"plain,omitempty"`     // affine=False: without weight and bias
	Untracked bool `json:"untracked,omitempty"` // track_running_stats=False: the batch's statistics in evaluation too
}

// Kind implements Op.
func (b *BatchNorm) Kind() string {
	if b.Rank == 1 {
		return "batchnorm1d"
	}
	return "batchnorm2d"
}

// Infer implements Op.
func (b *BatchNorm) Infer(in []Shape) (Shape, error) {
	x, err := one(in, b.Rank)
	if err != nil {
		return nil, err
	}
	if b.Features < 1 || b.Features != x[0] {
		return nil, fmt.Errorf("num_features is %d, but the input is %s", b.Features, x)
	}
	if !(b.Eps > 0 && b.Eps < 1) || !(b.Momentum >= 0 && b.Momentum <= 1) {
		return nil, fmt.Errorf("eps %v or momentum %v is outside 0..1", b.Eps, b.Momentum)
	}
	return x, nil
}

// Params implements Op.
func (b *BatchNorm) Params() []Spec {
	c := []int{b.Features}
	var ps []Spec
	if !b.Plain {
		ps = append(ps, Spec{Name: "weight", Shape: c, Init: Init{Value: 1}}, Spec{Name: "bias", Shape: c})
	}
	if !b.Untracked {
		ps = append(ps, Spec{Name: "running_mean", Shape: c, Role: Buffer}, Spec{Name: "running_var", Shape: c, Role: Buffer, Init: Init{Value: 1}},
			Spec{Name: "num_batches_tracked", Shape: []int{}, Role: Counter})
	}
	return ps
}

// Cost implements Op.
func (b *BatchNorm) Cost(_ []Shape, out Shape) Cost {
	n := float64(out.Elems())
	return Cost{Forward: 8 * n, BackInput: 9 * n, BackWeight: 0}
}

// Flatten is torch.nn.Flatten: all axes but the batch become one. It costs nothing.
type Flatten struct{ stateless }

// Kind implements Op.
func (*Flatten) Kind() string { return "flatten" }

// Infer implements Op.
func (*Flatten) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	return Shape{x.Elems()}, nil
}

// Cost implements Op.
func (*Flatten) Cost([]Shape, Shape) Cost { return Cost{} }

// Softmax is torch.nn.Softmax(dim=-1).
type Softmax struct{ stateless }

// Kind implements Op.
func (*Softmax) Kind() string { return "softmax" }

// Infer implements Op.
func (*Softmax) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err == nil && len(x) == 0 {
		err = fmt.Errorf("takes at least one axis, got %s", x)
	}
	return x, err
}

// Cost implements Op.
func (*Softmax) Cost(_ []Shape, out Shape) Cost { return perElement(out, 20, 4) }

// Add is x + y of equal shapes: the residual connection.
type Add struct{ stateless }

// Kind implements Op.
func (*Add) Kind() string { return "add" }

// Infer implements Op.
func (*Add) Infer(in []Shape) (Shape, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("takes 2 inputs, has %d", len(in))
	}
	if !slices.Equal(in[0], in[1]) {
		return nil, fmt.Errorf("takes equal shapes, got %s and %s", in[0], in[1])
	}
	return in[0], nil
}

// Cost implements Op.
func (*Add) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 0) }
