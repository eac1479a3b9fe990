// Normalisation: batch norm over x [N,C,hw], hw the product of the spatial axes (1 for
// [N,C]). Sums follow the scheme of sum.go: the rows of a channel are its hw elements of
// each sample. With hw = 1, channels go side by side in blocks, rows outside, which keeps
// [N,C] as fast as large planes. Ioffe and Szegedy, arXiv 1502.03167.

package kernel

// BatchNormStats sets mean and variance (biased: divided by N*hw) of each channel in two
// passes: v = sum((x-mean)^2) / m.
func BatchNormStats(mean, variance, x []float32, n, c, hw int) {
	mean, variance, x = mean[:c], variance[:c], x[:n*c*hw]
	m := float32(n * hw)
	if n*hw > 0 && vecNormStats(mean, variance, x, n, hw) {
		return
	}
	SumChannels(mean, x, n, c, hw, false)
	for i := range mean {
		mean[i] /= m
	}
	if hw == 1 {
		for j := 0; j < c; j += colBlock {
			var s, mu [colBlock]float32
			w := copy(mu[:], mean[j:])
			for r := j; r < len(x); r += c {
				for i, v := range x[r : r+w] {
					d := v - mu[i&(colBlock-1)]
					s[i&(colBlock-1)] += float32(d * d)
				}
			}
			copy(variance[j:j+w], s[:w])
		}
	} else {
		for j := range variance {
			var l lanes
			for r := j * hw; r < len(x); r += c * hw {
				l.addSquares(x[r:r+hw], mean[j])
			}
			variance[j] = l.total()
		}
	}
	for i := range variance {
		variance[i] /= m
	}
}

// vecNormStats takes both sums of a channel before the next, so that a channel is read from
// memory once.
func vecNormStats(mean, variance, x []float32, n, hw int) bool {
	m := float32(n * hw)
	l, per := newChannels(n, len(mean), hw)
	for j := 0; j < len(mean); j += per {
		w := min(per, len(mean)-j)
		if !l.run(vecSum, 0, j, w, x, nil, nil) {
			return false
		}
		for q := range w {
			mean[j+q] = l.sum(0, q, w) / m
			l.value[0][q] = mean[j+q]
		}
		l.run(vecSquares, 1, j, w, x, nil, nil)
		for q := range w {
			variance[j+q] = l.sum(0, q, w) / m
		}
	}
	return true
}

// addSquares takes in the row of (x-mu)^2.
func (l *lanes) addSquares(x []float32, mu float32) {
	if vec(vecSquares, &vecArgs{n: len(x), p: ptrs(x, nil, nil, nil), k: [10]float32{mu}, sums: l}) {
		return
	}
	for i, v := range x {
		d := v - mu
		l[i&15] += float32(d * d)
	}
}

// BatchNormRunning moves the running statistics, each value r to
// (1-momentum)*r + momentum*s, as PyTorch does: s is the mean, and the variance made
// unbiased by m/(m-1), m = N*hw > 1 the number of values per channel.
func BatchNormRunning(runMean, runVar, mean, variance []float32, momentum float32, m int) {
	if m < 2 {
		panic("kernel: batch norm in training needs more than one value per channel")
	}
	keep := 1 - momentum
	unbias := float32(m) / float32(m-1)
	runMean, runVar, variance = runMean[:len(mean)], runVar[:len(mean)], variance[:len(mean)]
	for i, v := range mean {
		runMean[i] = float32(keep*runMean[i]) + float32(momentum*v)
		runVar[i] = float32(keep*runVar[i]) + float32(momentum*float32(variance[i]*unbias))
	}
}

// InvStd sets dst = 1 / sqrt(variance + eps). dst may be variance.
func InvStd(dst, variance []float32, eps float32) {
	dst = dst[:len(variance)]
	for i, v := range variance {
		dst[i] = 1 / Sqrt(v+eps)
	}
}

// BatchNormApply sets y = xhat*gamma + beta with xhat = (x-mean)*invstd. y may be x.
func BatchNormApply(y, x, mean, invstd, gamma, beta []float32, n, c, hw int) {
	y, x = y[:n*c*hw], x[:n*c*hw]
	mean, invstd, gamma, beta = mean[:c], invstd[:c], gamma[:c], beta[:c]
	if n*hw > 0 && vecNormApply(y, x, mean, invstd, gamma, beta, n, hw) {
		return
	}
	if hw == 1 {
		for ; len(x) > 0; x, y = x[c:], y[c:] {
			d := y[:c]
			for i, v := range x[:c] {
				d[i] = float32(float32((v-mean[i])*invstd[i])*gamma[i]) + beta[i]
			}
		}
		return
	}
	for range n {
		for j, mu := range mean {
			is, g, b := invstd[j], gamma[j], beta[j]
			d := y[:hw]
			for i, v := range x[:hw] {
				d[i] = float32(float32((v-mu)*is)*g) + b
			}
			x, y = x[hw:], y[hw:]
		}
	}
}

func vecNormApply(y, x, mean, invstd, gamma, beta []float32, n, hw int) bool {
	l, per := newChannels(n, len(mean), hw)
	for j := 0; j < len(mean); j += per {
		w := copy(l.value[0][:per], mean[j:])
		copy(l.value[1][:w], invstd[j:])
		copy(l.value[2][:w], gamma[j:])
		copy(l.value[3][:w], beta[j:])
		if !l.run(vecNorm, 4, j, w, y, x, nil) {
			return false
		}
	}
	return true
}

