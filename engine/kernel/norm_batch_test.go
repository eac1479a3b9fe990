package kernel

import (
	"math"
	"testing"
)

// elemTNorm is batch norm in float64.
func elemTNorm(x []float64, gamma, beta []float32, n, c, hw int, eps float64) (y, mean, va []float64) {
	y, mean, va = make([]float64, len(x)), make([]float64, c), make([]float64, c)
	m := float64(n * hw)
	for j := range c {
		each := func(f func(i int)) {
			for r := range n {
				for p := range hw {
					f((r*c+j)*hw + p)
				}
			}
		}
		each(func(i int) { mean[j] += x[i] / m })
		each(func(i int) { va[j] += (x[i] - mean[j]) * (x[i] - mean[j]) / m })
		each(func(i int) {
			y[i] = (x[i]-mean[j])/math.Sqrt(va[j]+eps)*float64(gamma[j]) + float64(beta[j])
		})
	}
	return y, mean, va
}

func TestBatchNorm(t *testing.T) {
	const eps = 1e-3
	for _, s := range elemTShapes {
		n, c, hw := s[0], s[1], s[2]
		if n*hw < 2 {
			continue
		}
		x, dy, gamma, beta := elemTNormal(n*c*hw, 1), elemTNormal(n*c*hw, 2), elemTNormal(c, 3), elemTNormal(c, 4)
		for i := range x {
			x[i] = 0.5*x[i] + 1
		}
		mean, va, inv := make([]float32, c), make([]float32, c), make([]float32, c)
		y, dx := make([]float32, len(x)), make([]float32, len(x))
		dg, db := make([]float32, c), make([]float32, c)
		BatchNormStats(mean, va, x, AllChannels(n, c, hw))
		InvStd(inv, va, eps)
		BatchNormApply(y, x, mean, inv, gamma, beta, AllChannels(n, c, hw))
		BatchNormGradSums(dg, db, dy, x, mean, inv, AllChannels(n, c, hw))
		BatchNormGradInput(dx, dy, x, mean, inv, gamma, dg, db, AllChannels(n, c, hw))

		// The bits, by the formulas as documented.
		m := float32(n * hw)
		for j := range c {
			channel := func(f func(i int) float32) float32 { return elemTSum(elemTChannel(n, c, hw, j, f)...) }
			xhat := func(i int) float32 { return (x[i] - mean[j]) * inv[j] }
			elemTSame(t, "mean", mean[j:j+1], []float32{channel(func(i int) float32 { return x[i] }) / m})
			elemTSame(t, "variance", va[j:j+1], []float32{channel(func(i int) float32 { return (x[i] - mean[j]) * (x[i] - mean[j]) }) / m})
			elemTSame(t, "dbeta", db[j:j+1], []float32{channel(func(i int) float32 { return dy[i] })})
			elemTSame(t, "dgamma", dg[j:j+1], []float32{channel(func(i int) float32 { return dy[i] * xhat(i) })})
			for r := range n {
				for i := (r*c + j) * hw; i < (r*c+j+1)*hw; i++ {
					elemTSame(t, "y", y[i:i+1], []float32{float32(xhat(i)*gamma[j]) + beta[j]})
					k, a, b := gamma[j]*inv[j], db[j]/m, dg[j]/m
					elemTSame(t, "dx", dx[i:i+1], []float32{k * ((dy[i] - a) - float32(xhat(i)*b))})
				}
			}
		}

		// The meaning, against float64 and its differences. Rounding of the mean is
		// magnified by 1/std, about 2 here and more where few values make it small.
		wantY, wantMean, wantVar := elemTNorm(elemTWide(x), gamma, beta, n, c, hw, eps)
		elemTClose(t, "mean", mean, wantMean, elemTTol)
		elemTClose(t, "variance", va, wantVar, elemTTol)
		elemTClose(t, "y", y, wantY, 20*elemTTol)
		elemTClose(t, "dx", dx, elemTDiff(func(x []float64) float64 {
			y, _, _ := elemTNorm(x, gamma, beta, n, c, hw, eps)
			return elemTDot(dy, y)
		}, x), 1e-4)
		for j := range c { // the sums are linear in the parameters
			var g, b float64
			for i := range x {
				if i/hw%c == j {
					b += float64(dy[i])
					g += float64(dy[i]) * (float64(x[i]) - wantMean[j]) / math.Sqrt(wantVar[j]+eps)
				}
			}
			elemTClose(t, "dgamma", dg[j:j+1], []float64{g}, 1e-4)
			elemTClose(t, "dbeta", db[j:j+1], []float64{b}, 1e-5)
		}

		// All at once, with ReLU and without, is one after the other.
		for _, relu := range []bool{false, true} {
			b := BatchNorm{N: n, C: c, HW: hw, ReLU: relu, Eps: eps, Gamma: gamma, Beta: beta, Mean: make([]float32, c), InvStd: make([]float32, c)}
			got, wantY := make([]float32, len(x)), append([]float32(nil), y...)
			wantDy, wantDg, wantDb := append([]float32(nil), dy...), make([]float32, c), make([]float32, c)
			if relu {
				ReLU(wantY, y)
				ReLUGrad(wantDy, dy, y)
			}
			va2, g, dg2, db2 := make([]float32, c), append([]float32(nil), dy...), make([]float32, c), make([]float32, c)
			BatchNormForward(nil, &b, got, x, va2)
			elemTSame(t, "y at once", got, wantY)
			elemTSame(t, "mean at once", b.Mean, mean)
			elemTSame(t, "variance at once", va2, va)
			BatchNormGradSums(wantDg, wantDb, wantDy, x, mean, inv, AllChannels(n, c, hw))
			BatchNormGradInput(wantDy, wantDy, x, mean, inv, gamma, wantDg, wantDb, AllChannels(n, c, hw))
			BatchNormBackward(nil, &b, g, g, x, dg2, db2)
			elemTSame(t, "dx at once", g, wantDy)
			elemTSame(t, "dgamma at once", dg2, wantDg)
			elemTSame(t, "dbeta at once", db2, wantDb)
		}

		// In place.
		place := append([]float32(nil), dy...)
		BatchNormGradInput(place, place, x, mean, inv, gamma, dg, db, AllChannels(n, c, hw))
		elemTSame(t, "dx in place", place, dx)
		place = append(place[:0], x...)
		BatchNormApply(place, place, mean, inv, gamma, beta, AllChannels(n, c, hw))
		elemTSame(t, "y in place", place, y)
	}
}

