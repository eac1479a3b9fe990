package kernel

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"
)

// BenchmarkVec measures every loop beside the plainest loops that read and write as much,
// which is what the machine's bandwidth allows: in the second level of cache, where
// arithmetic shows, and out of every cache. x-bandwidth is how many times longer it takes.
// Bytes count each slice that is read and each that is written. The copy of the runtime is
// listed for comparison: it writes large slices past the caches, where what reads them next
// would look for them in vain.
func BenchmarkVec(b *testing.B) {
	sgd := SGDParams{LR: 1e-3, Momentum: 0.9, OneMinusDampening: 1}
	adam := AdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, StepSize: 1e-3, SqrtBiasCorrection2: 1, Eps: 1e-8, Decay: 1}
	nadam := NAdamParams{Beta1: 0.9, OneMinusBeta1: 0.1, Beta2: 0.999, OneMinusBeta2: 0.001, BiasCorrection2: 1, GradScale: 1e-3, MomentScale: 1e-3, Eps: 1e-8}
	const c, cols = 64, 1024 // channels and the length of rows of operations that have them
	var k [6][]float32
	for i := range k {
		k[i] = elemTNormal(c, uint64(i))
	}
	s := NewStream(1, DomainDropout, 1, 1)
	for _, n := range []int{1 << 14, 1 << 24} {
		var x [4][]float32
		for i := range x {
			x[i] = make([]float32, n)
			Uniform(x[i], NewStream(uint64(i), DomainTest, 0, 0), 0.01, 1)
		}
		masked := make([]float32, n)
		for i := range masked {
			if masked[i] = x[1][i]; i%3 == 0 {
				masked[i] = -math.MaxFloat32
			}
		}
		mask := make([]uint32, n/32)
		words := make([]uint32, n)
		ToHalf(words, x[0]) // memory that was never written is not there yet
		rows := make([]float32, n/cols)
		sink := float32(0)

		// Loops by what they move.
		var ones [2][]byte
		for i := range ones {
			f := make([]float32, n)
			Fill(f, 1)
			ones[i] = unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*n)
		}
		read := func() { bytes.IndexByte(ones[0], 1) }
		read2 := func() { bytes.Equal(ones[0], ones[1]) }
		change := func() { Scale(x[2], x[2], 1) }
		write := func() { Scale(x[0], x[1], 1) }
		write2 := func() { Add(x[0], x[1], x[2]) }
		update := func() { AddTo(x[0], x[1]) }
		update2 := func() { update(); change() }
		update3 := func() { update2(); change() }
		for _, r := range []struct {
			name  string
			moved float64 // slices read and written
			like  func()
			f     func()
		}{
			{"copy", 2, write, func() { copy(x[0], x[1]) }},
			{"add", 3, write2, func() { Add(x[0], x[1], x[2]) }},
			{"add-to", 3, update, func() { AddTo(x[0], x[1]) }},
			{"relu", 2, write, func() { ReLU(x[0], x[1]) }},
			{"relu-grad", 3, write2, func() { ReLUGrad(x[0], x[1], x[2]) }},
			{"dropout-mask", 1.0 / 32, nil, func() { DropoutMask(mask, s, 0, n, 0.25) }},
			{"dropout", 2, write, func() { Dropout(x[0], x[1], mask, 1.25) }},
			{"sum", 1, read, func() { sink += Sum(x[0]) }},
			{"dot", 2, read2, func() { sink += Dot(x[0], x[1]) }},
			{"gelu", 2, write, func() { GELU(x[0], x[1]) }},
			{"gelu-grad", 3, write2, func() { GELUGrad(x[0], x[1], x[2]) }},
			{"tanh", 2, write, func() { TanhForward(x[0], x[1]) }},
			{"softmax", 2, write, func() { Softmax(x[0], x[1], n/cols, cols) }},
			{"softmax-masked", 2, write, func() { Softmax(x[0], masked, n/cols, cols) }},
			{"softmax-grad", 3, write2, func() { SoftmaxGrad(x[0], x[1], x[2], n/cols, cols) }},
			{"layer-norm", 2, write, func() { LayerNorm(x[0], x[1], x[2], x[3], rows, rows, n/cols, cols, 1e-5) }},
			{"bn-stats", 1, read, func() { BatchNormStats(k[0], k[1], x[0], AllChannels(4, c, n/c/4)) }},
			{"bn-apply", 2, write, func() { BatchNormApply(x[0], x[1], k[0], k[1], k[2], k[3], AllChannels(4, c, n/c/4)) }},
			{"bn-grad-sums", 2, read2, func() { BatchNormGradSums(k[4], k[5], x[0], x[1], k[0], k[1], AllChannels(4, c, n/c/4)) }},
			{"bn-grad-input", 3, write2, func() { BatchNormGradInput(x[0], x[1], x[2], k[0], k[1], k[2], k[4], k[5], AllChannels(4, c, n/c/4)) }},
			{"sgd", 5, update2, func() { SGD(x[0], x[1], x[2], sgd) }},
			{"adamw", 7, update3, func() { AdamW(x[0], x[1], x[2], x[3], adam) }},
			{"nadam", 7, update3, func() { NAdam(x[0], x[1], x[2], x[3], nadam) }},
			{"to-half", 2, write, func() { ToHalf(words, x[0]) }},
			{"from-half", 2, write, func() { FromHalf(x[0], words) }},
			{"to-bfloat16", 2, write, func() { ToBFloat16(words, x[1]) }},
			{"abs-max", 1, read, func() { AbsMax(x[1]) }},
			{"quantise8", 2, write, func() { Quantise8(words, x[1], 127) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", r.name, n), func(b *testing.B) {
				b.SetBytes(int64(r.moved * float64(4*n)))
				for b.Loop() {
					r.f()
				}
				if r.like == nil {
					return
				}
				start := time.Now()
				for range b.N {
					r.like()
				}
				b.ReportMetric(float64(b.Elapsed())/float64(time.Since(start)), "x-bandwidth")
			})
		}
		elemTSink += sink
	}
}

