// Products with few rows whose B are the windows of a convolution. Packing B pays only if
// enough rows share it, so these kernels read the windows in place.

package kernel

// windowMicro is a microkernel without a packed panel: row k of B begins at b[rows[k]].
type windowMicro func(kc int, a *float32, ars, aks int, b *float32, rows *int32, c *float32, ldc, acc, last int)

const (
	windowTiles = 2 // tiles of rows; with more, B is packed
	windowRun   = 7 // adjacent columns; with fewer, B is packed
)

// readsWindows reports whether B is read in place.
func (g *GemmArgs) readsWindows(t *tiling) bool {
	return t.window != nil && g.rows != nil && g.M <= windowTiles*t.mr &&
		contiguous(g.cols[:min(g.N, windowRun)]) == min(g.N, windowRun)
}

// multiplyWindows is block for such a product: all rows by each run of adjacent columns.
func (g *GemmArgs) multiplyWindows(t *tiling) {
	acc := 0
	if g.Acc {
		acc = 1
	}
	for j, n := 0, 0; j < g.N; j += n {
		n = contiguous(g.cols[j:min(g.N, j+t.nv*t.vw)])
		nv := (n + t.vw - 1) / t.vw
		for i := 0; i < g.M; i += t.mr {
			t.window[min(t.mr, g.M-i)-1][nv-1](g.K, ptr(g.A, i*g.RS), 4*g.RS, 4*g.KS, ptr(g.B, int(g.cols[j])), &g.rows[0],
				ptr(g.C, i*g.LDC+j), 4*g.LDC, acc, n-(nv-1)*t.vw)
		}
	}
	g.finish(0, g.M, 0, g.N)
}

// contiguous is the length of the prefix of cols that ascends by 1.
func contiguous(cols []int32) int {
	n := 1
	for n < len(cols) && cols[n] == cols[n-1]+1 {
		n++
	}
	return n
}
