package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
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

func TestRunLife(t *testing.T) {
	r := started(t, nil)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		if _, ok := r.last(id).(*proto.Start); !ok {
			t.Errorf("%s was not started: %#v", id, r.last(id))
		}
		var a *proto.Assign
		for _, m := range r.sent[id] {
			if x, ok := m.(*proto.Assign); ok {
				a = x
			}
		}
		if a == nil || a.Stage != i || a.Stages != 3 || a.Name != fmt.Sprintf("node_%d", i) || len(a.Peers) != 2 {
			t.Fatalf("%s was assigned %+v", id, a)
		}
		for _, p := range a.Peers {
			if p.ID == id || p.ID != fmt.Sprintf("p%d", p.Stage) {
				t.Errorf("%s has the peer %+v", id, p)
			}
		}
	}
	r.step(Message{ID: "p2", Msg: &proto.Progress{
		Run: "j-1", Stage: 2, Step: 2, Losses: []proto.Loss{{Step: 1, Loss: 0.5}, {Step: 2, Loss: 0.4}},
		Vals: []proto.Val{{Step: 2, Correct: 1, Total: 2}},
	}})
	if e, ok := event[Loss](r); !ok || e.Step != 2 || e.Loss.Loss != 0.4 || e.Stage != 2 {
		t.Errorf("loss event %+v", e)
	}
	if e, ok := event[Val](r); !ok || e.Correct != 1 {
		t.Errorf("val event %+v", e)
	}
	line, ok := find[AppendLine](r)
	if !ok || line.Log != "j/metrics" || !strings.Contains(string(line.Line), `"losses":[{"step":1`) {
		t.Errorf("metrics line %s", line.Line)
	}
	r.saveAt(9, 0, 1, 2)
	r.commit(nil)
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0, Step: 9}})
	r.phase(Draining)
	r.step(Message{ID: "p1", Msg: &proto.Done{Run: "j-1", Stage: 1, Step: 9}})
	r.step(Leave{ID: "p1", Reason: "its connection closed"}) // it is done, so it may
	r.phase(Draining)
	r.step(Message{ID: "p2", Msg: &proto.Done{Run: "j-1", Stage: 2, Step: 9}})
	r.phase(Idle)
	if e, ok := event[Done](r); !ok || e.Interrupted || e.Run != "j-1" {
		t.Errorf("done event %+v, %v", e, ok)
	}
	if f, ok := find[Finish](r); !ok || f.Err != nil {
		t.Errorf("finished with %v", f.Err)
	}
	if len(r.l.Members) != 2 {
		t.Errorf("%d providers stay, want 2", len(r.l.Members))
	}
}

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

func TestNames(t *testing.T) {
	tests := []struct {
		name  string
		fixed []string
		asks  []string // in order
		want  []string // the name, or the error's code
	}{
		{"given", nil, []string{"", "", ""}, []string{"node_0", "node_1", "node_2"}},
		{"given around asked", nil, []string{"node_1", "", ""}, []string{"node_1", "node_0", "node_2"}},
		{"taken", nil, []string{"a", "a"}, []string{"a", "!name_taken"}},
		{"fixed", []string{"x", "y"}, []string{"y", "", ""}, []string{"y", "x", "!full"}},
		{"asked for later", []string{"x", "y"}, []string{"", "x", "y"}, []string{"x", "x", "!name_taken"}},
		{"unknown", []string{"x", "y"}, []string{"z"}, []string{"!name_unknown"}},
		{"full", nil, []string{"", "", "", "", "", "", "", "", ""}, []string{"node_0", "node_1", "node_2", "node_3", "node_4", "node_5", "node_6", "node_7", "!full"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.step(Submit{Job: Job{ID: "j", Raw: json.RawMessage(`{}`), Names: tt.fixed, Want: 99}})
			for i, ask := range tt.asks {
				id := fmt.Sprintf("p%d", i)
				r.join(id, ask)
				switch m := r.sent[id][0].(type) {
				case *proto.Welcome:
					if m.Name != tt.want[i] {
						t.Errorf("asked for %q, was given %q, want %q", ask, m.Name, tt.want[i])
					}
				case *proto.Error:
					if "!"+string(m.Code) != tt.want[i] {
						t.Errorf("asked for %q, was told %v, want %q", ask, m, tt.want[i])
					}
					if m.Hint == "" {
						t.Errorf("%v does not say what to do", m)
					}
					if h, ok := find[HangUp](r); !ok || h.ID != id {
						t.Error("it was not hung up on")
					}
					if e, ok := event[Refused](r); !ok || e.Err == nil {
						t.Error("the requester was not told")
					}
				}
			}
		})
	}
}

