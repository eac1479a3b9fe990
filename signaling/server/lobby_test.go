package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

var t0 = time.Unix(1_700_000_000, 0)

const sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// rig drives a lobby by hand: it keeps the clock, what every member was sent
// and all other actions.
type rig struct {
	t    *testing.T
	l    *lobby
	now  time.Time
	sent map[string][]proto.Message
	acts []any
	evs  []Event
}

func newRig(t *testing.T, change func(*settings)) *rig {
	set := settings{
		heartbeat: 1500 * time.Millisecond, timeout: 4500 * time.Millisecond,
		readyTimeout: time.Minute, drainTimeout: time.Minute, maxMembers: 8,
	}
	if change != nil {
		change(&set)
	}
	return &rig{t: t, l: newLobby(set), now: t0, sent: map[string][]proto.Message{}}
}

func (r *rig) step(ev any) []any {
	r.t.Helper()
	acts := r.l.step(r.now, ev)
	for _, a := range acts {
		switch a := a.(type) {
		case sendTo:
			if _, err := proto.Encode(a.msg); err != nil {
				r.t.Errorf("the lobby says what cannot be said: %v", err)
			}
			r.sent[a.id] = append(r.sent[a.id], a.msg)
		case emit:
			r.evs = append(r.evs, a.ev)
		default:
			r.acts = append(r.acts, a)
		}
	}
	return acts
}

// join lets p0, p1 ... in and answers their first ping.
func (r *rig) join(id, name string) {
	r.t.Helper()
	r.step(joined{id: id, secret: "secret-" + id, addr: "127.0.0.1:1", hello: proto.Hello{Name: name, Class: proto.ClassFMA}})
	r.now = r.now.Add(2 * time.Millisecond)
	r.pong(id)
}

func (r *rig) pong(id string) {
	if m := r.l.members[id]; m != nil {
		r.step(received{id: id, msg: &proto.Pong{Seq: m.seq}})
	}
}

// last returns the last message to id that is no ping.
func (r *rig) last(id string) proto.Message {
	for i := len(r.sent[id]) - 1; i >= 0; i-- {
		if _, ok := r.sent[id][i].(*proto.Ping); !ok {
			return r.sent[id][i]
		}
	}
	return nil
}

func (r *rig) phase(want phase) {
	r.t.Helper()
	if r.l.phase != want {
		r.t.Fatalf("the phase is %s, want %s", r.l.phase, want)
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

func event[T Event](r *rig) (T, bool) {
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
		as = append(as, Assignment{MemberID: m.ID, Stage: i, Stages: len(pool), Graph: proto.Ref{SHA256: sumA, Size: 1}})
	}
	return as
}

func job(names ...string) *Job {
	return &Job{ID: "j", Raw: json.RawMessage(`{}`), Names: names, Want: 3}
}

// started brings three providers to running.
func started(t *testing.T, change func(*settings)) *rig {
	r := newRig(t, change)
	r.step(submitted{job: job("node_0", "node_1", "node_2")})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	r.phase(planning)
	p, _ := find[askPlan](r)
	r.step(planned{seq: p.seq, placed: inOrder(p.pool)})
	r.phase(connecting)
	for i := range 3 {
		if i > 0 {
			if _, ok := r.last("p0").(*proto.Start); ok {
				t.Fatal("started before all were ready")
			}
		}
		r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Ready{Run: "j-1", Peak: 5}})
	}
	r.phase(running)
	return r
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
	r.step(received{id: "p2", msg: &proto.Progress{
		Run: "j-1", Stage: 2, Step: 2, Losses: []proto.Loss{{Step: 1, Loss: 0.5}, {Step: 2, Loss: 0.4}},
		Vals: []proto.Val{{Step: 2, Correct: 1, Total: 2}},
	}})
	if e, ok := event[Loss](r); !ok || e.Step != 2 || e.Loss.Loss != 0.4 || e.Stage != 2 {
		t.Errorf("loss event %+v", e)
	}
	if e, ok := event[Val](r); !ok || e.Correct != 1 {
		t.Errorf("val event %+v", e)
	}
	line, ok := find[addLine](r)
	if !ok || line.log != "j-1/metrics" || !strings.Contains(string(line.line), `"losses":[{"step":1`) {
		t.Errorf("metrics line %s", line.line)
	}
	r.step(received{id: "p0", msg: &proto.Done{Run: "j-1", Stage: 0, Step: 9}})
	r.phase(draining)
	r.step(received{id: "p1", msg: &proto.Done{Run: "j-1", Stage: 1, Step: 9}})
	r.step(left{id: "p1", reason: "its connection closed"}) // it is done, so it may
	r.phase(draining)
	r.step(received{id: "p2", msg: &proto.Done{Run: "j-1", Stage: 2, Step: 9}})
	r.phase(idle)
	if e, ok := event[Done](r); !ok || e.Interrupted || e.Run != "j-1" {
		t.Errorf("done event %+v, %v", e, ok)
	}
	if f, ok := find[finish](r); !ok || f.err != nil {
		t.Errorf("finished with %v", f.err)
	}
	if len(r.l.members) != 2 {
		t.Errorf("%d providers stay, want 2", len(r.l.members))
	}
}

