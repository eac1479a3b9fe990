package run_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// checked is a world whose spares compute again what others train, with so many of them.
func checked(clusters, spares int, record bool, lies func(p *runtest.Provider, step int) bool) *runtest.World {
	job := run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: 60, Audit: true, AuditEvery: 1, AuditSecret: "s", AuditSpares: true}
	if clusters > 1 {
		job.Want, job.Rounds = 5, runtest.Rounds(2, 2, 1, steps)
	}
	set := run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second}
	begin := runtest.New
	if record {
		begin = runtest.Recorded
	}
	w := begin(set, job, 60)
	if clusters > 1 {
		w.Stages, w.Clusters, w.Hold = 3, 2, true
	}
	w.Lies = lies
	for i := range job.Want + spares {
		w.JoinAs(fmt.Sprintf("p%d", i), proto.Hello{Key: fmt.Sprintf("%064d", i), Class: proto.ClassFMA}, nil)
	}
	return w
}

// by lists who has found stretches to be right; "": the host.
func by(w *runtest.World) (who []string) {
	for _, r := range w.Reports {
		if a, ok := r.(run.AuditPassed); ok && !slices.Contains(who, a.By) {
			who = append(who, a.By)
		}
	}
	return who
}

// checker is the provider that computes a stretch; nil: none does.
func checker(w *runtest.World) *runtest.Provider {
	for _, id := range w.Alive() {
		p := w.Provider(id)
		for i := len(p.Told) - 1; i >= 0; i-- {
			if a, ok := p.Told[i].(*proto.Assign); ok {
				if a.Check != nil {
					return p
				}
				break
			}
		}
	}
	return nil
}

// TestSparesCheck: of an honest run the host computes nothing again, and every step is.
func TestSparesCheck(t *testing.T) {
	for _, clusters := range []int{1, 2} {
		w := checked(clusters, 2, false, nil)
		w.Auditing = 90 * time.Millisecond
		w.Run(5 * time.Minute)
		whole(t, w)
		passed, barred, _ := verdicts(w)
		if who := by(w); passed == 0 || barred != 0 || w.Audited != 0 || len(who) == 0 || slices.Contains(who, "") {
			t.Errorf("%d clusters: %d audits, %d of them by the host, the others by %q; %d barred", clusters, passed, w.Audited, who, barred)
		}
		last := uint64(0)
		for _, r := range w.Reports {
			if a, ok := r.(run.AuditPassed); ok {
				if a.From != last {
					t.Errorf("%d clusters: steps %d to %d were not computed again", clusters, last, a.From)
				}
				last = a.To
			}
		}
		if last != 60 {
			t.Errorf("%d clusters: computed again up to step %d of 60", clusters, last)
		}
	}
}

// TestSparesFindLiars: a liar is found by spares, and barred by the host, which then computes what is
// wrong and nothing else.
func TestSparesFindLiars(t *testing.T) {
	for _, clusters := range []int{1, 2} {
		for _, from := range []int{0, 17, 59} {
			w := checked(clusters, 3, false, func(p *runtest.Provider, step int) bool { return p.ID == "p1" && step >= from })
			w.Run(5 * time.Minute)
			whole(t, w)
			_, barred, back := verdicts(w)
			if barred != 1 || len(back) != 1 || int(back[0].Step) > from || w.Audited != 1 {
				t.Errorf("%d clusters, a lie at step %d: %d barred, the host has computed %d stretches, %+v", clusters, from, barred, w.Audited, back)
			}
			if slices.Contains(w.Alive(), "p1") {
				t.Errorf("%d clusters: the liar is still there", clusters)
			}
		}
	}
}

// TestLyingSpare: a spare that says something else comes of what is right is barred, and nothing is
// trained again.
func TestLyingSpare(t *testing.T) {
	w := checked(1, 3, false, nil)
	var liar string
	w.Denies = func(p *runtest.Provider) bool {
		if liar == "" {
			liar = p.ID
		}
		return p.ID == liar
	}
	w.Run(5 * time.Minute)
	whole(t, w)
	passed, barred, back := verdicts(w)
	if barred != 1 || len(back) != 0 || w.Audited != 1 || passed < 2 || slices.Contains(w.Alive(), liar) {
		t.Errorf("%s lies: %d barred, the host has computed %d stretches, %d passed, %+v", liar, barred, w.Audited, passed, back)
	}
	attempts := 0
	for _, r := range w.Reports {
		switch r := r.(type) {
		case run.Planned:
			attempts++
		case run.Condemned:
			if r.Name != w.Provider(liar).Name || !strings.Contains(r.What, "is not what the job makes") {
				t.Errorf("condemned: %+v", r)
			}
		}
	}
	if attempts != 1 {
		t.Errorf("%d attempts", attempts)
	}
}