// A provider that asks for one of the job's names gets it, even if another one, which
// asked for none, came first and was given it.
func TestNamesGoToThoseWhoAsk(t *testing.T) {
	spare := func(t *testing.T, came int) *rig {
		r := newRig(t, nil)
		j := *job("node_0", "node_1", "node_2")
		j.Spares, j.Replan = true, true
		r.step(Submit{Job: j})
		r.join("spare", "")
		for i := range came {
			r.join(fmt.Sprintf("p%d", i), fmt.Sprintf("node_%d", i))
		}
		return r
	}
	names := func(r *rig, want string) {
		t.Helper()
		var got []string
		for _, x := range r.l.sorted() {
			got = append(got, x.ID+"="+x.Name)
		}
		if s := strings.Join(got, " "); s != want {
			t.Fatalf("the names are %s, want %s", s, want)
		}
	}
	answer := func(r *rig) {
		t.Helper()
		a, ok := find[AskPlan](r)
		if !ok {
			t.Fatal("no plan was asked for")
		}
		r.step(Plan{Seq: a.Seq, Placed: inOrder(a.Pool[:3])})
	}

	t.Run("gathering", func(t *testing.T) {
		r := spare(t, 2)
		names(r, "p0=node_0 p1=node_1 spare=node_2")
		r.phase(Planning) // three have joined; then the owner of the third name comes
		old, _ := find[AskPlan](r)
		r.join("p2", "node_2")
		names(r, "p0=node_0 p1=node_1 p2=node_2 spare=node_3")
		if w, ok := r.sent["p2"][0].(*proto.Welcome); !ok || w.Name != "node_2" {
			t.Errorf("node_2 was told %#v", r.sent["p2"][0])
		}
		r.step(Plan{Seq: old.Seq, Placed: inOrder(old.Pool)})
		r.phase(Planning) // with the new names
		answer(r)
		r.phase(Connecting)
		if r.l.Members["spare"].Place != nil || r.l.Members["p2"].Place == nil {
			t.Error("the spare has the stage")
		}
	})
	t.Run("connecting", func(t *testing.T) {
		r := spare(t, 2)
		answer(r)
		r.phase(Connecting)
		r.join("p2", "node_2")
		names(r, "p0=node_0 p1=node_1 p2=node_2 spare=node_3")
		answer(r)
		r.phase(Connecting)
		if r.l.Members["spare"].Place != nil || r.l.Members["p2"].Place == nil {
			t.Error("the spare has kept the stage")
		}
		if r.l.Fruitless > 0 || len(r.l.Strikes) > 0 {
			t.Errorf("somebody is blamed: %d, %v", r.l.Fruitless, r.l.Strikes)
		}
	})
	t.Run("running", func(t *testing.T) {
		r := spare(t, 2)
		answer(r)
		for id, x := range r.l.Members {
			r.step(Message{ID: id, Msg: &proto.Ready{Run: r.l.Run, Peak: int64(x.Place.Stage)}})
		}
		r.phase(Running)
		r.join("p2", "node_2")
		if w, ok := r.sent["p2"][0].(*proto.Welcome); !ok || w.Name != "node_3" {
			t.Errorf("node_2, whose stage is being trained, was told %#v", r.sent["p2"][0])
		}
		r.phase(Running)
		r.join("late", "")
		names(r, "p0=node_0 p1=node_1 spare=node_2 p2=node_3 late=node_4")
	})
	t.Run("asked for", func(t *testing.T) {
		r := newRig(t, nil)
		r.step(Submit{Job: *job("node_0", "node_1", "node_2")})
		r.join("a", "node_0")
		r.join("b", "node_0")
		if e, ok := r.sent["b"][0].(*proto.Error); !ok || e.Code != proto.NameTaken {
			t.Errorf("the second node_0 was told %#v", r.sent["b"][0])
		}
	})
}

func TestNameIsFreeAfterDeath(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "node_0")
	r.now = r.now.Add(4 * time.Second)
	r.step(Tick{})
	r.join("p1", "node_0")
	if _, ok := r.last("p1").(*proto.Error); !ok {
		t.Fatal("a name was given twice")
	}
	r.now = r.now.Add(time.Second)
	r.step(Tick{})
	if h, ok := find[HangUp](r); !ok || h.ID != "p0" || !h.Abrupt {
		t.Errorf("the dead provider was not dropped: %+v", h)
	}
	r.join("p2", "node_0")
	if w, ok := r.last("p2").(*proto.Welcome); !ok || w.Name != "node_0" {
		t.Errorf("got %#v", r.last("p2"))
	}
}

func TestUnknownNamesLeaveWhenTheJobComes(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "stranger")
	r.join("p1", "node_0")
	r.step(Submit{Job: *job("node_0", "node_1", "node_2")})
	if e, ok := r.last("p0").(*proto.Error); !ok || e.Code != proto.NameUnknown {
		t.Errorf("the stranger was told %#v", r.last("p0"))
	}
	if _, ok := event[Joined](r); !ok || len(r.l.Members) != 1 {
		t.Error("the member that was there already was not reported as joined")
	}
}

func TestHeartbeat(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "")
	for range 20 { // 10 s in which the provider answers
		r.now = r.now.Add(500 * time.Millisecond)
		r.step(Tick{})
		r.pong("p0")
	}
	if len(r.l.Members) != 1 {
		t.Fatal("a provider that answers was dropped")
	}
	pings := 0
	for _, m := range r.sent["p0"] {
		if p, ok := m.(*proto.Ping); ok {
			if pings++; pings > 1 && p.RTT == 0 {
				t.Error("a later ping brings no RTT")
			}
		}
	}
	if pings < 7 || pings > 8 {
		t.Errorf("%d pings in 10 s, want one on joining and one every 1.5 s", pings)
	}
	quiet := r.now
	for len(r.l.Members) == 1 {
		r.now = r.now.Add(250 * time.Millisecond)
		r.step(Tick{})
		if r.now.Sub(quiet) > 5*time.Second {
			t.Fatal("a dead provider is still there after 5 s")
		}
	}
	if d := r.now.Sub(quiet); d < 4500*time.Millisecond {
		t.Errorf("dropped after %v", d)
	}
}

func TestSleepingHostBlamesNobody(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "")
	r.step(Tick{})
	r.now = r.now.Add(time.Hour)
	r.step(Tick{})
	if len(r.l.Members) != 1 {
		t.Fatal("the host slept and its provider was dropped")
	}
	r.now = r.now.Add(2 * time.Second)
	r.step(Tick{})
	r.now = r.now.Add(2 * time.Second)
	r.step(Tick{})
	r.now = r.now.Add(2 * time.Second)
	r.step(Tick{})
	if len(r.l.Members) != 0 {
		t.Error("a provider that stayed silent afterwards is still there")
	}
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

