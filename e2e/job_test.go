// Jobs as people write them, with their own data, labels and names, and with mistakes.

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// mlp writes a job whose model consists of linear layers of the given sizes and whose data has
// 40 rows with the targets y. change replaces entries of job.json.
func mlp(t *testing.T, dir string, change map[string]any, y state.Tensor, sizes ...int) {
	t.Helper()
	nodes, last := []any{}, "x"
	for i := range len(sizes) - 1 {
		name := fmt.Sprintf("fc%d", i+1)
		nodes = append(nodes, map[string]any{"name": name, "op": "linear", "in": []string{last}, "attrs": map[string]any{"in_features": sizes[i], "out_features": sizes[i+1], "bias": true}})
		if last = name; i < len(sizes)-2 {
			nodes = append(nodes, map[string]any{"name": "act" + name, "op": "relu", "in": []string{last}})
			last = "act" + name
		}
	}
	j := map[string]any{
		"version": 1, "name": "mine", "model": "model.json", "data": "data.safetensors", "loss": "cross_entropy",
		"optimizer": map[string]any{"name": "sgd", "lr": 0.1}, "epochs": 2, "batch_size": 8,
	}
	for k, v := range change {
		j[k] = v
	}
	const rows = 40
	x := state.Tensor{Name: "train_x", Shape: []int{rows, sizes[0]}}
	for i := range rows * sizes[0] {
		x.F32 = append(x.F32, float32(i*37%11-5)/3)
	}
	y.Name, y.Shape = "train_y", append([]int{rows}, y.Shape...)
	vx, vy := x, y
	vx.Name, vy.Name = "val_x", "val_y"
	if err := os.MkdirAll(filepath.Join(dir, "node_data"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "data.safetensors"))
	if err == nil {
		err = errors.Join(safetensors.Write(f, state.Dict{x, y, vx, vy}, nil), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"job.json":   j,
		"model.json": map[string]any{"version": 1, "name": "mlp", "inputs": []any{map[string]any{"name": "x", "shape": []int{sizes[0]}}}, "nodes": nodes, "output": last},
	} {
		b, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// labels returns 40 classes from 0 to n-1.
func labels(n int) state.Tensor {
	y := state.Tensor{Shape: []int{}}
	for i := range 40 {
		y.I64 = append(y.I64, int64(i%n))
	}
	return y
}

// values returns 40 numbers.
func values() state.Tensor {
	y := state.Tensor{Shape: []int{}}
	for i := range 40 {
		y.F32 = append(y.F32, float32(i*37%11-5))
	}
	return y
}

// TestLabels trains on fewer classes than the model has outputs; more are refused.
func TestLabels(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "job")
	mlp(t, dir, nil, labels(3), 4, 8, 5)
	s.ok("ravnest", "train", "--local", dir)
	if out, _ := s.ok("ravnest", "eval", dir); !strings.Contains(out, " of 40 correct") {
		t.Errorf("eval says %q", out)
	}
	mlp(t, dir, nil, labels(6), 4, 8, 5)
	for _, c := range [][]string{{"train", "--local", dir}, {"eval", dir}, {"clusterize", dir}, {"fuse", dir}, {"serve", "--listen", "127.0.0.1:0", dir}, {"demo", "--dir", dir}} {
		s.bad([]string{`tensor "train_y": .*row 5 holds class 5; the model has 5 outputs, classes are 0\.\.4`}, "ravnest", c...)
	}
}

// TestRegression checks that no command reports an accuracy for a regression: neither a local
// run nor a demo nor eval.
func TestRegression(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "job")
	mlp(t, dir, map[string]any{"loss": "mse", "optimizer": map[string]any{"name": "adam"}}, values(), 4, 8, 1)
	var losses []string
	for _, c := range [][]string{{"train", "--local", dir}, {"demo", "--providers", "2", "--clusters", "1", "--dir", dir}, {"eval", dir}} {
		out, said := s.ok("ravnest", c...)
		if all := out + said; strings.Contains(all, "accuracy") || !strings.Contains(all, "validation loss ") || strings.Contains(all, "100.00") {
			t.Errorf("%v says\n%s%s", c, out, said)
		}
		_, loss, _ := strings.Cut(out, "validation loss ")
		losses = append(losses, strings.TrimSuffix(strings.Fields(loss)[0], ","))
	}
	if losses[0] != losses[1] || losses[0] != losses[2] {
		t.Errorf("validation losses of train, demo and eval: %v", losses)
	}
	if got := strings.Fields(string(read(t, dir, "val_losses.txt"))); len(got) != 2 || got[1] != losses[0] {
		t.Errorf("val_losses.txt: %v, want two, the last %s", got, losses[0])
	}
	if b := read(t, dir, "val_accuracies.txt"); len(b) != 0 {
		t.Errorf("val_accuracies.txt: %q", b)
	}
}

// TestDiverged checks that a run whose loss becomes infinite or NaN says so, leaves finite
// weights, and still prints JSON.
func TestDiverged(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "job")
	mlp(t, dir, map[string]any{"optimizer": map[string]any{"name": "sgd", "lr": 1e6}, "epochs": 20}, labels(3), 4, 8, 3)
	s.bad([]string{`step \d+: training diverged: .*lower the optimizer's lr of 1e\+06`}, "ravnest", "train", "--local", dir)
	out, said := s.ok("ravnest", "train", "--local", "--json", dir)
	r := parse[map[string]any](t, out)
	if loss, there := r["loss"]; loss != nil || !there || !strings.Contains(fmt.Sprint(r["error"]), "diverged") || !strings.Contains(said, "diverged") {
		t.Errorf("stdout %s\nstderr %s", out, said)
	}
	if files := fmt.Sprint(r["files"]); strings.Count(files, "trained_state_dict") != 2 {
		t.Errorf("the files of the saved weights are not listed: %s", out)
	}
	out, _ = s.ok("ravnest", "eval", "--json", dir)
	if e := parse[map[string]any](t, out); e["val_loss"] == nil {
		t.Errorf("the saved weights are not finite: %s", out)
	}
}

