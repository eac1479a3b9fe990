// Tables of vectors: rows picked by number, and rows added by position.

package kernel

import "math"

// Embed sets row i of y [n,dim] to row tokens[i] of w [rows,dim]. Tokens are integers
// stored as float32; one that is no row of w gives NaN, so that wrong data show in the loss
// and nowhere else.
func Embed(y, tokens, w []float32, rows, dim int) {
	for i, t := range tokens {
		d := y[i*dim:][:dim]
		if k, ok := index(t, rows); ok {
			copy(d, w[k*dim:][:dim])
		} else {
			Fill(d, math.Float32frombits(nanBits))
		}
	}
}

// index is t as a row number below rows.
func index(t float32, rows int) (int, bool) {
	if !(t >= 0 && t < float32(rows)) {
		return 0, false
	}
	k := int(t)
	return k, float32(k) == t
}

// EmbedGrad adds row i of dy [n,dim] to row tokens[i] of dw [rows,dim], i ascending, from
// +0 or, with acc, from what is there.
func EmbedGrad(dw, dy, tokens []float32, rows, dim int, acc bool) {
	dw = dw[:rows*dim]
	if !acc {
		clear(dw)
	}
	for i, t := range tokens {
		if k, ok := index(t, rows); ok {
			AddTo(dw[k*dim:][:dim], dy[i*dim:][:dim])
		}
	}
}

// AddRows sets y [n,len] to x plus row, an element each: a learned position for every
// sample. y may be x.
func AddRows(y, x, row []float32, n int) {
	for i := range n {
		Add(y[i*len(row):][:len(row)], x[i*len(row):][:len(row)], row)
	}
}

// AddRowsGrad sums dy [n,len(row)] over n, ascending, to row, from +0 or, with acc, from
// what is there.
func AddRowsGrad(row, dy []float32, n int, acc bool) {
	if !acc {
		clear(row)
	}
	for i := range n {
		AddTo(row, dy[i*len(row):][:len(row)])
	}
}
