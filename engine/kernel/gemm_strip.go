// Walking a transposed A touches a new row of memory for each term. If rows are long, that is
// a new page per term, and with power-of-two strides all of them map to few cache sets. The
// rows of several tiles are therefore copied into contiguous strips first.

package kernel

const (
	stripLanes = 8   // rows of a strip
	stripRows  = 48  // rows copied at a time, a multiple of 6 and 16
	stripApart = 128 // floats between terms from which copying pays
)

// stripScratch is the floats of the strips of m rows and k terms.
func stripScratch(m, k int) int {
	return (min(m, stripRows) + 5) / 6 * stripLanes * (k + 2)
}

// usesStrips reports whether A is copied, which pays if several tiles share a row of A.
func (g *GemmArgs) usesStrips(t *tiling) bool {
	return t.strips != nil && g.RS == 1 && g.KS >= stripApart && g.N > 4*t.nv*t.vw
}

// packStrips copies the tiles of mr rows from row i on, kn terms from pc on: one strip after
// another, each with 8 rows interleaved. A gap of two terms between strips keeps them from
// mapping to the same cache sets. A tile at the end without 8 rows to read is left out.
func (g *GemmArgs) packStrips(dst []float32, t *tiling, i, pc, kn int) {
	count := min(stripRows/t.mr, (g.M-i-stripLanes)/t.mr+1)
	t.strips(kn, ptr(g.A, i+pc*g.KS), 4*g.KS, count, 4*t.mr, &dst[0], 4*(kn+2)*stripLanes)
}
