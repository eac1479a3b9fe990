package exec_test

import (
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// largest kinds of models, of n nodes each: what costs most to plan.
var kinds = map[string]func(n int) []graph.Node{
	"chain": func(n int) []graph.Node {
		return chain(n, func(i int) graph.Node {
			if i%2 == 1 {
				return graph.Node{Op: &graph.ReLU{}}
			}
			return graph.Node{Op: &graph.Linear{In: 4, Out: 4, Bias: true}}
		})
	},
	// Half of the nodes read the first, and the others add up what they gave.
	"fan": func(n int) []graph.Node {
		ns := []graph.Node{{Name: "first", Op: &graph.Linear{In: 4, Out: 4}, Inputs: []string{"x"}}}
		for i := range n / 2 {
			ns = append(ns, graph.Node{Name: fmt.Sprint("f", i), Op: &graph.Linear{In: 4, Out: 4}, Inputs: []string{"first"}})
		}
		last := "f0"
		for i := 1; i < n/2; i++ {
			ns = append(ns, graph.Node{Name: fmt.Sprint("s", i), Op: &graph.Add{}, Inputs: []string{last, fmt.Sprint("f", i)}})
			last = ns[len(ns)-1].Name
		}
		return ns
	},
	"tied": func(n int) []graph.Node {
		return chain(n, func(int) graph.Node {
			return graph.Node{Op: &graph.Linear{In: 4, Out: 4}, Names: map[string]string{"weight": "w"}}
		})
	},
	// Every parameter has two holders, as far apart as can be.
	"pairs": func(n int) []graph.Node {
		return chain(n, func(i int) graph.Node {
			return graph.Node{Op: &graph.Linear{In: 4, Out: 4}, Names: map[string]string{"weight": fmt.Sprint("w", i%(n/2))}}
		})
	},
	"views": func(n int) []graph.Node {
		ns := chain(n, func(i int) graph.Node {
			switch {
			case i == 0 || i == n-1:
				return graph.Node{Op: &graph.Linear{In: 4, Out: 4}}
			case i == n-2:
				return graph.Node{Op: &graph.Flatten{}}
			}
			return graph.Node{Op: &graph.Reshape{Shape: []int{2, 2}}}
		})
		return ns
	},
	// Many views of one value.
	"looks": func(n int) []graph.Node {
		ns := []graph.Node{{Name: "first", Op: &graph.Linear{In: 4, Out: 4}, Inputs: []string{"x"}}, {Name: "act", Op: &graph.GELU{Approximate: "none"}, Inputs: []string{"first"}}}
		last := "act"
		for i := range n / 3 {
			ns = append(ns, graph.Node{Name: fmt.Sprint("v", i), Op: &graph.Flatten{}, Inputs: []string{"act"}},
				graph.Node{Name: fmt.Sprint("l", i), Op: &graph.Linear{In: 4, Out: 4}, Inputs: []string{fmt.Sprint("v", i)}},
				graph.Node{Name: fmt.Sprint("s", i), Op: &graph.Add{}, Inputs: []string{last, fmt.Sprint("l", i)}})
			last = fmt.Sprint("s", i)
		}
		return ns
	},
	"constants": func(n int) []graph.Node {
		return chain(n, func(i int) graph.Node {
			if i == 0 {
				return graph.Node{Op: &graph.Linear{In: 4, Out: 4}}
			}
			return graph.Node{Op: &graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: []int{4}, Data: graph.PackFloats([]float32{1, 2, 3, float32(i)})}}}
		})
	},
	"norms": func(n int) []graph.Node {
		return chain(n, func(int) graph.Node {
			return graph.Node{Op: &graph.LayerNorm{Shape: []int{4}, Eps: 1e-5, Affine: true}}
		})
	},
	// Every other parameter is frozen.
	"frozen": func(n int) []graph.Node {
		return chain(n, func(int) graph.Node {
			return graph.Node{Op: &graph.Linear{In: 4, Out: 4, Bias: true}, Frozen: []string{"bias"}}
		})
	},
}

func chain(n int, node func(i int) graph.Node) []graph.Node {
	ns := make([]graph.Node, n)
	last := "x"
	for i := range ns {
		ns[i] = node(i)
		ns[i].Name, ns[i].Inputs = fmt.Sprint("n", i), []string{last}
		last = ns[i].Name
	}
	return ns
}

func large(t testing.TB, kind string, n int) *graph.Graph {
	ns := kinds[kind](n)
	g, err := graph.Sequential(kind, graph.Input{Name: "x", Shape: graph.Shape{4}}, ns...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// BenchmarkLarge checks, divides, cuts and compiles large models. Four times the nodes should take
// four times as long, or a little more.
func BenchmarkLarge(b *testing.B) {
	for kind := range kinds {
		for _, n := range []int{1 << 10, 1 << 12, 1 << 14} {
			g := large(b, kind, n-2)
			b.Run(fmt.Sprintf("%s/units/%d", kind, n), func(b *testing.B) {
				for b.Loop() {
					if err := g.Check(); err != nil {
						b.Fatal(err)
					}
					us := g.JoinTied(g.Units())
					starts := []int{0}
					for k := 1; k < min(len(us), 64); k++ {
						starts = append(starts, us[k*len(us)/min(len(us), 64)].From)
					}
					if _, err := g.Cut(starts); err != nil {
						b.Fatal(err)
					}
				}
			})
			for name, c := range map[string]exec.Config{
				"plain": {}, "recompute": {Recompute: exec.Full}, "bf16": {Precision: exec.BF16}, "split": {Split: true},
			} {
				b.Run(fmt.Sprintf("%s/%s/%d", kind, name, n), func(b *testing.B) {
					out := g.OutputValue()
					c.Rows, c.Slots, c.Train, c.Outputs, c.Seeds = 1, 1, true, []int{out}, []int{out}
					for b.Loop() {
						if _, err := exec.Compile(g, 0, c); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
