package kernel

import "slices"

// Positions are elements of an axis that are read or written by number: tensors [N, Size, Inner]
// and [N, Count, Inner], with positions [N, Count] as floats. A position that is no integer of
// 0..Size-1 is none.
type Positions struct {
	Size, Count, Inner int
}

// place is the position as an index, -1 where it is none.
func (p *Positions) place(at float32) int {
	if !(at >= 0 && at < float32(p.Size)) {
		return -1
	}
	i := int(at)
	if float32(i) != at || i >= p.Size {
		return -1
	}
	return i
}

// Gather sets y [N, Count, Inner] to the elements of x [N, Size, Inner] at the positions, 0 where
// there is none.
func (p *Positions) Gather(y, x, at []float32, n int) {
	for r := range n {
		xs := x[r*p.Size*p.Inner:][:p.Size*p.Inner]
		ys := y[r*p.Count*p.Inner:][:p.Count*p.Inner]
		for k, a := range at[r*p.Count:][:p.Count] {
			dst := ys[k*p.Inner:][:p.Inner]
			if i := p.place(a); i >= 0 {
				copy(dst, xs[i*p.Inner:][:p.Inner])
			} else {
				clear(dst)
			}
		}
	}
}

// Scatter sets y [N, Size, Inner] to the sums of those of x [N, Count, Inner] that have the
// position, from +0 in the order of x; or, last, to the last of them.
func (p *Positions) Scatter(y, x, at []float32, n int, last bool) {
	clear(y[:n*p.Size*p.Inner])
	for r := range n {
		xs := x[r*p.Count*p.Inner:][:p.Count*p.Inner]
		ys := y[r*p.Size*p.Inner:][:p.Size*p.Inner]
		for k, a := range at[r*p.Count:][:p.Count] {
			i := p.place(a)
			if i < 0 {
				continue
			}
			src := xs[k*p.Inner:][:p.Inner]
			if last {
				copy(ys[i*p.Inner:], src)
				continue
			}
			for c, v := range src {
				ys[i*p.Inner+c] += v
			}
		}
	}
}

// SortRows sets each row of at [n, count] to the positions of the first count elements of the
// row of x [n, cols] in their order. Equal elements keep theirs; NaN is greater than any number.
// order has cols elements.
func SortRows(at, x []float32, order []int32, n, cols, count int, descending bool) {
	order = order[:cols]
	for r := range n {
		xs := x[r*cols:][:cols]
		if count <= fewSorted {
			firstRow(at[r*count:][:count], xs, descending)
			continue
		}
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int {
			if precedes(xs, a, b, descending) {
				return -1
			}
			return 1
		})
		for i, k := range order[:count] {
			at[r*count+i] = float32(k)
		}
	}
}

// fewSorted is how many elements are found faster by looking through the row for each.
const fewSorted = 4

// firstRow sets at to the positions of the first elements of x.
func firstRow(at, x []float32, descending bool) {
	prev := int32(-1)
	for k := range at {
		best := int32(-1)
		for i := range x {
			if i := int32(i); (prev < 0 || i != prev && precedes(x, prev, i, descending)) && (best < 0 || precedes(x, i, best, descending)) {
				best = i
			}
		}
		at[k], prev = float32(best), best
	}
}

// precedes tells whether element a of x comes before element b.
func precedes(x []float32, a, b int32, descending bool) bool {
	u, v := x[a], x[b]
	less, more := u < v || v != v && u == u, v < u || u != u && v == v
	if less || more {
		return less != descending
	}
	return a < b
}
