// Which models train to the same bits however a batch is split into micro-batches.

package exec

import "github.com/ravnest/ravnest/engine/graph"

// Splits tells whether the gradients of a batch are the same to the bit however many
// micro-batches it comes in: every sum over rows goes on, row after row, where the last
// micro-batch ended. If not, node is one whose gradients are not, batch norm before others.
// Batch norm has statistics of a micro-batch, samples are compared with those of theirs, and convolutions sum over images in blocks.
func Splits(g *graph.Graph) (node string, ok bool) {
	if node, compares := g.Compares(); compares {
		return node, false
	}
	for _, n := range g.Nodes {
		if _, bn := n.Op.(*graph.BatchNorm); bn {
			return n.Name, false
		}
	}
	for _, n := range g.Nodes {
		switch n.Op.(type) {
		case *graph.Linear, *graph.Linears, *graph.LayerNorm, *graph.Embedding, *graph.Position:
			continue
		}
		if len(n.Op.Params()) > 0 {
			return n.Name, false // an op that has not been shown to
		}
	}
	return "", true
}
