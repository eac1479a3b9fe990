// A model exported from PyTorch becomes a job that trains from its weights, with the same
// result on every path.

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

const archives = "../engine/importer/testdata/"

// TestImport imports a model, trains it in one process and on two and three providers, and
// compares the results byte by byte.
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
		s.demo("--providers", n, "--clusters", "1", "--dir", dir)
		for _, f := range files {
			if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
				t.Errorf("%s providers: %s differs from that of one process", n, f)
			}
		}
	}
	// Other initial weights give other results.
	other := job("other")
	if err := os.Remove(filepath.Join(other, "initial.safetensors")); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(other, "job.json"), ` "weights": "initial.safetensors",`, "")
	s.ok("ravnest", "train", "--local", other)
	if bytes.Equal(read(t, other, "losses.txt"), read(t, local, "losses.txt")) {
		t.Error("the weights of the archive make no difference")
	}
}

// sequences writes a data set whose inputs and targets are functions of their index.
func sequences(t *testing.T, file string, shape []int, x func(i int) float32, answers []int, y func(i int) int64) {
	t.Helper()
	elems := func(shape []int) int {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return n
	}
	tx := state.Tensor{Name: "train_x", Shape: shape, F32: make([]float32, elems(shape))}
	ty := state.Tensor{Name: "train_y", Shape: answers, I64: make([]int64, elems(answers))}
	for i := range tx.F32 {
		tx.F32[i] = x(i)
	}
	for i := range ty.I64 {
		ty.I64[i] = y(i)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, state.Dict{tx, ty}, nil); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.Bytes())
}

// tied writes data for tied_decoder.pt2, whose targets are the next tokens.
func tied(t *testing.T, file string) {
	token := func(i int) int { return (i*i + i/5) % 11 }
	sequences(t, file, []int{96, 5}, func(i int) float32 { return float32(token(i)) }, []int{96, 5}, func(i int) int64 { return int64(token(i + 1)) })
}

// TestImportTied: weights that layers on several providers share (by the steps of an LSTM, by
// the embedding and the head, by two uses of a block) train to the results of one process, with several
// replicas in the pipeline too.
func TestImportTied(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	lstm, decoder := filepath.Join(tmp, "lstm.safetensors"), filepath.Join(tmp, "decoder.safetensors")
	sequences(t, lstm, []int{48, 4, 6}, func(i int) float32 { return float32(i*i%23)/11 - 1 }, []int{48}, func(i int) int64 { return int64(i * i % 3) })
	tied(t, decoder)
	for _, c := range []struct {
		name, data string
		shared     int
		providers  []string
		replicas   string
	}{
		{"lstm_both_ways", lstm, 10, []string{"2"}, "1"},
		{"tied_decoder", decoder, 9, []string{"2", "3"}, "1"},
		{"tied_decoder", decoder, 9, []string{"3"}, "3"},
	} {
		job := func(name string) string {
			dir := filepath.Join(tmp, c.name+c.replicas+name)
			out, _ := s.ok("ravnest", "import", archives+c.name+".pt2", dir, "--data", c.data, "--epochs", "2", "--lr", "0.01", "--batch-size", "16")
			if want := fmt.Sprintf("%d parameters are shared by several layers: in a cut between them each update sends their gradients", c.shared); !strings.Contains(out, want) {
				t.Errorf("import of %s prints %s", c.name, out)
			}
			return dir
		}
		local := job("local")
		s.ok("ravnest", "train", "--local", "--replicas", c.replicas, local)
		for _, n := range c.providers {
			cut := job(n)
			s.demo("--providers", n, "--clusters", "1", "--replicas", c.replicas, "--dir", cut)
			for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
				if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
					t.Errorf("%s with %s replicas on %s providers: %s differs from that of one process", c.name, c.replicas, n, f)
				}
			}
		}
	}
}

// TestKilledTied: a run of a model with tied weights loses a provider and ends with the results
// of one process.
func TestKilledTied(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	data := filepath.Join(tmp, "decoder.safetensors")
	tied(t, data)
	job := func(name string, flags ...string) string {
		dir := filepath.Join(tmp, name)
		s.ok("ravnest", append([]string{"import", archives + "tied_decoder.pt2", dir, "--data", data, "--epochs", endless, "--lr", "0.01", "--batch-size", "16"}, flags...)...)
		edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
		return dir
	}
	dir := job("served")
	s.ok("ravnest", "clusterize", dir)
	host, ps := s.withSpare(dir)
	s.saved(dir, 5)
	if err := ps[2].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	host.stops()
	local := job("local", "--steps", fmt.Sprint(len(lines(t, dir, "losses.txt"))))
	s.ok("ravnest", "train", "--local", local)
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
			t.Errorf("%s differs from that of one process", f)
		}
	}
}

// TestImportRefuses: what cannot be imported is refused with a clear message.
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
