package machine

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// rig drives a machine. Before every event the machine is stored and restored, and the copy
// must return the same actions.
type rig struct {
	t    *testing.T
	m    *Machine
	now  time.Duration
	acts []Action // of the last event
}

func newRig(t *testing.T, r Rules) *rig {
	g := &rig{t: t, m: New(r)}
	g.step(Start{})
	return g
}

func (g *rig) step(ev Event) []Action {
	g.t.Helper()
	b, err := g.m.Snapshot()
	if err != nil {
		g.t.Fatal(err)
	}
	twin, err := Restore(b)
	if err != nil {
		g.t.Fatal(err)
	}
	g.acts = g.m.Step(g.now, ev)
	if other := twin.Step(g.now, ev); !reflect.DeepEqual(text(g.acts), text(other)) {
		g.t.Errorf("after %T:\n%s\nand when restored\n%s", ev, text(g.acts), text(other))
	}
	return g.acts
}

// wait lets time pass, with a Tick whenever one is due.
func (g *rig) wait(d time.Duration) (all []Action) {
	g.t.Helper()
	for end := g.now + d; ; {
		at, ok := g.m.Deadline()
		if !ok || at > end {
			g.now = end
			return all
		}
		g.now = max(g.now, at)
		all = append(all, g.step(Tick{})...)
	}
}

func text(as []Action) string {
	var b strings.Builder
	for _, a := range as {
		j, _ := json.Marshal(a)
		fmt.Fprintf(&b, "%T %s\n", a, j)
	}
	return b.String()
}

// want checks that the actions have these types, ignoring Show and Tell.
func (g *rig) want(as []Action, types ...any) {
	g.t.Helper()
	var got, wanted []string
	for _, a := range as {
		switch a := a.(type) {
		case Tell, Show:
		case Send:
			got = append(got, a.Msg.Type())
		default:
			got = append(got, fmt.Sprintf("%T", a))
		}
	}
	for _, w := range types {
		switch w := w.(type) {
		case string:
			wanted = append(wanted, w)
		default:
			wanted = append(wanted, fmt.Sprintf("%T", w))
		}
	}
	if !reflect.DeepEqual(got, wanted) {
		g.t.Errorf("at %v: got %v, want %v:\n%s", g.now, got, wanted, text(as))
	}
}

func assign(n int) *proto.Assign {
	return &proto.Assign{
		Run: fmt.Sprintf("r-%d", n), Stages: 3, Generation: n, Job: json.RawMessage(`{}`),
		Peers: []proto.Peer{{Stage: 1, ID: "p1", Name: "one"}, {Stage: 2, ID: "p2", Name: "two"}, {Cluster: 1, ID: "p3", Name: "three"}},
	}
}

func (g *rig) hear(m proto.Message) []Action { g.t.Helper(); return g.step(Heard{m}) }

// training brings a joined machine to training in attempt n.
func (g *rig) training(n int) {
	g.t.Helper()
	run := fmt.Sprintf("r-%d", n)
	g.hear(assign(n))
	g.step(Prepared{run})
	g.step(Linked{run, "p1"})
	g.step(Linked{run, "p2"})
	g.want(g.step(Compiled{Run: run, Peak: 5}), "ready")
	g.want(g.hear(&proto.Start{Run: run}), Train{})
}

// TestRingPeer checks that a neighbour of another cluster is a peer like those of its own.
func TestRingPeer(t *testing.T) {
	g := newRig(t, Rules{Wait: -1, Connect: 30 * time.Second})
	g.step(Joined{})
	g.hear(assign(1))
	g.step(Prepared{"r-1"})
	body := json.RawMessage(`{"kind":"here"}`)
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "p3", Body: body}), Deliver{})
	for _, a := range g.wait(31 * time.Second) {
		if c, ok := a.(Cancel); ok && c.Kind == proto.FailedPeer && c.Peer == "p3" {
			return
		}
	}
	t.Error("a neighbour in a ring that does not connect is waited for")
}

