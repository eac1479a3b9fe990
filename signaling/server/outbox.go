package server

// The outbox is the one goroutine in which the store is written and the
// requester's callback runs, in the order in which the run machine decided. It keeps
// both off the loop: a slow disk or a slow callback must not stop
// heartbeats. Its queue has no bound of its own; what fills it is bounded by
// the sessions' message rates, and the callback is the host's own program.

import "sync"

type outbox struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // holds one token while there may be work
	done   chan struct{}
}

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go o.run()
	return o
}

// push queues f; after close it is dropped.
func (o *outbox) push(f func()) {
	o.mu.Lock()
	if !o.closed {
		o.queue = append(o.queue, f)
	}
	o.mu.Unlock()
	o.poke()
}

// close lets the queue run empty and then ends the goroutine: wait for done.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) run() {
	defer close(o.done)
	for range o.wake {
		for {
			o.mu.Lock()
			queue, closed := o.queue, o.closed
			o.queue = nil
			o.mu.Unlock()
			for _, f := range queue {
				f()
			}
			if len(queue) > 0 {
				continue
			}
			if closed {
				return
			}
			break
		}
	}
}
