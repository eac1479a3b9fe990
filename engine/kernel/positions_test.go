package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
)

// TestPositions: what lies at positions is read and written, none where a position is not of the
// axis.
func TestPositions(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	p := Positions{Size: 3, Count: 9, Inner: 2}
	at := []float32{2, 0, -1, 3, 1.5, nan, inf, 1, 2, 0, 0, 1, 1, 2, 2, -inf, float32(math.Copysign(0, -1)), 1 << 30}
	x := []float32{1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60}
	y := make([]float32, 36)
	p.Gather(y, x, at, 2)
	want := []float32{5, 6, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 5, 6, 10, 20, 10, 20, 30, 40, 30, 40, 50, 60, 50, 60, 0, 0, 10, 20, 0, 0}
	if !slices.Equal(y, want) {
		t.Errorf("read %v, want %v", y, want)
	}
	for i := range y {
		y[i] = float32(i)
	}
	for last, want := range map[bool][]float32{
		false: {2, 3, 14, 15, 0 + 16, 1 + 17, 18 + 20 + 32, 19 + 21 + 33, 22 + 24, 23 + 25, 26 + 28, 27 + 29},
		true:  {2, 3, 14, 15, 16, 17, 32, 33, 24, 25, 28, 29},
	} {
		p.Scatter(x, y, at, 2, last)
		if !slices.Equal(x, want) {
			t.Errorf("written, last %v: %v, want %v", last, x, want)
		}
	}
}

// TestSortRows compares with a stable sort, among equal elements, infinities and NaN.
func TestSortRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	odd := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 0, float32(math.Copysign(0, -1)), 1, 1, 2}
	for _, cols := range []int{1, 2, 5, 64, 300} {
		x, order := make([]float32, 3*cols), make([]int32, cols)
		for i := range x {
			if x[i] = r.Float32(); r.IntN(2) == 0 {
				x[i] = odd[r.IntN(len(odd))]
			}
		}
		for _, down := range []bool{false, true} {
			for _, count := range []int{1, 3, cols} {
				count = min(count, cols)
				at := make([]float32, 3*count)
				SortRows(at, x, order, 3, cols, count, down)
				for row := range 3 {
					xs := x[row*cols:][:cols]
					want := make([]int, cols)
					for i := range want {
						want[i] = i
					}
					sort.SliceStable(want, func(i, j int) bool {
						u, v := float64(xs[want[i]]), float64(xs[want[j]])
						if down {
							u, v = v, u
						}
						return u < v || math.IsNaN(v) && !math.IsNaN(u)
					})
					for i, k := range want[:count] {
						if int(at[row*count+i]) != k {
							t.Fatalf("%d of %v, downward %v: %v, want %v", count, xs, down, at[row*count:][:count], want)
						}
					}
				}
			}
		}
	}
	// Nothing is allocated.
	x, at, order := make([]float32, 100), make([]float32, 100), make([]int32, 100)
	if n := testing.AllocsPerRun(5, func() { SortRows(at, x, order, 1, 100, 100, false) }); n > 0 && !gemmTRace {
		t.Errorf("%v allocations", n)
	}
}
