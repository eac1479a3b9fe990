// Inception-V3 with torchvision's parameter names: Szegedy et al., arXiv 1512.00567. For small
// images, as of CIFAR, the stem neither strides nor pools.

package zoo

import (
	"github.com/ravnest/ravnest/engine/graph"
)

// InceptionConfig is the size of an Inception-V3 without its auxiliary head.
type InceptionConfig struct {
	Name    string
	Image   int // height and width of the input, at least 32
	Classes int
}

// small is the height from which on the stem is that of the paper.
const small = 75

// Inception is over images [N,3,Image,Image]; its answer are logits [N,Classes].
func Inception(c InceptionConfig) *graph.Graph {
	b := &builder{g: graph.Graph{Name: c.Name, Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{3, c.Image, c.Image}}}}, last: "x"}
	pool := func(name string) {
		b.node(name, &graph.MaxPool2d{Kernel: graph.Pair{3, 3}, Stride: graph.Pair{2, 2}})
	}
	large, pad, stride := c.Image >= small, 1, 1
	if large {
		pad, stride = 0, 2
	}
	b.unit("Conv2d_1a_3x3", 3, 32, graph.Pair{3, 3}, stride, graph.Pair{pad, pad})
	b.unit("Conv2d_2a_3x3", 32, 32, graph.Pair{3, 3}, 1, graph.Pair{pad, pad})
	b.unit("Conv2d_2b_3x3", 32, 64, graph.Pair{3, 3}, 1, graph.Pair{1, 1})
	if large {
		pool("maxpool1")
	}
	b.unit("Conv2d_3b_1x1", 64, 80, graph.Pair{1, 1}, 1, graph.Pair{})
	b.unit("Conv2d_4a_3x3", 80, 192, graph.Pair{3, 3}, 1, graph.Pair{})
	if large {
		pool("maxpool2")
	}
	b.mixedA("Mixed_5b.", 192, 32)
	b.mixedA("Mixed_5c.", 256, 64)
	b.mixedA("Mixed_5d.", 288, 64)
	b.mixedB("Mixed_6a.", 288)
	b.mixedC("Mixed_6b.", 128)
	b.mixedC("Mixed_6c.", 160)
	b.mixedC("Mixed_6d.", 160)
	b.mixedC("Mixed_6e.", 192)
	b.mixedD("Mixed_7a.", 768)
	b.mixedE("Mixed_7b.", 1280)
	b.mixedE("Mixed_7c.", 2048)
	b.node("avgpool", &graph.AdaptiveAvgPool2d{Out: graph.Pair{1, 1}})
	b.node("dropout", &graph.Dropout{P: 0.5})
	b.node("flatten", &graph.Flatten{})
	b.node("fc", &graph.Linear{In: 2048, Out: c.Classes, Bias: true})
	return b.done()
}

// unit is a convolution without bias, batch norm and ReLU. It returns the name of its result.
func (b *builder) unit(name string, in, out int, kernel graph.Pair, stride int, pad graph.Pair) string {
	b.node(name+".conv", &graph.Conv2d{In: in, Out: out, Kernel: kernel, Stride: graph.Pair{stride, stride}, Padding: pad})
	b.node(name+".bn", &graph.BatchNorm{Rank: 3, Features: out, Eps: 0.001, Momentum: 0.1})
	b.node(name+".relu", &graph.ReLU{})
	return b.last
}

// The kernels of the branches.
var (
	k1, k3, k5 = graph.Pair{1, 1}, graph.Pair{3, 3}, graph.Pair{5, 5}
	row, col   = graph.Pair{1, 7}, graph.Pair{7, 1}
)

// same is the padding that keeps the size.
func same(k graph.Pair) graph.Pair { return graph.Pair{k[0] / 2, k[1] / 2} }

// chain is units that keep the size, from value from.
func (b *builder) chain(from, name string, in int, names []string, outs []int, kernels []graph.Pair) string {
	b.last = from
	for i, n := range names {
		b.unit(name+n, in, outs[i], kernels[i], 1, same(kernels[i]))
		in = outs[i]
	}
	return b.last
}

