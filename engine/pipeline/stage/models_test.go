package stage_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// labelled is a table of classes, one for every position of a row; every third does not
// count.
type labelled struct{ table }

func (l labelled) Labelled() bool { return true }

func (l labelled) Labels(dst, rows []int32) {
	for i, r := range rows {
		for p, v := range l.v[int(r)*l.per:][:l.per] {
			if dst[i*l.per+p] = int32(v); (int(r)+p)%3 == 2 {
				dst[i*l.per+p] = kernel.IgnoreIndex
			}
		}
	}
}

// integers is n rows of numbers from low to high-1.
func integers(n, per, low, high int, node uint32) table {
	t := table{make([]float32, n*per), per}
	s := kernel.NewStream(1, kernel.DomainTest, 2, node)
	for i := range t.v {
		t.v[i] = float32(low + int(s.Uint32(uint64(i)))%(high-low))
	}
	return t
}

// TestModelsInStages: residuals, dropout inside attention, a mask that goes to every
// stage and targets that do not count, cut anywhere and kept or computed again, are the
// computation of one process.
func TestModelsInStages(t *testing.T) {
	type sizes struct{ low, high, classes, positions int }
	for _, c := range []struct {
		g *graph.Graph
		sizes
	}{
		{zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 8, Tokens: 7, Vocab: 5, Dropout: 0.2}), sizes{0, 5, 5, 7}},
		{zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 2, Heads: 2, Width: 8, Inner: 12, Tokens: 6, Positions: 9, Vocab: 11, Classes: 3, Dropout: 0.1}), sizes{0, 11, 3, 1}},
		{zoo.ResNet(zoo.ResNetConfig{Name: "resnet", Blocks: [4]int{1, 1, 1, 1}, Width: 4, Image: 64, Classes: 3}), sizes{0, 256, 3, 1}},
	} {
		t.Run(c.g.Name, func(t *testing.T) {
			w := newWorld(func(j *job.Spec) {
				j.Loss, j.Epochs, j.BatchSize, j.MicroBatches = "cross_entropy", 1, 12, 2
			})
			w.g = c.g
			in := c.g.Shape(0).Elems()
			w.tx, w.vx = integers(30, in, c.low, c.high, 1), integers(9, in, c.low, c.high, 3)
			w.ty = labelled{integers(30, c.positions, 0, c.classes, 2)}
			w.vy = labelled{integers(9, c.positions, 0, c.classes, 4)}
			want, dict := w.local(t)
			for _, n := range []int{1, 2, 3, 5} {
				for _, again := range job.Recomputes {
					w.job.Recompute = again
					got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
					if err != nil {
						t.Fatal(err)
					}
					equal(t, fmt.Sprintf("%d stages, recompute %q", n, again), got, want, d, dict)
				}
			}
			w.job.Recompute, w.job.Precision = "selective", "bf16"
			want, dict = w.local(t)
			for _, n := range []int{2, 5} {
				got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%d stages, bf16", n), got, want, d, dict)
			}
		})
	}
}

// TestImportedInStages: what PyTorch exported trains cut in 2, 3 and 5 as in one process:
// views, products of values, parameters that are values, group norm, transposed
// convolutions, connections that skip stages.
func TestImportedInStages(t *testing.T) {
	for _, name := range []string{"cnn", "unet", "encoder", "resmlp", "conv1d_audio", "two_heads", "lstm_unrolled", "lstm_both_ways", "gru_rnn"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile("../../importer/testdata/" + name + ".pt2")
			if err != nil {
				t.Fatal(err)
			}
			a, err := pt2.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			m, err := importer.Import(a, importer.Options{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(func(j *job.Spec) {
				j.Loss, j.Epochs, j.BatchSize, j.MicroBatches = "mse", 1, 12, 2
			})
			w.g = m.Graph
			in, out := m.Graph.Shape(0).Elems(), m.Graph.Shape(m.Graph.OutputValue()).Elems()
			w.tx, w.vx = integers(30, in, -3, 4, 1), integers(9, in, -3, 4, 3)
			w.ty, w.vy = integers(30, out, -2, 3, 2), integers(9, out, -2, 3, 4)
			want, dict := w.local(t)
			for _, n := range []int{1, 2, 3, 5} {
				if n > len(m.Graph.Units()) {
					continue
				}
				got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%d stages", n), got, want, d, dict)
			}
		})
	}
}
