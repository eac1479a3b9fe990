// Flags about how a job learns, which init and import have.

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
)

// learnFlags are the flags about loss, metrics and update rule. A default of "" leaves a choice
// to the job.
func learnFlags(loss, optimizer string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "loss", Value: loss, DefaultText: orText(loss, "by the data or the example"), Usage: strings.Join(job.Losses, ", ")},
		&cli.IntFlag{Name: "ignore-index", DefaultText: "none", Usage: "class `N` does not count (cross_entropy)"},
		&cli.Float64Flag{Name: "label-smoothing", Usage: "spread this `PART` of the target over all classes (cross_entropy)"},
		&cli.Float64SliceFlag{Name: "class-weights", Usage: "a weight for each class (cross_entropy): `W,W,...`"},
		&cli.Float64SliceFlag{Name: "pos-weight", Usage: "a weight of positive answers for each output, or one for all (bce_with_logits): `W,W,...`"},
		&cli.StringSliceFlag{Name: "metrics", DefaultText: "by the loss", Usage: "what validation tells beside the loss: " + strings.Join(job.Metrics, ", ")},
		&cli.StringFlag{Name: "optimizer", Value: optimizer, DefaultText: orText(optimizer, "the job's"), Usage: strings.Join(job.Optimizers, ", ")},
		&cli.Float64Flag{Name: "clip-norm", DefaultText: "the job's", Usage: "scale gradients down whose norm, over all parameters, is above `N`"},
		&cli.Float64Flag{Name: "lr", DefaultText: "the example's or PyTorch's", Usage: "learning `RATE`"},
		&cli.Float64Flag{Name: "weight-decay", DefaultText: "the example's or PyTorch's", Usage: "pull weights towards 0 by this `PART`"},
		&cli.StringSliceFlag{Name: "no-decay", Usage: "parameters without weight decay: bias, norm, or `PATTERN`s of names such as 'wte.*'"},
		&cli.StringSliceFlag{Name: "freeze", Usage: "leave parameters alone whose names match `PATTERN`, such as 'features.*'"},
		&cli.StringFlag{Name: "lr-schedule", DefaultText: "the job's", Usage: "how the learning rate moves: " + strings.Join(job.LRs, ", ")},
		&cli.IntFlag{Name: "warmup", Usage: "raise the learning rate from 0 over the first `N` updates"},
	}
}

// loraFlag reads --lora.
func loraFlag(c *cli.Context) (job.LoRA, error) {
	var l job.LoRA
	if !c.IsSet("lora") {
		return l, nil
	}
	for part := range strings.SplitSeq(c.String("lora"), ",") {
		name, value, _ := strings.Cut(part, "=")
		var err error
		switch name {
		case "r":
			l.R, err = strconv.Atoi(value)
		case "alpha":
			l.Alpha, err = strconv.ParseFloat(value, 64)
		case "target":
			l.Target = append(l.Target, value)
		case "dropout":
			l.Dropout, err = strconv.ParseFloat(value, 64)
		case "save":
			l.Save = append(l.Save, value)
		default:
			return l, fmt.Errorf("--lora %q: %q is none of r, alpha, target, dropout, save: write r=8,alpha=16,target=q_proj", c.String("lora"), name)
		}
		if err != nil {
			return l, fmt.Errorf("--lora %q: %q is not a number", c.String("lora"), value)
		}
	}
	if l.R < 1 {
		return l, fmt.Errorf("--lora %q: the rank r must be above 0: write r=8", c.String("lora"))
	}
	return l, nil
}

// sayAdapters tells how much of the model trains.
func sayAdapters(p *project.Project) {
	if n := len(p.Adapters); n > 0 {
		fmt.Fprintf(os.Stderr, "adapters of %d layers: %d of %d parameters train\n", n, p.Graph.ParamCount(0, len(p.Graph.Nodes)), p.Base.ParamCount(0, len(p.Base.Nodes)))
	}
}

