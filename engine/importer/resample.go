// Interpolation, and padding with the model's own values.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var resampleOperators = map[string]operator{
	"upsample_nearest1d": upsample(1, nearest), "upsample_nearest2d": upsample(2, nearest),
	"upsample_nearest_exact1d": upsample(1, nearestExact), "upsample_nearest_exact2d": upsample(2, nearestExact),
	"_upsample_nearest_exact1d": upsample(1, nearestExact), "_upsample_nearest_exact2d": upsample(2, nearestExact),
	"upsample_linear1d": upsample(1, between), "upsample_bilinear2d": upsample(2, between), "upsample_bicubic2d": upsample(2, cubic),
	"_upsample_bilinear2d_aa": upsample(2, smooth(1, tent)), "_upsample_bicubic2d_aa": upsample(2, smooth(2, keys)),
	"reflection_pad1d": padded("reflect"), "reflection_pad2d": padded("reflect"),
	"replication_pad1d": padded("replicate"), "replication_pad2d": padded("replicate"),
}

// resample makes the elements of an axis sums of taps others each: index and weights are
// [elements, taps], weights nil where they are 1.
func (l *lowering) resample(v *value, axis int, index []int, taps int, weights []float64) *value {
	if axis == v.batch {
		fail("it works along the batch")
	}
	v = l.value(v)
	op := &graph.Resample{Axis: v.axis(axis), Taps: taps, Index: make(graph.Packed, len(index))}
	for i, k := range index {
		op.Index[i] = uint32(k)
	}
	for _, w := range weights {
		op.Weight = append(op.Weight, math.Float32bits(float32(w)))
	}
	name, s := l.emit(op, nil, v.name)
	shape := slices.Clone(v.shape)
	shape[axis] = len(index) / taps
	w := l.result(name, s, shape, v.batch, v.outer)
	w.whole = v.whole
	return w
}

func padded(mode string) operator {
	return func(l *lowering, n *pt2.Node) {
		l.define(l.padAround(l.tensor(n, "self"), l.plain(n, "padding"), mode))
	}
}

// padAround pads the last axes with what a mode takes from inside; pad has what comes before
// and after the last axis first.
func (l *lowering) padAround(v *value, pad []int, mode string) *value {
	for i := 0; i+1 < len(pad); i += 2 {
		a := len(v.shape) - 1 - i/2
		if a < 0 {
			fail("%d numbers for %d axes", len(pad), len(v.shape))
		}
		d, before, after := v.shape[a], pad[i], pad[i+1]
		if before == 0 && after == 0 {
			continue
		}
		if before < 0 || after < 0 || before > graph.MaxDim || after > graph.MaxDim {
			fail("mode %q with padding of %d and %d", mode, before, after)
		}
		index := make([]float64, 0, before+d+after)
		for k := -before; k < d+after; k++ {
			from := k
			switch mode {
			case "reflect":
				if from = max(k, -k); from >= d {
					from = 2*(d-1) - from
				}
			case "replicate":
				from = min(max(k, 0), d-1)
			case "circular":
				from = (k + d) % d
			default:
				fail("with mode %q", mode)
			}
			if from < 0 || from >= d {
				fail("padding of %d and %d around %d elements with mode %q", before, after, d, mode)
			}
			index = append(index, float64(from))
		}
		v = l.pick(v, a, index)
	}
	return v
}

// sampler tells what element o of out is made of: elements of in, each with a weight. scale is
// the distance in the input of two neighbours in the output.
type sampler func(o, in int, scale float64, corners bool) (index []int, weights []float64)

func upsample(dims int, s sampler) operator {
	return func(l *lowering, n *pt2.Node) {
		v := l.leading(l.tensor(n, "self", "input"))
		sizes, _ := l.meta(n.Outputs[0].Names[0])
		if len(v.shape) != dims+2 || len(sizes) != dims+2 {
			fail("of %v", v.shape)
		}
		out := make([]int, dims)
		for k := range out {
			out[k] = sizes[k+2].n
		}
		l.define(l.interpolate(v, out, l.scales(n, dims), s, l.flag(n, "align_corners", false)))
	}
}

