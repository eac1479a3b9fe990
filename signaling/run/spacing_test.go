package run

import (
	"fmt"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TestSpacing holds the spacing against all others within the bounds, each by what checkpoints
// take and what a loss in the middle of an interval repeats.
func TestSpacing(t *testing.T) {
	for _, cost := range []time.Duration{50 * time.Millisecond, time.Second, 40 * time.Second, 5 * time.Minute} {
		for _, mean := range []time.Duration{10 * time.Second, 5 * time.Minute, time.Hour, 1000 * time.Hour} {
			waste := func(every time.Duration) float64 {
				return slowdown*cost.Seconds()/every.Seconds() + every.Seconds()/2/mean.Seconds()
			}
			got := Spacing(cost, mean)
			if got < 2*cost || got > 20*cost {
				t.Fatalf("a checkpoint that takes %v, a loss every %v: %v is out of bounds", cost, mean, got)
			}
			for every := 2 * cost; every <= 20*cost; every += cost / 8 {
				if waste(every) < 0.999*waste(got) {
					t.Errorf("a checkpoint that takes %v, a loss every %v: %v wastes %.4f, %v only %.4f", cost, mean, got, waste(got), every, waste(every))
				}
			}
		}
	}
}

// TestLeavesWhilePlanning: a provider to spare that leaves while a plan is being made does not
// throw the plan away; one that the plan names does.
func TestLeavesWhilePlanning(t *testing.T) {
	for _, gone := range []string{"p3", "p0"} {
		r := newRig(t, nil)
		for i := range 4 {
			r.join(fmt.Sprintf("p%d", i), "")
		}
		j := job()
		j.Want = 3
		r.step(Submit{Job: *j})
		r.phase(Planning)
		p, _ := find[AskPlan](r)
		if len(p.Pool) != 4 {
			t.Fatalf("%d are asked for", len(p.Pool))
		}
		r.step(Leave{ID: gone, Reason: "lunch"})
		r.phase(Planning)
		r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool[:3])})
		if gone == "p3" {
			r.phase(Connecting)
			continue
		}
		r.phase(Planning)
		if q, _ := find[AskPlan](r); q.Seq == p.Seq || len(q.Pool) != 3 {
			t.Errorf("the next question is %d for %d members", q.Seq, len(q.Pool))
		}
	}
}

// TestGoodbyeLasts: the host waits for as long as the states are on their way, within bounds.
func TestGoodbyeLasts(t *testing.T) {
	r := started(t, nil)
	alive := func(d time.Duration) {
		for end := r.now.Add(d); r.now.Before(end); {
			r.now = r.now.Add(time.Second)
			r.step(Tick{})
			for i := range 3 {
				r.pong(fmt.Sprintf("p%d", i))
			}
		}
	}
	r.step(Message{ID: "p1", Msg: &proto.Leaving{Reason: "lunch"}})
	alive(5 * time.Second)
	if _, err := r.grant("p1", "j-1", 1, sumA); err != nil {
		t.Fatal(err)
	}
	alive(3 * time.Minute) // over a slow uplink
	if r.l.Members["p1"] == nil {
		t.Fatal("it was sent away while it saved")
	}
	alive(maxGoodbye)
	if r.l.Members["p1"] != nil {
		t.Error("its goodbye has no end")
	}
}
