package kernel

import (
	"fmt"
	"math"
	"testing"
)

// elemTSoftmax is softmax, or its logarithm, of rows in float64.
func elemTSoftmax(x []float64, cols int, log bool) []float64 {
	y := make([]float64, len(x))
	for o := 0; o < len(x); o += cols {
		m, s := math.Inf(-1), 0.0
		for _, v := range x[o : o+cols] {
			m = max(m, v)
		}
		for _, v := range x[o : o+cols] {
			s += math.Exp(v - m)
		}
		for i, v := range x[o : o+cols] {
			y[o+i] = math.Exp(v-m) / s
			if log {
				y[o+i] = v - m - math.Log(s)
			}
		}
	}
	return y
}

func TestSoftmax(t *testing.T) {
	for _, s := range [][2]int{{64, 10}, {3, 1}, {2, 16}, {2, 17}, {1, 100}, {0, 4}} {
		rows, cols := s[0], s[1]
		x, dy := elemTNormal(rows*cols, 1), elemTNormal(rows*cols, 2)
		for i := range x {
			x[i] = 3*x[i] + 50
		}
		y, dx := make([]float32, len(x)), make([]float32, len(x))
		Softmax(y, x, rows, cols)
		elemTClose(t, "softmax", y, elemTSoftmax(elemTWide(x), cols, false), elemTTol)
		SoftmaxGrad(dx, dy, y, rows, cols)
		elemTClose(t, "gradient", dx, elemTDiff(func(x []float64) float64 {
			return elemTDot(dy, elemTSoftmax(x, cols, false))
		}, x), 4*elemTTol)
		place := append([]float32(nil), x...)
		Softmax(place, place, rows, cols)
		elemTSame(t, "in place", place, y)
		place = append(place[:0], dy...)
		SoftmaxGrad(place, place, y, rows, cols)
		elemTSame(t, "gradient in place", place, dx)
		// The bits: exponentials, the scheme's sum, its reciprocal.
		for o := 0; o < len(x); o += cols {
			e := make([]float32, cols)
			m := x[o]
			for _, v := range x[o : o+cols] {
				m = max(m, v)
			}
			for i := range e {
				e[i] = Exp(x[o+i] - m)
			}
			s := 1 / elemTSum(e)
			for i := range e {
				e[i] *= s
			}
			elemTSame(t, "softmax", y[o:o+cols], e)
		}
	}
}

func TestSoftmaxSpecial(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range [][2][]float32{
		{{1, -inf, 1}, {0.5, 0, 0.5}},
		{{1000, -1000, 0}, {1, 0, 0}},
		{{1, inf, 0}, {nan, nan, nan}}, // inf - inf spoils the sum
		{{-inf, -inf, -inf}, {nan, nan, nan}},
		{{0, nan, 1}, {nan, nan, nan}},
		{{nan, 0, 1}, {nan, nan, nan}},
	} {
		y := make([]float32, 3)
		Softmax(y, c[0], 1, 3)
		elemTSame(t, "softmax", y, c[1])
	}
}

// TestSoftmaxFar: what is far below a row's maximum, as a masked key is, has the bits that every
// form agrees on: every magnitude of a subnormal result, and zero from -104 on.
func TestSoftmaxFar(t *testing.T) {
	inf := float32(math.Inf(-1))
	for _, cols := range []int{16, 64, 100} {
		x := make([]float32, 40*cols)
		for i := range x {
			x[i] = -84 - float32(i)*22/float32(len(x)) // to -106
			switch i % 7 {
			case 0:
				x[i] = []float32{-math.MaxFloat32, inf, -1e4, -104, math.Nextafter32(-104, inf), -486, math.Nextafter32(-104, 0)}[i/7%7]
			case 1:
				x[i] = 0
			}
		}
		for i := 0; i < len(x); i += cols {
			x[i+cols/2] = 0
		}
		var want []float32
		vecTForms(func(form string) {
			y := make([]float32, len(x))
			Softmax(y, x, len(x)/cols, cols)
			ls, _ := logSum(x)
			if y = append(y, ls); form == "portable" {
				want = y
				for i, v := range x {
					if v < -104 && math.Float32bits(y[i]) != 0 {
						t.Errorf("e^%v is %v", v, y[i])
					}
				}
				return
			}
			elemTSame(t, fmt.Sprintf("rows of %d, %s", cols, form), y, want)
		})
	}
}
