package server

// The outbox is the goroutine that writes to the store and calls the requester's callback,
// in the order of the run machine's actions. It keeps both off the loop, since a slow disk
// or callback must not hold up heartbeats. Its queue is unbounded: what fills it is limited
// by the sessions' message rates, and the callback belongs to the host's own program.

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

// push queues f. After close, f is dropped.
func (o *outbox) push(f func()) {
	o.mu.Lock()
	if !o.closed {
		o.queue = append(o.queue, f)
	}
	o.mu.Unlock()
	o.poke()
}

// close ends the goroutine once the queue is empty, which closes done.
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
