// Command ravnest-provider lends this machine to a training run: it joins a signaling host,
// trains the stages that it is assigned, uploads them and waits for the next.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	lent "github.com/ravnest/ravnest/engine/provider"
	lender "github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/urfave/cli/v2"
)

// version is set by the release build.
var version = "dev"

// errorLog takes the error that ends the program, with --log-json; nil: standard error does.
var errorLog io.Writer

func main() {
	native.Scrub()
	ctx, stop := native.Shutdown(context.Background())
	err := app().RunContext(ctx, os.Args)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		if errorLog != nil {
			fmt.Fprintln(errorLog, "left on request")
		} else {
			fmt.Fprintln(os.Stderr, "ravnest-provider: left on request")
		}
		os.Exit(130)
	case errorLog != nil:
		fmt.Fprintf(errorLog, "ERROR: %v\n", err)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "ravnest-provider:", console.Plain(err.Error()))
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name: "ravnest-provider", Version: version, HideHelpCommand: true,
		Usage:  "lend this machine to a training run",
		Writer: os.Stdout, ErrWriter: os.Stderr, ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError: usageError,
		Flags: append(limitFlags(),
			joinFlag, tokenFlag, tokenFileFlag, identityFlag,
			&cli.StringFlag{Name: "name", DefaultText: "chosen by the host", EnvVars: []string{"RAVNEST_NAME"}, Usage: "name in the plan, such as node_0"},
			&cli.BoolFlag{Name: "once", Usage: "leave after one run (default: stay for the host's next)"},
			&cli.DurationFlag{Name: "wait", DefaultText: "for ever", Usage: "give up after `TIME` without a host, such as 30s or 0"},
			&cli.StringFlag{Name: "metrics", DefaultText: "none", EnvVars: []string{"RAVNEST_METRICS"}, Usage: "serve Prometheus metrics at `ADDRESS`, such as 9099 (this machine only) or 192.0.2.1:9099"},
			&cli.BoolFlag{Name: "log-json", EnvVars: []string{"RAVNEST_LOG_JSON"}, Usage: "write messages as JSON, a record a line"},
			&cli.BoolFlag{Name: "quiet", Usage: "print errors only"},
		),
		Action: lend,
		Commands: []*cli.Command{doctorCommand(), {
			Name: "version", Usage: "print the version, the protocol and the numeric class of this program",
			Action: func(c *cli.Context) error {
				if err := noArguments(c); err != nil {
					return err
				}
				_, err := io.WriteString(c.App.Writer, native.Version("ravnest-provider", version))
				return err
			},
			OnUsageError: usageError,
		}},
	}
}

// usageError is an error about flags.
func usageError(_ *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%w: run ravnest-provider --help for the flags", console.FlagError(err))
}

// noArguments refuses arguments that are no flags.
func noArguments(c *cli.Context) error {
	if !c.Args().Present() {
		return nil
	}
	arg := c.Args().First()
	if strings.Contains(arg, "://") && len(c.StringSlice("join")) == 0 {
		return fmt.Errorf("unexpected argument %q: a host's address is given with --join %s", arg, arg)
	}
	return fmt.Errorf("unexpected argument %q: run ravnest-provider --help for the flags", arg)
}

// waitFlag is how long to wait for a host; negative: for ever.
func waitFlag(c *cli.Context) (time.Duration, error) {
	wait := c.Duration("wait")
	if !c.IsSet("wait") {
		return -1, nil
	}
	if wait < 0 {
		return 0, fmt.Errorf("--wait %v is negative: leave it out to wait for ever", wait)
	}
	return wait, nil
}

// peak is the most memory that this process has used; 0: not known.
func peak() int64 {
	n, err := native.PeakRSS()
	if err != nil {
		return 0
	}
	return n
}

// configOf is what a provider is, by the flags, but for what it has been given to work with.
func configOf(c *cli.Context, hosts []string, lim lending) lender.Config {
	began := time.Now()
	return lender.Config{
		Host: hosts[0], Hosts: hosts[1:], Name: c.String("name"),
		Agent: "ravnest-provider/" + version, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		RAM: lim.ram, Limit: lim.rate, May: lim.may, Loopback: native.Loopback(hosts[0]), Machine: native.Network(),
		Processor: native.Processor(), Cores: runtime.NumCPU(), Physical: native.PhysicalCores(),
		Rules: machine.Rules{Once: c.Bool("once"), Stay: true},
		Now:   func() time.Duration { return time.Since(began) },
		RSS:   peak,
	}
}

func lend(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	hosts, token, err := hostsOf(c)
	if err != nil {
		return err
	}
	if name := c.String("name"); name != "" {
		if err := proto.CheckName(name); err != nil {
			return fmt.Errorf("--name: %w", err)
		}
	}
	wait, err := waitFlag(c)
	if err != nil {
		return err
	}
	var w io.Writer = os.Stderr
	if c.Bool("log-json") {
		errorLog = native.JSONLog(w, "ravnest-provider")
		w = errorLog
	}
	say := func(format string, a ...any) {
		if !c.Bool("quiet") {
			fmt.Fprintln(w, console.Plain(fmt.Sprintf(format, a...)))
		}
	}
	id, err := identity(c, say)
	if err != nil {
		return err
	}
	lim, err := limits(c, say)
	if err != nil {
		return err
	}
	// Near what is lent, garbage is collected sooner.
	debug.SetMemoryLimit(max(lim.ram, 64<<20))
	collector := lender.Collector(lim.ram)
	team := kernel.NewTeam(lim.threads)
	defer team.Close()
	cfg := configOf(c, hosts, lim)
	cfg.Token, cfg.Team, cfg.Event, cfg.Rules.Wait = token, team, say, wait
	if id != nil {
		id.into(&cfg)
	}
	m := &meter{ram: lim.ram}
	if address := c.String("metrics"); address != "" {
		at, stop, err := m.listen(address)
		if err != nil {
			return err
		}
		defer stop()
		say("metrics at %s", at)
	}
	telemetry, err := otlp.New("ravnest-provider", version, os.Getenv, say)
	if err != nil {
		return err
	}
	defer telemetry.Close()
	telemetry.Collect(m.figures)
	done := &steps{add: telemetry.Add}
	cfg.Joined = m.joined
	cfg.Watch = func(u lent.Update) {
		collector(u)
		m.watch(u)
		done.watch(time.Now(), u)
	}
	err = lender.Lend(c.Context, cfg)
	if errors.Is(err, client.ErrGoodbye) {
		say("%v", err)
		return nil
	}
	return err
}
