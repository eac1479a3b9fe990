// Products of few rows with the windows of a convolution: what laying B out costs is shared
// by all rows, and these have too few. Their kernels read windows where they lie.

package kernel

// windowMicro is micro without a panel: row k of B begins at b[rows[k]].
type windowMicro func(kc int, a *float32, ars, aks int, b *float32, rows *int32, c *float32, ldc, acc, last int)

const (
	windowTiles = 2 // of rows, above which B is laid out
	windowRun   = 7 // columns that lie side by side, below which it is
)

// inWindows says that B is read where it lies.
func (g *GemmArgs) inWindows(t *tiling) bool {
	return t.window != nil && g.rows != nil && g.M <= windowTiles*t.mr &&
		neighbours(g.cols[:min(g.N, windowRun)]) == min(g.N, windowRun)
}

// windows is block for such a product: each run of columns side by side by all rows.
func (g *GemmArgs) windows(t *tiling) {
	acc := 0
	if g.Acc {
		acc = 1
	}
	for j, n := 0, 0; j < g.N; j += n {
		n = neighbours(g.cols[j:min(g.N, j+t.nv*t.vw)])
		nv := (n + t.vw - 1) / t.vw
		for i := 0; i < g.M; i += t.mr {
			t.window[min(t.mr, g.M-i)-1][nv-1](g.K, ptr(g.A, i*g.RS), 4*g.RS, 4*g.KS, ptr(g.B, int(g.cols[j])), &g.rows[0],
				ptr(g.C, i*g.LDC+j), 4*g.LDC, acc, n-(nv-1)*t.vw)
		}
	}
	g.finish(0, g.N)
}

// neighbours is how many offsets from the first on ascend by 1.
func neighbours(cols []int32) int {
	n := 1
	for n < len(cols) && cols[n] == cols[n-1]+1 {
		n++
	}
	return n
}