// TestJoins checks that a provider tries to join for as long as the rules say, at growing
// intervals, and reports it once.
func TestJoins(t *testing.T) {
	g := newRig(t, Rules{Wait: -1, Stay: true, Seed: 7})
	g.want(g.acts, Join{})
	told := 0
	var gaps []time.Duration
	for range 40 {
		for _, a := range g.step(JoinFailed{Why: "nobody there", Again: true}) {
			if _, ok := a.(Tell); ok {
				told++
			}
		}
		at, ok := g.m.Deadline()
		if !ok {
			t.Fatal("it has given up")
		}
		gaps = append(gaps, at-g.now)
		g.want(g.wait(at-g.now), Join{})
	}
	if told != 2 {
		t.Errorf("%d lines about 40 tries that failed for the same reason, want 2", told)
	}
	if gaps[0] > firstTry || gaps[39] < lastTry/2 || gaps[39] > lastTry {
		t.Errorf("waited %v", gaps)
	}
	g.want(g.step(JoinFailed{Why: "wrong token"}), Quit{})

	g = newRig(t, Rules{Wait: time.Minute})
	tries := 0
	for tries < 1000 {
		tries++
		as := g.step(JoinFailed{Why: "nobody there", Again: true})
		if len(as) == 0 {
			as = []Action{Tell{}} // told before
		}
		if q, ok := as[len(as)-1].(Quit); ok {
			if q.Why != "nobody there" || g.now > time.Minute {
				t.Errorf("after %v: %+v", g.now, q)
			}
			break
		}
		g.wait(lastTry)
	}
	if tries < 4 || tries > 40 {
		t.Errorf("%d tries in a minute", tries)
	}
	g = newRig(t, Rules{})
	g.want(g.step(JoinFailed{Why: "nobody there", Again: true}), Quit{})
}

// TestJobToJob checks that a provider stays joined between attempts, accepts a new assignment
// while the old one ends, and rejoins a host that has gone.
func TestJobToJob(t *testing.T) {
	g := newRig(t, Rules{Wait: -1, Stay: true})
	g.step(Joined{})
	g.training(1)
	g.want(g.hear(assign(1))) // a duplicate
	g.want(g.hear(&proto.Stop{Run: "r-1", Mode: proto.Now, Reason: "one is gone"}), Cancel{})
	g.want(g.hear(&proto.Stop{Run: "r-1", Mode: proto.Now, Reason: "one is gone"}))
	g.want(g.hear(assign(2))) // it waits for the memory of the first
	g.want(g.hear(&proto.Signal{Run: "r-2", From: "p1", Body: json.RawMessage(`1`)}))
	g.want(g.step(Ended{Run: "r-1", Outcome: Failed, Why: "its neighbour hung up", Kind: proto.FailedPeer, Peer: "p1"}), Unlink{}, Begin{}, Deliver{})
	g.want(g.step(Ended{Run: "r-1", Outcome: Done})) // of an earlier run
	g.want(g.step(Compiled{Run: "r-1"}))

	g.want(g.hear(assign(3)), Cancel{}) // nothing is said about the second
	g.want(g.hear(assign(4)))
	g.want(g.step(Ended{Run: "r-2", Outcome: Stopped}), Unlink{}, Begin{})
	if run := g.m.s.Current.Assign.Run; run != "r-4" {
		t.Errorf("works on %s, want the latest", run)
	}
	g.want(g.step(Ended{Run: "r-4", Outcome: Failed, Why: "no room", Kind: proto.FailedMemory}), "failed", Unlink{})
	g.training(5)
	g.want(g.hear(&proto.Checkpoint{Run: "r-5"}), SetMark{})
	if m := g.acts[0].(SetMark); m.Mark != order.Checkpoint {
		t.Errorf("mark %v", m.Mark)
	}
	g.want(g.hear(&proto.Stop{Run: "r-5", Mode: proto.Graceful}), SetMark{})
	g.want(g.step(Ended{Run: "r-5", Outcome: Done, Step: 9}), "done", Unlink{})
	g.training(6)
	g.want(g.step(Lost{Why: "connection reset", Again: true}), Cancel{})
	g.want(g.step(Ended{Run: "r-6", Outcome: Stopped}), Unlink{})
	g.want(g.wait(time.Second), Join{})
	g.step(Joined{})
	g.training(7)
}

// TestOnce checks that a provider that serves one run leaves when the host says so, and that
// the outcome does not depend on the order of messages.
func TestOnce(t *testing.T) {
	for name, c := range map[string]struct {
		events []Event
		want   Outcome
	}{
		"done":         {[]Event{Ended{Run: "r-1", Outcome: Done}, Lost{Goodbye: true}}, Done},
		"host crashed": {[]Event{Ended{Run: "r-1", Outcome: Done}, Lost{Again: true}}, Done},
		"stopped":      {[]Event{Heard{&proto.Stop{Run: "r-1", Mode: proto.Now}}, Ended{Run: "r-1", Outcome: Stopped}, Lost{Goodbye: true}}, Stopped},
		"hung up":      {[]Event{Heard{&proto.Stop{Run: "r-1", Mode: proto.Now}}, Lost{Goodbye: true}}, Stopped},
		"link first":   {[]Event{Ended{Run: "r-1", Outcome: Failed, Why: "x", Kind: proto.FailedPeer, Peer: "p1"}, Heard{&proto.Stop{Run: "r-1", Mode: proto.Now}}, Lost{Goodbye: true}}, Failed},
		"done in vain": {[]Event{Ended{Run: "r-1", Outcome: Done}, Heard{&proto.Stop{Run: "r-1", Mode: proto.Now}}, Lost{Goodbye: true}}, Stopped},
		"no word":      {[]Event{Lost{Goodbye: true}}, Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, Rules{Once: true, Wait: -1})
			g.step(Joined{})
			g.training(1)
			for _, ev := range c.events {
				g.step(ev)
			}
			q, ok := g.acts[len(g.acts)-1].(Quit)
			if !ok || q.Outcome != c.want {
				t.Errorf("ended with %s, want %s", text(g.acts), c.want)
			}
		})
	}
	g := newRig(t, Rules{Once: true, Wait: -1})
	g.step(Joined{})
	g.training(1)
	g.step(Ended{Run: "r-1", Outcome: Done})
	g.want(g.hear(assign(2)), Begin{}) // the run goes on without a lost provider
	g.step(Ended{Run: "r-2", Outcome: Done})
	g.want(g.wait(time.Hour), Quit{}) // the host says nothing more
}

