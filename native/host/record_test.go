package host

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ravnest/ravnest/native/project"
)

// TestUndo: what a run takes back, since an audit has found it to be false, is in no file and no
// figure any more, the best accuracy included; and a host that goes on knows the best of what counts.
func TestUndo(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Job.ValEvery = 1
	now := time.Unix(1700000000, 0)
	r := newRecord(p, "serve", nil)
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	train := func(epoch int, right int64) {
		for b := range r.batches {
			r.loss(now, epoch, int64(epoch*r.batches+b), 0.5)
		}
		r.val(now, validation{epoch: epoch, step: int64((epoch + 1) * r.batches), correct: right, total: 100, loss: 0.25})
	}
	lines := func(name string) int {
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	train(0, 40)
	train(1, 60)
	train(2, 99)
	if r.sum.BestVal != 99 {
		t.Fatalf("the best is %v", r.sum.BestVal)
	}
	r.undo(now, int64(2*r.batches))
	if s := r.summary(); s.BestVal != 60 || s.ValAccuracy != -1 || !math.IsNaN(float64(s.ValLoss)) || s.Steps != int64(2*r.batches) {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]int{project.LossesFile: 2 * r.batches, project.ValsFile: 2, project.ValLossFile: 2, project.MetricsFile: 1 + 2*(r.batches+1)} {
		if n := lines(name); n != want {
			t.Errorf("%s has %d lines, want %d", name, n, want)
		}
	}
	train(2, 50)
	if r.sum.BestVal != 60 || r.sum.ValAccuracy != 50 {
		t.Errorf("%+v", r.sum)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	again := newRecord(p, "serve", nil)
	again.resume = int64(3 * r.batches)
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	if again.sum.BestVal != 60 {
		t.Errorf("a host that goes on says that the best is %v", again.sum.BestVal)
	}
	again.undo(now, 0)
	if s := again.summary(); s.BestVal != -1 || s.Steps != 0 {
		t.Errorf("%+v", s)
	}
	if err := again.close(); err != nil {
		t.Fatal(err)
	}
}
