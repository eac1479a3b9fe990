package exec_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// drawn is a graph of about n nodes over rows of 6 elements, with views, parts that meet again, and
// tied and frozen parameters.
func drawn(t *testing.T, seed uint64, n int) *graph.Graph {
	const width = 6
	r := rand.New(rand.NewPCG(seed, 1))
	var nodes []graph.Node
	vals := []string{"x"} // with rows of 6 elements
	pick := func() string {
		if r.IntN(4) == 0 {
			return vals[r.IntN(len(vals))]
		}
		return vals[len(vals)-1-r.IntN(min(2, len(vals)))]
	}
	add := func(op graph.Op, in ...string) string {
		nodes = append(nodes, graph.Node{Name: fmt.Sprint("n", len(nodes)), Op: op, Inputs: in})
		return nodes[len(nodes)-1].Name
	}
	linear := func() string {
		y := add(&graph.Linear{In: width, Out: width, Bias: r.IntN(2) == 0}, pick())
		switch l := &nodes[len(nodes)-1]; r.IntN(6) {
		case 0:
			l.Names = map[string]string{"weight": fmt.Sprint("tied", r.IntN(3))}
		case 1:
			l.Frozen = []string{"weight"}
		}
		return y
	}
	for len(nodes) < n {
		var y string
		switch r.IntN(13) {
		case 0:
			y = add(&graph.Add{}, pick(), pick())
		case 1:
			y = add(&graph.Flatten{}, add(&graph.Permute{Axes: []int{1, 0}}, add(&graph.Reshape{Shape: []int{2, 3}}, pick())))
		case 2, 3: // two views
			x := pick()
			y = add(&graph.Add{}, add(&graph.Linear{In: width, Out: width}, add(&graph.Flatten{}, x)), add(&graph.Linear{In: width, Out: width}, add(&graph.Flatten{}, x)))
		case 4:
			y = add(&graph.Slice{Start: r.IntN(width), Count: width}, add(&graph.Concat{}, pick(), pick()))
		case 5:
			y = add(&graph.LayerNorm{Shape: []int{width}, Eps: 1e-5, Affine: r.IntN(2) == 0}, pick())
		case 6:
			y = add(&graph.GELU{Approximate: "none"}, pick())
		case 7:
			y = add(&graph.Dropout{P: 0.5}, pick())
		case 8:
			y = add(&graph.Softmax{}, pick())
		case 9:
			y = add(&graph.BatchNorm{Rank: 1, Features: width, Eps: 1e-5, Momentum: 0.1}, pick())
		case 10:
			y = add(&graph.ReLU{}, pick())
		default:
			y = linear()
		}
		vals = append(vals, y)
	}
	linear()
	g, err := graph.Sequential("drawn", graph.Input{Name: "x", Shape: graph.Shape{width}}, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestRecomputeDrawn: in any graph, what is computed again has the bits of what is kept.
func TestRecomputeDrawn(t *testing.T) {
	for seed := range uint64(300) {
		g := drawn(t, seed, 3+int(seed)%40)
		for _, precision := range []exec.Precision{exec.Float32, exec.BF16} {
			a := build(t, g, 4, exec.Config{Precision: precision})
			a.forward()
			a.e.Backward(0, a.st.Params, a.grads, false)
			for _, c := range []exec.Config{{Recompute: exec.Selective}, {Recompute: exec.Full}, {Recompute: exec.Full, Split: true}} {
				c.Precision = precision
				b := build(t, g, 4, c)
				b.forward()
				if c.Split {
					b.e.BackwardInput(0, b.st.Params)
					b.e.TrashAll()
					b.e.BackwardWeight(0, b.st.Params, b.grads, false)
				} else {
					b.e.Trash()
					b.e.Backward(0, b.st.Params, b.grads, false)
				}
				bits(t, fmt.Sprintf("seed %d, %+v: gradients", seed, c), a.grads, b.grads)
			}
			if t.Failed() {
				return
			}
		}
	}
}
