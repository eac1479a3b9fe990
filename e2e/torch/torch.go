// Package torch runs PyTorch, where it is installed, to check the files that we write and to
// compare speeds. The scripts are the Python files beside it.
package torch

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/zoo"
)

//go:embed *.py
var scripts embed.FS

// ErrMissing says that no interpreter with PyTorch was found.
var ErrMissing = errors.New("no python3 with PyTorch here: install python3-torch, or name an interpreter in PYTHON")

// probe fails where there is no PyTorch, even if the working directory has a folder named
// torch, as ours does.
const probe = "import torch; torch.__version__"

// Python finds an interpreter that can import torch: $PYTHON, else python3 of the path, else
// the system's, for which distributions install PyTorch.
func Python(ctx context.Context) (string, error) {
	if p := os.Getenv("PYTHON"); p != "" {
		if out, err := osexec.CommandContext(ctx, p, "-c", probe).CombinedOutput(); err != nil {
			return "", fmt.Errorf("PYTHON=%s cannot import torch: %w: %s", p, err, bytes.TrimSpace(out))
		}
		return p, nil
	}
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if osexec.CommandContext(ctx, p, "-c", probe).Run() == nil {
			return p, nil
		}
	}
	return "", ErrMissing
}

// Run runs one of the scripts ("check.py", "train.py") and decodes the JSON line that it
// prints into v. Its error contains the script's stderr.
func Run(ctx context.Context, python string, v any, script string, args ...string) (err error) {
	dir, err := os.MkdirTemp("", "ravnest-torch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := unpack(dir); err != nil {
		return err
	}
	cmd := osexec.CommandContext(ctx, python, append([]string{filepath.Join(dir, script)}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), v); err != nil {
		return fmt.Errorf("%s printed %q: %w", script, stdout.String(), err)
	}
	return nil
}

// unpack writes the scripts to dir.
func unpack(dir string) error {
	names, err := fs.Glob(scripts, "*.py")
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := scripts.ReadFile(n)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Report is what check.py prints.
type Report struct {
	Torch       string  `json:"torch"`
	Keys        int     `json:"keys"`     // entries of the state dict
	Elements    int     `json:"elements"` // numbers in it
	Rows        int     `json:"rows"`     // validation rows
	Right       int     `json:"right"`    // of them classified correctly
	ValAccuracy float64 `json:"val_accuracy"`
	MSE         float64 `json:"mse"`

	// PyTorch's own logits: their SHA-256 as little-endian float32, and two rows.
	LogitsSHA256 string      `json:"logits_sha256"`
	LogitsFirst  [][]float32 `json:"logits_first"`

	// The largest difference between our answers and PyTorch's, the largest of PyTorch's, and
	// the number of rows for which both choose the same class. Nil if there are no answers, or
	// if the value is NaN.
	LogitsDiff *float64 `json:"logits_max_abs_diff"`
	LogitsMax  *float64 `json:"logits_max_abs"`
	LogitsSame *int     `json:"logits_same_class"`
	OutDiff    *float64 `json:"out_max_abs_diff"`
	OutMax     *float64 `json:"out_max_abs"`
	OutSame    *int     `json:"out_same_class"`
}

// Check loads both fused files into PyTorch's version of the walkthrough's model and evaluates
// them on the validation rows of the data file val. answers is a file of our outputs, or empty.
func Check(ctx context.Context, python, pt, st, val, answers string) (Report, error) {
	args := []string{"--pt", pt, "--safetensors", st, "--val", val}
	if answers != "" {
		args = append(args, "--answers", answers)
	}
	var r Report
	err := Run(ctx, python, &r, "check.py", args...)
	return r, err
}

// Speed is what train.py prints.
type Speed struct {
	Torch         string  `json:"torch"`
	Threads       int     `json:"threads"`
	Loader        bool    `json:"loader"`
	Epochs        int     `json:"epochs"`
	SamplesPerSec float64 `json:"samples_per_s"` // training, without the first epoch
	SamplesPerCPU float64 `json:"samples_per_cpu_s"`
	EpochSeconds  float64 `json:"epoch_s_median"`
	FirstEpoch    float64 `json:"first_epoch_s"`
	Loss          float64 `json:"loss"`
	ValAccuracy   float64 `json:"val_accuracy"`
	PeakRSS       int64   `json:"peak_rss_bytes"`
}

// Train runs the walkthrough's job in plain PyTorch on the data file path, on one thread.
func Train(ctx context.Context, python, path string, epochs int, seed uint64, loader bool) (Speed, error) {
	args := []string{"--data", path, "--epochs", fmt.Sprint(epochs), "--seed", fmt.Sprint(seed)}
	if loader {
		args = append(args, "--loader")
	}
	var s Speed
	err := Run(ctx, python, &s, "train.py", args...)
	return s, err
}

// WriteAnswers writes the answers of our engine for the walkthrough's validation rows, with the
// weights d, for Check to compare: logits and out, each [719,10].
func WriteAnswers(path string, d state.Dict) error {
	set, err := data.Digits()
	if err != nil {
		return err
	}
	g := zoo.CNN()
	out := g.OutputValue()
	logits := g.Args(out - len(g.Inputs))[0] // what the softmax reads
	rows := set.Val.Len()
	p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Outputs: []int{logits, out}})
	if err != nil {
		return err
	}
	st := p.Layout.NewState()
	if err := p.Layout.Import(st, d); err != nil {
		return err
	}
	e := p.New(nil)
	set.Val.X().Gather(e.Value(0, 0, rows), all(rows))
	e.Forward(0, exec.Batch{Rows: rows}, st.Params, &st)
	shape := []int{rows, 10}
	return write(path, state.Dict{
		{Name: "logits", Shape: shape, F32: e.Value(0, logits, rows)},
		{Name: "out", Shape: shape, F32: e.Value(0, out, rows)},
	})
}

// WriteDigits writes the walkthrough's data set to a safetensors file that the scripts and
// engine/data can read: train_x [1078,1,8,8], train_y [1078] classes, val_x, val_y.
func WriteDigits(path string) error {
	set, err := data.Digits()
	if err != nil {
		return err
	}
	var d state.Dict
	for _, p := range []struct {
		name string
		part data.Part
	}{{"train", set.Train}, {"val", set.Val}} {
		rows := all(p.part.Len())
		x := make([]float32, len(rows)*p.part.X().Elems())
		p.part.X().Gather(x, rows)
		classes := make([]int32, len(rows))
		p.part.Y().Labels(classes, rows)
		y := make([]int64, len(rows))
		for i, c := range classes {
			y[i] = int64(c)
		}
		d = append(d, state.Tensor{Name: p.name + "_x", Shape: append([]int{len(rows)}, p.part.InputShape()...), F32: x},
			state.Tensor{Name: p.name + "_y", Shape: []int{len(rows)}, I64: y})
	}
	return write(path, d)
}

// all returns the rows 0 to n-1.
func all(n int) []int32 {
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(i)
	}
	return rows
}

func write(path string, d state.Dict) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(safetensors.Write(f, d, nil), f.Close())
}