func orText(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// changeLearning applies the flags of learnFlags.
func changeLearning(c *cli.Context, j *job.Spec) {
	if v := c.String("loss"); v != "" {
		if v != j.Loss {
			j.LossOptions, j.Metrics = job.LossOptions{}, nil
		}
		j.Loss = v
	}
	if c.IsSet("ignore-index") {
		v := c.Int("ignore-index")
		j.LossOptions.IgnoreIndex = &v
	}
	if c.IsSet("label-smoothing") {
		j.LossOptions.LabelSmoothing = c.Float64("label-smoothing")
	}
	if c.IsSet("class-weights") {
		j.LossOptions.ClassWeights = c.Float64Slice("class-weights")
	}
	if c.IsSet("pos-weight") {
		j.LossOptions.PosWeight = c.Float64Slice("pos-weight")
	}
	if c.IsSet("clip-norm") {
		j.ClipNorm = c.Float64("clip-norm")
	}
	if c.IsSet("metrics") {
		j.Metrics = c.StringSlice("metrics")
	}
	if v := c.String("optimizer"); v != "" {
		j.Optimizer = job.DefaultOptimizer(v)
	}
	if c.IsSet("lr") {
		j.Optimizer.LR = c.Float64("lr")
	}
	if c.IsSet("weight-decay") {
		j.Optimizer.WeightDecay = c.Float64("weight-decay")
	}
	if c.IsSet("no-decay") {
		j.Optimizer.NoDecay = c.StringSlice("no-decay")
	}
	if c.IsSet("freeze") {
		j.Freeze = c.StringSlice("freeze")
	}
	if v := c.String("lr-schedule"); v != "" {
		j.LR = job.DefaultLR(v)
	}
	if c.IsSet("warmup") {
		if j.LR.Name == "constant" {
			j.LR = job.DefaultLR("warmup")
		}
		j.LR.Warmup = c.Int("warmup")
	}
}

// lossesFlag reads --losses into the job and returns the indices of the outputs that count, the
// answer first. The outputs' names are those indices until nameLosses replaces them.
func lossesFlag(c *cli.Context, j *job.Spec) ([]int, error) {
	if !c.IsSet("losses") {
		return []int{c.Int("output")}, nil
	}
	if c.IsSet("output") {
		return nil, errors.New("--output and --losses contradict each other: the first of the losses looks at the answer")
	}
	var outputs []int
	for _, text := range c.StringSlice("losses") {
		rest, weight, weighted := strings.Cut(text, "*")
		rest, loss, _ := strings.Cut(rest, ":")
		output, target, _ := strings.Cut(rest, "=")
		n, err := strconv.Atoi(output)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("--losses %q: %q is not the index of an output: write OUTPUT=TARGET:LOSS*WEIGHT, such as 0=labels,1=labels*0.3", text, output)
		}
		p := job.LossPart{Output: output, Target: target, Loss: loss}
		if weighted {
			w, err := strconv.ParseFloat(weight, 64)
			if err != nil {
				return nil, fmt.Errorf("--losses %q: the weight %q is not a number", text, weight)
			}
			p.Weight = &w
		}
		if j.Losses = append(j.Losses, p); !slices.Contains(outputs, n) {
			outputs = append(outputs, n)
		}
	}
	return outputs, nil
}

// ownLoss makes the answer of a model that returns the loss of its batch the job's loss.
func ownLoss(c *cli.Context, j *job.Spec, m *importer.Model) error {
	if !m.Loss || j.Several() {
		return nil
	}
	if c.IsSet("loss") && j.Loss != job.OutputLoss {
		return fmt.Errorf("the model returns the loss of its batch itself: leave --loss %s out, or import a model that returns what the loss compares with the targets", j.Loss)
	}
	j.Loss, j.LossOptions, j.Metrics = job.OutputLoss, job.LossOptions{}, nil
	return j.Check()
}

// nameLosses gives the outputs of the job's losses the names that they have in the model.
func nameLosses(j *job.Spec, outputs []int, m *importer.Model) {
	names := append([]string{m.Graph.Output}, m.More...)
	for i := range j.Losses {
		for k, n := range outputs {
			if strconv.Itoa(n) == j.Losses[i].Output {
				j.Losses[i].Output = names[k]
				break
			}
		}
	}
}

// fieldsOf are the fields of the data that the model's inputs and the job's losses take.
func fieldsOf(c *cli.Context, j job.Spec, g *graph.Graph) (dataset.Fields, error) {
	f := dataset.Fields{Inputs: project.InputFields(g), From: map[string]string{}}
	for _, text := range c.StringSlice("input") {
		name, from, ok := strings.Cut(text, "=")
		if !ok || from == "" || !slices.ContainsFunc(f.Inputs, func(in data.Field) bool { return in.Name == name }) {
			var names []string
			for _, in := range f.Inputs {
				names = append(names, in.Name)
			}
			if names == nil {
				return f, fmt.Errorf("--input %q: the model has one input, which needs no name", text)
			}
			return f, fmt.Errorf("--input %q: write NAME=FIELD, where NAME is one of %s", text, strings.Join(names, ", "))
		}
		f.From[name] = from
	}
	if !j.Several() {
		return f, nil
	}
	var err error
	if len(g.Nodes) > 0 {
		if _, gathered := g.Nodes[len(g.Nodes)-1].Op.(*graph.Outputs); !gathered {
			if g, err = g.Gather(j.Outputs()); err != nil {
				return f, err
			}
		}
	}
	f.Targets, err = project.TargetFields(j, g)
	return f, err
}
