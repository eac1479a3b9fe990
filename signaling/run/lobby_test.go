package run

// Who joins, under which name, and how members are heard of.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

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
