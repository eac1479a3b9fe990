package host

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestSpans: what happens in a run becomes spans within the run's, each from its beginning to
// its end, and what an attempt's end cuts off is closed with the reason.
func TestSpans(t *testing.T) {
	var got []otlp.Span
	s := &spans{add: func(x ...otlp.Span) { got = append(got, x...) }}
	now := time.Unix(1000, 0)
	for _, ev := range []any{
		server.Joined{}, // 1
		server.Planned{Run: "r-1", Stages: make([]server.Placed, 3)},
		server.Started{Run: "r-1"},
		server.Status{Round: 1, Replicas: 2},
		server.Status{Round: 1, Replicas: 2}, // 5
		server.Saved{Run: "r-1"},
		server.Saved{Run: "r-1"},
		server.Checkpointed{Manifest: &snapshot.Manifest{}},
		server.Status{Round: 2, Replicas: 2},
		server.Saved{Run: "r-1"}, // 10
		server.Recovering{Run: "r-1", Reason: "node_1 is gone", Step: 4, Reached: 9},
		server.Planned{Run: "r-2", Generation: 2, Resume: 4},
		server.Started{Run: "r-2", Resume: 4},
		server.Failed{Err: errors.New("stopped")},
	} {
		now = now.Add(time.Second)
		if st, ok := ev.(server.Status); ok {
			s.look(now, st)
		} else {
			s.event(now, ev.(server.Event))
		}
	}
	want := []struct {
		name       string
		start, end int64
		fault      string
	}{
		{"save", 6, 8, ""},
		{"round", 4, 9, ""},
		{"attempt", 2, 11, "node_1 is gone"},
		{"round", 9, 11, "node_1 is gone"},
		{"save", 10, 11, "node_1 is gone"},
		{"recovery", 11, 13, ""},
		{"attempt", 12, 14, "stopped"},
		{"run", 1, 14, "stopped"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d spans, want %d: %+v", len(got), len(want), got)
	}
	root := got[len(got)-1]
	for i, w := range want {
		g := got[i]
		if g.Name != w.name || g.Start.Unix() != 1000+w.start || g.End.Unix() != 1000+w.end || g.Fault != w.fault || g.Trace != root.Trace {
			t.Errorf("span %d is %+v, want %+v", i, g, w)
		}
		if parent := map[bool]otlp.ID{true: {}, false: root.ID}[w.name == "run"]; g.Parent != parent {
			t.Errorf("span %d, %s, has parent %x", i, g.Name, g.Parent)
		}
		if slices.ContainsFunc(got[:i], func(o otlp.Span) bool { return o.ID == g.ID }) {
			t.Errorf("span %d has the name of another", i)
		}
	}
	if a := got[0].Attributes; a["parts"] != int64(2) {
		t.Errorf("a save has %v", a)
	}
	if a := got[5].Attributes; a["from_step"] != int64(4) || a["reached_step"] != int64(9) {
		t.Errorf("a recovery has %v", a)
	}
}