// BatchNormGradSums sets dbeta = sum(dy) and dgamma = sum(dy * xhat) per channel, the
// gradients of the parameters, which the gradient of the input needs too.
func BatchNormGradSums(dgamma, dbeta, dy, x, mean, invstd []float32, n, c, hw int) {
	dy, x = dy[:n*c*hw], x[:n*c*hw]
	dgamma, mean, invstd = dgamma[:c], mean[:c], invstd[:c]
	if n*hw > 0 && vecNormGradSums(dgamma, dbeta[:c], dy, x, mean, invstd, n, hw) {
		return
	}
	SumChannels(dbeta, dy, n, c, hw, false)
	if hw == 1 {
		for j := 0; j < c; j += colBlock {
			var s, mu, is [colBlock]float32
			w := copy(mu[:], mean[j:])
			copy(is[:], invstd[j:])
			for r := j; r < len(x); r += c {
				g := dy[r : r+w]
				for i, v := range x[r : r+w] {
					k := i & (colBlock - 1)
					s[k] += float32(g[i] * float32((v-mu[k])*is[k]))
				}
			}
			copy(dgamma[j:j+w], s[:w])
		}
		return
	}
	for j := range dgamma {
		var l lanes
		for r := j * hw; r < len(x); r += c * hw {
			l.addXhat(dy[r:r+hw], x[r:r+hw], mean[j], invstd[j])
		}
		dgamma[j] = l.total()
	}
}

func vecNormGradSums(dgamma, dbeta, dy, x, mean, invstd []float32, n, hw int) bool {
	l, per := newChannels(n, len(mean), hw)
	for j := 0; j < len(mean); j += per {
		w := copy(l.value[0][:per], mean[j:])
		copy(l.value[1][:w], invstd[j:])
		if !l.run(vecNormSums, 2, j, w, dy, x, nil) {
			return false
		}
		for q := range w {
			dbeta[j+q], dgamma[j+q] = l.sum(0, q, w), l.sum(1, q, w)
		}
	}
	return true
}

// addXhat takes in the row of dy * ((x-mu)*is).
func (l *lanes) addXhat(dy, x []float32, mu, is float32) {
	dy = dy[:len(x)]
	for i, v := range x {
		l[i&15] += float32(dy[i] * float32((v-mu)*is))
	}
}

// BatchNormGradInput sets dx = k * ((dy - dbeta/m) - xhat*(dgamma/m)) with
// k = gamma*invstd and m = N*hw, operations in the order written; dgamma and dbeta are
// the sums of this very batch. dx may be dy.
func BatchNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta []float32, n, c, hw int) {
	dx, dy, x = dx[:n*c*hw], dy[:n*c*hw], x[:n*c*hw]
	mean, invstd, gamma, dgamma, dbeta = mean[:c], invstd[:c], gamma[:c], dgamma[:c], dbeta[:c]
	m := float32(n * hw)
	if n*hw > 0 && vecNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta, n, hw) {
		return
	}
	if hw == 1 {
		for j := 0; j < c; j += colBlock {
			var mu, is, k, a, b [colBlock]float32
			w := copy(mu[:], mean[j:])
			for i := range w {
				is[i] = invstd[j+i]
				k[i] = gamma[j+i] * invstd[j+i]
				a[i] = dbeta[j+i] / m
				b[i] = dgamma[j+i] / m
			}
			for r := j; r < len(x); r += c {
				d, g := dx[r:r+w], dy[r:r+w]
				for i, v := range x[r : r+w] {
					q := i & (colBlock - 1)
					d[i] = k[q] * ((g[i] - a[q]) - float32(float32((v-mu[q])*is[q])*b[q]))
				}
			}
		}
		return
	}
	for range n {
		for j, mu := range mean {
			is := invstd[j]
			k, a, b := gamma[j]*is, dbeta[j]/m, dgamma[j]/m
			d, g := dx[:hw], dy[:hw]
			for i, v := range x[:hw] {
				d[i] = k * ((g[i] - a) - float32(float32((v-mu)*is)*b))
			}
			dx, dy, x = dx[hw:], dy[hw:], x[hw:]
		}
	}
}

func vecNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta []float32, n, hw int) bool {
	m := float32(n * hw)
	l, per := newChannels(n, len(mean), hw)
	for j := 0; j < len(mean); j += per {
		w := copy(l.value[0][:per], mean[j:])
		copy(l.value[1][:w], invstd[j:])
		for q := range w {
			l.value[2][q] = gamma[j+q] * invstd[j+q]
			l.value[3][q] = dbeta[j+q] / m
			l.value[4][q] = dgamma[j+q] / m
		}
		if !l.run(vecNormGrad, 5, j, w, dx, dy, x) {
			return false
		}
	}
	return true
}

// BatchNormGradInputFixed sets dx = dy * (gamma*invstd), the gradient where the
// statistics are constants (evaluation mode, frozen layers). dx may be dy.
func BatchNormGradInputFixed(dx, dy, invstd, gamma []float32, n, c, hw int) {
	dx, dy = dx[:n*c*hw], dy[:n*c*hw]
	invstd, gamma = invstd[:c], gamma[:c]
	if n*hw > 0 && vecNormGradFixed(dx, dy, invstd, gamma, n, hw) {
		return
	}
	for range n {
		for j, g := range gamma {
			k := g * invstd[j]
			d := dx[:hw]
			for i, v := range dy[:hw] {
				d[i] = v * k
			}
			dx, dy = dx[hw:], dy[hw:]
		}
	}
}

func vecNormGradFixed(dx, dy, invstd, gamma []float32, n, hw int) bool {
	l, per := newChannels(n, len(gamma), hw)
	for j := 0; j < len(gamma); j += per {
		w := min(per, len(gamma)-j)
		for q := range w {
			l.value[0][q] = gamma[j+q] * invstd[j+q]
		}
		if !l.run(vecScale, 1, j, w, dx, dy, nil) {
			return false
		}
	}
	return true
}
