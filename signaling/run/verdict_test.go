package run_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// watched is a world whose host audits its own run, with a liar among its providers.
func watched(every int, clusters int, lies func(p *runtest.Provider, step int) bool) *runtest.World {
	job := run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: 60, Audit: true, AuditEvery: every, AuditSecret: "s"}
	if clusters > 1 {
		job.Want, job.Rounds = 5, runtest.Rounds(2, 2, 1, steps)
	}
	w := runtest.New(run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second}, job, 60)
	if clusters > 1 {
		w.Stages, w.Clusters, w.Hold = 3, 2, true
	}
	w.Lies = lies
	for i := range job.Want + 2 {
		w.JoinAs(fmt.Sprintf("p%d", i), proto.Hello{Key: fmt.Sprintf("%064d", i), Class: proto.ClassFMA}, nil)
	}
	return w
}

// verdicts are what the requester was told of audits.
func verdicts(w *runtest.World) (passed, barred int, back []run.Recovering) {
	for _, r := range w.Reports {
		switch r := r.(type) {
		case run.AuditPassed:
			passed++
		case run.Condemned:
			barred++
		case run.Recovering:
			if r.Back {
				back = append(back, r)
			}
		}
	}
	return passed, barred, back
}

// TestLiarIsBarred: a provider that lies from some step on is barred, whenever that is, in every
// role, and the run ends with the weights of an undisturbed one. With every stretch audited the run
// goes back to the checkpoint before the lie.
func TestLiarIsBarred(t *testing.T) {
	for _, clusters := range []int{1, 2} {
		for liar := range 2 {
			for _, from := range []int{0, 17, 59} {
				for _, slow := range []time.Duration{0, 150 * time.Millisecond, 3 * time.Second} {
					who := fmt.Sprintf("p%d", liar)
					w := watched(1, clusters, func(p *runtest.Provider, step int) bool { return p.ID == who && step >= from })
					w.Auditing = slow
					w.Run(5 * time.Minute)
					whole(t, w)
					_, barred, back := verdicts(w)
					if barred != 1 || len(back) != 1 || int(back[0].Step) > from || !strings.Contains(back[0].Reason, "has lied") {
						t.Fatalf("%d clusters, %s lies from step %d on, an audit takes %v: %d barred, %+v", clusters, who, from, slow, barred, back)
					}
					if from > 20 && slow == 0 && back[0].Step < 20 {
						t.Errorf("a lie of step %d has the run go back to step %d", from, back[0].Step)
					}
					for _, id := range w.Alive() {
						if id == who {
							t.Errorf("%s is still there", who)
						}
					}
				}
			}
		}
	}
}

// TestDoubt: a liar hides behind a link, so that either end may have lied. The two get no link any more,
// and nobody is barred; if the liar goes on with somebody else, it is barred and nobody else.
func TestDoubt(t *testing.T) {
	who := func(i int) run.Who { return run.Who{Name: fmt.Sprintf("node_%d", i), Key: fmt.Sprintf("%064d", i)} }
	for _, clusters := range []int{1, 2} {
		for _, first := range []bool{true, false} {
			for _, restart := range []bool{false, true} {
				w := watched(1, clusters, func(p *runtest.Provider, step int) bool { return p.Hello.Key == who(0).Key && step >= 17 })
				doubts := 0
				w.Doubt = func(c *run.Culprit) {
					doubts++
					with := who(doubts)
					if c.Or = &with; !first { // the honest one is named first, and the liar left out
						c.Who, c.Or = *c.Or, &run.Who{Name: c.Name, Key: c.Key}
					}
				}
				if restart {
					for doubts == 0 && len(w.Results) == 0 {
						w.Run(5 * time.Millisecond)
					}
					w.Run(20 * time.Millisecond)
					if err := w.Restart(run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second}); err != nil {
						t.Fatal(err)
					}
					for i := range 7 {
						w.JoinAs(fmt.Sprintf("q%d", i), proto.Hello{Key: who(i).Key, Class: proto.ClassFMA}, nil)
					}
				}
				w.Plans = func(as []run.Assignment) {
					for _, a := range as {
						for _, b := range as {
							if doubts > 0 && w.Provider(a.MemberID).Hello.Key == who(0).Key && w.Provider(b.MemberID).Hello.Key == who(1).Key {
								t.Errorf("%d clusters, restarted: %v: the two are in one plan again", clusters, restart)
							}
						}
					}
				}
				w.Run(5 * time.Minute)
				whole(t, w)
				_, said, back := verdicts(w)
				want, here := 1, map[string]bool{}
				if first {
					want = 2
				}
				for _, id := range w.Alive() {
					here[w.Provider(id).Hello.Key] = true
				}
				if doubts != want || said != want || len(back) < 1 || here[who(0).Key] == first || !here[who(1).Key] || !here[who(2).Key] {
					t.Fatalf("%d clusters, the liar is named first: %v, restarted: %v: %d doubts, %+v, here are %v", clusters, first, restart, doubts, back, here)
				}
			}
		}
	}
}

