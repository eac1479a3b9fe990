// The command init: a job from an example or from data.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ravnest/ravnest/engine/format/images"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
	"github.com/urfave/cli/v2"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "write a job into DIR: an example, or one for data of your own", ArgsUsage: "DIR",
		Description: "The examples, with data that come with the program, and about how long each trains on one core:\n\n" + zoo.List() + "\nravnest demo --dir DIR then trains the job on this machine.",
		Flags: append(append(jobFlags(), learnFlags("", "")...),
			&cli.StringFlag{Name: "example", Value: "cnn", Usage: "`NAME` of an example; with --data only its model and how it learns"},
			&cli.IntFlag{Name: "nodes", Value: 3, Usage: "`N` nodes in the pool file, of which demo with as many providers uses all"},
			&cli.StringFlag{Name: "data", Usage: "train on `PATH`: a folder of images (one folder per class), MNIST's or CIFAR's files, .npz, .npy, .csv, .tsv, .jsonl, .txt, .bin, WebDataset's .tar, .parquet, .safetensors, or one of them in .gz"},
			&cli.StringSliceFlag{Name: "target", Usage: "target `COLUMN` of a table, or the file of targets beside a .npy"},
			&cli.Float64Flag{Name: "val", Value: 0.1, Usage: "share of the rows for validation, where the data have no part for it"},
			&cli.IntFlag{Name: "size", DefaultText: "what the images have", Usage: "scale and crop images to `N` by N pixels"},
			&cli.IntFlag{Name: "channels", DefaultText: "what the images have", Usage: "read images as `N` channels: 1 is grey, 3 is colour"},
			&cli.IntFlag{Name: "block", DefaultText: "128", Usage: "tokens in a row of a text"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			skipFlag, oneHotFlag, tokenizerFlag, textFlag, shardsFlag),
		Action: initJob, OnUsageError: usageError,
	}
}

// dataFlags are those flags of init that mean nothing without --data.
var dataFlags = []string{"target", "val", "size", "channels", "block", "tokens", "skip", "one-hot", "tokenizer", "text", "shards"}

func initJob(c *cli.Context) error {
	dir, err := dirArg(c)
	if err != nil {
		return err
	}
	if n := c.Int("nodes"); n < 1 || n > 1000 {
		return fmt.Errorf("--nodes %d is outside 1..1000", n)
	}
	if !c.IsSet("data") {
		for _, f := range dataFlags {
			if c.IsSet(f) {
				return fmt.Errorf("--%s says how data are read: name them with --data PATH", f)
			}
		}
	}
	files := []string{project.JobFile, "model.json", project.ConfigsFile}
	if c.IsSet("data") {
		err = initData(c, dir)
		data := "data.safetensors"
		if _, serr := os.Stat(filepath.Join(dir, project.ShardsDir)); serr == nil {
			data = project.ShardsDir
		}
		files = append(files, data)
	} else {
		err = project.Init(dir, c.String("example"), c.Int("nodes"), func(j *job.Spec) { changeExample(c, j) })
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(c.App.Writer, filepath.Join(dir, f))
	}
	if e, err := zoo.Find(c.String("example")); err == nil && !c.IsSet("data") {
		fmt.Fprintf(os.Stderr, "%s: %s\n", e.Job.Name, e.About)
	}
	fmt.Fprintf(os.Stderr, "ravnest demo --dir %s trains it on this machine\n", console.Plain(dir))
	return nil
}

// changeExample applies the flags to an example's job. Its replicas give way to a schedule that has
// one.
func changeExample(c *cli.Context, j *job.Spec) {
	changeLearning(c, j)
	if change(c, j); j.Schedule == job.Async && !c.IsSet("replicas") {
		j.Replicas = 0
	}
}