// TestConnecting checks that the time limit of a connection starts when both sides are ready,
// however long the downloads take, and that a peer's signals are bounded.
func TestConnecting(t *testing.T) {
	g := newRig(t, Rules{Wait: -1})
	g.step(Joined{})
	g.hear(assign(1))
	sent := 0
	for i := range 100 { // a slow download, reported once a second
		g.wait(100 * time.Millisecond)
		for _, a := range g.step(Fetched{"r-1", int64(i), 100}) {
			if _, ok := a.(Send); ok {
				sent++
			}
		}
	}
	if sent < 9 || sent > 11 {
		t.Errorf("%d messages about 10 s of download", sent)
	}
	body := json.RawMessage(`{"kind":"here"}`)
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "p1", Body: body}), Deliver{})
	g.want(g.wait(time.Hour)) // our download goes on
	g.step(Prepared{"r-1"})
	g.want(g.wait(29 * time.Second))
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "p1", Body: body}), Deliver{})
	g.want(g.wait(29 * time.Second))
	g.step(Linked{"r-1", "p1"})
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "p1", Body: body}), Deliver{}) // the link moves
	g.want(g.wait(time.Hour))                                                    // the peer is downloading, which is for the host to watch

	for range 3 * MaxSignals { // a flood does no harm
		g.hear(&proto.Signal{Run: "r-1", From: "p2", Body: body})
	}
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "px", Body: body}))
	g.want(g.hear(&proto.Signal{Run: "r-0", From: "p2", Body: body}))
	if p := g.m.s.Current.Peers["p2"]; p.Signals != MaxSignals {
		t.Errorf("%d signals went through", p.Signals)
	}
	g.wait(3 * forgotten)
	for range 3 { // a link that moves now and then always may
		g.want(g.hear(&proto.Signal{Run: "r-1", From: "p2", Body: body}), Deliver{})
	}
	g.want(g.hear(&proto.Signal{Run: "r-1", From: "p2", Body: body}))
	as := g.wait(time.Minute)
	g.want(as, Cancel{})
	for _, a := range as {
		if c, ok := a.(Cancel); ok && (c.Peer != "p2" || c.Kind != proto.FailedPeer) {
			t.Errorf("blamed %+v", c)
		}
	}
	as = g.step(Ended{Run: "r-1", Outcome: Failed, Why: "connecting to two: " + "no connection", Kind: proto.FailedOther})
	g.want(as, "failed", Unlink{})
	if f := as[0].(Send).Msg.(*proto.Failed); f.Peer != "p2" || !strings.Contains(f.Error, "connecting to two") {
		t.Errorf("told the host %+v", f)
	}
	g.hear(assign(2))
	big, err := json.Marshal(strings.Repeat("x", MaxSignalBytes/4))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		g.hear(&proto.Signal{Run: "r-2", From: "p1", Body: big})
	}
	if p := g.m.s.Current.Peers["p1"]; p.Bytes > MaxSignalBytes {
		t.Errorf("%d bytes of signals are held", p.Bytes)
	}
}

