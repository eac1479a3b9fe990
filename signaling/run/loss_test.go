package run

// Providers that leave, fail, fall silent or stand still while they train.

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

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

// TestRoundIsNobodys: where clusters do not agree about a round, whoever finds that is not to blame,
// nor is anybody else who cannot be told to be.
func TestRoundIsNobodys(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p2", Msg: &proto.Failed{Run: "j-1", Stage: 2, Error: "a scale is smaller than it was", Kind: proto.FailedRound}})
	if e, ok := event[Recovering](r); !ok || !strings.Contains(e.Reason, "smaller than it was") {
		t.Errorf("%+v", e)
	}
	for name, s := range r.l.Strikes {
		if s.Count > 0 {
			t.Errorf("%s is blamed", name)
		}
	}
}

// TestDisagreement: where clusters do not agree about a round again and again, the run goes on with one,
// until something is saved.
func TestDisagreement(t *testing.T) {
	r := newRig(t, nil)
	j := job()
	j.Replan = true
	r.step(Submit{Job: *j})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	ids := []string{"p0", "p1", "p2"}
	for i := range 4 {
		p, _ := find[AskPlan](r)
		if p.Single != (i >= maxDisagreed) || p.Single && !p.Free {
			t.Fatalf("after %d disagreements asked for %+v", i, p)
		}
		r.start(fmt.Sprintf("j-%d", i+1), ids...)
		r.step(Message{ID: "p1", Msg: &proto.Failed{Run: fmt.Sprintf("j-%d", i+1), Stage: 1, Error: "a scale is smaller than it was", Kind: proto.FailedRound}})
	}
}

// TestCannotConnect: two providers that cannot connect are placed apart, and nobody is blamed. Where
// there is no other plan they are asked to once more, and if they fail again, one of them is out.
func TestCannotConnect(t *testing.T) {
	fail := func(r *rig, run string, a, b, stage int) {
		id := func(k int) string { return fmt.Sprintf("p%d", k) }
		r.step(Message{ID: id(a), Msg: &proto.Failed{Run: run, Stage: stage, Error: "no connection to " + id(b), Kind: proto.FailedPeer, Peer: id(b)}})
		r.pong(id(b))
		r.step(Message{ID: id(b), Msg: &proto.Failed{Run: run, Stage: stage + 1, Error: "no connection to " + id(a), Kind: proto.FailedPeer, Peer: id(a)}})
	}
	blamed := func(r *rig) (n int) {
		for _, s := range r.l.Strikes {
			n += s.Count
		}
		return n
	}
	for _, spare := range []bool{true, false} {
		r := newRig(t, nil)
		j := job()
		j.Replan = true
		r.step(Submit{Job: *j})
		for i := range 3 {
			r.join(fmt.Sprintf("p%d", i), "")
		}
		p, _ := find[AskPlan](r)
		if len(p.Apart) > 0 {
			t.Fatalf("%+v", p)
		}
		r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
		r.phase(Connecting)
		if spare {
			r.join("p3", "")
		}
		fail(r, "j-1", 1, 2, 1)
		r.phase(Planning)
		p, _ = find[AskPlan](r)
		if len(p.Apart) != 1 || p.Apart[0] != [2]string{"p1", "p2"} || !p.Free || blamed(r) > 0 {
			t.Fatalf("asked for %+v, %d blamed", p, blamed(r))
		}
		if spare {
			r.step(Plan{Seq: p.Seq, Placed: inOrder([]Member{p.Pool[0], p.Pool[1], p.Pool[3]})})
			for _, id := range []string{"p0", "p1", "p3"} {
				r.step(Message{ID: id, Msg: &proto.Ready{Run: "j-2", Peak: 5}})
			}
			r.phase(Running)
			continue
		}
		r.step(Plan{Seq: p.Seq, Err: errors.New("two cannot hold it"), Wait: true})
		r.phase(Planning)
		if p, _ = find[AskPlan](r); len(p.Apart) != 0 || len(p.Pool) != 3 {
			t.Fatalf("asked for %+v", p)
		}
		r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
		r.phase(Connecting)
		fail(r, "j-2", 1, 2, 1)
		if blamed(r) != 1 {
			t.Errorf("%d are blamed: %+v", blamed(r), r.l.Strikes)
		}
		// In time it is forgotten.
		r.now = r.now.Add(banned)
		if got := r.l.unlinked(r.now, p.Pool); len(got) > 0 {
			t.Errorf("still apart are %v", got)
		}
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
		if got, want := r.l.accused(r.l.Members["p2"], r.l.names()[peer]), []string{"node_0", "node_2"}[i]; got != want {
			t.Errorf("node_2 accuses %s: %s is blamed, want %s", peer, got, want)
		}
	}
}

