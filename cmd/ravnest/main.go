// Command ravnest is the requester's program: it creates a job, plans it and serves it to
// providers, and fuses the trained stages.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/host"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/site"
	"github.com/urfave/cli/v2"
)

// version is set by the release build.
var version = "dev"

// errInterrupted gives the exit code that shells use for Ctrl-C.
var errInterrupted = errors.New("interrupted")

// errorLog takes the error that ends the program, with --log-json; nil: standard error does.
var errorLog io.Writer

func main() {
	native.Scrub()
	ctx, stop := native.Shutdown(context.Background())
	a := app()
	err := a.RunContext(ctx, flagsFirst(a, os.Args))
	stop()
	switch {
	case err != nil && errorLog != nil:
		fmt.Fprintf(errorLog, "ERROR: %v\n", err)
		os.Exit(map[bool]int{true: 130, false: 1}[errors.Is(err, errInterrupted)])
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "ravnest:", err)
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "ravnest:", err)
		os.Exit(1)
	}
}

// The flags that change a job; demo, train and init share them.
func jobFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "epochs", DefaultText: "the job's", Usage: "passes over the training data"},
		&cli.IntFlag{Name: "steps", DefaultText: "the job's", Usage: "stop after `N` batches"},
		&cli.StringFlag{Name: "schedule", DefaultText: "the job's", Usage: "how a batch flows through the stages: " + strings.Join(job.Schedules, ", ")},
		&cli.StringFlag{Name: "wire", DefaultText: "the job's", Usage: "how tensors are sent: " + strings.Join(job.Wires, ", ")},
		&cli.Uint64Flag{Name: "seed", DefaultText: "the job's", Usage: "seed `N` of the initial weights, the order of the rows and dropout"},
		&cli.IntFlag{Name: "micro-batches", DefaultText: "the job's", Usage: "number of parts that a batch is split into; 0: chosen by the planner"},
		&cli.GenericFlag{Name: "replicas", Value: new(job.Count), DefaultText: "the job's", Usage: "copies of the model, each trained on its share of the batches; auto: the host chooses by who is there"},
		&cli.IntFlag{Name: "reduce-factor", DefaultText: "the job's", Usage: "updates of each replica between averages"},
		&cli.StringFlag{Name: "recompute", DefaultText: "the job's", Usage: "selective or full: less memory for more computation, with the same result"},
		&cli.StringFlag{Name: "precision", DefaultText: "the job's", Usage: "precision of the operands of products: fp32 or bf16 (the same bits on every machine)"},
		&cli.BoolFlag{Name: "audit", DefaultText: "the job's", Usage: "keep what ravnest audit needs to name a provider that computes something else"},
	}
}

// change applies the job flags that were given.
func change(c *cli.Context, j *job.Spec) {
	for name, p := range map[string]*int{"epochs": &j.Epochs, "steps": &j.Steps, "micro-batches": &j.MicroBatches, "reduce-factor": &j.ReduceFactor} {
		if c.IsSet(name) {
			*p = c.Int(name)
		}
	}
	for name, p := range map[string]*string{"schedule": &j.Schedule, "wire": &j.Wire, "recompute": &j.Recompute, "precision": &j.Precision} {
		if c.IsSet(name) {
			*p = c.String(name)
		}
	}
	if c.IsSet("replicas") {
		j.Replicas = *c.Generic("replicas").(*job.Count)
	}
	if c.IsSet("audit") {
		j.Audit = c.Bool("audit")
	}
	if c.IsSet("seed") {
		j.Seed = c.Uint64("seed")
	}
}

// preparing shows on the terminal how far the shards of a data set are.
func preparing(ctx context.Context) project.Progress {
	began, told := time.Now(), -1 // what was told last, in percent
	return func(done, total int) error {
		if at := int(100 * int64(done) / int64(max(total, 1))); told < 0 && time.Since(began) > time.Second || told >= 0 && (at >= told+5 || at == 100 && at > told) {
			if told < 0 {
				fmt.Fprintln(os.Stderr, "preparing the data: dividing them into shards, which is done once")
			}
			told = at
			fmt.Fprintf(os.Stderr, "preparing the data: %d %%\n", at)
		}
		return context.Cause(ctx)
	}
}

// flags that several commands have.
var (
	tokenizerFlag = &cli.StringFlag{Name: "tokenizer", Usage: "`FILE` of a tokenizer.json that makes the tokens of a text: BPE or WordPiece"}
	shardsFlag    = &cli.StringFlag{Name: "shards", DefaultText: "256MB", Usage: "keep data of more than `SIZE` in shards, of which a machine holds a few at a time"}
	inputFlag     = &cli.StringSliceFlag{Name: "input", Usage: "what the data call an input of the model: `NAME=FIELD`, for models with several"}
	jsonFlag      = &cli.BoolFlag{Name: "json", Usage: "print the result as one JSON object on stdout"}
	threads       = &cli.IntFlag{Name: "threads", Value: 1, Usage: "threads of the tensor engine"}
	tokenFileFlag = &cli.StringFlag{Name: "token-file", EnvVars: []string{"RAVNEST_TOKEN_FILE"}, Usage: "read the token from `FILE`; - is standard input"}
)

