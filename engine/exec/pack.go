// Where buffers lie in the temp arena.

package exec

import (
	"cmp"
	"math"
	"slices"
)

// pack gives each buffer the lowest offset that is free while it lives, the largest first, and
// returns the size of the arena.
func pack(ls []*life) int {
	slices.SortStableFunc(ls, func(a, b *life) int { return b.size - a.size })
	var s placed
	total := 0
	for _, l := range ls {
		l.off = s.free(l)
		s.add(l)
		total = max(total, l.off+pad(l.size))
	}
	return total
}

// placed is buffers that have their places, by offset and then by birth, in runs. Most buffers of a
// large model do not live together, or lie side by side, so that a search passes by whole runs.
type placed struct{ runs []*run }

// mostRun is the most buffers of a run.
const mostRun = 256

// run is neighbours of placed buffers, and what is known of all of them.
type run struct {
	all []*life

	born, lastBorn   int // the first and the last birth
	dies, firstDeath int // the last and the first death
	end              int // of the one that reaches farthest
	gap              int // the widest free space between them while all of them live, at least
}

// order is by offset, then by birth.
func order(a, b *life) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.born, b.born)) }

// free is the lowest offset at which l meets nobody who lives when it does.
func (s *placed) free(l *life) int {
	at, size := 0, pad(l.size)
	for _, r := range s.runs {
		switch first := r.all[0].off; {
		case r.born > l.dies || r.dies < l.born:
			continue // nobody lives together with l
		case at+size <= first:
			return at
		case r.lastBorn <= l.dies && r.firstDeath >= l.born && r.gap < size:
			at = max(at, r.end) // all do, and leave no room
			continue
		}
		for _, o := range r.all {
			if o.born > l.dies || l.born > o.dies {
				continue
			}
			if at+size <= o.off {
				return at
			}
			at = max(at, o.off+pad(o.size))
		}
	}
	return at
}

// add takes in a buffer that has its place.
func (s *placed) add(l *life) {
	k, _ := slices.BinarySearchFunc(s.runs, l, func(r *run, l *life) int { return order(r.all[0], l) })
	k = max(0, k-1) // the last run that begins before l
	if len(s.runs) == 0 {
		s.runs = append(s.runs, &run{})
	}
	r := s.runs[k]
	i, _ := slices.BinarySearchFunc(r.all, l, order)
	r.all = slices.Insert(r.all, i, l)
	if n := len(r.all); n > mostRun {
		half := &run{all: slices.Clone(r.all[n/2:])}
		r.all = slices.Clip(r.all[:n/2])
		half.measure()
		s.runs = slices.Insert(s.runs, k+1, half)
	}
	r.measure()
}

// measure finds what is known of all buffers of the run.
func (r *run) measure() {
	r.born, r.lastBorn, r.dies, r.firstDeath, r.end, r.gap = math.MaxInt, math.MinInt, math.MinInt, math.MaxInt, r.all[0].off, 0
	for _, l := range r.all {
		r.born, r.lastBorn = min(r.born, l.born), max(r.lastBorn, l.born)
		r.dies, r.firstDeath = max(r.dies, l.dies), min(r.firstDeath, l.dies)
		r.gap = max(r.gap, l.off-r.end)
		r.end = max(r.end, l.off+pad(l.size))
	}
}