// TestOwnersAreBlamed: whose links break is told by owners: two providers of one machine are one that is
// accused, and one that accuses.
func TestOwnersAreBlamed(t *testing.T) {
	r := started(t, nil)
	at := func(i int, key string) *member {
		x := r.l.Members[fmt.Sprintf("p%d", i)]
		x.Hello.Key = key
		return x
	}
	a, b, c := at(0, "1"), at(1, "1"), at(2, "2")
	for _, peer := range []*member{a, b} {
		if got := r.l.accused(c, peer); got != peer.Name {
			t.Errorf("node_2 accuses %s: %s is blamed", peer.Name, got)
		}
	}
	r.l.gone(a.who()) // node_2 was right, about both
	if n := len(r.l.Strikes["node_2"].Accusing); n != 0 {
		t.Errorf("node_2 is told to have accused %d", n)
	}
	r.l.Strikes = map[string]*strike{}
	for _, from := range []*member{a, b} {
		r.l.strikeOf(from.Name).Accusing = []string{"somebody"}
		if got := r.l.accused(from, c); got != from.Name {
			t.Errorf("%s, who accuses all, accuses node_2: %s is blamed", from.Name, got)
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

// TestInquest: in a run that audits itself nobody's word ends it. It is computed again what led to the
// number, and who is to blame is barred, or left out, if that cannot be told; where the job comes to it, the run ends.
func TestInquest(t *testing.T) {
	open := []proto.Digest{{Step: 31, Sums: strings.Repeat("0", 64), Open: []int{1, 0, 0, 0}}}
	for name, c := range map[string]struct {
		peer string
		told bool // what it got last
		kind proto.Kind
		e    Audited
		bars string // "": nobody
		out  int    // are struck
		ends bool
	}{
		"it comes again":              {peer: "p0", kind: proto.FailedDiverged, e: Audited{Diverges: true}, ends: true},
		"another has lied":            {peer: "p0", kind: proto.FailedDiverged, e: Audited{Culprits: []Culprit{{Who: Who{Name: "node_0"}, What: "it lies"}}}, bars: "node_0"},
		"it was sent the number":      {peer: "p0", told: true, kind: proto.FailedDiverged, out: 2},
		"it makes it up":              {told: true, kind: proto.FailedDiverged, bars: "node_1"},
		"what it got is not known":    {kind: proto.FailedDiverged, out: 1},
		"what it takes is gone":       {told: true, kind: proto.FailedDiverged, e: Audited{Gone: true, Err: errors.New("gone")}, out: 1},
		"clusters do not agree":       {kind: proto.FailedRound, e: Audited{Culprits: []Culprit{{Who: Who{Name: "node_0"}, What: "it lies"}}}, bars: "node_0"},
		"and it is not known why":     {kind: proto.FailedRound},
		"nor does that end the run":   {kind: proto.FailedRound, e: Audited{Diverges: true}},
		"the audit itself is refused": {kind: proto.FailedRound, e: Audited{Err: errors.New("no room")}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			j := job()
			j.Replan, j.Audit, j.AuditEvery, j.Want = true, true, 1, 2
			r.step(Submit{Job: *j})
			r.join("p0", "")
			r.join("p1", "")
			r.start("j-1", "p0", "p1")
			r.join("p2", "")
			r.join("p3", "")
			if c.told {
				r.step(Message{ID: "p1", Msg: &proto.Progress{Run: "j-1", Stage: 1, Step: 31, Digests: open}})
			}
			r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "an activation is NaN", Kind: c.kind, Peer: c.peer}})
			if _, ok := event[Recovering](r); !ok {
				t.Fatal("the attempt goes on")
			}
			r.phase(Gathering)
			r.step(Message{ID: "p0", Msg: &proto.Progress{Run: "j-1", Digests: open}}) // it still says where it was
			if !strings.Contains(string(r.l.Log.Open), `{"run":"j-1","said":{"cluster":0,"stage":0,`) {
				t.Errorf("what the other stage said last is not kept: %s", r.l.Log.Open)
			}
			r.phase(Gathering) // there is no plan before it is known why the last attempt failed
			r.silence(settle, "p0", "p1", "p2", "p3")
			ask, ok := find[AskAudit](r)
			if !ok || ask.Failed != "j-1" || ask.To != nil || ask.Until < 32 {
				t.Fatalf("%+v", ask)
			}
			b, err := r.l.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if r.l, err = Restore(Settings{}, b); err != nil {
				t.Fatal(err)
			}
			c.e.Seq = ask.Seq
			r.step(c.e)
			f, ended := find[Finish](r)
			if ended != c.ends || ended && !errors.Is(f.Err, ErrDiverged) {
				t.Fatalf("the run has ended: %v, %v", ended, f.Err)
			}
			if ended {
				return
			}
			if e, ok := event[Condemned](r); ok != (c.bars != "") || ok && e.Name != c.bars {
				t.Errorf("barred is %+v", e)
			}
			out := 0
			for _, s := range r.l.Strikes {
				out += s.Count
			}
			if out != c.out {
				t.Errorf("%d are left out", out)
			}
			r.phase(Planning)
		})
	}
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
	r := clusters(t)
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

