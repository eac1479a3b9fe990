// Command pair measures what a second provider brings: examples at their own settings, and with one
// replica, on two providers with one thread each, in processes of this machine, beside one process with
// one thread; and how true the forecasts were. All ways take turns, and medians of the turns are printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ravnest/ravnest/e2e/bench/command"
	"github.com/ravnest/ravnest/engine/zoo"
)

// way is one of training a job.
type way struct {
	name     string
	replicas int // left out where these are the example's own, by which others train already; 0: never
	args     []string
}

// ways are compared with the first.
var ways = []way{
	{"one thread", 0, []string{"train", "--local"}},
	{"two, as planned", 0, []string{"demo", "--providers", "2"}},
	{"a pipeline, fp32", 0, []string{"demo", "--providers", "2", "--clusters", "1"}},
	{"a pipeline, int8", 0, []string{"demo", "--providers", "2", "--clusters", "1", "--wire", "int8"}},
	{"one replica, as planned", 1, []string{"demo", "--providers", "2", "--replicas", "1"}},
	{"one replica, a pipeline", 1, []string{"demo", "--providers", "2", "--replicas", "1", "--clusters", "1"}},
	{"two replicas, as planned", 2, []string{"demo", "--providers", "2", "--replicas", "2"}},
	{"two replicas, a pipeline", 2, []string{"demo", "--providers", "2", "--replicas", "2", "--clusters", "1"}},
	{"two replicas, a cluster each", 0, []string{"demo", "--providers", "2", "--replicas", "2", "--clusters", "2"}},
}

// batches of each example: some seconds.
var batches = map[string]int{"cnn": 6000, "gpt-sorter": 600, "char-gpt": 24, "resnet18": 32}

// result is the part of the output of --json that this program reads.
type result struct {
	SamplesPerS float64 `json:"samples_per_s"`
	Forecast    float64 `json:"forecast_samples_per_s"`
	WireBytes   float64 `json:"wire_bytes_per_batch"`
	Providers   int     `json:"providers"`
}

func main() {
	only := flag.String("only", "cnn,gpt-sorter,char-gpt,resnet18", "examples")
	n := flag.Int("n", 3, "turns")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Split(*only, ","), *n); err != nil {
		fmt.Fprintln(os.Stderr, "pair:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, examples []string, n int) (err error) {
	if n < 1 {
		return fmt.Errorf("-n %d: want at least 1", n)
	}
	bin, err := command.Bin()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ravnest-pair-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, example := range examples {
		if batches[example] == 0 {
			return fmt.Errorf("no example %q", example)
		}
		if err := measure(ctx, bin, dir, example, n); err != nil {
			return err
		}
	}
	return nil
}

// measure prints the speeds of an example.
func measure(ctx context.Context, bin, dir, example string, n int) error {
	e, err := zoo.Find(example)
	if err != nil {
		return err
	}
	ways := slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return w.replicas == e.Job.Replica() })
	results := make([][]result, len(ways))
	for turn := range n {
		for i, w := range ways {
			job := filepath.Join(dir, fmt.Sprint(example, turn, i)) // of its own, so that no forecast knows of an earlier run
			if err := command.Ravnest(ctx, bin, nil, "init", "--example", example, "--steps", fmt.Sprint(batches[example]), job); err != nil {
				return err
			}
			args := append(slices.Clone(w.args), "--json", "--threads", "1")
			if w.args[0] == "demo" {
				args = append(args, "--dir")
			}
			var r result
			if err := command.Ravnest(ctx, bin, &r, append(args, job)...); err != nil {
				return err
			}
			results[i] = append(results[i], r)
		}
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\tsamples/s\tto one thread\tforecast/achieved\tproviders\tkB a batch\n", example)
	for i, w := range ways {
		r := results[i][0]
		speed := median(results[i], func(k int) float64 { return results[i][k].SamplesPerS })
		ratio := median(results[i], func(k int) float64 { return results[i][k].SamplesPerS / results[0][k].SamplesPerS })
		accuracy := median(results[i], func(k int) float64 { return results[i][k].Forecast / results[i][k].SamplesPerS })
		fmt.Fprintf(t, "%s\t%.4g\t%.2f\t%.2f\t%d\t%.0f\n", w.name, speed, ratio, accuracy, r.Providers, r.WireBytes/1e3)
	}
	return t.Flush()
}

// median returns that of a figure of the turns.
func median(rs []result, f func(turn int) float64) float64 {
	var v []float64
	for k := range rs {
		v = append(v, f(k))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
