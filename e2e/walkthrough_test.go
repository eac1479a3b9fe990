// The walkthrough of the README step by step, and the files that it leaves.

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/zoo"
)

// first holds the nodes of the graph at which the stages of the original example begin.
var first = []string{"conv2d_1", "dense_1", "bn_3"}

func TestWalkthrough(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "my-job")
	s.ok("ravnest", "init", "--example", "cnn", "--epochs", "3", dir)

	out, _ := s.ok("ravnest", "clusterize", dir)
	for k, role := range []string{"root", "stem", "leaf"} {
		want := fmt.Sprintf("Node(%d, Cluster(0))\nrole(%s)\nself.IP(0.0.0.0:%d)\nRing IDs({%d: '%s.weight'})\nAddress2Param({'0.0.0.0:%d': '%s.weight'})\n",
			k, role, 8080+k, k, first[k], 8080+k, first[k])
		if !strings.Contains(out, want) {
			t.Errorf("clusterize does not print\n%s\nbut\n%s", want, out)
		}
		checkNode(t, dir, k, role)
	}

	host, url := s.serve("--json", dir)
	var ps []*proc
	for k := range 3 {
		ps = append(ps, s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once"))
	}
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d\n%s", code, host.err.String())
	}
	for _, p := range ps {
		if code := p.wait(limit); code != 0 {
			t.Errorf("a provider of a run that ended well: code %d", code)
		}
	}
	sum := parse[summary](t, host.out.String())
	if sum.Command != "serve" || sum.Steps != 51 || sum.Samples != 3*1078 || !slices.Equal(sum.Cuts, first) {
		t.Errorf("serve's result is %+v, want 51 steps, 3234 samples, stages from %v", sum, first)
	}
	for k := range 3 {
		read(t, dir, "node_data/cluster_0", fmt.Sprintf("0.0.0.0:%d", 8080+k), "weights.safetensors")
	}

	fused, _ := s.ok("ravnest", "fuse", "--cluster", "0", dir)
	for _, ext := range []string{".safetensors", ".pt"} {
		name := filepath.Join(dir, "trained/trained_state_dict"+ext)
		if read(t, name); !strings.Contains(fused, name) {
			t.Errorf("fuse does not say that it wrote %s: %s", name, fused)
		}
	}
	// The state dict has the names of the whole model.
	d, _, err := safetensors.Parse(read(t, dir, "trained/trained_state_dict.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, x := range d {
		got = append(got, x.Name)
	}
	for _, q := range zoo.CNN().Params() {
		want = append(want, q.Full)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the fused file has %v, want %v", got, want)
	}

	ev, _ := s.ok("ravnest", "eval", "--json", dir)
	acc := parse[struct {
		Accuracy float64 `json:"val_accuracy"`
		Total    int     `json:"total"`
	}](t, ev)
	vals := checkVals(t, dir, 3)
	if acc.Total != 719 || fmt.Sprintf("%.4f", acc.Accuracy) != vals[2] {
		t.Errorf("eval of the fused model: %+v, the run's last pass: %s %%", acc, vals[2])
	}
	if plain, _ := s.ok("ravnest", "eval", dir); !regexp.MustCompile(`^\d+ of 719 correct: validation accuracy [\d.]+ %`).MatchString(plain) {
		t.Errorf("eval prints %q", plain)
	}
	checkLosses(t, dir, 51)
}

