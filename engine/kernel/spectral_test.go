package kernel

import (
	"fmt"
	"math"
	"testing"
)

// spectralTForms are weights as matrices: one row or column, rows that lie together, and columns
// that do.
var spectralTForms = []Spectral{{1, 1, 1}, {1, 5, 5}, {4, 1, 1}, {3, 5, 5}, {3, 6, 1}, {4, 6, 2}, {2, 6, 3}, {17, 33, 11}}

// at is element (r, c) of the matrix.
func (s *Spectral) at(w []float32, r, c int) float64 {
	return float64(w[(c/s.Inner*s.Rows+r)*s.Inner+c%s.Inner])
}

// unit is x divided by its length, or by eps.
func spectralTUnit(x []float64, eps float64) []float64 {
	n := 0.0
	for _, v := range x {
		n += v * v
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v / max(math.Sqrt(n), eps)
	}
	return y
}

// TestSpectral holds the products against those of the matrix written out, one by one.
func TestSpectral(t *testing.T) {
	for _, s := range spectralTForms {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			w, u, v := elemTNormal(s.Rows*s.Cols, 1), elemTNormal(s.Rows, 2), elemTNormal(s.Cols, 3)
			left, right, value := make([]float64, s.Cols), make([]float64, s.Rows), 0.0
			for r := range s.Rows {
				for c := range s.Cols {
					e := s.at(w, r, c)
					left[c] += e * float64(u[r])
					right[r] += e * float64(v[c])
					value += e * float64(u[r]) * float64(v[c])
				}
			}
			for _, eps := range []float64{1e-12, 100} { // the second is more than any length here
				got, sum := make([]float32, s.Cols), make([]float64, max(s.Rows, s.Cols))
				s.Left(got, w, u, sum, eps)
				elemTClose(t, "left", got, spectralTUnit(left, eps), 1e-7)
				got = make([]float32, s.Rows)
				s.Right(got, w, v, sum, eps)
				elemTClose(t, "right", got, spectralTUnit(right, eps), 1e-7)
			}
			sum := make([]float64, s.Rows)
			elemTClose(t, "value", []float32{s.Value(w, u, v, sum)}, []float64{value}, 1e-6)

			// The value is linear in w: its slope is that of a step of any size.
			dw := make([]float32, len(w))
			s.Grad(dw, u, v, 0.5, false)
			want := elemTDiff(func(x []float64) float64 {
				y := 0.0
				for r := range s.Rows {
					for c := range s.Cols {
						y += x[(c/s.Inner*s.Rows+r)*s.Inner+c%s.Inner] * float64(u[r]) * float64(v[c])
					}
				}
				return 0.5 * y
			}, w)
			elemTClose(t, "gradient", dw, want, 1e-5)
			more := append([]float32(nil), w...)
			s.Grad(more, u, v, 0.5, true)
			for i := range more {
				elemTSame(t, "gradient added", more[i:i+1], []float32{w[i] + dw[i]})
			}
		})
	}
}

// TestSpectralZeros: a weight of zeros has no direction; its vectors are zeros, not NaN.
func TestSpectralZeros(t *testing.T) {
	s := Spectral{3, 4, 2}
	u, v, sum := []float32{1, 0, 0}, make([]float32, 4), make([]float64, 4)
	s.Left(v, make([]float32, 12), u, sum, 1e-12)
	elemTSame(t, "left", v, make([]float32, 4))
	s.Right(u, make([]float32, 12), v, sum, 1e-12)
	elemTSame(t, "right", u, make([]float32, 3))
	elemTSame(t, "value", []float32{s.Value(make([]float32, 12), u, v, sum)}, []float32{0})
}
