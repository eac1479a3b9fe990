// Command ravnest is the requester's program: it creates a job, plans it and serves it to
// providers, and fuses the trained stages.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
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
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, errInterrupted) {
		err = fmt.Errorf("%w: %w", errInterrupted, context.Cause(ctx))
	}
	stop()
	switch {
	case err != nil && errorLog != nil:
		fmt.Fprintf(errorLog, "ERROR: %v\n", err)
		os.Exit(map[bool]int{true: 130, false: 1}[errors.Is(err, errInterrupted)])
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "ravnest:", console.Plain(err.Error()))
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "ravnest:", console.Plain(err.Error()))
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

// reading shows on the terminal how far a data set is read, where that takes long.
func reading(ctx context.Context) func(bytes int64) error {
	began, told := time.Now(), time.Time{}
	return func(bytes int64) error {
		if now := time.Now(); now.Sub(began) > 2*time.Second && now.Sub(told) > 5*time.Second {
			told = now
			fmt.Fprintf(os.Stderr, "reading the data: %s so far\n", native.FormatSize(bytes))
		}
		return context.Cause(ctx)
	}
}

// flags that several commands have.
var (
	tokenizerFlag = &cli.StringFlag{Name: "tokenizer", Usage: "`FILE` of a tokenizer.json that makes the tokens of a text: BPE, WordPiece or Unigram"}
	textFlag      = &cli.StringSliceFlag{Name: "text", Usage: "one or two `COLUMN`s of texts of a .csv, .tsv, .jsonl or .parquet, which --tokenizer makes tokens of"}
	skipFlag      = &cli.StringSliceFlag{Name: "skip", Usage: "`COLUMN`s of a table that are neither inputs nor targets"}
	oneHotFlag    = &cli.StringSliceFlag{Name: "one-hot", Usage: "`COLUMN`s of texts in a table: each of their texts becomes an input that is 1 or 0"}
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

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version, the protocol and the numeric class of this program",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("version takes no arguments, got %q", c.Args().Slice())
			}
			_, err := io.WriteString(c.App.Writer, native.Version("ravnest", version))
			return err
		}, OnUsageError: usageError,
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "ravnest"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "ravnest" {
		name += " " + c.Command.Name
	}
	return fmt.Errorf("%w: run %s --help for the flags", console.FlagError(err), name)
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

// openBeside is open for a command that works beside others: it locks the directory if the data have to
// be divided into shards, since what is there may be in use.
func openBeside(c *cli.Context) (*project.Project, error) {
	dir, err := dirArg(c)
	if err != nil {
		return nil, err
	}
	unlock := func() {}
	defer func() { unlock() }()
	told, mine := preparing(c.Context), false
	return project.OpenWith(dir, nil, func(done, total int) error {
		if !mine {
			release, err := project.Lock(dir, "ravnest "+c.Command.Name)
			if err != nil {
				return fmt.Errorf("the data are not divided into shards yet, or have changed since: %w", err)
			}
			unlock, mine = release, true
		}
		return told(done, total)
	})
}

// openToCompute opens the job of the directory argument, and returns the threads to compute with.
func openToCompute(c *cli.Context) (*project.Project, int, error) {
	p, err := open(c)
	if err != nil {
		return nil, 0, err
	}
	t, err := threadsFlag(c)
	return p, t, err
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

// toConsole is standard error for what a command tells while it works.
func toConsole() *console.Console {
	if !native.IsTerminal(os.Stderr) {
		return console.New(os.Stderr)
	}
	return console.Terminal(os.Stderr, func() int { return native.Columns(os.Stderr) })
}

// print writes a result: JSON, or what text writes, plain: names in it may be those of others.
func print(c *cli.Context, v any, text func(w io.Writer)) error {
	if !c.Bool("json") {
		var b strings.Builder
		text(&b)
		_, err := io.WriteString(c.App.Writer, console.Plain(b.String()))
		return err
	}
	e := json.NewEncoder(c.App.Writer)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