// TestSpareIsLost: whatever becomes of a spare while it computes, another one does, or the host.
func TestSpareIsLost(t *testing.T) {
	for name, lose := range map[string]func(w *runtest.World, p *runtest.Provider){
		"killed":  func(_ *runtest.World, p *runtest.Provider) { p.Kill() },
		"leaves":  func(_ *runtest.World, p *runtest.Provider) { p.Leave() },
		"frozen":  func(_ *runtest.World, p *runtest.Provider) { p.Freeze() },
		"dropped": func(_ *runtest.World, p *runtest.Provider) { p.Drop(300 * time.Millisecond) },
		"needed": func(w *runtest.World, p *runtest.Provider) { // it takes the place of one who is lost
			for _, id := range w.Alive() {
				if o := w.Provider(id); o != p && len(w.Alive()) > 2 {
					o.Kill()
				}
			}
		},
	} {
		for _, spares := range []int{1, 3} {
			w := checked(1, spares, false, nil)
			w.Auditing = 80 * time.Millisecond
			for checker(w) == nil && len(w.Results) == 0 {
				w.Run(5 * time.Millisecond)
			}
			w.Run(20 * time.Millisecond)
			if p := checker(w); p == nil {
				t.Fatalf("%s: nobody computes anything again", name)
			} else {
				lose(w, p)
			}
			w.Run(10 * time.Minute)
			whole(t, w)
			if _, barred, back := verdicts(w); barred != 0 || len(back) != 0 {
				t.Errorf("%s, %d spares: %d barred, %+v", name, spares, barred, back)
			}
			if host := slices.Contains(by(w), ""); host == (spares > 1) && name != "dropped" && name != "needed" {
				t.Errorf("%s, %d spares: the host computed: %v", name, spares, host)
			}
		}
	}
}

// TestSparesOfTrainers: who lends a trainer is not asked what is right by others that it lends.
func TestSparesOfTrainers(t *testing.T) {
	w := checked(1, 0, false, func(p *runtest.Provider, step int) bool { return p.ID == "p1" && step >= 17 })
	for i := range 10 {
		w.JoinAs(fmt.Sprintf("p%d", 2+i), w.Provider("p1").Hello, nil)
	}
	honest := proto.Hello{Key: strings.Repeat("7", 64), Class: proto.ClassFMA}
	w.After(30*time.Millisecond, func() { w.JoinAs("q", honest, nil) })
	w.Run(5 * time.Minute)
	whole(t, w)
	who := by(w)
	_, barred, back := verdicts(w)
	if barred != 1 || len(back) != 1 || back[0].Step > 17 {
		t.Errorf("%d barred, %+v", barred, back)
	}
	for _, id := range w.Alive() {
		if k := w.Provider(id).Hello.Key; k == w.Provider("p1").Hello.Key {
			t.Errorf("%s of the liar's is still there", id)
		}
	}
	for _, name := range who {
		if name != "" && name != w.Provider("q").Name {
			t.Errorf("%s of the liar's was asked", name)
		}
	}
}

// TestHostChecksItself: where no spare can compute a stretch, the host does.
func TestHostChecksItself(t *testing.T) {
	w := checked(1, 0, false, nil)
	w.JoinAs("p8", proto.Hello{Key: strings.Repeat("8", 64), Class: proto.ClassNoFMA}, nil)
	w.Run(5 * time.Minute)
	whole(t, w)
	if who := by(w); w.Audited == 0 || len(who) != 1 || who[0] != "" {
		t.Errorf("%q computed again, the host %d times", who, w.Audited)
	}
}

// TestCheckIsRestored: a machine that is stored and restored at any event of such a run goes on as the
// one that was stored; one spare lies, and one is lost.
func TestCheckIsRestored(t *testing.T) {
	w := checked(1, 4, true, func(p *runtest.Provider, step int) bool { return p.ID == "p1" && step >= 30 })
	w.Auditing = 60 * time.Millisecond
	var liar string
	w.Denies = func(p *runtest.Provider) bool {
		if liar == "" {
			liar = p.ID
		}
		return p.ID == liar
	}
	lost := false
	w.Before = func(_ int, id string, msg proto.Message) bool {
		if a, ok := msg.(*proto.Assign); ok && a.Check != nil && liar != "" && !lost {
			lost = true
			w.Provider(id).Kill()
		}
		return true
	}
	w.Run(5 * time.Minute)
	whole(t, w)
	if _, barred, back := verdicts(w); barred != 2 || !lost || len(back) != 1 {
		t.Fatalf("%d barred, a spare lost: %v, %+v", barred, lost, back)
	}
	restored(t, w, run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second})
}
