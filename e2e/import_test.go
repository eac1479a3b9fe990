// A model that PyTorch exported becomes a job, and trains from its own weights on every
// path with one result.

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

const archives = "../engine/importer/testdata/"

// TestImport imports a model, trains it in one process, on three providers and on two, and
// compares every byte.
func TestImport(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	job := func(name string, more ...string) string {
		dir := filepath.Join(tmp, name)
		args := append([]string{"import", archives + "cnn.pt2", dir, "--data", "digits", "--epochs", "2", "--lr", "0.01"}, more...)
		out, _ := s.ok("ravnest", args...)
		for _, want := range []string{"conv2d", "[N,16,2,2]", "1434 parameters", "cut in up to 4 stages", "initial.safetensors"} {
			if !strings.Contains(out, want) {
				t.Errorf("import does not say %q:\n%s", want, out)
			}
		}
		return dir
	}
	local := job("local")
	s.ok("ravnest", "train", "--local", local)
	files := []string{"losses.txt", "val_accuracies.txt", "trained/trained_state_dict.safetensors"}
	for _, n := range []string{"2", "3"} {
		dir := job(n)
		s.demo("--providers", n, "--dir", dir)
		for _, f := range files {
			if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
				t.Errorf("%s providers: %s is not that of one process", n, f)
			}
		}
	}
	// Other weights to begin with are another run.
	other := job("other")
	if err := os.Remove(filepath.Join(other, "initial.safetensors")); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(other, "job.json"), ` "weights": "initial.safetensors",`, "")
	s.ok("ravnest", "train", "--local", other)
	if bytes.Equal(read(t, other, "losses.txt"), read(t, local, "losses.txt")) {
		t.Error("the archive's weights make no difference")
	}
}

// TestImportRecurrent: the steps of an LSTM share its weights, whose gradients are added in one
// order wherever the model is cut.
func TestImportRecurrent(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	x := state.Tensor{Name: "train_x", Shape: []int{48, 4, 6}, F32: make([]float32, 48*24)}
	y := state.Tensor{Name: "train_y", Shape: []int{48}, I64: make([]int64, 48)}
	for i := range x.F32 {
		x.F32[i] = float32(i*i%23)/11 - 1
	}
	for i := range y.I64 {
		y.I64[i] = int64(i * i % 3)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, state.Dict{x, y}, nil); err != nil {
		t.Fatal(err)
	}
	rows := filepath.Join(tmp, "rows.safetensors")
	write(t, rows, b.Bytes())
	job := func(name string) string {
		dir := filepath.Join(tmp, name)
		out, _ := s.ok("ravnest", "import", archives+"lstm_both_ways.pt2", dir, "--data", rows, "--epochs", "2", "--lr", "0.01", "--batch-size", "16")
		if !strings.Contains(out, "10 parameters are shared by several layers: in a cut between them each update sends their gradients") {
			t.Errorf("import prints %s", out)
		}
		return dir
	}
	local, cut := job("local"), job("cut")
	s.ok("ravnest", "train", "--local", local)
	s.demo("--providers", "2", "--dir", cut)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
			t.Errorf("two providers: %s is not that of one process", f)
		}
	}
}

// TestImportRefuses: what cannot be imported is refused in words.
func TestImportRefuses(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.bad([]string{"not a zip archive", "torch.export.save"}, "ravnest", "import", "import_test.go")
	s.bad([]string{"no model file at nowhere.pt2"}, "ravnest", "import", "nowhere.pt2")
	s.bad([]string{"needs --data", "digits"}, "ravnest", "import", archives+"cnn.pt2", dir)
	s.bad([]string{"nothing"}, "ravnest", "import", archives+"cnn.pt2", dir, "--data", "nothing")
	s.bad([]string{"digits", "5 outputs"}, "ravnest", "import", archives+"resmlp.pt2", dir, "--data", "digits")
	s.bad([]string{"there is no output 7"}, "ravnest", "import", archives+"cnn.pt2", "--output", "7")
}
