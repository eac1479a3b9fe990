package planner

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAround: the tour of a few clusters is the best of all, that of many is near it, and a pool
// without differences keeps its order.
func TestAround(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	longest := func(o []int, far [][]float64) float64 {
		most := 0.0
		for i, a := range o {
			most = max(most, far[a][o[(i+1)%len(o)]])
		}
		return most
	}
	for n := 1; n <= 20; n++ {
		for range 20 {
			far := make([][]float64, n)
			for i := range far {
				far[i] = make([]float64, n)
				for k := range i {
					far[i][k] = rng.Float64()
					far[k][i] = far[i][k]
				}
			}
			o := around(n, func(a, b int) float64 { return far[a][b] })
			sorted := slices.Sorted(slices.Values(o))
			for i, k := range sorted {
				if i != k || o[0] != 0 {
					t.Fatalf("%v is no order of %d clusters that begins with the first", o, n)
				}
			}
			if n > 7 {
				plain := make([]int, n)
				for i := range plain {
					plain[i] = i
				}
				if longest(o, far) > longest(plain, far) {
					t.Errorf("%d clusters: the longest hop is %v, %v as they came", n, longest(o, far), longest(plain, far))
				}
				continue
			}
			best, all := math.Inf(1), slices.Clone(sorted)
			permute(all, 0, func(p []int) { best = min(best, longest(p, far)) })
			if got := longest(o, far); got > best+1e-9 {
				t.Errorf("%d clusters: the longest hop is %v, the best order has %v", n, got, best)
			}
		}
		same := around(n, func(int, int) float64 { return 0.01 })
		if !slices.IsSorted(same) {
			t.Errorf("%d clusters at equal distances: %v", n, same)
		}
	}
}
