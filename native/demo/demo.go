// Package demo runs a host and providers on one machine, started and stopped together.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/host"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
)

// Options of a demo.
type Options struct {
	Providers int
	Clusters  int // to form of them; 0: as many as pay
	Tabs      int // how many of the providers are browser tabs that people open
	Site      http.Handler
	Threads   int    // of each provider
	RAM       string // of each provider; "": what is available
	Program   string // the provider's binary; "": the one beside this program
	Listen    string
	Console   *console.Console // what is said; nil: nothing is
}

// providerProgram returns the path of the provider's binary: given, or beside this program's.
func providerProgram(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding ravnest-provider: %w", err)
	}
	name := "ravnest-provider"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no %s beside %s: build it with make build", name, self)
	}
	return path, nil
}

// written tells whether the project's pool file lists so many nodes: that pool is used whole, as by
// clusterize.
func written(p *project.Project, nodes int) bool {
	pool, err := p.Pool()
	return err == nil && len(pool) == nodes
}

// Run serves the project and runs its providers as child processes, then fuses the trained
// stages.
func Run(ctx context.Context, p *project.Project, ln net.Listener, opt Options) (journal.Summary, error) {
	prog, err := providerProgram(opt.Program)
	if err != nil {
		_ = ln.Close()
		return journal.Summary{}, err
	}
	// If a child dies before the run has begun, stop waiting for it.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	cctx, kill := context.WithCancel(context.WithoutCancel(ctx))
	cs := children{program: prog, opt: opt, ctx: cctx, run: ctx, fail: fail}
	defer cs.wg.Wait()
	defer kill()

	so := host.Options{Listener: ln, Site: opt.Site, Providers: opt.Providers, Clusters: opt.Clusters, All: written(p, opt.Providers), Fresh: true, Alone: opt.Tabs == 0, Console: opt.Console}
	if opt.Tabs == 0 {
		so.Spawned = cs.last
	}
	for i := range opt.Providers {
		so.Names = append(so.Names, fmt.Sprintf("node_%d", i))
	}
	so.Listening = func(_ context.Context, url string) error {
		opt.Console.Say("host at %s, starting %d providers", url, opt.Providers-opt.Tabs)
		if opt.Tabs > 0 {
			opt.Console.Say("waiting for %d browser tabs: open this page in each and press \"Lend this tab\"", opt.Tabs)
		}
		opt.Console.Say("contribute: %s/\ndashboard: %s/dashboard", url, url)
		for _, name := range so.Names[opt.Tabs:] {
			if err := cs.start(name, url); err != nil {
				return err
			}
		}
		return nil
	}
	sum, err := host.Serve(ctx, p, so)
	sum.Command = "demo"
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && err == nil {
		err = cause
	}
	if err != nil {
		return sum, err
	}
	// The host has said goodbye; give the providers a moment to exit on their own.
	gone := make(chan struct{})
	go func() { cs.wg.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(3 * time.Second):
		kill()
		<-gone
	}
	if !sum.Saved {
		return sum, nil // stopped before anything was trained; older results are unchanged
	}
	files, err := weights.Fuse(p, 0)
	if err != nil {
		return sum, err
	}
	sum.Files = append(files, sum.Files...)
	return sum, nil
}

// children are the providers that a demo starts.
type children struct {
	program string
	opt     Options
	ctx     context.Context // ends them
	run     context.Context // the demo's
	fail    context.CancelCauseFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	started time.Time // the last of them
}

func (cs *children) last() time.Time {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.started
}

// interruptWait is how long a child's end waits for word of an interrupt: from the terminal it can
// reach a child that was just created and is still in this process's group, before this process.
const interruptWait = 2 * time.Second

// start starts a provider. Its failure is the demo's.
func (cs *children) start(name, url string) error {
	args := []string{"--join", url, "--name", name, "--threads", fmt.Sprint(cs.opt.Threads), "--nice", "0", "--identity", "none", "--once", "--quiet"}
	if cs.opt.RAM != "" {
		args = append(args, "--ram", cs.opt.RAM)
	}
	cmd := exec.Command(cs.program, args...)
	cmd.Stderr = os.Stderr
	cs.mu.Lock()
	cs.started = time.Now()
	cs.mu.Unlock()
	c, err := native.Start(cs.ctx, cmd)
	if err != nil {
		return fmt.Errorf("starting provider %s: %w", name, err)
	}
	cs.wg.Go(func() {
		err := c.Wait()
		if err == nil || cs.ctx.Err() != nil {
			return
		}
		select {
		case <-cs.run.Done():
		case <-time.After(interruptWait):
			cs.fail(fmt.Errorf("provider %s ended: %w", name, err))
		}
	})
	return nil
}
