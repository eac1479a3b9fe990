// Command learn compares how well jobs learn in bfloat16 and in float32, over seeds, and PyTorch
// in float32 and in its bfloat16 autocast from the same weights on the same data. It trains the
// zoo's models in sizes that take seconds, and prints the validation losses at the end: each
// precision's mean, standard deviation over seeds, and bfloat16's difference in standard errors.
// The losses of single runs differ by row order and dropout alone, so that is the noise.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/e2e/torch"
	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/zoo"
)

// task is an example in the size that is trained.
type task struct {
	example string
	graph   *graph.Graph
	peer    string // the class in peer.py
	args    []any  // and its arguments
	change  func(*job.Spec)
}

func tasks() []task {
	small := zoo.ResNet18
	small.Width = 16
	return []task{
		{"cnn", zoo.CNN(), "cnn", []any{}, func(j *job.Spec) { j.Epochs = 40 }},
		{"gpt-sorter", zoo.GPT(zoo.GPTSorter), "gpt", []any{3, 3, 48, 11, 3, 0.1}, func(j *job.Spec) { j.Epochs = 40 }},
		{
			"char-gpt", zoo.GPT(zoo.GPTConfig{Name: "char-gpt", Layers: 2, Heads: 2, Width: 64, Tokens: 256, Vocab: 29, Dropout: 0.1}), "gpt",
			[]any{2, 2, 64, 256, 29, 0.1},
			func(j *job.Spec) { j.Epochs, j.Optimizer.LR = 1, 1e-3 },
		},
		{"resnet18", zoo.ResNet(small), "resnet", []any{[]int{2, 2, 2, 2}, false, 16, 10}, func(j *job.Spec) { j.Epochs, j.Optimizer.LR = 6, 5e-3 }},
		{
			"bert", zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 2, Heads: 2, Width: 64, Inner: 128, Tokens: 128, Positions: 128, Vocab: 5000, Classes: 2, Dropout: 0.1}),
			"bert",
			[]any{2, 2, 64, 128, 128, 5000, 2, 0.1},
			func(j *job.Spec) { j.Epochs, j.BatchSize, j.Optimizer.LR = 8, 8, 3e-4 },
		},
	}
}

