// The same job gives the same bits on every path; async and the lossy codecs learn, too.

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBits: sync with fp32 gives the results of one process on any number of providers and
// threads, and again when it is repeated.
func TestBits(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	files := []string{"losses.txt", "val_accuracies.txt", "trained/trained_state_dict.safetensors", "trained/trained_state_dict.pt"}
	want := map[string][]byte{}
	same := func(dir, what string) {
		t.Helper()
		for _, f := range files {
			got := read(t, dir, f)
			if want[f] == nil {
				want[f] = got
			}
			if !bytes.Equal(got, want[f]) {
				t.Errorf("%s: %s differs from that of one process with one thread", what, f)
			}
		}
	}
	local := filepath.Join(tmp, "local")
	s.ok("ravnest", "init", "--schedule", "sync", "--wire", "fp32", "--epochs", "2", local)
	for _, threads := range []string{"1", "2", "1"} {
		s.ok("ravnest", "train", "--local", "--threads", threads, local)
		same(local, "train --local --threads "+threads)
	}
	for _, c := range []struct{ n, threads, runs int }{{1, 2, 1}, {1, 3, 1}, {2, 1, 1}, {2, 3, 1}, {3, 1, 1}, {3, 2, 2}, {5, 1, 1}, {5, 2, 1}} {
		dir := filepath.Join(tmp, fmt.Sprintf("%d-%d", c.n, c.threads))
		for run := range c.runs {
			sum := s.demo("--schedule", "sync", "--wire", "fp32", "--epochs", "2", "--providers", fmt.Sprint(c.n), "--threads", fmt.Sprint(c.threads), "--dir", dir)
			what := fmt.Sprintf("%d providers, %d threads, run %d", c.n, c.threads, run+1)
			if same(dir, what); len(sum.Cuts) != c.n || len(sum.PeakRSS) != c.n {
				t.Errorf("%s: stages from %v, memory of %v", what, sum.Cuts, sum.PeakRSS)
			}
		}
	}
	// Micro-batches change the sums, but alike on every path.
	clear(want)
	s.ok("ravnest", "train", "--local", "--micro-batches", "4", local)
	same(local, "train --local --micro-batches 4")
	dir := filepath.Join(tmp, "micro")
	s.demo("--epochs", "2", "--micro-batches", "4", "--dir", dir)
	same(dir, "3 providers, 4 micro-batches")
	// In bf16 stages send what only products read in half the bytes.
	clear(want)
	s.ok("ravnest", "train", "--local", "--precision", "bf16", local)
	same(local, "train --local --precision bf16")
	for _, n := range []string{"2", "3", "5"} {
		dir := filepath.Join(tmp, "bf16-"+n)
		s.demo("--epochs", "2", "--precision", "bf16", "--providers", n, "--dir", dir)
		same(dir, n+" providers, bf16")
	}
	// Nor does it matter which instructions a processor has: what is switched off here, where it is
	// there, is what other machines lack.
	for _, off := range []string{"cpu.avx512bf16=off", "cpu.avx512f=off", "cpu.avx2=off"} {
		t.Setenv("GODEBUG", off)
		s.ok("ravnest", "train", "--local", "--precision", "bf16", local)
		same(local, "train --local --precision bf16 with "+off)
		dir := filepath.Join(tmp, off)
		s.demo("--epochs", "2", "--precision", "bf16", "--dir", dir)
		same(dir, "3 providers, bf16, "+off)
	}
}

