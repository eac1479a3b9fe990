package main

// What of this machine its owner lends, and when.

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/ravnest/ravnest/engine/provider/hours"
	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/native"
	"github.com/urfave/cli/v2"
)

func limitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ram", DefaultText: "what is free", EnvVars: []string{"RAVNEST_RAM"}, Usage: "memory to lend, in `GB` or with a unit such as 512MB"},
		&cli.IntFlag{Name: "threads", DefaultText: "all cores but one", EnvVars: []string{"RAVNEST_THREADS"}, Usage: "threads of the tensor engine"},
		&cli.Float64Flag{Name: "up", DefaultText: "no limit", EnvVars: []string{"RAVNEST_UP"}, Usage: "send at most so many `Mbit/s`, to the host and to other providers together"},
		&cli.Float64Flag{Name: "down", DefaultText: "no limit", EnvVars: []string{"RAVNEST_DOWN"}, Usage: "receive at most so many `Mbit/s`, likewise"},
		&cli.StringFlag{Name: "schedule", DefaultText: "the whole day", EnvVars: []string{"RAVNEST_SCHEDULE"}, Usage: "lend only within `HOURS` of the local clock, such as 22:00-07:00 or 22:00-07:00,12:30-13:30"},
		&cli.BoolFlag{Name: "idle-only", EnvVars: []string{"RAVNEST_IDLE_ONLY"}, Usage: "lend only while nobody uses this machine's keyboard, mouse or terminals"},
		&cli.DurationFlag{Name: "idle-after", Value: 5 * time.Minute, EnvVars: []string{"RAVNEST_IDLE_AFTER"}, Usage: "with --idle-only: the `TIME` without input after which nobody does"},
		&cli.IntFlag{Name: "nice", Value: 10, EnvVars: []string{"RAVNEST_NICE"}, Usage: "give way to other programs: from 0, not at all, to 19, as nice(1) counts"},
	}
}

// lending is what the flags allow.
type lending struct {
	threads int
	ram     int64 // bytes
	rate    *throttle.Limit
	may     func() (why string, ok bool) // nil: always
}

// limits reads the flags, and gives this process its priority.
func limits(c *cli.Context, say func(format string, a ...any)) (lending, error) {
	l := lending{threads: c.Int("threads")}
	if most := 4*runtime.NumCPU() + 64; !c.IsSet("threads") {
		l.threads = max(1, native.Cores()-1)
	} else if l.threads < 1 || l.threads > most {
		return l, fmt.Errorf("--threads %d is outside 1..%d", l.threads, most)
	}
	var err error
	if s := c.String("ram"); s != "" {
		if l.ram, err = native.ParseSize(s); err != nil {
			return l, fmt.Errorf("--ram %q: %w", s, err)
		}
	} else if l.ram, err = native.AvailableRAM(); err != nil {
		return l, err
	}
	if l.rate, err = throttle.New(1e6*c.Float64("up"), 1e6*c.Float64("down")); err != nil {
		return l, fmt.Errorf("--up, --down: %w", err)
	}
	if l.may, err = when(c, say); err != nil {
		return l, err
	}
	nice := c.Int("nice")
	if nice < 0 || nice > 19 {
		return l, fmt.Errorf("--nice %d is outside 0..19", nice)
	}
	if nice > 0 {
		// A system that refuses it does not keep this machine from being lent.
		if err := native.Nice(nice); err != nil {
			say("%v: this process competes with others as an equal", err)
		}
	}
	return l, nil
}

// when reads the flags about the time; nil: always.
func when(c *cli.Context, say func(format string, a ...any)) (func() (string, bool), error) {
	var day hours.Hours
	var err error
	if c.IsSet("schedule") {
		if day, err = hours.Parse(c.String("schedule")); err != nil {
			return nil, fmt.Errorf("--schedule: %w", err)
		}
	}
	var idle *native.Idle
	after := c.Duration("idle-after")
	switch {
	case c.IsSet("idle-after") && !c.Bool("idle-only"):
		return nil, errors.New("--idle-after goes with --idle-only")
	case after <= 0:
		return nil, fmt.Errorf("--idle-after %v: want more than 0", after)
	case c.Bool("idle-only"):
		if idle, err = native.NewIdle(after); err != nil {
			return nil, fmt.Errorf("--idle-only: %w: leave it out, and use --schedule in its place", err)
		}
		say("--idle-only goes by %s", idle.By())
	case !c.IsSet("schedule"):
		return nil, nil
	}
	return func() (string, bool) {
		if why, ok := day.May(time.Now()); !ok || idle == nil {
			return why, ok
		}
		return idle.May()
	}, nil
}
