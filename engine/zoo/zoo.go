// Package zoo holds the models that users start from, built with PyTorch's
// parameter names, and for each a job to train it with.
package zoo

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
)

// builder appends nodes in sequence: each reads the one before.
type builder struct {
	g    graph.Graph
	last string
}

// tokens begins a model over rows of n tokens.
func tokens(name string, n int) *builder {
	return &builder{g: graph.Graph{Name: name, Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{n}, Constant: true}}}, last: "x"}
}

// node appends a node that reads the one before and further ones.
func (b *builder) node(name string, op graph.Op, more ...string) {
	b.g.Nodes = append(b.g.Nodes, graph.Node{Name: name, Op: op, Inputs: append([]string{b.last}, more...)})
	b.last = name
}

// add ends a residual: skip plus the node before, whose gradient may then take over the
// sum's, being the last. It returns its name.
func (b *builder) add(name, skip string) string {
	branch := b.last
	b.last = skip
	b.node(name, &graph.Add{}, branch)
	return name
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

// Example is a model with a job that trains it on data that come with the program.
type Example struct {
	About string // what learns what, for people
	Time  string // and about how long that takes one core of a server (BENCHMARKS.md, Training steps)
	Graph *graph.Graph
	Job   job.Spec
	fit   func(image, classes int) *graph.Graph
}

// Fit is the example's model for other data: of square images [3,S,S] as large as they are, with
// so many classes. Models of anything else stay as they are.
func (e *Example) Fit(shape []int, classes int) *graph.Graph {
	if e.fit == nil || len(shape) != 3 || shape[0] != 3 || shape[1] != shape[2] || shape[1] < 32 || classes < 2 {
		return e.Graph
	}
	return e.fit(shape[1], classes)
}

// example is a model and what its job changes in the walkthrough's.
type example struct {
	about, time string
	graph       func() *graph.Graph
	job         func(*job.Spec)
	fit         func(image, classes int) *graph.Graph // as Example.Fit, nil: the model is as it is
}

// residual is a residual network for other images.
func residual(c ResNetConfig) func(image, classes int) *graph.Graph {
	return func(image, classes int) *graph.Graph {
		c.Image, c.Classes = image, classes
		return ResNet(c)
	}
}

func inception(image, classes int) *graph.Graph {
	return Inception(InceptionConfig{Name: "inception_v3", Image: image, Classes: classes})
}

var examples = map[string]example{
	"cnn": {"the walkthrough's CNN reads handwritten digits", "a second", CNN, func(*job.Spec) {}, nil},
	"gpt-sorter": {"a GPT of 3 layers sorts six digits", "15 seconds", func() *graph.Graph { return GPT(GPTSorter) }, func(j *job.Spec) {
		j.Data, j.Epochs, j.ValEvery, j.SaveEvery, j.Replicas = "sorter", 150, 10, 50, 2
		language(j, 1e-3)
	}, nil},
	"char-gpt": {"a GPT of 6 layers writes sums in words", "40 minutes", func() *graph.Graph { return GPT(CharGPT) }, func(j *job.Spec) {
		j.Data, j.Epochs, j.BatchSize, j.SaveEvery = "sums", 10, 16, 1
		language(j, 3e-4)
	}, nil},
	"bert": {"BERT-base tells two kinds of text apart", "10 minutes", func() *graph.Graph { return BERT(BERTBase) }, func(j *job.Spec) {
		j.Data, j.Epochs, j.BatchSize, j.SaveEvery = "topics", 3, 4, 1
		language(j, 5e-5)
	}, nil},
	"bert-pretrain": {"a BERT of 2 layers learns hidden words and the order of sentences", "a minute", func() *graph.Graph { return PretrainingBERT(BERTSmall) }, pretraining, nil},
	"resnet18":      {"ResNet-18 tells ten shapes apart, of 64x64 pixels", "2 minutes", func() *graph.Graph { return ResNet(ResNet18) }, residuals, residual(ResNet18)},
	"resnet50":      {"ResNet-50 tells ten shapes apart", "5 minutes", func() *graph.Graph { return ResNet(ResNet50) }, residuals, residual(ResNet50)},
	"resnet50-tiny": {"ResNet-50 with Tiny-ImageNet's 200 classes, of which the shapes are ten", "5 minutes", func() *graph.Graph { return ResNet(ResNet50Tiny) }, residuals, residual(ResNet50Tiny)},
	"inception_v3":  {"Inception v3 tells ten shapes apart", "2 to 3 hours", func() *graph.Graph { return inception(64, 10) }, images, inception},
}

// pretraining sets what a BERT is pre-trained with: words and sentence order, LAMB (You et al.,
// arXiv 1904.00962), a learning rate that rises and falls, and 16 batches an update.
func pretraining(j *job.Spec) {
	j.Data, j.Loss, j.Epochs, j.BatchSize, j.ValEvery, j.SaveEvery = "days", job.CrossEntropy, 20, 8, 1, 5
	j.Losses = []job.LossPart{{Output: BERTWords, Target: "words"}, {Output: BERTOrder, Target: "order"}}
	j.Optimizer = job.DefaultOptimizer("lamb")
	j.Optimizer.LR, j.Optimizer.NoDecay = 2e-2, []string{"bias", "norm"}
	j.UpdateFrequency = 16
	j.LR = job.DefaultLR("warmup_linear")
	j.LR.Warmup = 32
}

// language sets what transformers are trained with.
func language(j *job.Spec, lr float64) {
	j.Loss = "cross_entropy"
	j.Optimizer = job.Optimizer{Name: "adamw", LR: lr, Betas: [2]float64{0.9, 0.95}, Eps: 1e-8}
}

// images sets what convolutional networks are trained with.
func images(j *job.Spec) {
	j.Data, j.Loss, j.Epochs, j.BatchSize, j.SaveEvery = "shapes", "cross_entropy", 20, 32, 5
	j.Optimizer = job.Optimizer{Name: "sgd", LR: 0.005, Momentum: 0.9, WeightDecay: 1e-4}
}

// residuals sets what residual networks are trained with: two replicas, which fill the pipeline of two
// providers, and at twice the rate learn as much from as many images as one (BENCHMARKS.md, Replicas).
func residuals(j *job.Spec) {
	images(j)
	j.Replicas, j.Optimizer.LR, j.ValEvery = 2, 2*j.Optimizer.LR, j.SaveEvery
}

// Find finds an example by name.
func Find(name string) (Example, error) {
	e, ok := examples[name]
	if !ok {
		return Example{}, fmt.Errorf("unknown example %q; known ones are %s: ravnest init --help says what they are", name, strings.Join(Names(), ", "))
	}
	j := job.Default()
	j.Name = name
	e.job(&j)
	return Example{e.about, e.time, e.graph(), j, e.fit}, nil
}

// Names lists the examples, sorted.
func Names() []string { return slices.Sorted(maps.Keys(examples)) }

// List is a table of the examples for people: name, what it is, time.
func List() string {
	var b strings.Builder
	for _, name := range Names() {
		fmt.Fprintf(&b, "%-14s %s (%s)\n", name, examples[name].about, examples[name].time)
	}
	return b.String()
}
