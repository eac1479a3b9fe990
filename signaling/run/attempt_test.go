package run

// From the providers that are there to training.

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

func TestPlannerSeesNamesInOrderAndRTT(t *testing.T) {
	r := newRig(t, nil)
	r.step(Submit{Job: Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 4}})
	for i, name := range []string{"node_10", "node_9", "b", "node_2"} {
		r.join(fmt.Sprintf("p%d", i), name)
	}
	p, ok := find[AskPlan](r)
	if !ok {
		t.Fatal("no plan was asked for")
	}
	var names []string
	for _, m := range p.Pool {
		names = append(names, m.Name)
		if m.RTT != 2*time.Millisecond {
			t.Errorf("%s has RTT %v", m.Name, m.RTT)
		}
	}
	if want := []string{"b", "node_2", "node_9", "node_10"}; !reflect.DeepEqual(names, want) {
		t.Errorf("pool %v, want %v", names, want)
	}
}

// TestPlannersSpares: a plan that needs fewer than have joined makes spares of the others, and
// one of them steps in at once.
func TestPlannersSpares(t *testing.T) {
	r := newRig(t, nil)
	j := *job()
	j.Replan = true
	r.step(Submit{Job: j})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool[:2])})
	for _, id := range []string{"p0", "p1"} {
		r.step(Message{ID: id, Msg: &proto.Ready{Run: "j-1"}})
	}
	r.phase(Running)
	r.step(Leave{ID: "p1", Reason: "gone"})
	r.phase(Planning)
	if p, _ := find[AskPlan](r); !p.Free || len(p.Pool) != 2 {
		t.Errorf("asked for a plan over %+v", p)
	}
}

func TestSlowDownloadIsWaitedFor(t *testing.T) {
	r := newRig(t, func(s *Settings) { s.ReadyTimeout = 3 * time.Second })
	r.step(Submit{Job: *job()})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	for i := range 30 {
		r.silence(time.Second, "p0", "p1", "p2")
		for k := range 3 {
			r.step(Message{ID: fmt.Sprintf("p%d", k), Msg: &proto.Fetching{Run: "j-1", Have: int64(i + 1), Want: 99}})
		}
	}
	r.phase(Connecting)
	for range 4 { // no progress
		r.silence(time.Second, "p0", "p1", "p2")
		r.step(Message{ID: "p1", Msg: &proto.Fetching{Run: "j-1", Have: 30, Want: 99}})
	}
	r.recovering("not ready", "node_1")
}

func TestTooSmallIsWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	j := *job()
	j.Want, j.Replan = 2, true
	r.step(Submit{Job: j})
	r.join("p0", "")
	r.join("p1", "")
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Err: errors.New("310 MB short"), Wait: true})
	r.phase(Gathering)
	if w, ok := event[Waiting](r); !ok || !strings.Contains(w.Reason, "310 MB short") {
		t.Errorf("the requester was told %+v", w)
	}
	r.silence(5*time.Second, "p0", "p1")
	r.phase(Gathering) // the same pool is not planned for again
	r.join("p2", "")
	r.phase(Planning)
	if p, _ := find[AskPlan](r); len(p.Pool) != 3 {
		t.Errorf("asked for a plan over %d", len(p.Pool))
	}
}

func TestLostBeforeTheStartGathersAgain(t *testing.T) {
	r := newRig(t, nil)
	r.step(Submit{Job: *job()})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	first, _ := find[AskPlan](r)
	r.step(Leave{ID: "p2", Reason: "gone"}) // while planning
	r.phase(Gathering)
	r.step(Plan{Seq: first.Seq, Placed: inOrder(first.Pool)})
	r.phase(Gathering) // the plan was for another pool
	r.join("p3", "")
	second, _ := find[AskPlan](r)
	if second.Seq == first.Seq {
		t.Fatal("not asked again")
	}
	r.step(Plan{Seq: second.Seq, Placed: inOrder(second.Pool)})
	r.step(Message{ID: "p0", Msg: &proto.Ready{Run: "j-1"}})
	r.step(Leave{ID: "p1", Reason: "gone"}) // while connecting
	r.phase(Gathering)
	if s, ok := r.last("p0").(*proto.Stop); !ok || s.Mode != proto.Now {
		t.Errorf("p0 was told %#v", r.last("p0"))
	}
	r.join("p4", "")
	third, _ := find[AskPlan](r)
	r.step(Plan{Seq: third.Seq, Placed: inOrder(third.Pool)})
	// A late message about the first attempt changes nothing.
	r.step(Message{ID: "p0", Msg: &proto.Ready{Run: "j-1"}})
	r.step(Message{ID: "p0", Msg: &proto.Failed{Run: "j-1", Stage: 0, Error: "late"}})
	for _, id := range []string{"p0", "p3", "p4"} {
		r.phase(Connecting)
		r.step(Message{ID: id, Msg: &proto.Ready{Run: "j-2"}})
	}
	r.phase(Running)
}

