package run_test

// Whole runs in a world of fake providers under a virtual clock.

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

const steps = 40

func world() *runtest.World { return worldOf(runtest.New) }

func worldOf(begin func(run.Settings, run.Job, int) *runtest.World) *runtest.World {
	set := run.Settings{Checkpoint: 100 * time.Millisecond}
	w := begin(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: steps}, steps)
	for i := range 3 { // two are needed
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	return w
}

// comeAndGo has so many things happen at random: of six, as many as joins are providers that come,
// one freezes, one leaves, and the others are killed.
func comeAndGo(w *runtest.World, rng *rand.Rand, events, joins int) {
	next := 0
	w.Before = func(int, string, proto.Message) bool {
		if next == events || rng.IntN(30) > 0 {
			return true
		}
		ids := w.Alive()
		switch k := rng.IntN(6); {
		case k < joins || len(ids) < 3:
			w.Join(fmt.Sprintf("n%d", next), "")
		case k == joins:
			w.Provider(ids[rng.IntN(len(ids))]).Freeze()
		case k == joins+1:
			w.Provider(ids[rng.IntN(len(ids))]).Leave()
		default:
			w.Provider(ids[rng.IntN(len(ids))]).Kill()
		}
		next++
		return true
	}
}

// whole checks that a run succeeded with the result of an undisturbed one.
func whole(t *testing.T, w *runtest.World) {
	t.Helper()
	steps := w.Steps
	if len(w.Results) != 1 {
		t.Fatalf("%d results; the machine is in %s: %s", len(w.Results), w.M.Status(w.Now).Phase, w.M.Status(w.Now).Waiting)
	}
	res := w.Results[0]
	if res.Err != nil {
		t.Fatalf("the run failed: %v", res.Err)
	}
	c := res.Result.Checkpoint
	if c == nil || c.Position.Step != uint64(steps) {
		t.Fatalf("the result is %+v", c)
	}
	got, err := w.Weights(c)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, runtest.Undisturbed(steps)) {
		t.Error("an update was lost or counted twice")
	}
	losses := w.Losses()
	for s := range int64(steps) {
		if losses[s] != 1/float64(s+1) {
			t.Errorf("the loss of step %d is %g", s, losses[s])
		}
	}
	w.Settle(time.Second)
	if l := w.Leaked(c); len(l) > 0 {
		t.Errorf("left in the store: %v", l)
	}
	st := w.M.Status(w.Now)
	if st.Phase != "idle" || st.Run != "" {
		t.Errorf("afterwards the machine is in %s of %s", st.Phase, st.Run)
	}
	for _, id := range w.Alive() {
		if !slices.ContainsFunc(st.Members, func(m run.MemberStatus) bool { return m.Name == w.Provider(id).Name }) {
			t.Errorf("%s is alive but no longer a member", id)
		}
	}
}

func TestUndisturbed(t *testing.T) {
	w := world()
	w.Run(time.Minute)
	whole(t, w)
	n := 0
	for _, r := range w.Reports {
		if _, ok := r.(run.Checkpointed); ok {
			n++
		}
	}
	if n < 3 {
		t.Errorf("%d checkpoints in 400 ms at 100 ms each", n)
	}
	t.Logf("%d messages", w.Messages())
}

// Whatever happens to any provider at any message, the run ends with the undisturbed
// result.
func TestEveryFaultAtEveryMessage(t *testing.T) {
	plain := world()
	plain.Run(time.Minute)
	n := plain.Messages()
	faults := map[string]func(w *runtest.World, p *runtest.Provider){
		"kill":   func(_ *runtest.World, p *runtest.Provider) { p.Kill() },
		"freeze": func(_ *runtest.World, p *runtest.Provider) { p.Freeze() },
		"leave":  func(_ *runtest.World, p *runtest.Provider) { p.Leave() },
		"drop":   func(_ *runtest.World, p *runtest.Provider) { p.Drop(200 * time.Millisecond) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for at := range n {
				for _, id := range []string{"p0", "p1", "p2"} {
					w := world()
					w.Before = func(i int, _ string, _ proto.Message) bool {
						if i == at {
							fault(w, w.Provider(id))
						}
						return true
					}
					w.Run(2 * time.Minute)
					whole(t, w)
					if t.Failed() {
						t.Fatalf("after %s of %s at message %d of %d", name, id, at, n)
					}
				}
			}
		})
	}
}

