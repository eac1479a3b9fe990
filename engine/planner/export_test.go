package planner

import "github.com/ravnest/ravnest/engine/graph"

// Work is what a row of the batch takes, in operations of a product.
func Work(g *graph.Graph) (forward, backward float64) {
	w := nodeWork(g, g.Varying(false), 0, len(g.Nodes))
	return w.forward.operations(), w.backward.operations()
}
