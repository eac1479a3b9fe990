// Audits that a host makes of its own run while it goes on.

package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/native/project"
)

// checks audits the stretch before a checkpoint now and then. Which ones is drawn, so that no
// provider knows when it may lie.
type checks struct {
	p     *project.Project
	every int             // checkpoints from one audit to the next, on average; 0: there are none
	bad   chan struct{}   // closed when one has found something
	say   func(a Audit)   // is told what was found to be right
	last  *order.Position // of the newest checkpoint

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	busy   bool
	err    error // what was found
}

func newChecks(p *project.Project, every int, say func(Audit)) *checks {
	c := &checks{p: p, every: every, bad: make(chan struct{}), say: say}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// saved is told of a checkpoint whose manifest is in the project's directory. An audit is left out
// while another one is under way.
func (c *checks) saved(at order.Position) {
	if c.every == 0 || c.last != nil && *c.last == at {
		return
	}
	c.last = &at
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy || c.err != nil || rand.IntN(c.every) > 0 {
		return
	}
	c.busy = true
	c.wg.Go(func() {
		a, err := AuditRun(c.ctx, c.p, AuditRange{Newest: true}, 1, Output{})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy = false
		switch {
		case errors.Is(err, ErrAudit):
			c.err = err
			close(c.bad)
		case err == nil:
			c.say(a)
		case c.ctx.Err() == nil && !errors.Is(err, errGone):
			c.err = fmt.Errorf("the run cannot be audited: %w", err)
			close(c.bad)
		}
	})
}

// close waits for the audit under way, or gives it up if ctx is over, and returns what audits have
// found.
func (c *checks) close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.cancel)
	defer stop()
	c.wg.Wait()
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