func TestLostWhileRunning(t *testing.T) {
	r := started(t, nil)
	r.step(Leave{ID: "p1", Reason: "its connection closed"})
	r.phase(Gathering)
	r.recovering("node_1", "stage 1", "its connection closed")
	for _, id := range []string{"p0", "p2"} {
		if s, ok := r.last(id).(*proto.Stop); !ok || s.Mode != proto.Now || s.Run != "j-1" {
			t.Errorf("%s was told %#v", id, r.last(id))
		}
	}
	if len(r.l.Members) != 2 {
		t.Error("the others are gone too")
	}
	// A stored plan needs the name again; a newcomer is given it.
	r.silence(3*time.Second, "p0", "p2")
	r.phase(Gathering)
	if w, ok := event[Waiting](r); !ok || !strings.Contains(w.Reason, "node_1") {
		t.Errorf("the requester was told %+v", w)
	}
	r.join("p7", "")
	r.phase(Planning)
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	a, ok := r.last("p7").(*proto.Assign)
	if !ok || a.Run != "j-2" || a.Generation != 2 || a.Name != "node_1" || a.Resume != nil {
		t.Errorf("the new one was told %+v", r.last("p7"))
	}
}

func TestReplansWithoutTheLost(t *testing.T) {
	r := newRig(t, nil)
	j := *job("node_0", "node_1", "node_2")
	j.Replan, j.Spares = true, true
	r.step(Submit{Job: j})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	r.start("j-1", "p0", "p1", "p2")
	r.join("p3", "") // a spare
	if r.l.Members["p3"].Name != "node_3" {
		t.Fatalf("the spare is called %s", r.l.Members["p3"].Name)
	}
	r.step(Leave{ID: "p1", Reason: "gone"})
	r.phase(Planning) // the spare takes its place at once
	p, _ := find[AskPlan](r)
	if !p.Free || len(p.Pool) != 3 {
		t.Errorf("asked for a plan over %+v", p)
	}
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	for _, id := range []string{"p0", "p2", "p3"} {
		r.step(Message{ID: id, Msg: &proto.Ready{Run: "j-2"}})
	}
	r.phase(Running)
	r.step(Leave{ID: "p3", Reason: "gone"}) // now they are too few
	r.silence(14*time.Second, "p0", "p2")
	r.phase(Gathering)
	r.silence(2*time.Second, "p0", "p2")
	r.phase(Planning)
	if p, _ := find[AskPlan](r); !p.Free || len(p.Pool) != 2 {
		t.Errorf("asked for a plan over %+v", p)
	}
}