// PyTorch: running = 0.9*running + 0.1*new, the variance unbiased.
func TestBatchNormRunning(t *testing.T) {
	mean, va := []float32{0, 1}, []float32{1, 2}
	BatchNormRunning(mean, va, []float32{3, -1}, []float32{6, 0.75}, 0.1, 4)
	elemTClose(t, "running mean", mean, []float64{0.3, 0.8}, 1e-7)
	elemTClose(t, "running variance", va, []float64{0.9 + 0.1*8, 1.8 + 0.1*1}, 1e-7)
	defer func() {
		if recover() == nil {
			t.Error("took one value per channel, whose unbiased variance does not exist")
		}
	}()
	BatchNormRunning(mean, va, mean, va, 0.1, 1)
}

// A tensor shared by channels: the bits are those of all channels at once.
func TestChannels(t *testing.T) {
	for _, s := range elemTShapes {
		n, c, hw := s[0], s[1], s[2]
		x, dy, k := elemTNormal(n*c*hw, 1), elemTNormal(n*c*hw, 2), elemTNormal(2*c, 3)
		all := func(parts ...int) [][]float32 {
			out := make([][]float32, 8)
			for i := range out {
				out[i] = elemTNormal(c, 4)
				if i > 5 {
					out[i] = elemTNormal(n*c*hw, 4)
				}
			}
			for i := range parts[1:] {
				p := Channels{N: n, C: c, HW: hw, From: parts[i], To: parts[i+1]}
				SumChannels(out[0], x, p, false)
				SumChannels(out[1], x, p, true)
				BatchNormStats(out[2], out[3], x, p)
				BatchNormGradSums(out[4], out[5], dy, x, k, k[c:], p)
				BatchNormApply(out[6], x, k, k[c:], k, k[c:], p)
				BatchNormGradInput(out[7], dy, x, k, k[c:], k, out[4], out[5], p)
			}
			return out
		}
		for _, parts := range [][]int{{0, c / 2, c}, {0, 0, (c + 2) / 3, c - c/4, c, c}, {c / 3, c / 2}} {
			vecTForms(func(form string) {
				none, whole, cut := all(0), all(0, c), all(parts...)
				for i := range cut {
					for e, v := range none[i] { // what none of the parts wrote stays
						j := e
						if i > 5 {
							j = e / hw % c
						}
						if j >= parts[0] && j < parts[len(parts)-1] {
							v = whole[i][e]
						}
						elemTSame(t, form, cut[i][e:e+1], []float32{v})
					}
				}
			})
		}
	}
}
