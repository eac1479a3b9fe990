// The commands between a job and the outside: import, export, predict.

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/infer"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
	"github.com/urfave/cli/v2"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "create a job from a model that PyTorch exported, or take the initial weights of the job in DIR from a checkpoint", ArgsUsage: "MODEL.pt2|.onnx [DIR] | WEIGHTS.safetensors|.pt DIR",
		Description: "MODEL.pt2 is an archive of torch.export.save(torch.export.export(model.train(), (example,),\ndynamic_shapes=({0: torch.export.Dim.AUTO},)), path). Prints the model as a table; with\nDIR also writes a job there, whose initial weights are the archive's.\n\nMODEL.onnx is a file of torch.onnx.export(model, (example,), path, optimize=False,\ndynamic_shapes=({0: torch.export.Dim.AUTO},)): the optimizer would fold batch\nnormalization away and join weights with equal numbers. A .pt2 keeps more.\n\nWEIGHTS are a state dict: a .safetensors file, or a .pt of torch.save(model.state_dict(), path).\nTheir names and shapes must be those of the job's model.",
		Flags: append(append(jobFlags(), learnFlags("cross_entropy", "adamw")...),
			&cli.StringFlag{Name: "data", Usage: "train on `PATH`, as init --data, or on one of " + strings.Join(data.BuiltinNames(), ", ")},
			&cli.StringSliceFlag{Name: "target", Usage: "target `COLUMN` of a table, or the file of targets beside a .npy; one that --text names is what a decoder learns to write"},
			&cli.Float64Flag{Name: "val", Value: 0.1, Usage: "share of the rows for validation, where the data have no part for it"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			skipFlag, oneHotFlag, tokenizerFlag, textFlag, shardsFlag,
			&cli.IntFlag{Name: "batch-size", Value: 32, Usage: "rows of a batch"},
			&cli.IntFlag{Name: "output", Usage: "index of the model's output that is its answer, from 0"},
			&cli.StringSliceFlag{Name: "losses", Usage: "losses of several outputs, `OUTPUT[=TARGET][:LOSS][*WEIGHT],...`: an output's index, the field of the data that it is compared with, a loss other than --loss, and its weight"},
			inputFlag,
			&cli.StringFlag{Name: "lora", Usage: "leave the model alone and train adapters of rank N: `r=N[,alpha=N][,dropout=P][,target=PATTERN]...[,save=MODULE]...`, where MODULEs train whole"},
			&cli.BoolFlag{Name: "strict", Value: true, Usage: "for WEIGHTS: no names may be missing or unused"},
			&cli.StringSliceFlag{Name: "ignore", Usage: "for WEIGHTS: skip names that match `PATTERN`, such as 'fc.*', and keep the job's values"},
			&cli.StringFlag{Name: "strip", Usage: "for WEIGHTS: remove `PREFIX` from their names"}),
		Action: importModel, OnUsageError: usageError,
	}
}

func importModel(c *cli.Context) error {
	if c.NArg() < 1 || c.NArg() > 2 {
		return fmt.Errorf("import takes a model file and a directory, got %d arguments %q: run ravnest import --help for the flags", c.NArg(), c.Args().Slice())
	}
	if project.IsWeights(c.Args().First()) {
		return importWeights(c)
	}
	for _, f := range []string{"strict", "ignore", "strip"} {
		if c.IsSet(f) {
			return fmt.Errorf("--%s is for weights (.safetensors, .pt), but %s is neither", f, c.Args().First())
		}
	}
	j := job.Default()
	j.BatchSize = c.Int("batch-size")
	changeLearning(c, &j)
	lora, err := loraFlag(c)
	if err != nil {
		return err
	}
	j.LoRA = lora
	j.Schedule, j.Wire = job.Sync, "fp32"
	change(c, &j)
	if err := j.Check(); err != nil {
		return err
	}
	dir := c.Args().Get(1)
	if dir != "" && !c.IsSet("data") {
		return fmt.Errorf("import into %s needs --data: a path, or one of %s", dir, strings.Join(data.BuiltinNames(), ", "))
	}
	outputs, err := lossesFlag(c, &j)
	if err != nil {
		return err
	}
	if err := j.Check(); err != nil {
		return err
	}
	m, err := project.ReadModel(c.Args().First(), outputs[0], outputs[1:]...)
	if err != nil {
		return err
	}
	if err := ownLoss(c, &j, m); err != nil {
		return err
	}
	nameLosses(&j, outputs, m)
	var table strings.Builder
	if err := project.DescribeModel(&table, m, j); err != nil {
		return err
	}
	if _, err := io.WriteString(c.App.Writer, console.Plain(table.String())); err != nil || dir == "" {
		return err
	}
	j.Name, j.Model, j.Data = m.Graph.Name, "model.json", c.String("data")
	var src project.Source
	if !slices.Contains(data.BuiltinNames(), j.Data) {
		o := dataset.Options{Val: c.Float64("val"), Seed: j.Seed, Target: c.StringSlice("target"), Tokens: c.String("tokens"), Texts: c.StringSlice("text"), Skip: c.StringSlice("skip"), OneHot: c.StringSlice("one-hot")}
		switch in := m.Graph.Inputs[0].Shape; len(in) { // the rows that the model takes
		case 1:
			o.Block = in[0]
		case 3:
			o.Images = dataset.Pixels(in)
		}
		o.Progress = reading(c.Context)
		if err := largeOptions(c, dir, &o); err != nil {
			return err
		}
		if o.Fields, err = fieldsOf(c, j, m.Graph); err != nil {
			return err
		}
		s, err := dataset.Open(j.Data, o)
		if err != nil {
			return err
		}
		defer s.Close()
		sayNotes(s)
		src = s
	}
	if err := project.Create(dir, j, m.Graph, 3, src, project.BeginOf(m), preparing(c.Context)); err != nil {
		return err
	}
	for _, f := range []string{project.JobFile, "model.json", project.InitialFile} {
		fmt.Fprintln(c.App.Writer, filepath.Join(dir, f))
	}
	return nil
}

