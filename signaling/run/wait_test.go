package run

import (
	"fmt"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TestManyWait: of many that only wait, most are pinged seldom, and are told so; who gets a
// stage is pinged as usual from then on, and its silence is noticed as soon.
func TestManyWait(t *testing.T) {
	r := newRig(t, func(s *Settings) { s.MaxMembers = 1000 })
	const all, slow = 200, "p150"
	j := job()
	j.Want = all
	for i := range all {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	w, _ := r.sent[slow][0].(*proto.Welcome)
	if w == nil || w.Heartbeat != 30_000 || w.Timeout != 90_000 {
		t.Fatalf("the welcome of one of many: %+v", w)
	}
	if w, _ := r.sent["p5"][0].(*proto.Welcome); w == nil || w.Heartbeat != 1500 || w.Timeout != 4500 {
		t.Fatalf("the welcome of one of the first: %+v", w)
	}
	// pings counts those sent to a member in a time, in which all but one answer.
	pings := func(id string, d time.Duration, mute string) int {
		n := 0
		count := func() {
			for i := range all {
				id := fmt.Sprintf("p%d", i)
				if m := r.l.Members[id]; m != nil && id != mute && r.now.Sub(m.Pinged) < 100*time.Millisecond {
					r.pong(id)
				}
			}
		}
		was := len(r.sent[id])
		for end := r.now.Add(d); r.now.Before(end); {
			r.now = r.now.Add(100 * time.Millisecond)
			r.step(Tick{})
			count()
		}
		for _, m := range r.sent[id][was:] {
			if _, ok := m.(*proto.Ping); ok {
				n++
			}
		}
		return n
	}
	if n := pings(slow, time.Minute, ""); n < 1 || n > 3 {
		t.Errorf("%d pings in a minute to one that waits", n)
	}
	if n := pings("p5", time.Minute, ""); n < 30 {
		t.Errorf("%d pings in a minute to one of the first", n)
	}
	if len(r.l.Members) != all {
		t.Fatalf("%d are left", len(r.l.Members))
	}
	r.step(Submit{Job: *j})
	r.phase(Planning)
	p, _ := find[AskPlan](r)
	for i, m := range p.Pool {
		if m.ID == slow {
			p.Pool = p.Pool[i : i+1]
			break
		}
	}
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	a, _ := r.last(slow).(*proto.Assign)
	if a == nil || a.Timeout != 4500 {
		t.Fatalf("its assignment: %+v", a)
	}
	if n := pings(slow, 12*time.Second, ""); n < 6 {
		t.Errorf("%d pings in 12 s to one with a stage", n)
	}
	pings(slow, 6*time.Second, slow)
	if r.l.Members[slow] != nil {
		t.Error("its silence is not noticed")
	}
}
