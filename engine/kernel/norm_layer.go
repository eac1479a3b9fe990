// Layer norm over the last axis: Ba, Kiros and Hinton, arXiv 1607.06450.

package kernel

// LayerNorm sets each row of y [rows,cols] to xhat*gamma + beta with xhat =
// (x-mean)*invstd. Mean and variance (biased) are two passes over the row by the scheme of
// vec_sum.go; mean and invstd [rows] are kept for the gradients.
func LayerNorm(y, x, gamma, beta, mean, invstd []float32, rows, cols int, eps float32) {
	x, y = x[:rows*cols], y[:rows*cols]
	gamma, beta = gamma[:cols], beta[:cols]
	mean, invstd = mean[:rows], invstd[:rows]
	n := float32(cols)
	for r := range mean {
		in, out := x[r*cols:][:cols], y[r*cols:][:cols]
		mu := Sum(in) / n
		var l lanes
		l.addSquares(in, mu)
		is := 1 / Sqrt(l.total()/n+eps)
		mean[r], invstd[r] = mu, is
		if vec(vecLayer, &vecArgs{n: cols, p: ptrs(out, in, gamma, beta), k: [10]float32{mu, is}}) {
			continue
		}
		for i, v := range in {
			out[i] = float32(float32((v-mu)*is)*gamma[i]) + beta[i]
		}
	}
}

// LayerNormGradInput sets dx = ((dy*gamma - a) - xhat*b) * invstd with a the mean of
// dy*gamma over the row and b that of (dy*gamma)*xhat. dx may be dy.
func LayerNormGradInput(dx, dy, x, gamma, mean, invstd []float32, rows, cols int) {
	x, dx, dy, gamma = x[:rows*cols], dx[:rows*cols], dy[:rows*cols], gamma[:cols]
	n := float32(cols)
	for r, mu := range mean[:rows] {
		is := invstd[r]
		in, g, out := x[r*cols:][:cols], dy[r*cols:][:cols], dx[r*cols:][:cols]
		var s [2]lanes
		if !vec(vecLayerSums, &vecArgs{n: cols, p: ptrs(g, gamma, in, nil), k: [10]float32{mu, is}, sums: &s[0]}) {
			for i, v := range in {
				d := float32(g[i] * gamma[i])
				s[0][i&15] += d
				s[1][i&15] += float32(d * float32((v-mu)*is))
			}
		}
		a, b := s[0].total()/n, s[1].total()/n
		if vec(vecLayerGrad, &vecArgs{n: cols, p: ptrs(out, g, in, gamma), k: [10]float32{mu, is, a, b}}) {
			continue
		}
		for i, v := range in {
			out[i] = ((float32(g[i]*gamma[i]) - a) - float32(float32((v-mu)*is)*b)) * is
		}
	}
}

// LayerNormGradParams sets dgamma = sum(dy*xhat) and dbeta = sum(dy) over the rows in
// ascending order, from +0 or, with acc, from what is there: cutting a batch does not
// change the bits.
func LayerNormGradParams(dgamma, dbeta, dy, x, mean, invstd []float32, rows, cols int, acc bool) {
	x, dy = x[:rows*cols], dy[:rows*cols]
	dgamma, dbeta = dgamma[:cols], dbeta[:cols]
	if !acc {
		clear(dgamma)
		clear(dbeta)
	}
	for r, mu := range mean[:rows] {
		is := invstd[r]
		in, g := x[r*cols:][:cols], dy[r*cols:][:cols]
		AddTo(dbeta, g)
		if vec(vecLayerParams, &vecArgs{n: cols, p: ptrs(dgamma, g, in, nil), k: [10]float32{mu, is}}) {
			continue
		}
		for i, v := range in {
			dgamma[i] += float32(g[i] * float32((v-mu)*is))
		}
	}
}