// TestMicroBatchesAreChosen: if a job of one replica does not say how many micro-batches a batch has, the
// planner decides, and the results are those of one process, which does not split batches.
func TestMicroBatchesAreChosen(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	local, dir := filepath.Join(tmp, "local"), filepath.Join(tmp, "pipeline")
	for _, d := range []string{local, dir} {
		s.ok("ravnest", "init", "--example", "gpt-sorter", "--replicas", "1", "--nodes", "2", "--steps", "20", d)
	}
	s.ok("ravnest", "train", "--local", local)
	s.demo("--providers", "2", "--dir", dir)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
			t.Errorf("%s differs from that of one process", f)
		}
	}
	var plan struct {
		Clusters []struct {
			MicroBatches int `json:"micro_batches"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal(read(t, dir, "node_data/plan.json"), &plan); err != nil {
		t.Fatal(err)
	}
	if len(plan.Clusters) != 1 || plan.Clusters[0].MicroBatches < 2 {
		t.Errorf("the planner chose %+v", plan.Clusters)
	}
}

// TestHalvesAreChosen: where a job of one replica says sync and its batches stay whole, the planner has backward passes
// in two halves, says so, and the result is that of one process. The pool's figures are written
// down, so that the plan does not follow from this machine.
func TestHalvesAreChosen(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	local, dir := filepath.Join(tmp, "local"), filepath.Join(tmp, "pipeline")
	s.local(local, "--example", "resnet18", "--replicas", "1", "--steps", "2")
	s.ok("ravnest", "init", "--example", "resnet18", "--replicas", "1", "--nodes", "2", "--steps", "2", dir)
	for range 2 {
		edit(t, filepath.Join(dir, "node_data/node_configs.json"), `"bandwidth": 10}`, `"bandwidth": 10000, "compute": 100}`)
	}
	if _, said := s.ok("ravnest", "clusterize", dir); !strings.Contains(said, "backward passes are in two halves") {
		t.Fatalf("clusterize says\n%s", said)
	}
	host, url := s.serve(dir)
	s.provide(url, "node_0", "node_1")
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d\n%s", code, tail(host.err.String()))
	}
	s.ok("ravnest", "fuse", dir)
	s.same("halves", dir, local)
}

// TestReplicas: replicas in one pipeline of processes give the results of one process that
// trains them one after the other, and the planner keeps at least as many units in flight as there
// are stages. The number of batches in an epoch, 23, is not a multiple of the replicas.
func TestReplicas(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	for of, flags := range map[string][]string{
		"parameters": {"--replicas", "4", "--reduce-factor", "2", "--epochs", "3"},
		"gradients":  {"--replicas", "4", "--epochs", "2"},
	} {
		local := filepath.Join(tmp, of)
		job := func(dir string) {
			s.ok("ravnest", append(append([]string{"init"}, flags...), dir)...)
			if of == "gradients" {
				text := read(t, dir, "job.json")
				split := bytes.Replace(text, []byte(`"replicas": 4`), []byte(`"replicas": 4, "average": {"of": "gradients"}`), 1)
				if bytes.Equal(text, split) {
					t.Fatalf("the job has no replicas: %s", text)
				}
				if err := os.WriteFile(filepath.Join(dir, "job.json"), split, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		job(local)
		s.ok("ravnest", "train", "--local", local)
		for _, n := range []int{1, 2, 3} {
			dir := filepath.Join(tmp, fmt.Sprintf("%s-%d", of, n))
			job(dir)
			sum := s.demo("--providers", fmt.Sprint(n), "--clusters", "1", "--dir", dir)
			for _, f := range []string{"losses.txt", "val_accuracies.txt", "trained/trained_state_dict.safetensors"} {
				if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
					t.Errorf("%s, %d providers: %s differs from that of one process", of, n, f)
				}
			}
			if len(sum.Cuts) != n {
				t.Errorf("%d stages on %d providers", len(sum.Cuts), n)
			}
			var plan struct {
				Clusters []struct {
					InFlight int `json:"in_flight"`
				} `json:"clusters"`
			}
			if err := json.Unmarshal(read(t, dir, "node_data/plan.json"), &plan); err != nil {
				t.Fatal(err)
			}
			// As many as stages, or more where messages take long; one process needs one at a time.
			least, most := n, 4
			if n == 1 {
				most = 1
			}
			if of == "gradients" {
				least, most = 0, 0
			}
			if c := plan.Clusters; len(c) != 1 || c[0].InFlight < least || c[0].InFlight > most {
				t.Errorf("%s, %d providers: the planner chose %+v, want %d to %d in flight", of, n, c, least, most)
			}
		}
	}
	// What is impossible is refused with the reason.
	s.bad([]string{"schedule async has one replica"}, "ravnest", "init", "--replicas", "4", "--schedule", "async", filepath.Join(tmp, "async"))
}

// TestLearns: both schedules learn with every codec. How well they do is measured by
// TestLearning.
func TestLearns(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	// The most bytes that a batch may take. Runs can be compared only where their stages begin
	// at the same nodes: noise in the providers' benchmarks can move the cuts.
	most := map[string]float64{"fp32": 157e3, "fp16": 80e3, "bf16": 80e3, "int8": 45e3}
	var lossless summary
	for _, schedule := range []string{"sync", "async"} {
		for _, wire := range []string{"fp32", "int8", "fp16", "bf16"} {
			sum := s.demo("--schedule", schedule, "--wire", wire, "--epochs", "10", "--dir", filepath.Join(tmp, schedule+wire))
			t.Logf("%-5s %s: %.2f %%, %.0f samples/s, %.1f kB a batch, stages from %v", schedule, wire, sum.ValAccuracy, sum.SamplesPerS, sum.WireBytes/1e3, sum.Cuts)
			// One process reaches 93.3 % after 10 epochs; guessing is 10 %.
			if sum.ValAccuracy < 85 {
				t.Errorf("%s over %s: %.2f %% after 10 epochs, want 85", schedule, wire, sum.ValAccuracy)
			}
			if sum.WireBytes >= most[wire] {
				t.Errorf("%s over %s sends %.0f bytes a batch, want less than %.0f", schedule, wire, sum.WireBytes, most[wire])
			}
			if wire == "fp32" {
				lossless = sum
			} else if slices.Equal(sum.Cuts, lossless.Cuts) && sum.WireBytes > 0.8*lossless.WireBytes {
				t.Errorf("%s over %s sends %.0f bytes a batch, fp32 %.0f", schedule, wire, sum.WireBytes, lossless.WireBytes)
			}
		}
	}
}
