package planner_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/provider"
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

// BenchmarkStep compares what the passes of the zoo's models are thought to take, by a provider's
// own benchmark, with what they take on this machine at least.
func BenchmarkStep(b *testing.B) {
	begin := time.Now()
	now := func() time.Duration { return time.Since(begin) }
	for _, name := range []string{"cnn", "gpt-sorter", "char-gpt", "resnet18", "resnet50", "bert"} {
		b.Run(name, func(b *testing.B) {
			e, err := zoo.Find(name)
			if err != nil {
				b.Fatal(err)
			}
			g, rows := e.Graph, e.Job.BatchSize
			out := g.OutputValue()
			p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}})
			if err != nil {
				b.Fatal(err)
			}
			team := kernel.NewTeam(1)
			x, st, grads := p.New(team), p.Layout.NewState(), make([]float32, p.Layout.Grads)
			p.Layout.Init(st, 1)
			in := x.Value(0, 0, rows)
			if g.Inputs[0].Constant {
				for i := range in {
					in[i] = float32(i % 3)
				}
			} else {
				kernel.Normal(in, kernel.NewStream(1, kernel.DomainTest, 0, 0))
			}
			var fs, bs []float64
			var seed []float32
			for b.Loop() {
				t0 := now()
				x.Forward(0, exec.Batch{Seed: 1, Rows: rows}, st.Params, &st)
				t1 := now()
				seed = x.Grad(0, out, rows)
				for i := range seed {
					seed[i] = 1e-3
				}
				t2 := now()
				x.Backward(0, st.Params, grads, false)
				fs, bs = append(fs, (t1-t0).Seconds()), append(bs, (now()-t2).Seconds())
			}
			bench := provider.Benchmark(team, now)
			speed := 2e9 / (1/bench.GEMM + 1/bench.Conv)
			wf, wb := planner.Work(g)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(bench.GEMM, "GEMM")
			b.ReportMetric(bench.Conv, "conv")
			b.ReportMetric(1e3*(slices.Min(fs)+slices.Min(bs)), "ms/step")
			b.ReportMetric(wf*float64(rows)/speed/slices.Min(fs), "x-forward")
			b.ReportMetric(wb*float64(rows)/speed/slices.Min(bs), "x-backward")
		})
	}
}
