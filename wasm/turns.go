//go:build js

// Sharing a worker's single thread between kernels and the network's events, which get their
// turn between kernels.

package main

import (
	"context"
	"syscall/js"
	"time"
)

// share is how long kernels run before events get their turn: short compared with a heartbeat,
// long compared with a turn (some ten microseconds).
const share = 15 * time.Millisecond

// turns gives the event loop its turns, and holds the kernels while the tab is paused. All of
// this runs on one thread.
type turns struct {
	shell  js.Value
	ask    js.Value // calls done once the waiting events have been handled
	done   chan struct{}
	last   time.Time
	paused chan struct{} // nil: running
}

func newTurns(shell js.Value) *turns {
	t := &turns{shell: shell, done: make(chan struct{}, 1), last: time.Now()}
	t.ask = shell.Call("turns", js.FuncOf(func(js.Value, []js.Value) any {
		t.done <- struct{}{}
		return nil
	}))
	return t
}

// between is called between kernels.
func (t *turns) between() {
	for t.paused != nil {
		<-t.paused
	}
	if time.Since(t.last) < share {
		return
	}
	t.ask.Invoke()
	<-t.done
	t.last = time.Now()
}

func (t *turns) pause() {
	if t.paused == nil {
		t.paused = make(chan struct{})
	}
}

func (t *turns) resume() {
	if t.paused != nil {
		close(t.paused)
		t.paused = nil
	}
}

// memory returns the bytes that the tab's engine occupies.
func (t *turns) memory() int64 { return int64(t.shell.Call("memory").Float()) }

// current returns an error if the host has another build now. If the host does not answer, the
// result is nil: joining it will fail anyway.
func (t *turns) current(ctx context.Context) error {
	answer := make(chan bool, 1)
	got := js.FuncOf(func(_ js.Value, args []js.Value) any {
		answer <- args[0].Bool()
		return nil
	})
	defer got.Release()
	t.shell.Call("current", got)
	select {
	case ok := <-answer:
		if !ok {
			return errOutdated
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