func app() *cli.App {
	return &cli.App{
		Name: "ravnest", Version: version, HideHelpCommand: true,
		Usage:                "train a neural network on machines that people lend",
		Writer:               os.Stdout,
		ErrWriter:            os.Stderr,
		ExitErrHandler:       func(*cli.Context, error) {},
		OnUsageError:         usageError,
		EnableBashCompletion: true,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unknown command %q: run ravnest --help for the list", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			demoCommand(), initCommand(), importCommand(), clusterizeCommand(), serveCommand(), statusCommand(), auditCommand(), fuseCommand(), evalCommand(), exportCommand(), predictCommand(), generateCommand(), trainCommand(),
			simulateCommand(), membersCommand(), versionCommand(),
		},
	}
}

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "train the walkthrough's model with providers on this machine",
		Description: "Starts the signaling host and N providers, trains, validates and fuses.\nRuns the job in --dir, or creates the walkthrough's there.",
		Flags: append(jobFlags(), jsonFlag, threads,
			&cli.IntFlag{Name: "providers", Value: 3, Usage: "start `N` providers"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "form `N` clusters of them, which share the job's replicas"},
			&cli.IntFlag{Name: "tabs", Usage: "of which `N` are browser tabs that you open"},
			&cli.StringFlag{Name: "dir", Value: "ravnest-demo", Usage: "the job's directory"},
			&cli.StringFlag{Name: "ram", Usage: "`GB` that each provider lends (default: what is available)"},
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "address of the host"}),
		Action: demo, OnUsageError: usageError,
	}
}

func initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "write an example job into DIR", ArgsUsage: "DIR",
		Flags: append(append(jobFlags(), learnFlags("", "")...),
			&cli.StringFlag{Name: "example", Value: "cnn", Usage: strings.Join(zoo.Names(), ", ")},
			&cli.IntFlag{Name: "nodes", Value: 3, Usage: "nodes of the example pool"},
			&cli.StringFlag{Name: "data", Usage: "train on `PATH`: a folder of images (one folder per class), MNIST's or CIFAR's files, .npz, .npy, .csv, .txt, .bin, WebDataset's .tar, .parquet, .safetensors"},
			&cli.StringSliceFlag{Name: "target", Usage: "target `COLUMN` of a .csv, or the file of targets beside a .npy"},
			&cli.Float64Flag{Name: "val", Value: 0.1, Usage: "share of the rows for validation, where the data have no part for it"},
			&cli.IntFlag{Name: "size", Usage: "scale and crop images to `N` by `N` pixels"},
			&cli.IntFlag{Name: "block", DefaultText: "128", Usage: "tokens in a row of a text"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			tokenizerFlag, shardsFlag),
		Action: initJob, OnUsageError: usageError,
	}
}

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "create a job from a model that PyTorch exported, or take the initial weights of the job in DIR from a checkpoint", ArgsUsage: "MODEL.pt2|.onnx [DIR] | WEIGHTS.safetensors|.pt DIR",
		Description: "MODEL.pt2 is an archive of torch.export.save(torch.export.export(model.train(), (example,),\ndynamic_shapes=({0: torch.export.Dim.AUTO},)), path). Prints the model as a table; with\nDIR also writes a job there, whose initial weights are the archive's.\n\nMODEL.onnx is a file of torch.onnx.export(model, (example,), path, optimize=False,\ndynamic_shapes=({0: torch.export.Dim.AUTO},)): the optimizer would fold batch\nnormalization away and join weights with equal numbers. A .pt2 keeps more.\n\nWEIGHTS are a state dict: a .safetensors file, or a .pt of torch.save(model.state_dict(), path).\nTheir names and shapes must be those of the job's model.",
		Flags: append(append(jobFlags(), learnFlags("cross_entropy", "adamw")...),
			&cli.StringFlag{Name: "data", Usage: "train on `PATH`, as init --data, or on one of " + strings.Join(data.BuiltinNames(), ", ")},
			&cli.StringSliceFlag{Name: "target", Usage: "target `COLUMN` of a .csv, or the file of targets beside a .npy"},
			&cli.Float64Flag{Name: "val", Value: 0.1, Usage: "share of the rows for validation, where the data have no part for it"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			tokenizerFlag, shardsFlag,
			&cli.IntFlag{Name: "batch-size", Value: 32, Usage: "rows of a batch"},
			&cli.IntFlag{Name: "output", Usage: "index of the model's output that is its answer, from 0"},
			&cli.StringSliceFlag{Name: "losses", Usage: "losses of several outputs, `OUTPUT[=TARGET][:LOSS][*WEIGHT],...`: an output's index, the field of the data that it is compared with, a loss other than --loss, and its weight"},
			inputFlag,
			&cli.StringFlag{Name: "lora", Usage: "leave the model alone and train adapters of rank N: `r=N[,alpha=N][,target=PATTERN]...`"},
			&cli.BoolFlag{Name: "strict", Value: true, Usage: "for WEIGHTS: no names may be missing or unused"},
			&cli.StringSliceFlag{Name: "ignore", Usage: "for WEIGHTS: skip names that match `PATTERN`, such as 'fc.*', and keep the job's values"},
			&cli.StringFlag{Name: "strip", Usage: "for WEIGHTS: remove `PREFIX` from their names"}),
		Action: importModel, OnUsageError: usageError,
	}
}

