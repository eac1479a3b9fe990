// Package zoo holds the models that users start from, built with PyTorch's
// parameter names.
package zoo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
)

// builder appends nodes in sequence: each reads the one before.
type builder struct {
	g    graph.Graph
	last string
}

func (b *builder) node(name string, op graph.Op) {
	b.g.Nodes = append(b.g.Nodes, graph.Node{Name: name, Op: op, Inputs: []string{b.last}})
	b.last = name
}

func (b *builder) done() *graph.Graph {
	b.g.Output = b.last
	if err := b.g.Check(); err != nil {
		panic(fmt.Sprintf("zoo: %v", err)) // our own tables are wrong
	}
	return &b.g
}

func batchNorm(rank, features int) *graph.BatchNorm {
	return &graph.BatchNorm{Rank: rank, Features: features, Eps: 1e-5, Momentum: 0.1}
}

// CNN is the walkthrough's CNN_Net over [N,1,8,8] digits: 16,426 parameters, 23
// state-dict entries, class probabilities [N,10].
func CNN() *graph.Graph {
	b := &builder{g: graph.Graph{Name: "cnn", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, 8, 8}}}}, last: "x"}
	three, two := graph.Pair{3, 3}, graph.Pair{2, 2}
	b.node("conv2d_1", &graph.Conv2d{In: 1, Out: 16, Kernel: three, Same: true, Bias: true})
	b.node("act_1", &graph.ReLU{})
	b.node("maxpool2d_1", &graph.MaxPool2d{Kernel: two, Stride: two})
	b.node("drp_1", &graph.Dropout{P: 0.25})
	b.node("bn_1", batchNorm(3, 16))
	b.node("maxpool2d_2", &graph.MaxPool2d{Kernel: two, Stride: two})
	b.node("conv2d_2", &graph.Conv2d{In: 16, Out: 32, Kernel: three, Same: true, Bias: true})
	b.node("act_2", &graph.ReLU{})
	b.node("maxpool2d_3", &graph.MaxPool2d{Kernel: two, Stride: two})
	b.node("drp_2", &graph.Dropout{P: 0.25})
	b.node("bn_2", batchNorm(3, 32))
	b.node("flatten", &graph.Flatten{})
	b.node("dense_1", &graph.Linear{In: 32, Out: 256, Bias: true})
	b.node("act_3", &graph.ReLU{})
	b.node("drp_3", &graph.Dropout{P: 0.4})
	b.node("bn_3", batchNorm(1, 256))
	b.node("dense_2", &graph.Linear{In: 256, Out: 10, Bias: true})
	b.node("act_4", &graph.Softmax{})
	return b.done()
}

var models = map[string]func() *graph.Graph{"cnn": CNN}

// Model finds a model by name.
func Model(name string) (*graph.Graph, error) {
	if mk, ok := models[name]; ok {
		return mk(), nil
	}
	return nil, fmt.Errorf("unknown example %q; known ones are %s", name, strings.Join(Names(), ", "))
}

// Names lists the models, sorted.
func Names() []string {
	var ns []string
	for n := range models {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}
