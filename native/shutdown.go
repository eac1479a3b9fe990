//go:build !js

// Signals as a context: the first one asks to stop, a later one insists.

package native

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Interrupted is the cause of a context that a signal ended. errors.Is(err, context.Canceled)
// is true of it, since being asked to stop is not a failure.
type Interrupted struct{ Signal os.Signal }

func (e *Interrupted) Error() string {
	return fmt.Sprintf("stopped on request (%v)", e.Signal)
}

// Is reports that it is a context.Canceled.
func (e *Interrupted) Is(target error) bool { return target == context.Canceled }

// oneRequest is the time during which further signals count as the same request: timeout(1)
// and process managers signal a process and then its group, some milliseconds apart. A person
// who presses Ctrl-C again takes longer.
const oneRequest = 500 * time.Millisecond

// Shutdown returns a context that ends at the first interrupt (Ctrl-C), termination or
// hang-up signal, with an *Interrupted as its cause, so that the program can save and exit.
// After oneRequest, a further interrupt or termination has the system's default effect and
// ends the process at once. A hang-up never does, because nobody is left to insist, and if
// hang-ups were ignored when the process started (nohup) they stay ignored. stop ends the
// context, restores the signals' defaults and waits. The caller must call it.
func Shutdown(parent context.Context) (ctx context.Context, stop func()) {
	return shutdown(parent, oneRequest)
}

func shutdown(parent context.Context, oneRequest time.Duration) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ask, hangup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	over, end := context.WithCancel(context.Background())
	signal.Notify(ask, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(hangup, syscall.SIGHUP)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer signal.Stop(ask)
		defer signal.Stop(hangup)
		select {
		case s := <-ask:
			cancel(&Interrupted{s})
		case s := <-hangup:
			cancel(&Interrupted{s})
		case <-ctx.Done():
			// A parent that ended must not leave the process deaf to Ctrl-C.
			return
		}
		select {
		case <-time.After(oneRequest):
		case <-over.Done():
			return
		}
		signal.Stop(ask)
		<-over.Done()
	})
	return ctx, func() {
		cancel(context.Canceled)
		end()
		wg.Wait()
	}
}
