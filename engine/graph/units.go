// Where a graph may be cut, and what crosses a cut there.

package graph

import "slices"

// Unit is a run of nodes that is never cut: a node with parameters and the nodes
// without any that follow it. The first unit also holds whatever precedes. Every unit
// reads something from before it and computes something that is used after it, so that
// any of them can begin a stage: what could not is part of its neighbour.
type Unit struct {
	From, To int    // nodes [From, To)
	Name     string // of the node with parameters
	Weight   string // its first state-dict name
	Params   int    // trainable elements
	Cost     Cost   // per row
	Out      int    // elements per row that cross a cut after this unit, forwards
	Back     int    // elements per row of gradients that cross it, backwards
	Largest  int    // elements per row of the largest tensor that crosses it
	// Of Out and Back, what is read as operands of products only.
	OutOperands, BackOperands int
}

// Units lists the graph's units in order: a stage begins at a unit.
func (g *Graph) Units() []Unit {
	readers := g.readers()
	ops := newOperands(g, readers)
	us := g.divide(ops.last)
	for k := range us {
		u := &us[k]
		u.Name = g.Nodes[u.From].Name
		for i := u.From; i < u.To; i++ {
			if p := g.firstSpec(i); p != nil {
				u.Name, u.Weight = g.Nodes[i].Name, g.Nodes[i].Full(p.Name)
				break
			}
		}
		u.Params, u.Cost = g.ParamCount(u.From, u.To), g.Cost(u.From, u.To)
	}
	g.crossings(us, ops)
	return us
}

// firstSpec is node i's first parameter, nil if it has none.
func (g *Graph) firstSpec(i int) *Spec {
	if ps := g.Nodes[i].Op.Params(); len(ps) > 0 {
		return &ps[0]
	}
	return nil
}

// divide finds where units begin and end; last is the last reader of each value.
func (g *Graph) divide(last []int) (us []Unit) {
	parted := g.parts(false)
	g.within(parted)
	begin, named := 0, false    // of the unit that grows, and whether it has parameters
	far, back := -1, g.Values() // its last reader, and the first value that it reads
	for i := 1; i <= len(g.Nodes); i++ {
		named = named || g.firstSpec(i-1) != nil
		far = max(far, last[g.Result(i-1)])
		for _, v := range g.args[i-1] {
			back = min(back, v)
		}
		switch {
		case i == len(g.Nodes):
		case parted[i] || g.firstSpec(i) == nil || !named || i > g.output-len(g.Inputs):
			continue // the unit goes on
		case far < i: // nobody from i on reads what it computes
			continue
		}
		if len(us) > 0 && back >= g.Result(begin) { // it reads nothing from before it
			us[len(us)-1].To = i
		} else {
			us = append(us, Unit{From: begin, To: i})
		}
		begin, named, far, back = i, false, -1, g.Values()
	}
	return us
}

// crossings sets what crosses the cuts behind units.
func (g *Graph) crossings(us []Unit, ops operands) {
	varying := g.Varying(false)
	ends := make([]int, len(us)) // by unit: the node that the next begins with
	for k := range us {
		ends[k] = us[k].To
	}
	// after is the first unit whose end is behind a node.
	after := func(node int) int { k, _ := slices.BinarySearch(ends, node+1); return k }
	out, back, outOperands, backOperands := newTally(us), newTally(us), newTally(us), newTally(us)
	type span struct{ from, to, elems int }
	var spans []span
	for v := range g.Values() {
		// The cuts that v crosses are those behind units [from, to).
		from, to, n := after(v-len(g.Inputs)), after(ops.last[v]), g.shapes[v].Elems()
		if from >= to {
			continue
		}
		spans = append(spans, span{from, to, n})
		out.add(from, to, n)
		outOperands.add(max(from, after(ops.exact[v])), to, n)
		if !varying[v] {
			continue
		}
		back.add(from, to, n)
		if ops.gradient[v] { // as long as all who read v are behind the cut
			backOperands.add(from, after(ops.first[v]), n)
		}
	}
	for k := range us {
		u := &us[k]
		u.Out, u.OutOperands, u.Back, u.BackOperands = out.next(k), outOperands.next(k), back.next(k), backOperands.next(k)
	}
	// The largest first: each unit is set once.
	slices.SortFunc(spans, func(a, b span) int { return b.elems - a.elems })
	unset := newRuns(len(us))
	for _, s := range spans {
		for k := unset.next(s.from); k < s.to; k = unset.next(k) {
			us[k].Largest = s.elems
			unset.drop(k)
		}
	}
}

// tally is a sum for each unit, as what it is more than that of the unit before.
type tally struct {
	more []int
	sum  int
}

func newTally(us []Unit) *tally { return &tally{more: make([]int, len(us)+1)} }

// add adds n to the sums of units [from, to).
func (t *tally) add(from, to, n int) {
	if from < to {
		t.more[from] += n
		t.more[to] -= n
	}
}

// next is the sum of unit k, once that of the unit before was asked for.
func (t *tally) next(k int) int {
	t.sum += t.more[k]
	return t.sum
}

// runs are numbers below n, some of which have been dropped.
type runs []int

func newRuns(n int) runs {
	r := make(runs, n+1)
	for i := range r {
		r[i] = i
	}
	return r
}

// next is the first number from k on that has not been dropped, n if there is none.
func (r runs) next(k int) int {
	for r[k] != k {
		r[k] = r[r[k]]
		k = r[k]
	}
	return k
}

func (r runs) drop(k int) { r[k] = k + 1 }

// Join makes one unit of neighbouring units, which must not be empty.
func (g *Graph) Join(us ...Unit) Unit {
	u := us[0]
	for _, v := range us[1:] {
		if u.Weight == "" {
			u.Name, u.Weight = v.Name, v.Weight
		}
		u.To, u.Out, u.Back, u.Largest, u.OutOperands, u.BackOperands = v.To, v.Out, v.Back, v.Largest, v.OutOperands, v.BackOperands
	}
	u.Params, u.Cost = g.ParamCount(u.From, u.To), g.Cost(u.From, u.To)
	return u
}