// TestHungStageIsFound: a stage that computes and comes no further is found after some times of what a
// batch takes, as forecast or as seen, and nobody is who is only slow, or waits.
func TestHungStageIsFound(t *testing.T) {
	const hung = 1
	for name, tc := range map[string]struct {
		forecast float64 // rows a second; a batch has 64
		seen     int64   // rows until then, in 20 s
		slow     bool    // a kernel ends every 4 s
		quiet    bool    // its reports do not come
		idle     bool    // nobody computes
		old      bool    // work is not told
		after    int     // seconds; 30: as without a forecast
	}{
		"quick":                     {forecast: 640, seen: 12800, after: 5},
		"slow as forecast":          {forecast: 32, seen: 2000, after: 24},
		"slower than forecast":      {forecast: 6400, seen: 1280, after: 12},
		"no forecast":               {seen: 12800, after: 5},
		"neither forecast nor seen": {after: 30},
		"busy with other things":    {forecast: 640, seen: 12800, slow: true, after: 30},
		"waiting for the platform":  {forecast: 640, seen: 12800, idle: true, after: 30},
		"without reports":           {forecast: 640, seen: 12800, quiet: true, after: 30},
		"reports without work":      {forecast: 640, seen: 12800, old: true, after: 30},
	} {
		t.Run(name, func(t *testing.T) {
			r := started(t, nil)
			r.l.Job.Rows = 64
			for k := range 3 {
				r.l.Members[fmt.Sprint("p", k)].Place.Forecast = tc.forecast
			}
			var work [3]int64
			report := func(s, moved int64, done bool) {
				for k := range 3 {
					m := &proto.Progress{Run: "j-1", Stage: k, Samples: tc.seen * min(s, 20) / 20, In: moved, Out: moved, Work: work[k], Busy: 0.3}
					if tc.old {
						m.Work = 0
					}
					if done { // the pipeline stands still
						if m.Busy = 0; k == hung && !tc.idle {
							m.Busy = 1
						}
						if k == hung {
							m.In += 10 // it has what it needs
						}
					}
					if !done || k != hung || !tc.quiet {
						r.step(Message{ID: fmt.Sprint("p", k), Msg: m})
					}
				}
			}
			for s := range int64(20) {
				r.silence(time.Second, "p0", "p1", "p2")
				for k := range work {
					work[k] += 100
				}
				report(s+1, s+1, false)
			}
			for s := 0; ; s++ {
				if s == 60 || s > tc.after+2 {
					t.Fatalf("not found after %d s", s)
				}
				if tc.slow && s%4 == 3 {
					work[hung]++
				}
				r.silence(time.Second, "p0", "p1", "p2")
				report(20, 20, true)
				if r.l.Phase != Running {
					if s+1 < tc.after {
						t.Errorf("found after %d s, want %d", s+1, tc.after)
					}
					break
				}
			}
			r.recovering("node_1", "stuck")
		})
	}
}

