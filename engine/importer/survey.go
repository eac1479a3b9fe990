// Who makes a program's tensors, who reads them, and which share elements.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// survey is what a graph of a program says of that, looked up once: a large model writes in place
// at each of its layers.
type survey struct {
	nodes []pt2.Node
	maker map[string]int      // the node that makes a tensor
	taken map[string][]int    // the nodes that take it, ascending
	owner map[string]string   // the tensor that has its elements for its own
	kin   map[string][]string // by owner: those that have its elements, itself included, the last read first
	makes map[string][]int    // by owner: the nodes that make one of those, ascending

	trains  bool // a layer was in training mode
	divides bool // something is divided into a buffer, as power iterations do
}

// survey is that of the current graph.
func (l *lowering) survey() *survey {
	if a := l.surveys[l.graph]; a != nil {
		return a
	}
	a := &survey{
		nodes: l.graph.Nodes, maker: map[string]int{}, taken: map[string][]int{},
		owner: map[string]string{}, kin: map[string][]string{}, makes: map[string][]int{},
	}
	l.surveys[l.graph] = a
	for i := range a.nodes {
		n := &a.nodes[i]
		switch base(n) {
		case "batch_norm":
			a.trains = a.trains || l.flag(n, "training", false)
		case "dropout":
			a.trains = a.trains || l.flag(n, "train", false)
		case "div":
			_, out := arg(n, "out")
			a.divides = a.divides || out
		}
		for _, out := range outputs(n) {
			a.maker[out] = i
		}
		for _, arg := range n.Args {
			for _, x := range arg.Names {
				a.taken[x] = append(a.taken[x], i)
			}
		}
	}
	for _, x := range l.outputs {
		a.taken[x] = append(a.taken[x], len(a.nodes))
	}
	for i := range a.nodes {
		for _, out := range outputs(&a.nodes[i]) {
			if o := a.of(out); len(a.makes[o]) == 0 || a.makes[o][len(a.makes[o])-1] != i {
				a.makes[o] = append(a.makes[o], i)
			}
		}
	}
	for x := range a.taken {
		o := a.of(x)
		a.kin[o] = append(a.kin[o], x)
	}
	last := func(x string) int { return a.taken[x][len(a.taken[x])-1] }
	for _, kin := range a.kin {
		slices.SortFunc(kin, func(x, y string) int { return last(y) - last(x) })
	}
	return a
}

// parent is the tensor whose elements a tensor shares, and the node that made it; "" where they
// are its own.
func (a *survey) parent(name string) (string, *pt2.Node) {
	i, ok := a.maker[name]
	if !ok {
		return "", nil
	}
	n := &a.nodes[i]
	op := base(n)
	if !writes(op) && !slices.Contains(views, op) && !slices.Contains(copies, op) {
		return "", nil
	}
	return first(n), n
}

// of is the owner of a tensor.
func (a *survey) of(name string) string {
	way := []string{name}
	for {
		x := way[len(way)-1]
		p, known := a.owner[x]
		if !known {
			p, _ = a.parent(x)
		}
		if p == "" || known {
			if p == "" {
				p = x
			}
			for _, w := range way {
				a.owner[w] = p
			}
			return p
		}
		if way = append(way, p); len(way) > len(a.nodes)+1 {
			fail("the archive has a tensor %q that is made of itself", name)
		}
	}
}

// readBehind are the tensors with the elements of another that node at or one before it made, and
// that something behind it takes.
func (a *survey) readBehind(name string, at int) map[string]bool {
	read := map[string]bool{}
	for _, x := range a.kin[a.of(name)] {
		if taken := a.taken[x]; taken[len(taken)-1] <= at {
			break // and so are the others
		}
		if i, made := a.maker[x]; x != name && (!made || i < at) {
			read[x] = true
		}
	}
	return read
}
