package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/infer"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
)

func generateCommand() *cli.Command {
	return &cli.Command{
		Name: "generate", Usage: "continue a text with the trained decoder of the job in DIR", ArgsUsage: "DIR",
		Description: "The same weights, prompt, seed and flags give the same text on every machine.",
		Flags: []cli.Flag{
			jsonFlag, threads,
			&cli.StringFlag{Name: "prompt", Usage: "`TEXT` to continue"},
			&cli.IntFlag{Name: "tokens", Value: 200, Usage: "generate `N` tokens"},
			&cli.Float64Flag{Name: "temperature", Value: 1, Usage: "below 1 likely tokens become likelier; 0: always the likeliest"},
			&cli.IntFlag{Name: "top-k", Usage: "choose among the `N` likeliest tokens; 0: among all"},
			&cli.Float64Flag{Name: "top-p", Value: 1, Usage: "choose among the likeliest tokens that together have this `PROBABILITY`; 1: among all"},
			&cli.Uint64Flag{Name: "seed", DefaultText: "the job's", Usage: "`N` that the choices follow from"},
			&cli.IntFlag{Name: "cluster", Usage: "whose checkpoint"},
		},
		Action: generate, OnUsageError: usageError,
	}
}

func generate(c *cli.Context) error {
	dir, err := dirArg(c)
	if err != nil {
		return err
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	o := infer.Options{Prompt: c.String("prompt"), Tokens: c.Int("tokens"), Temperature: c.Float64("temperature"), TopK: c.Int("top-k"), TopP: c.Float64("top-p"), Seed: c.Uint64("seed"), Threads: t}
	switch {
	case o.Prompt == "":
		return errors.New("generate needs --prompt TEXT, which the model continues")
	case o.Tokens < 1 || o.Tokens > 1<<20:
		return fmt.Errorf("--tokens %d is outside 1..%d", o.Tokens, 1<<20)
	case !(o.Temperature >= 0 && o.Temperature <= 100):
		return fmt.Errorf("--temperature %v is outside 0..100", o.Temperature)
	case !(o.TopP > 0 && o.TopP <= 1):
		return fmt.Errorf("--top-p %v is not a probability above 0", o.TopP)
	case o.TopK < 0:
		return fmt.Errorf("--top-k %d is negative", o.TopK)
	}
	p, err := project.OpenModel(dir)
	if err != nil {
		return err
	}
	if o.Prompt, err = infer.Prompt(p, o.Prompt); err != nil {
		return err
	}
	if !c.IsSet("seed") {
		o.Seed = p.Job.Seed
	}
	d, from, err := weights.Newest(p, c.Int("cluster"))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s\n", from)
	text := ""
	out := io.Discard
	if !c.Bool("json") {
		out = c.App.Writer
	}
	shown := func(s string) string { return s }
	if f, ok := out.(*os.File); ok && native.IsTerminal(f) { // a file gets the text as it is
		shown = console.Plain
	}
	before := o.Prompt // said when the model has taken it
	err = infer.Generate(c.Context, p, d, o, func(piece string) error {
		text += piece
		_, err := io.WriteString(out, shown(before+piece))
		before = ""
		return err
	})
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		_, err := fmt.Fprintln(out)
		return err
	}
	return print(c, map[string]any{"command": "generate", "from": from, "prompt": o.Prompt, "text": text}, nil)
}
