package train_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
)

// progress prints the validation passes.
type progress struct{}

func (progress) Loss(stage.Loss)        {}
func (progress) Batch(int)              {}
func (progress) Keep(stage.Saved) error { return nil }
func (progress) Validated(v stage.Validation) {
	fmt.Printf("epoch %d: %d of %d right\n", v.Epoch+1, v.Correct, v.Total)
}

// The CNN of the walkthrough, built and trained in Go. The numbers are the same on every
// machine.
func Example() {
	three, two := graph.Pair{3, 3}, graph.Pair{2, 2}
	g, err := graph.Sequential("cnn", graph.Input{Name: "x", Shape: graph.Shape{1, 8, 8}},
		graph.Node{Name: "conv2d_1", Op: &graph.Conv2d{In: 1, Out: 16, Kernel: three, Same: true, Bias: true}},
		graph.Node{Name: "act_1", Op: &graph.ReLU{}},
		graph.Node{Name: "maxpool2d_1", Op: &graph.MaxPool2d{Kernel: two, Stride: two}},
		graph.Node{Name: "drp_1", Op: &graph.Dropout{P: 0.25}},
		graph.Node{Name: "bn_1", Op: &graph.BatchNorm{Rank: 3, Features: 16, Eps: 1e-5, Momentum: 0.1}},
		graph.Node{Name: "maxpool2d_2", Op: &graph.MaxPool2d{Kernel: two, Stride: two}},
		graph.Node{Name: "conv2d_2", Op: &graph.Conv2d{In: 16, Out: 32, Kernel: three, Same: true, Bias: true}},
		graph.Node{Name: "act_2", Op: &graph.ReLU{}},
		graph.Node{Name: "maxpool2d_3", Op: &graph.MaxPool2d{Kernel: two, Stride: two}},
		graph.Node{Name: "drp_2", Op: &graph.Dropout{P: 0.25}},
		graph.Node{Name: "bn_2", Op: &graph.BatchNorm{Rank: 3, Features: 32, Eps: 1e-5, Momentum: 0.1}},
		graph.Node{Name: "flatten", Op: &graph.Flatten{}},
		graph.Node{Name: "dense_1", Op: &graph.Linear{In: 32, Out: 256, Bias: true}},
		graph.Node{Name: "act_3", Op: &graph.ReLU{}},
		graph.Node{Name: "drp_3", Op: &graph.Dropout{P: 0.4}},
		graph.Node{Name: "bn_3", Op: &graph.BatchNorm{Rank: 1, Features: 256, Eps: 1e-5, Momentum: 0.1}},
		graph.Node{Name: "dense_2", Op: &graph.Linear{In: 256, Out: 10, Bias: true}},
		graph.Node{Name: "act_4", Op: &graph.Softmax{}},
	)
	if err != nil {
		log.Fatal(err)
	}
	digits, err := data.Digits()
	if err != nil {
		log.Fatal(err)
	}
	j := job.Default()
	j.Epochs, j.ValEvery = 10, 5
	t, err := train.New(train.Config{
		Job: j, Graph: g, Order: data.Order,
		TrainX: digits.Train.X(), TrainY: digits.Train.Y(), ValX: digits.Val.X(), ValY: digits.Val.Y(),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := t.Run(context.Background(), nil, progress{}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// epoch 5: 624 of 719 right
	// epoch 10: 671 of 719 right
}
