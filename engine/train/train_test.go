package train_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/zoo"
)

// rows are n rows of a data set: tokens, normal draws, or the number of a class for every
// position of an answer.
type rows struct {
	n, per, vocab int // vocab 0: no tokens
	labels        bool
}

func (r rows) Len() int       { return r.n }
func (r rows) Labelled() bool { return r.labels }

func (r rows) Gather(dst []float32, idx []int32) {
	for i, k := range idx {
		d := dst[i*r.per:][:r.per]
		s := kernel.NewStream(1, kernel.DomainTest, uint64(k), 0)
		if r.vocab == 0 {
			kernel.Normal(d, s)
			continue
		}
		for e := range d {
			d[e] = float32(int(s.Uint32(uint64(e))) % r.vocab)
		}
	}
}

func (r rows) Labels(dst, idx []int32) {
	for i := range dst {
		dst[i] = (idx[i/r.per] + int32(i)) % int32(r.vocab)
	}
}

// watch reads the allocator after the first batches and before the last, behind which the
// run ends.
type watch struct {
	batches    int
	begin, end runtime.MemStats
}

const steps, warm = 16, 4 // batches, and those before

func (w *watch) Batch(int) {
	switch w.batches++; {
	case w.batches == warm/2:
		runtime.GC() // and what the runtime allocates anew behind it
	case w.batches == warm:
		runtime.ReadMemStats(&w.begin)
	case w.batches == steps-1:
		runtime.ReadMemStats(&w.end)
	}
}

func (*watch) Loss(stage.Loss)            {}
func (*watch) Validated(stage.Validation) {}
func (*watch) Keep(stage.Saved) error     { return nil }

// newTrainer is a job of so many batches of a model of the zoo.
func newTrainer(t testing.TB, g *graph.Graph, batch, steps, threads int, change func(*job.Spec)) *train.Trainer {
	j := job.Default()
	j.BatchSize, j.Epochs, j.Steps, j.ValEvery, j.SaveEvery = batch, 1, steps, 0, 0
	if change != nil {
		change(&j)
	}
	out := g.Shape(g.OutputValue())
	x, y := rows{n: steps * batch, per: g.Shape(0).Elems()}, rows{n: steps * batch, per: out.Elems()}
	if g.Inputs[0].Constant {
		cols := out[len(out)-1]
		j.Loss = "cross_entropy"
		x.vocab, y = cols, rows{n: y.n, per: out.Elems() / cols, vocab: cols, labels: true}
	}
	team := kernel.NewTeam(threads)
	t.Cleanup(team.Close)
	tr, err := train.New(train.Config{
		Job: j, Graph: g, TrainX: x, ValX: rows{per: x.per}, TrainY: y, ValY: rows{per: y.per}, Team: team,
		Order: func(dst []int32, seed uint64, epoch int) {
			kernel.Perm(dst, kernel.NewStream(seed, kernel.DomainShuffle, uint64(epoch), 0))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// quick are models whose steps are fast.
var quick = []struct {
	g     *graph.Graph
	batch int
}{{zoo.CNN(), 64}, {zoo.GPT(zoo.GPTSorter), 64}}

// TestTrainingAllocatesNothing: whole steps, from gathering rows to the update, neither
// allocate nor set off the garbage collector.
func TestTrainingAllocatesNothing(t *testing.T) {
	for _, q := range quick {
		for _, threads := range []int{1, 2} {
			for _, again := range []string{"", "full", "bf16"} {
				t.Run(fmt.Sprintf("%s/%d/%s", q.g.Name, threads, again), func(t *testing.T) {
					// The runtime allocates a thread now and then: what a step does, it does in
					// every run.
					const runs = 4
					for k := range runs {
						tr := newTrainer(t, q.g, q.batch, steps, threads, func(j *job.Spec) {
							if j.Recompute, j.MicroBatches = again, 2; again == "bf16" {
								j.Recompute, j.Precision = "", again
							}
						})
						w := &watch{}
						if err := tr.Run(context.Background(), nil, w); err != nil {
							t.Fatal(err)
						}
						if w.batches != steps {
							t.Fatalf("%d batches, want %d", w.batches, steps)
						}
						times, cycles := w.end.Mallocs-w.begin.Mallocs, w.end.NumGC-w.begin.NumGC
						if times == 0 && cycles == 0 {
							return
						}
						if k == runs-1 {
							t.Errorf("%d batches allocate %d times, %d bytes; the garbage collector runs %d times", steps-1-warm, times, w.end.TotalAlloc-w.begin.TotalAlloc, cycles)
						}
					}
				})
			}
		}
	}
}

// BenchmarkTrain is a whole step: rows, forward, loss, backward, update.
func BenchmarkTrain(b *testing.B) {
	for _, q := range quick {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%d", q.g.Name, threads), func(b *testing.B) {
				tr := newTrainer(b, q.g, q.batch, b.N+2, threads, nil)
				b.ReportAllocs()
				b.ResetTimer()
				if err := tr.Run(context.Background(), nil, &clock{b: b}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N*q.batch)/b.Elapsed().Seconds(), "samples/s")
			})
		}
	}
}

// clock measures from the first step, which makes what later ones use, to the last, behind
// which a run copies its weights.
type clock struct {
	watch
	b *testing.B
}

func (o *clock) Batch(int) {
	switch o.batches++; o.batches {
	case 1:
		o.b.ResetTimer()
	case o.b.N + 1:
		o.b.StopTimer()
	}
}

// TestBatchNormOfOneRow: a run whose last batch has a single row, of which batch norm has no variance,
// is refused before it begins.
func TestBatchNormOfOneRow(t *testing.T) {
	j := job.Default()
	x, y := rows{n: 2*j.BatchSize + 1, per: 64}, rows{n: 2*j.BatchSize + 1, per: 10}
	_, err := train.New(train.Config{Job: j, Graph: zoo.CNN(), TrainX: x, TrainY: y, ValX: x, ValY: y})
	if err == nil || !strings.Contains(err.Error(), "batch norm needs 2") {
		t.Errorf("got %v, want an error that names batch norm", err)
	}
}
