package stage_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
)

// learning are settings of how a job learns.
var learning = map[string]func(*job.Spec){
	"smooth, weighted cross entropy": func(j *job.Spec) {
		j.Loss, j.Metrics = "cross_entropy", []string{"top5", "f1", "perplexity"}
		j.LossOptions = job.LossOptions{LabelSmoothing: 0.1, ClassWeights: []float64{1, 2, 3, 1, 1, 1, 0.5, 1, 1, 1}}
	},
	"binary cross entropy": func(j *job.Spec) {
		j.Loss, j.LossOptions = "bce_with_logits", job.LossOptions{PosWeight: []float64{9}}
	},
	"huber":   func(j *job.Spec) { j.Loss, j.Metrics = "huber", []string{"mae", "f1"} },
	"clipped": func(j *job.Spec) { j.ClipNorm = 0.125 },
	"clipped sums of gradients": func(j *job.Spec) {
		j.ClipNorm, j.ReduceFactor = 0.125, 0
		if j.Replicas > 1 {
			j.Average.Of = job.Gradients
		}
	},
	"lamb with warm-up": func(j *job.Spec) {
		j.Optimizer, j.LR = job.DefaultOptimizer("lamb"), job.LR{Name: "warmup_cosine", Warmup: 2}
		j.Optimizer.NoDecay = []string{"bias", "norm"}
	},
	"first layers frozen": func(j *job.Spec) { j.Freeze = []string{"conv*", "bn_1*"} },
	"last layers frozen":  func(j *job.Spec) { j.Freeze = []string{"dense*", "bn_3*"} },
	"weights frozen": func(j *job.Spec) {
		j.Freeze, j.ClipNorm, j.Optimizer = []string{"*.weight"}, 1, job.DefaultOptimizer("adamw")
	},
	"adapters": func(j *job.Spec) { j.LoRA = job.LoRA{R: 3} },
	"output":   func(j *job.Spec) { j.Loss = "output" },
}

// TestLearningIsOneProcess: however a job learns, any cut, schedule and number of replicas has the
// losses, metrics and weights of one process.
func TestLearningIsOneProcess(t *testing.T) {
	for name, change := range learning {
		for _, replicas := range []job.Count{1, 2} {
			t.Run(fmt.Sprintf("%s/%d replicas", name, replicas), func(t *testing.T) {
				w := newWorld(func(j *job.Spec) {
					j.Epochs, j.UpdateFrequency, j.Replicas, j.ReduceFactor = 2, 2, replicas, 2
					change(j)
				})
				if w.job.Freeze != nil {
					g, err := w.g.Freeze(w.job.Freeze)
					if err != nil {
						t.Fatal(err)
					}
					w.g = g
				}
				if w.job.LoRA.On() {
					g, _, err := w.g.Adapt(graph.LoRA{Rank: 3, Scale: 8.0 / 3})
					if err != nil {
						t.Fatal(err)
					}
					w.g = g
				}
				want, dict := w.local(t)
				for _, v := range want.vals {
					if v.Loss == 0 || len(w.job.Metrics) > len(v.Metrics) {
						t.Fatalf("validation %+v", v)
					}
				}
				for i, n := range []int{2, 3, 5} {
					if w.job.Schedule = []string{job.Sync, job.ZB, job.Sync}[i]; replicas > 1 {
						w.job.Schedule = []string{job.ZB, job.Sync, job.ZB}[i]
					}
					got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, func() order.Mark { return order.Continue })
					if err != nil {
						t.Fatal(err)
					}
					equal(t, fmt.Sprintf("%d stages, %s", n, w.job.Schedule), got, want, d, dict)
				}
			})
		}
	}
}

// TestClipTied: a parameter that several stages hold counts once in the norm, and stages without
// a tensor between them exchange it too.
func TestClipTied(t *testing.T) {
	lin := func(in, out int) graph.Op { return &graph.Linear{In: in, Out: out, Bias: true} }
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	tied := n("d", lin(20, 20), "c")
	tied.Names = map[string]string{"weight": "b.weight"}
	w := newWorld(func(j *job.Spec) { j.ClipNorm = 0.0625 })
	w.g = &graph.Graph{Name: "tied", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}, Output: "y", Nodes: []graph.Node{
		n("f", &graph.Flatten{}, "x"), n("a", lin(64, 20), "f"), n("b", lin(20, 20), "a"),
		n("c", lin(64, 20), "f"), tied, n("s", &graph.Add{}, "d", "b"), n("y", lin(20, 10), "s"),
	}}
	if err := w.g.Check(); err != nil {
		t.Fatal(err)
	}
	for _, w.job.Replicas = range []job.Count{1, 3} {
		w.job.ReduceFactor = 2
		want, dict := w.local(t)
		for i, starts := range [][]int{{0, 3}, {0, 2, 4}, {0, 2, 3, 4, 6}} {
			w.job.Schedule = []string{job.Sync, job.ZB, job.Sync}[i]
			got, d, err := w.pipeline(t, starts, mem.Faults{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			once := d[:0]
			for _, x := range d { // each holder has it
				if _, ok := once.Get(x.Name); !ok {
					once = append(once, x)
				}
			}
			equal(t, fmt.Sprintf("cut at %v", starts), got, want, once, dict)
		}
		w.job.ClipNorm, w.job.Schedule = 0, job.Sync
		if free, _ := w.local(t); free.losses[len(free.losses)-1] == want.losses[len(want.losses)-1] {
			t.Error("nothing was clipped")
		}
		w.job.ClipNorm = 0.0625
	}
}

// norms is a link that notes which norms it sends and receives.
type norms struct {
	stage.Link
	seen *[]bool // true: sent
}

func (n norms) Send(ctx context.Context, h wire.Header, payload []byte) error {
	if h.Kind == wire.Norm {
		*n.seen = append(*n.seen, true)
	}
	return n.Link.Send(ctx, h, payload)
}

func (n norms) Recv(ctx context.Context) (transport.Message, error) {
	m, err := n.Link.Recv(ctx)
	if err == nil && m.Header.Kind == wire.Norm {
		*n.seen = append(*n.seen, false)
	}
	return m, err
}

// TestClipWaitsForNothing: while the norm of one replica's gradients is added up, stages train the
// others. So the last stage has sent its part of every replica's before the first total comes.
func TestClipWaitsForNothing(t *testing.T) {
	w := newWorld(func(j *job.Spec) {
		j.ClipNorm, j.Replicas, j.ReduceFactor, j.Epochs, j.Steps = 0.0625, 3, 2, 1, 0
		j.BatchSize = 8
	})
	want, dict := w.local(t)
	var seen []bool
	w.wrap = func(a, b int, l stage.Link) stage.Link {
		if a == 2 {
			return norms{l, &seen}
		}
		return l
	}
	got, d, err := w.pipeline(t, w.starts(3), mem.Faults{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "three replicas", got, want, d, dict)
	if first := slices.Index(seen, false); first != 3 {
		t.Errorf("a total comes after the last stage's part of %d norms, want 3", first)
	}
}
