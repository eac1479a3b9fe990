package planner_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// BenchmarkMake plans jobs for large pools of volunteers' machines: clusters, cuts, memory
// by compiled plans, micro-batches and rings.
func BenchmarkMake(b *testing.B) {
	for _, name := range []string{"char-gpt", "bert"} {
		e, err := zoo.Find(name)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{1000, 10000} {
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			pick := func(lo, hi float64) float64 { return lo * math.Pow(hi/lo, rng.Float64()) }
			nodes := make([]ga.Node, n)
			for i := range nodes {
				nodes[i] = ga.Node{Name: fmt.Sprintf("n%d", i), RAM: pick(0.5e9, 16e9), Bandwidth: pick(5e6, 1e9), Compute: pick(5e9, 2e11)}
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					p, err := planner.Make(e.Job, e.Graph, nodes, ga.Options{Spares: true}, 1)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(len(p.Clusters)), "clusters")
					b.ReportMetric(float64(len(p.GA.Spares)), "spares")
				}
			})
		}
	}
}
