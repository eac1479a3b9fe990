// Command web compares the kernels of a tab with tfjs's WebAssembly backend, and the
// walkthrough's training step in a tab with a native one, in one run: they take turns, and
// medians are printed. It wants npm and Chromium, and is run by make bench-wasm.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rounds in which everything is measured once.
const rounds = 3

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench web:", err)
		os.Exit(1)
	}
}

// measure runs a command and takes the figures out of what it prints.
func measure(into map[string][]float64, prefix string, line *regexp.Regexp, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if m := line.FindStringSubmatch(s.Text()); m != nil {
			v, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return err
			}
			into[prefix+m[1]] = append(into[prefix+m[1]], v)
		}
	}
	return nil
}

var (
	goGemm = regexp.MustCompile(`^BenchmarkGemm/(\d+x\d+x\d+)/wasm/1\s.*\s([0-9.]+) GFLOP/s`)
	goTeam = regexp.MustCompile(`^BenchmarkGemm/(\d+x\d+x\d+)/wasm/2\s.*\s([0-9.]+) GFLOP/s`)
	goConv = regexp.MustCompile(`^BenchmarkConv/(32x64x56x56)/forward\s.*\s([0-9.]+) GFLOP/s`)
	goStep = regexp.MustCompile(`^Benchmark(CNNStep)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op`)
	js     = regexp.MustCompile(`^(?:gemm|conv)/(\S+) ([0-9.]+)`)
)

func run() error {
	if len(os.Args) != 6 {
		return fmt.Errorf("usage: web BROWSE WASM-DIR KERNEL.wasm EXEC.wasm TFJS-DIR")
	}
	browse, dir, kernel, step, tfjs := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	got := map[string][]float64{}
	for i := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i+1, rounds)
		bench := []string{"-test.run=xxx", "-test.benchtime=0.5s", "-test.bench"}
		gemm := append([]string{"-wasm", dir, kernel}, append(bench, "Gemm/(512x512x512|1024x1024x1024|64x576x3136)$/wasm/1$")...)
		conv := append([]string{"-wasm", dir, kernel}, append(bench, "Conv/32x64x56x56/forward$")...)
		team := append([]string{"-wasm", dir, "-threads", "2", kernel}, append(bench, "Gemm/(512x512x512|1024x1024x1024)$/wasm/2$")...)
		if err := measure(got, "ours ", goGemm, browse, gemm...); err != nil {
			return err
		}
		if err := measure(got, "ours ", goConv, browse, conv...); err != nil {
			return err
		}
		if err := measure(got, "tfjs ", js, browse, "-wasm", tfjs, "-script", "tfjs.js"); err != nil {
			return err
		}
		if err := measure(got, "two ", goTeam, browse, team...); err != nil {
			return err
		}
		if err := measure(got, "tab ", goStep, browse, append([]string{"-wasm", dir, step}, append(bench, "CNNStep$")...)...); err != nil {
			return err
		}
		if err := measure(got, "native ", goStep, "go", "test", "-run=xxx", "-bench=CNNStep$", "-benchtime=0.5s", "./engine/exec"); err != nil {
			return err
		}
	}
	median := func(key string) float64 {
		v := slices.Sorted(slices.Values(got[key]))
		if len(v) == 0 {
			return 0
		}
		return v[len(v)/2]
	}
	fmt.Println("| in Chromium, GFLOP/s | tfjs, 1 thread | ours, 1 thread | ratio | ours, 2 threads | ratio to one |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, shape := range []string{"512x512x512", "1024x1024x1024", "64x576x3136", "32x64x56x56"} {
		a, b, c := median("tfjs "+shape), median("ours "+shape), median("two "+shape)
		fmt.Printf("| %s | %.1f | %.1f | %.2f |", shape, a, b, b/a)
		if c > 0 {
			fmt.Printf(" %.1f | %.2f |\n", c, c/b)
		} else {
			fmt.Println(" | |")
		}
	}
	tab, native := median("tab CNNStep")/1e6, median("native CNNStep")/1e6
	fmt.Printf("\nthe walkthrough's step of 64 samples: %.2f ms in a tab, %.2f ms native on one thread: %.2f of native speed\n", tab, native, native/tab)
	return nil
}