func clusterizeCommand() *cli.Command {
	return &cli.Command{
		Name: "clusterize", Usage: "form clusters from the pool in DIR/node_data/node_configs.json and cut the model", ArgsUsage: "DIR",
		Flags: []cli.Flag{
			jsonFlag, &cli.IntFlag{Name: "max-clusters", DefaultText: "as many as pay", Usage: "at most `N` clusters; each trains at least one of the job's replicas"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "exactly `N` clusters"},
		},
		Action: alone(clusterize), OnUsageError: usageError,
	}
}

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "serve the job in DIR to providers until it is trained", ArgsUsage: "DIR",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8090", Usage: "`ADDR` to serve at"},
			&cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "secret that providers must show to join"},
			tokenFileFlag,
			&cli.BoolFlag{Name: "members-only", Usage: "let only those join whom ravnest members has allowed or invited; the token then opens the dashboard alone"},
			&cli.IntFlag{Name: "providers", DefaultText: "the plan of clusterize", Usage: "plan by the benchmarks of the first `N` that join"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "with --providers: form `N` clusters, which share the job's replicas"},
			&cli.BoolFlag{Name: "fresh", Usage: "start from the beginning instead of resuming an unfinished run of the same job from its last checkpoint"},
			&cli.StringFlag{Name: "nats", EnvVars: []string{"RAVNEST_NATS"}, Usage: "keep the run's state in the NATS server at `URL`, with JetStream, so that several hosts can serve the job: give it to each"},
			&cli.StringFlag{Name: "nats-creds", Usage: "`FILE` of credentials for it"},
			&cli.IntFlag{Name: "nats-replicas", Value: 1, Usage: "keep `N` copies in a cluster of NATS servers: 1, 3 or 5"},
			&cli.StringFlag{Name: "tls-cert", Usage: "serve https with the certificate in `FILE`, read again when it changes"},
			&cli.StringFlag{Name: "tls-key", Usage: "key of that certificate, in `FILE`"},
			&cli.StringFlag{Name: "public", Usage: "`URL` by which people reach the host, including any path prefix of a proxy"},
			&cli.StringFlag{Name: "acme", Usage: "get the certificate for --public from the ACME directory at `URL`, whose terms you accept, such as https://acme-v02.api.letsencrypt.org/directory; it connects to this host at port 443"},
			&cli.StringFlag{Name: "acme-cache", Usage: "`DIR` where that certificate and its key are kept (default: node_data/acme of the job)"},
			&cli.BoolFlag{Name: "proxy", Usage: "the host is behind a reverse proxy: trust its Forwarded and X-Forwarded-* headers"},
			&cli.StringFlag{Name: "relay", Usage: "`ADDR` (UDP and TCP) of the relay for providers without a direct path (default: that of --listen, if other machines can reach it)"},
			&cli.BoolFlag{Name: "log-json", Usage: "write messages as JSON, a record a line"},
			&cli.BoolFlag{Name: "no-relay", Usage: "do not relay between providers without a direct path"},
			&cli.StringFlag{Name: "trace", Usage: "write the run's events to `FILE` as JSON lines, from which it can be replayed"},
		},
		Action: alone(serve), OnUsageError: usageError,
	}
}

// tokenOf is the token of the flags.
func tokenOf(c *cli.Context) (string, error) {
	file, token := c.String("token-file"), c.String("token")
	switch {
	case file == "":
		return token, nil
	case token != "":
		return "", errors.New("a token was given as well as --token-file: give only one")
	}
	return native.TokenFile(file)
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version, the protocol and the numeric class of this program",
		Action: func(c *cli.Context) error {
			_, err := io.WriteString(c.App.Writer, native.Version("ravnest", version))
			return err
		}, OnUsageError: usageError,
	}
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the status of a run: of the job in DIR or of the host at URL", ArgsUsage: "DIR|URL",
		Flags:  []cli.Flag{jsonFlag, &cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "the host's join token, with URL"}, tokenFileFlag},
		Action: status, OnUsageError: usageError,
	}
}

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "compute again what providers trained, and name who computed something else", ArgsUsage: "DIR",
		Description: "Trains in one process from the checkpoint before the newest to the newest, or with --all from\nthe start, and compares what every stage saved. Where the job says \"audit\": true (init --audit),\nthe digests that the stages committed themselves to tell which one was the first to be wrong.",
		Flags:       []cli.Flag{jsonFlag, threads, &cli.BoolFlag{Name: "all", Usage: "from the start of the run"}},
		Action:      alone(auditRun), OnUsageError: usageError,
	}
}

