// The examples of the zoo, as a user trains them.

package e2e

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/ravnest/ravnest/e2e/torch"
)

// TestZoo: a transformer and a residual network give the results of one process on three
// providers, and PyTorch loads them under its own names.
func TestZoo(t *testing.T) {
	s := newScene(t)
	python, err := torch.Python(t.Context())
	if err != nil && !errors.Is(err, torch.ErrMissing) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, amount string
		entries      int
	}{{"gpt-sorter", "--epochs=4", 41}, {"resnet18", "--steps=2", 122}} {
		dir := filepath.Join(t.TempDir(), c.name)
		s.ok("ravnest", "init", "--example", c.name, c.amount, "--micro-batches=2", dir)
		s.demo("--dir", dir)
		files := []string{"trained/trained_state_dict.pt", "trained/trained_state_dict.safetensors", "losses.txt", "val_accuracies.txt"}
		var want [][]byte
		for _, f := range files {
			want = append(want, read(t, dir, f))
		}
		s.ok("ravnest", "train", "--local", dir)
		for i, f := range files {
			if !bytes.Equal(read(t, dir, f), want[i]) {
				t.Errorf("%s: %s of three providers differs from that of one process", c.name, f)
			}
		}
		if python == "" {
			t.Logf("%s: not loaded: %v", c.name, torch.ErrMissing)
			continue
		}
		var got struct {
			Entries int `json:"entries"`
		}
		if err := torch.Run(t.Context(), python, &got, "zoo.py", c.name, filepath.Join(dir, files[0]), filepath.Join(dir, files[1])); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got.Entries != c.entries {
			t.Errorf("%s: PyTorch loads %d entries, want %d", c.name, got.Entries, c.entries)
		}
	}
}

// TestSorterSorts: gpt-sorter learns to sort rows that it has not seen.
func TestSorterSorts(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--example", "gpt-sorter", "--epochs=40", dir)
	sum := s.demo("--dir", dir)
	// Measured: 98.6 %, with two other seeds 99.7 % and more. Guessing is 33 %.
	if sum.ValAccuracy < 98 {
		t.Errorf("%.2f %% of the tokens are right after 40 epochs, want 98", sum.ValAccuracy)
	}
}
