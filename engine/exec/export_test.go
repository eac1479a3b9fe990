package exec

import (
	"math"
	"testing"
)

// Trash overwrites what the seeds of a backward pass do not occupy of the arena, as another
// micro-batch may.
func (e *Exec) Trash() {
	var seeds [][]float32
	for _, v := range e.p.cfg.Seeds {
		seeds = append(seeds, append([]float32(nil), e.f.at(e.p.grads[v])...))
	}
	for i := range e.temp {
		e.temp[i] = float32(math.NaN())
	}
	for i, v := range e.p.cfg.Seeds {
		copy(e.f.at(e.p.grads[v]), seeds[i])
	}
}

// TrashAll overwrites the whole arena, as other micro-batches do between the halves of a split
// backward pass.
func (e *Exec) TrashAll() {
	for i := range e.temp {
		e.temp[i] = float32(math.NaN())
	}
}

// ShareAll makes every plan that is made, and every operation that may be shared among
// threads, shared, until the test ends.
func ShareAll(t testing.TB) {
	step, floats := leastStep, leastShared
	leastStep, leastShared = 0, 0
	t.Cleanup(func() { leastStep, leastShared = step, floats })
}

// Plainly makes every plan that is made round copies of all operands, and keep float32 for the
// backward pass, until it is called again.
func Plainly() (undo func()) {
	keepOperands = false
	return func() { keepOperands = true }
}

// Halves tells how many values a plan keeps as operands, and how many it rounds in place.
func (p *Plan) Halves() (kept, here int) {
	for _, ks := range p.keeps {
		for _, k := range ks {
			if k.half >= 0 {
				kept++
			}
			if k.here {
				here++
			}
		}
	}
	return kept, here
}

// Multiplies tells whether node i reads input arg as an operand of products.
func (p *Plan) Multiplies(i, arg int) bool { return p.ops[i].reads(arg) == asOperand }