// TestHungAmongClusters: the stage that hangs is of the cluster for which the other one waits in the
// middle of an average.
func TestHungAmongClusters(t *testing.T) {
	r := clusters(t)
	r.l.Job.Rows = 1
	for s := range int64(20) {
		r.silence(time.Second, "p0", "p1", "p2")
		if r.l.Phase != Running {
			break
		}
		for k, stage := range []int{0, 0, 1} {
			m := &proto.Progress{Run: "j-1", Stage: stage, Step: 4, Samples: 100, Work: min(s, 2) + 1}
			if k == 2 && s > 2 {
				m.Busy = 1
			}
			r.step(Message{ID: fmt.Sprint("p", k), Msg: m})
		}
	}
	r.recovering("node_2", "stuck", "it computes")
}

// watching brings two providers of a run that audits itself to running, with two spares.
func watching(t *testing.T, steps int64) *rig {
	r := newRig(t, nil)
	j := job()
	j.Replan, j.Audit, j.AuditEvery, j.Want, j.Steps = true, true, 1, 2, steps
	r.step(Submit{Job: *j})
	r.join("p0", "")
	r.join("p1", "")
	r.start("j-1", "p0", "p1")
	r.join("p2", "")
	r.join("p3", "")
	return r
}

// TestInquestOfWhatIsFalse: an attempt that went on from a checkpoint which an audit finds to be false is
// not computed again: all that the honest did in it would look wrong.
func TestInquestOfWhatIsFalse(t *testing.T) {
	r := watching(t, 0)
	r.saveAt(10, 0, 1)
	r.commit(nil)
	a, ok := find[AskAudit](r)
	if !ok || a.To == nil {
		t.Fatalf("%+v", a)
	}
	r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "an activation is NaN", Kind: proto.FailedDiverged, Peer: "p0"}})
	r.silence(settle, "p0", "p1", "p2", "p3")
	r.acts = nil
	r.step(Audited{Seq: a.Seq, Culprits: []Culprit{{Who: Who{Name: "node_0"}, What: "it lies"}}})
	r.silence(settle, "p1", "p2", "p3")
	if ask, ok := find[AskAudit](r); ok {
		t.Errorf("%+v is asked for", ask)
	}
	r.phase(Planning)
}

// TestInquestEnds: who reports a failure cannot have the host compute all of the run by saying that it
// happened far ahead.
func TestInquestEnds(t *testing.T) {
	r := watching(t, 1e9)
	r.step(Message{ID: "p0", Msg: &proto.Progress{Run: "j-1", Step: 40}})
	r.step(Message{ID: "p1", Msg: &proto.Progress{Run: "j-1", Stage: 1, Step: 5e8, Losses: []proto.Loss{{Step: 5e8}}}})
	r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "an activation is NaN", Kind: proto.FailedDiverged}})
	r.silence(settle, "p0", "p1", "p2", "p3")
	if a, ok := find[AskAudit](r); !ok || a.Failed != "j-1" || a.Until < 40 || a.Until > 10_000 {
		t.Errorf("%+v", a)
	}
}

// TestEndWaitsForTheAudit: who leaves when all is saved does not end the run before what was trained last
// is known to be right.
func TestEndWaitsForTheAudit(t *testing.T) {
	for _, right := range []bool{true, false} {
		r := watching(t, 10)
		r.saveAt(10, 0, 1)
		r.commit(nil)
		a, _ := find[AskAudit](r)
		r.step(Message{ID: "p1", Msg: &proto.Done{Run: "j-1", Stage: 1, Step: 10}})
		r.step(Leave{ID: "p0", Reason: "the connection broke"})
		r.silence(2*time.Minute, "p1", "p2", "p3")
		if f, ok := find[Finish](r); ok {
			t.Fatalf("the run ended, and the last audit has not: %+v", f)
		}
		e := Audited{Seq: a.Seq}
		if !right {
			e.Culprits = []Culprit{{Who: Who{Name: "node_0"}, What: "it lies"}}
		}
		r.step(e)
		if f, ok := find[Finish](r); ok != right || f.Err != nil {
			t.Errorf("it is right: %v; the run has ended: %v, %v", right, ok, f.Err)
		}
	}
}