func fuseCommand() *cli.Command {
	return &cli.Command{
		Name: "fuse", Usage: "join the trained stages of a cluster into one state dict", ArgsUsage: "DIR",
		Flags:  []cli.Flag{jsonFlag, &cli.IntFlag{Name: "cluster", Usage: "fuse cluster `N`"}},
		Action: alone(fuse), OnUsageError: usageError,
	}
}

func evalCommand() *cli.Command {
	return &cli.Command{
		Name: "eval", Usage: "evaluate the fused model on the validation set", ArgsUsage: "DIR",
		Flags: []cli.Flag{jsonFlag, threads}, Action: eval, OnUsageError: usageError,
	}
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write the trained weights, or those of the last checkpoint, as PyTorch's state dict or with the model as ONNX", ArgsUsage: "DIR",
		Description: "The file loads with load_state_dict, strictly: safetensors.torch.load_file, or\ntorch.load(path, weights_only=True) for a .pt file. A .onnx file is the model in evaluation\nmode, for onnxruntime and others.",
		Flags:       []cli.Flag{jsonFlag, &cli.StringFlag{Name: "to", Usage: "`FILE` that ends in .safetensors, .pt or .onnx; for a job with lora also a directory for the adapter in PEFT's layout"}, &cli.IntFlag{Name: "cluster", Usage: "which cluster"}},
		Action:      export, OnUsageError: usageError,
	}
}

func predictCommand() *cli.Command {
	return &cli.Command{
		Name: "predict", Usage: "run the model of the job in DIR on the rows of INPUT", ArgsUsage: "DIR INPUT",
		Description: "INPUT is a folder of images, an image, or a .csv, .npy, .npz, .safetensors, .txt or .bin. Prints\none line per row: the class and its probability, or the values.",
		Flags: []cli.Flag{
			jsonFlag, threads,
			&cli.StringSliceFlag{Name: "target", Usage: "`COLUMN` of a .csv that is not an input"},
			&cli.StringFlag{Name: "tokens", Usage: "how a text becomes tokens: " + strings.Join(text.Kinds, ", ")},
			inputFlag,
			&cli.IntFlag{Name: "cluster", Usage: "whose checkpoint"},
		},
		Action: predict, OnUsageError: usageError,
	}
}

func trainCommand() *cli.Command {
	return &cli.Command{
		Name: "train", Usage: "train the job in DIR in one process, for comparison", ArgsUsage: "DIR",
		Flags: append(jobFlags(), jsonFlag, threads, &cli.BoolFlag{Name: "local", Usage: "train in this process; required (to train on several machines, use demo or serve)"},
			&cli.StringFlag{Name: "rounds", Usage: "with replicas auto: train as the run did whose rounds.json is `FILE`, with the same result"}),
		Action: alone(trainLocal), OnUsageError: usageError,
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "ravnest"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "ravnest" {
		name += " " + c.Command.Name
	}
	return fmt.Errorf("%w: run %s --help for the flags", plainFlag(err), name)
}

// plainFlag rewrites errors of package flag so that flags have two dashes.
func plainFlag(err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return fmt.Errorf("unknown flag --%s", name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return fmt.Errorf("--%s needs a value", name)
	}
	return err
}

// threadsFlag returns the value of --threads.
func threadsFlag(c *cli.Context) (int, error) {
	t, most := c.Int("threads"), 4*runtime.NumCPU()+64
	if t < 1 || t > most {
		return 0, fmt.Errorf("--threads %d is outside 1..%d", t, most)
	}
	return t, nil
}

// flagsFirst moves flags that follow a command's argument before it, as in ravnest serve DIR
// --listen ADDR. Arguments after "--" stay in place.
func flagsFirst(a *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	cmd := a.Command(args[1])
	if cmd == nil {
		return args
	}
	takesValue := func(name string) bool {
		for _, f := range cmd.Flags {
			for _, n := range f.Names() {
				if _, isBool := f.(*cli.BoolFlag); n == name {
					return !isBool
				}
			}
		}
		return false
	}
	var flags, rest []string
	for i := 2; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		flags = append(flags, arg)
		if name := strings.TrimLeft(arg, "-"); !strings.Contains(name, "=") && takesValue(name) && i+1 < len(args) {
			i++
			flags = append(flags, args[i])
		}
	}
	return append(append([]string{args[0], args[1]}, flags...), rest...)
}

// dirArg returns the one argument of a command.
func dirArg(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", fmt.Errorf("%s takes one directory, got %d arguments %q: run ravnest %s --help for the flags", c.Command.Name, c.NArg(), c.Args().Slice(), c.Command.Name)
	}
	if c.Args().First() == "" {
		return "", fmt.Errorf("%s: the directory's name is empty: write . for this one", c.Command.Name)
	}
	return c.Args().First(), nil
}

