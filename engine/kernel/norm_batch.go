// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) over x [N,C,HW], HW the product
// of the spatial axes (1 for [N,C]). Sums follow the scheme of vec_sum.go: the rows of a
// channel are its HW elements of each sample. With HW = 1, blocks of channels are summed
// together, row by row, which makes [N,C] as fast as large planes.

package kernel

// BatchNormStats sets mean and variance (biased: divided by N*HW) of each channel in two
// passes: v = sum((x-mean)^2) / m.
func BatchNormStats(mean, variance, x []float32, s Channels) {
	mean, variance, x = mean[:s.C], variance[:s.C], x[:s.size()]
	m := float32(s.N * s.HW)
	if !s.empty() && vecNormStats(mean, variance, x, s) {
		return
	}
	SumChannels(mean, x, s, false)
	for i := s.From; i < s.To; i++ {
		mean[i] /= m
	}
	if s.HW == 1 {
		for j := s.From; j < s.To; j += colBlock {
			var sum, mu [colBlock]float32
			w := copy(mu[:], mean[j:s.To])
			for r := j; r < len(x); r += s.C {
				for i, v := range x[r : r+w] {
					d := v - mu[i&(colBlock-1)]
					sum[i&(colBlock-1)] += float32(d * d)
				}
			}
			copy(variance[j:j+w], sum[:w])
		}
	} else {
		for j := s.From; j < s.To; j++ {
			var l lanes
			for r := j * s.HW; r < len(x); r += s.C * s.HW {
				l.addSquares(x[r:r+s.HW], mean[j])
			}
			variance[j] = l.total()
		}
	}
	for i := s.From; i < s.To; i++ {
		variance[i] /= m
	}
}

// vecNormStats takes both sums of a channel before the next but one, so that a channel is
// read from memory once: of small ones the squares together with the sum of the next, as
// neither loop alone keeps the machine busy; large ones come from memory faster alone.
func vecNormStats(mean, variance, x []float32, s Channels) bool {
	m := float32(s.N * s.HW)
	l, per := newChannelLoop(s)
	summed := false // the sum of channel j is there
	for j := s.From; j < s.To; j += per {
		w := min(per, s.To-j)
		if !summed && !l.run(vecSum, 0, j, w, x, nil, nil) {
			return false
		}
		for q := range w {
			mean[j+q] = l.sum(0, q, w) / m
			l.value[0][q] = mean[j+q]
		}
		squares := 0
		if summed = s.N*s.HW <= normFloats && j+2*w <= s.To; summed {
			l.run(vecSumSquares, 1, j, w, x[w*s.HW:], x, nil)
			squares = 1
		} else {
			l.run(vecSquares, 1, j, w, x, nil, nil)
		}
		for q := range w {
			variance[j+q] = l.sum(squares, q, w) / m
		}
	}
	return true
}

// addSquares adds a row of (x-mu)^2.
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
// unbiased by m/(m-1), m = N*HW > 1 the number of values per channel.
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
func BatchNormApply(y, x, mean, invstd, gamma, beta []float32, s Channels) {
	y, x = y[:s.size()], x[:s.size()]
	mean, invstd, gamma, beta = mean[:s.C], invstd[:s.C], gamma[:s.C], beta[:s.C]
	if !s.empty() && vecNormApply(vecNorm, y, x, mean, invstd, gamma, beta, s) {
		return
	}
	if s.HW == 1 {
		for r := 0; r < len(x); r += s.C {
			for j := s.From; j < s.To; j++ {
				y[r+j] = float32(float32((x[r+j]-mean[j])*invstd[j])*gamma[j]) + beta[j]
			}
		}
		return
	}
	for j := s.From; j < s.To; j++ {
		mu, is, g, b := mean[j], invstd[j], gamma[j], beta[j]
		for r := j * s.HW; r < len(x); r += s.C * s.HW {
			d := y[r:][:s.HW]
			for i, v := range x[r:][:s.HW] {
				d[i] = float32(float32((v-mu)*is)*g) + b
			}
		}
	}
}

// BatchNormReLU is [BatchNormApply] followed by [ReLU].
func BatchNormReLU(y, x, mean, invstd, gamma, beta []float32, s Channels) {
	if !s.empty() && vecNormApply(vecNormRelu, y[:s.size()], x[:s.size()], mean, invstd, gamma, beta, s) {
		return
	}
	BatchNormApply(y, x, mean, invstd, gamma, beta, s)
	for j := s.From; j < s.To; j++ {
		for r := j * s.HW; r < s.size(); r += s.C * s.HW {
			ReLU(y[r:][:s.HW], y[r:][:s.HW])
		}
	}
}

// vecNormApply is vecNorm or vecNormRelu.
func vecNormApply(op vecOp, y, x, mean, invstd, gamma, beta []float32, s Channels) bool {
	l, per := newChannelLoop(s)
	for j := s.From; j < s.To; j += per {
		w := copy(l.value[0][:per], mean[j:s.To])
		copy(l.value[1][:w], invstd[j:])
		copy(l.value[2][:w], gamma[j:])
		copy(l.value[3][:w], beta[j:])
		if !l.run(op, 4, j, w, y, x, nil) {
			return false
		}
	}
	return true
}

