package run_test

// The audit log does not grow with the run, and the store has all of it that an audit may need,
// whenever the host is lost.

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// small are settings with which segments are full soon.
var small = run.Settings{Checkpoint: 60 * time.Millisecond, Grace: time.Second, AuditSegment: 4 << 10, AuditKeep: 16 << 10}

// logBytes is what the store holds of the log. It panics if the index names what is not there.
func logBytes(w *runtest.World) (n int) {
	w.Audit()
	for o, b := range w.Store {
		if strings.HasPrefix(o, run.AuditObjects("j")) {
			n += len(b)
		}
	}
	return n
}

// lastBut returns the step of the last checkpoint of the log but n.
func lastBut(w *runtest.World, n int) uint64 {
	var all []*snapshot.Manifest
	for _, l := range w.Audit() {
		if l.Checkpoint != nil {
			all = append(all, l.Checkpoint)
		}
	}
	return all[max(0, len(all)-1-n)].Position.Step
}

// TestAuditLogIsBounded: a long run keeps as much of the log as a short one, and what an audit of its
// last stretch needs.
func TestAuditLogIsBounded(t *testing.T) {
	for _, kind := range []string{"one", "clusters", "apart"} {
		var most [2]int
		for i, steps := range []int{500, 2000} {
			w := auditedFor(kind, steps, small)
			if i == 1 {
				w.After(900*time.Millisecond, func() { w.Provider("p0").Kill() })
			}
			for began := w.Now; len(w.Results) == 0 && w.Now.Sub(began) < 10*time.Minute; {
				w.Run(20 * time.Millisecond)
				most[i] = max(most[i], logBytes(w))
			}
			whole(t, w)
			trailFrom(t, w, lastBut(w, 1))
			if x := w.AuditIndex(); x.Since == 0 || len(x.Segments) < 2 {
				t.Errorf("%s: of %d steps the log tells since %d, in %d segments", kind, steps, x.Since, len(x.Segments))
			}
		}
		if most[1] > most[0]*3/2 {
			t.Errorf("%s: the log had %d bytes at most in a short run, and %d in a long one", kind, most[0], most[1])
		}
	}
}

// TestAuditLogAfterRestart: whenever the host is killed, the log goes on, and what an audit needs of
// what was trained before is there.
func TestAuditLogAfterRestart(t *testing.T) {
	for _, kind := range []string{"one", "clusters", "apart"} {
		for at := 100 * time.Millisecond; at < 900*time.Millisecond; at += 37 * time.Millisecond {
			set := small
			set.AuditKeep = 1 << 20
			w := auditedFor(kind, 200, set)
			w.Run(at)
			if len(w.Results) > 0 {
				break
			}
			if w.Store[run.StateObject("j")] == nil {
				continue
			}
			if err := w.Restart(set); err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				w.Join(fmt.Sprintf("q%d", i), "")
			}
			w.Run(5 * time.Minute)
			whole(t, w)
			trail(t, w)
			if t.Failed() {
				t.Fatalf("%s, killed after %v", kind, at)
			}
		}
	}
}

// TestAuditLogOnAFullDisk: what the store refuses of the log comes again.
func TestAuditLogOnAFullDisk(t *testing.T) {
	full := errors.New("no space left on device")
	for begin := 2; begin < 60; begin += 3 {
		set := small
		set.AuditKeep = 1 << 20
		w := auditedFor("one", 300, set)
		w.Fail = func(i int) error {
			if i >= begin && i < begin+7 {
				return full
			}
			return nil
		}
		for began := w.Now; len(w.Results) == 0 && w.Now.Sub(began) < 10*time.Minute; {
			w.Run(20 * time.Millisecond)
		}
		whole(t, w)
		trail(t, w)
		if t.Failed() {
			t.Fatalf("full from write %d on", begin)
		}
	}
}

// TestTooMuchSaid: a provider that tells of updates that cannot have been does not fill the store.
func TestTooMuchSaid(t *testing.T) {
	w := auditedFor("one", 60, small)
	sums := strings.Repeat("0123456789abcdef", 4)
	n := int64(0)
	for at := 50 * time.Millisecond; at < 400*time.Millisecond; at += time.Millisecond {
		w.After(at, func() {
			m := &proto.Progress{Run: "j-1", Stage: 0}
			for range 500 {
				n++
				m.Digests = append(m.Digests, proto.Digest{Step: n % 20000, Sums: sums})
			}
			w.Step(run.Message{ID: "p0", Msg: m})
		})
	}
	w.Run(5 * time.Minute)
	whole(t, w)
	said := 0
	for _, l := range w.Audit() {
		if l.Said != nil && l.Said.Stage == 0 {
			said += len(l.Said.Digests)
		}
	}
	if n < 100_000 || said > 20_000 {
		t.Errorf("of %d digests %d are in the log", n, said)
	}
}

// TestAuditOfWhatIsGone: an audit whose checkpoints are not there any more is told, and not asked for
// again and again; those that follow are.
func TestAuditOfWhatIsGone(t *testing.T) {
	set := run.Settings{Checkpoint: 60 * time.Millisecond}
	w := runtest.New(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: steps, Audit: true, AuditEvery: 1}, steps)
	asked := 0
	w.Gone = func(run.AskAudit) bool { asked++; return asked == 1 }
	w.Join("p0", "")
	w.Join("p1", "")
	w.Run(5 * time.Minute)
	whole(t, w)
	warned, from := 0, uint64(0)
	for _, r := range w.Reports {
		switch r := r.(type) {
		case run.Warning:
			warned++
			if !strings.Contains(r.Err.Error(), "are not computed again") {
				t.Error(r.Err)
			}
		case run.AuditPassed:
			if from == 0 {
				from = r.From
			}
		}
	}
	if warned != 1 || from == 0 || asked < 2 {
		t.Errorf("%d warnings, %d audits, the first that passed from step %d", warned, asked, from)
	}
}
