package planner

import "github.com/ravnest/ravnest/engine/graph"

// Work is what a row of the batch takes in micro-batches of so many, in operations of a product.
func Work(g *graph.Graph, rows int) (forward, backward float64) {
	w := nodeWork(g, g.Varying(false), 0, len(g.Nodes))
	more := w.far.of(rows)
	return w.forward.operations() + cost{vector: more.forward}.operations(), w.backward.operations() + cost{vector: more.backward}.operations()
}
