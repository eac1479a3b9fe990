package main

import (
	"testing"
	"time"

	lent "github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestSteps: the states of an assignment become spans within it, and one assignment may follow
// the other at once.
func TestSteps(t *testing.T) {
	var got []otlp.Span
	s := &steps{add: func(x ...otlp.Span) { got = append(got, x...) }}
	now := time.Unix(1000, 0)
	for _, st := range []machine.State{machine.Waiting, machine.Fetching, machine.Connecting, machine.Training, machine.Training, machine.Fetching, machine.Connecting, machine.Waiting} {
		now = now.Add(time.Second)
		s.watch(now, lent.Update{State: st, Stages: 3, Progress: proto.Progress{Samples: now.Unix()}})
	}
	want := []struct {
		name       string
		start, end int64
	}{{"fetching", 2, 3}, {"connecting", 3, 4}, {"training", 4, 6}, {"assignment", 2, 6}, {"fetching", 6, 7}, {"connecting", 7, 8}, {"assignment", 6, 8}}
	if len(got) != len(want) {
		t.Fatalf("%d spans, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		g, whole := got[i], got[3]
		if i > 3 {
			whole = got[6]
		}
		inside := g.Parent == whole.ID && g.Trace == whole.Trace
		if g.Name != w.name || g.Start.Unix() != 1000+w.start || g.End.Unix() != 1000+w.end || inside != (w.name != "assignment") {
			t.Errorf("span %d is %+v, want %+v", i, g, w)
		}
	}
	if n := got[2].Attributes["samples"]; n != int64(1005) {
		t.Errorf("%v samples were trained on, want the last that was told", n)
	}
}
