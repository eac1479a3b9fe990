package main

//go:noescape
func bfdot(n int, sums *[256]float32, a, b *[256]uint32)

//go:noescape
func bfmmla(n int, sums *[256]float32, a, b *[256]uint32)

//go:noescape
func bfmlal(n int, sums *[256]float32, a, b *[256]uint32)

// instructions are those of this machine; one that lacks them dies of it.
func instructions() []instruction {
	return []instruction{
		{name: "BFDOT", terms: 2, rows: 1, cols: 4, run: each(bfdot), ours: 4 * 2, orders: []order{ascending, swapped}},
		{name: "BFMLALB and BFMLALT", terms: 2, rows: 1, cols: 4, run: each(bfmlal), ours: 4 * 2, orders: []order{ascending, swapped}},
		{name: "BFMMLA", terms: 4, rows: 2, cols: 2, run: turned, ours: 4 * 4, orders: []order{ascending, swapped, apart}},
	}
}

// each is f with the first word of a in each lane.
func each(f func(n int, sums *[256]float32, a, b *[256]uint32)) func(n int, sums *[256]float32, a, b *[256]uint32) {
	return func(n int, sums *[256]float32, a, b *[256]uint32) {
		v := [256]uint32{a[0], a[0], a[0], a[0]}
		f(n, sums, &v, b)
	}
}

// turned is bfmmla, whose second operand lies by columns.
func turned(n int, sums *[256]float32, a, b *[256]uint32) {
	v := [256]uint32{b[0], b[2], b[1], b[3]}
	bfmmla(n, sums, a, &v)
}
