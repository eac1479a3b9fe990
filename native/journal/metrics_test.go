package journal

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/format/tfevents"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/native/project"
)

// TestMetrics: the table has its rows in the order of steps, whenever they are told, and of a pass that
// is told again one; batches that are trained again take back what followed, also where another host
// goes on; and the event files are whole records.
func TestMetrics(t *testing.T) {
	p := opened(t, "gpt-sorter", 3)
	now := time.Unix(1700000000, 0)
	m, err := openMetrics(p, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	val := Validation{Epoch: 0, Step: 2, Correct: 3, Total: 4, Loss: 0.25, Metrics: []loss.Metric{{Name: "perplexity", Value: 1.5}}}
	check(m.loss(now, 0, 0, 1, 0.1))
	val.Loss = 7
	check(m.val(now, val)) // before the batch: another cluster trains that
	check(m.loss(now, 0, 1, 0.5, 0.1))
	check(m.loss(now, 0, 2, 0.375, 0.1))
	val.Loss = 0.25
	check(m.val(now, val)) // again, in the next attempt
	check(m.loss(now, 0, 3, 0.125, 0.1))
	check(m.close())
	table := func() string {
		b, err := os.ReadFile(filepath.Join(p.Dir, project.MetricsFile))
		check(err)
		return strings.TrimSpace(string(b))
	}
	head := "step,epoch,loss,lr,val_loss,val_accuracy,perplexity\n1,1,1,0.1,,,\n2,1,0.5,0.1,,,\n2,1,,,0.25,75,1.5\n3,1,0.375,0.1,,,"
	if got, want := table(), head+"\n4,1,0.125,0.1,,,"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	m, err = openMetrics(p, 3, now.Add(time.Second))
	check(err)
	check(m.loss(now, 0, 3, 0.0625, 0.1))
	check(m.loss(now, 0, 4, 2, 0.1))
	check(m.loss(now, 0, 3, 0.0625, 0.1)) // an attempt that began anew
	check(m.close())
	if got, want := table(), head+"\n4,1,0.0625,0.1,,,"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	files, err := filepath.Glob(filepath.Join(p.Dir, project.RunsDir, "1", "*"))
	check(err)
	if len(files) != 2 {
		t.Fatalf("event files %q, want two of one run", files)
	}
	for i, want := range []int{7, 6} { // version, points, and restarts
		b, err := os.ReadFile(files[i])
		check(err)
		n := 0
		for ; len(b) > 0; n++ {
			size := binary.LittleEndian.Uint64(b)
			if binary.LittleEndian.Uint32(b[12+size:]) != tfevents.Checksum(b[12:][:size]) {
				t.Fatalf("%s: event %d is broken", files[i], n)
			}
			b = b[16+size:]
		}
		if n != want {
			t.Errorf("%s has %d events, want %d", files[i], n, want)
		}
	}
	if _, err := openMetrics(p, 0, now); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.Dir, project.RunsDir, "2")); err != nil {
		t.Errorf("a new run has no directory of its own: %v", err)
	}
}

// TestMetricsFarBack: batches that are trained again take back what followed, however far that is.
func TestMetricsFarBack(t *testing.T) {
	p := opened(t, "gpt-sorter", 3)
	now := time.Unix(1700000000, 0)
	m, err := openMetrics(p, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	m.table.least = 4
	for _, from := range []int64{0, 7, 3, 0, 29} {
		for step := from; step < 30; step++ {
			if err := m.loss(now, 0, step, float64(from), 0.1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.undo(now, 2); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.loss(now, 0, 2, 0.5, 0.1), m.close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(p.Dir, project.MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), "step,epoch,loss,lr,val_loss,val_accuracy,perplexity\n1,1,0,0.1,,,\n2,1,0,0.1,,,\n3,1,0.5,0.1,,,\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
