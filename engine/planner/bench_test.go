package planner_test

import (
	"fmt"
	"math"
	"math/rand/v2"
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
// own benchmark, with what they take on this machine: the least times of their instructions, and the
// best of many benchmarks, by the processor's time, so that others on the machine count little.
func BenchmarkStep(b *testing.B) {
	now := processorTime()
	var s planner.Speeds
	for range 60 {
		r := provider.Benchmark(nil, now)
		s = planner.Speeds{Product: max(s.Product, r.GEMM), Conv: max(s.Conv, r.Conv), Vector: max(s.Vector, r.Vector)}
	}
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
			now := processorTime()
			x, st, grads := p.New(nil), p.Layout.NewState(), make([]float32, p.Layout.Grads)
			p.Layout.Init(st, 1)
			in := x.Value(0, 0, rows)
			if g.Inputs[0].Constant {
				for i := range in {
					in[i] = float32(i % 3)
				}
			} else {
				kernel.Normal(in, kernel.NewStream(1, kernel.DomainTest, 0, 0))
			}
			var forward, backward least
			for b.Loop() {
				x.Between = forward.between(now)
				x.Forward(0, exec.Batch{Seed: 1, Rows: rows}, st.Params, &st)
				x.Between()
				kernel.Fill(x.Grad(0, out, rows), 1e-3)
				x.Between = backward.between(now)
				x.Backward(0, st.Params, grads, false)
				x.Between()
			}
			speed := planner.ModelOf(g, rows).Compute(s)
			wf, wb := planner.Work(g, rows)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(s.Product, "GEMM")
			b.ReportMetric(s.Conv, "conv")
			b.ReportMetric(s.Vector, "vector")
			b.ReportMetric(1e3*(forward.sum()+backward.sum()), "ms/step")
			b.ReportMetric(wf*float64(rows)/speed/forward.sum(), "x-forward")
			b.ReportMetric(wb*float64(rows)/speed/backward.sum(), "x-backward")
		})
	}
}

// BenchmarkRows is what both passes of a batch take in micro-batches of so many rows: the best of all batches.
func BenchmarkRows(b *testing.B) {
	for _, name := range []string{"gpt-sorter", "char-gpt"} {
		e, err := zoo.Find(name)
		if err != nil {
			b.Fatal(err)
		}
		g, batch, out := e.Graph, e.Job.BatchSize, e.Graph.OutputValue()
		for rows := batch; rows >= 1; rows /= 2 {
			b.Run(fmt.Sprintf("%s/%d", name, rows), func(b *testing.B) {
				p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}})
				if err != nil {
					b.Fatal(err)
				}
				x, st, grads := p.New(nil), p.Layout.NewState(), make([]float32, p.Layout.Grads)
				p.Layout.Init(st, 1)
				for i, in := 0, x.Value(0, 0, rows); i < len(in); i++ {
					in[i] = float32(i % 3)
				}
				best, now := time.Duration(math.MaxInt64), processorTime()
				for b.Loop() {
					begin := now()
					for i := 0; i < batch; i += rows {
						x.Forward(0, exec.Batch{Seed: 1, Rows: rows, Row0: i}, st.Params, &st)
						kernel.Fill(x.Grad(0, out, rows), 1e-3)
						x.Backward(0, st.Params, grads, i > 0)
					}
					best = min(best, now()-begin)
				}
				b.ReportMetric(1e3*best.Seconds(), "ms/batch")
			})
		}
	}
}

// least are the least times of a pass's instructions.
type least []time.Duration

// between is a new pass's exec.Exec.Between: each call but the first ends an instruction.
func (l *least) between(now func() time.Duration) func() {
	i, last := -1, time.Duration(0)
	return func() {
		at := now()
		switch {
		case i == len(*l):
			*l = append(*l, at-last)
		case i >= 0:
			(*l)[i] = min((*l)[i], at-last)
		}
		i++
		last = now()
	}
}

func (l least) sum() float64 {
	sum := time.Duration(0)
	for _, t := range l {
		sum += t
	}
	return sum.Seconds()
}
