// Random numbers that a model draws itself: the noise of a variational autoencoder.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var noiseOperators = map[string]operator{
	"randn_like": drawn(false), "randn": drawn(false), "rand_like": drawn(true), "rand": drawn(true), "normal": normal, "uniform": uniform,
}

// noise is numbers for each sample of a new tensor, which the node's first output is.
func (l *lowering) noise(uniform bool) *value {
	sizes, _ := l.meta(outputs(l.node)[0])
	v := &value{shape: make([]int, len(sizes)), batch: -1, outer: 1}
	for i, s := range sizes {
		v.shape[i] = s.n
		if s.batched || l.symbol == "" && i == 0 && s.n == l.batch {
			v.batch = i
		}
	}
	if v.batch < 0 {
		fail("its numbers are drawn once for the whole batch; make them an input of the model, or draw them for each sample")
	}
	if l.symbol == "" {
		v.shape[v.batch] = 1
	}
	row := v.row()
	zeros := l.value(constant(make([]float64, elems(row)), slices.Clone(row), false))
	v.name, _ = l.emit(&graph.Noise{Uniform: uniform}, nil, zeros.name)
	return v
}

func drawn(uniform bool) operator {
	return func(l *lowering, _ *pt2.Node) { l.define(l.noise(uniform)) }
}

// normal has the given mean and deviation: numbers or tensors.
func normal(l *lowering, n *pt2.Node) {
	z := l.noise(false)
	for _, p := range []struct {
		f, name string
		def     float64
	}{{"mul", "std", 1}, {"add", "mean", 0}} {
		v := l.optional(n, p.name)
		if v == nil {
			v = constant([]float64{l.scalar(n, p.name, p.def)}, []int{}, false)
		}
		z = l.binary(p.f, z, v)
	}
	l.define(z)
}

func uniform(l *lowering, n *pt2.Node) {
	from, to := l.scalar(n, "from", 0), l.scalar(n, "to", 1)
	l.define(l.unary("affine", l.noise(true), to-from, from))
}