// TestOnlyTheLostIsBlamed: a stage that loses a frozen neighbour fails and closes its links. Its
// other neighbour then reports it as lost, which is no fault of its own.
func TestOnlyTheLostIsBlamed(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "lost node_2", Kind: proto.FailedPeer, Peer: "p2"}})
	r.step(Message{ID: "p0", Msg: &proto.Failed{Run: "j-1", Stage: 0, Error: "lost node_1", Kind: proto.FailedPeer, Peer: "p1"}})
	r.phase(Running) // until node_2 has had its time to answer
	r.silence(2*time.Second, "p0", "p1")
	r.phase(Gathering)
	for name, want := range map[string]int{"node_0": 0, "node_1": 0, "node_2": 1} {
		if s := r.l.Strikes[name]; s != nil && s.Count != want || s == nil && want > 0 {
			t.Errorf("%s has %+v, want %d strikes", name, s, want)
		}
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

func TestSilentWhileRunning(t *testing.T) {
	r := started(t, nil)
	r.silence(6*time.Second, "p0", "p2")
	r.recovering("node_1", "no heartbeat")
}

func TestFailedProvider(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p2", Msg: &proto.Failed{Run: "j-1", Stage: 2, Error: "the disk is on fire"}})
	r.recovering("node_2", "on fire")
	if _, ok := r.last("p2").(*proto.Stop); ok {
		t.Error("the one that failed was told to stop")
	}
	if _, ok := r.last("p0").(*proto.Stop); !ok {
		t.Error("another one was not told to stop")
	}
}

func TestPeerIsBlamed(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p2", Msg: &proto.Failed{Run: "j-1", Stage: 2, Error: "lost node_1", Kind: proto.FailedPeer, Peer: "p1"}})
	r.phase(Running) // until the peer has been heard from
	if r.l.Members["p1"].Met {
		t.Error("the provider that was blamed need not show that it is alive")
	}
	r.pong("p1")
	r.phase(Gathering)
	if r.l.Strikes["node_1"] == nil || r.l.Strikes["node_1"].Count != 1 || r.l.Strikes["node_2"].Count != 0 {
		t.Errorf("to blame are %+v", r.l.Strikes)
	}
	// A provider that blames everybody is itself to blame.
	r.l.Strikes = map[string]*strike{}
	for i, peer := range []string{"node_0", "node_1"} {
		if got, want := r.l.accused("node_2", peer), []string{"node_0", "node_2"}[i]; got != want {
			t.Errorf("node_2 accuses %s: %s is blamed, want %s", peer, got, want)
		}
	}
}

// TestCauseBeforeItsEffects checks that a stage's own account of a failure counts more than
// its neighbours' reports, even if those arrive first.
func TestCauseBeforeItsEffects(t *testing.T) {
	lost := &proto.Failed{Run: "j-1", Stage: 0, Error: "lost node_1", Kind: proto.FailedPeer, Peer: "p1"}
	t.Run("diverged", func(t *testing.T) {
		r := started(t, nil)
		r.step(Message{ID: "p0", Msg: lost})
		r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "the loss is NaN", Kind: proto.FailedDiverged}})
		if f, ok := find[Finish](r); !ok || !errors.Is(f.Err, ErrDiverged) {
			t.Errorf("got %+v", f)
		}
		if e, ok := event[Recovering](r); ok {
			t.Errorf("the run should have gone on: %+v", e)
		}
	})
	t.Run("memory", func(t *testing.T) {
		r := started(t, nil)
		r.step(Message{ID: "p0", Msg: lost})
		r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "no memory", Kind: proto.FailedMemory}})
		if e, ok := event[Recovering](r); !ok || !strings.Contains(e.Reason, "no memory") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("gone", func(t *testing.T) {
		r := started(t, nil)
		r.step(Message{ID: "p0", Msg: lost})
		r.step(Leave{ID: "p1", Reason: "its connection closed"})
		if e, ok := event[Recovering](r); !ok || !strings.Contains(e.Reason, "its connection closed") || r.l.Strikes["node_1"].Count != 1 {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("silent", func(t *testing.T) {
		r := started(t, nil)
		r.step(Message{ID: "p0", Msg: lost})
		r.now = r.now.Add(time.Second)
		r.step(Tick{})
		r.phase(Running)
		r.now = r.now.Add(time.Second)
		r.step(Tick{})
		r.phase(Gathering)
		if e, ok := event[Recovering](r); !ok || !strings.Contains(e.Reason, "lost node_1") || r.l.Strikes["node_1"].Count != 1 {
			t.Errorf("got %+v", e)
		}
	})
}

func TestDivergedEndsTheRun(t *testing.T) {
	for name, msg := range map[string]proto.Message{
		"by a stage": &proto.Failed{Run: "j-1", Stage: 2, Error: "the gradient from stage 1 is NaN", Kind: proto.FailedDiverged},
		"by a loss":  &proto.Progress{Run: "j-1", Stage: 2, Losses: []proto.Loss{{Step: 13, Loss: proto.Real(math.NaN())}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := started(t, nil)
			r.saveAt(10, 0, 1, 2)
			r.commit(nil)
			r.step(Message{ID: "p2", Msg: msg})
			f, ok := find[Finish](r)
			if !ok || !errors.Is(f.Err, ErrDiverged) || !strings.Contains(f.Err.Error(), "stage 2") || !strings.Contains(f.Err.Error(), "step 10") || f.Result.Checkpoint == nil {
				t.Errorf("got %+v", f)
			}
		})
	}
}

// Losses and validation results must come from the leaf and be possible for the job.
func TestWhoseLosses(t *testing.T) {
	for name, e := range map[string]Message{
		"a loss of the root":         {"p0", &proto.Progress{Run: "j-1", Stage: 0, Losses: []proto.Loss{{Step: 1, Loss: -1e300}}}},
		"a validation of the stem":   {"p1", &proto.Progress{Run: "j-1", Stage: 1, Vals: []proto.Val{{Step: 1, Correct: 1, Total: 1}}}},
		"a step beyond the run":      {"p2", &proto.Progress{Run: "j-1", Stage: 2, Losses: []proto.Loss{{Step: 100}}}},
		"more rows than the job has": {"p2", &proto.Progress{Run: "j-1", Stage: 2, Vals: []proto.Val{{Correct: 1, Total: 51}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			j := *job("node_0", "node_1", "node_2")
			j.Steps, j.Val = 100, 50
			r.step(Submit{Job: j})
			for i := range 3 {
				r.join(fmt.Sprintf("p%d", i), "")
			}
			r.start("j-1", "p0", "p1", "p2")
			r.step(e)
			if _, ok := event[Loss](r); ok {
				t.Error("it was believed")
			}
			if _, ok := event[Val](r); ok {
				t.Error("it was believed")
			}
			r.recovering("protocol")
		})
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

func TestStuckStageIsFound(t *testing.T) {
	// Checkpoints are due all the time: that must not disturb the end of the attempt.
	r := started(t, func(s *Settings) { s.Checkpoint = time.Second })
	at := func(id string, stage int, step, in, out int64) {
		r.step(Message{ID: id, Msg: &proto.Progress{Run: "j-1", Stage: stage, Step: step, In: in, Out: out}})
	}
	for i := range int64(20) { // a second for each step
		r.silence(time.Second, "p0", "p1", "p2")
		at("p0", 0, i, 10*i, 10*i)
		at("p1", 1, i, 20*i, 20*i)
		at("p2", 2, i, 10*i, 10*i)
	}
	r.silence(time.Second, "p0", "p1", "p2")
	at("p0", 0, 19, 190, 200)
	at("p1", 1, 19, 390, 380) // it got the work and passes nothing on
	for range 29 {
		r.silence(time.Second, "p0", "p1", "p2")
		at("p0", 0, 19, 190, 200)
		at("p1", 1, 19, 390, 380)
		at("p2", 2, 19, 190, 190)
	}
	r.phase(Running)
	r.silence(2*time.Second, "p0", "p1", "p2")
	r.recovering("node_1", "stuck")
}

// A cluster that waits at a round's end is not stuck, however long the other one takes. When
// that one stands still, its stage is.
func TestWaitingClusterIsNotStuck(t *testing.T) {
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
	at := func(id string, stage int, step, in, out int64) {
		r.step(Message{ID: id, Msg: &proto.Progress{Run: "j-1", Stage: stage, Step: step, In: in, Out: out}})
	}
	step, moved := int64(0), int64(0)
	for i := range int64(200) { // the fast cluster has been at the end of its round from the first second on
		r.silence(time.Second, "p0", "p1", "p2")
		if i%25 == 24 { // the slow one takes 25 s for a step
			step, moved = step+1, moved+10
		}
		at("p0", 0, 16, 0, 0)
		at("p1", 0, step, moved, moved)
		at("p2", 1, step, moved, moved)
	}
	// The slow one is there too: now nobody is ahead, and who has waited so long is not stuck.
	step, moved = 16, moved+10
	at("p1", 0, step, moved, moved)
	at("p2", 1, step, moved, moved)
	r.silence(2*time.Second, "p0", "p1", "p2")
	r.phase(Running)
	at("p0", 0, 32, 0, 0)
	r.silence(time.Second, "p0", "p1", "p2")
	at("p1", 0, step+1, moved, moved+10)
	at("p2", 1, step, moved+10, moved)
	for range 205 {
		r.silence(time.Second, "p0", "p1", "p2")
		at("p0", 0, 32, 0, 0)
		at("p1", 0, step+1, moved, moved+10)
		at("p2", 1, step, moved+10, moved)
	}
	r.recovering("node_2", "stuck")
}

// Two clusters report losses: they are told in the order of batches, each once, and what a
// leaf cannot know is refused.
func TestLossesOfClusters(t *testing.T) {
	begin := func() *rig {
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
		return r
	}
	says := func(r *rig, id string, stage int, steps ...int64) {
		m := &proto.Progress{Run: "j-1", Stage: stage}
		for _, s := range steps {
			m.Losses = append(m.Losses, proto.Loss{Step: s, Loss: 1})
		}
		r.step(Message{ID: id, Msg: m})
	}
	r := begin()
	says(r, "p2", 1, 1, 3, 5)
	says(r, "p0", 0, 0, 2)
	says(r, "p2", 1, 1, 5) // again
	says(r, "p0", 0, 4)
	var told []int64
	for _, e := range r.evs {
		if l, ok := e.(Loss); ok {
			if told = append(told, l.Step); l.Cluster != int(l.Step%2) {
				t.Errorf("the loss of step %d is of cluster %d", l.Step, l.Cluster)
			}
		}
	}
	if !slices.Equal(told, []int64{0, 1, 2, 3, 4, 5}) {
		t.Errorf("told %v", told)
	}
	says(r, "p1", 0, 7)
	r.recovering("computes none", "node_1")

	r = begin()
	r.step(Message{ID: "p2", Msg: &proto.Progress{Run: "j-1", Stage: 1, Vals: []proto.Val{{Step: 2, Correct: 1, Total: 2}}}})
	r.recovering("cluster 1 does not do", "node_2")

	r = begin()
	for at := int64(1); at < 3<<18 && r.l.Phase == Running; at += proto.MaxLosses {
		steps := make([]int64, proto.MaxLosses)
		for i := range steps {
			steps[i] = at + int64(i)
		}
		says(r, "p2", 1, steps...)
	}
	r.recovering("before the other clusters", "node_2")
}

func TestSilentStageIsFound(t *testing.T) {
	r := started(t, nil)
	for i := range int64(40) {
		r.silence(time.Second, "p0", "p1", "p2")
		if r.l.Phase != Running {
			break
		}
		for k := range 3 {
			if k != 1 {
				r.step(Message{ID: fmt.Sprintf("p%d", k), Msg: &proto.Progress{Run: "j-1", Stage: k, Step: min(i, 3)}})
			}
		}
	}
	r.recovering("node_1", "stuck")
}

func TestLeavingSavesFirst(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p1", Msg: &proto.Leaving{Reason: "lunch"}})
	if _, ok := r.last("p0").(*proto.Checkpoint); !ok {
		t.Fatalf("the root was told %#v", r.last("p0"))
	}
	r.saveAt(17, 0, 1, 2)
	r.commit(nil)
	if _, ok := r.last("p1").(*proto.Bye); !ok {
		t.Errorf("it was told %#v", r.last("p1"))
	}
	if e := r.recovering("node_1", "lunch"); e.Step != 17 {
		t.Errorf("it goes on from step %d", e.Step)
	}
	if s := r.l.Strikes["node_1"]; s != nil && s.Count > 0 {
		t.Error("it is blamed for it")
	}
	r.join("p5", "node_1")
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	a, ok := r.last("p5").(*proto.Assign)
	if !ok || a.Resume == nil || len(a.Resume.Parts) != 1 || a.Resume.Parts[0].Start != 1 {
		t.Fatalf("the new one was told %#v", r.last("p5"))
	}
}

func TestLeavingIsNotHeldForEver(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p1", Msg: &proto.Leaving{}})
	r.silence(15*time.Second, "p0", "p1", "p2")
	if _, ok := r.last("p1").(*proto.Bye); !ok {
		t.Errorf("it was told %#v", r.last("p1"))
	}
	r = newRig(t, nil)
	r.join("p0", "")
	r.step(Message{ID: "p0", Msg: &proto.Leaving{}})
	if _, ok := r.last("p0").(*proto.Bye); !ok {
		t.Errorf("one without a stage was told %#v", r.last("p0"))
	}
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

func TestCheckpointsAreAskedForByTime(t *testing.T) {
	r := started(t, func(s *Settings) { s.Checkpoint, s.Stall = 10*time.Second, time.Hour })
	asked := func() (n int) {
		for _, m := range r.sent["p0"] {
			if _, ok := m.(*proto.Checkpoint); ok {
				n++
			}
		}
		return n
	}
	r.silence(9*time.Second, "p0", "p1", "p2")
	if asked() != 0 {
		t.Error("too early")
	}
	r.silence(12*time.Second, "p0", "p1", "p2")
	if asked() != 1 {
		t.Errorf("asked %d times before the first was brought", asked())
	}
	// The upload took two seconds, so the next one is due after forty.
	r.slow = 2 * time.Second
	r.saveAt(5, 0, 1, 2)
	r.commit(nil)
	r.slow = 0
	r.silence(38*time.Second, "p0", "p1", "p2")
	if asked() != 1 {
		t.Error("uploads take more than a twentieth of the time")
	}
	r.silence(4*time.Second, "p0", "p1", "p2")
	if asked() != 2 {
		t.Errorf("asked %d times", asked())
	}
	for _, id := range []string{"p1", "p2"} {
		if _, ok := r.last(id).(*proto.Checkpoint); ok {
			t.Errorf("%s is no root and was asked", id)
		}
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

func TestGracefulStop(t *testing.T) {
	r := started(t, nil)
	r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
	r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
	r.phase(Draining)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		n := 0
		for _, m := range r.sent[id] {
			if s, ok := m.(*proto.Stop); ok && s.Mode == proto.Graceful {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s was told to stop %d times", id, n)
		}
	}
	r.saveAt(4, 0, 1, 2)
	r.commit(nil)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		r.step(Message{ID: id, Msg: &proto.Done{Run: "j-1", Stage: i, Step: 4}})
	}
	e, ok := event[Done](r)
	if !ok || !e.Interrupted {
		t.Errorf("got %+v, %v", e, ok)
	}
}

// TestStopBehindARound checks that replicas stop between two rounds. A stage that makes
// progress towards the end of its round is given the time; one that goes beyond it or
// makes no progress is not.
func TestStopBehindARound(t *testing.T) {
	for name, last := range map[string]int64{"moves": 8, "stands still": 2, "goes on for ever": 60} {
		r := started(t, func(s *Settings) { s.StopTimeout = 2 * time.Second })
		r.l.Job.Span = 8
		moved := func(step int64) {
			for i := range 3 {
				r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Progress{Run: "j-1", Stage: i, Step: step, Samples: step}})
				r.pong(fmt.Sprintf("p%d", i))
			}
		}
		moved(1)
		r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
		for step := int64(2); step <= 40 && r.l.Phase == Draining; step++ {
			r.now = r.now.Add(time.Second)
			if step <= last {
				moved(step)
			}
			for i := range 3 {
				r.pong(fmt.Sprintf("p%d", i))
			}
			r.step(Tick{})
			if w, _ := event[Waiting](r); step == 2 && !strings.Contains(w.Reason, "6 batches to go") {
				t.Errorf("at step 2 of a round of 8 it says %q", w.Reason)
			}
			if name == "moves" && step == 8 {
				break
			}
		}
		if still := r.l.Phase == Draining; still != (name == "moves") {
			t.Errorf("a stage that %s: still waited for: %v", name, still)
		}
	}
}

func TestStopNow(t *testing.T) {
	for _, from := range []Phase{Gathering, Planning, Connecting, Running, Draining} {
		t.Run(string(from), func(t *testing.T) {
			r := newRig(t, nil)
			r.step(Submit{Job: *job()})
			if from != Gathering {
				for i := range 3 {
					r.join(fmt.Sprintf("p%d", i), "")
				}
			}
			p, _ := find[AskPlan](r)
			if from != Gathering && from != Planning {
				r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
			}
			if from == Running || from == Draining {
				for i := range 3 {
					r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Ready{Run: "j-1"}})
				}
			}
			if from == Draining {
				r.step(StopRequest{Mode: proto.Graceful})
			}
			r.phase(from)
			r.step(StopRequest{Mode: proto.Now, Reason: "enough"})
			r.phase(Idle)
			f, ok := find[Finish](r)
			if !ok || !errors.Is(f.Err, ErrStopped) || !strings.Contains(f.Err.Error(), "enough") {
				t.Errorf("got %v", f.Err)
			}
			if from != Gathering && from != Planning {
				if s, ok := r.last("p1").(*proto.Stop); !ok || s.Mode != proto.Now {
					t.Errorf("p1 was told %#v", r.last("p1"))
				}
			}
			// The next job finds the machine ready.
			r.step(Submit{Job: *job()})
			if from != Gathering {
				r.phase(Planning)
			}
		})
	}
}

func TestNotDoneInTime(t *testing.T) {
	r := started(t, func(s *Settings) { s.DrainTimeout = 2 * time.Second })
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0}})
	r.now = r.now.Add(2 * time.Second)
	r.step(Tick{})
	if e := r.recovering("not finished", "node_1"); strings.Contains(e.Reason, "node_0") {
		t.Errorf("%q blames one that is done", e.Reason)
	}
}