func open(c *cli.Context) (*project.Project, error) {
	dir, err := dirArg(c)
	if err != nil {
		return nil, err
	}
	return project.OpenWith(dir, func(j *job.Spec) { changeLearning(c, j); change(c, j) }, preparing(c.Context))
}

// locked runs f while no other command changes the directory.
func locked(dir, command string, f func() error) error {
	unlock, err := project.Lock(dir, "ravnest "+command)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

// alone wraps an action so that it holds the lock of its directory.
func alone(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		dir, err := dirArg(c)
		if err != nil {
			return err
		}
		return locked(dir, c.Command.Name, func() error { return action(c) })
	}
}

func output() host.Output {
	return host.Output{
		Err: os.Stderr, TTY: native.IsTerminal(os.Stderr), Columns: func() int { return native.Columns(os.Stderr) },
	}
}

// print writes a result: JSON, or what text writes.
func print(c *cli.Context, v any, text func(w io.Writer)) error {
	if !c.Bool("json") {
		text(c.App.Writer)
		return nil
	}
	e := json.NewEncoder(c.App.Writer)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func summary(c *cli.Context, s host.Summary) error {
	err := print(c, s, func(w io.Writer) {
		if s.Samples == 0 {
			fmt.Fprintln(w, "nothing was trained")
			return
		}
		fmt.Fprintf(w, "trained %d samples in %.2f s: %.0f samples/s", s.Samples, s.Seconds, s.SamplesPerS)
		if v := float64(s.Loss); !math.IsNaN(v) { // NaN: stopped before the first batch after resuming
			fmt.Fprintf(w, ", loss %.4f", v)
		}
		if s.ValAccuracy >= 0 {
			fmt.Fprintf(w, ", validation accuracy %.2f %%", s.ValAccuracy)
		} else if v := float64(s.ValLoss); !math.IsNaN(v) {
			fmt.Fprintf(w, ", validation loss %.4f", v)
		}
		fmt.Fprintln(w)
		of := fmt.Sprintf(" of the %d replicas", s.Replicas)
		if len(s.Record) > 0 {
			of = ""
			fmt.Fprintf(w, "replicas: %s\n", s.ReplicaChanges())
		}
		for k, cl := range s.Clusters {
			if len(s.Clusters) > 1 {
				who := strings.Join(cl.Providers, ", ")
				if who == "" {
					who = "not there at the end"
				}
				fmt.Fprintf(w, "cluster %d (%s) trained %d units%s, %d samples; it sent %.1f kB to average and waited %.1f s\n",
					k, who, cl.Units, of, cl.Samples, float64(cl.AverageBytes)/1e3, cl.WaitS)
			}
		}
		if s.Forecast > 0 {
			fmt.Fprintf(w, "the forecast was %.0f samples/s\n", s.Forecast)
		}
		if s.WireBytes > 0 {
			fmt.Fprintf(w, "sent %.1f kB a batch between stages that begin at %s\n", s.WireBytes/1e3, strings.Join(s.Cuts, ", "))
		}
		for _, f := range s.Files {
			fmt.Fprintln(w, f)
		}
	})
	if err == nil && s.Interrupted {
		err = fmt.Errorf("%w: the trained state is saved", errInterrupted)
		if !s.Saved {
			err = fmt.Errorf("%w before anything was trained", errInterrupted)
		}
	}
	return err
}

// asResult prints the error of a run that diverged and returns nil if --json is given, since
// the JSON object has the error, and null for numbers that are not finite.
func asResult(c *cli.Context, err error) error {
	if (errors.Is(err, stage.ErrDiverged) || errors.Is(err, server.ErrDiverged)) && c.Bool("json") {
		fmt.Fprintln(os.Stderr, "ravnest:", err)
		return nil
	}
	return err
}

// pages returns the site embedded in this program.
func pages() (*site.Site, error) {
	s, err := site.Embedded()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded pages: %w", err)
	}
	return s, nil
}

func demo(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("demo takes no arguments, got %q: give the directory with --dir", c.Args().Slice())
	}
	n, tabs, dir := c.Int("providers"), c.Int("tabs"), c.String("dir")
	if n < 1 || n > 64 {
		return fmt.Errorf("--providers %d is outside 1..64", n)
	}
	if k := c.Int("clusters"); k < 0 || k > n || c.IsSet("clusters") && k == 0 {
		return fmt.Errorf("--clusters %d is outside 1..%d, the number of --providers", k, n)
	}
	if tabs < 0 || tabs > n {
		return fmt.Errorf("--tabs %d is outside 0..%d, the number of --providers", tabs, n)
	}
	if dir == "" {
		return errors.New("--dir is empty: write . for this directory")
	}
	if _, err := threadsFlag(c); err != nil {
		return err
	}
	if s := c.String("ram"); s != "" {
		if _, err := native.ParseSize(s); err != nil {
			return fmt.Errorf("--ram %q: %w", s, err)
		}
	}
	pages, err := pages()
	if err != nil {
		return err
	}
	if tabs > 0 && !pages.Built() {
		return errors.New("--tabs: this ravnest was built without its pages: make builds them (it needs npm)")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating the job's directory: %w", err)
	}
	return locked(dir, "demo", func() error { return demoIn(c, dir, pages) })
}

