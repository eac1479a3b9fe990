//go:build unix

package audit

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
)

// spent is the processor's time of this process so far.
func spent() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCommits is a pipeline with digests and without, in turn: the tiny CNN over four stages,
// and a decoder of two blocks of width 256, in batches of 16 rows of 64 tokens, over two stages, and
// over two clusters that average gradients, or parameters after four updates. What it tells is the
// processor's time, which a busy machine disturbs least.
func BenchmarkCommits(b *testing.B) {
	decoder := func(change func(*job.Spec)) *world {
		w := newWorld(func(j *job.Spec) {
			j.Loss, j.BatchSize, j.MicroBatches, j.Epochs, j.Steps, j.ValEvery = "cross_entropy", 16, 1, 10, 8, 0
			change(j)
		})
		w.g, w.tokens = zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 4, Width: 256, Tokens: 64, Vocab: vocab}), true
		return w
	}
	for _, c := range []struct {
		name string
		w    *world
	}{
		{"cnn", newWorld(func(j *job.Spec) { j.Epochs, j.BatchSize = 20, 64 })},
		{"decoder", decoder(func(*job.Spec) {}).shareOut(2)},
		{"gradients", decoder(func(j *job.Spec) { j.Replicas, j.Average.Of = 2, job.Gradients }).shareOut(2, 2)},
		{"parameters", decoder(func(j *job.Spec) { j.Replicas, j.ReduceFactor = 2, 4 }).shareOut(2, 2)},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took [2][]float64 // without and with
			for range b.N {
				for on := range 2 {
					r := c.w.replay(b)
					if c.name != "cnn" {
						r.Config.TrainX, r.Config.TrainY = words(70), words(70)
						r.Config.ValX, r.Config.ValY = words(21), words(21)
					}
					r.each = func(_ stage.Peer, cfg *stage.Config) { cfg.Commits = on == 1 }
					began := spent()
					err := r.Run(b.Context(), &Watcher{Commit: func(stage.Peer, stage.Digest) {}, Kept: func(stage.Peer, stage.Saved) error { return nil }})
					if err != nil {
						b.Fatal(err)
					}
					took[on] = append(took[on], (spent() - began).Seconds())
				}
			}
			for on := range took {
				slices.Sort(took[on])
			}
			without, with := took[0][b.N/2], took[1][b.N/2]
			b.ReportMetric(1000*without, "CPU-ms-without")
			b.ReportMetric(1000*with, "CPU-ms-with")
			b.ReportMetric(100*(with/without-1), "%-more")
		})
	}
}

// words is rows of 64 tokens.
func words(n int) table {
	t := table{make([]float32, n*64), 64}
	for i := range t.v {
		t.v[i] = float32(i * 7 % vocab)
	}
	return t
}