func TestOnceSaysBye(t *testing.T) {
	r := started(t, func(s *Settings) { s.Once = true })
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i}})
	}
	for i := range 3 {
		if _, ok := r.last(fmt.Sprintf("p%d", i)).(*proto.Bye); !ok {
			t.Errorf("p%d was told %#v", i, r.last(fmt.Sprintf("p%d", i)))
		}
	}
	if len(r.l.Members) != 0 {
		t.Error("providers stay")
	}
}

func TestRelay(t *testing.T) {
	r := newRig(t, nil)
	r.step(Submit{Job: *job()})
	for i := range 4 { // the last one too late for the plan
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	body := json.RawMessage(`{"sdp":"x"}`)
	r.step(Message{ID: "p0", Msg: &proto.Signal{Run: "j-1", To: "p2", From: "p1", Body: body}})
	if s, ok := r.last("p2").(*proto.Signal); !ok || s.From != "p0" || s.To != "" || string(s.Body) != string(body) {
		t.Errorf("p2 got %#v", r.last("p2"))
	}
	for name, e := range map[string]Message{
		"to one outside the run":   {"p0", &proto.Signal{Run: "j-1", To: "p3", Body: body}},
		"from one outside the run": {"p3", &proto.Signal{Run: "j-1", To: "p1", Body: body}},
		"of another run":           {"p0", &proto.Signal{Run: "j-9", To: "p1", Body: body}},
		"to itself":                {"p0", &proto.Signal{Run: "j-1", To: "p0", Body: body}},
		"to nobody":                {"p0", &proto.Signal{Run: "j-1", To: "p77", Body: body}},
	} {
		if acts := r.step(e); len(acts) != 0 {
			t.Errorf("a signal %s had the effect %#v", name, acts)
		}
	}
}

func TestViolations(t *testing.T) {
	for name, msg := range map[string]proto.Message{
		"a host's message": &proto.Start{Run: "j-1"},
		"a second hello":   &proto.Hello{Class: proto.ClassFMA},
		"another's stage":  &proto.Progress{Run: "j-1", Stage: 0},
		"saved of nothing": &proto.Saved{Run: "j-1", Stage: 1, Blob: proto.Ref{SHA256: sumA, Size: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := started(t, nil)
			r.step(Message{ID: "p1", Msg: msg})
			if e, ok := r.last("p1").(*proto.Error); !ok || e.Code != proto.Protocol {
				t.Errorf("it was told %#v", r.last("p1"))
			}
			r.recovering("node_1", "protocol")
		})
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

func TestCheckpoints(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1)
	if _, ok := find[PutManifest](r); ok {
		t.Fatal("committed without stage 2")
	}
	r.saveAt(20, 0) // stage 0 is ahead
	r.saveAt(10, 2)
	c, ok := find[PutManifest](r)
	if !ok || c.Object != "j/manifest.json" {
		t.Fatalf("committed %+v", c)
	}
	back, err := snapshot.ParseManifest(c.Data)
	if err != nil || back.Position.Step != 10 || back.Generation != 1 || len(back.Parts) != 3 || back.Check(3) != nil {
		t.Errorf("its record: %v, %+v", err, back)
	}
	if _, ok := find[Discard](r); ok {
		t.Error("something was discarded before the record was stored")
	}
	r.commit(nil)
	if e, ok := event[Checkpointed](r); !ok || e.Manifest.Position.Step != 10 {
		t.Errorf("event %+v", e)
	}
	r.saveAt(20, 1, 2)
	r.commit(nil)
	d, ok := find[Discard](r)
	if !ok || len(d.Objects) != 3 || !strings.HasPrefix(d.Objects[0], "j-1/cluster_0/stage_0/") {
		t.Errorf("discarded %v, want the three objects of step 10", d.Objects)
	}
	// A provider is lost, and the run goes on from there.
	r.step(Leave{ID: "p0", Reason: "gone"})
	if e := r.recovering("node_0", "gone"); e.Step != 20 {
		t.Errorf("it goes on from step %d", e.Step)
	}
}

func TestDoneWaitsForTheCommit(t *testing.T) {
	r := started(t, nil)
	r.saveAt(30, 0, 1, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 30}})
	}
	r.phase(Draining)
	r.commit(nil)
	r.phase(Idle)
	e, ok := event[Done](r)
	if !ok || e.Checkpoint == nil || e.Checkpoint.Position.Step != 30 {
		t.Errorf("got %+v", e)
	}
}