func demoIn(c *cli.Context, dir string, pages *site.Site) error {
	n, tabs := c.Int("providers"), c.Int("tabs")
	if !project.Exists(dir) {
		if err := project.Init(dir, "cnn", n, nil); err != nil {
			return err
		}
	}
	p, err := project.OpenWith(dir, func(j *job.Spec) { changeLearning(c, j); change(c, j) }, preparing(c.Context))
	if err != nil {
		return err
	}
	ln, err := server.Listen(c.String("listen"), "")
	if err != nil {
		return err
	}
	s, err := host.Demo(c.Context, p, ln, host.DemoOptions{Providers: n, Clusters: c.Int("clusters"), Tabs: tabs, Site: pages, Threads: c.Int("threads"), RAM: c.String("ram"), Output: output()})
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}

func initJob(c *cli.Context) error {
	dir, err := dirArg(c)
	if err != nil {
		return err
	}
	if n := c.Int("nodes"); n < 1 || n > 1000 {
		return fmt.Errorf("--nodes %d is outside 1..1000", n)
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
		err = project.Init(dir, c.String("example"), c.Int("nodes"), func(j *job.Spec) { changeLearning(c, j); change(c, j) })
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(c.App.Writer, filepath.Join(dir, f))
	}
	return nil
}

// initData writes a job on the user's own data: with an example's model if one is named,
// otherwise with a small model made for the data.
func initData(c *cli.Context, dir string) error {
	o := dataset.Options{Block: c.Int("block"), Tokens: c.String("tokens"), Size: c.Int("size"), Val: c.Float64("val"), Seed: c.Uint64("seed"), Target: c.StringSlice("target")}
	if err := largeOptions(c, dir, &o); err != nil {
		return err
	}
	if !(o.Val >= 0 && o.Val < 1) {
		return fmt.Errorf("--val %v must be a share of the rows: at least 0 and less than 1", o.Val)
	}
	if o.Size < 0 || o.Size > 4096 {
		return fmt.Errorf("--size %d is outside 0..4096 pixels (0: as large as the images are)", o.Size)
	}
	if o.Block < 0 {
		return fmt.Errorf("--block %d is negative: a row of a text has at least 1 token", o.Block)
	}
	if !c.IsSet("seed") {
		o.Seed = job.Default().Seed
	}
	src, err := dataset.Open(c.String("data"), o)
	if err != nil {
		return err
	}
	defer src.Close()
	j, train := job.Default(), 0
	train, _ = src.Rows()
	outputs, classes := src.Outputs()
	var g *graph.Graph
	if c.IsSet("example") {
		e, err := zoo.Find(c.String("example"))
		if err != nil {
			return err
		}
		g, j = e.Fit(src.Shape(), outputs), e.Job
	} else {
		if g, err = zoo.Starter(src.Shape(), outputs, src.Tokens); err != nil {
			return err
		}
		j.Name, j.Epochs, j.BatchSize, j.SaveEvery, j.Loss = "starter", 10, batch(train), 1, "mse"
		if classes {
			j.Loss = "cross_entropy"
		}
	}
	changeLearning(c, &j)
	change(c, &j)
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
	nameLosses(&j, outputs, m)
	if err := project.DescribeModel(c.App.Writer, m, j); err != nil || dir == "" {
		return err
	}
	j.Name, j.Model, j.Data = m.Graph.Name, "model.json", c.String("data")
	var src project.Source
	if !slices.Contains(data.BuiltinNames(), j.Data) {
		o := dataset.Options{Val: c.Float64("val"), Seed: j.Seed, Target: c.StringSlice("target"), Tokens: c.String("tokens")}
		switch in := m.Graph.Inputs[0].Shape; len(in) { // the rows that the model takes
		case 1:
			o.Block = in[0]
		case 3:
			o.Size = in[1]
		}
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
		d, err := host.ReadWeights(file)
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
				fmt.Fprintf(os.Stderr, "%d %s: %s\n", len(g.names), g.what, strings.Join(g.names, ", "))
			}
		}
		for _, f := range []string{project.JobFile, project.InitialFile} {
			fmt.Fprintln(c.App.Writer, filepath.Join(dir, f))
		}
		return nil
	})
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
	e, err := host.Export(p, c.Int("cluster"), c.String("to"))
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

