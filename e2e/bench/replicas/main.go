// Command replicas measures how well replicas learn: the validation loss of examples with one,
// two and four replicas, for each way of averaging, after the same number of samples and after
// the same number of updates. Its output is in BENCHMARKS.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/zoo"
)

// way is a way of averaging.
type way struct {
	name   string
	change func(*job.Spec)
}

var ways = []way{
	{"parameters", func(*job.Spec) {}},
	{"rounds of 1", func(j *job.Spec) { j.ReduceFactor = 1 }},
	{"rounds of 8", func(j *job.Spec) { j.ReduceFactor = 8 }},
	{"optimizer kept", func(j *job.Spec) { j.Average.Optimizer = job.KeepState }},
	{"optimizer reset", func(j *job.Spec) { j.Average.Optimizer = job.ResetState }},
	{"8 bits", func(j *job.Spec) { j.Average.Bits = 8 }},
	{"4 bits", func(j *job.Spec) { j.Average.Bits = 4 }},
	{"outer nesterov", func(j *job.Spec) { j.Average.Outer.Name = "nesterov" }},
	{"outer of 4 bits", func(j *job.Spec) { j.Average.Outer.Name, j.Average.Bits = "nesterov", 4 }},
	{"twice the rate", func(j *job.Spec) { j.Optimizer.LR *= 2 }},
	{"gradients", func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 }},
}

func main() {
	only := flag.String("only", "cnn,gpt-sorter", "examples; char-gpt-64 is char-gpt with 2 layers of 64 and a rate of 1e-3")
	epochs := flag.Int("epochs", 4, "epochs that one replica trains")
	seeds := flag.Int("seeds", 1, "runs of each kind, with seeds of their own")
	replicas := flag.String("replicas", "2,4", "numbers of replicas, besides one")
	threads := flag.Int("threads", 1, "threads of the tensor engine")
	chosen := flag.String("ways", "", "ways of averaging, by their names in the output; all of them if empty")
	flag.Parse()
	err := choose(*chosen)
	if err == nil {
		err = run(strings.Split(*only, ","), strings.Split(*replicas, ","), *epochs, *seeds, *threads)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
		os.Exit(1)
	}
}

// choose leaves only the ways that a list names.
func choose(list string) error {
	if list == "" {
		return nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.name == n }) {
			return fmt.Errorf("no way of averaging is called %q", n)
		}
	}
	ways = slices.DeleteFunc(ways, func(w way) bool { return !slices.Contains(names, w.name) })
	return nil
}

func run(names, replicas []string, epochs, seeds, threads int) error {
	for _, name := range names {
		e, err := find(name)
		if err != nil {
			return err
		}
		fmt.Printf("%s: validation loss after %d epochs, and after as many updates as one replica makes\n", name, epochs)
		if err := line(e, way{"one replica", func(*job.Spec) {}}, 1, epochs, seeds, threads); err != nil {
			return err
		}
		for _, text := range replicas {
			n, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			for _, w := range ways {
				if err := line(e, w, n, epochs, seeds, threads); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// find is zoo.Find, and knows a char-gpt that trains in seconds.
func find(name string) (zoo.Example, error) {
	if name != "char-gpt-64" {
		return zoo.Find(name)
	}
	e, err := zoo.Find("char-gpt")
	e.Graph = zoo.GPT(zoo.GPTConfig{Name: name, Layers: 2, Heads: 2, Width: 64, Tokens: 256, Vocab: 29, Dropout: 0.1})
	e.Job.Optimizer.LR = 1e-3
	return e, err
}

// line measures one way of averaging with n replicas and prints it.
func line(e zoo.Example, w way, n, epochs, seeds, threads int) error {
	samples, updates := make([]float64, seeds), make([]float64, seeds)
	for s := range seeds {
		j := e.Job
		j.Seed, j.Replicas, j.Epochs, j.ValEvery, j.SaveEvery, j.Steps = uint64(42+s), job.Count(n), epochs*n, epochs, 0, 0
		w.change(&j)
		if j.Gradients() {
			j.Epochs = epochs // an update is a whole batch, as with one replica
		}
		v, err := losses(e, j, threads)
		if err != nil {
			return fmt.Errorf("%d replicas, %s: %w", n, w.name, err)
		}
		samples[s], updates[s] = v[0], v[len(v)-1]
	}
	fmt.Printf("  %d  %-16s %s   %s\n", n, w.name, spread(samples), spread(updates))
	return nil
}

// spread formats the mean of figures and, of several, their range.
func spread(v []float64) string {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	s := fmt.Sprintf("%.5f", sum/float64(len(v)))
	if len(v) > 1 {
		s += fmt.Sprintf(" [%.5f..%.5f]", slices.Min(v), slices.Max(v))
	}
	return s
}

// losses trains a job and returns its validation losses.
func losses(e zoo.Example, j job.Spec, threads int) ([]float64, error) {
	if err := j.Check(); err != nil {
		return nil, err
	}
	d, _, err := data.Builtin(j.Data)
	if err != nil {
		return nil, err
	}
	team := kernel.NewTeam(threads)
	defer team.Close()
	t, err := train.New(train.Config{
		Job: j, Graph: e.Graph, Order: data.Order, Team: team,
		TrainX: d.Train.X(), TrainY: d.Train.Y(), ValX: d.Val.X(), ValY: d.Val.Y(),
	})
	if err != nil {
		return nil, err
	}
	o := &observer{}
	if err := t.Run(context.Background(), nil, o); err != nil {
		return nil, err
	}
	return o.vals, nil
}

// observer records validation losses.
type observer struct{ vals []float64 }

func (*observer) Loss(stage.Loss)                {}
func (*observer) Batch(int)                      {}
func (*observer) Keep(stage.Saved) error         { return nil }
func (o *observer) Validated(v stage.Validation) { o.vals = append(o.vals, float64(v.Loss)) }
