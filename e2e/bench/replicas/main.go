// Command replicas measures how well replicas learn: the validation loss of examples with one,
// two and four replicas, for each way of averaging, after the same number of samples and after
// the same number of updates; with -epochs 0 what is learned by the example's own job, after a quarter of
// its epochs and at its end. Its output is in BENCHMARKS.md.
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
	"github.com/ravnest/ravnest/engine/graph"
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
	{"1.5 of the rate", func(j *job.Spec) { j.Optimizer.LR *= 1.5 }},
	{"gradients", func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 }},
}

func main() {
	only := flag.String("only", "cnn,gpt-sorter", "examples; char-gpt-64 is char-gpt with 2 layers of 64 and a rate of 1e-3, resnet18-16 and resnet50-16 have a quarter of the channels")
	epochs := flag.Int("epochs", 4, "epochs that one replica trains; 0: those of the example")
	lr := flag.Float64("lr", 0, "learning rate; 0: the example's")
	seeds := flag.Int("seeds", 1, "runs of each kind, with seeds of their own")
	replicas := flag.String("replicas", "2,4", "numbers of replicas, besides one")
	threads := flag.Int("threads", 1, "threads of the tensor engine")
	chosen := flag.String("ways", "", "ways of averaging, by their names in the output; all of them if empty")
	flag.Parse()
	err := choose(*chosen)
	if err == nil {
		err = run(strings.Split(*only, ","), strings.Split(*replicas, ","), options{*epochs, *seeds, *threads, *lr})
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

// options are what the flags say of every run.
type options struct {
	epochs, seeds, threads int
	lr                     float64
}

func run(names, replicas []string, o options) error {
	for _, name := range names {
		e, err := find(name)
		if err != nil {
			return err
		}
		if o.lr > 0 {
			e.Job.Optimizer.LR = o.lr
		}
		if o.epochs > 0 {
			fmt.Printf("%s: validation loss after %d epochs, and after as many updates as one replica makes\n", name, o.epochs)
		} else {
			fmt.Printf("%s: validation loss and accuracy after a quarter of its %d epochs, and at the end\n", name, e.Job.Epochs)
		}
		if err := line(e, way{"one replica", func(*job.Spec) {}}, 1, o); err != nil {
			return err
		}
		for _, text := range replicas {
			n, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			for _, w := range ways {
				if err := line(e, w, n, o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// find is zoo.Find, and knows a char-gpt and residual networks that train in seconds.
func find(name string) (zoo.Example, error) {
	small := map[string]func() *graph.Graph{
		"char-gpt-64": func() *graph.Graph {
			return zoo.GPT(zoo.GPTConfig{Name: name, Layers: 2, Heads: 2, Width: 64, Tokens: 256, Vocab: 29, Dropout: 0.1})
		},
		"resnet18-16": func() *graph.Graph { return narrow(zoo.ResNet18) },
		"resnet50-16": func() *graph.Graph { return narrow(zoo.ResNet50) },
	}[name]
	if small == nil {
		return zoo.Find(name)
	}
	e, err := zoo.Find(name[:strings.LastIndex(name, "-")])
	if e.Graph = small(); name == "char-gpt-64" {
		e.Job.Optimizer.LR = 1e-3
	}
	return e, err
}

func narrow(c zoo.ResNetConfig) *graph.Graph {
	c.Width = 16
	return zoo.ResNet(c)
}

// line measures one way of averaging with n replicas and prints it.
func line(e zoo.Example, w way, n int, o options) error {
	at := [2][]float64{} // validation losses, the earlier and the later
	right := at          // and what was right, percent
	for s := range o.seeds {
		j := e.Job
		j.Seed, j.Replicas = uint64(42+s), job.Count(n)
		if o.epochs > 0 {
			j.Epochs, j.ValEvery, j.SaveEvery, j.Steps = o.epochs*n, o.epochs, 0, 0
		}
		w.change(&j)
		if j.Gradients() && o.epochs > 0 {
			j.Epochs = o.epochs // an update is a whole batch, as with one replica
		}
		v, err := validations(e, j, o.threads)
		if err != nil {
			return fmt.Errorf("%d replicas, %s: %w", n, w.name, err)
		}
		first := v[0]
		if o.epochs == 0 {
			first = v[len(v)/4]
		}
		for i, v := range []stage.Validation{first, v[len(v)-1]} {
			at[i], right[i] = append(at[i], float64(v.Loss)), append(right[i], 100*float64(v.Correct)/float64(v.Total))
		}
	}
	fmt.Printf("  %d  %-16s", n, w.name)
	for i := range at {
		fmt.Printf("  %s", spread("%.5f", at[i]))
		if o.epochs == 0 {
			fmt.Printf(" %s %%", spread("%.2f", right[i]))
		}
	}
	fmt.Println()
	return nil
}

// spread formats the mean of figures and, of several, their range.
func spread(format string, v []float64) string {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	s := fmt.Sprintf(format, sum/float64(len(v)))
	if len(v) > 1 {
		s += fmt.Sprintf(" ["+format+".."+format+"]", slices.Min(v), slices.Max(v))
	}
	return s
}

// validations trains a job and returns the outcomes of its validation passes.
func validations(e zoo.Example, j job.Spec, threads int) ([]stage.Validation, error) {
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

// observer records validation passes.
type observer struct{ vals []stage.Validation }

func (*observer) Loss(stage.Loss)                {}
func (*observer) Batch(int)                      {}
func (*observer) Keep(stage.Saved) error         { return nil }
func (o *observer) Validated(v stage.Validation) { o.vals = append(o.vals, v) }