func predict(c *cli.Context) error {
	if c.NArg() != 2 {
		return fmt.Errorf("predict takes a directory and an input, got %d arguments %q: run ravnest predict --help for the flags", c.NArg(), c.Args().Slice())
	}
	p, err := project.OpenModel(c.Args().First())
	if err != nil {
		return err
	}
	o := dataset.Options{Target: c.StringSlice("target"), Tokens: c.String("tokens")}
	if file := filepath.Join(p.Dir, project.TokenizerFile); fileExists(file) {
		o.Tokenizer = file // that made the tokens the model was trained on
	}
	var x *data.Table
	var names []string
	if o.Fields, err = fieldsOf(c, p.Job, p.Graph); err != nil {
		return err
	}
	if len(o.Fields.Inputs) > 0 {
		x, err = dataset.InputFields(c.Args().Get(1), o)
	} else {
		x, names, err = dataset.Inputs(c.Args().Get(1), p.Graph.Inputs[0].Shape, o)
	}
	if err != nil {
		return err
	}
	d, from, err := host.Newest(p, c.Int("cluster"))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d rows, %s\n", x.Rows, from)
	w := bufio.NewWriter(c.App.Writer)
	var all []host.Prediction
	err = host.Predict(c.Context, p, d, x, c.Int("threads"), func(row int, a host.Prediction) {
		if names != nil {
			a.Name = names[row]
		}
		switch {
		case c.Bool("json"):
			all = append(all, a)
		case a.Name != "":
			fmt.Fprintf(w, "%s\t%s\n", a.Name, a)
		default:
			fmt.Fprintln(w, a)
		}
	})
	if err != nil || !c.Bool("json") {
		return errors.Join(err, w.Flush())
	}
	return print(c, map[string]any{"command": "predict", "from": from, "rows": all}, nil)
}

func clusterize(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	most := c.Int("max-clusters")
	if most < 0 {
		return fmt.Errorf("--max-clusters %d is negative: 0 allows any number", most)
	}
	exactly := c.Int("clusters")
	if exactly < 0 || c.IsSet("clusters") && exactly == 0 {
		return fmt.Errorf("--clusters %d: give how many to form, or leave it out to have as many as pay", exactly)
	}
	if c.IsSet("clusters") && c.IsSet("max-clusters") {
		return errors.New("--clusters and --max-clusters contradict each other: give one of them")
	}
	s, err := host.Plan(p, most, exactly)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, strings.TrimRight(s.String(), "\n"))
	return print(c, s, func(w io.Writer) { s.WriteLog(w) })
}

func serve(c *cli.Context) (err error) {
	p, err := open(c)
	if err != nil {
		return err
	}
	if n := c.Int("providers"); n < 0 || c.IsSet("providers") && n == 0 {
		return fmt.Errorf("--providers %d: give how many to wait for, or leave it out to use the plan of clusterize", n)
	}
	if k, n := c.Int("clusters"), c.Int("providers"); c.IsSet("clusters") && (k < 1 || k > n) {
		if n == 0 {
			return fmt.Errorf("--clusters %d goes with --providers: the plan of clusterize has its clusters", k)
		}
		return fmt.Errorf("--clusters %d is outside 1..%d, the number of --providers", k, n)
	}
	if c.Bool("no-relay") && c.String("relay") != "" {
		return errors.New("--relay and --no-relay contradict each other: give one of them")
	}
	shared, err := natsOf(c)
	if err != nil {
		return err
	}
	token, err := tokenOf(c)
	if err != nil {
		return err
	}
	ln, err := server.Listen(c.String("listen"), token)
	if err != nil {
		return err
	}
	members, err := host.OpenMembers(p.Dir, c.Bool("members-only"))
	if err != nil {
		return err
	}
	edge, err := edgeOf(c, ln, token)
	if err != nil {
		return err
	}
	pages, err := pages()
	if err != nil {
		return err
	}
	out := output()
	if c.Bool("log-json") {
		errorLog = native.JSONLog(os.Stderr, "ravnest")
		out = host.Output{Err: errorLog}
	}
	trace, done, err := traceFile(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	s, err := host.Serve(c.Context, p, host.Options{
		Listener: ln, Site: pages, Edge: edge, Token: token, Agent: "ravnest/" + version, Members: members, Providers: c.Int("providers"), Clusters: c.Int("clusters"), Fresh: c.Bool("fresh"), NATS: shared, Output: out, Trace: trace,
		Listening: func(_ context.Context, url string) error {
			warnPlain(out.Err, url)
			fmt.Fprintf(out.Err, "serving at %s: start providers with ravnest-provider --join %s\n", url, url)
			if pages.Built() {
				fmt.Fprintf(out.Err, "contribute: %s/\ndashboard: %s/dashboard\n", url, url)
			} else {
				fmt.Fprintln(out.Err, "no pages in this build: tabs cannot join until make has built them")
			}
			return nil
		},
	})
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}

// natsOf reads the flags about NATS.
func natsOf(c *cli.Context) (host.NATS, error) {
	n := host.NATS{URL: c.String("nats"), Creds: c.String("nats-creds"), Replicas: c.Int("nats-replicas")}
	switch {
	case n.URL == "" && (c.IsSet("nats-creds") || c.IsSet("nats-replicas")):
		return n, errors.New("--nats-creds and --nats-replicas go with --nats URL")
	case n.Replicas < 1 || n.Replicas > 5:
		return n, fmt.Errorf("--nats-replicas %d is outside 1..5", n.Replicas)
	}
	return n, nil
}

// status shows the status of a run: of a directory or of a host.
func status(c *cli.Context) error {
	at, err := dirArg(c)
	if err != nil {
		return err
	}
	if strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://") {
		token, err := tokenOf(c)
		if err != nil {
			return err
		}
		s, err := host.AskStatus(c.Context, at, token)
		if err != nil {
			return err
		}
		return print(c, s, func(w io.Writer) { fmt.Fprintln(w, host.StatusText(s)) })
	}
	p, err := open(c)
	if err != nil {
		return err
	}
	s, err := host.StatusOf(c.Context, p)
	if err != nil {
		return err
	}
	return print(c, s, func(w io.Writer) { fmt.Fprintln(w, s) })
}