func TestPlannerSeesNamesInOrderAndRTT(t *testing.T) {
	r := newRig(t, nil)
	r.step(submitted{job: &Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 4}})
	for i, name := range []string{"node_10", "node_9", "b", "node_2"} {
		r.join(fmt.Sprintf("p%d", i), name)
	}
	p, ok := find[askPlan](r)
	if !ok {
		t.Fatal("no plan was asked for")
	}
	var names []string
	for _, m := range p.pool {
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
		{"unknown", []string{"x", "y"}, []string{"z"}, []string{"!name_unknown"}},
		{"full", nil, []string{"", "", "", "", "", "", "", "", ""}, []string{"node_0", "node_1", "node_2", "node_3", "node_4", "node_5", "node_6", "node_7", "!full"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.step(submitted{job: &Job{ID: "j", Raw: json.RawMessage(`{}`), Names: tt.fixed, Want: 99}})
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
						t.Errorf("%v says not what to do", m)
					}
					if h, ok := find[hangUp](r); !ok || h.id != id {
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

func TestNameIsFreeAfterDeath(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "node_0")
	r.now = r.now.Add(4 * time.Second)
	r.step(tick{})
	r.join("p1", "node_0")
	if _, ok := r.last("p1").(*proto.Error); !ok {
		t.Fatal("a name was given twice")
	}
	r.now = r.now.Add(time.Second)
	r.step(tick{})
	if h, ok := find[hangUp](r); !ok || h.id != "p0" || !h.abrupt {
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
	r.step(submitted{job: job("node_0", "node_1", "node_2")})
	if e, ok := r.last("p0").(*proto.Error); !ok || e.Code != proto.NameUnknown {
		t.Errorf("the stranger was told %#v", r.last("p0"))
	}
	if _, ok := event[Joined](r); !ok || len(r.l.members) != 1 {
		t.Error("the one that was there is not told as joined")
	}
}

func TestHeartbeat(t *testing.T) {
	r := newRig(t, nil)
	r.join("p0", "")
	for range 20 { // 10 s of a living provider
		r.now = r.now.Add(500 * time.Millisecond)
		r.step(tick{})
		r.pong("p0")
	}
	if len(r.l.members) != 1 {
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
	for len(r.l.members) == 1 {
		r.now = r.now.Add(250 * time.Millisecond)
		r.step(tick{})
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
	r.step(tick{})
	r.now = r.now.Add(time.Hour)
	r.step(tick{})
	if len(r.l.members) != 1 {
		t.Fatal("the host slept and its provider was dropped")
	}
	r.now = r.now.Add(2 * time.Second)
	r.step(tick{})
	r.now = r.now.Add(2 * time.Second)
	r.step(tick{})
	r.now = r.now.Add(2 * time.Second)
	r.step(tick{})
	if len(r.l.members) != 0 {
		t.Error("a provider that stayed silent afterwards is still there")
	}
}

func TestLostWhileRunning(t *testing.T) {
	r := started(t, nil)
	r.step(left{id: "p1", reason: "its connection closed"})
	r.phase(idle)
	f, ok := event[Failed](r)
	if !ok || !errors.Is(f.Err, ErrProviderLost) {
		t.Fatalf("got %v", f.Err)
	}
	for _, want := range []string{"node_1", "stage 1", "its connection closed", "nothing had been saved"} {
		if !strings.Contains(f.Err.Error(), want) {
			t.Errorf("%q does not say %q", f.Err, want)
		}
	}
	for _, id := range []string{"p0", "p2"} {
		if s, ok := r.last(id).(*proto.Stop); !ok || s.Mode != proto.Now || s.Run != "j-1" {
			t.Errorf("%s was told %#v", id, r.last(id))
		}
	}
	if len(r.l.members) != 2 {
		t.Error("the others are gone too")
	}
}

func TestSilentWhileRunning(t *testing.T) {
	r := started(t, nil)
	for range 12 {
		r.now = r.now.Add(500 * time.Millisecond)
		r.step(tick{})
		r.pong("p0")
		r.pong("p2")
	}
	f, ok := event[Failed](r)
	if !ok || !errors.Is(f.Err, ErrProviderLost) || !strings.Contains(f.Err.Error(), "node_1") || !strings.Contains(f.Err.Error(), "no heartbeat") {
		t.Errorf("got %v", f.Err)
	}
}

func TestFailedProvider(t *testing.T) {
	r := started(t, nil)
	r.step(received{id: "p2", msg: &proto.Failed{Run: "j-1", Stage: 2, Error: "out of memory"}})
	f, ok := event[Failed](r)
	if !ok || !errors.Is(f.Err, ErrProviderFailed) || !strings.Contains(f.Err.Error(), "out of memory") || !strings.Contains(f.Err.Error(), "node_2") {
		t.Errorf("got %v", f.Err)
	}
	if _, ok := r.last("p2").(*proto.Stop); ok {
		t.Error("the one that failed was told to stop")
	}
	if _, ok := r.last("p0").(*proto.Stop); !ok {
		t.Error("another one was not told to stop")
	}
	r.phase(idle)
}

func TestLostBeforeTheStartGathersAgain(t *testing.T) {
	r := newRig(t, nil)
	r.step(submitted{job: job()})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	first, _ := find[askPlan](r)
	r.step(left{id: "p2", reason: "gone"}) // while planning
	r.phase(gathering)
	r.step(planned{seq: first.seq, placed: inOrder(first.pool)})
	r.phase(gathering) // that plan was for another pool
	r.join("p3", "")
	second, _ := find[askPlan](r)
	if second.seq == first.seq {
		t.Fatal("not asked again")
	}
	r.step(planned{seq: second.seq, placed: inOrder(second.pool)})
	r.step(received{id: "p0", msg: &proto.Ready{Run: "j-1"}})
	r.step(left{id: "p1", reason: "gone"}) // while connecting
	r.phase(gathering)
	if s, ok := r.last("p0").(*proto.Stop); !ok || s.Mode != proto.Now {
		t.Errorf("p0 was told %#v", r.last("p0"))
	}
	r.join("p4", "")
	third, _ := find[askPlan](r)
	r.step(planned{seq: third.seq, placed: inOrder(third.pool)})
	// A late word about the first attempt changes nothing.
	r.step(received{id: "p0", msg: &proto.Ready{Run: "j-1"}})
	r.step(received{id: "p0", msg: &proto.Failed{Run: "j-1", Stage: 0, Error: "late"}})
	for _, id := range []string{"p0", "p3", "p4"} {
		r.phase(connecting)
		r.step(received{id: id, msg: &proto.Ready{Run: "j-2"}})
	}
	r.phase(running)
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
			return []Assignment{{MemberID: p[0].ID, Stages: 2, Graph: ref}}, nil
		}, "without a provider"},
		{"disagreement", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 2, Graph: ref}, {MemberID: p[1].ID, Stage: 1, Stages: 3, Graph: ref}}, nil
		}, "both"},
		{"twice", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1, Graph: ref}, {MemberID: p[1].ID, Stages: 1, Graph: ref}}, nil
		}, "twice"},
		{"no graph", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1}}, nil
		}, "SHA-256"},
		{"too many stages", func(p []Member) ([]Assignment, error) {
			return []Assignment{{MemberID: p[0].ID, Stages: 1 << 40, Graph: ref}}, nil
		}, "without a provider"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.step(submitted{job: job()})
			for i := range 3 {
				r.join(fmt.Sprintf("p%d", i), "")
			}
			p, _ := find[askPlan](r)
			as, err := tt.plan(p.pool)
			r.step(planned{seq: p.seq, placed: as, err: err})
			r.phase(idle)
			f, ok := find[finish](r)
			if !ok || !errors.Is(f.err, ErrPlan) || !strings.Contains(f.err.Error(), tt.text) {
				t.Errorf("got %v", f.err)
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
	r := newRig(t, func(s *settings) { s.readyTimeout = 3 * time.Second })
	r.step(submitted{job: job()})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[askPlan](r)
	r.step(planned{seq: p.seq, placed: inOrder(p.pool)})
	r.step(received{id: "p1", msg: &proto.Ready{Run: "j-1"}})
	r.now = r.now.Add(3 * time.Second)
	r.step(tick{})
	f, ok := find[finish](r)
	if !ok || !errors.Is(f.err, ErrTimeout) || !strings.Contains(f.err.Error(), "node_0") || strings.Contains(f.err.Error(), "node_1") {
		t.Errorf("got %v", f.err)
	}
}

func TestGracefulStop(t *testing.T) {
	r := started(t, nil)
	r.step(stopAsked{mode: proto.Graceful, reason: "Ctrl-C"})
	r.step(stopAsked{mode: proto.Graceful, reason: "Ctrl-C"})
	r.phase(draining)
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
		r.step(received{id: id, msg: &proto.Done{Run: "j-1", Stage: i, Step: 4}})
	}
	e, ok := event[Done](r)
	if !ok || !e.Interrupted {
		t.Errorf("got %+v, %v", e, ok)
	}
}

