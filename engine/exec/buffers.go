// Which values share a buffer, and how long each lives.

package exec

import (
	"slices"

	"github.com/ravnest/ravnest/engine/autodiff"
)

// union is a set of values that share one buffer.
type union []int

func newUnion(n int) union {
	u := make(union, n)
	for i := range u {
		u[i] = i
	}
	return u
}

func (u union) root(v int) int {
	for u[v] != v {
		u[v] = u[u[v]] // the way is shorter from now on
		v = u[v]
	}
	return v
}

// inputs is the moment at which the model's inputs are filled, before the first node.
const inputs = -1

// buffers is placeBuffers at work. Moment i is forward node i, end is after the last of
// them, end+1+k is backward step k.
type buffers struct {
	*Plan
	needs   []bool // values that need a gradient
	nv, end int

	// Forward values: who reads them last, whether the backward pass does, whether the caller
	// does, and which share a buffer.
	last           []int
	saved, outside []bool
	share          union
	same           union  // views of one value
	half           []bool // kept for the backward pass as operands of products
	halfAt         []int  // where, by the root of those that are views of one
	rerun          rerun
	lives          map[int]*life // by the root of those that share

	// Gradients.
	gshare union
	glives map[int]*life
	addend int // floats of the largest gradient that is computed apart and then added
}

// placeBuffers decides which values share a buffer, how long each lives, and where.
func (p *Plan) placeBuffers(bw autodiff.Backward) {
	nv := p.g.Values()
	b := buffers{
		Plan: p, needs: bw.Needs, nv: nv, end: len(p.g.Nodes),
		last: make([]int, nv), saved: make([]bool, nv), outside: make([]bool, nv), share: newUnion(nv), lives: map[int]*life{},
		gshare: newUnion(nv), glives: map[int]*life{},
	}
	b.findReaders()
	b.rerun = p.findAgain(b.saved, b.outside)
	b.rerun.insert(p)
	b.findKept()
	p.findRounding()
	b.shareValues()
	b.findLives()
	b.shareGrads()
	b.findGradLives()
	b.place()
	p.steps = make([][]int, len(p.ops))
	for k, s := range p.back {
		p.steps[s.Node] = append(p.steps[s.Node], k)
	}
	for _, o := range p.ops {
		p.scr = max(p.scr, o.scratch())
	}
}

// findReaders finds who reads the forward values.
func (b *buffers) findReaders() {
	for v := range b.last {
		b.last[v] = inputs
	}
	for i := range b.g.Nodes {
		for _, v := range b.g.Args(i) {
			b.last[v] = i
		}
	}
	for _, s := range b.back {
		b.reads(s, func(v int, _ reading) { b.saved[v] = true })
	}
	for _, v := range b.cfg.Outputs {
		b.outside[v] = true
		b.last[v] = b.end
		if b.cfg.Train {
			b.saved[v] = true // read by the caller before the backward pass
		}
	}
}

// keepsFloats tells that the backward pass reads v as float32.
func (b *buffers) keepsFloats(v int) bool { return b.saved[v] && !b.half[v] }

// shareValues lets a value take over an argument's buffer where the op is a view, or works in
// place and nobody needs the argument after it.
func (b *buffers) shareValues() {
	// By the root of those that share a buffer: the last node that reads one of them.
	last := slices.Clone(b.last)
	for v := range last {
		if b.keepsFloats(v) || b.outside[v] || v < len(b.g.Inputs) {
			last[v] = b.end // needed to the end
		}
	}
	join := func(y, x int) {
		r := b.share.root(x)
		b.share[y], last[r] = r, max(last[r], last[y])
	}
	for i := range b.g.Nodes {
		args, y := b.g.Args(i), b.g.Result(i)
		switch b.ops[i].alias() {
		case aliasView:
			join(y, args[0])
		case aliasInPlace:
			if k := slices.IndexFunc(args, func(x int) bool { return last[b.share.root(x)] <= i }); k >= 0 {
				join(y, args[k])
			}
		}
	}
}

// findLives finds how long the buffers of forward values live.
func (b *buffers) findLives() {
	born := func(v int) int {
		if v < len(b.g.Inputs) {
			return inputs
		}
		return v - len(b.g.Inputs)
	}
	for v := range b.nv {
		r := b.share.root(v)
		l, ok := b.lives[r]
		if !ok {
			l = &life{size: b.floats(v), born: born(r), dies: born(v)}
			b.lives[r] = l
		}
		l.dies = max(l.dies, b.last[v], born(v))
		l.slot = l.slot || b.keepsFloats(v)
	}
}