// interpolate gives the axes behind the channels other sizes. scales, where they are not nil,
// count more than the sizes.
func (l *lowering) interpolate(v *value, sizes []int, scales []float64, s sampler, corners bool) *value {
	for k := len(sizes) - 1; k >= 0; k-- { // PyTorch begins with the last axis too
		a := k + 2
		in, out := v.shape[a], sizes[k]
		if out < 1 || out > graph.MaxDim {
			fail("to %d elements", out)
		}
		scale := float64(float32(in) / float32(out))
		switch {
		case corners:
			scale = 0
			if out > 1 {
				scale = float64(float32(in-1) / float32(out-1))
			}
		case scales != nil && scales[k] > 0:
			scale = float64(float32(1 / scales[k]))
		}
		var index []int
		var weights []float64
		taps, same := 1, in == out
		each := make([][]int, out)
		by := make([][]float64, out)
		for o := range out {
			each[o], by[o] = s(o, in, scale, corners)
			same = same && len(each[o]) == 1 && each[o][0] == o
			taps = max(taps, len(each[o]))
		}
		for o, is := range each { // some have fewer
			index = append(append(index, is...), slices.Repeat([]int{0}, taps-len(is))...)
			if by[o] != nil {
				weights = append(append(weights, by[o]...), slices.Repeat([]float64{0}, taps-len(is))...)
			}
		}
		if !same {
			v = l.resample(v, a, index, taps, weights)
		}
	}
	return v
}

// scales are the factors of the axes where they were given, which count more than the sizes.
func (l *lowering) scales(n *pt2.Node, dims int) []float64 {
	if a, ok := arg(n, "scale_factors"); ok && len(a.Floats) == dims {
		return a.Floats
	}
	names := []string{"scales_h", "scales_w"}
	if dims == 1 {
		names = []string{"scales"}
	}
	var fs []float64
	for _, name := range names {
		if a, ok := arg(n, name); ok && len(a.Floats) == 1 {
			fs = append(fs, a.Floats[0])
		}
	}
	if len(fs) != dims {
		return nil
	}
	return fs
}

func nearest(o, in int, scale float64, _ bool) ([]int, []float64) {
	return []int{min(int(float32(float32(o)*float32(scale))), in-1)}, nil
}

func nearestExact(o, in int, scale float64, _ bool) ([]int, []float64) {
	return []int{min(int(float32((float32(o)+0.5)*float32(scale))), in-1)}, nil
}

// at is where element o of the output lies in the input.
func at(o int, scale float64, corners bool) float64 {
	if corners {
		return float64(o) * scale
	}
	return (float64(o)+0.5)*scale - 0.5
}

func between(o, in int, scale float64, corners bool) ([]int, []float64) {
	x := max(at(o, scale, corners), 0)
	k := min(int(x), in-1)
	w := min(x-float64(k), 1)
	return []int{k, min(k+1, in-1)}, []float64{1 - w, w}
}

func cubic(o, in int, scale float64, corners bool) ([]int, []float64) {
	const a = -0.75
	x := at(o, scale, corners)
	k := math.Floor(x)
	t := x - k
	near := func(d float64) float64 { return ((a+2)*d-(a+3))*d*d + 1 }
	far := func(d float64) float64 { return ((a*d-5*a)*d+8*a)*d - 4*a }
	index := make([]int, 4)
	for i := range index {
		index[i] = min(max(int(k)-1+i, 0), in-1)
	}
	return index, []float64{far(t + 1), near(t), near(1 - t), far(2 - t)}
}

// smooth is interpolation that takes in all elements between two neighbours in the output: the
// kernel, which reaches so far to each side, is as wide as that where the output is smaller.
func smooth(reach float64, kernel func(d float64) float64) sampler {
	return func(o, in int, scale float64, corners bool) (index []int, weights []float64) {
		wide := max(scale, 1)
		center := scale * (float64(o) + 0.5)
		first := max(int(center-reach*wide+0.5), 0)
		last := min(int(center+reach*wide+0.5), in)
		sum := 0.0
		for k := first; k < last; k++ {
			w := kernel((float64(k) - center + 0.5) / wide)
			index, weights, sum = append(index, k), append(weights, w), sum+w
		}
		for i := range weights {
			if sum != 0 {
				weights[i] /= sum
			}
		}
		return index, weights
	}
}

func tent(d float64) float64 { return max(1-math.Abs(d), 0) }

// keys is Keys' kernel with -0.5, which PyTorch takes where it smooths.
func keys(d float64) float64 {
	const a = -0.5
	switch d = math.Abs(d); {
	case d < 1:
		return ((a+2)*d-(a+3))*d*d + 1
	case d < 2:
		return ((a*d-5*a)*d+8*a)*d - 4*a
	}
	return 0
}