func TestStopNow(t *testing.T) {
	for _, from := range []phase{gathering, planning, connecting, running, draining} {
		t.Run(string(from), func(t *testing.T) {
			r := newRig(t, nil)
			r.step(submitted{job: job()})
			if from != gathering {
				for i := range 3 {
					r.join(fmt.Sprintf("p%d", i), "")
				}
			}
			p, _ := find[askPlan](r)
			if from != gathering && from != planning {
				r.step(planned{seq: p.seq, placed: inOrder(p.pool)})
			}
			if from == running || from == draining {
				for i := range 3 {
					r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Ready{Run: "j-1"}})
				}
			}
			if from == draining {
				r.step(stopAsked{mode: proto.Graceful})
			}
			r.phase(from)
			r.step(stopAsked{mode: proto.Now, reason: "enough"})
			r.phase(idle)
			f, ok := find[finish](r)
			if !ok || !errors.Is(f.err, ErrStopped) || !strings.Contains(f.err.Error(), "enough") {
				t.Errorf("got %v", f.err)
			}
			if from != gathering && from != planning {
				if s, ok := r.last("p1").(*proto.Stop); !ok || s.Mode != proto.Now {
					t.Errorf("p1 was told %#v", r.last("p1"))
				}
			}
			// And the next job finds the lobby as it should be.
			r.step(submitted{job: job()})
			if from != gathering {
				r.phase(planning)
			}
		})
	}
}