// importWeights takes a job's initial weights from a checkpoint.
func importWeights(c *cli.Context) error {
	file, dir := c.Args().First(), c.Args().Get(1)
	if dir == "" {
		return fmt.Errorf("import %s needs a directory: that of the job that is to begin with these weights", file)
	}
	for _, f := range c.FlagNames() {
		if !slices.Contains([]string{"strict", "ignore", "strip", "lora"}, f) {
			return fmt.Errorf("--%s is for a model (.pt2, .onnx), but %s is a checkpoint: change %s instead", f, file, filepath.Join(dir, project.JobFile))
		}
	}
	return locked(dir, "import", func() error {
		lora, err := loraFlag(c)
		if err != nil {
			return err
		}
		p, err := project.OpenModelWith(dir, func(j *job.Spec) {
			if lora.On() {
				j.LoRA = lora
			}
		})
		if err != nil {
			return err
		}
		d, err := weights.Read(file, "weights file")
		if err != nil {
			return err
		}
		f, err := p.Fit(d, project.FitOptions{Strict: c.Bool("strict"), Ignore: c.StringSlice("ignore"), Strip: c.String("strip")})
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := p.BeginWith(&f.Begin); err != nil {
			return err
		}
		if lora.On() {
			if err := p.SaveJob(); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "%d tensors of %s\n", f.Taken, file)
		sayAdapters(p)
		for _, g := range []struct {
			what  string
			names []string
		}{{"kept as they were", f.Kept}, {"in the file not used", f.Left}} {
			if len(g.names) > 0 {
				fmt.Fprintf(os.Stderr, "%d %s: %s\n", len(g.names), g.what, console.Plain(strings.Join(g.names, ", ")))
			}
		}
		for _, f := range []string{project.JobFile, project.InitialFile} {
			fmt.Fprintln(c.App.Writer, filepath.Join(dir, f))
		}
		return nil
	})
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write the trained weights, or those of the last checkpoint, as PyTorch's state dict or with the model as ONNX", ArgsUsage: "DIR",
		Description: "The file loads with load_state_dict, strictly: safetensors.torch.load_file, or\ntorch.load(path, weights_only=True) for a .pt file. A .onnx file is the model in evaluation\nmode, for onnxruntime and others.",
		Flags:       []cli.Flag{jsonFlag, &cli.StringFlag{Name: "to", Usage: "`FILE` that ends in .safetensors, .pt or .onnx; for a job with lora also a directory for the adapter in PEFT's layout"}, &cli.IntFlag{Name: "cluster", Usage: "which cluster"}},
		Action:      export, OnUsageError: usageError,
	}
}

