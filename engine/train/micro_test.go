package train_test

import (
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/zoo"
)

// reports is an observer that keeps the losses.
type reports struct{ losses []float32 }

func (r *reports) Loss(l stage.Loss)          { r.losses = append(r.losses, l.Value) }
func (r *reports) Validated(stage.Validation) {}
func (r *reports) Batch(int)                  {}
func (r *reports) Keep(stage.Saved) error     { return nil }

// TestMicroBatchesChangeNoBit: a model that exec.Splits says to split has the same losses
// and weights, to the bit, in however many micro-batches its batches come.
func TestMicroBatchesChangeNoBit(t *testing.T) {
	for name, change := range map[string]func(*job.Spec){
		"gpt-sorter": func(j *job.Spec) { j.BatchSize = 12 },
		"bert-tiny":  func(j *job.Spec) { j.BatchSize, j.UpdateFrequency = 6, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			e := zoo.Example{}
			var err error
			if name == "bert-tiny" {
				if e, err = zoo.Find("bert"); err == nil {
					c := zoo.BERTBase
					c.Layers, c.Width, c.Inner, c.Heads = 1, 16, 32, 2
					e.Graph = zoo.BERT(c)
				}
			} else {
				e, err = zoo.Find(name)
			}
			if err != nil {
				t.Fatal(err)
			}
			if node, ok := exec.Splits(e.Graph); !ok {
				t.Fatalf("%q is said to keep batches whole", node)
			}
			d, _, err := data.Builtin(e.Job.Data)
			if err != nil {
				t.Fatal(err)
			}
			var want *reports
			var hash [32]byte
			for _, m := range []int{1, 2, 3, 5, 6} {
				j := e.Job
				j.Steps, j.ValEvery = 4, 0
				change(&j)
				j.MicroBatches = m
				tr, err := train.New(train.Config{
					Job: j, Graph: e.Graph, Order: data.Order, Team: kernel.NewTeam(1),
					TrainX: d.Train.X(), TrainY: d.Train.Y(), ValX: d.Val.X(), ValY: d.Val.Y(),
				})
				if err != nil {
					t.Fatal(err)
				}
				r := &reports{}
				if err := tr.Run(t.Context(), nil, r); err != nil {
					t.Fatal(err)
				}
				if m == 1 {
					want, hash = r, tr.State().Hash()
					continue
				}
				if !slices.Equal(r.losses, want.losses) {
					t.Errorf("%d micro-batches: losses %v, in one %v", m, r.losses, want.losses)
				}
				if tr.State().Hash() != hash {
					t.Errorf("%d micro-batches: other weights than in one", m)
				}
			}
		})
	}
	for _, name := range []string{"cnn", "resnet18"} {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := exec.Splits(e.Graph); ok {
			t.Errorf("%s has batch norm and is said to split", name)
		}
	}
}
