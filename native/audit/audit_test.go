package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/signaling/proto"
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
		attemptLine(t, 5, 80) +
		checkpointLine(t, 5, 80) + // what it began with
		attemptLine(t, 6, 80) +
		checkpointLine(t, 6, 90)
	in := inSegments(t, log, 3)
	l, err := readAudit(t.Context(), in, "j", 0)
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
		{0, savedBy(5, 80), "j-1 0-60 j-3 60-80 j-5 80-80 "},
		{60, savedBy(6, 90), "j-3 60-80 j-5 80-80 j-6 80-90 "},
		{0, savedBy(7, 90), ""}, // not in the log
	} {
		if got := tell(l.stretches(c.from, c.last)); got != c.want {
			t.Errorf("from %d to %d: %q, want %q", c.from, c.last.Position.Step, got, c.want)
		}
	}
	for name := range in {
		whole := in[name]
		in[name] = whole[:len(whole)-2]
		if _, err := readAudit(t.Context(), in, "j", 0); err == nil {
			t.Errorf("a log is read of which %s is cut off", name)
		}
		if delete(in, name); !strings.HasSuffix(name, ".json") {
			if _, err := readAudit(t.Context(), in, "j", 0); !Missing(err) {
				t.Errorf("a log without %s: %v", name, err)
			}
		}
		in[name] = whole
	}
}

// heap is a store.
type heap map[string]string

func (h heap) Get(_ context.Context, name string) (io.ReadCloser, error) {
	s, ok := h[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(s)), nil
}

// inSegments stores a log in segments of so many lines.
func inSegments(t testing.TB, log string, lines int) heap {
	t.Helper()
	h, x := heap{}, machine.AuditIndex{Version: 1}
	for part := range slices.Chunk(slices.Collect(strings.Lines(log)), lines) {
		s := strings.Join(part, "")
		d := sha256.Sum256([]byte(s))
		x.Segments = append(x.Segments, machine.AuditSegment{SHA256: hex.EncodeToString(d[:]), Size: int64(len(s)), Top: 1000})
		h[machine.AuditObjects("j")+x.Segments[len(x.Segments)-1].SHA256] = s
	}
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	h[machine.AuditIndexOf("j")] = string(b)
	return h
}

// TestSaid: what stages said of a stretch is read wherever it is, and nothing else.
func TestSaid(t *testing.T) {
	said := func(gen, stage int, steps ...int64) string {
		x := &machine.AuditSaid{Stage: stage}
		for _, s := range steps {
			x.Digests = append(x.Digests, proto.Digest{Step: s, Sums: strings.Repeat("0", 64)})
		}
		return auditLine(t, machine.AuditLine{Run: fmt.Sprintf("j-%d", gen), Said: x})
	}
	log := attemptLine(t, 1, 0) + said(1, 0, 0, 1, 2, 3) + said(1, 1, 0, 1) + said(1, 1, 2, 3, 4) + said(11, 0, 2) + checkpointLine(t, 1, 4) + said(2, 0, 2)
	for lines := 1; lines < 9; lines++ {
		l, err := readAudit(t.Context(), inSegments(t, log, lines), "j", 0)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := l.said(t.Context(), stretch{attempt: l.attempts[0], from: 1, until: 4})
		if err != nil || len(got) != 2 || len(got[stage.Peer{}]) != 3 || len(got[stage.Peer{Stage: 1}]) != 3 {
			t.Errorf("%d lines a segment: %v, %v", lines, got, err)
		}
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
	f.Add(attemptLine(f, 1, 0)+checkpointLine(f, 1, 20), 1)
	f.Add(`{"run":"j-1","plan":{"generation":1}}`+"\n"+`{"run":"j-1","said":{"stage":1,"digests":[{"step":1,"sums":"00"}]}}`, 2)
	f.Fuzz(func(t *testing.T, s string, lines int) {
		if lines < 1 || s == "" {
			return
		}
		l, err := readAudit(t.Context(), inSegments(t, s, lines), "j", 0)
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
				_, _, _ = l.said(t.Context(), x)
			}
		}
	})
}

// FuzzAuditIndex: an index is refused, or names segments that can be.
func FuzzAuditIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"since":3,"segments":[{"sha256":"` + strings.Repeat("a", 64) + `","size":1,"top":9}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := machine.ParseAuditIndex(b)
		if err != nil {
			return
		}
		for _, s := range x.Segments {
			if s.Size < 1 || len(s.SHA256) != 64 {
				t.Errorf("%+v", s)
			}
		}
	})
}