// initData writes a job on the user's own data: with an example's model if one is named,
// otherwise with a small model made for the data.
func initData(c *cli.Context, dir string) error {
	o := dataset.Options{Block: c.Int("block"), Tokens: c.String("tokens"), Images: images.Options{Height: c.Int("size"), Width: c.Int("size"), Channels: c.Int("channels")}, Val: c.Float64("val"), Seed: c.Uint64("seed"), Target: c.StringSlice("target"), Skip: c.StringSlice("skip"), OneHot: c.StringSlice("one-hot"), Texts: c.StringSlice("text")}
	o.Progress = reading(c.Context)
	if err := largeOptions(c, dir, &o); err != nil {
		return err
	}
	if !(o.Val >= 0 && o.Val < 1) {
		return fmt.Errorf("--val %v must be a share of the rows: at least 0 and less than 1", o.Val)
	}
	if n := c.Int("size"); n < 0 || n > 4096 {
		return fmt.Errorf("--size %d is outside 0..4096 pixels (0: as large as the images are)", n)
	}
	if n := c.Int("channels"); n != 0 && n != 1 && n != 3 {
		return fmt.Errorf("--channels %d: 1 is grey, 3 is colour", n)
	}
	if o.Block < 0 {
		return fmt.Errorf("--block %d is negative: a row of a text has at least 1 token", o.Block)
	}
	if o.Block == 0 {
		o.Block = 128
	}
	if !c.IsSet("seed") {
		o.Seed = job.Default().Seed
	}
	src, err := dataset.Open(c.String("data"), o)
	if err != nil {
		return err
	}
	defer src.Close()
	sayNotes(src)
	j, train := job.Default(), 0
	train, _ = src.Rows()
	outputs, classes := src.Outputs()
	switch loss := c.String("loss"); {
	case src.Columns() != nil && src.Classes == nil && loss != "" && loss != job.CrossEntropy: // numbers to be learned
		outputs, classes = src.Values(), false
	case loss == "" && classes && src.Tokens == 0 && outputs > max(train, 1000):
		return fmt.Errorf("the targets are whole numbers up to %d, which would be as many classes: if they are values to be learned, give --loss mse", outputs-1)
	}
	var g *graph.Graph
	if c.IsSet("example") {
		e, err := zoo.Find(c.String("example"))
		if err != nil {
			return err
		}
		g, j = e.Fit(src.Shape(), outputs), e.Job
	} else {
		if g, err = starter(src, outputs); err != nil {
			return err
		}
		j.Name, j.Epochs, j.BatchSize, j.SaveEvery, j.Loss = "starter", 10, batch(train), 1, "mse"
		if classes {
			j.Loss = "cross_entropy"
		}
	}
	changeExample(c, &j)
	if err := project.Create(dir, j, g, c.Int("nodes"), src, nil, preparing(c.Context)); err != nil {
		return err
	}
	_, val := src.Rows()
	fmt.Fprintf(os.Stderr, "%d rows of %v for training, %d for validation, %d outputs\n", train, g.Inputs[0].Shape, val, outputs)
	if src.Classes != nil {
		fmt.Fprintf(os.Stderr, "classes: %.200q\n", src.Classes)
	}
	return nil
}

// starter is a small model for the data.
func starter(src *dataset.Source, outputs int) (*graph.Graph, error) {
	if src.Words > 0 {
		g := zoo.Reader(src.Shape()[0], outputs, src.Words, src.Pad)
		return g, g.Check()
	}
	return zoo.Starter(src.Shape(), outputs, src.Tokens)
}

// sayNotes tells how data were read, where that may surprise.
func sayNotes(s *dataset.Source) {
	for _, n := range s.Notes {
		fmt.Fprintln(os.Stderr, console.Plain(n))
	}
}

func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// largeOptions reads the flags about data that are not held in memory. What is read goes through
// files beside the job's directory, which is where there is room for it.
func largeOptions(c *cli.Context, dir string, o *dataset.Options) error {
	o.Tokenizer = c.String("tokenizer")
	if c.IsSet("shards") {
		n, err := native.ParseSize(c.String("shards"))
		if c.String("shards") == "0" {
			n, err = 0, nil
		}
		if err != nil {
			return fmt.Errorf("--shards %q: %w", c.String("shards"), err)
		}
		o.Above = &n
	}
	o.Scratch = filepath.Dir(filepath.Clean(dir))
	return os.MkdirAll(o.Scratch, 0o755)
}

// batch returns a batch size for this many rows such that the last batch has more than one
// row, as batch norm requires.
func batch(rows int) int {
	for n := min(64, rows); n > 2; n-- {
		if rows%n != 1 {
			return n
		}
	}
	return max(min(rows, 2), 1)
}