func TestNotDoneInTime(t *testing.T) {
	r := started(t, func(s *settings) { s.drainTimeout = 2 * time.Second })
	r.step(received{id: "p0", msg: &proto.Done{Run: "j-1", Stage: 0}})
	r.now = r.now.Add(2 * time.Second)
	r.step(tick{})
	f, ok := find[finish](r)
	if !ok || !errors.Is(f.err, ErrTimeout) || !strings.Contains(f.err.Error(), "node_1") || strings.Contains(f.err.Error(), "node_0") {
		t.Errorf("got %v", f.err)
	}
}

func TestOnceSaysBye(t *testing.T) {
	r := started(t, func(s *settings) { s.once = true })
	for i := range 3 {
		r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Done{Run: "j-1", Stage: i}})
	}
	for i := range 3 {
		if _, ok := r.last(fmt.Sprintf("p%d", i)).(*proto.Bye); !ok {
			t.Errorf("p%d was told %#v", i, r.last(fmt.Sprintf("p%d", i)))
		}
	}
	if len(r.l.members) != 0 {
		t.Error("providers stay")
	}
}

func TestRelay(t *testing.T) {
	r := newRig(t, nil)
	r.step(submitted{job: job()})
	for i := range 4 { // the last one too late for the plan
		r.join(fmt.Sprintf("p%d", i), "")
	}
	p, _ := find[askPlan](r)
	r.step(planned{seq: p.seq, placed: inOrder(p.pool)})
	body := json.RawMessage(`{"sdp":"x"}`)
	r.step(received{id: "p0", msg: &proto.Signal{Run: "j-1", To: "p2", From: "p1", Body: body}})
	if s, ok := r.last("p2").(*proto.Signal); !ok || s.From != "p0" || s.To != "" || string(s.Body) != string(body) {
		t.Errorf("p2 got %#v", r.last("p2"))
	}
	for name, e := range map[string]received{
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
			r.step(received{id: "p1", msg: msg})
			if e, ok := r.last("p1").(*proto.Error); !ok || e.Code != proto.Protocol {
				t.Errorf("it was told %#v", r.last("p1"))
			}
			f, ok := event[Failed](r)
			if !ok || !errors.Is(f.Err, ErrProviderLost) {
				t.Errorf("the run: %v", f.Err)
			}
		})
	}
}

