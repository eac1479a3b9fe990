// Child processes that do not outlive their parent.

package native

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// Grace is how long a child may take to exit once asked to.
const Grace = 5 * time.Second

// Child is a running process that Start started.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when err is set
	err  error

	mu     sync.Mutex
	reaped bool // its process id may belong to someone else
}

// Start runs cmd as a child in a process group of its own, so that a Ctrl-C at the terminal
// reaches only the parent, which decides what to do. When ctx ends, the group is asked to end
// (SIGTERM) and killed after Grace; on Windows, it is killed at once. On Linux the child is also
// killed if the parent dies in any way, and the rest of its group is killed when it ends.
// Elsewhere children end with the parent only if it ends ctx.
//
// The caller must Wait.
func Start(ctx context.Context, cmd *exec.Cmd) (*Child, error) { return start(ctx, cmd, Grace) }

func start(ctx context.Context, cmd *exec.Cmd, grace time.Duration) (*Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, context.Cause(ctx))
	}
	detach(cmd)
	// A grandchild that keeps the output open must not block Wait for ever.
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = grace
	}
	c := &Child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread that created the child ends, so keep that
		// thread as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		// Notice the end before the process id is released, so that no signal can reach an
		// unrelated process, and so that the rest of the group can be killed.
		if ended(cmd.Process.Pid) {
			c.mu.Lock()
			end(cmd.Process, true)
			c.reaped = true
			c.mu.Unlock()
		}
		err = cmd.Wait()
		c.mu.Lock()
		c.reaped = true
		c.mu.Unlock()
		c.err = err
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	go func() {
		select {
		case <-c.done:
			return
		case <-ctx.Done():
		}
		c.signal(false)
		select {
		case <-c.done:
			return
		case <-time.After(grace):
		}
		c.signal(true)
	}()
	return c, nil
}

// signal asks the child's group to end, or kills it.
func (c *Child) signal(force bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		end(c.cmd.Process, force)
	}
}

// Pid returns the child's process id.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Wait waits for the child to end and returns nil, an *exec.ExitError, or an error about its
// output. Any number of callers may wait.
func (c *Child) Wait() error {
	<-c.done
	return c.err
}