func TestBadPlans(t *testing.T) {
	ref := proto.Ref{SHA256: sumA}
	tests := []struct {
		name string
		plan func(pool []Member) ([]Assignment, error)
		text string
	}{
		{"error", func([]Member) ([]Assignment, error) { return nil, errors.New("310 MB short") }, "310 MB short"},
		{"empty", func([]Member) ([]Assignment, error) { return nil, nil }, "empty"},
		{"nobody", func([]Member) ([]Assignment, error) {
			return []Assignment{{MemberID: "zz", Stages: 1, Graph: ref}}, nil
		}, "not in the pool"},
		{"two stages", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 2, Graph: ref}, {MemberID: p[0].ID, Stage: 1, Stages: 2, Graph: ref}}, nil
		}, "two stages"},
		{"hole", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 2, Segment: snapshot.Segment{To: 1}, Graph: ref}}, nil
		}, "without a provider"},
		{"disagreement", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 2, Segment: snapshot.Segment{To: 1}, Graph: ref}, {MemberID: p[1].ID, Stage: 1, Stages: 3, Graph: ref}}, nil
		}, "both"},
		{"twice", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1, Segment: snapshot.Segment{To: 1}, Graph: ref}, {MemberID: p[1].ID, Stages: 1, Segment: snapshot.Segment{To: 1}, Graph: ref}}, nil
		}, "twice"},
		{"no graph", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1, Segment: snapshot.Segment{To: 1}}}, nil
		}, "SHA-256"},
		{"gap", func(p []Member) ([]Assignment, error) {
			return []Assignment{
				{MemberID: p[0].ID, Stages: 2, Segment: snapshot.Segment{To: 1}, Graph: ref},
				{MemberID: p[1].ID, Stage: 1, Stages: 2, Segment: snapshot.Segment{From: 2, To: 3}, Graph: ref},
			}, nil
		}, "nodes 2 to 3"},
		{"too many stages", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1 << 40, Segment: snapshot.Segment{To: 1}, Graph: ref}}, nil
		}, "without a provider"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.step(Submit{Job: *job()})
			for i := range 3 {
				r.join(fmt.Sprintf("p%d", i), "")
			}
			p, _ := find[AskPlan](r)
			as, err := tt.plan(p.Pool)
			r.step(Plan{Seq: p.Seq, Placed: as, Err: err})
			r.phase(Idle)
			f, ok := find[Finish](r)
			if !ok || !errors.Is(f.Err, ErrPlan) || !strings.Contains(f.Err.Error(), tt.text) {
				t.Errorf("got %v", f.Err)
			}
			for id := range r.sent {
				if _, ok := r.last(id).(*proto.Assign); ok {
					t.Errorf("%s was assigned a stage of it", id)
				}
			}
		})
	}
}

func TestNotReadyInTime(t *testing.T) {
	r := newRig(t, func(s *Settings) { s.ReadyTimeout = 3 * time.Second })
	r.step(Submit{Job: *job()})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	r.step(Message{ID: "p1", Msg: &proto.Ready{Run: "j-1"}})
	r.now = r.now.Add(3 * time.Second)
	r.step(Tick{})
	if e := r.recovering("not ready", "node_0"); strings.Contains(e.Reason, "node_1") {
		t.Errorf("%q blames one that is ready", e.Reason)
	}
}
