// Embedding tables, and learned positions.

package kernel

import "math"

// Embed sets row i of y [n,dim] to row tokens[i] of w [rows,dim]. Tokens are integers
// stored as float32. A token that is not a row of w gives NaN, so that wrong data shows in
// the loss and does no other harm.
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

// EmbedGrad adds row i of dy [n,dim] to row tokens[i] of dw [rows,dim], in ascending order of
// i, starting at +0 or, with acc, at the values in dw.
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

// AddRows adds row to each of the n rows of x: y [n,len(row)] = x + row, as for learned
// positions. y may be x.
func AddRows(y, x, row []float32, n int) {
	for i := range n {
		Add(y[i*len(row):][:len(row)], x[i*len(row):][:len(row)], row)
	}
}

// AddRowsGrad sums dy [n,len(row)] over n, ascending, into row, starting at +0 or, with acc,
// at the values in row, on the team's threads by columns.
func AddRowsGrad(t *Team, row, dy []float32, n int, acc bool) {
	task := rowsTask{row: row, dy: dy, n: n, acc: acc}
	if t.Threads() == 1 || n*len(row) < smallCopy {
		task.columns(0, len(row))
		return
	}
	j := &t.rows
	*j = task
	step, tiles := stripes(len(row), leastRow, 2*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = rowsTask{} // nothing of the caller's is kept
}

// leastRow is the floats of a row that a thread takes at least.
const leastRow = 128

// rowsTask is AddRowsGrad in stripes of columns.
type rowsTask struct {
	row, dy []float32
	n, step int
	acc     bool
}

// Tile implements [Task].
func (j *rowsTask) Tile(_, i int) { j.columns(i*j.step, min((i+1)*j.step, len(j.row))) }

// columns sums the columns [from,to).
func (j *rowsTask) columns(from, to int) {
	row := j.row[from:to]
	if !j.acc {
		clear(row)
	}
	for i := range j.n {
		AddTo(row, j.dy[i*len(j.row)+from:][:len(row)])
	}
}