// checkNode checks that node_k.json has the keys of the original Ravnest's and the values of
// this job.
func checkNode(t *testing.T, dir string, k int, role string) {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(read(t, dir, "node_data/nodes", fmt.Sprintf("node_%d.json", k)), &m); err != nil {
		t.Fatal(err)
	}
	port := func(k int) any {
		if k < 0 || k > 2 {
			return nil
		}
		return float64(8080 + k)
	}
	host := func(k int) any {
		if k < 0 || k > 2 {
			return nil
		}
		return "0.0.0.0"
	}
	want := map[string]any{
		"node_id": float64(k), "local_host": "0.0.0.0", "local_port": port(k), "node_type": role,
		"template_path": fmt.Sprintf("node_data/cluster_0/0.0.0.0:%d/", 8080+k),
		"rank":          0.0, "ring_size": 1.0, "cluster_length": 3.0,
		"param_addresses":     []any{map[string]any{fmt.Sprintf("0.0.0.0:%d", 8080+k): first[k] + ".weight"}},
		"ring_ids":            map[string]any{strconv.Itoa(k): first[k] + ".weight"},
		"forward_target_host": host(k + 1), "forward_target_port": port(k + 1),
		"backward_target_host": host(k - 1), "backward_target_port": port(k - 1),
	}
	if got, w := fmt.Sprint(m), fmt.Sprint(want); got != w {
		t.Errorf("node_%d.json is\n%s\nwant\n%s", k, got, w)
	}
	if a, b := slices.Sorted(maps.Keys(m)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Errorf("node_%d.json has the keys %v, want %v", k, a, b)
	}
}

// checkLosses checks that losses.txt has a line for each batch, with four decimals.
func checkLosses(t *testing.T, dir string, want int) {
	t.Helper()
	if n := len(lines(t, dir, "losses.txt")); n != want {
		t.Errorf("losses.txt has %d lines, want %d", n, want)
	}
}

// checkVals checks that val_accuracies.txt has a percentage for each validation, and returns
// them.
func checkVals(t *testing.T, dir string, want int) []string {
	t.Helper()
	vals := lines(t, dir, "val_accuracies.txt")
	if len(vals) != want {
		t.Fatalf("val_accuracies.txt has %d lines, want %d", len(vals), want)
	}
	for _, v := range vals {
		if f, err := strconv.ParseFloat(v, 64); err != nil || f < 5 || f > 100 {
			t.Errorf("%q is not a percentage", v)
		}
	}
	return vals
}

var decimal = regexp.MustCompile(`^\d+\.\d{4}$`)

func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	b := string(read(t, dir, name))
	if !strings.HasSuffix(b, "\n") {
		t.Errorf("%s does not end with a newline", name)
	}
	ls := strings.Split(strings.TrimSuffix(b, "\n"), "\n")
	for i, l := range ls {
		if !decimal.MatchString(l) {
			t.Fatalf("%s:%d: %q is not a number with four decimals", name, i+1, l)
		}
	}
	return ls
}

// TestJSON: --json prints one object with the documented fields.
func TestJSON(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	out, _ := s.ok("ravnest", "demo", "--json", "--epochs", "2", "--dir", dir)
	m := parse[map[string]any](t, out)
	for _, k := range []string{
		"command", "schedule", "wire", "seed", "providers", "epochs", "steps", "samples", "seconds", "samples_per_s",
		"loss", "val_accuracy", "best_val_accuracy", "wire_bytes_per_batch", "peak_rss_bytes", "first_step_s", "cuts", "files", "interrupted",
	} {
		if _, ok := m[k]; !ok {
			t.Errorf("demo --json has no %s", k)
		}
	}
	sum := parse[summary](t, out)
	if len(sum.PeakRSS) != 3 || slices.Min(sum.PeakRSS) < 1<<20 || slices.Max(sum.PeakRSS) > 1<<30 {
		t.Errorf("peak_rss_bytes is %v, want a plausible value for each of 3 providers", sum.PeakRSS)
	}
	if sum.SamplesPerS < 100 || sum.WireBytes < 1000 || sum.FirstStepS <= 0 || sum.ValAccuracy < 5 || sum.Steps != 34 {
		t.Errorf("implausible figures: %+v", sum)
	}
	for _, want := range []string{"trained/trained_state_dict.safetensors", "trained/trained_state_dict.pt", "losses.txt", "val_accuracies.txt"} {
		if !slices.Contains(sum.Files, filepath.Join(dir, want)) {
			t.Errorf("files do not name %s: %v", want, sum.Files)
		}
	}
	for _, f := range sum.Files {
		read(t, f)
	}
	for _, c := range [][]string{{"train", "--local", "--steps", "5"}, {"clusterize"}, {"eval"}} {
		out, _ := s.ok("ravnest", append(append(c, "--json"), dir)...)
		parse[map[string]any](t, out)
		if c[0] == "train" {
			checkLosses(t, dir, 5)
		}
	}
}