// TestLiarLendsMany: all that train lie, and are lent under one key, or each under its own. With one key the
// first that is found bars all. Where either of two of its own may have lied it goes on for a while, and is
// barred then.
func TestLiarLendsMany(t *testing.T) {
	for name, c := range map[string]struct {
		own, doubt bool
		most       int // times that the run goes back
	}{
		"one key": {false, false, 1}, "ten keys": {true, false, 10}, "one key, in doubt": {false, true, 4},
	} {
		for _, clusters := range []int{1, 2} {
			w := watched(1, clusters, func(p *runtest.Provider, step int) bool { return p.Hello.Key[0] == 'f' && step >= 17 })
			for i := range 10 {
				key := fmt.Sprintf("f%063d", 0)
				if c.own {
					key = fmt.Sprintf("f%063d", i)
				}
				w.JoinAs(fmt.Sprintf("l%d", i), proto.Hello{Key: key, Class: proto.ClassFMA}, nil)
			}
			w.After(200*time.Millisecond, func() { // those that train are lost, and their spares
				for _, id := range w.Alive() {
					if w.Provider(id).Hello.Key[0] != 'f' {
						w.Provider(id).Kill()
					}
				}
			})
			w.After(20*time.Second, func() {
				for i := range 5 {
					w.JoinAs(fmt.Sprintf("q%d", i), proto.Hello{Key: fmt.Sprintf("%064d", 20+i), Class: proto.ClassFMA}, nil)
				}
			})
			var placed []*runtest.Provider
			w.Plans = func(as []run.Assignment) {
				placed = nil
				for _, a := range as {
					placed = append(placed, w.Provider(a.MemberID))
				}
			}
			if c.doubt {
				w.Doubt = func(c *run.Culprit) {
					for _, p := range placed {
						if p.Name != c.Name && p.Hello.Key == c.Key {
							c.Or = &run.Who{Name: p.Name, Key: p.Hello.Key}
						}
					}
				}
			}
			w.Run(5 * time.Minute)
			whole(t, w)
			if _, found, back := verdicts(w); found == 0 || len(back) > c.most {
				t.Errorf("%s, %d clusters: %d findings, %d times back", name, clusters, found, len(back))
			} else {
				t.Logf("%s, %d clusters: %d findings, %d times back", name, clusters, found, len(back))
			}
		}
	}
}

// TestLiarOfSomeRounds: where audits are drawn, the run goes back to where the liar came, since what
// it did in rounds that nobody computed again is not known.
func TestLiarOfSomeRounds(t *testing.T) {
	w := watched(3, 1, func(p *runtest.Provider, step int) bool { return p.ID == "p9" && step >= 25 })
	w.After(150*time.Millisecond, func() {
		w.JoinAs("p9", proto.Hello{Key: strings.Repeat("9", 64), Class: proto.ClassFMA}, nil)
		for _, id := range []string{"p1", "p2", "p3"} {
			w.Provider(id).Kill()
		}
	})
	w.Run(5 * time.Minute)
	whole(t, w)
	passed, barred, back := verdicts(w)
	if barred != 1 || len(back) != 1 || back[0].Step == 0 || back[0].Step > 25 {
		t.Fatalf("%d passed, %d barred, %+v", passed, barred, back)
	}
}

// TestVerdictAtEveryMessage: a liar is found while a provider is lost at any message, or the host is
// restarted with what it has stored.
func TestVerdictAtEveryMessage(t *testing.T) {
	lies := func(p *runtest.Provider, step int) bool { return p.ID == "p0" && step >= 17 }
	stride := 5
	if testing.Short() {
		stride = 29
	}
	for _, clusters := range []int{1, 2} {
		plain := watched(1, clusters, lies)
		plain.Run(5 * time.Minute)
		whole(t, plain)
		for _, kill := range []bool{true, false} {
			for at := 0; at < plain.Messages(); at += stride {
				w := watched(1, clusters, lies)
				w.Auditing = 40 * time.Millisecond
				w.Before = func(i int, _ string, _ proto.Message) bool {
					if i == at {
						if p := w.Provider("p1"); kill {
							p.Kill()
						} else {
							p.Drop(300 * time.Millisecond)
						}
					}
					return true
				}
				w.Run(5 * time.Minute)
				whole(t, w)
				if _, barred, _ := verdicts(w); barred != 1 {
					t.Errorf("%d are barred", barred)
				}
				if t.Failed() {
					t.Fatalf("%d clusters, p1 lost (%v) at message %d of %d", clusters, kill, at, plain.Messages())
				}
			}
		}
	}
}

// TestVerdictAfterRestart: a host that is killed and started again knows whom it has barred and to
// where it can go back.
func TestVerdictAfterRestart(t *testing.T) {
	set := run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second}
	for _, at := range []time.Duration{250 * time.Millisecond, 350 * time.Millisecond, 600 * time.Millisecond} {
		w := watched(1, 1, func(p *runtest.Provider, step int) bool { return p.ID == "p0" && step >= 17 })
		w.Run(at)
		if len(w.Results) > 0 {
			t.Fatalf("the run is over after %v", at)
		}
		if err := w.Restart(set); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			w.JoinAs(fmt.Sprintf("q%d", i), proto.Hello{Key: fmt.Sprintf("%064d", i), Class: proto.ClassFMA}, nil)
		}
		w.Run(5 * time.Minute)
		whole(t, w)
		if _, barred, _ := verdicts(w); barred != 1 {
			t.Errorf("restarted after %v: %d are barred", at, barred)
		}
	}
}

// TestHonestAudits: audits of an honest run change nothing but that its end waits for the last.
func TestHonestAudits(t *testing.T) {
	for _, every := range []int{1, 4} {
		w := watched(every, 2, nil)
		w.Auditing = 700 * time.Millisecond
		w.Run(5 * time.Minute)
		whole(t, w)
		passed, barred, _ := verdicts(w)
		if passed == 0 || barred != 0 {
			t.Errorf("every %d: %d audits, %d barred", every, passed, barred)
		}
		last := uint64(0)
		for _, r := range w.Reports {
			if a, ok := r.(run.AuditPassed); ok && every == 1 {
				if a.From != last {
					t.Errorf("steps %d to %d were not audited", last, a.From)
				}
				last = a.To
			}
		}
		if every == 1 && last != 60 {
			t.Errorf("audited up to step %d of 60", last)
		}
	}
}
