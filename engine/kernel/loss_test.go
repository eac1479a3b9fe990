package kernel

import (
	"math"
	"testing"
)

func TestMSE(t *testing.T) {
	for _, n := range []int{1, 10, 16, 33, 640} {
		x, y := elemTNormal(n, 1), elemTNormal(n, 2)
		g, sq := make([]float32, n), make([]float32, n)
		scale := 1 / float32(n)
		for i := range x {
			sq[i] = (x[i] - y[i]) * (x[i] - y[i])
		}
		elemTSame(t, "loss", []float32{MSE(g, x, y, scale)}, []float32{elemTSum(sq)})
		elemTSame(t, "loss alone", []float32{MSE(nil, x, y, scale)}, []float32{elemTSum(sq)})
		elemTClose(t, "gradient", g, elemTDiff(func(x []float64) float64 {
			s := 0.0
			for i, v := range x {
				s += (v - float64(y[i])) * (v - float64(y[i])) * float64(scale)
			}
			return s
		}, x), elemTTol)
	}
}

func TestCrossEntropy(t *testing.T) {
	for _, s := range [][2]int{{64, 10}, {5, 1}, {3, 40}, {0, 3}} {
		rows, cols := s[0], s[1]
		x := elemTNormal(rows*cols, 3)
		target, oneHot := make([]int32, rows), make([]float32, rows*cols)
		for r := range target {
			target[r] = int32(r * 7 % cols)
			if r%5 == 4 {
				target[r] = IgnoreIndex
				continue
			}
			oneHot[r*cols+int(target[r])] = 1
		}
		exact := func(p []float32) func(x []float64) float64 {
			return func(x []float64) float64 {
				s := 0.0
				for i, v := range elemTSoftmax(x, cols, true) {
					s -= float64(p[i]) * v
				}
				return s
			}
		}
		g := elemTNormal(len(x), 4)
		sum := CrossEntropy(g, x, target, rows, cols, 0.25)
		elemTClose(t, "loss", []float32{sum}, []float64{exact(oneHot)(elemTWide(x))}, elemTTol)
		want := elemTDiff(exact(oneHot), x)
		for i := range want {
			want[i] *= 0.25
		}
		elemTClose(t, "gradient", g, want, elemTTol)
		elemTSame(t, "loss alone", []float32{CrossEntropy(nil, x, target, rows, cols, 1)}, []float32{sum})

		// Against probabilities that do not add up to one.
		p := make([]float32, len(x))
		Uniform(p, NewStream(1, DomainTest, 0, 0), 0, 1)
		sum = CrossEntropyProb(g, x, p, rows, cols, 0.25)
		elemTClose(t, "loss", []float32{sum}, []float64{exact(p)(elemTWide(x))}, elemTTol)
		want = elemTDiff(exact(p), x)
		for i := range want {
			want[i] *= 0.25
		}
		elemTClose(t, "gradient", g, want, 10*elemTTol)
		elemTSame(t, "loss alone", []float32{CrossEntropyProb(nil, x, p, rows, cols, 1)}, []float32{sum})
		place := append([]float32(nil), x...)
		CrossEntropyProb(place, place, p, rows, cols, 0.25)
		elemTSame(t, "gradient in place", place, g)
	}
	// Large logits neither overflow nor lose the gradient.
	g := make([]float32, 2)
	if l := CrossEntropy(g, []float32{1e4, 0}, []int32{1}, 1, 2, 1); l != 1e4 || g[0] != 1 || g[1] != -1 {
		t.Errorf("loss %v and gradient %v of logits 10000, 0", l, g)
	}
}

func TestArgmax(t *testing.T) {
	nan := float32(math.NaN())
	pred := []float32{
		1, 3, 2,
		5, 5, 1, // the first of equals
		0, nan, 9, // NaN beats all
		-1, -2, -3,
	}
	for i, want := range []int{1, 0, 1, 0} {
		if k := Argmax(pred[3*i:][:3]); k != want {
			t.Errorf("row %d has its maximum at %d, want %d", i, k, want)
		}
	}
}