// saveAt has the members of a running rig upload and save objects for a step.
func (r *rig) saveAt(step int64, stages ...int) {
	r.t.Helper()
	for _, st := range stages {
		id := fmt.Sprintf("p%d", st)
		sha := fmt.Sprintf("%064x", step*16+int64(st))
		run := r.l.run
		gotID, object, err := r.l.grant("secret-"+id, run, st, sha)
		if err != nil || gotID != id {
			r.t.Fatalf("grant: %s, %v", gotID, err)
		}
		ref := proto.Ref{SHA256: sha, Size: 10}
		r.step(uploaded{id: id, run: run, stage: st, object: object, blob: ref})
		r.step(uploadEnded{id: id})
		r.step(received{id: id, msg: &proto.Saved{Run: run, Stage: st, Step: step, Epoch: int(step / 10), Blob: ref}})
	}
}

func (r *rig) commit(err error) {
	r.t.Helper()
	c, ok := find[commit](r)
	if !ok {
		r.t.Fatal("nothing to commit")
	}
	r.step(committed{run: r.l.run, checkpoint: c.checkpoint, err: err})
}

func TestCheckpoints(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1)
	if _, ok := find[commit](r); ok {
		t.Fatal("committed without stage 2")
	}
	r.saveAt(20, 0) // stage 0 is ahead
	r.saveAt(10, 2)
	c, ok := find[commit](r)
	if !ok || c.object != "j-1/saved.json" || c.checkpoint.Step != 10 || len(c.checkpoint.Stages) != 3 {
		t.Fatalf("committed %+v", c)
	}
	var back Checkpoint
	if err := json.Unmarshal(c.data, &back); err != nil || !reflect.DeepEqual(&back, c.checkpoint) {
		t.Errorf("its record: %v, %+v", err, back)
	}
	if _, ok := find[discard](r); ok {
		t.Error("something was discarded before the record was stored")
	}
	r.commit(nil)
	if e, ok := event[Checkpointed](r); !ok || e.Step != 10 {
		t.Errorf("event %+v", e)
	}
	r.saveAt(20, 1, 2)
	r.commit(nil)
	d, ok := find[discard](r)
	if !ok || len(d.objects) != 3 || !strings.HasPrefix(d.objects[0], "j-1/cluster_0/stage_0/") {
		t.Errorf("discarded %v, want the three objects of step 10", d.objects)
	}
	// A provider is lost: the last state is named.
	r.step(left{id: "p0", reason: "gone"})
	f, _ := event[Failed](r)
	if f.Checkpoint == nil || f.Checkpoint.Step != 20 || !strings.Contains(f.Err.Error(), "step 20, epoch 2) is kept") {
		t.Errorf("got %v, %+v", f.Err, f.Checkpoint)
	}
}

