// The products of spectral normalisation: a power iteration takes a weight to its greatest singular
// value (Miyato et al., arXiv 1802.05957).

package kernel

import "math"

// Spectral is a weight as a matrix: element (r, c) is (c/Inner·Rows + r)·Inner + c%Inner: Inner is Cols
// where a row lies together, as the first axis of a convolution's weight does, and 1 where a column does. Sums are
// in float64, where products of float32 are exact, in order.
type Spectral struct {
	Rows, Cols, Inner int
}

// Left sets v to wᵀu, divided by its length where that is at least eps. sum has Cols elements.
func (s *Spectral) Left(v, w, u []float32, sum []float64, eps float64) {
	sum = sum[:s.Cols]
	clear(sum)
	for o := range s.Cols / s.Inner {
		for r := range s.Rows {
			x := float64(u[r])
			for i, e := range w[(o*s.Rows+r)*s.Inner:][:s.Inner] {
				sum[o*s.Inner+i] += float64(float64(e) * x)
			}
		}
	}
	unitVector(v, sum, eps)
}

// Right sets u to w v, divided by its length where that is at least eps. sum has Rows elements.
func (s *Spectral) Right(u, w, v []float32, sum []float64, eps float64) {
	s.product(sum[:s.Rows], w, v)
	unitVector(u, sum[:s.Rows], eps)
}

func (s *Spectral) product(sum []float64, w, v []float32) {
	clear(sum)
	for o := range s.Cols / s.Inner {
		for r := range s.Rows {
			x := 0.0
			for i, e := range w[(o*s.Rows+r)*s.Inner:][:s.Inner] {
				x += float64(float64(e) * float64(v[o*s.Inner+i]))
			}
			sum[r] += x
		}
	}
}

func unitVector(dst []float32, sum []float64, eps float64) {
	n := 0.0
	for _, x := range sum {
		n += float64(x * x)
	}
	n = max(math.Sqrt(n), eps)
	for i, x := range sum {
		dst[i] = float32(x / n)
	}
}

// Value is uᵀw v. sum has Rows elements.
func (s *Spectral) Value(w, u, v []float32, sum []float64) float32 {
	s.product(sum[:s.Rows], w, v)
	y := 0.0
	for r, x := range sum[:s.Rows] {
		y += float64(x * float64(u[r]))
	}
	return float32(y)
}

// Grad adds g·u vᵀ to dw, or, without add, sets it.
func (s *Spectral) Grad(dw, u, v []float32, g float32, add bool) {
	for o := range s.Cols / s.Inner {
		for r := range s.Rows {
			x := g * u[r]
			d := dw[(o*s.Rows+r)*s.Inner:][:s.Inner]
			for i := range d {
				y := float32(x * v[o*s.Inner+i])
				if add {
					y = d[i] + y
				}
				d[i] = y
			}
		}
	}
}
