//go:build !js

// Signals as a context: the first asks, the second insists.

package native

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Interrupted is the cause of a context that a signal ended. It answers to
// errors.Is(err, context.Canceled): being asked to stop is not a failure.
type Interrupted struct{ Signal os.Signal }

func (e *Interrupted) Error() string {
	return fmt.Sprintf("stopped on request (%v); once more stops at once", e.Signal)
}

// Is makes it a kind of context.Canceled.
func (e *Interrupted) Is(target error) bool { return target == context.Canceled }

// Shutdown returns a context that ends at the first interrupt (Ctrl-C), termination or
// hang-up signal, with an *Interrupted as its cause, so that the program can save and
// leave. From then on signals do what the system does by default: a second one ends
// the process at once. stop ends the context, gives signals back and waits; call it when done.
func Shutdown(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case s := <-ch:
			signal.Stop(ch)
			cancel(&Interrupted{s})
		case <-ctx.Done():
			// A parent that ended must not leave the process deaf to Ctrl-C.
			signal.Stop(ch)
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		wg.Wait()
	}
}