// spareChecks is a run at step 10 of 20, of which the spare p2 computes the beginning again.
func spareChecks(t *testing.T) *rig {
	r := newRig(t, nil)
	j := job()
	j.Replan, j.Audit, j.AuditEvery, j.AuditSpares, j.Want, j.Steps = true, true, 1, true, 2, 20
	r.step(Submit{Job: *j})
	r.join("p0", "")
	r.join("p1", "")
	r.start("j-1", "p0", "p1")
	r.join("p2", "")
	r.saveAt(10, 0, 1)
	r.commit(nil)
	r.step(Stretched{Seq: 1, Stretch: Stretch{Graph: proto.Ref{SHA256: sumA, Size: 1}, Stretches: []proto.Stretch{{Until: 10, Plans: []json.RawMessage{json.RawMessage(`{}`)}}}}})
	if a, ok := r.last("p2").(*proto.Assign); !ok || a.Check == nil {
		t.Fatalf("the spare was sent %+v", r.last("p2"))
	}
	return r
}

// TestInquestIsNotHeldUp: while it is found out why an attempt has failed nobody trains, so that is not put
// off until a spare has computed what the host computes then, too.
func TestInquestIsNotHeldUp(t *testing.T) {
	r := spareChecks(t)
	r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "an activation is NaN", Kind: proto.FailedDiverged}})
	if s, ok := r.last("p2").(*proto.Stop); !ok || s.Run != "j-a1" {
		t.Errorf("the spare was sent %+v", r.last("p2"))
	}
	r.silence(settle, "p0", "p1", "p2")
	a, ok := find[AskAudit](r)
	if !ok || a.Failed != "j-1" || a.From != nil || a.Last == nil {
		t.Fatalf("%v: %+v", ok, a)
	}
	r.step(Message{ID: "p2", Msg: &proto.Done{Run: "j-a1", Step: 10}}) // too late
	r.step(Audited{Seq: a.Seq})
	if s, ok := find[AskStretch](r); !ok || s.Seq <= a.Seq || s.To.Position.Step != 10 {
		t.Errorf("%v: %+v: what it was about is not computed again", ok, s)
	}
}

// TestCheckEnds: a spare that says that it comes on, and never comes to the end of a stretch, does not hold
// up the run: the host computes it, and nobody is blamed.
func TestCheckEnds(t *testing.T) {
	say := map[string]func(i int64) proto.Message{
		"fetching":  func(i int64) proto.Message { return &proto.Fetching{Run: "j-a1", Have: i, Want: 1 << 40} },
		"ready":     func(int64) proto.Message { return &proto.Ready{Run: "j-a1"} },
		"computing": func(i int64) proto.Message { return &proto.Progress{Run: "j-a1", Step: i} },
	}
	for name, say := range say {
		r := spareChecks(t)
		if name == "computing" {
			r.step(Message{ID: "p2", Msg: &proto.Ready{Run: "j-a1"}})
		}
		ok := false
		for i := int64(1); i < 120 && !ok; i++ {
			r.step(Message{ID: "p2", Msg: say(i)})
			for _, id := range []string{"p0", "p1"} {
				r.step(Message{ID: id, Msg: &proto.Progress{Run: "j-1", Stage: int(id[1] - '0'), Step: i, In: i, Out: i}})
			}
			r.silence(10*time.Second, "p0", "p1", "p2")
			_, ok = find[AskAudit](r)
		}
		if !ok {
			t.Errorf("%s: the spare still computes after 20 minutes", name)
		}
		if len(r.l.Strikes) > 0 && name != "ready" {
			t.Errorf("%s: %d are blamed", name, len(r.l.Strikes))
		}
	}
}