func export(c *cli.Context) error {
	dir, err := dirArg(c)
	if err != nil {
		return err
	}
	p, err := project.OpenModel(dir)
	if err != nil {
		return err
	}
	if to := c.String("to"); !project.IsWeights(to) && !project.IsONNX(to) && (to == "" || len(p.Adapters) == 0) {
		return fmt.Errorf("export needs --to FILE, which ends in .safetensors, .pt or .onnx, got %q; a directory is for the adapters of a job with lora", to)
	}
	e, err := weights.Export(p, c.Int("cluster"), c.String("to"))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d tensors: %s\n", e.Tensors, e.From)
	return print(c, e, func(w io.Writer) {
		for _, f := range append(e.Files, e.File)[:max(len(e.Files), 1)] {
			fmt.Fprintln(w, f)
		}
	})
}

func predictCommand() *cli.Command {
	return &cli.Command{
		Name: "predict", Usage: "run the model of the job in DIR on the rows of INPUT", ArgsUsage: "DIR INPUT",
		Description: "INPUT is a folder of images, an image, or a .csv, .tsv, .jsonl, .parquet, .npy, .npz, .safetensors, .txt or\n.bin, or one of them in .gz; for a model of texts a folder of .txt, too. Prints one line per row: the class\nand its probability, or the values. Rows are read and answered in batches: a mistake in the input is told\nwhen it is reached, behind the answers to the rows before.",
		Flags: []cli.Flag{
			jsonFlag, threads,
			&cli.StringSliceFlag{Name: "target", Usage: "`COLUMN` of a table that is not an input"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			inputFlag, textFlag,
			&cli.IntFlag{Name: "cluster", Usage: "whose checkpoint"},
		},
		Action: predict, OnUsageError: usageError,
	}
}

func predict(c *cli.Context) error {
	if c.NArg() != 2 {
		return fmt.Errorf("predict takes a directory and an input, got %d arguments %q: run ravnest predict --help for the flags", c.NArg(), c.Args().Slice())
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	p, err := project.OpenModel(c.Args().First())
	if err != nil {
		return err
	}
	o := dataset.Options{Target: c.StringSlice("target"), Tokens: c.String("tokens"), Texts: c.StringSlice("text"), Progress: reading(c.Context)}
	if file := filepath.Join(p.Dir, project.TokenizerFile); fileExists(file) {
		o.Tokenizer = file // that made the tokens the model was trained on
	}
	columns, err := p.Columns()
	if err != nil {
		return err
	}
	for _, col := range columns {
		if !col.Text {
			o.Columns = append(o.Columns, col)
		} else if !c.IsSet("text") {
			o.Texts = append(o.Texts, col.Name)
		}
	}
	if o.Fields, err = fieldsOf(c, p.Job, p.Graph); err != nil {
		return err
	}
	w := bufio.NewWriter(c.App.Writer)
	var model *infer.Predictor
	rows, write := 0, func(int, infer.Prediction) {}
	var names []string // of the rows at hand
	take := func(x *data.Table, called []string) error {
		if model == nil { // the input can be read
			d, from, err := weights.Newest(p, c.Int("cluster"))
			if err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, from)
			if model, err = infer.NewPredictor(p, d, x.Rows, t); err != nil {
				return err
			}
			write = predictions(w, &names, from, c.Bool("json"))
		}
		names = called
		err := model.Predict(c.Context, x, write)
		rows += x.Rows
		return errors.Join(err, w.Flush())
	}
	if len(o.Fields.Inputs) > 0 {
		err = dataset.InputFields(c.Args().Get(1), infer.Rows(p), o, take)
	} else {
		err = dataset.Inputs(c.Args().Get(1), p.Graph.Inputs[0].Shape, infer.Rows(p), o, take)
	}
	if model != nil {
		model.Close()
	}
	if err == nil && c.Bool("json") {
		_, err = w.WriteString("]}\n")
	}
	if err = errors.Join(err, w.Flush()); err == nil {
		fmt.Fprintln(os.Stderr, count(rows, "row"))
	}
	return err
}

// predictions writes rows as they come: lines, or the beginning of a JSON object, which lacks its
// end. Errors of w are told by its Flush.
func predictions(w *bufio.Writer, names *[]string, from string, asJSON bool) func(row int, a infer.Prediction) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return func(row int, a infer.Prediction) {
		if len(*names) > 0 {
			a.Name, *names = (*names)[0], (*names)[1:]
		}
		switch {
		case asJSON:
			begin := ","
			if row == 0 {
				begin = fmt.Sprintf(`{"command":"predict","from":%q,"rows":[`, from)
			}
			_, _ = w.WriteString(begin)
			_ = e.Encode(a) // what cannot be encoded is not in it
		case a.Name != "":
			fmt.Fprintf(w, "%s\t%s\n", console.Cell(a.Name), a)
		default:
			fmt.Fprintln(w, a)
		}
	}
}
