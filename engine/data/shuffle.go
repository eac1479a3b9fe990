// The order in which the rows of a data set in shards are visited.

package data

import "github.com/ravnest/ravnest/engine/kernel"

// Layout says how the rows of a part are stored in shards.
type Layout struct {
	Rows  int // of the part
	Per   int // rows of a shard; the last may have fewer
	Group int // shards whose rows are shuffled together
}

// Shards returns the number of shards.
func (l Layout) Shards() int {
	if l.Rows == 0 {
		return 0
	}
	return (l.Rows + l.Per - 1) / l.Per
}

// Len returns the number of rows in shard k.
func (l Layout) Len(k int) int { return min(l.Per, l.Rows-k*l.Per) }

// The streams of an epoch. Number 0 is Order's, 1 is Split's.
const (
	streamShards = 2 // the order of the shards
	streamGroups = 3 // from here on, the order of the rows of each group
)

// Shuffle is the order in which epochs visit rows that are stored in shards. An epoch visits the
// shards in a random order, Group of them at a time, and the rows of each such group in a random
// order, so a reader needs one group at a time and no list of all rows. The order is a function
// of the seed, the epoch and the layout alone. With a single group, all rows are shuffled.
//
// It caches its last results, so it is for one goroutine.
type Shuffle struct {
	l    Layout
	seed uint64

	epoch  int     // whose order shards has; -1: none
	shards []int32 // in the epoch's order
	last   int     // index in shards of the last shard, which may be short
	group  int     // whose order rows has; -1: none
	rows   []int32
}

// NewShuffle returns the order that a seed gives the rows of a layout.
func NewShuffle(l Layout, seed uint64) *Shuffle {
	return &Shuffle{l: l, seed: seed, epoch: -1, group: -1, shards: make([]int32, l.Shards())}
}

// Rows fills dst with the rows that an epoch visits from position from on.
func (s *Shuffle) Rows(dst []int32, epoch, from int) {
	for len(dst) > 0 {
		g, begin := s.find(epoch, from)
		s.enter(epoch, g)
		n := copy(dst, s.rows[from-begin:])
		dst, from = dst[n:], from+n
	}
}

// find returns the group that contains position from, and the position where that group begins.
func (s *Shuffle) find(epoch, from int) (g, begin int) {
	s.permute(epoch)
	full := s.l.Group * s.l.Per
	short := s.l.Shards()*s.l.Per - s.l.Rows
	q := s.last / s.l.Group // the group with the short shard
	if from < q*full+s.size(q) {
		return from / full, from / full * full
	}
	g = (from + short) / full
	return g, g*full - short
}

// permute draws the order of the shards in an epoch.
func (s *Shuffle) permute(epoch int) {
	if s.epoch == epoch {
		return
	}
	kernel.Perm(s.shards, kernel.NewStream(s.seed, kernel.DomainShuffle, uint64(epoch), streamShards))
	s.epoch, s.group = epoch, -1
	for i, k := range s.shards {
		if int(k) == len(s.shards)-1 {
			s.last = i
		}
	}
}

// of returns the shards of group g in the epoch that was permuted last.
func (s *Shuffle) of(g int) []int32 {
	return s.shards[g*s.l.Group : min((g+1)*s.l.Group, len(s.shards))]
}

// size returns the number of rows in group g.
func (s *Shuffle) size(g int) int {
	n := 0
	for _, k := range s.of(g) {
		n += s.l.Len(int(k))
	}
	return n
}

// enter draws the order of the rows of group g.
func (s *Shuffle) enter(epoch, g int) {
	if s.group == g {
		return
	}
	s.group = g
	n := s.size(g)
	if cap(s.rows) < n {
		s.rows = make([]int32, n)
	}
	s.rows = s.rows[:n]
	kernel.Perm(s.rows, kernel.NewStream(s.seed, kernel.DomainShuffle, uint64(epoch), streamGroups+uint32(g)))
	shards := s.of(g)
	short := -1 // index in the group of the shard that may be short
	if p := s.last - g*s.l.Group; p >= 0 && p < len(shards) {
		short = p
	}
	for i, r := range s.rows {
		p := int(r) / s.l.Per
		at := int(r) % s.l.Per
		if short >= 0 && short < len(shards)-1 { // the shards after it begin earlier
			if cut := (short+1)*s.l.Per - (s.l.Per - s.l.Len(len(s.shards)-1)); int(r) >= cut {
				p, at = short+1+(int(r)-cut)/s.l.Per, (int(r)-cut)%s.l.Per
			}
		}
		s.rows[i] = int32(int(shards[p])*s.l.Per + at)
	}
}

// Next appends to dst up to most shards that hold the rows from position from of an epoch on, in
// the order in which they are needed: first the whole group of from, then the following groups,
// then those of the following epochs.
func (s *Shuffle) Next(dst []int32, epoch, from, most int) []int32 {
	seen := make([]bool, len(s.shards))
	most = min(most, len(s.shards))
	g, _ := s.find(epoch, from)
	for n := 0; n < most; {
		for _, k := range s.shards[g*s.l.Group:] {
			if n < most && !seen[k] {
				dst, seen[k], n = append(dst, k), true, n+1
			}
		}
		if n < most {
			epoch, g = epoch+1, 0
			s.permute(epoch)
		}
	}
	return dst
}
