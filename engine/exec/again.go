// Computing again what the backward pass reads, in place of keeping it: normalisations and
// activations cost little, and what they made is as large as what they read. Their
// inputs are kept anyway, for their own gradients.

package exec

// rerun is what is computed again.
type rerun struct {
	again []bool // by value: not kept, but computed where the backward pass first reads it
	share union  // whose buffer a value lies in then
}

// findAgain chooses values to compute again: chains of cheap operations of one input that
// begin at a value that is kept. It marks them as not saved.
func (p *Plan) findAgain(saved, outside []bool) rerun {
	g := p.g
	r := rerun{again: make([]bool, g.Values()), share: newUnion(g.Values())}
	if !p.cfg.Recompute {
		return r
	}
	can := make([]bool, g.Values())
	for i := range g.Nodes {
		x, y := g.Args(i)[0], g.Result(i)
		can[y] = p.ops[i].cheap() && !outside[y] && (saved[x] || can[x])
	}
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		x, y := g.Args(i)[0], g.Result(i)
		if !can[y] || !(saved[y] || r.again[y]) {
			continue
		}
		r.again[y] = true
		switch {
		case !can[x] || saved[x]:
		case r.again[x]:
			r.share[x] = x // two values are made of it
		default:
			// It is only made for y, which may take over its buffer.
			if r.again[x] = true; p.ops[i].alias() == aliasInPlace {
				r.share[x] = r.share.root(y)
			}
		}
	}
	for v, again := range r.again {
		saved[v] = saved[v] && !again
	}
	return r
}

// insert puts the steps that compute values again before the first step of each half of
// the backward pass that reads them. Between the halves other micro-batches may have used
// the arena.
func (r *rerun) insert(p *Plan) {
	var steps []step
	done := make([]bool, len(r.again))
	var compute func(v int)
	compute = func(v int) {
		if !r.again[v] || done[v] {
			return
		}
		done[v] = true
		s := step{again: true, dst: v}
		s.Node = v - len(p.g.Inputs)
		compute(p.g.Args(s.Node)[0])
		steps = append(steps, s)
	}
	half := len(p.back)
	for k, s := range p.back {
		if k == p.params {
			half = len(steps)
			clear(done)
		}
		p.reads(s, compute)
		steps = append(steps, s)
	}
	if p.params == len(p.back) {
		half = len(steps)
	}
	p.back, p.params = steps, half
}

// lives tells how long the buffers of values that are computed again are needed, by the
// value that they are named after; moment begin is the first step of the backward pass.
func (r *rerun) lives(p *Plan, begin int) map[int]*life {
	ls := map[int]*life{}
	touch := func(v, at int) {
		if !r.again[v] {
			return
		}
		v = r.share.root(v)
		if ls[v] == nil {
			ls[v] = &life{size: p.floats(v), born: at}
		}
		ls[v].dies = at
	}
	for k, s := range p.back {
		p.reads(s, func(v int) { touch(v, begin+k) })
		if s.again {
			touch(s.dst, begin+k)
		}
	}
	return ls
}

// reads calls f with every forward value that a backward step reads.
func (p *Plan) reads(s step, f func(v int)) {
	if s.again {
		f(p.g.Args(s.Node)[0])
		return
	}
	x, y := p.ops[s.Node].saves(s.Kind)
	if x {
		for _, v := range p.g.Args(s.Node) {
			f(v)
		}
	}
	if y {
		f(s.dy)
	}
}