// A spare comes first and is given the name of a provider that then joins at any message
// of the run. Until training starts, stages go to the providers they were planned for.
func TestNamedComesAfterASpare(t *testing.T) {
	begin := func() *runtest.World {
		j := run.Job{ID: "j", Raw: json.RawMessage(`{}`), Names: []string{"a", "b"}, Want: 2, Spares: true, Replan: true, Steps: steps}
		w := runtest.New(run.Settings{Checkpoint: 100 * time.Millisecond}, j, steps)
		w.Join("spare", "")
		w.Join("b", "b")
		return w
	}
	plain := begin()
	n := plain.Messages()
	plain.Run(time.Minute)
	early, late := 0, 0
	for at := n; at < plain.Messages(); at++ {
		w := begin()
		var phase run.Phase
		w.Before = func(i int, _ string, _ proto.Message) bool {
			if i == at {
				phase = run.Phase(w.M.Status(w.Now).Phase)
				w.Join("a", "a")
			}
			return true
		}
		w.Run(time.Minute)
		if len(w.Results) != 1 || w.Results[0].Err != nil {
			t.Fatalf("at message %d: %+v", at, w.Results)
		}
		got, err := w.Weights(w.Results[0].Result.Checkpoint)
		if err != nil || !maps.Equal(got, runtest.Undisturbed(steps)) {
			t.Fatalf("at message %d: an update was lost or counted twice (%v)", at, err)
		}
		var placed []string
		for _, r := range w.Reports {
			if p, ok := r.(run.Planned); ok {
				placed = nil
				for _, s := range p.Stages {
					placed = append(placed, s.Name+"="+s.MemberID)
				}
			}
		}
		want := []string{"a=a", "b=b"}
		if phase == run.Gathering || phase == run.Planning || phase == run.Connecting {
			early++
		} else {
			want = []string{"a=spare", "b=b"}
			late++
		}
		if !slices.Equal(placed, want) {
			t.Fatalf("at message %d (%s) the stages are %v", at, phase, placed)
		}
	}
	if early < 5 || late < 5 {
		t.Errorf("it came %d times before and %d times after the start: the test proves little", early, late)
	}
}

// Messages may come twice, late, or again in a later attempt.
func TestRepeatedMessages(t *testing.T) {
	plain := world()
	plain.Run(time.Minute)
	n := plain.Messages()
	for at := range n {
		for _, delay := range []time.Duration{0, 200 * time.Millisecond} {
			w := world()
			w.Before = func(i int, id string, msg proto.Message) bool {
				if i == 60 && delay > 0 {
					w.Provider("p1").Kill() // so that a late message falls into another attempt
				}
				if i == at {
					w.Repeat(delay, id, msg)
				}
				return true
			}
			w.Run(2 * time.Minute)
			whole(t, w)
			if t.Failed() {
				t.Fatalf("message %d of %d again after %v", at, n, delay)
			}
		}
	}
}

// A machine restored from its snapshot after any event behaves exactly like the one that
// was stored.
func TestRestoreAfterEveryEvent(t *testing.T) {
	w := worldOf(runtest.Recorded)
	w.Before = func(i int, _ string, _ proto.Message) bool {
		switch i {
		case 50:
			w.Provider("p0").Kill()
		case 70:
			w.Join("p9", "")
		case 90:
			w.Provider("p1").Leave()
		}
		return true
	}
	w.Run(time.Minute)
	whole(t, w)
	restored(t, w, run.Settings{Checkpoint: 100 * time.Millisecond})
}

// restored replays a recorded run, with the machine restored before each event in turn.
func restored(t *testing.T, w *runtest.World, set run.Settings) {
	t.Helper()
	if len(w.Events) < 100 {
		t.Fatalf("only %d events were recorded", len(w.Events))
	}
	for cut := range w.Events {
		m := run.New(set)
		for i, e := range w.Events {
			if i == cut {
				b, err := m.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if m, err = run.Restore(set, b); err != nil {
					t.Fatalf("event %d: %v", i, err)
				}
				again, err := m.Snapshot()
				if err != nil || string(again) != string(b) {
					t.Fatalf("event %d: the restored machine has another snapshot (%v):\n%s\n%s", i, err, b, again)
				}
			}
			acts := m.Step(e.At, e.Ev)
			for k, a := range acts {
				if k >= len(e.Acts) || runtest.Describe(a) != e.Acts[k] {
					t.Fatalf("restored before event %d, event %d (%T): action %d is\n%s", cut, i, e.Ev, k, runtest.Describe(a))
				}
			}
			if len(acts) != len(e.Acts) {
				t.Fatalf("restored before event %d, event %d (%T): %d actions, want %d", cut, i, e.Ev, len(acts), len(e.Acts))
			}
		}
	}
}

