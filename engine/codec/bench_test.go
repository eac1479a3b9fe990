// This file exists to measure the codec on what stages send, and to keep the
// figures beside the measurement.
//
// One core of a 2-core AMD EPYC (amd64, Go 1.26, other work on the machine: the
// best of 6 runs each), when zstd's own encoder squeezed planes, which took longer than frame
// does and made the same of them; MB/s of float32, and the message's part of it:
//
//	          fp32             fp16             bf16             int8
//	          enc  dec  ratio  enc  dec  ratio  enc  dec  ratio  enc  dec  ratio
//	act       1530 3710 0.280  2367 3940 0.149  1541 3577 0.128  2418 656  0.087
//	norm      1115 3872 0.298  1256 3645 0.162  1088 1592 0.138  981  1280 0.146
//	grad      1364 3507 0.847  1470 3002 0.392  1365 3014 0.347  1638 2044 0.163
//	small     352  2018 0.371  356  1383 0.205  260  973  0.171  368  1171 0.126
//
// What decided the design, on tensors of the trained walkthrough model (bytes of
// 65,536, fp32): act, planes alone leave about 22,900 by their entropy, and zstd
// needs 104 us for the upper plane with its zeros, longer than a whole encoding
// with the bitmap takes, which leaves 18,015. norm, planes with zstd 46,558 in
// 599 us, with the column bitmap 19,142 in 137 us. Putting the whole exponent in
// one plane (the sign moved next to the mantissa) changed under 0.5 %: left out.
package codec

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// tensors are what the cuts of a small convolutional classifier carry, made by
// its arithmetic from random weights: what a squeezer lives on is that
// activations have zeros, that normalised ones repeat a value per column, and
// that gradients have a column's and a row's scale.
type tensors struct {
	act   []float32 // [64,256] dense, ReLU, dropout 0.4: 70 % zeros
	norm  []float32 // [64,256] act, batch-normalised: zeros became one value per column
	grad  []float32 // [64,256] gradient of act
	small []float32 // [64,32] features after dropout and normalisation, the input of dense
}

func makeTensors() tensors {
	const batch, in, hid, out = 64, 32, 256, 10
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(n int, s float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64() * s)
		}
		return x
	}
	mul := func(a, b []float32, n, k, m int) []float32 { // [n,k] x [k,m]
		c := make([]float32, n*m)
		for i := range n {
			for j := range m {
				var s float64
				for l := range k {
					s += float64(a[i*k+l]) * float64(b[l*m+j])
				}
				c[i*m+j] = float32(s)
			}
		}
		return c
	}
	reluDrop := func(x []float32, p float64) []float32 {
		y := make([]float32, len(x))
		for i, v := range x {
			if v > 0 && r.Float64() >= p {
				y[i] = v / float32(1-p)
			}
		}
		return y
	}
	// Batch normalisation of [batch,m], and its backward pass for a gradient.
	bn := func(x, g []float32, m int) (y, dx []float32) {
		y, dx = make([]float32, len(x)), make([]float32, len(x))
		for j := range m {
			var mean, sq, sg, sgy float64
			for i := range batch {
				mean += float64(x[i*m+j]) / batch
			}
			for i := range batch {
				d := float64(x[i*m+j]) - mean
				sq += d * d / batch
			}
			inv := 1 / math.Sqrt(sq+1e-5)
			for i := range batch {
				v := (float64(x[i*m+j]) - mean) * inv
				y[i*m+j] = float32(v)
				if g != nil {
					sg += float64(g[i*m+j]) / batch
					sgy += float64(g[i*m+j]) * v / batch
				}
			}
			for i := range batch {
				if g != nil {
					dx[i*m+j] = float32(inv * (float64(g[i*m+j]) - sg - float64(y[i*m+j])*sgy))
				}
			}
		}
		return y, dx
	}
	var t tensors
	t.small, _ = bn(reluDrop(normal(batch*in, 1), 0.25), nil, in)
	t.act = reluDrop(mul(t.small, normal(in*hid, 0.2), batch, in, hid), 0.4)
	// The loss's gradient: most samples are nearly right, a few are not.
	g := normal(batch*out, 1e-4)
	for i := range g {
		g[i] *= float32(math.Exp(1.5 * r.NormFloat64()))
	}
	dy := mul(g, normal(out*hid, 0.06), batch, out, hid)
	t.norm, t.grad = bn(t.act, dy, hid)
	return t
}

func (t tensors) each(f func(name string, x []float32)) {
	f("act", t.act)
	f("norm", t.norm)
	f("grad", t.grad)
	f("small", t.small)
}

func BenchmarkEncode(b *testing.B) {
	t := makeTensors()
	for k := FP32; k <= INT8; k++ {
		t.each(func(name string, x []float32) {
			b.Run(k.String()+"/"+name, func(b *testing.B) {
				e := NewEncoder(k)
				buf, err := e.Encode(nil, x)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(4 * len(x)))
				b.ReportAllocs()
				for b.Loop() {
					buf, _ = e.Encode(buf[:0], x)
				}
				b.ReportMetric(float64(len(buf))/float64(4*len(x)), "ratio")
				b.ReportMetric(float64(len(buf)), "bytes")
			})
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	t := makeTensors()
	for k := FP32; k <= INT8; k++ {
		t.each(func(name string, x []float32) {
			b.Run(k.String()+"/"+name, func(b *testing.B) {
				src, err := NewEncoder(k).Encode(nil, x)
				if err != nil {
					b.Fatal(err)
				}
				d := NewDecoder()
				dst := make([]float32, len(x))
				if err := d.Decode(dst, src); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(4 * len(x)))
				b.ReportAllocs()
				for b.Loop() {
					if err := d.Decode(dst, src); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkSqueeze takes tensors there and back, plain and squeezed in turn: what a byte that is saved
// costs each half, to be set beside what a byte of the channel does. The best times count, so a busy
// machine says the same as an idle one.
func BenchmarkSqueeze(b *testing.B) {
	t := makeTensors()
	for k := FP32; k <= INT8; k++ {
		t.each(func(name string, x []float32) {
			b.Run(k.String()+"/"+name, func(b *testing.B) {
				e, d, dst := NewEncoder(k), NewDecoder(), make([]float32, len(x))
				var buf [2][]byte
				best := [2][2]time.Duration{{time.Hour, time.Hour}, {time.Hour, time.Hour}}
				for b.Loop() {
					for i, plain := range []bool{true, false} {
						e.Plain(plain)
						began := time.Now()
						buf[i], _ = e.Encode(buf[i][:0], x)
						encoded := time.Now()
						if err := d.Decode(dst, buf[i]); err != nil {
							b.Fatal(err)
						}
						best[i][0], best[i][1] = min(best[i][0], encoded.Sub(began)), min(best[i][1], time.Since(encoded))
					}
				}
				if saved := float64(len(buf[0]) - len(buf[1])); saved > 0 {
					b.ReportMetric(saved/float64(len(buf[0])), "saved")
					b.ReportMetric(float64(best[1][0]-best[0][0])/saved, "enc-ns/saved-B")
					b.ReportMetric(float64(best[1][1]-best[0][1])/saved, "dec-ns/saved-B")
				}
			})
		})
	}
}
