package local

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
)

// TestInterruptedBefore: who is interrupted before the first batch has trained and saved nothing, and
// older results stay where they are.
func TestInterruptedBefore(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Job.Epochs = 1
	if s, err := Train(t.Context(), p, 1, "", nil); err != nil || s.Interrupted || !s.Saved {
		t.Fatalf("%+v, %v", s, err)
	}
	before, err := os.ReadFile(weights.Files(dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if s, err := Train(ctx, p, 1, "", nil); err != nil || !s.Interrupted || s.Saved || s.Samples != 0 {
		t.Errorf("interrupted: %+v, %v", s, err)
	}
	if after, err := os.ReadFile(weights.Files(dir)[0]); err != nil || string(after) != string(before) {
		t.Errorf("the older weights are gone (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(dir, project.OldDir)); err == nil {
		t.Error("the older results were moved aside")
	}
}

// asked is a context that ends when it is asked for the nth time.
type asked struct {
	context.Context
	left int
}

func (a *asked) Err() error {
	if a.left--; a.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestInterruptedInARound: replicas stop where a round ends, and it is said, once, how many batches that is away.
func TestInterruptedInARound(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Job.Replicas, p.Job.ReduceFactor, p.Job.ValEvery = 4, 2, 10
	var said bytes.Buffer
	// Before the run, before the round, after the first and the second batch.
	s, err := Train(&asked{t.Context(), 4}, p, 1, "", console.New(&said))
	if err != nil || !s.Interrupted || s.Steps != 8 {
		t.Fatalf("%+v, %v", s, err)
	}
	if n := strings.Count(said.String(), "stopping at the end of this round"); n != 1 || !strings.Contains(said.String(), "with 5 batches to go") {
		t.Errorf("it says %q", said.String())
	}
}
