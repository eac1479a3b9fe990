package host

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	machine "github.com/ravnest/ravnest/signaling/run"
)

func auditLine(t testing.TB, l machine.AuditLine) string {
	t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func attemptLine(t testing.TB, gen int, from uint64) string {
	return auditLine(t, machine.AuditLine{Run: fmt.Sprintf("j-%d", gen), Plan: &machine.AuditPlan{Generation: gen, From: from}})
}

func checkpointLine(t testing.TB, gen int, step uint64) string {
	return auditLine(t, machine.AuditLine{Run: "j", Checkpoint: savedBy(gen, step)})
}

func savedBy(gen int, step uint64) *snapshot.Manifest {
	return &snapshot.Manifest{
		Version: snapshot.Version, Run: fmt.Sprintf("j-%d", gen), Generation: gen, Position: order.Position{Step: step, Seq: step},
		Parts: []snapshot.Entry{{Segment: snapshot.Segment{To: 3}, Object: "o", SHA256: strings.Repeat("a", 64), Size: 1, Holds: []string{snapshot.Weights}}},
	}
}

// TestStretches: which attempt has done what of the result.
func TestStretches(t *testing.T) {
	log := attemptLine(t, 1, 0) + // of a run that was begun anew
		checkpointLine(t, 1, 99) +
		attemptLine(t, 1, 0) +
		checkpointLine(t, 1, 20) +
		checkpointLine(t, 1, 40) +
		attemptLine(t, 2, 40) + // planned, and
		checkpointLine(t, 1, 60) + // what was under way is stored meanwhile
		attemptLine(t, 3, 60) +
		checkpointLine(t, 3, 80) +
		attemptLine(t, 4, 80) + // nothing comes of it
		`{"run":"j-4","sa`
	l, err := parseAudit(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	tell := func(ss []stretch) (s string) {
		for _, x := range ss {
			s += fmt.Sprintf("%s %d-%d ", x.run, x.from, x.until)
		}
		return s
	}
	for _, c := range []struct {
		from uint64
		last *snapshot.Manifest
		want string
	}{
		{0, savedBy(3, 80), "j-1 0-60 j-3 60-80 "},
		{60, savedBy(3, 80), "j-3 60-80 "},
		{20, savedBy(1, 40), "j-1 20-40 "},
		{0, savedBy(7, 90), ""}, // not in the log
	} {
		if got := tell(l.stretches(c.from, c.last)); got != c.want {
			t.Errorf("from %d to %d: %q, want %q", c.from, c.last.Position.Step, got, c.want)
		}
	}
	if _, err := parseAudit(strings.NewReader("{\n" + log)); err == nil {
		t.Error("a log that is damaged in the middle is read")
	}
}

// TestClasses: what providers of another numeric class computed is compared only where classes
// have the same bits.
func TestClasses(t *testing.T) {
	stages := func(class string) []machine.AuditStage {
		return []machine.AuditStage{{Name: "a", Class: kernel.Class()}, {Name: "b", Class: class}}
	}
	for class, ok := range map[string]bool{"": true, kernel.Class(): true, "another": false} {
		if err := classed(job.Spec{}, stages(class)); (err == nil) != ok {
			t.Errorf("class %q: %v", class, err)
		}
		if err := classed(job.Spec{Precision: "bf16"}, stages(class)); err != nil {
			t.Errorf("class %q of a job in bf16: %v", class, err)
		}
	}
}

func FuzzAuditLog(f *testing.F) {
	f.Add(attemptLine(f, 1, 0) + checkpointLine(f, 1, 20))
	f.Add(`{"run":"j-1","plan":{"generation":1}}` + "\n" + `{"run":"j-1","said":{"stage":1,"digests":[{"step":1,"sums":"00"}]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseAudit(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, c := range l.checkpoints {
			at := uint64(0)
			for _, x := range l.stretches(0, c) {
				if x.until <= x.from || x.from < at {
					t.Errorf("a stretch from %d to %d behind step %d", x.from, x.until, at)
				}
				at = x.until
			}
		}
	})
}
