package e2e

import (
	"bytes"
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/ravnest/ravnest/e2e/torch"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// pairs writes pairs of views for more_clip.pt2, rows of them to train with and 10 for validation.
func pairs(t *testing.T, file string, rows int) {
	t.Helper()
	var d state.Dict
	for k, name := range []string{"x", "y", "val_x", "val_y"} {
		n := rows
		if k > 1 {
			n = 10
		}
		v := state.Tensor{Name: name, Shape: []int{n, 8}}
		for i := range n * 8 {
			i += k / 2 * 1000 // other samples
			v.F32 = append(v.F32, float32(math.Sin(float64(i*i%977)))+0.3*float32(math.Cos(float64(i*(k+3)))))
		}
		d = append(d, v)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, d, nil); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.Bytes())
}

// TestImportCompared: a model whose loss compares the samples of a batch trains on one, two and three
// providers to the bytes of one process, with a smaller batch at the end of each epoch, and as PyTorch
// trains it. Batches of it are not split, and it has no answer to a row.
func TestImportCompared(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	file := filepath.Join(tmp, "pairs.safetensors")
	pairs(t, file, 67)
	job := func(name, data string, more ...string) string {
		dir := filepath.Join(tmp, name)
		s.ok("ravnest", append([]string{"import", archives + "more_clip.pt2", dir, "--data", data}, more...)...)
		return dir
	}
	few := []string{"--epochs", "3", "--lr", "0.02", "--batch-size", "16"}
	local := job("local", file, few...)
	s.ok("ravnest", "train", "--local", local)
	for _, n := range []string{"1", "2", "3"} {
		cut := job("cut"+n, file, few...)
		s.demo("--providers", n, "--clusters", "1", "--dir", cut)
		for _, f := range []string{"losses.txt", "val_losses.txt", "trained/trained_state_dict.safetensors"} {
			if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
				t.Errorf("%s of %s providers differs from that of one process", f, n)
			}
		}
	}
	s.bad([]string{`"matmul" compares the samples of a batch`, "micro_batches to 1"}, "ravnest", "train", "--local", "--micro-batches", "2", local)
	s.bad([]string{`"matmul" compares the samples of a batch`}, "ravnest", "predict", local, file)

	whole := filepath.Join(tmp, "whole.safetensors")
	pairs(t, whole, 64)
	dir := job("torch", whole, "--epochs", "8", "--optimizer", "sgd", "--lr", "0.5", "--batch-size", "64")
	s.ok("ravnest", "train", "--local", dir)
	losses, val := numbers(string(read(t, dir, "losses.txt")), `([0-9.e+-]+)`), numbers(string(read(t, dir, "val_losses.txt")), `([0-9.e+-]+)`)
	if len(losses) != 8 || !(losses[7] < losses[0]) {
		t.Fatalf("the losses are %v", losses)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	python, err := torch.Python(ctx)
	if errors.Is(err, torch.ErrMissing) {
		t.Log(err)
		return
	}
	for _, f := range []string{"safetensors", "pt"} {
		var want struct {
			Losses     []float64
			Val, Apart float64
		}
		if err == nil {
			err = torch.Run(ctx, python, &want, "compared.py", filepath.Join(dir, "initial.safetensors"), filepath.Join(dir, "trained/trained_state_dict."+f), whole, "8", "0.5")
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range losses {
			if math.Abs(l-want.Losses[i]) > 1e-3 {
				t.Errorf("%s: the losses are %v, PyTorch's %v", f, losses, want.Losses)
				break
			}
		}
		if math.Abs(val[len(val)-1]-want.Val) > 1e-3 || want.Apart > 1e-4 {
			t.Errorf("%s: the validation loss is %v, PyTorch's %v; its weights are %v apart", f, val[len(val)-1], want.Val, want.Apart)
		}
	}
}
