package project_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/native/project"
)

// nothing is an observer that only counts losses.
type nothing struct{ losses int }

func (n *nothing) Loss(stage.Loss)            { n.losses++ }
func (n *nothing) Validated(stage.Validation) {}
func (n *nothing) Batch(int)                  {}
func (n *nothing) Keep(stage.Saved) error     { return nil }

// model returns a random chain of ops as JSON; many are invalid.
func model(r *rand.Rand, tokens bool, width int) map[string]any {
	var nodes []any
	last, c := "x", width
	add := func(op string, attrs map[string]any, in ...string) {
		n := map[string]any{"name": fmt.Sprintf("n%d", len(nodes)), "op": op, "in": in}
		if attrs != nil {
			n["attrs"] = attrs
		}
		nodes, last = append(nodes, n), n["name"].(string)
	}
	linear := func() {
		out := 1 + r.IntN(5)
		add("linear", map[string]any{"in_features": c, "out_features": out, "bias": r.IntN(2) == 0}, last)
		c = out
	}
	if tokens {
		if r.IntN(3) == 0 {
			add("select", map[string]any{"index": r.IntN(width + 1)}, last)
		} else if r.IntN(3) == 0 {
			add("flatten", nil, last)
		}
		add("embedding", map[string]any{"num_embeddings": 1 + r.IntN(6), "embedding_dim": 3}, last)
		c = 3
	}
	for range 1 + r.IntN(5) {
		switch r.IntN(8) {
		case 0, 1:
			linear()
		case 2:
			add("relu", nil, last)
		case 3:
			add("batchnorm1d", map[string]any{"num_features": c, "eps": 1e-5, "momentum": 0.1}, last)
		case 4:
			add("dropout", map[string]any{"p": 0.5}, last)
		case 5:
			add("layernorm", map[string]any{"normalized_shape": []int{c}, "eps": 1e-5, "elementwise_affine": true}, last)
		case 6:
			add("add", nil, last, last)
		case 7:
			add("softmax", nil, last)
		}
	}
	linear()
	if !tokens && r.IntN(3) == 0 { // answers of several positions
		shape := [][]int{{1, 4}, {4, 1}, {2, 3}, {3, 4}, {4, 3}, {2, 1, 2}}[r.IntN(6)]
		n := 1
		for _, d := range shape {
			n *= d
		}
		add("linear", map[string]any{"in_features": c, "out_features": n, "bias": true}, last)
		add("reshape", map[string]any{"shape": shape}, last)
	}
	return map[string]any{
		"version": 1, "name": "m", "inputs": []any{map[string]any{"name": "x", "shape": []int{width}, "constant": tokens}}, "nodes": nodes, "output": last,
	}
}

// tensor returns a tensor of random elements: floats, or integers from lo to hi.
func tensor(r *rand.Rand, name string, shape []int, ints bool, lo, hi int) state.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	t := state.Tensor{Name: name, Shape: shape}
	if ints {
		t.I64 = make([]int64, n)
		for i := range t.I64 {
			t.I64[i] = int64(lo + r.IntN(hi-lo+1))
		}
		return t
	}
	t.F32 = make([]float32, n)
	for i := range t.F32 {
		t.F32[i] = float32(r.NormFloat64())
	}
	return t
}

// write writes a random project.
func write(t *testing.T, dir string, r *rand.Rand) {
	t.Helper()
	tokens, width := r.IntN(3) == 0, 1+r.IntN(4)
	rows, val := 1+r.IntN(9), r.IntN(4)
	perRow := []int{}
	if r.IntN(3) == 0 {
		perRow = []int{1 + r.IntN(4)}
		if r.IntN(2) == 0 {
			perRow = append(perRow, 1+r.IntN(4))
		}
	}
	labels := r.IntN(2) == 0
	var d state.Dict
	for _, part := range []struct {
		name string
		rows int
	}{{"train", rows}, {"val", val}} {
		if part.name == "val" && val == 0 {
			break
		}
		d = append(d, tensor(r, part.name+"_x", []int{part.rows, width}, tokens, 0, 1+r.IntN(5)),
			tensor(r, part.name+"_y", append([]int{part.rows}, perRow...), labels, -r.IntN(2), 1+r.IntN(4)))
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, d, nil); err != nil {
		t.Fatal(err)
	}
	pick := func(vs ...string) string { return vs[r.IntN(len(vs))] }
	j := map[string]any{
		"version": 1, "name": "random", "model": "model.json", "data": "data.safetensors", "loss": pick("mse", "cross_entropy"),
		"optimizer": map[string]any{"name": pick("sgd", "adam", "adamw", "nadam"), "lr": 0.01},
		"epochs":    1 + r.IntN(2), "batch_size": 1 + r.IntN(6), "micro_batches": r.IntN(4), "steps": r.IntN(4), "update_frequency": 1 + r.IntN(3),
		"recompute": pick("", "selective", "full"), "precision": []string{"", "bf16"}[rows%2], "seed": r.IntN(9), "lr_schedule": map[string]any{"name": pick("constant", "linear")},
	}
	if n := r.IntN(5); n > 1 {
		j["replicas"] = n
		j["average"] = map[string]any{"of": pick("parameters", "gradients"), "optimizer": pick("average", "average", "keep", "reset"), "bits": 4 + 8*r.IntN(4)}
	}
	for name, v := range map[string]any{"job.json": j, "model.json": model(r, tokens, width)} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "data.safetensors"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRandomJobs runs random jobs to their end: a job that Open accepts must not panic in a
// kernel, and all of its batches must be trained.
func TestRandomJobs(t *testing.T) {
	n := 600
	if testing.Short() {
		n = 150
	}
	dir, accepted, why := t.TempDir(), 0, []error{}
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 11))
		write(t, dir, r)
		p, err := project.Open(dir)
		if err != nil {
			why = append(why, err)
			continue
		}
		accepted++
		tr, err := train.New(train.Config{
			Job: p.Job, Graph: p.Graph, Order: data.Order,
			TrainX: p.Data.Train.X(), TrainY: p.Data.Train.Y(), ValX: p.Data.Val.X(), ValY: p.Data.Val.Y(),
		})
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		seen := &nothing{}
		err = tr.Run(context.Background(), nil, seen)
		if want := p.Job.Total(p.Data.Train.Len()); (err != nil || seen.losses != want) && !errors.Is(err, stage.ErrDiverged) {
			t.Errorf("seed %d: %d of %d batches, %v", seed, seen.losses, want, err)
		}
	}
	if accepted < n/20 {
		t.Errorf("only %d of %d jobs were accepted, so the test tries little; refused: %v", accepted, n, why)
	}
}