// A host that was killed resumes from its stored state with providers that rejoin.
func TestHostRestart(t *testing.T) {
	w := world()
	w.Run(250 * time.Millisecond)
	if err := w.Restart(run.Settings{Checkpoint: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		w.Join(fmt.Sprintf("q%d", i), "")
	}
	w.Run(time.Minute)
	whole(t, w)
	resumed := false
	for _, r := range w.Reports {
		if r, ok := r.(run.Resumed); ok && r.Step > 0 {
			resumed = true
		}
	}
	if !resumed {
		t.Error("it started from the beginning")
	}
}

func TestBadMachineIsBannedAndTheRunEnds(t *testing.T) {
	w := world()
	w.Before = func(_ int, id string, msg proto.Message) bool {
		// p0 always fails, a moment after it was asked to start.
		if s, ok := msg.(*proto.Start); ok && id == "p0" {
			w.Step(run.Message{ID: "p0", Msg: &proto.Failed{Run: s.Run, Error: "no luck", Kind: proto.FailedOther}})
		}
		return true
	}
	w.Run(5 * time.Minute)
	whole(t, w)
}

// If every attempt fails, the run ends instead of trying for ever.
func TestFruitlessRunEnds(t *testing.T) {
	w := runtest.New(run.Settings{}, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true}, steps)
	for i := range 40 {
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	w.Before = func(_ int, id string, msg proto.Message) bool {
		if a, ok := msg.(*proto.Assign); ok {
			w.Step(run.Message{ID: id, Msg: &proto.Failed{Run: a.Run, Stage: a.Stage, Error: "no luck"}})
			return false
		}
		return true
	}
	w.Run(2 * time.Hour)
	if len(w.Results) != 1 || w.Results[0].Err == nil || !strings.Contains(w.Results[0].Err.Error(), "no luck") {
		t.Fatalf("got %+v", w.Results)
	}
}

// With many providers, more attempts than that may be lost because one of them leaves, before one
// lasts.
func TestManyProvidersSpoilManyAttempts(t *testing.T) {
	for _, c := range []struct {
		stages, losses int
		ends           bool
	}{{2, 11, false}, {2, 12, true}, {12, 23, false}, {12, 24, true}} {
		set := run.Settings{Checkpoint: 100 * time.Millisecond}
		w := runtest.New(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: c.stages, Replan: true}, steps)
		w.Stages = c.stages
		for i := range c.stages + c.losses {
			w.Join(fmt.Sprintf("p%d", i), "")
		}
		lost := 0
		w.Before = func(_ int, id string, msg proto.Message) bool {
			if a, ok := msg.(*proto.Assign); ok && a.Stage == 0 && lost < c.losses {
				lost++
				w.Provider(id).Kill()
			}
			return true
		}
		w.Run(2 * time.Hour)
		if !c.ends {
			whole(t, w)
		} else if len(w.Results) != 1 || w.Results[0].Err == nil {
			t.Errorf("%d attempts of %d providers are lost: %+v", c.losses, c.stages, w.Results)
		}
	}
}

// Random faults of all kinds: as long as two providers are left in the end, the run ends
// with the undisturbed result.
func TestRandomFaults(t *testing.T) {
	recovered := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := world()
		next := 0
		w.Before = func(int, string, proto.Message) bool {
			if next > 12 || rng.IntN(25) > 0 {
				return true
			}
			ids := w.Alive()
			switch k := rng.IntN(5); {
			case k < 2 || len(ids) < 3:
				w.Join(fmt.Sprintf("n%d", next), "")
			case k == 2:
				w.Provider(ids[rng.IntN(len(ids))]).Kill()
			case k == 3:
				w.Provider(ids[rng.IntN(len(ids))]).Freeze()
			default:
				w.Provider(ids[rng.IntN(len(ids))]).Leave()
			}
			next++
			return true
		}
		w.Run(time.Hour)
		whole(t, w)
		for _, r := range w.Reports {
			if _, ok := r.(run.Recovering); ok {
				recovered++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if recovered < 40 {
		t.Errorf("%d recoveries in all: the test proves little", recovered)
	}
}