// shareGrads lets the gradient of an op's last input take over the buffer of its output's,
// where nothing else adds to it.
func (b *buffers) shareGrads() {
	mult := make([]int, b.nv) // contributions to each gradient
	for _, s := range b.back {
		if s.Kind == autodiff.GradInput && !s.again {
			mult[s.dst]++
		}
	}
	seeded := make([]bool, b.nv)
	for _, v := range b.cfg.Seeds {
		seeded[v] = true
	}
	for _, s := range b.back {
		if s.again || s.Kind != autodiff.GradInput || !s.First || mult[s.dst] != 1 || s.Arg != len(b.g.Args(s.Node))-1 {
			continue // only the last input's gradient may take over the buffer of dy
		}
		if b.ops[s.Node].gradInPlace() && !seeded[s.dst] {
			b.gshare[s.dst] = b.gshare.root(s.dy)
		}
	}
}

// touch notes that the gradient of v is used at a moment; one that crosses from one half of a
// split backward pass to the other is kept in the slot.
func (b *buffers) touch(v, at int, crosses bool) {
	r := b.gshare.root(v)
	l, ok := b.glives[r]
	if !ok {
		l = &life{size: b.floats(v), born: at, dies: at}
		b.glives[r] = l
	}
	l.born, l.dies = min(l.born, at), max(l.dies, at)
	l.slot = l.slot || crosses
}

// findGradLives finds how long the buffers of gradients live.
func (b *buffers) findGradLives() {
	for _, v := range b.cfg.Seeds {
		if b.needs[v] {
			b.touch(v, b.end, false)
		}
	}
	for k, s := range b.back {
		if s.again {
			continue
		}
		at := b.end + 1 + k
		b.touch(s.dy, at, b.cfg.Split && s.Kind == autodiff.GradParams)
		if s.dst >= 0 {
			b.touch(s.dst, at, false)
			if !s.First && !b.ops[s.Node].passes() {
				b.addend = max(b.addend, b.floats(s.dst))
			}
		}
	}
	if b.cfg.InputGrad {
		for v := range b.g.Inputs {
			if b.needs[v] {
				b.touch(v, b.end+1+len(b.back), false)
			}
		}
	}
}

// place gives every buffer its offset: slots keep everything side by side (all of it lives
// until the backward pass); the temp arena is packed by lifetime, largest first.
func (b *buffers) place() {
	p, nv := b.Plan, b.nv
	var temps []*life
	collect := func(m map[int]*life) {
		for v := range nv { // by number: the same plan every time
			if l, ok := m[v]; ok {
				if l.slot {
					l.off, p.slotF = p.slotF, p.slotF+pad(l.size)
				} else {
					temps = append(temps, l)
				}
			}
		}
	}
	collect(b.lives)
	collect(b.glives)
	reruns := b.rerun.lives(p, b.end+1)
	collect(reruns)
	sum := &life{size: b.addend, born: b.end + 1, dies: b.end + 1 + len(p.back)}
	if b.addend > 0 {
		temps = append(temps, sum)
	}
	p.temp = pack(temps)
	p.sum = sum.off

	p.vals, p.kept, p.grads = make([]place, nv), make([]place, nv), make([]place, nv)
	for v := range nv {
		l := b.lives[b.share.root(v)]
		p.vals[v] = place{off: l.off, per: p.g.Shape(v).Elems(), slot: l.slot, once: p.g.Whole(v)}
		p.kept[v] = p.vals[v]
		if b.rerun.again[v] {
			p.kept[v] = place{off: reruns[b.rerun.share.root(v)].off, per: p.vals[v].per, once: p.vals[v].once}
		}
		if b.half[v] {
			p.kept[v] = place{off: b.halfAt[b.same.root(v)], per: p.vals[v].per, half: true, once: p.vals[v].once}
		}
		if l := b.glives[b.gshare.root(v)]; b.needs[v] && l != nil {
			p.grads[v] = place{off: l.off, per: p.vals[v].per, slot: l.slot, once: p.vals[v].once}
		}
	}
}