func TestDoneWaitsForTheCommit(t *testing.T) {
	r := started(t, nil)
	r.saveAt(30, 0, 1, 2)
	for i := range 3 {
		r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Done{Run: "j-1", Stage: i, Step: 30}})
	}
	r.phase(draining)
	r.commit(nil)
	r.phase(idle)
	e, ok := event[Done](r)
	if !ok || e.Checkpoint == nil || e.Checkpoint.Step != 30 {
		t.Errorf("got %+v", e)
	}
}

func TestUnevenLastSavesAreTheResult(t *testing.T) {
	r := started(t, nil)
	r.saveAt(30, 0)
	r.saveAt(31, 1)
	r.saveAt(32, 2)
	for i := range 3 {
		r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Done{Run: "j-1", Stage: i, Step: 32}})
	}
	r.phase(draining)
	r.commit(nil)
	e, ok := event[Done](r)
	if !ok || e.Checkpoint == nil || e.Checkpoint.Step != 32 || e.Checkpoint.Stages[0].Step != 30 {
		t.Errorf("got %+v", e)
	}
}

func TestFullDiskAtTheEnd(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1, 2)
	r.commit(nil)
	r.saveAt(20, 0, 1, 2)
	for i := range 3 {
		r.step(received{id: fmt.Sprintf("p%d", i), msg: &proto.Done{Run: "j-1", Stage: i, Step: 20}})
	}
	full := errors.New("no space left on device")
	r.commit(full)
	if e, ok := event[Warning](r); !ok || !errors.Is(e.Err, full) {
		t.Errorf("warning %v", e.Err)
	}
	r.phase(draining) // it tries the last states once more
	r.commit(full)
	f, ok := event[Failed](r)
	if !ok || !errors.Is(f.Err, ErrStore) || !errors.Is(f.Err, full) || f.Checkpoint == nil || f.Checkpoint.Step != 10 {
		t.Errorf("got %v, %+v", f.Err, f.Checkpoint)
	}
	for _, a := range r.acts {
		if d, ok := a.(discard); ok {
			t.Errorf("discarded %v", d.objects)
		}
	}
}

