package kernel

import (
	"math"
	"testing"
)

// elemTMaxPool is PyTorch's loop.
func elemTMaxPool(p *Pool, x []float32) (y []float32, arg []int32) {
	for nc := range p.N * p.C {
		plane := x[nc*p.H*p.W:][:p.H*p.W]
		for oy := range p.OH {
			for ox := range p.OW {
				m, at := float32(0), -1
				for r := oy*p.SH - p.PT; r < oy*p.SH-p.PT+p.KH; r++ {
					for q := ox*p.SW - p.PL; q < ox*p.SW-p.PL+p.KW; q++ {
						if r < 0 || r >= p.H || q < 0 || q >= p.W {
							continue
						}
						if v := plane[r*p.W+q]; at < 0 || v > m || v != v {
							m, at = v, r*p.W+q
						}
					}
				}
				y, arg = append(y, m), append(arg, int32(at))
			}
		}
	}
	return y, arg
}

func elemTPools() []*Pool {
	return []*Pool{
		elemTPool(2, 3, 8, 8, 2, 2, 0),
		elemTPool(2, 3, 2, 2, 2, 2, 0),
		elemTPool(5, 7, 2, 2, 2, 2, 0), // small planes, some left over
		elemTPool(3, 3, 4, 4, 2, 2, 0),
		elemTPool(3, 1, 7, 5, 2, 2, 0), // a row and a column left over
		elemTPool(1, 2, 6, 9, 2, 2, 1),
		elemTPool(2, 2, 7, 8, 3, 2, 1),
		elemTPool(2, 2, 5, 5, 3, 1, 1),
		elemTPool(1, 3, 6, 6, 2, 1, 0),
		elemTPool(2, 2, 9, 9, 2, 3, 0), // windows with gaps
		elemTPool(2, 3, 4, 4, 4, 4, 0),
		elemTPool(2, 3, 12, 18, 2, 2, 0),
		elemTPool(2, 3, 6, 4, 2, 2, 0), // an odd number of lines of two
		elemTPool(2, 3, 12, 19, 3, 2, 0),
		elemTPool(2, 2, 15, 20, 3, 1, 1),
		elemTPool(1, 2, 20, 23, 5, 2, 2),
		elemTPool(2, 2, 20, 41, 3, 2, 1),
		elemTPool(1, 3, 9, 90, 7, 5, 3), // windows of a vector that are far apart
		elemTPool(1, 2, 4, 30, 3, 2, 1),
		elemTPool(1, 1, 1, 1, 1, 1, 0),
		elemTPool(0, 2, 4, 4, 2, 2, 0),
		{N: 2, C: 2, H: 5, W: 7, KH: 3, KW: 2, SH: 2, SW: 3, PT: 1, PL: 0, OH: 3, OW: 2},
		{N: 1, C: 2, H: 5, W: 5, KH: 2, KW: 2, SH: 2, SW: 2, OH: 3, OW: 3}, // ceil mode
		{N: 2, C: 2, H: 15, W: 38, KH: 3, KW: 3, SH: 2, SW: 2, OH: 8, OW: 19},
		{N: 2, C: 1, H: 1, W: 40, KH: 3, KW: 3, SH: 2, SW: 2, PT: 2, PL: 1, OH: 1, OW: 20}, // a row of padding only above
	}
}

func TestMaxPool(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, p := range elemTPools() {
		in, out := p.sizes()
		for variant := range 4 {
			x := elemTNormal(in, 5)
			for i := range x {
				switch variant {
				case 1: // ties, zeros of both signs
					x[i] = float32(math.Copysign(float64(max(0, math.Floor(float64(x[i])))), float64(x[i])))
				case 2: // NaN and infinities
					x[i] = []float32{nan, inf, -inf, x[i], x[i], x[i], -inf}[(i*i+i/3)%7]
				case 3:
					x[i] = -inf
				}
			}
			y, arg := make([]float32, out), make([]int32, out)
			wantY, wantArg := elemTMaxPool(p, x)
			vecTForms(func(name string) {
				clear(y)
				MaxPool(p, y, x, arg)
				elemTSame(t, name+": max pool", y, wantY)
				for i := range arg {
					if arg[i] != wantArg[i] {
						t.Fatalf("%s: %+v variant %d: output %d comes from %d, want %d", name, *p, variant, i, arg[i], wantArg[i])
					}
				}
				clear(y)
				MaxPool(p, y, x, nil)
				elemTSame(t, name+": max pool without positions", y, wantY)
			})

			dy := elemTNormal(out, 6)
			dx, want := elemTNormal(in, 7), make([]float32, in)
			for i, k := range wantArg {
				want[i/(p.OH*p.OW)*p.H*p.W+int(k)] += dy[i]
			}
			vecTForms(func(name string) {
				MaxPoolGrad(p, dx, dy, arg)
				elemTSame(t, name+": max pool gradient", dx, want)
			})
		}
	}
}

func TestAvgPool(t *testing.T) {
	for _, p := range elemTPools() {
		in, out := p.sizes()
		x, dy := elemTNormal(in, 8), elemTNormal(out, 9)
		exact := func(x []float64) []float64 {
			y := make([]float64, out)
			for i := range y {
				oy, ox := i/p.OW%p.OH, i%p.OW
				n := 0.0
				for r := oy*p.SH - p.PT; r < min(oy*p.SH-p.PT+p.KH, p.H+p.PT); r++ {
					for q := ox*p.SW - p.PL; q < min(ox*p.SW-p.PL+p.KW, p.W+p.PL); q++ {
						n++
						if r >= 0 && r < p.H && q >= 0 && q < p.W {
							y[i] += x[i/(p.OH*p.OW)*p.H*p.W+r*p.W+q]
						}
					}
				}
				y[i] /= n
			}
			return y
		}
		y, dx := make([]float32, out), elemTNormal(in, 7)
		AvgPool(p, y, x)
		elemTClose(t, "average pool", y, exact(elemTWide(x)), elemTTol)
		AvgPoolGrad(p, dx, dy)
		elemTClose(t, "average pool gradient", dx, elemTDiff(func(x []float64) float64 { return elemTDot(dy, exact(x)) }, x), elemTTol)
	}
}

func TestPoolErr(t *testing.T) {
	for _, p := range []*Pool{
		elemTPool(1, 1, 1, 4, 2, 2, 0),
		elemTPool(1, 0, 4, 4, 2, 2, 0),
		elemTPool(1, 1, 4, 4, 2, 2, 2),
		{N: 1, C: 1, H: 4, W: 4, KH: 2, KW: 2, SH: 2, SW: 2, OH: 3, OW: 2},
		{N: 1, C: 1, H: 4, W: 4, KH: 2, KW: 2, OH: 1, OW: 1},
	} {
		if p.Err() == nil {
			t.Errorf("%+v was taken", *p)
		}
	}
}