// TestSavedAgain: a checkpoint that another attempt saves again before it trains anything is right only
// if it is the same, or somebody has computed that one, too.
func TestSavedAgain(t *testing.T) {
	for _, same := range []bool{true, false} {
		for _, late := range []bool{true, false} { // the audit ends when it is saved again
			r := watching(t, 40)
			r.saveAt(10, 0, 1)
			r.commit(nil)
			a, _ := find[AskAudit](r)
			if !late {
				r.step(Audited{Seq: a.Seq})
			}
			r.step(Leave{ID: "p3", Reason: "the connection broke"})
			r.step(Leave{ID: "p2", Reason: "the connection broke"})
			r.step(Message{ID: "p1", Msg: &proto.Failed{Run: "j-1", Stage: 1, Error: "no reason", Kind: proto.FailedBlob}})
			r.now = r.now.Add(3 * time.Second)
			r.pong("p0")
			r.pong("p1")
			r.step(Tick{})
			r.start("j-2", "p0", "p1")
			for i, id := range []string{"p0", "p1"} {
				sha := fmt.Sprintf("%064x", 160+i)
				if !same && i == 0 {
					sha = strings.Repeat("f", 64)
				}
				object, err := r.grant(id, "j-2", i, sha)
				if err != nil {
					t.Fatal(err)
				}
				ref := proto.Ref{SHA256: sha, Size: 10}
				r.step(Upload{ID: id, Run: "j-2", Stage: i, Object: object, Blob: ref})
				r.step(UploadEnd{ID: id})
				r.step(Message{ID: id, Msg: &proto.Saved{Run: "j-2", Stage: i, Step: 10, Epoch: 1, Blob: ref}})
			}
			r.acts = nil
			r.step(Commit{Run: "j"})
			if late {
				r.step(Audited{Seq: a.Seq})
			}
			if b, ok := find[AskAudit](r); ok == same || ok && (b.From != nil || b.To.Run != "j-2") {
				t.Errorf("the same: %v, late: %v: asked %v: %+v", same, late, ok, b)
			}
		}
	}
}

// TestNothingLeft: who is lost when everything is saved, but not yet done, does not fail the run: the next
// attempt has nothing to train, and saves nothing.
func TestNothingLeft(t *testing.T) {
	r := watching(t, 10)
	r.saveAt(10, 0, 1)
	r.commit(nil)
	a, _ := find[AskAudit](r)
	r.step(Leave{ID: "p3", Reason: "the connection broke"})
	r.step(Leave{ID: "p1", Reason: "the connection broke"})
	r.silence(2*time.Second, "p0", "p2")
	r.start("j-2", "p0", "p2")
	r.done("j-2", "p0", "p2")
	r.silence(2*time.Minute, "p0", "p2")
	r.goesOn()
	r.step(Audited{Seq: a.Seq})
	if f, ok := find[Finish](r); !ok || f.Err != nil {
		t.Errorf("the run has ended: %v, %v", ok, f.Err)
	}
}

// done has the stages of a run of ten steps say that they are done.
func (r *rig) done(run string, ids ...string) {
	for i, id := range ids {
		r.step(Message{ID: id, Msg: &proto.Done{Run: run, Stage: i, Step: 10}})
	}
}

// goesOn fails if the run has ended before its last audit.
func (r *rig) goesOn() {
	r.t.Helper()
	if f, ok := find[Finish](r); ok {
		r.t.Fatalf("the run ended before its last audit: %v", f.Err)
	}
}

// TestLastAuditAfterRestart: a host that is started anew when only the last audit was left makes it.
func TestLastAuditAfterRestart(t *testing.T) {
	r := watching(t, 10)
	r.saveAt(10, 0, 1)
	r.commit(nil)
	j, e := r.l.Earlier()
	next := newRig(t, nil)
	next.step(Submit{Job: *j, Earlier: e})
	a, ok := find[AskAudit](next)
	if !ok || a.From != nil || a.To.Position.Step != 10 {
		t.Fatalf("%v: %+v", ok, a)
	}
	next.join("p4", "")
	next.join("p5", "")
	next.start("j-2", "p4", "p5")
	next.done("j-2", "p4", "p5")
	next.goesOn()
	next.step(Audited{Seq: a.Seq})
	if f, ok := find[Finish](next); !ok || f.Err != nil {
		t.Errorf("the run has ended: %v, %v", ok, f.Err)
	}
}

// TestStopBeforeTheLastAudit: who stops a run of which only the last audit is left has its result.
func TestStopBeforeTheLastAudit(t *testing.T) {
	r := watching(t, 10)
	r.saveAt(10, 0, 1)
	r.commit(nil)
	r.done("j-1", "p0", "p1")
	r.goesOn()
	r.step(StopRequest{Mode: proto.Graceful, Reason: "interrupt"})
	r.silence(10*time.Second, "p0", "p1", "p2", "p3")
	if f, ok := find[Finish](r); !ok || f.Err != nil || f.Result.Checkpoint == nil {
		t.Errorf("the run has ended: %v, %v", ok, f.Err)
	}
}