func TestUploadGrants(t *testing.T) {
	r := started(t, nil)
	tests := []struct {
		name, secret, run string
		stage             int
		code              proto.Code
	}{
		{"no session", "nobody", "j-1", 1, proto.Forbidden},
		{"empty secret", "", "j-1", 1, proto.Forbidden},
		{"another's stage", "secret-p0", "j-1", 1, proto.Forbidden},
		{"another run", "secret-p0", "j-7", 0, proto.Stopped},
	}
	for _, tt := range tests {
		if _, _, err := r.l.grant(tt.secret, tt.run, tt.stage, sumA); err == nil || err.Code != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	if _, _, err := r.l.grant("secret-p0", "j-1", 0, sumA); err != nil {
		t.Error(err)
	}
	if _, _, err := r.l.grant("secret-p0", "j-1", 0, sumA); err == nil {
		t.Error("two uploads at a time")
	}
	r.step(uploadEnded{id: "p0"})
	r.step(received{id: "p0", msg: &proto.Done{Run: "j-1", Stage: 0}})
	if _, _, err := r.l.grant("secret-p0", "j-1", 0, sumA); err == nil || err.Code != proto.Stopped {
		t.Errorf("after done: %v", err)
	}
}

func TestUploadsThatNobodyNamesDoNotPileUp(t *testing.T) {
	r := started(t, nil)
	for i := range 100 {
		_, object, err := r.l.grant("secret-p0", "j-1", 0, fmt.Sprintf("%064x", i))
		if err != nil {
			t.Fatal(err)
		}
		r.step(uploaded{id: "p0", run: "j-1", object: object, blob: proto.Ref{SHA256: fmt.Sprintf("%064x", i), Size: 1}})
		r.step(uploadEnded{id: "p0"})
	}
	if n := len(r.l.objects); n != 1 {
		t.Errorf("%d objects are kept", n)
	}
	for i := range 100 { // and steps that the others never save
		r.saveAt(int64(1000+i), 1)
	}
	if n := len(r.l.objects); n > maxSaves+2 {
		t.Errorf("%d objects are kept", n)
	}
}

func TestShutdown(t *testing.T) {
	r := started(t, nil)
	r.step(shutdown{reason: "the host is shutting down"})
	r.phase(idle)
	if f, ok := find[finish](r); !ok || !errors.Is(f.err, ErrStopped) {
		t.Errorf("got %v", f.err)
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
	r.step(received{id: "p2", msg: &proto.Progress{Run: "j-1", Stage: 2, Step: 7, Samples: 448, Losses: []proto.Loss{{Step: 7, Loss: 0.25}}}})
	r.now = r.now.Add(time.Second)
	s := r.l.status(r.now)
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

// Whatever strangers send and whenever they leave, the lobby must neither
// panic nor hold on to a run that cannot end, and the same events must lead to
// the same actions.
func TestRandomEvents(t *testing.T) {
	play := func(seed uint64) (trace string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t, func(s *settings) { s.maxMembers, s.readyTimeout, s.drainTimeout = 6, 20*time.Second, 20*time.Second })
		next := 0
		ids := []string{"nobody"}
		for range 400 {
			r.now = r.now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
			id := ids[rng.IntN(len(ids))]
			run, stage := r.l.run, rng.IntN(3)
			if m := r.l.members[id]; m != nil && m.job != nil && rng.IntN(8) > 0 {
				stage = m.job.Stage
			}
			if run == "" {
				run = "j-1"
			}
			switch rng.IntN(16) {
			case 0, 1:
				id = fmt.Sprintf("p%d", next)
				next++
				ids = append(ids, id)
				r.join(id, "")
			case 2:
				if rng.IntN(4) == 0 {
					r.step(left{id: id, reason: "x"})
				}
			case 3:
				if r.l.job == nil {
					r.step(submitted{job: &Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 1 + rng.IntN(3)}})
				}
			case 4:
				if p, ok := find[askPlan](r); ok {
					r.step(planned{seq: p.seq, placed: inOrder(p.pool)})
				}
			case 5, 6, 7, 8:
				r.step(received{id: id, msg: &proto.Ready{Run: run}})
			case 9:
				r.step(received{id: id, msg: &proto.Progress{Run: run, Stage: stage, Losses: make([]proto.Loss, 2)}})
			case 10:
				if m := r.l.members[id]; m != nil {
					if _, o, err := r.l.grant(m.secret, run, stage, sumA); err == nil {
						r.step(uploaded{id: id, run: run, stage: stage, object: o, blob: proto.Ref{SHA256: sumA}})
						r.step(uploadEnded{id: id})
						r.step(received{id: id, msg: &proto.Saved{Run: run, Stage: stage, Step: int64(rng.IntN(3)), Blob: proto.Ref{SHA256: sumA}}})
					}
				}
			case 11:
				if len(r.l.pending) > 0 {
					r.step(committed{run: r.l.run, checkpoint: r.l.pending[0]})
				}
			case 12:
				r.step(received{id: id, msg: &proto.Done{Run: run, Stage: stage}})
			case 13:
				if rng.IntN(6) == 0 {
					r.step(stopAsked{mode: []proto.Mode{proto.Graceful, proto.Now}[rng.IntN(2)]})
				}
			case 14:
				r.step(received{id: id, msg: &proto.Signal{Run: run, To: ids[rng.IntN(len(ids))], Body: json.RawMessage(`1`)}})
			case 15:
				r.step(tick{})
				for _, x := range ids {
					r.pong(x)
				}
			}
			if r.l.phase == idle != (r.l.job == nil) {
				t.Fatalf("seed %d: phase %s, job %v", seed, r.l.phase, r.l.job)
			}
		}
		// All fall silent: any run beyond gathering ends by itself.
		for range 200 {
			r.now = r.now.Add(time.Second)
			r.step(tick{})
		}
		if r.l.phase != idle && r.l.phase != gathering || len(r.l.members) != 0 {
			t.Fatalf("seed %d: stuck in %s with %d members", seed, r.l.phase, len(r.l.members))
		}
		begun, ended := 0, 0
		for _, a := range r.acts {
			if _, ok := a.(finish); ok {
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
			trace += fmt.Sprintf("%T ", e)
		}
		return trace
	}
	finished := 0
	for seed := range uint64(40) {
		a := play(seed)
		if b := play(seed); a != b {
			t.Fatalf("seed %d: the same events led elsewhere:\n%s\n%s", seed, a, b)
		}
		if strings.Contains(a, "server.Done ") {
			finished++
		}
	}
	if finished == 0 {
		t.Error("no random run ever finished: the test proves nothing about the end")
	}
}

func TestBucket(t *testing.T) {
	b := newBucket(t0, 10, 20)
	for range 20 {
		if !b.take(t0, 1) {
			t.Fatal("the burst is not there")
		}
	}
	if b.take(t0, 1) {
		t.Error("more than the burst")
	}
	if !b.take(t0.Add(100*time.Millisecond), 1) || b.take(t0.Add(100*time.Millisecond), 1) {
		t.Error("the rate is not 10 a second")
	}
	if b.take(t0.Add(time.Hour), 21) {
		t.Error("it fills over its burst")
	}
	if c := cost(1 << 20); c != 257 {
		t.Errorf("a full message costs %g", c)
	}
}

func TestCheckJob(t *testing.T) {
	plan := func(context.Context, []Member) ([]Assignment, error) { return nil, nil }
	for name, j := range map[string]Job{
		"no plan":     {Raw: json.RawMessage(`{}`)},
		"raw":         {Raw: json.RawMessage(`{`), Plan: plan},
		"id":          {ID: "../x", Raw: json.RawMessage(`{}`), Plan: plan},
		"long id":     {ID: strings.Repeat("x", 60), Raw: json.RawMessage(`{}`), Plan: plan},
		"names":       {Names: []string{"a", "a"}, Raw: json.RawMessage(`{}`), Plan: plan},
		"name":        {Names: []string{"a b"}, Raw: json.RawMessage(`{}`), Plan: plan},
		"want":        {Names: []string{"a"}, Want: 2, Raw: json.RawMessage(`{}`), Plan: plan},
		"negative":    {Want: -1, Raw: json.RawMessage(`{}`), Plan: plan},
		"no raw form": {Plan: plan},
	} {
		if err := checkJob(&j); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