// TestDemoDiverged checks that the same run on providers ends at once and says which stage
// found what, and what to change.
func TestDemoDiverged(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "job")
	mlp(t, dir, map[string]any{"optimizer": map[string]any{"name": "sgd", "lr": 1e6}, "epochs": 20}, labels(3), 4, 8, 3)
	p := s.bad([]string{
		`the training diverged: node_\d \(cluster 0, stage \d\): `, `step \d+`, `lower the optimizer's lr of 1e\+06`,
	}, "ravnest", "demo", "--providers", "2", "--clusters", "1", "--dir", dir)
	if said := p.err.String(); strings.Contains(said, "goes on") || strings.Count(said, "\ntraining\n") != 1 || strings.Contains(said, "exit status") {
		t.Errorf("a run that diverged was tried again, or its providers were blamed:\n%s", said)
	}
	s.alone()
	out, said := s.ok("ravnest", "demo", "--json", "--providers", "2", "--clusters", "1", "--dir", dir)
	r := parse[map[string]any](t, out)
	if loss, there := r["loss"]; loss != nil || !there || !strings.Contains(fmt.Sprint(r["error"]), "lower the optimizer's lr") || !strings.Contains(said, "diverged") {
		t.Errorf("stdout %s\nstderr %s", out, said)
	}
}

// TestJobNames trains and fuses a job whose name and directory contain unusual characters.
func TestJobNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not all of these characters are allowed in names here")
	}
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "a [dir] with 'ünï'\"cödé\" *?")
	mlp(t, dir, map[string]any{"name": "my/net: ünï cödé, " + strings.Repeat("long ", 20), "epochs": 1}, labels(3), 4, 8, 3)
	for range 2 {
		s.ok("ravnest", "demo", "--providers", "2", "--clusters", "1", "--dir", dir)
	}
	read(t, dir, "previous", "1", "losses.txt")
	s.ok("ravnest", "fuse", dir)
	s.ok("ravnest", "eval", dir)
}

// TestInUse checks that a directory in which one command works is closed to others until that
// one ends, even if it is killed.
func TestInUse(t *testing.T) {
	s, dir := newScene(t), filepath.Join(t.TempDir(), "job")
	mlp(t, dir, map[string]any{"epochs": 1 << 20, "save_every": 1000}, labels(3), 4, 64, 3)
	first := s.start("ravnest", "train", "--local", dir)
	first.says("epoch ", limit)
	for _, c := range [][]string{{"train", "--local", "--epochs", "1", dir}, {"demo", "--dir", dir}, {"clusterize", dir}, {"fuse", dir}, {"serve", "--listen", "127.0.0.1:0", dir}} {
		s.bad([]string{fmt.Sprintf(`in use by ravnest train \(process %d, since `, first.cmd.Process.Pid)}, "ravnest", c...)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait(limit)
	s.ok("ravnest", "train", "--local", "--epochs", "1", dir)
}