// Stages of different steps never make a checkpoint, whatever they report.
func TestUnevenSavesAreNoResult(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1, 2)
	r.commit(nil)
	r.saveAt(255, 0)
	r.saveAt(51, 1)
	r.saveAt(255, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 255}})
	}
	f, ok := find[Finish](r)
	if !ok || !errors.Is(f.Err, ErrStore) || f.Result.Checkpoint.Position.Step != 10 {
		t.Errorf("got %+v", f)
	}
}

// The position in the state itself counts, not the one in the message.
func TestPositionsMustAgree(t *testing.T) {
	r := started(t, nil)
	object, perr := r.grant("p0", "j-1", 0, sumA)
	if perr != nil {
		t.Fatal(perr)
	}
	ref := proto.Ref{SHA256: sumA, Size: 1}
	r.step(Upload{ID: "p0", Run: "j-1", Object: object, Blob: ref, Position: &position{Step: 7}})
	r.step(Message{ID: "p0", Msg: &proto.Saved{Run: "j-1", Blob: ref, Position: json.RawMessage(`{"epoch":0,"batch":0,"step":8,"seq":0}`)}})
	r.recovering("step 8", "says step 7")
}

func TestFullDiskAtTheEnd(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1, 2)
	r.commit(nil)
	r.saveAt(20, 0, 1, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 20}})
	}
	r.phase(Draining)
	full := errors.New("no space left on device")
	r.commit(full)
	if e, ok := event[Warning](r); !ok || !errors.Is(e.Err, full) {
		t.Errorf("warning %v", e.Err)
	}
	if d, ok := find[Discard](r); ok {
		t.Errorf("discarded %s", d.Objects)
	}
	r.phase(Draining)
	r.now = r.now.Add(nameEvery)
	r.step(Tick{})
	r.commit(nil)
	if d, ok := event[Done](r); !ok || d.Checkpoint.Position.Step != 20 {
		t.Errorf("got %+v", d)
	}
}

