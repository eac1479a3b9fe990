// Package mem is a pipe within one process, with the faults of a network for tests:
// delay, loss, reorder, a cut.
package mem

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrCut is what a pipe returns after its cut.
var ErrCut = errors.New("the connection was cut")

// errClosed is what a closed pipe returns.
var errClosed = errors.New("the pipe is closed")

// Faults of one direction. The zero value is a perfect pipe.
type Faults struct {
	Delay   time.Duration // of every frame
	Loss    float64       // probability that a frame vanishes
	Reorder float64       // probability that a frame overtakes the one before it
	CutAt   int           // the pipe breaks at this frame, counted from 1; 0: never
	Rand    *rand.Rand    // needed with Loss or Reorder
}

// half is one direction.
type half struct {
	mu     sync.Mutex
	frames []timed
	wake   chan struct{}
	f      Faults
	n      int
}

type timed struct {
	b  []byte
	at time.Time
}

// Pipe is one end.
type Pipe struct {
	in, out *half
	done    *closer
	last    []byte
}

// closer ends both ends at once, with a reason.
type closer struct {
	once sync.Once
	c    chan struct{}
	err  error
}

func (c *closer) close(err error) { c.once.Do(func() { c.err = err; close(c.c) }) }

// Pair makes the two ends of a pipe; ab are the faults from a to b, ba the other way.
func Pair(ab, ba Faults) (a, b *Pipe) {
	x, y := &half{wake: make(chan struct{}, 1), f: ab}, &half{wake: make(chan struct{}, 1), f: ba}
	done := &closer{c: make(chan struct{})}
	return &Pipe{in: y, out: x, done: done}, &Pipe{in: x, out: y, done: done}
}

// Send implements transport.Pipe.
func (p *Pipe) Send(_ context.Context, frame []byte) error {
	select {
	case <-p.done.c:
		return p.done.err
	default:
	}
	h := p.out
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	if h.f.CutAt > 0 && h.n >= h.f.CutAt {
		p.done.close(ErrCut)
		return ErrCut
	}
	if h.f.Loss > 0 && h.f.Rand.Float64() < h.f.Loss {
		return nil
	}
	t := timed{b: append([]byte(nil), frame...)}
	if h.f.Delay > 0 {
		t.at = time.Now().Add(h.f.Delay)
	}
	h.frames = append(h.frames, t)
	if n := len(h.frames); n > 1 && h.f.Reorder > 0 && h.f.Rand.Float64() < h.f.Reorder {
		h.frames[n-1], h.frames[n-2] = h.frames[n-2], h.frames[n-1]
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return nil
}

// Recv implements transport.Pipe.
func (p *Pipe) Recv(ctx context.Context) ([]byte, error) {
	h := p.in
	for {
		h.mu.Lock()
		var wait time.Duration
		if len(h.frames) > 0 {
			t := h.frames[0]
			if wait = time.Until(t.at); t.at.IsZero() || wait <= 0 {
				h.frames = append(h.frames[:0], h.frames[1:]...)
				h.mu.Unlock()
				p.last = t.b
				return t.b, nil
			}
		}
		h.mu.Unlock()
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-h.wake:
		case <-timer:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.done.c:
			h.mu.Lock()
			empty := len(h.frames) == 0
			h.mu.Unlock()
			if empty || p.done.err == ErrCut {
				return nil, p.done.err
			}
		}
	}
}

// Close implements transport.Pipe. What was sent before can still be received.
func (p *Pipe) Close() error {
	p.done.close(errClosed)
	return nil
}
