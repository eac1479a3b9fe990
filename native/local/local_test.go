package local

import (
	"context"
	"os"
	"path/filepath"
	"testing"

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
