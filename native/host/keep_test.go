package host

import (
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestNobodyElseMoves: in a job without a pool file a spare takes the place of whoever is lost, and the
// others stay where they are, also with more spares than the model can be cut for.
func TestNobodyElseMoves(t *testing.T) {
	p := opened(t, "cnn", 2)
	p.Job.Replicas = job.Count(2)
	r := newRoster(p, &Options{Providers: 4, Clusters: 2})
	r.begin(nil, false)
	var pool []server.Member
	for i := range 40 {
		name := "n" + string(rune('A'+i))
		pool = append(pool, server.Member{ID: name, Name: name, Hello: proto.Hello{
			Class: proto.ClassFMA, RAM: 8 << 30, Threads: 1, Bench: proto.Bench{GEMM: 100, Conv: 80, Vector: 0.2, Up: 1e10, Down: 1e10},
		}})
	}
	before, err := r.place(t.Context(), server.Ask{Run: "r-1", Pool: pool[:4]})
	if err != nil {
		t.Fatal(err)
	}
	r.trains(time.Unix(1000, 0), "r-1", 0, 0)
	after, err := r.place(t.Context(), server.Ask{Run: "r-2", Pool: pool[1:]})
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Fatalf("%d stages, before %d", len(after), len(before))
	}
	for i, a := range before {
		if b := after[i]; a.MemberID != "nA" && (a.MemberID != b.MemberID || a.Cluster != b.Cluster || a.Segment != b.Segment) {
			t.Errorf("%s had nodes %v of cluster %d, and %s has %v of %d", a.MemberID, a.Segment, a.Cluster, b.MemberID, b.Segment, b.Cluster)
		}
	}
}
