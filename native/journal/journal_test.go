package journal

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
	p := opened(t, "cnn", 3)
	p.Job.ValEvery = 1
	now := time.Unix(1700000000, 0)
	r := New(p, "serve", nil)
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	train := func(epoch int, right int64) {
		for b := range r.batches {
			r.Loss(now, epoch, int64(epoch*r.batches+b), 0.5)
		}
		r.Val(now, Validation{Epoch: epoch, Step: int64((epoch + 1) * r.batches), Correct: right, Total: 100, Loss: 0.25})
	}
	lines := func(name string) int {
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(p.Dir, name))
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
	r.Undo(now, int64(2*r.batches))
	if s := r.Summary(); s.BestVal != 60 || s.ValAccuracy != -1 || !math.IsNaN(float64(s.ValLoss)) || s.Steps != int64(2*r.batches) {
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
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := New(p, "serve", nil)
	again.resume = int64(3 * r.batches)
	if err := again.Open(); err != nil {
		t.Fatal(err)
	}
	if again.sum.BestVal != 60 {
		t.Errorf("a host that goes on says that the best is %v", again.sum.BestVal)
	}
	again.Undo(now, 0)
	if s := again.Summary(); s.BestVal != -1 || s.Steps != 0 {
		t.Errorf("%+v", s)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// opened is a project of an example, for so many nodes.
func opened(t *testing.T, example string, nodes int) *project.Project {
	t.Helper()
	dir := t.TempDir()
	if err := project.Init(dir, example, nodes, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
