// Which cluster trains which replicas of a round. Who trains what changes no bit, so it follows
// from how long clusters have taken: a cluster that becomes slow does not hold up the others for
// longer than until the next round.
//
// Units move between two rounds only. Within a round batches come in the order of their numbers,
// so that losses do, and all units of a cluster are begun with its first batches: none is left to
// give away.

package order

import "slices"

// Pull is what is known of a cluster that takes part in the next round.
type Pull struct {
	Fill int   // units that fill its pipeline: fewer take as long
	Most int   // units that it has the memory for
	Took int64 // microseconds, the last round
	cost int64 // of a unit
}

// time is how long the cluster takes for so many units.
func (p Pull) time(n int) int64 { return p.cost * int64(max(n, p.Fill)) }

// MaxTook is the largest time of a Pull.
const MaxTook = 1 << 40

// enough is how many hundredths of the time of a round other shares must promise to save to be
// tried, and kept how many they must then have saved: times vary.
const enough, kept = 10, 5

// window is for how long clusters are watched at least before shares change: short rounds tell
// little.
const window = 1 << 20

// mostRest is the most windows between two trials. One passes after the first that saved nothing,
// since a cluster may have become slow in the middle of the one before; each further one doubles it.
const mostRest = 1 << 10

// Dealer gives the replicas of a run to clusters, round by round. Where others seem better it tries
// them, and goes back if that did not take less time: a pipeline whose links are slow has gaps that
// fewer units do not shorten. It computes with whole numbers, so that every cluster finds the same
// for itself.
type Dealer struct {
	Shares []Set // of the round at hand

	took   []int64 // by cluster, since the last decision
	last   int64   // of the slowest in each round
	rounds int64
	before []Set // those before a trial; nil: none is on
	mean   int64 // what a round took with them
	rest   int   // windows before the next trial
	failed int   // trials since one succeeded
}

// Next gives the shares of the next round, after a full one of which all clusters have told a Pull.
func (d *Dealer) Next(pulls []Pull) []Set {
	if d.took == nil {
		d.took = make([]int64, len(pulls))
	}
	slowest := int64(0)
	for c, p := range pulls {
		if p.Took <= 0 || p.Took > MaxTook {
			return d.Shares
		}
		d.took[c] += p.Took
		slowest = max(slowest, p.Took)
	}
	d.last += slowest
	if d.rounds++; d.last < window {
		return d.Shares
	}
	mean := d.last / d.rounds
	for c := range pulls {
		p := &pulls[c]
		p.cost = max(d.took[c]/d.rounds/int64(max(d.Shares[c].Len(), p.Fill)), 1)
	}
	clear(d.took)
	d.last, d.rounds = 0, 0
	if before := d.before; before != nil {
		d.before = nil
		if mean*100 > d.mean*(100-kept) {
			d.Shares, d.rest = before, min(1<<min(d.failed, 10), mostRest)
			d.failed++
			return d.Shares
		}
		d.failed = 0
	}
	if d.rest > 0 {
		d.rest--
		return d.Shares
	}
	if next := deal(d.Shares, pulls); !slices.Equal(next, d.Shares) {
		d.before, d.mean, d.Shares = d.Shares, mean, next
	}
	return d.Shares
}

// deal gives the replicas of the next round to clusters, each at least one, so that the last of
// them is done as soon as possible. has are the shares of the round before. They stay what they
// are unless others are clearly better, and else change as little as that takes.
func deal(has []Set, pulls []Pull) []Set {
	replicas, last := 0, int64(0)
	for c, p := range pulls {
		replicas += has[c].Len()
		last = max(last, p.time(has[c].Len()))
	}
	n := make([]int, len(pulls))
	for c := range n {
		n[c] = 1
	}
	for range replicas - len(n) {
		to := -1
		for c, p := range pulls {
			if n[c] < p.Most && (to < 0 || p.time(n[c]+1) < pulls[to].time(n[to]+1)) {
				to = c
			}
		}
		if to < 0 {
			return has
		}
		n[to]++
	}
	soonest := int64(0)
	for c, p := range pulls {
		soonest = max(soonest, p.time(n[c]))
	}
	if soonest*100 > last*(100-enough) {
		return has
	}
	return move(has, nearest(has, pulls, soonest))
}

// nearest is how many replicas each cluster has if all are done by a time and as few as possible
// move.
func nearest(has []Set, pulls []Pull, by int64) []int {
	n, left := make([]int, len(has)), 0
	for c, p := range pulls {
		for n[c] = has[c].Len(); n[c] > 1 && p.time(n[c]) > by; n[c]-- {
			left++
		}
	}
	for ; left > 0; left-- {
		to := -1
		for c, p := range pulls {
			if n[c] < p.Most && (to < 0 || p.time(n[c]+1) < pulls[to].time(n[to]+1)) {
				to = c
			}
		}
		n[to]++
	}
	return n
}

// move is the shares of so many replicas each that differ least from what clusters have.
func move(has []Set, n []int) []Set {
	next := make([]Set, len(has))
	free := Set(0)
	for c, s := range has {
		for k := 0; s>>k != 0; k++ {
			switch {
			case !s.Has(k):
			case next[c].Len() < n[c]:
				next[c] |= 1 << k
			default:
				free |= 1 << k
			}
		}
	}
	for c := range next {
		for k := 0; next[c].Len() < n[c]; k++ {
			if free.Has(k) {
				next[c] |= 1 << k
				free &^= 1 << k
			}
		}
	}
	return next
}
