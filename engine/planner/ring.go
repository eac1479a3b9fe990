// The order of clusters in the rings that average. A ring goes from cluster to cluster in the
// order of their numbers, and each of its steps takes as long as its slowest hop, so clusters are
// numbered along a short round trip. Integers are added up, so no bit depends on the order. (A
// node's own bandwidth counts the same in every order: each sends as much as it receives.)

package planner

import "slices"

// mostOrders is the number of clusters up to which all orders are tried.
const mostOrders = 8

// around orders n clusters along a short tour that begins with the first: the least longest hop
// and, of those, the least sum of all. Where distances are equal the order stays.
func around(n int, distance func(a, b int) float64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if n < 4 {
		return order // there is but one tour
	}
	far := make([][]float64, n)
	for a := range far {
		far[a] = make([]float64, n)
		for b := range far[a] {
			if a != b {
				far[a][b] = max(distance(a, b), distance(b, a))
			}
		}
	}
	length := func(o []int) (longest, sum float64) {
		for i, a := range o {
			d := far[a][o[(i+1)%n]]
			longest, sum = max(longest, d), sum+d
		}
		return longest, sum
	}
	const slack = 1e-9 // seconds: as good
	better := func(a, b []int) bool {
		la, sa := length(a)
		lb, sb := length(b)
		if d := la - lb; d < -slack || d > slack {
			return d < 0
		}
		return sa < sb-slack
	}
	if n <= mostOrders {
		best := slices.Clone(order)
		permute(order, 1, func(o []int) {
			if better(o, best) {
				copy(best, o)
			}
		})
		return best
	}
	// Reversing a stretch of the tour, as long as that helps.
	try := make([]int, n)
	for again := true; again; {
		again = false
		for i := 1; i < n-1; i++ {
			for k := i + 1; k < n; k++ {
				copy(try, order)
				slices.Reverse(try[i : k+1])
				if better(try, order) {
					copy(order, try)
					again = true
				}
			}
		}
	}
	return order
}

// permute calls f with every order of o[k:].
func permute(o []int, k int, f func([]int)) {
	if k == len(o) {
		f(o)
		return
	}
	for i := k; i < len(o); i++ {
		o[k], o[i] = o[i], o[k]
		permute(o, k+1, f)
		o[k], o[i] = o[i], o[k]
	}
}

// hop is how long a message takes from one active cluster to another: between those of their
// stages that hold something in common, the longest.
func (d *deal) hop(a, b int) float64 {
	most := 0.0
	for i, s := range d.stages[a] {
		for k, t := range d.stages[b] {
			if s.First < d.end(b, k) && t.First < d.end(a, i) {
				most = max(most, d.f.facts.delay(d.all[a].Stages[i].Node, d.all[b].Stages[k].Node))
			}
		}
	}
	return most
}

// goAround orders the active clusters for their rings.
func (d *deal) goAround() {
	order := around(len(d.active), func(a, b int) float64 { return d.hop(d.active[a], d.active[b]) })
	active, shares := make([]int, len(order)), make([]int, len(order))
	for i, k := range order {
		active[i], shares[i] = d.active[k], d.shares[k]
	}
	d.active, d.shares = active, shares
	d.average = d.averaging()
}