func TestUploadGrants(t *testing.T) {
	r := started(t, nil)
	tests := []struct {
		name, id, run string
		stage         int
		code          proto.Code
	}{
		{"no session", "nobody", "j-1", 1, proto.Forbidden},
		{"another's stage", "p0", "j-1", 1, proto.Forbidden},
		{"another run", "p0", "j-7", 0, proto.Stopped},
	}
	for _, tt := range tests {
		if _, err := r.grant(tt.id, tt.run, tt.stage, sumA); err == nil || err.Code != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	if _, err := r.grant("p0", "j-1", 0, sumA); err != nil {
		t.Error(err)
	}
	if _, err := r.grant("p0", "j-1", 0, sumA); err == nil {
		t.Error("two uploads at a time")
	}
	r.step(UploadEnd{ID: "p0"})
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0}})
	if _, err := r.grant("p0", "j-1", 0, sumA); err == nil || err.Code != proto.Stopped {
		t.Errorf("after done: %v", err)
	}
}

func TestUploadsThatNobodyNamesDoNotPileUp(t *testing.T) {
	r := started(t, nil)
	for i := range 100 {
		object, err := r.grant("p0", "j-1", 0, fmt.Sprintf("%064x", i))
		if err != nil {
			t.Fatal(err)
		}
		r.step(Upload{ID: "p0", Run: "j-1", Object: object, Blob: proto.Ref{SHA256: fmt.Sprintf("%064x", i), Size: 1}})
		r.step(UploadEnd{ID: "p0"})
	}
	if n := len(r.l.Objects); n > maxUploads {
		t.Errorf("%d objects are kept", n)
	}
	for i := range 100 { // and steps that the others never save
		r.saveAt(int64(1000+i), 1)
	}
	if n := len(r.l.Objects); n > maxSaves+maxUploads {
		t.Errorf("%d objects are kept", n)
	}
}

func TestShutdown(t *testing.T) {
	r := started(t, nil)
	r.step(Shutdown{Reason: "the host is shutting down"})
	r.phase(Idle)
	if f, ok := find[Finish](r); !ok || !errors.Is(f.Err, ErrStopped) {
		t.Errorf("got %v", f.Err)
	}
	if _, ok := r.last("p0").(*proto.Bye); !ok {
		t.Errorf("p0 was told %#v", r.last("p0"))
	}
	r.join("p9", "")
	if e, ok := r.last("p9").(*proto.Error); !ok || e.Code != proto.Stopped {
		t.Errorf("a latecomer was told %#v", r.last("p9"))
	}
}

