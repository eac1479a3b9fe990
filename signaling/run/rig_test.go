package run

// A machine driven by hand.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

var t0 = time.Unix(1_700_000_000, 0)

const sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// rig drives a machine by hand: it keeps the clock, what every member was sent
// and all other actions.
type rig struct {
	t    *testing.T
	l    *Machine
	now  time.Time
	sent map[string][]proto.Message
	acts []Action
	evs  []Report
	slow time.Duration // how long an upload takes
	ups  uint64
}

func newRig(t *testing.T, change func(*Settings)) *rig {
	set := Settings{
		Heartbeat: 1500 * time.Millisecond, Timeout: 4500 * time.Millisecond,
		ReadyTimeout: time.Minute, DrainTimeout: time.Minute, MaxMembers: 8, Checkpoint: -1,
	}
	if change != nil {
		change(&set)
	}
	return &rig{t: t, l: New(set), now: t0, sent: map[string][]proto.Message{}}
}

func (r *rig) step(ev Event) []Action {
	r.t.Helper()
	acts := r.l.Step(r.now, ev)
	for _, a := range acts {
		switch a := a.(type) {
		case Send:
			if w, ok := a.Msg.(*proto.Welcome); ok {
				w.Session = "secret" // filled in by the server
			}
			if _, err := proto.Encode(a.Msg); err != nil {
				r.t.Errorf("the machine sends a message that cannot be encoded: %v", err)
			}
			r.sent[a.ID] = append(r.sent[a.ID], a.Msg)
		case Emit:
			r.evs = append(r.evs, a.Report)
		default:
			r.acts = append(r.acts, a)
		}
	}
	return acts
}

// join lets p0, p1 ... in and answers their first ping.
func (r *rig) join(id, name string) {
	r.t.Helper()
	r.step(Join{ID: id, Addr: "127.0.0.1:1", Hello: proto.Hello{Name: name, Class: proto.ClassFMA}})
	r.now = r.now.Add(2 * time.Millisecond)
	r.pong(id)
}

func (r *rig) pong(id string) {
	if m := r.l.Members[id]; m != nil {
		r.step(Message{ID: id, Msg: &proto.Pong{Seq: m.Seq}})
	}
}

// last returns the last message to id other than a ping.
func (r *rig) last(id string) proto.Message {
	for i := len(r.sent[id]) - 1; i >= 0; i-- {
		if _, ok := r.sent[id][i].(*proto.Ping); !ok {
			return r.sent[id][i]
		}
	}
	return nil
}

func (r *rig) phase(want Phase) {
	r.t.Helper()
	if r.l.Phase != want {
		r.t.Fatalf("the phase is %s, want %s", r.l.Phase, want)
	}
}

// find returns the last action of type T and whether there is one.
func find[T any](r *rig) (T, bool) {
	for i := len(r.acts) - 1; i >= 0; i-- {
		if a, ok := r.acts[i].(T); ok {
			return a, true
		}
	}
	var zero T
	return zero, false
}

func event[T Report](r *rig) (T, bool) {
	for i := len(r.evs) - 1; i >= 0; i-- {
		if e, ok := r.evs[i].(T); ok {
			return e, true
		}
	}
	var zero T
	return zero, false
}

// inOrder places one cluster's stages on the pool in its order.
func inOrder(pool []Member) []Assignment {
	var as []Assignment
	for i, m := range pool {
		as = append(as, Assignment{MemberID: m.ID, Stage: i, Stages: len(pool), Segment: snapshot.Segment{From: i, To: i + 1}, Graph: proto.Ref{SHA256: sumA, Size: 1}})
	}
	return as
}

func job(names ...string) *Job {
	return &Job{ID: "j", Raw: json.RawMessage(`{}`), Names: names, Want: 3}
}

