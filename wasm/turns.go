//go:build js

// Sharing a worker's one thread: kernels run on it, and so do the network's events. They
// get their turn between kernels.

package main

import (
	"syscall/js"
	"time"
)

// share is how long kernels run before events get their turn: short beside a heartbeat,
// long beside what a turn takes (some ten microseconds).
const share = 15 * time.Millisecond

// turns gives the event loop its turns, and holds the kernels while the tab is paused.
// All of it runs on one thread.
type turns struct {
	shell  js.Value
	ask    js.Value // calls done after what is waiting in the event loop
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

// memory is what the tab's engine occupies, in bytes.
func (t *turns) memory() int64 { return int64(t.shell.Call("memory").Float()) }
