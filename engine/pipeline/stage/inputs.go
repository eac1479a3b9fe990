// How rows of a data set enter a model: a row holds a row of each of the model's inputs, one
// after the other.

package stage

import (
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// Inputs divides rows of a data set among the inputs of a model.
type Inputs struct {
	per []int     // elements of a row of each input
	buf []float32 // whole rows; nil: there is one input
}

// NewInputs returns the inputs of g for at most rows rows at once.
func NewInputs(g *graph.Graph, rows int) *Inputs {
	in := &Inputs{}
	for _, x := range g.Inputs {
		in.per = append(in.per, x.Shape.Elems())
	}
	if len(in.per) > 1 {
		in.buf = make([]float32, rows*g.InputElems())
	}
	return in
}

// InputBytes is the memory that NewInputs takes.
func InputBytes(g *graph.Graph, rows int) int {
	if len(g.Inputs) < 2 {
		return 0
	}
	return 4 * rows * g.InputElems()
}

// Feed copies rows of x to the inputs of e, which are its first values.
func (in *Inputs) Feed(e *exec.Exec, slot int, x Rows, rows []int32) {
	if in.buf == nil {
		x.Gather(e.Value(slot, 0, len(rows)), rows)
		return
	}
	total := 0
	for _, n := range in.per {
		total += n
	}
	v := in.buf[:len(rows)*total]
	x.Gather(v, rows)
	at := 0
	for k, n := range in.per {
		dst := e.Value(slot, k, len(rows))
		for r := range rows {
			copy(dst[r*n:][:n], v[r*total+at:])
		}
		at += n
	}
}
