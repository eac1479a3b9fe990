// Command ravnest-provider lends this machine to a training run: it joins a signaling
// host, trains the stage it is given and hands it back.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/rtc"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/urfave/cli/v2"
)

// version is set by the release build.
var version = "dev"

func main() {
	// Small and steady: what the plan needs is allocated once, the rest is messages.
	debug.SetGCPercent(50)
	ctx, stop := native.Shutdown(context.Background())
	err := app().RunContext(ctx, os.Args)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "ravnest-provider: left on request")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "ravnest-provider:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name: "ravnest-provider", Version: version, HideHelpCommand: true,
		Usage:  "lend this machine to a training run",
		Writer: os.Stdout, ErrWriter: os.Stderr, ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return fmt.Errorf("%w: run ravnest-provider --help for the flags", err)
		},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "join", Usage: "`URL` of the signaling host"},
			&cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "the host's join token"},
			&cli.StringFlag{Name: "name", Usage: "name in the plan, such as node_0 (default: the host gives one)"},
			&cli.StringFlag{Name: "ram", Usage: "`GB` to lend (default: what is free)"},
			&cli.IntFlag{Name: "threads", Value: 1, Usage: "threads of the tensor engine"},
			&cli.BoolFlag{Name: "once", Usage: "leave after one run"},
			&cli.BoolFlag{Name: "quiet", Usage: "say only what goes wrong"},
		},
		Action:   lend,
		Commands: []*cli.Command{doctorCommand()},
	}
}

// dialer connects to peers over WebRTC.
type dialer struct{ ep *rtc.Endpoint }

func (d dialer) Dial(ctx context.Context, offer bool, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	return d.ep.Connect(ctx, offer, send, recv)
}

func lend(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("unexpected argument %q: run ravnest-provider --help for the flags", c.Args().First())
	}
	if c.String("join") == "" {
		return errors.New("which host? give its address with --join URL")
	}
	t := c.Int("threads")
	if t < 1 || t > 4*runtime.NumCPU()+64 {
		return fmt.Errorf("--threads %d is outside 1..%d", t, 4*runtime.NumCPU()+64)
	}
	ram, err := native.AvailableRAM()
	if err != nil {
		return err
	}
	if s := c.String("ram"); s != "" {
		n, err := native.ParseSize(s)
		if err != nil {
			return fmt.Errorf("--ram %q: %w", s, err)
		}
		ram = n
	}
	say := func(format string, a ...any) {
		if !c.Bool("quiet") {
			fmt.Fprintf(os.Stderr, format+"\n", a...)
		}
	}
	team := kernel.NewTeam(t)
	defer team.Close()
	began := time.Now()
	now := func() time.Duration { return time.Since(began) }

	hello := proto.Hello{
		Name: c.String("name"), Agent: "ravnest-provider/" + version, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Class: kernel.Class(), RAM: ram, Threads: t,
	}
	opt := client.Options{Token: c.String("token"), Hello: hello}
	up, down, err := client.MeasureBandwidth(c.Context, c.String("join"), opt)
	if err != nil {
		return err
	}
	b := provider.Benchmark(team, now)
	opt.Hello.Bench = proto.Bench{GEMM: b.GEMM, Conv: b.Conv, Up: up, Down: down}
	conn, err := client.Dial(c.Context, c.String("join"), opt)
	if err != nil {
		return err
	}
	defer conn.Close("leaving")
	say("joined %s as %s: %.1f GFLOP/s, %d MB RAM, %d thread(s)", c.String("join"), conn.Name(), b.GEMM, ram/1e6, t)

	// The host's relay, for peers that cannot be reached directly.
	cfg := rtc.Config{Loopback: native.Loopback(c.String("join"))}
	for _, s := range conn.Welcome().ICE {
		cfg.ICE = append(cfg.ICE, rtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	ep, err := rtc.NewEndpoint(cfg)
	if err != nil {
		return err
	}
	defer ep.Close()
	err = provider.Serve(c.Context, provider.Config{
		Host: conn, Dialer: dialer{ep}, Team: team, RAM: ram, Now: now, Event: say, Once: c.Bool("once"),
		RSS: func() int64 {
			n, err := native.PeakRSS()
			if err != nil {
				return 0
			}
			return n
		},
	})
	if errors.Is(err, client.ErrGoodbye) {
		say("%v", err)
		return nil
	}
	return err
}