// pooled is the average of neighbours and a unit.
func (b *builder) pooled(from, name string, in, out int) string {
	b.last = from
	b.node(name+"pool", &graph.AvgPool2d{MaxPool2d: graph.MaxPool2d{Kernel: k3, Stride: k1, Padding: k1}})
	return b.unit(name+"branch_pool", in, out, k1, 1, graph.Pair{})
}

// join puts branches side by side.
func (b *builder) join(name string, branches ...string) string {
	b.last = branches[0]
	b.node(name, &graph.Concat{}, branches[1:]...)
	return b.last
}

func (b *builder) mixedA(name string, in, pool int) {
	x := b.last
	one := b.chain(x, name, in, []string{"branch1x1"}, []int{64}, []graph.Pair{k1})
	five := b.chain(x, name, in, []string{"branch5x5_1", "branch5x5_2"}, []int{48, 64}, []graph.Pair{k1, k5})
	three := b.chain(x, name, in, []string{"branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"}, []int{64, 96, 96}, []graph.Pair{k1, k3, k3})
	b.join(name+"cat", one, five, three, b.pooled(x, name, in, pool))
}

// halved is units whose last one strides.
func (b *builder) halved(from, name string, in int, names []string, outs []int, kernels []graph.Pair, last string, out int) string {
	n := in
	if len(outs) > 0 {
		n = outs[len(outs)-1]
	}
	b.chain(from, name, in, names, outs, kernels)
	return b.unit(name+last, n, out, k3, 2, graph.Pair{})
}

func (b *builder) most(from, name string) string {
	b.last = from
	b.node(name+"pool", &graph.MaxPool2d{Kernel: k3, Stride: graph.Pair{2, 2}})
	return b.last
}

func (b *builder) mixedB(name string, in int) {
	x := b.last
	three := b.halved(x, name, in, nil, nil, nil, "branch3x3", 384)
	double := b.halved(x, name, in, []string{"branch3x3dbl_1", "branch3x3dbl_2"}, []int{64, 96}, []graph.Pair{k1, k3}, "branch3x3dbl_3", 96)
	b.join(name+"cat", three, double, b.most(x, name))
}

func (b *builder) mixedC(name string, c int) {
	const in = 768
	x := b.last
	one := b.chain(x, name, in, []string{"branch1x1"}, []int{192}, []graph.Pair{k1})
	seven := b.chain(x, name, in, []string{"branch7x7_1", "branch7x7_2", "branch7x7_3"}, []int{c, c, 192}, []graph.Pair{k1, row, col})
	double := b.chain(x, name, in, []string{"branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"},
		[]int{c, c, c, c, 192}, []graph.Pair{k1, col, row, col, row})
	b.join(name+"cat", one, seven, double, b.pooled(x, name, in, 192))
}

func (b *builder) mixedD(name string, in int) {
	x := b.last
	three := b.halved(x, name, in, []string{"branch3x3_1"}, []int{192}, []graph.Pair{k1}, "branch3x3_2", 320)
	seven := b.halved(x, name, in, []string{"branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3"}, []int{192, 192, 192}, []graph.Pair{k1, row, col}, "branch7x7x3_4", 192)
	b.join(name+"cat", three, seven, b.most(x, name))
}

func (b *builder) mixedE(name string, in int) {
	wide, high := graph.Pair{1, 3}, graph.Pair{3, 1}
	x := b.last
	one := b.chain(x, name, in, []string{"branch1x1"}, []int{320}, []graph.Pair{k1})
	// Both ends read the same value and stand side by side.
	fork := func(from, stem string) string {
		left := b.chain(from, name, 384, []string{stem + "a"}, []int{384}, []graph.Pair{wide})
		right := b.chain(from, name, 384, []string{stem + "b"}, []int{384}, []graph.Pair{high})
		return b.join(name+stem+"cat", left, right)
	}
	three := fork(b.chain(x, name, in, []string{"branch3x3_1"}, []int{384}, []graph.Pair{k1}), "branch3x3_2")
	double := fork(b.chain(x, name, in, []string{"branch3x3dbl_1", "branch3x3dbl_2"}, []int{448, 384}, []graph.Pair{k1, k3}), "branch3x3dbl_3")
	b.join(name+"cat", one, three, double, b.pooled(x, name, in, 192))
}
