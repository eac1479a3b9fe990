package order

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// counts are the replicas of each share.
func counts(shares []Set) []int {
	var n []int
	for _, s := range shares {
		n = append(n, s.Len())
	}
	return n
}

// inTurns shares replicas out to clusters in turns.
func inTurns(replicas, clusters int) []Set {
	shares := make([]Set, clusters)
	for k := range replicas {
		shares[k%clusters] |= 1 << k
	}
	return shares
}

// lasts is when the last cluster is done.
func lasts(n []int, pulls []Pull) (last int64) {
	for c, p := range pulls {
		last = max(last, p.cost*int64(max(n[c], p.Fill)))
	}
	return last
}

// soonest is the least of lasts over all ways to share replicas out.
func soonest(replicas int, pulls []Pull, n ...int) int64 {
	if len(n) == len(pulls) {
		if replicas > 0 {
			return math.MaxInt64
		}
		return lasts(n, pulls)
	}
	best := int64(math.MaxInt64)
	for k := 1; k <= min(replicas, pulls[len(n)].Most); k++ {
		best = min(best, soonest(replicas-k, pulls, append(slices.Clone(n), k)...))
	}
	return best
}

// TestDeal holds shares against all that are possible: every replica has one cluster, every cluster
// has room for its own and at least one, and either nothing moves or no other shares are sooner.
func TestDeal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	moved := 0
	for range 2000 {
		clusters := 2 + r.IntN(3)
		replicas := clusters + r.IntN(6)
		has := inTurns(replicas, clusters)
		pulls := make([]Pull, clusters)
		for c := range pulls {
			pulls[c] = Pull{cost: 1000 + r.Int64N(4000), Fill: r.IntN(4), Most: has[c].Len() + r.IntN(replicas)}
		}
		got := deal(has, pulls)
		all := Set(0)
		for c, s := range got {
			if all&s != 0 || s.Len() < 1 || s.Len() > pulls[c].Most {
				t.Fatalf("%v with %+v becomes %b", counts(has), pulls, got)
			}
			all |= s
		}
		if all != 1<<replicas-1 {
			t.Fatalf("of %d replicas %b are shared out", replicas, all)
		}
		before, after, best := lasts(counts(has), pulls), lasts(counts(got), pulls), soonest(replicas, pulls)
		if slices.Equal(got, has) {
			if best*100 < before*89 {
				t.Fatalf("%v with %+v stays, done after %d instead of %d", counts(has), pulls, before, best)
			}
			continue
		}
		moved++
		if after != best {
			t.Fatalf("%v with %+v becomes %v, done after %d instead of %d", counts(has), pulls, counts(got), after, best)
		}
	}
	if moved < 100 || moved > 1900 {
		t.Errorf("shares changed in %d of 2000 cases", moved)
	}
	for _, bad := range []int64{0, -1, MaxTook + 1} {
		d := Dealer{Shares: inTurns(6, 2)}
		if got := d.Next([]Pull{{Took: 5 << 20, Most: 6}, {Took: bad, Most: 6}}); !slices.Equal(got, inTurns(6, 2)) {
			t.Errorf("a time of %d moves replicas", bad)
		}
	}
}

// TestDealMovesLittle: clusters keep what they have but for what another gets.
func TestDealMovesLittle(t *testing.T) {
	got := deal([]Set{0b010101, 0b101010}, []Pull{{cost: 2000, Most: 6}, {cost: 1000, Most: 6}})
	if want := []Set{0b000101, 0b111010}; !slices.Equal(got, want) {
		t.Errorf("%b, want %b", got, want)
	}
}

// walkRounds is rounds of clusters whose speed changes, in virtual time: what a unit takes each cluster in
// each round.
func walkRounds(rounds, replicas int, cost func(round, cluster int) int64, clusters int) (fixed, dealt, within int64) {
	still := inTurns(replicas, clusters)
	d := Dealer{Shares: slices.Clone(still)}
	for round := range rounds {
		pulls := make([]Pull, clusters)
		for c := range pulls {
			pulls[c] = Pull{cost: cost(round, c), Most: replicas}
			pulls[c].Took = pulls[c].cost * int64(d.Shares[c].Len())
		}
		fixed += lasts(counts(still), pulls)
		dealt += lasts(counts(d.Shares), pulls)
		within += soonest(replicas, pulls)
		d.Next(pulls)
	}
	return fixed, dealt, within
}

// TestDealFollowsSpeed: where one cluster becomes half as fast in the middle of a run, what its
// shares then cost is made up for within few rounds; giving units out within a round, as if all its
// costs were known before, would gain little more.
func TestDealFollowsSpeed(t *testing.T) {
	for _, c := range []struct{ clusters, replicas int }{{2, 4}, {2, 6}, {2, 12}, {3, 6}, {3, 12}} {
		fixed, dealt, within := walkRounds(40, c.replicas, func(round, cluster int) int64 {
			if cluster == 1 && round >= 20 {
				return 2 * window
			}
			return window
		}, c.clusters)
		best := window * int64(20*c.replicas/c.clusters)
		over := func(t int64) float64 { return 100 * float64(t-within) / float64(within) }
		t.Logf("%+v: waiting costs %.0f %% with fixed shares, %.1f %% with those of the last rounds, over units given out within rounds", c, over(fixed), over(dealt))
		if dealt-within > (fixed-within)/5 || within < best {
			t.Errorf("%+v: fixed %d, between rounds %d, within rounds %d", c, fixed, dealt, within)
		}
	}
}

// TestDealerGoesBack: shares that save nothing are left again, and tried more and more seldom.
func TestDealerGoesBack(t *testing.T) {
	d := Dealer{Shares: inTurns(12, 3)}
	first, trials, last := slices.Clone(d.Shares), []int{}, 0
	for round := range 200 {
		// The last cluster seems to be half as fast, and takes as long for any number of units.
		next := d.Next([]Pull{{Fill: 3, Most: 6, Took: 2 * window}, {Fill: 3, Most: 6, Took: 2 * window}, {Fill: 3, Most: 6, Took: 4 * window}})
		if slices.Equal(next, first) {
			continue
		}
		if n := counts(next); !slices.Equal(n, []int{5, 4, 3}) {
			t.Fatalf("shares of %v are tried", n)
		}
		trials = append(trials, round-last)
		last = round
	}
	if len(trials) < 4 || !slices.IsSorted(trials) {
		t.Errorf("trials after %v rounds", trials)
	}
}

// TestDealerWatches: single rounds that are short move nothing; many of them do.
func TestDealerWatches(t *testing.T) {
	d := Dealer{Shares: inTurns(6, 2)}
	for round := range 200 {
		// Now one, now the other takes four times as long as it should.
		pulls := []Pull{{Most: 6, Took: 10000}, {Most: 6, Took: 10000}}
		pulls[round%2].Took *= 4
		if n := counts(d.Next(pulls)); !slices.Equal(n, []int{3, 3}) {
			t.Fatalf("after %d rounds shares are %v", round+1, n)
		}
	}
	for range 100 {
		n := counts(d.Shares)
		d.Next([]Pull{{Most: 6, Took: int64(10000 * n[0])}, {Most: 6, Took: int64(20000 * n[1])}})
	}
	if n := counts(d.Shares); !slices.Equal(n, []int{4, 2}) {
		t.Errorf("shares are %v", n)
	}
}
