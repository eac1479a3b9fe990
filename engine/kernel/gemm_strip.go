// A transposed A has the terms of a dot product a row of memory apart. Where rows are long,
// each term of a tile's rows is a page of its own, and pages that are a power of two long
// share few places in a cache: the rows of some tiles are copied side by side first.

package kernel

const (
	stripLanes = 8   // rows of a strip
	stripRows  = 48  // copied at a time: whole tiles of 6 and of 8 rows
	stripApart = 128 // floats between terms below which they are near enough
)

// stripScratch is the floats that strips of m rows and k terms need.
func stripScratch(m, k int) int {
	return (min(m, stripRows) + 5) / 6 * stripLanes * (k + 2)
}

// stripped says whether A is copied: it wants some tiles beside each other to be worth it.
func (g *GemmArgs) stripped(t *tiling) bool {
	return t.strips != nil && g.RS == 1 && g.KS >= stripApart && g.N > 4*t.nv*t.vw
}

// layStrips copies the tiles of mr rows from row i on, kn terms from pc on: strip after
// strip, each with 8 rows side by side. Two terms' room between strips keeps them from
// falling onto each other in the cache. A tile at the end that has not 8 rows to read is
// left out.
func (g *GemmArgs) layStrips(dst []float32, t *tiling, i, pc, kn int) {
	count := min(stripRows/t.mr, (g.M-i-stripLanes)/t.mr+1)
	t.strips(kn, ptr(g.A, i+pc*g.KS), 4*g.KS, count, 4*t.mr, &dst[0], 4*(kn+2)*stripLanes)
}
