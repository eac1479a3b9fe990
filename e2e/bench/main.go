// Command bench measures the demo as its user sees it, in whole processes, and compares it with
// figures of other systems (make bench-demo). It prints a table and appends a line of JSON for
// each figure to the file named by OUT.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ravnest/ravnest/e2e/bench/command"
	"github.com/ravnest/ravnest/e2e/torch"
	"github.com/ravnest/ravnest/native"
)

// The figures to compare with, measured on a machine with 2 cores: the walkthrough of the
// original Ravnest (Python, gRPC), and PyTorch 1.13 training the same model from memory on one
// thread.
const (
	seedSamples  = 597.0    // samples/s of three providers
	seedRSS      = 3.0e9    // bytes of three providers
	seedWire     = 157000.0 // bytes per batch
	torchSamples = 28000.0  // samples/s, one thread
	targetRSS    = 150e6
	targetInt8   = 45000.0
	targetFirst  = 3.0 // s
)

const (
	epochs      = 100 // of runs that are timed
	shortEpochs = 10  // of runs whose traffic is measured
	torchEpochs = 60
	providers   = "3"
)

// line is a line of OUT.
type line struct {
	Name     string  `json:"name"`
	Ours     float64 `json:"ours"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	Unit     string  `json:"unit"`
	Ratio    float64 `json:"ratio"` // ours / peer
}

// machine describes where the figures were measured.
type machine struct {
	Name  string `json:"name"`
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	RAM   int64  `json:"available_ram_bytes"`
	OS    string `json:"os"`
	Go    string `json:"go"`
	Load  string `json:"load"` // load averages before the first run: 0 on an idle machine
}

// result is the part of the output of --json that this program reads.
type result struct {
	SamplesPerS float64 `json:"samples_per_s"`
	ValAccuracy float64 `json:"val_accuracy"`
	WireBytes   float64 `json:"wire_bytes_per_batch"`
	PeakRSS     []int64 `json:"peak_rss_bytes"`
	FirstStepS  float64 `json:"first_step_s"`
}

func (r result) rss() (n float64) {
	for _, b := range r.PeakRSS {
		n += float64(b)
	}
	return n
}

func main() {
	n := flag.Int("n", 3, "runs of each measurement, of which the median is reported")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *n, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, n int, out io.Writer) (err error) {
	if n < 1 || n > 100 {
		return fmt.Errorf("-n %d is outside 1..100", n)
	}
	dir, err := os.MkdirTemp("", "ravnest-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := command.Bin()
	if err != nil {
		return err
	}
	run := func(args ...string) (r result, err error) {
		return r, command.Ravnest(ctx, bin, &r, args...)
	}
	demo := func(schedule, wire string, n int) (result, error) {
		return run("demo", "--json", "--schedule", schedule, "--wire", wire, "--epochs", fmt.Sprint(n),
			"--providers", providers, "--dir", filepath.Join(dir, schedule+"-"+wire))
	}
	local := filepath.Join(dir, "local")
	if err := command.Ravnest(ctx, bin, nil, "init", "--epochs", fmt.Sprint(epochs), local); err != nil {
		return err
	}

	python, perr := torch.Python(ctx)
	digits := filepath.Join(dir, "digits.safetensors")
	if perr == nil {
		if err := torch.WriteDigits(digits); err != nil {
			return err
		}
	}
	m := describe()
	fmt.Fprintf(out, "%s, %d cores, %s available, %s, %s, load before %s\n", m.CPU, m.Cores, native.FormatSize(m.RAM), m.OS, m.Go, m.Load)
	fmt.Fprintf(out, "median of %d alternating runs\n\n", n)

	// Alternating, so that other work of the machine disturbs all alike.
	var async, sync, int8s, locals []result
	var peers []float64
	var version string
	for range n {
		for _, d := range []struct {
			to   *[]result
			call func() (result, error)
		}{
			{&async, func() (result, error) { return demo("async", "fp32", epochs) }},
			{&sync, func() (result, error) { return demo("sync", "fp32", epochs) }},
			{&int8s, func() (result, error) { return demo("async", "int8", shortEpochs) }},
			{&locals, func() (result, error) { return run("train", "--local", "--json", "--threads", "1", local) }},
		} {
			r, err := d.call()
			if err != nil {
				return err
			}
			*d.to = append(*d.to, r)
		}
		if perr == nil {
			s, err := torch.Train(ctx, python, digits, torchEpochs, 42, false)
			if err != nil {
				return err
			}
			peers, version = append(peers, s.SamplesPerSec), s.Torch
		}
	}

	samples := func(r result) float64 { return r.SamplesPerS }
	wire := func(r result) float64 { return r.WireBytes }
	peer, peerName := torchSamples, "PyTorch 1.13, 1 thread, training only, recorded"
	if perr == nil {
		slices.Sort(peers)
		peer, peerName = peers[len(peers)/2], "PyTorch "+version+", 1 thread, training only, same run"
	}
	ls := []line{
		{"demo async fp32, " + providers + " providers", median(async, samples), seedSamples, "Ravnest (Python), recorded", "samples/s", 0},
		{"demo sync fp32, " + providers + " providers", median(sync, samples), seedSamples, "Ravnest (Python), recorded", "samples/s", 0},
		{"train --local, 1 thread, with validation", median(locals, samples), peer, peerName, "samples/s", 0},
		{"first step after the last provider's start", median(async, func(r result) float64 { return r.FirstStepS }), targetFirst, "target", "s", 0},
		{"peak RSS of " + providers + " providers", median(async, result.rss), seedRSS, "Ravnest (Python), recorded", "bytes", 0},
		{"peak RSS of " + providers + " providers, target", median(async, result.rss), targetRSS, "target", "bytes", 0},
		{"wire per batch, fp32", median(async, wire), seedWire, "Ravnest (Python), recorded", "bytes", 0},
		{"wire per batch, int8", median(int8s, wire), targetInt8, "target", "bytes", 0},
		{"validation after 100 epochs, async fp32, seed 42", median(async, func(r result) float64 { return r.ValAccuracy }), 96.7, "Ravnest (Python), recorded", "%", 0},
	}
	for i := range ls {
		ls[i].Ratio = ls[i].Ours / ls[i].Peer
	}
	if err := table(out, ls); err != nil {
		return err
	}
	if perr != nil {
		fmt.Fprintf(out, "\nPyTorch was not measured: %v\n", perr)
	}
	return record(os.Getenv("OUT"), m, ls)
}

// median returns the median of a figure.
func median(rs []result, f func(result) float64) float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func table(out io.Writer, ls []line) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tours\tpeer\tours/peer\tunit\tpeer is")
	for _, l := range ls {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.3g\t%s\t%s\n", l.Name, figure(l.Ours), figure(l.Peer), l.Ratio, l.Unit, l.PeerName)
	}
	return w.Flush()
}

// figure formats a number with three digits, or as an integer if it has more.
func figure(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// record appends the lines to the file at path, if one is named.
func record(path string, m machine, ls []line) (err error) {
	if path == "" {
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return err
	}
	for _, l := range ls {
		if err := e.Encode(l); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("OUT: %w", err)
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

// describe describes the machine; what the system does not tell is left empty.
func describe() machine {
	m := machine{Name: "machine", CPU: runtime.GOARCH, Cores: native.Cores(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if ram, err := native.AvailableRAM(); err == nil {
		m.RAM = ram
	}
	m.Load = "unknown"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			m.CPU = strings.TrimSpace(v)
			break
		}
	}
	return m
}
