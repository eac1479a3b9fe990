// Precision of products: of matrices, of convolutions and in attention, forward and both
// gradients.

package exec

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Precision is that of the operands of products. Sums and everything else are float32.
type Precision uint8

// The precisions.
const (
	Float32 Precision = iota
	// BF16 rounds operands as [kernel.RoundBF16] does. The bits do not depend on whether the
	// machine fuses multiply-adds.
	BF16
)

// ParsePrecision finds a precision by its job name: "" and "fp32", or "bf16".
func ParsePrecision(name string) (Precision, error) {
	switch name {
	case "", "fp32":
		return Float32, nil
	case "bf16":
		return BF16, nil
	}
	return 0, fmt.Errorf("%w: precision %q", ErrConfig, name)
}

// reading is what an operation needs to know of a value that it reads.
type reading uint8

const (
	exactly   reading = iota // the float32 values
	asOperand                // the values as operands of products
	bySign                   // which of them are positive
)

// product is what operations have whose inputs are operands of products.
type product struct {
	base
	p *Plan
}

func (o product) reads(arg int) reading {
	if o.p.cfg.Precision == Float32 || arg < 0 {
		return exactly
	}
	return asOperand
}

// rounding says how a step of the backward pass comes by the operands of a gradient.
type rounding uint8

const (
	roundCopy rounding = iota // in scratch: somebody reads the gradient as it is later
	roundHere                 // in place: nobody does
	roundDone                 // a step before has rounded in place
)

// keeping is what happens to a value as soon as it is there.
type keeping struct {
	v    int
	half int  // offset in the slot's words of what is kept for the backward pass; -1: nothing
	here bool // rounded in place, as only products read it
}

// uses are the ways in which a value, and all that are views of it, are read.
type uses struct {
	saved                      bool // by the backward pass
	outside                    bool // by the caller
	operand, exact             bool // in the forward pass
	floats                     bool // there, as an operand that lies in float32
	backSign, backExact, again bool // in the backward pass; again: it is computed again there
}

// half tells whether the backward pass can do with operands and signs.
func (u *uses) half() bool { return u.saved && !u.backExact && !u.again }

// here tells whether the value can be rounded in place, and somebody reads it there. Signs survive
// in what is kept apart only.
func (u *uses) here() bool {
	return u.operand && (u.floats || !u.half()) && !u.exact && !u.outside && !u.backExact && (u.half() || !u.backSign)
}

// keepOperands is off in tests only: every product rounds copies of its operands then, which is
// what the bits are defined by.
var keepOperands = true

// findKept finds which values are kept as operands, in half the memory, or are rounded in place.
func (b *buffers) findKept() {
	b.same = newUnion(b.nv)
	b.half, b.halfAt, b.Plan.rounded = make([]bool, b.nv), make([]int, b.nv), make([]bool, b.nv)
	if b.cfg.Precision == Float32 || !keepOperands {
		return
	}
	for i := range b.g.Nodes {
		if b.ops[i].alias() == aliasView {
			b.same[b.g.Result(i)] = b.same.root(b.g.Args(i)[0])
		}
	}
	all := make([]uses, b.nv)
	for i := range b.g.Nodes {
		if b.ops[i].alias() == aliasView {
			continue
		}
		for k, v := range b.g.Args(i) {
			u := &all[b.same.root(v)]
			if b.ops[i].reads(k) == asOperand {
				_, convolves := b.ops[i].(*conv) // and reads what is kept
				u.operand, u.floats = true, u.floats || !convolves
			}
			u.exact = u.exact || b.ops[i].reads(k) != asOperand
		}
	}
	for _, s := range b.back {
		b.Plan.reads(s, func(v int, r reading) {
			u := &all[b.same.root(v)]
			u.saved = u.saved || b.saved[v]
			u.backSign = u.backSign || r == bySign
			u.backExact = u.backExact || r == exactly
		})
	}
	for v := range b.nv {
		u := &all[b.same.root(v)]
		u.outside, u.again = u.outside || b.outside[v], u.again || b.rerun.again[v]
	}
	b.Plan.keeps = make([][]keeping, len(b.g.Nodes)+1)
	for v := range b.nv {
		u := &all[b.same.root(v)]
		b.half[v], b.Plan.rounded[v] = u.half(), u.here()
		if b.same.root(v) != v || !u.half() && !u.here() {
			continue
		}
		k := keeping{v: v, half: -1, here: u.here()}
		if u.half() {
			k.half = b.words(kernel.PackedBF16(b.floats(v)))
			b.halfAt[v] = k.half
		}
		at := max(0, v-len(b.g.Inputs)+1)
		b.Plan.keeps[at] = append(b.Plan.keeps[at], k)
	}
}

// findRounding finds how each step of the backward pass comes by operands. A step that reads a
// gradient as it is comes before those that round it: the sum for a bias does in the joined
// order, and in the second half of a split one.
func (p *Plan) findRounding() {
	if p.cfg.Precision == Float32 || !keepOperands {
		return
	}
	later := make([]bool, len(p.g.Nodes)) // the second half reads the gradient as it is
	for _, s := range p.back[p.params:] {
		later[s.Node] = later[s.Node] || !s.again && p.ops[s.Node].sums()
	}
	done := make([]bool, len(p.g.Nodes))
	for k := range p.back {
		s := &p.back[k]
		switch {
		case s.again:
		case done[s.Node]:
			s.rounding = roundDone
		case k >= p.params || !later[s.Node]:
			s.rounding, done[s.Node] = roundHere, true
		}
	}
	p.roundAtSource()
}