// edgeOf reads the flags about how the host is reached over the network.
func edgeOf(c *cli.Context, ln net.Listener, token string) (host.Edge, error) {
	e := host.Edge{Proxy: c.Bool("proxy")}
	if cert, key := c.String("tls-cert"), c.String("tls-key"); cert != "" || key != "" {
		if cert == "" || key == "" {
			return e, errors.New("--tls-cert and --tls-key must be given together: the certificate and its key")
		}
		loaded, err := server.LoadCertificate(cert, key)
		if err != nil {
			return e, err
		}
		e.TLS = loaded.TLS()
	}
	var err error
	if s := c.String("public"); s != "" {
		if e.Public, err = server.ParsePublic(s); err != nil {
			return e, err
		}
	}
	if dir := c.String("acme"); dir != "" {
		if e.TLS != nil || e.Public == nil || e.Public.Scheme != "https" || e.Proxy {
			return e, errors.New("--acme gets a certificate for the host's name: give it with --public https://NAME, and neither --tls-cert nor --proxy")
		}
		cache := c.String("acme-cache")
		if cache == "" {
			cache = filepath.Join(c.Args().First(), "node_data", "acme")
		}
		if e.TLS, err = server.ACME(dir, cache, e.Public.Hostname()); err != nil {
			return e, err
		}
	}
	switch at := c.String("relay"); {
	case c.Bool("no-relay"):
	case at != "":
		if e.RelayTCP, err = server.Listen(at, token); err != nil {
			return e, fmt.Errorf("--relay: %w", err)
		}
		e.RelayUDP, err = server.ListenUDP(e.RelayTCP)
	default:
		e.RelayUDP, err = server.ListenUDP(ln)
	}
	return e, err
}

// warnPlain warns that others can read what is sent.
func warnPlain(w io.Writer, at string) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" || native.Loopback(at) {
		return
	}
	fmt.Fprintln(w, "WARNING: this is plain http: the token, the data and the trained weights cross the network unencrypted, and tabs can use only one core.\nhint: give --tls-cert and --tls-key, or put a reverse proxy with https in front and give --proxy --public https://...")
}

func fuse(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	files, err := host.Fuse(p, c.Int("cluster"))
	if err != nil {
		return err
	}
	return print(c, map[string]any{"command": "fuse", "files": files}, func(w io.Writer) {
		for _, f := range files {
			fmt.Fprintln(w, f)
		}
	})
}

func auditRun(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	a, err := host.AuditRun(c.Context, p, c.Bool("all"), t, output())
	if err != nil && !errors.Is(err, host.ErrAudit) {
		return asResult(c, err)
	}
	perr := print(c, a, func(w io.Writer) {
		if err == nil {
			fmt.Fprintf(w, "steps %d to %d are what the job makes: %d checkpoints and the digests of %d updates compared in %.1f s\n", a.From, a.To, a.Checkpoints, a.Updates, a.Seconds)
		}
		for _, f := range a.Faults {
			fmt.Fprintln(w, f)
		}
	})
	return errors.Join(err, perr)
}

func eval(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	e, err := host.Eval(c.Context, p, t)
	if err = asResult(c, err); err != nil {
		return err
	}
	return print(c, e, func(w io.Writer) {
		if e.Total == 0 {
			fmt.Fprintf(w, "validation loss %.4f", e.Loss)
		} else {
			fmt.Fprintf(w, "%d of %d correct: validation accuracy %.2f %%, loss %.4f", e.Correct, e.Total, e.Accuracy, e.Loss)
		}
		for _, m := range e.Told {
			fmt.Fprintf(w, ", %s %.4g", m.Name, m.Value)
		}
		fmt.Fprintln(w)
	})
}

func trainLocal(c *cli.Context) error {
	if !c.Bool("local") {
		return errors.New("train needs --local: to train on several machines, use demo or serve")
	}
	p, err := open(c)
	if err != nil {
		return err
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	s, err := host.TrainLocal(c.Context, p, t, c.String("rounds"), output())
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}