// TestLeaving checks that a provider in training waits until its state is saved, but not for
// ever, and that others leave at once.
func TestLeaving(t *testing.T) {
	begin := func() *rig {
		g := newRig(t, Rules{Wait: -1, Leave: 10 * time.Second})
		g.step(Joined{})
		g.training(1)
		g.want(g.step(Leave{Reason: "bye"}), "leaving")
		return g
	}
	g := begin()
	g.want(g.hear(assign(2)))
	g.want(g.hear(&proto.Checkpoint{Run: "r-1"}), SetMark{}) // training goes on
	g.want(g.hear(&proto.Bye{}), Quit{})
	g = begin()
	g.want(g.step(Ended{Run: "r-1", Outcome: Done}), "done", Unlink{}, Quit{})
	g = begin()
	g.want(g.hear(&proto.Stop{Run: "r-1", Mode: proto.Now}), Cancel{})
	g.want(g.step(Ended{Run: "r-1", Outcome: Stopped}), Unlink{}, Quit{})
	g = begin()
	g.want(g.step(Leave{Reason: "bye"}), Quit{}) // asked twice
	g = begin()
	g.want(g.step(Lost{Again: true}), Cancel{}, Quit{})
	g = begin()
	g.want(g.wait(9 * time.Second))
	g.step(Saving{"r-1", true})
	g.want(g.wait(10 * time.Second)) // a save in progress has longer
	g.want(g.step(Saving{"r-1", false}))
	g.want(g.wait(4 * time.Second))
	g.want(g.wait(time.Second), Quit{})

	g = newRig(t, Rules{Wait: -1})
	g.want(g.step(Leave{Reason: "bye"}), Quit{})
	g = newRig(t, Rules{Wait: -1})
	g.step(Joined{})
	g.want(g.step(Leave{Reason: "bye"}), Quit{})
	g = newRig(t, Rules{Wait: -1})
	g.step(Joined{})
	g.hear(assign(1))
	g.want(g.step(Leave{Reason: "bye"}), Quit{})
}

// TestRandom checks that under random events there is one attempt at a time, each is
// unlinked, nothing happens after Quit, and every deadline that passes is acted on.
func TestRandom(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 200
	}
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := newRig(t, Rules{Once: r.IntN(2) == 0, Stay: r.IntN(2) == 0, Wait: time.Duration(r.IntN(3)-1) * time.Minute, Seed: seed})
		session, trying, running, gone := false, true, "", false
		linked := map[string]bool{}
		run := 0
		for range 60 {
			if r.IntN(3) == 0 {
				g.now += time.Duration(r.IntN(20_000)) * time.Millisecond
			}
			name := fmt.Sprintf("r-%d", run-r.IntN(2))
			events := []Event{Tick{}}
			if trying {
				events = append(events, Joined{}, JoinFailed{Why: "w", Again: r.IntN(9) > 0})
			}
			if session {
				events = append(events, Lost{Why: "l", Goodbye: r.IntN(4) == 0, Again: r.IntN(9) > 0})
				for _, m := range []proto.Message{
					assign(run + 1), &proto.Start{Run: name}, &proto.Checkpoint{Run: name}, &proto.Stop{Run: name, Mode: proto.Now},
					&proto.Stop{Run: name, Mode: proto.Graceful}, &proto.Signal{Run: name, From: "p1", Body: json.RawMessage(`1`)}, &proto.Bye{},
				} {
					events = append(events, Heard{m})
				}
			}
			if running != "" {
				events = append(events, Prepared{running}, Linked{running, "p1"}, Compiled{Run: running}, Ended{Run: running, Outcome: Done},
					Ended{Run: running, Outcome: Failed, Why: "f", Kind: proto.FailedOther}, Saving{running, true})
			}
			if r.IntN(20) == 0 {
				events = append(events, Leave{Reason: "b"})
			}
			ev := events[r.IntN(len(events))]
			switch e := ev.(type) {
			case Joined:
				session, trying = true, false
			case JoinFailed:
				trying = false
			case Lost:
				session = false
			case Heard:
				if _, ok := e.Msg.(*proto.Assign); ok {
					run++
				}
			case Ended:
				running = ""
			}
			for _, a := range g.step(ev) {
				if gone {
					t.Fatalf("seed %d: %T after it has quit", seed, a)
				}
				switch a := a.(type) {
				case Begin:
					if running != "" {
						t.Fatalf("seed %d: %s begins beside %s", seed, a.Assign.Run, running)
					}
					running = a.Assign.Run
					linked[running] = true
				case Unlink:
					delete(linked, a.Run)
				case Join:
					if trying || session {
						t.Fatalf("seed %d: two sessions", seed)
					}
					trying = true
				case Send:
					if !session {
						t.Fatalf("seed %d: %s to nobody", seed, a.Msg.Type())
					}
				case Quit:
					gone = true
				}
			}
			if at, ok := g.m.Deadline(); ok && at < g.now {
				g.step(Tick{})
				if at, ok := g.m.Deadline(); ok && at <= g.now {
					t.Fatalf("seed %d: a deadline at %v stays at %v", seed, at, g.now)
				}
			}
			if gone {
				break
			}
		}
		for l := range linked {
			if l != running {
				t.Fatalf("seed %d: the links of %s were never cut", seed, l)
			}
		}
	}
}
