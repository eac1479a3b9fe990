package main

// The command ravnest simulate, which runs a job on simulated volunteers.

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/ravnest/ravnest/signaling/simulate"
	"github.com/urfave/cli/v2"
)

func simulateCommand() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "simulate a run with volunteers who come and go, in virtual time",
		Description: "Runs the decision logic of a real run on random computers, links and sessions.\nThe same seed gives the same figures.",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.IntFlag{Name: "providers", Value: 100, Usage: "number of providers at a time; those that are in no cluster are spares"},
			&cli.IntFlag{Name: "replicas", Value: 1, Usage: "replicas of the job, which as many clusters share as pay"},
			&cli.IntFlag{Name: "reduce-factor", Value: 32, Usage: "updates of each replica between averages"},
			&cli.Float64Flag{Name: "hours", Value: 24, Usage: "length of the run"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "seed of the random computers, links and sessions"},
			&cli.Float64Flag{Name: "session", DefaultText: "10.4, as in SETI@home", Usage: "mean `HOURS` that a provider stays; 0: nobody leaves"},
			&cli.StringFlag{Name: "trace", Usage: "write the host's events to `FILE` as JSON lines"},
		},
		Action: runSimulation, OnUsageError: usageError,
	}
}

func runSimulation(c *cli.Context) (err error) {
	if c.NArg() > 0 {
		return fmt.Errorf("simulate takes no arguments, got %q: run ravnest simulate --help for the flags", c.Args().Slice())
	}
	hours, session := c.Float64("hours"), c.Float64("session")
	if !(hours > 0 && hours <= simulate.MaxTime.Hours()) {
		return fmt.Errorf("--hours %v: give more than 0 and at most %.0f", hours, simulate.MaxTime.Hours())
	}
	if !(session >= 0 && session <= 1e5) {
		return fmt.Errorf("--session %v: give 0 to 100000 hours", session)
	}
	for name, least := range map[string]int{"replicas": 1, "reduce-factor": 1} {
		if n := c.Int(name); n < least {
			return fmt.Errorf("--%s %d: give %d or more", name, n, least)
		}
	}
	o := simulate.Options{
		Providers: c.Int("providers"), Time: time.Duration(hours * float64(time.Hour)), Seed: c.Uint64("seed"),
		Session: time.Duration(session * float64(time.Hour)), Replicas: c.Int("replicas"), Updates: c.Int("reduce-factor"),
		Hour: func(h int, r simulate.Result) {
			fmt.Fprintf(os.Stderr, "hour %d of %.4g: %d steps saved, %d recoveries, %.0f %% of a run without losses\n", h, hours, r.Steps, r.Recoveries, 100*r.Throughput)
		},
	}
	if c.IsSet("session") && session == 0 {
		o.Session = -1
	}
	trace, done, err := traceFile(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	o.Trace = trace
	// With thousands of members the heap is large and hardly changes: collecting it less often
	// saves a third of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(500))
	r, err := simulate.Run(c.Context, o)
	if err != nil {
		return err
	}
	return errors.Join(print(c, r, func(w io.Writer) { writeSimulation(w, r) }), fault(r))
}

// fault is what is wrong with a simulated run, nil: nothing.
func fault(r simulate.Result) error {
	switch {
	case r.Error != "":
		return fmt.Errorf("the simulated run failed: %s", r.Error)
	case !r.Exact && r.Steps > 0:
		return errors.New("the weights of the simulated run are not those of an undisturbed one")
	}
	return nil
}

// traceFile opens the file of --trace, if given. done closes it.
func traceFile(c *cli.Context) (w io.Writer, done func() error, err error) {
	name := c.String("trace")
	if name == "" {
		return nil, func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, nil, fmt.Errorf("--trace: %w", err)
	}
	return f, f.Close, nil
}

func writeSimulation(w io.Writer, r simulate.Result) {
	stays := "nobody leaves"
	if r.Session > 0 {
		stays = fmt.Sprintf("who stay %.3g h on average", r.Session)
	}
	fmt.Fprintf(w, "%d providers for %.4g h, %s, seed %d, a heartbeat of %.3g s\n", r.Providers, r.Hours, stays, r.Seed, r.HeartbeatS)
	if r.Replicas > 1 {
		fmt.Fprintf(w, "clusters    %d at the end, %d at most, for %d replicas\n", r.Clusters, r.Most, r.Replicas)
	}
	fmt.Fprintf(w, "trained     %d steps, %.0f an hour: %.1f %% of the %.0f of a run without losses, at %.3g s a step\n", r.Steps, r.PerHour, 100*r.Throughput, math.Floor(r.QuietSteps), r.StepS)
	fmt.Fprintf(w, "repeated    %d steps, %.1f %% of the work\n", r.Redone, 100*r.RedoneShare)
	fmt.Fprintf(w, "losses      %d, training resumed after %.3g s (median), %.3g s (90 %%), %.3g s (longest); %.0f s in total\n", r.Recoveries, r.Median, r.P90, r.Longest, r.Idle)
	fmt.Fprintf(w, "checkpoints %d, one every %.3g s\n", r.Checkpoints, r.CheckpointS)
	fmt.Fprintf(w, "providers   %d joined; %d said goodbye, %d disconnected, %d fell silent\n", r.Joined, r.Polite, r.Closed, r.Silent)
	fmt.Fprintf(w, "traffic     %d messages with the host, states of %.3g GB up and %.3g GB down, %.4g GB between peers\n",
		r.Messages, float64(r.Uploaded)/1e9, float64(r.Downloaded)/1e9, r.Peers/1e9)
	switch {
	case r.Error != "":
		fmt.Fprintf(w, "the run failed: %s\n", r.Error)
	case r.Exact:
		fmt.Fprintln(w, "the weights are those of an undisturbed run")
	default:
		fmt.Fprintln(w, "THE WEIGHTS ARE NOT THOSE OF AN UNDISTURBED RUN")
	}
}