// BatchNormGradSums sets dbeta = sum(dy) and dgamma = sum(dy * xhat) per channel, the
// gradients of the parameters, which the gradient of the input needs too.
func BatchNormGradSums(dgamma, dbeta, dy, x, mean, invstd []float32, s Channels) {
	dy, x = dy[:s.size()], x[:s.size()]
	dgamma, mean, invstd = dgamma[:s.C], mean[:s.C], invstd[:s.C]
	if !s.empty() && vecNormGradSums(dgamma, dbeta[:s.C], dy, x, mean, invstd, s) {
		return
	}
	SumChannels(dbeta, dy, s, false)
	if s.HW == 1 {
		for j := s.From; j < s.To; j += colBlock {
			var sum, mu, is [colBlock]float32
			w := copy(mu[:], mean[j:s.To])
			copy(is[:], invstd[j:])
			for r := j; r < len(x); r += s.C {
				g := dy[r : r+w]
				for i, v := range x[r : r+w] {
					k := i & (colBlock - 1)
					sum[k] += float32(g[i] * float32((v-mu[k])*is[k]))
				}
			}
			copy(dgamma[j:j+w], sum[:w])
		}
		return
	}
	for j := s.From; j < s.To; j++ {
		var l lanes
		for r := j * s.HW; r < len(x); r += s.C * s.HW {
			l.addXhat(dy[r:r+s.HW], x[r:r+s.HW], mean[j], invstd[j])
		}
		dgamma[j] = l.total()
	}
}

func vecNormGradSums(dgamma, dbeta, dy, x, mean, invstd []float32, s Channels) bool {
	l, per := newChannelLoop(s)
	for j := s.From; j < s.To; j += per {
		w := copy(l.value[0][:per], mean[j:s.To])
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

// BatchNormReLUGradSums is [BatchNormGradSums] where dy is the gradient of [BatchNormReLU]'s
// output. Where that, computed again, is not positive, dy is set to 0.
func BatchNormReLUGradSums(dgamma, dbeta, dy, x, mean, invstd, gamma, beta []float32, s Channels) {
	dy, x = dy[:s.size()], x[:s.size()]
	if !s.empty() && vecNormReLUGradSums(dgamma, dbeta, dy, x, mean, invstd, gamma, beta, s) {
		return
	}
	for j := s.From; j < s.To; j++ {
		mu, is, k, b := mean[j], invstd[j], gamma[j], beta[j]
		for r := j * s.HW; r < len(x); r += s.C * s.HW {
			g := dy[r:][:s.HW]
			for i, v := range x[r:][:s.HW] {
				g[i] = gate(g[i], float32(float32((v-mu)*is)*k)+b)
			}
		}
	}
	BatchNormGradSums(dgamma, dbeta, dy, x, mean, invstd, s)
}

func vecNormReLUGradSums(dgamma, dbeta, dy, x, mean, invstd, gamma, beta []float32, s Channels) bool {
	l, per := newChannelLoop(s)
	for j := s.From; j < s.To; j += per {
		w := copy(l.value[0][:per], mean[j:s.To])
		copy(l.value[1][:w], invstd[j:])
		copy(l.value[2][:w], gamma[j:])
		copy(l.value[3][:w], beta[j:])
		if !l.run(vecNormReluSums, 4, j, w, dy, x, nil) {
			return false
		}
		for q := range w {
			dbeta[j+q], dgamma[j+q] = l.sum(0, q, w), l.sum(1, q, w)
		}
	}
	return true
}

// addXhat adds a row of dy * ((x-mu)*is).
func (l *lanes) addXhat(dy, x []float32, mu, is float32) {
	dy = dy[:len(x)]
	for i, v := range x {
		l[i&15] += float32(dy[i] * float32((v-mu)*is))
	}
}

// BatchNormGradInput sets dx = k * ((dy - dbeta/m) - xhat*(dgamma/m)) with
// k = gamma*invstd and m = N*HW, operations in the order written; dgamma and dbeta are
// the sums of this very batch. dx may be dy.
func BatchNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta []float32, s Channels) {
	dx, dy, x = dx[:s.size()], dy[:s.size()], x[:s.size()]
	mean, invstd, gamma, dgamma, dbeta = mean[:s.C], invstd[:s.C], gamma[:s.C], dgamma[:s.C], dbeta[:s.C]
	m := float32(s.N * s.HW)
	if !s.empty() && vecNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta, s) {
		return
	}
	if s.HW == 1 {
		for j := s.From; j < s.To; j += colBlock {
			var mu, is, k, a, b [colBlock]float32
			w := copy(mu[:], mean[j:s.To])
			for i := range w {
				is[i] = invstd[j+i]
				k[i] = gamma[j+i] * invstd[j+i]
				a[i] = dbeta[j+i] / m
				b[i] = dgamma[j+i] / m
			}
			for r := j; r < len(x); r += s.C {
				d, g := dx[r:r+w], dy[r:r+w]
				for i, v := range x[r : r+w] {
					q := i & (colBlock - 1)
					d[i] = k[q] * ((g[i] - a[q]) - float32(float32((v-mu[q])*is[q])*b[q]))
				}
			}
		}
		return
	}
	for j := s.From; j < s.To; j++ {
		mu, is := mean[j], invstd[j]
		k, a, b := gamma[j]*is, dbeta[j]/m, dgamma[j]/m
		for r := j * s.HW; r < len(x); r += s.C * s.HW {
			d, g := dx[r:][:s.HW], dy[r:][:s.HW]
			for i, v := range x[r:][:s.HW] {
				d[i] = k * ((g[i] - a) - float32(float32((v-mu)*is)*b))
			}
		}
	}
}

func vecNormGradInput(dx, dy, x, mean, invstd, gamma, dgamma, dbeta []float32, s Channels) bool {
	m := float32(s.N * s.HW)
	l, per := newChannelLoop(s)
	for j := s.From; j < s.To; j += per {
		w := copy(l.value[0][:per], mean[j:s.To])
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