func main() {
	only := flag.String("only", "", "examples to train, separated by commas (default all)")
	seeds := flag.Int("seeds", 3, "runs of each kind")
	from := flag.Int("from", 1, "first seed")
	alone := flag.Bool("alone", false, "do not run PyTorch")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *from, *seeds, *alone); err != nil {
		fmt.Fprintln(os.Stderr, "learn:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, from, seeds int, alone bool) error {
	python := ""
	if !alone {
		var err error
		if python, err = torch.Python(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("%-12s %-8s %22s %22s %12s\n", "model", "", "fp32", "bf16", "difference")
	for _, t := range tasks() {
		if only != "" && !slices.Contains(strings.Split(only, ","), t.example) {
			continue
		}
		if err := t.compare(ctx, python, from, seeds); err != nil {
			return fmt.Errorf("%s: %w", t.example, err)
		}
	}
	return nil
}

// compare trains a task in both precisions, here and in PyTorch, and prints a line for each. The
// losses of single runs go to standard error.
func (t *task) compare(ctx context.Context, python string, from, seeds int) error {
	var ours, theirs [2][]float64
	for s := range seeds {
		for k, precision := range []string{"fp32", "bf16"} {
			begin := time.Now()
			r, err := t.train(ctx, precision, uint64(from+s))
			if err != nil {
				return err
			}
			ours[k] = append(ours[k], r.loss)
			fmt.Fprintf(os.Stderr, "%s %s seed %d: ours %.5f, %.0f s", t.example, precision, from+s, r.loss, time.Since(begin).Seconds())
			if python == "" {
				fmt.Fprintln(os.Stderr)
				continue
			}
			begin = time.Now()
			loss, err := r.peer(ctx, python, precision)
			if err != nil {
				return err
			}
			theirs[k] = append(theirs[k], loss)
			fmt.Fprintf(os.Stderr, "; PyTorch %.5f, %.0f s\n", loss, time.Since(begin).Seconds())
		}
	}
	print := func(who string, v [2][]float64) {
		m0, s0 := spread(v[0])
		m1, s1 := spread(v[1])
		fmt.Printf("%-12s %-8s %12.5f ± %7.5f %12.5f ± %7.5f %+12.1f\n", t.example, who, m0, s0, m1, s1, (m1-m0)/math.Sqrt((s0*s0+s1*s1)/float64(seeds)))
	}
	print("ours", ours)
	if python != "" {
		print("PyTorch", theirs)
	}
	return nil
}

// spread is the mean and the standard deviation of v.
func spread(v []float64) (mean, dev float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		dev += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(dev / float64(max(1, len(v)-1)))
}

// result is a run of a task.
type result struct {
	t     *task
	job   job.Spec
	set   *data.Set
	first state.Dict // weights it began with
	loss  float64    // of validation, at the end
}

func (t *task) train(ctx context.Context, precision string, seed uint64) (*result, error) {
	e, err := zoo.Find(t.example)
	if err != nil {
		return nil, err
	}
	j := e.Job
	j.Replicas = 1 // as in PyTorch
	t.change(&j)
	j.Precision, j.Seed, j.ValEvery, j.SaveEvery = precision, seed, j.Epochs, 0
	if err := j.Check(); err != nil {
		return nil, err
	}
	set, _, err := data.Builtin(j.Data)
	if err != nil {
		return nil, err
	}
	tr, err := train.New(train.Config{
		Job: j, Graph: t.graph, Order: data.Order, Team: kernel.NewTeam(1),
		TrainX: set.Train.X(), TrainY: set.Train.Y(), ValX: set.Val.X(), ValY: set.Val.Y(),
	})
	if err != nil {
		return nil, err
	}
	r := &result{t: t, job: j, set: set, first: tr.State()}
	return r, tr.Run(ctx, nil, r)
}

// Loss, Batch, Keep and Validated implement stage.Observer.
func (*result) Loss(stage.Loss)                {}
func (*result) Batch(int)                      {}
func (*result) Keep(stage.Saved) error         { return nil }
func (r *result) Validated(v stage.Validation) { r.loss = float64(v.Loss) }

// peer is the validation loss that PyTorch reaches from the same weights.
func (r *result) peer(ctx context.Context, python, mode string) (float64, error) {
	dir, err := os.MkdirTemp("", "ravnest-learn-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "data.safetensors")
	if err := r.write(file); err != nil {
		return 0, err
	}
	rule, err := json.Marshal(r.job.Optimizer)
	if err != nil {
		return 0, err
	}
	args, err := json.Marshal(r.t.args)
	if err != nil {
		return 0, err
	}
	var stdout, stderr bytes.Buffer
	cmd := osexec.CommandContext(ctx, python, filepath.Join("e2e", "bench", "learn", "peer.py"), filepath.Join("e2e", "torch"), file, r.t.peer, mode,
		fmt.Sprint(r.job.Seed), fmt.Sprint(r.job.Epochs), fmt.Sprint(r.job.BatchSize), string(rule), string(args))
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("peer.py: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	var v struct{ Loss float64 }
	err = json.Unmarshal(stdout.Bytes(), &v)
	return v.Loss, err
}

// write writes the data and the first weights for PyTorch.
func (r *result) write(file string) error {
	var d state.Dict
	for name, p := range map[string]data.Part{"train": r.set.Train, "val": r.set.Val} {
		rows := make([]int32, p.Len())
		for i := range rows {
			rows[i] = int32(i)
		}
		x := make([]float32, len(rows)*p.X().Elems())
		p.X().Gather(x, rows)
		d = append(d, state.Tensor{Name: name + "_x", Shape: append([]int{len(rows)}, p.InputShape()...), F32: x})
		labels := make([]int32, len(rows)*p.Y().Elems()/p.Y().Classes)
		p.Y().Labels(labels, rows)
		y := state.Tensor{Name: name + "_y", Shape: []int{len(rows), len(labels) / len(rows)}}
		if y.Shape[1] == 1 {
			y.Shape = y.Shape[:1]
		}
		for _, c := range labels {
			y.I64 = append(y.I64, int64(c))
		}
		d = append(d, y)
	}
	for _, w := range r.first {
		w.Name = "weights:" + w.Name
		d = append(d, w)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := safetensors.Write(f, d, nil); err != nil {
		return err
	}
	return f.Close()
}
