// Residual networks with torchvision's parameter names and initialisation: He et al., arXiv
// 1512.03385, with the stride of a bottleneck in its 3x3 convolution.

package zoo

import (
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/graph"
)

// ResNetConfig is the size of a residual network.
type ResNetConfig struct {
	Name       string
	Blocks     [4]int // of each layer
	Bottleneck bool
	Width      int // channels of the first layer
	Image      int // height and width of the input
	Classes    int
}

// ResNet18 and ResNet50 are torchvision's resnet18 and resnet50 for images of 64x64 and
// ten classes; ResNet50Tiny has the 200 classes of Tiny-ImageNet.
var (
	ResNet18 = ResNetConfig{Name: "resnet18", Blocks: [4]int{2, 2, 2, 2}, Width: 64, Image: 64, Classes: 10}
	ResNet50 = ResNetConfig{Name: "resnet50", Blocks: [4]int{3, 4, 6, 3}, Bottleneck: true, Width: 64, Image: 64, Classes: 10}

	ResNet50Tiny = ResNetConfig{Name: "resnet50-tiny", Blocks: ResNet50.Blocks, Bottleneck: true, Width: 64, Image: 64, Classes: 200}
)

// ResNet is over images [N,3,Image,Image]; its answer are logits [N,Classes].
func ResNet(c ResNetConfig) *graph.Graph {
	b := &builder{g: graph.Graph{Name: c.Name, Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{3, c.Image, c.Image}}}}, last: "x"}
	b.convNorm("conv1", "bn1", 3, c.Width, 7, 2)
	b.node("relu", &graph.ReLU{})
	b.node("maxpool", &graph.MaxPool2d{Kernel: graph.Pair{3, 3}, Stride: graph.Pair{2, 2}, Padding: graph.Pair{1, 1}})
	in := c.Width
	for l, blocks := range c.Blocks {
		width, stride := c.Width<<l, 1
		if l > 0 {
			stride = 2
		}
		for i := range blocks {
			in = b.block(fmt.Sprintf("layer%d.%d.", l+1, i), in, width, stride, c.Bottleneck)
			stride = 1
		}
	}
	b.node("avgpool", &graph.AdaptiveAvgPool2d{Out: graph.Pair{1, 1}})
	b.node("flatten", &graph.Flatten{})
	b.node("fc", &graph.Linear{In: in, Out: c.Classes, Bias: true})
	return b.done()
}

// block is a residual block; it returns its channels.
func (b *builder) block(name string, in, width, stride int, bottleneck bool) int {
	from, out := b.last, width
	if bottleneck {
		out = 4 * width
		b.convNorm(name+"conv1", name+"bn1", in, width, 1, 1)
		b.node(name+"relu", &graph.ReLU{})
		b.convNorm(name+"conv2", name+"bn2", width, width, 3, stride)
		b.node(name+"relu2", &graph.ReLU{})
		b.convNorm(name+"conv3", name+"bn3", width, out, 1, 1)
	} else {
		b.convNorm(name+"conv1", name+"bn1", in, width, 3, stride)
		b.node(name+"relu", &graph.ReLU{})
		b.convNorm(name+"conv2", name+"bn2", width, out, 3, 1)
	}
	branch, skip := b.last, from
	if stride != 1 || in != out {
		b.last = from
		b.convNorm(name+"downsample.0", name+"downsample.1", in, out, 1, stride)
		skip = b.last
	}
	b.last = branch
	b.add(name+"add", skip)
	b.node(name+"out", &graph.ReLU{})
	return out
}

// convNorm is a convolution without bias, initialised by kaiming_normal over fan_out,
// and batch norm.
func (b *builder) convNorm(conv, bn string, in, out, k, stride int) {
	b.node(conv, &graph.Conv2d{
		In: in, Out: out, Kernel: graph.Pair{k, k}, Stride: graph.Pair{stride, stride}, Padding: graph.Pair{k / 2, k / 2},
		Std: math.Sqrt(2 / float64(out*k*k)),
	})
	b.node(bn, batchNorm(3, out))
}