// started brings three providers to running.
func started(t *testing.T, change func(*Settings)) *rig {
	r := newRig(t, change)
	r.step(Submit{Job: *job("node_0", "node_1", "node_2")})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	r.phase(Planning)
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	r.phase(Connecting)
	for i := range 3 {
		if i > 0 {
			if _, ok := r.last("p0").(*proto.Start); ok {
				t.Fatal("started before all were ready")
			}
		}
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Ready{Run: "j-1", Peak: 5}})
	}
	r.phase(Running)
	return r
}

// clusters brings three providers to running: a cluster of one stage, and one of two.
func clusters(t *testing.T) *rig {
	r := newRig(t, nil)
	r.step(Submit{Job: *job("node_0", "node_1", "node_2")})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[AskPlan](r)
	placed := inOrder(p.Pool)
	placed[0].Stages, placed[0].Segment.To = 1, 4
	for i := range 2 {
		a := &placed[i+1]
		a.Cluster, a.Stage, a.Stages, a.Segment = 1, i, 2, snapshot.Segment{From: 2 * i, To: 2*i + 2}
	}
	r.step(Plan{Seq: p.Seq, Placed: placed})
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Ready{Run: "j-1", Peak: 5}})
	}
	r.phase(Running)
	return r
}

// start brings these members, by stage, from planning to running.
func (r *rig) start(run string, ids ...string) {
	r.t.Helper()
	r.phase(Planning)
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	for _, id := range ids {
		r.step(Message{ID: id, Msg: &proto.Ready{Run: run, Peak: 5}})
	}
	r.phase(Running)
}

// recovering checks that the run goes on without the provider, and says why.
func (r *rig) recovering(words ...string) Recovering {
	r.t.Helper()
	e, ok := event[Recovering](r)
	if !ok {
		r.t.Fatal("the requester was not told")
	}
	for _, w := range words {
		if !strings.Contains(e.Reason, w) {
			r.t.Errorf("%q does not say %q", e.Reason, w)
		}
	}
	if _, ok := find[Finish](r); ok {
		r.t.Error("the run has ended")
	}
	return e
}

// silence lets d pass while only these members answer.
func (r *rig) silence(d time.Duration, but ...string) {
	for range int(d / (500 * time.Millisecond)) {
		r.now = r.now.Add(500 * time.Millisecond)
		r.step(Tick{})
		for _, id := range but {
			r.pong(id)
		}
	}
}

// grant asks for an upload and returns what the machine answered.
func (r *rig) grant(id, run string, stage int, sha string) (object string, err *proto.Error) {
	r.t.Helper()
	r.ups++
	for _, a := range r.step(UploadRequest{Seq: r.ups, ID: id, Run: run, Stage: stage, SHA256: sha}) {
		switch a := a.(type) {
		case Grant:
			if a.Seq != r.ups || a.ID != id {
				r.t.Errorf("granted %+v", a)
			}
			return a.Object, nil
		case Denial:
			return "", a.Err
		}
	}
	r.t.Fatal("an upload request was not answered")
	return "", nil
}

// saveAt has the members of a running rig upload and save objects for a step.
func (r *rig) saveAt(step int64, stages ...int) {
	r.t.Helper()
	for _, st := range stages {
		id := fmt.Sprintf("p%d", st)
		sha := fmt.Sprintf("%064x", step*16+int64(st))
		run := r.l.Run
		object, err := r.grant(id, run, st, sha)
		if err != nil {
			r.t.Fatalf("grant: %v", err)
		}
		r.now = r.now.Add(r.slow)
		ref := proto.Ref{SHA256: sha, Size: 10}
		r.step(Upload{ID: id, Run: run, Stage: st, Object: object, Blob: ref})
		r.step(UploadEnd{ID: id})
		r.step(Message{ID: id, Msg: &proto.Saved{Run: run, Stage: st, Step: step, Epoch: int(step / 10), Blob: ref}})
	}
}

func (r *rig) commit(err error) {
	r.t.Helper()
	if _, ok := find[PutManifest](r); !ok {
		r.t.Fatal("nothing to commit")
	}
	r.step(Commit{Run: r.l.Job.ID, Err: err})
}