// BenchmarkBatchNorm measures batch norm with ReLU behind it on ResNet-50's shapes, pass by
// pass over the whole tensor and a few channels at a time. Bytes count what has to move:
// two tensors forward, three backward.
func BenchmarkBatchNorm(b *testing.B) {
	for _, s := range [][3]int{{8, 64, 112 * 112}, {8, 256, 56 * 56}, {8, 512, 28 * 28}, {8, 2048, 49}, {32, 256, 256}, {32, 2048, 4}} {
		n, c, hw := s[0], s[1], s[2]
		x, y, dy := elemTNormal(n*c*hw, 1), make([]float32, n*c*hw), elemTNormal(n*c*hw, 2)
		k := [6][]float32{}
		for i := range k {
			k[i] = elemTNormal(c, uint64(i))
		}
		mean, inv, va, dg, db := k[0], k[1], k[2], k[3], k[4]
		gamma, beta := k[5], k[5]
		norm := BatchNorm{N: n, C: c, HW: hw, ReLU: true, Eps: 1e-5, Gamma: gamma, Beta: beta, Mean: mean, InvStd: inv}
		all := AllChannels(n, c, hw)
		run := func(name string, moved int, f func()) {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", name, n, c, hw), func(b *testing.B) {
				b.SetBytes(int64(4 * moved * len(x)))
				for b.Loop() {
					f()
				}
			})
		}
		run("copy", 2, func() { copy(y, x) })
		run("forward-passes", 2, func() {
			BatchNormStats(mean, va, x, all)
			InvStd(inv, va, 1e-5)
			BatchNormApply(y, x, mean, inv, gamma, beta, all)
			ReLU(y, y)
		})
		run("forward", 2, func() { BatchNormForward(nil, &norm, y, x, va) })
		run("backward-passes", 3, func() {
			ReLUGrad(dy, dy, y)
			BatchNormGradSums(dg, db, dy, x, mean, inv, all)
			BatchNormGradInput(dy, dy, x, mean, inv, gamma, dg, db, all)
		})
		run("backward", 3, func() { BatchNormBackward(nil, &norm, dy, dy, x, dg, db) })
	}
}
