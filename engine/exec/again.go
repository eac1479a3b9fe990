// Computing again what the backward pass reads, in place of keeping it: less memory for
// more work, with the same bits (Chen et al., arXiv 1604.06174).

package exec

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/autodiff"
)

// Recompute says how much of the forward pass is computed again in the backward pass.
type Recompute uint8

// The amounts.
const (
	KeepAll Recompute = iota
	// Selective computes normalisations and activations again: what they make is as large
	// as what they read, which is kept for their own gradients, and they cost little.
	Selective
	// Full keeps few values and computes everything between them again, a third more work.
	Full
)

// ParseRecompute finds an amount by its job name: "", "selective" or "full".
func ParseRecompute(name string) (Recompute, error) {
	switch name {
	case "":
		return KeepAll, nil
	case "selective":
		return Selective, nil
	case "full":
		return Full, nil
	}
	return 0, fmt.Errorf("%w: recompute %q", ErrConfig, name)
}

// rerun is what is computed again.
type rerun struct {
	again []bool // by value: not kept, but computed where the backward pass first reads it
	share union  // whose buffer a value lies in then
}

// findAgain chooses the values to compute again. It changes saved accordingly: a value is
// computed again, or kept, or not read.
func (p *Plan) findAgain(saved, outside []bool) rerun {
	g := p.g
	r := rerun{again: make([]bool, g.Values()), share: newUnion(g.Values())}
	if p.cfg.Recompute == KeepAll {
		return r
	}
	var keep []bool
	if p.cfg.Recompute == Full {
		keep = p.checkpoints(saved)
	}
	can := make([]bool, g.Values())
	for i := range g.Nodes {
		y := g.Result(i)
		if len(g.Args(i)) == 0 {
			continue // a parameter
		}
		x := g.Args(i)[0]
		switch {
		case outside[y]:
		case p.ops[i].alias() == aliasView:
			can[y] = can[x]
		case keep != nil:
			can[y] = !keep[y]
		default:
			can[y] = p.ops[i].cheap() && (saved[x] || can[x])
		}
	}
	readers := make([]int, g.Values())
	for i := range g.Nodes {
		for _, x := range g.Args(i) {
			readers[x]++
		}
	}
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		args, y := g.Args(i), g.Result(i)
		if !can[y] || !(saved[y] || r.again[y]) {
			continue
		}
		// A view shares its input's buffer; an op that works in place may take over that of
		// an input which nobody else reads, and which has a buffer of its own.
		over := -1
		switch p.ops[i].alias() {
		case aliasView:
			over = 0
		case aliasInPlace:
			over = slices.IndexFunc(args, func(x int) bool {
				return can[x] && !saved[x] && readers[x] == 1 && p.ops[x-len(g.Inputs)].alias() != aliasView
			})
		}
		if over >= 0 { // a value with several views, with all of them
			r.share[r.share.root(args[over])] = r.share.root(y)
		}
		saved[y], r.again[y] = false, true
		for _, x := range args {
			r.again[x] = r.again[x] || can[x]
			saved[x] = saved[x] || !can[x]
		}
	}
	return r
}

// checkpoints chooses values to keep from those through which alone the nodes before reach
// the nodes after: such that what is kept in the slots and the largest stretch between
// take the least memory.
func (p *Plan) checkpoints(saved []bool) []bool {
	g := p.g
	last := make([]int, g.Values()) // node that reads a value last
	for i := range g.Nodes {
		for _, v := range g.Args(i) {
			last[v] = i
		}
	}
	sums := make([]int, g.Values()+1) // floats of saved values before each
	for v := range saved {
		sums[v+1] = sums[v]
		if saved[v] {
			sums[v+1] += p.floats(v)
		}
	}
	var narrow []int
	far := -1 // last reader of the values before
	varying := g.Varying(true)
	for i := range g.Nodes {
		v := g.Result(i)
		if !varying[v] {
			continue // a mask, which is computed again from the input
		}
		if far <= i && last[v] > i && p.ops[i].alias() != aliasView {
			narrow = append(narrow, v)
		}
		far = max(far, last[v])
	}
	const tries = 32
	var best []bool
	least := -1
	for t := 1; t <= tries; t++ {
		keep, cost := p.stretches(narrow, sums, sums[g.Values()]/tries*t)
		if least < 0 || cost < least {
			best, least = keep, cost
		}
	}
	return best
}

// stretches keeps the last narrow value before what is saved since the one before would
// exceed size floats, and tells what that costs.
func (p *Plan) stretches(narrow, sums []int, size int) (keep []bool, cost int) {
	keep = make([]bool, p.g.Values())
	kept, most, from := 0, 0, 0
	for k, v := range narrow {
		next := p.g.Values()
		if k+1 < len(narrow) {
			next = narrow[k+1]
		}
		if sums[next]-sums[from] > size {
			keep[v] = true
			kept += p.floats(v)
			most = max(most, sums[v]-sums[from])
			from = v + 1
		}
	}
	most = max(most, sums[p.g.Values()]-sums[from])
	return keep, kept*p.cfg.Slots + most
}

// insert puts the steps that compute values again before the first step of each half of
// the backward pass that reads them. Between the halves other micro-batches may have used
// the arena.
func (r *rerun) insert(p *Plan) {
	var steps []step
	done := make([]bool, len(r.again))
	// What a value is computed from comes before it. The values under way are a list and no calls
	// within calls: a browser's stack is short, and a graph may be one long chain.
	type visit struct{ v, args int } // args: those that were looked at
	var way []visit
	enter := func(v int) {
		if r.again[v] && !done[v] {
			done[v], way = true, append(way, visit{v: v})
		}
	}
	compute := func(v int, _ reading) {
		for enter(v); len(way) > 0; {
			at := &way[len(way)-1]
			i := at.v - len(p.g.Inputs)
			if args := p.g.Args(i); at.args < len(args) {
				at.args++
				enter(args[at.args-1])
				continue
			}
			steps = append(steps, step{Instr: autodiff.Instr{Node: i}, again: true, dst: at.v})
			way = way[:len(way)-1]
		}
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
		p.reads(s, func(v int, _ reading) { touch(v, begin+k) })
		if s.again {
			touch(s.dst, begin+k)
		}
	}
	return ls
}

// reads calls f with every forward value that a backward step reads, and what it needs to know
// of it.
func (p *Plan) reads(s step, f func(v int, r reading)) {
	x, y := true, false
	if !s.again {
		x, y = p.ops[s.Node].saves(s.Kind)
	}
	if x {
		for k, v := range p.g.Args(s.Node) {
			f(v, p.ops[s.Node].reads(k))
		}
	}
	if y {
		f(s.dy, p.ops[s.Node].reads(-1))
	}
}
