package host

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestFewMoves: whoever is lost, another takes over its stage and nobody else moves, in whichever order
// the pool is told, and more than once.
func TestFewMoves(t *testing.T) {
	p := opened(t, "cnn", 2)
	for _, replicas := range []int{1, 4} {
		p.Job.Replicas = job.Count(replicas)
		opt, bench := Options{Providers: 3, All: true}, proto.Bench{GEMM: 10, Conv: 10, Up: 1e7, Down: 1e7}
		if replicas > 1 { // by what was measured, a provider alone would be the fastest
			opt, bench = Options{Providers: 5, Clusters: 2, All: true}, proto.Bench{}
		}
		for _, pools := range [][]string{
			{"abc", "bcd", "dec"},
			{"abc", "cad", "ecd"},
			{"abc", "dab", "dae"},
			{"abcde", "bcdef", "gfdeb"},
			{"abcde", "fdeba", "abgfe"},
		} {
			if len(pools[0]) != opt.Providers {
				continue
			}
			r := newRoster(p, &opt)
			r.begin(nil, false)
			was := map[string]server.Assignment{}
			for k, names := range pools {
				var pool []server.Member
				for _, n := range strings.Split(names, "") {
					pool = append(pool, server.Member{ID: n, Name: n, Hello: proto.Hello{
						Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1, Bench: bench,
					}})
				}
				as, err := r.place(t.Context(), server.Ask{Run: "r", Pool: pool, Free: k > 0})
				if err != nil {
					t.Fatal(err)
				}
				is := map[string]server.Assignment{}
				for _, a := range as {
					is[a.MemberID] = a
					old, stays := was[a.MemberID]
					if stays && (a.Cluster != old.Cluster || a.Stage != old.Stage || a.Segment != old.Segment) {
						t.Errorf("%v: %s moves from stage %d.%d, %v, to %d.%d, %v", pools[:k+1], a.MemberID, old.Cluster, old.Stage, old.Segment, a.Cluster, a.Stage, a.Segment)
					}
				}
				if len(is) != len(pools[0]) {
					t.Errorf("%v: %d of %d take part", pools[:k+1], len(is), len(pool))
				}
				was = is
			}
		}
	}
}