func TestStatus(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p2", Msg: &proto.Progress{Run: "j-1", Stage: 2, Step: 7, Samples: 448, Losses: []proto.Loss{{Step: 7, Loss: 0.25}}}})
	r.now = r.now.Add(time.Second)
	s := r.l.Status(r.now)
	if s.Phase != "running" || s.Run != "j-1" || len(s.Members) != 3 || s.RunningMS < 1000 || s.Loss == nil || s.Loss.Loss != 0.25 {
		t.Errorf("got %+v", s)
	}
	if m := s.Members[2]; m.State != "training" || m.Stage != 2 || m.Samples != 448 {
		t.Errorf("got %+v", m)
	}
	b, err := json.Marshal(s)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("%v: %s", err, b)
	}
}

// walk lets random things happen to a machine.
type walk struct {
	r    *rig
	rng  *rand.Rand
	ids  []string // of all members that ever joined, and one that never did
	next int
}

func (w *walk) step() {
	w.r.now = w.r.now.Add(time.Duration(w.rng.IntN(150)) * time.Millisecond)
	id := w.ids[w.rng.IntN(len(w.ids))]
	if live := w.r.l.sorted(); len(live) > 0 && w.rng.IntN(5) > 0 {
		id = live[w.rng.IntN(len(live))].ID
	}
	run, stage := w.r.l.Run, w.rng.IntN(3)
	if m := w.r.l.Members[id]; m != nil && m.Place != nil && w.rng.IntN(8) > 0 {
		stage = m.Place.Stage
	}
	if run == "" {
		run = "j-1"
	}
	switch w.rng.IntN(16) {
	case 0, 1:
		id = fmt.Sprintf("p%d", w.next)
		w.next++
		w.ids = append(w.ids, id)
		w.r.join(id, "")
	case 2:
		if w.rng.IntN(4) == 0 {
			w.r.step(Leave{ID: id, Reason: "x"})
		}
	case 3:
		if w.r.l.Job == nil {
			w.r.step(Submit{Job: Job{ID: "j", Raw: json.RawMessage(`{}`), Replan: true, Want: 1 + w.rng.IntN(3)}})
		}
	case 4:
		if p, ok := find[AskPlan](w.r); ok {
			w.r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
		}
	case 5, 6, 7, 8:
		w.r.step(Message{ID: id, Msg: &proto.Ready{Run: run}})
	case 9:
		w.r.step(Message{ID: id, Msg: &proto.Progress{Run: run, Stage: stage, Losses: make([]proto.Loss, w.rng.IntN(40)/39)}})
	case 10:
		if o, err := w.r.grant(id, run, stage, sumA); err == nil {
			w.r.step(Upload{ID: id, Run: run, Stage: stage, Object: o, Blob: proto.Ref{SHA256: sumA, Size: 1}})
			w.r.step(UploadEnd{ID: id})
			w.r.step(Message{ID: id, Msg: &proto.Saved{Run: run, Stage: stage, Step: 1, Blob: proto.Ref{SHA256: sumA, Size: 1}}})
		}
	case 11:
		if len(w.r.l.Pending) > 0 {
			w.r.step(Commit{Run: w.r.l.Job.ID})
		}
	case 12:
		w.r.step(Message{ID: id, Msg: &proto.Done{Run: run, Stage: stage}})
	case 13:
		if w.rng.IntN(6) == 0 {
			w.r.step(StopRequest{Mode: []proto.Mode{proto.Graceful, proto.Now}[w.rng.IntN(2)]})
		}
	case 14:
		w.r.step(Message{ID: id, Msg: &proto.Signal{Run: run, To: w.ids[w.rng.IntN(len(w.ids))], Body: json.RawMessage(`1`)}})
	case 15:
		w.r.step(Tick{})
		for _, x := range w.ids {
			w.r.pong(x)
		}
	}
}

// Whatever strangers send and whenever they leave, the machine must neither panic nor
// keep a run that cannot end, and the same events must lead to the same actions.
func TestRandomEvents(t *testing.T) {
	play := func(seed uint64) (trace string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t, func(s *Settings) { s.MaxMembers, s.ReadyTimeout, s.DrainTimeout = 6, 20*time.Second, 20*time.Second })
		w := walk{r: r, rng: rng, ids: []string{"nobody"}}
		for range 600 {
			w.step()
			if r.l.Phase == Idle != (r.l.Job == nil) {
				t.Fatalf("seed %d: phase %s, job %v", seed, r.l.Phase, r.l.Job)
			}
		}
		// Everybody falls silent: any run beyond gathering must end by itself.
		for range 200 {
			r.now = r.now.Add(time.Second)
			r.step(Tick{})
		}
		if r.l.Phase != Idle && r.l.Phase != Gathering || len(r.l.Members) != 0 {
			t.Fatalf("seed %d: stuck in %s with %d members", seed, r.l.Phase, len(r.l.Members))
		}
		begun, ended := 0, 0
		for _, a := range r.acts {
			if _, ok := a.(Finish); ok {
				ended++
			}
		}
		for _, e := range r.evs {
			switch e.(type) {
			case Done, Failed:
				begun++
			}
		}
		if begun != ended {
			t.Fatalf("seed %d: %d final events, %d ends", seed, begun, ended)
		}
		for _, e := range r.evs {
			b, err := json.Marshal(e)
			trace += fmt.Sprintf("%T %s %v\n", e, b, err)
		}
		return trace
	}
	finished := 0
	for seed := range uint64(40) {
		a := play(seed)
		if b := play(seed); a != b {
			t.Fatalf("seed %d: the same events led elsewhere:\n%s\n%s", seed, a, b)
		}
		if strings.Contains(a, "run.Checkpointed ") {
			finished++
		}
	}
	if finished == 0 {
		t.Error("no random run ever saved anything: the test proves nothing about it")
	}
}
