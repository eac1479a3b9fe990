package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// tangled is a graph of n nodes that read any before them, some of which have parameters, some of
// these tied.
func tangled(t *testing.T, seed uint64, n int) *Graph {
	r := rand.New(rand.NewPCG(seed, 1))
	vals := []string{"x", "y"}
	var nodes []Node
	for i := range n {
		pick := func() string { return vals[max(0, len(vals)-1-r.IntN(min(9, len(vals))))] }
		nd := Node{Name: fmt.Sprint("n", i)}
		switch r.IntN(6) {
		case 0:
			nd.Op, nd.Inputs = &Add{}, []string{pick(), pick()}
		case 1:
			nd.Op, nd.Inputs = &ReLU{}, []string{pick()}
		case 2:
			nd.Op, nd.Inputs = &Permute{Axes: []int{0}}, []string{pick()}
		case 3:
			nd.Op, nd.Inputs = &Binary{Function: "mul"}, []string{pick(), pick()}
		default:
			nd.Op, nd.Inputs = &Linear{In: 4, Out: 4, Bias: r.IntN(2) == 0}, []string{pick()}
			if r.IntN(8) == 0 {
				nd.Names = map[string]string{"weight": fmt.Sprint("w", r.IntN(2))}
			}
		}
		nodes, vals = append(nodes, nd), append(vals, nd.Name)
	}
	g := &Graph{Name: "g", Inputs: []Input{{Name: "x", Shape: Shape{4}}, {Name: "y", Shape: Shape{4}, Constant: true}}, Nodes: nodes, Output: nodes[n-1].Name}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestUnitsByDefinition: what crosses each cut is what is computed before it and read behind it.
func TestUnitsByDefinition(t *testing.T) {
	for seed := range uint64(200) {
		g := tangled(t, seed, 1+int(seed)%50)
		varying := g.Varying(false)
		operand := func(v, from int) bool {
			read := false
			for i := from; i < len(g.Nodes); i++ {
				for k, a := range g.Args(i) {
					if a == v {
						read = true
						if !everywhere(g, i, k) {
							return false
						}
					}
				}
			}
			return read && v != g.output
		}
		us := g.Units()
		for k, u := range us {
			if k > 0 && u.From != us[k-1].To || k == 0 && u.From != 0 || k == len(us)-1 && u.To != len(g.Nodes) {
				t.Fatalf("seed %d: unit %d is nodes %d to %d", seed, k, u.From, u.To)
			}
			var want Unit
			for v := range g.Result(u.To-1) + 1 {
				read := slices.ContainsFunc(g.args[u.To:], func(args []int) bool { return slices.Contains(args, v) })
				if !read {
					continue
				}
				n := g.Shape(v).Elems()
				want.Out, want.Largest = want.Out+n, max(want.Largest, n)
				if operand(v, u.To) {
					want.OutOperands += n
				}
				if varying[v] {
					want.Back += n
				}
			}
			if u.Out != want.Out || u.Back != want.Back || u.Largest != want.Largest || u.OutOperands != want.OutOperands {
				t.Fatalf("seed %d: unit %d is %+v, want %+v", seed, k, u, want)
			}
		}
	}
}

// everywhere tells whether node i makes operands of its input k, itself or where it moves it.
func everywhere(g *Graph, i, k int) bool {
	if Multiplies(g.Nodes[i].Op, k) {
		return true
	}
	v := g.Result(i)
	if !moves(g.Nodes[i].Op) || v == g.output {
		return false
	}
	read := false
	for j := i + 1; j < len(g.Nodes); j++ {
		for m, a := range g.args[j] {
			if a == v {
				if read = true; !everywhere(g, j, m) {
					return false
				}
			}
		}
	}
	return read
}