// roundAtSource has batch norms round the gradients that they write, while these are in the cache,
// where only products read them.
func (p *Plan) roundAtSource() {
	seeded := make([]bool, p.g.Values())
	for _, v := range p.cfg.Seeds {
		seeded[v] = true
	}
	source := make([]*step, p.g.Values()) // the only step that writes a value's gradient
	for k := range p.back {
		s := &p.back[k]
		if s.again || s.Kind != autodiff.GradInput {
			continue
		}
		if _, norm := p.ops[s.Node].(*batchnorm); norm && s.First && !seeded[s.dst] {
			source[s.dst] = s
		} else {
			source[s.dst] = nil
		}
	}
	for k := range p.back {
		s := &p.back[k]
		from := source[s.dy]
		if s.again || from == nil || s.rounding == roundCopy || p.ops[s.Node].sums() {
			continue
		}
		if _, multiplies := p.ops[s.Node].(*conv); multiplies {
			from.roundOut, s.rounding = true, roundDone
		}
	}
}

// keep does to a value what is due once it is there: step 0 is before the first node, step i+1
// after node i. Values that are computed again are not kept.
func (f *frame) keep(step int) {
	if f.e.p.keeps == nil {
		return
	}
	for _, k := range f.e.p.keeps[step] {
		x := f.at(f.e.p.vals[k.v])
		if f.again {
			x = f.at(f.vals[k.v])
		}
		team := f.sharing(len(x))
		switch {
		case k.half >= 0:
			kernel.PackBF16(team, f.words(k.half, kernel.PackedBF16(len(x))), x, k.here)
		case k.here:
			kernel.RoundBF16(team, x, x)
		}
	}
}

// halves are the words of what is kept at p of the whole micro-batch.
func (f *frame) halves(p place) []uint32 {
	n := p.per
	if !p.once {
		n *= f.slot.batch.Rows
	}
	return f.words(p.off, kernel.PackedBF16(n))
}

// operand is a node's input as operands of products: as it is, or a copy at the front of scratch.
// rest is the scratch that is left.
func (o *product) operand(f *frame, arg int, scratch []float32) (operand, rest []float32) {
	v := f.e.p.g.Args(o.i)[arg]
	p := f.vals[v]
	if p.half {
		n := p.per
		if !p.once {
			n *= f.rows
		}
		kernel.UnpackBF16(f.sharing(n), scratch[:n], f.halves(p))
		return scratch[:n], scratch[pad(n):]
	}
	if o.p.cfg.Precision == Float32 || o.p.rounded[v] {
		return f.at(p), scratch
	}
	return f.rounded(f.at(p), scratch)
}

// gradient is the gradient of a node's output as operands of products.
func (o *product) gradient(f *frame, scratch []float32) (operand, rest []float32) {
	dy := f.dy(o.i)
	switch {
	case o.p.cfg.Precision == Float32 || f.rounding == roundDone:
	case f.rounding == roundHere:
		kernel.RoundBF16(f.sharing(len(dy)), dy, dy)
	default:
		return f.rounded(dy, scratch)
	}
	return dy, scratch
}

// rounds tells whether products round what they are given as it is.
func (o *product) rounds() bool { return o.p.cfg.Precision != Float32 }

// gemmScratch is the floats of scratch of a product whose B may be rounded on its way.
func (o *product) gemmScratch(m, n, k int) int {
	if o.rounds() {
		return kernel.GemmScratchBF16(m, n, k)
	}
	return kernel.GemmScratch(m, n, k)
}

// rounded is a copy of x as operands at the front of scratch.
func (f *frame) rounded(x, scratch []float32) (operand, rest []float32) {
	y := scratch[:len(x)]
	kernel.RoundBF16(f.sharing(len(x)), y, x)
	return y, scratch[pad(len(x)):]
}

// copies is the floats of scratch that operands take: of the inputs, of the gradient, and w more
// where weights are multiplied. At most, over the forward pass and both gradients.
func (o *product) copies(w int) int {
	p := o.p
	if p.cfg.Precision == Float32 {
		return 0
	}
	y := p.g.Result(o.i)
	most := 0
	count := func(vals []place, gradient bool, weights int, args ...int) {
		n := 0
		if weights > 0 {
			n = pad(weights)
		}
		if gradient {
			n += pad(p.floats(y))
		}
		for _, k := range args {
			v := p.g.Args(o.i)[k]
			c, convolves := p.ops[o.i].(*conv)
			switch {
			case convolves && p.kept[v].half:
				n += pad(c.room())
			case vals[v].half || !p.rounded[v] && p.ops[o.i].reads(k) == asOperand:
				n += pad(p.floats(v))
			}
		}
		most = max(most, n)
	}
	var all []int
	for k := range p.g.Args(o.i) {
		all = append(all, k)
	}
	count(p.vals, false, w, all...)
	for _, k := range p.steps[o.i] {
		s := &p.back[k]
		if s.again { // from what is kept
			count(p.kept, false, w, all...)
			continue
		}
		x, _ := p.ops[o.i].saves(s.Kind)
		args := all
		switch {
		case !x:
			args = nil
		case s.Kind == autodiff.GradInput && len(all) == 2 && p.ops[o.i].reads(1) == asOperand:
			args = []int{1 - s.Arg} // the other factor
		}
		weights := w
		if s.Kind == autodiff.GradParams {
			weights = 0
		}
		count(p.kept, s.rounding == roundCopy, weights, args...)
	}
	return most
}
