// Package outbox calls functions one after the other in a goroutine of its own. The loops of
// the host and of a provider hand it what may block, a slow disk or a slow connection, so that
// heartbeats are never held up. Its queue is unbounded: whoever uses it limits what fills it.
package outbox

import "sync"

// Outbox calls the functions that are pushed to it, in their order.
type Outbox struct {
	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{} // holds one token while there may be work
	done   chan struct{}
}

// New starts the goroutine of an Outbox, which ends with Close.
func New() *Outbox {
	o := &Outbox{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go o.run()
	return o
}

// Push queues f. After Close, f is dropped.
func (o *Outbox) Push(f func()) {
	o.mu.Lock()
	if !o.closed {
		o.queue = append(o.queue, f)
	}
	o.mu.Unlock()
	o.notify()
}

// Close ends the goroutine once the queue is empty, which closes Done.
func (o *Outbox) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.notify()
}

// Done is closed when everything that was pushed before Close has returned.
func (o *Outbox) Done() <-chan struct{} { return o.done }

func (o *Outbox) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Outbox) run() {
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
