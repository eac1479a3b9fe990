// A model to begin with, for data that somebody brings.

package zoo

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/graph"
)

// Starter is a small model for rows of a shape: convolutions for images [C,H,W], a GPT for
// rows of tokens, linear layers for anything else. The inputs are normalised first, so that
// bytes and columns of any scale train. outputs are the classes, or the values of a regression;
// tokens is how many different ones the inputs have, 0 where they are values.
func Starter(shape []int, outputs, tokens int) (*graph.Graph, error) {
	if tokens > 0 {
		if len(shape) != 1 {
			return nil, fmt.Errorf("rows of tokens of shape %v: want one axis", shape)
		}
		return GPT(GPTConfig{Name: "starter", Layers: 4, Heads: 4, Width: 128, Tokens: shape[0], Vocab: tokens, Dropout: 0.1}), nil
	}
	b := &builder{g: graph.Graph{Name: "starter", Inputs: []graph.Input{{Name: "x", Shape: shape}}}, last: "x"}
	n := 1
	for _, d := range shape {
		n *= d
	}
	if len(shape) == 3 && min(shape[1], shape[2]) >= 8 {
		three, two := graph.Pair{3, 3}, graph.Pair{2, 2}
		in, h, w := shape[0], shape[1], shape[2]
		b.node("bn_in", batchNorm(3, in))
		for i, out := range []int{16, 32, 64} {
			b.node(fmt.Sprintf("conv_%d", i+1), &graph.Conv2d{In: in, Out: out, Kernel: three, Same: true, Bias: true})
			b.node(fmt.Sprintf("bn_%d", i+1), batchNorm(3, out))
			b.node(fmt.Sprintf("act_%d", i+1), &graph.ReLU{})
			b.node(fmt.Sprintf("pool_%d", i+1), &graph.MaxPool2d{Kernel: two, Stride: two})
			in, h, w = out, h/2, w/2
		}
		b.node("flatten", &graph.Flatten{})
		n = in * h * w
	} else {
		if len(shape) > 1 {
			b.node("flatten", &graph.Flatten{})
		}
		b.node("bn_in", batchNorm(1, n))
	}
	for i, width := range []int{128, 64} {
		b.node(fmt.Sprintf("fc_%d", i+1), &graph.Linear{In: n, Out: width, Bias: true})
		b.node(fmt.Sprintf("fc_act_%d", i+1), &graph.ReLU{})
		n = width
	}
	b.node("out", &graph.Linear{In: n, Out: outputs, Bias: true})
	b.g.Output = b.last
	return &b.g, b.g.Check()
}

// Reader is a small model for rows of tokens that have one answer, of so many classes or values: the
// encoder of a BERT. vocab is how many different tokens there are, pad the one that fills rows.
func Reader(tokens, outputs, vocab, pad int) *graph.Graph {
	return BERT(BERTConfig{Name: "starter", Layers: 2, Heads: 4, Width: 128, Inner: 512, Tokens: tokens, Positions: tokens, Vocab: vocab, Classes: outputs, Pad: pad, Dropout: 0.1})
}
