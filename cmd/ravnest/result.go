// The commands about a run and its result, and training in one process.

package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/native/audit"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/local"
	"github.com/ravnest/ravnest/native/status"
	"github.com/ravnest/ravnest/native/weights"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/urfave/cli/v2"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the status of a run: of the job in DIR or of the host at URL", ArgsUsage: "DIR|URL",
		Flags:  []cli.Flag{jsonFlag, &cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "the host's join token, with URL"}, tokenFileFlag},
		Action: showStatus, OnUsageError: usageError,
	}
}

// showStatus shows the status of a run: of a directory or of a host.
func showStatus(c *cli.Context) error {
	at, err := dirArg(c)
	if err != nil {
		return err
	}
	if strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://") {
		token, err := tokenOf(c)
		if err != nil {
			return err
		}
		s, err := status.Ask(c.Context, at, token)
		if err != nil {
			return err
		}
		return print(c, s, func(w io.Writer) { fmt.Fprintln(w, status.Text(s)) })
	}
	p, err := openBeside(c)
	if err != nil {
		return err
	}
	s, err := status.Of(c.Context, p)
	if err != nil {
		return err
	}
	return print(c, s, func(w io.Writer) { fmt.Fprintln(w, s) })
}

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "compute again what providers trained, and name who computed something else", ArgsUsage: "DIR",
		Description: "Trains in one process from the checkpoint before the newest to the newest, or with --all from\nthe start, and compares what every stage saved. Where the job says \"audit\": true (init --audit),\nthe digests that the stages committed themselves to tell which one was the first to be wrong, and\nsingle rounds can be asked for. A unit is what one replica does in one round.",
		Flags: []cli.Flag{
			jsonFlag, threads,
			&cli.BoolFlag{Name: "all", Usage: "from the start of the run"},
			&cli.IntFlag{Name: "units", DefaultText: "all", Usage: "no more than `N` units, in whole rounds"},
			&cli.Uint64Flag{Name: "round", DefaultText: "the newest checkpoint's", Usage: "up to the end of round `R`, counted from 0"},
			&cli.IntFlag{Name: "replica", DefaultText: "all", Usage: "with --round: only the cluster counts that trained replica `K` in it"},
		},
		Action: alone(auditRun), OnUsageError: usageError,
	}
}

// count is a number of things in words.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func auditRun(c *cli.Context) error {
	p, t, err := openToCompute(c)
	if err != nil {
		return err
	}
	what := audit.Range{All: c.Bool("all"), Units: c.Int("units")}
	if c.IsSet("units") && (what.Units < 1 || c.IsSet("round")) {
		return fmt.Errorf("--units %d: want at least 1, and not with --round", what.Units)
	}
	if c.IsSet("round") {
		r := c.Uint64("round")
		what.Round = &r
	}
	if c.IsSet("replica") {
		k := c.Int("replica")
		if what.Replica = &k; what.Round == nil || k < 0 {
			return fmt.Errorf("--replica %d: want at least 0, and --round with it", k)
		}
	}
	a, err := audit.Run(c.Context, p, what, t, toConsole())
	if err != nil && !errors.Is(err, audit.ErrDiffers) {
		return asResult(c, err)
	}
	perr := print(c, a, func(w io.Writer) {
		if err == nil {
			fmt.Fprintf(w, "steps %d to %d are what the job makes: %s and the digests of %s compared in %.1f s\n", a.From, a.To, count(a.Checkpoints, "checkpoint"), count(a.Updates, "update"), a.Seconds)
		}
		for _, f := range a.Faults {
			fmt.Fprintln(w, f)
		}
	})
	return errors.Join(err, perr)
}

func fuseCommand() *cli.Command {
	return &cli.Command{
		Name: "fuse", Usage: "join the trained stages of a cluster into one state dict", ArgsUsage: "DIR",
		Flags:  []cli.Flag{jsonFlag, &cli.IntFlag{Name: "cluster", Usage: "fuse cluster `N`"}},
		Action: alone(fuse), OnUsageError: usageError,
	}
}

func fuse(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	files, err := weights.Fuse(p, c.Int("cluster"))
	if err != nil {
		return err
	}
	return print(c, map[string]any{"command": "fuse", "files": files}, func(w io.Writer) {
		for _, f := range files {
			fmt.Fprintln(w, f)
		}
	})
}

func evalCommand() *cli.Command {
	return &cli.Command{
		Name: "eval", Usage: "evaluate the fused model on the validation set", ArgsUsage: "DIR",
		Flags: []cli.Flag{jsonFlag, threads}, Action: eval, OnUsageError: usageError,
	}
}

func eval(c *cli.Context) error {
	p, err := openBeside(c)
	if err != nil {
		return err
	}
	t, err := threadsFlag(c)
	if err != nil {
		return err
	}
	e, err := local.Eval(c.Context, p, t)
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

func trainCommand() *cli.Command {
	return &cli.Command{
		Name: "train", Usage: "train the job in DIR in one process, for comparison", ArgsUsage: "DIR",
		Flags: append(jobFlags(), jsonFlag, threads, &cli.BoolFlag{Name: "local", Usage: "train in this process; required (to train on several machines, use demo or serve)"},
			&cli.StringFlag{Name: "rounds", Usage: "with replicas auto: train as the run did whose rounds.json is `FILE`, with the same result"}),
		Action: alone(trainLocal), OnUsageError: usageError,
	}
}

func trainLocal(c *cli.Context) error {
	if !c.Bool("local") {
		return errors.New("train needs --local: to train on several machines, use demo or serve")
	}
	p, t, err := openToCompute(c)
	if err != nil {
		return err
	}
	s, err := local.Train(c.Context, p, t, c.String("rounds"), toConsole())
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}

// sentFor says what providers send each other bytes for.
func sentFor(s journal.Summary) string {
	cut := slices.ContainsFunc(s.Clusters, func(c journal.ClusterSummary) bool { return len(c.Cuts) > 1 })
	switch {
	case len(s.Clusters) < 2:
		return "between stages that begin at " + strings.Join(s.Cuts, ", ")
	case cut:
		return "between stages and to average"
	}
	return "to average"
}

func summary(c *cli.Context, s journal.Summary) error {
	err := print(c, s, func(w io.Writer) {
		if s.Samples == 0 {
			fmt.Fprintln(w, "nothing was trained")
			return
		}
		fmt.Fprintf(w, "trained %d samples in %.2f s", s.Samples, s.Seconds)
		if s.SamplesPerS > 0 { // 0: in too short a time to tell
			fmt.Fprintf(w, ": %s", planner.Speed(s.SamplesPerS))
		}
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
			fmt.Fprintf(w, "the forecast was %s\n", planner.Speed(s.Forecast))
		}
		if s.WireBytes > 0 {
			fmt.Fprintf(w, "sent %.1f kB a batch %s\n", s.WireBytes/1e3, sentFor(s))
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
