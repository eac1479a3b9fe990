package average_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/average"
)

func TestSegmentsOfUnequalCuts(t *testing.T) {
	got, err := average.Segments(45, [][]int{{0, 9, 27, 39}, {0, 9, 21, 33}, {0}})
	want := []average.Segment{
		{From: 0, To: 9, Holders: []int{0, 0, 0}},
		{From: 9, To: 21, Holders: []int{1, 1, 0}},
		{From: 21, To: 27, Holders: []int{1, 2, 0}},
		{From: 27, To: 33, Holders: []int{2, 2, 0}},
		{From: 33, To: 39, Holders: []int{2, 3, 0}},
		{From: 39, To: 45, Holders: []int{3, 3, 0}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// Over random cuts: every node is in exactly one segment, each cluster has exactly one
// stage for it that really holds it, and neighbouring segments differ in some cluster,
// so that there are no more of them than it takes.
func TestSegmentsOfRandomCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		n := 1 + rng.IntN(60)
		cuts := make([][]int, 1+rng.IntN(6))
		for c := range cuts {
			cuts[c] = append(rng.Perm(n)[:rng.IntN(n)], 0)
			slices.Sort(cuts[c])
			cuts[c] = slices.Compact(cuts[c])
		}
		segments, err := average.Segments(n, cuts)
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for i, s := range segments {
			if s.From != next || s.To <= s.From || len(s.Holders) != len(cuts) {
				t.Fatalf("cuts %v: segment %d is %+v, the one before ends at %d", cuts, i, s, next)
			}
			next = s.To
			for c, k := range s.Holders {
				end := n
				if k+1 < len(cuts[c]) {
					end = cuts[c][k+1]
				}
				if cuts[c][k] > s.From || end < s.To {
					t.Fatalf("cuts %v: stage %d of cluster %d does not hold %+v", cuts, k, c, s)
				}
			}
			if i > 0 && slices.Equal(s.Holders, segments[i-1].Holders) {
				t.Fatalf("cuts %v: segments %d and %d are one", cuts, i-1, i)
			}
		}
		if next != n {
			t.Fatalf("cuts %v: segments end at %d of %d", cuts, next, n)
		}
	}
}

func TestSegmentsRefusesBadCuts(t *testing.T) {
	for _, cuts := range [][][]int{nil, {nil}, {{1, 2}}, {{0, 0}}, {{0, 3, 2}}, {{0, 10}}, {{0}, {0, -1}}} {
		if s, err := average.Segments(10, cuts); !errors.Is(err, average.ErrCuts) {
			t.Errorf("cuts %v: %v, %v", cuts, s, err)
		}
	}
}
