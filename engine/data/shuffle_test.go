package data

import (
	"fmt"
	"slices"
	"testing"
)

// TestShuffle: whatever the layout, an epoch visits every row once, group by group, in pieces of
// any size, and differently from other epochs and seeds.
func TestShuffle(t *testing.T) {
	for _, l := range []Layout{{1, 1, 1}, {5, 2, 1}, {7, 2, 2}, {10, 5, 3}, {100, 7, 3}, {100, 7, 20}, {101, 1, 5}, {64, 8, 2}, {9, 4, 100}} {
		all := func(seed uint64, epoch, piece int) []int32 {
			s := NewShuffle(l, seed)
			rows := make([]int32, l.Rows)
			for from := 0; from < l.Rows; from += piece {
				s.Rows(rows[from:min(from+piece, l.Rows)], epoch, from)
			}
			return rows
		}
		for epoch := range 6 {
			got := all(1, epoch, l.Rows)
			for _, piece := range []int{1, 3, 8} {
				if !slices.Equal(got, all(1, epoch, piece)) {
					t.Errorf("%+v, epoch %d: pieces of %d give another order", l, epoch, piece)
				}
			}
			sorted := slices.Sorted(slices.Values(got))
			if !slices.Equal(sorted, iota32(l.Rows)) {
				t.Fatalf("%+v, epoch %d: %v", l, epoch, got)
			}
			if l.Rows > 20 && (slices.Equal(got, all(2, epoch, l.Rows)) || slices.Equal(got, all(1, epoch+1, l.Rows))) {
				t.Errorf("%+v, epoch %d: not another order by seed and epoch", l, epoch)
			}
			// No more than a group of shards is open at once, and Next names them in time.
			s := NewShuffle(l, 1)
			for from := range got {
				next := s.Next(nil, epoch, from, l.Group)
				if k := got[from] / int32(l.Per); !slices.Contains(next, k) {
					t.Fatalf("%+v, epoch %d: position %d is in shard %d, not of %v", l, epoch, from, k, next)
				}
			}
			if next := s.Next(nil, epoch, l.Rows-1, 1<<20); len(next) != l.Shards() {
				t.Errorf("%+v: %v follow", l, next)
			}
		}
	}
}

// TestShuffleBits pins an order: it is part of what a job means.
func TestShuffleBits(t *testing.T) {
	rows := make([]int32, 23)
	NewShuffle(Layout{Rows: 23, Per: 4, Group: 2}, 42).Rows(rows, 3, 0)
	const want = "[21 22 3 0 20 1 2 5 6 16 19 4 17 7 18 8 15 12 11 14 13 10 9]"
	if got := fmt.Sprint(rows); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
