//go:build !js

// Command web compares the kernels of a tab with those of tfjs and onnxruntime-web, in turns on
// one thread of one worker, and the training step of the walkthrough in a tab with the native
// one. It needs npm and Chromium; make bench-wasm runs it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// result holds the milliseconds that a case took.
type result struct {
	Name  string
	Flops float64 // 0 where memory traffic is what matters
	TFJS  float64
	ORT   float64
	Ours  float64
	Two   float64 // ours with two threads
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench web:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "measure the cases whose names match `REGEXP`")
	rounds := flag.Int("rounds", 7, "measurements of each case, of which the median counts")
	ms := flag.Int("ms", 40, "milliseconds for one measurement")
	flag.Parse()
	if flag.NArg() != 3 {
		return fmt.Errorf("usage: web [-only REGEXP] [-rounds N] [-ms N] BROWSE DIR EXEC.test")
	}
	browse, dir, native := flag.Arg(0), flag.Arg(1), flag.Arg(2)
	options, err := json.Marshal(map[string]any{"only": *only, "rounds": *rounds, "ms": *ms})
	if err != nil {
		return err
	}
	cmd := exec.Command(browse, "-wasm", dir, "-script", "bench.js", "-options", string(options))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("| in Chromium | tfjs | onnxruntime-web | ours | ratios | two threads to one |")
	fmt.Println("|---|---|---|---|---|---|")
	var sum means
	for s := bufio.NewScanner(out); s.Scan(); {
		var r result
		if json.Unmarshal(s.Bytes(), &r) != nil {
			fmt.Fprintln(os.Stderr, s.Text())
			continue
		}
		r.print()
		sum.add(&r)
		if strings.Contains(r.Name, "step") {
			if err := beside(native, r.Ours); err != nil {
				return err
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	sum.print()
	return nil
}

// beside measures the native step and prints it.
func beside(native string, tab float64) error {
	out, err := exec.Command(native, "-test.run=xxx", "-test.bench=CNNStep$", "-test.benchtime=0.5s").Output()
	if err != nil {
		return fmt.Errorf("the native step: %w", err)
	}
	m := regexp.MustCompile(`(?m)^BenchmarkCNNStep\S*\s+\d+\s+([0-9.]+) ns/op`).FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("the native step printed no figure: %s", bytes.TrimSpace(out))
	}
	ns, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return err
	}
	fmt.Printf("| the same, native: %.3f ms | | | | %.2f times native | |\n", ns/1e6, tab/(ns/1e6))
	return nil
}

// figure formats GFLOP/s, or milliseconds for cases without them; "" if it was not measured.
func (r *result) figure(ms float64) string {
	switch {
	case ms == 0:
		return ""
	case r.Flops > 0:
		return fmt.Sprintf("%.1f", r.Flops/ms/1e6)
	}
	return fmt.Sprintf("%.3f ms", ms)
}

func (r *result) print() {
	var ratios []string
	for _, peer := range []float64{r.TFJS, r.ORT} {
		if peer > 0 {
			ratios = append(ratios, fmt.Sprintf("%.2f", peer/r.Ours))
		}
	}
	fmt.Printf("| %s | %s | %s | %s | %s | %.2f |\n", r.Name, r.figure(r.TFJS), r.figure(r.ORT), r.figure(r.Ours), strings.Join(ratios, ", "), r.Ours/r.Two)
}

// means collects the ratios to both peers by the first word of the cases' names.
type means struct {
	kinds []string
	logs  map[string]*[2][]float64
}

func (m *means) add(r *result) {
	kind, _, _ := strings.Cut(r.Name, " ")
	if m.logs == nil {
		m.logs = map[string]*[2][]float64{}
	}
	if m.logs[kind] == nil {
		m.kinds = append(m.kinds, kind)
		m.logs[kind] = new([2][]float64)
	}
	for i, peer := range []float64{r.TFJS, r.ORT} {
		if peer > 0 {
			m.logs[kind][i] = append(m.logs[kind][i], math.Log(peer/r.Ours))
		}
	}
}

func (m *means) print() {
	fmt.Println("\nGeometric means and minima of the ratios:")
	for _, kind := range m.kinds {
		for i, peer := range []string{"tfjs", "onnxruntime-web"} {
			logs := m.logs[kind][i]
			if len(logs) == 0 {
				continue
			}
			sum, least := 0.0, math.Inf(1)
			for _, l := range logs {
				sum, least = sum+l, min(least, l)
			}
			fmt.Printf("%s to %s: %.2f, %.2f of %d\n", kind, peer, math.Exp(sum/float64(len(logs))), math.Exp(least), len(logs))
		}
	}
}
