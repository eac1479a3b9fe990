// Package mem is a pipe within one process, with a network's faults for tests: delay, limited
// bandwidth, loss, reordering, and breaking. It reads the clock only for a delay or a rate, and
// uses no random source but the one it is given.
package mem

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrCut is returned after the pipe broke.
var ErrCut = errors.New("the connection was cut")

// errClosed is returned by a closed pipe.
var errClosed = errors.New("the pipe is closed")

// highWater is the default number of bytes in flight at which Send waits.
const highWater = 1 << 20

// Faults of one direction. The zero value is a perfect pipe.
type Faults struct {
	Delay   time.Duration // of every frame
	Rate    int           // bytes a second; 0: no limit
	Loss    float64       // probability that a frame vanishes
	DropAt  int           // number of a frame that vanishes, from 1; 0: none
	Reorder float64       // probability that a frame overtakes the one before it
	CutAt   int           // number of the frame at which the pipe breaks, from 1; 0: never
	Queue   int           // bytes in flight at which Send waits; 0: 1 MiB
	Unread  int           // of which so many lie at a peer that has not read them, and are not queued any more
	Rand    *rand.Rand    // required with Loss or Reorder; used by Send only
}

// half is one direction.
type half struct {
	f    Faults
	mu   sync.Mutex
	q    []timed
	free [][]byte
	size int       // bytes in q
	n    int       // frames sent
	out  time.Time // when the last frame has passed a link of limited rate
	wake chan struct{}
	room chan struct{}
}

type timed struct {
	b  []byte
	at time.Time // of arrival; zero: at once
}

// Pipe is one end; it implements transport.Pipe.
type Pipe struct {
	in, out *half
	done    *closer
	last    []byte // the frame that Recv returned
}

// closer closes both ends at once, with a reason.
type closer struct {
	once sync.Once
	c    chan struct{}
	err  error
}

func (c *closer) close(err error) { c.once.Do(func() { c.err = err; close(c.c) }) }

// over returns why the pipe has ended, or nil before that.
func (c *closer) over() error {
	select {
	case <-c.c:
		return c.err
	default:
		return nil
	}
}

// Pair returns the two ends of a pipe. ab are the faults from a to b, ba those from b to a.
func Pair(ab, ba Faults) (a, b *Pipe) {
	x, y := newHalf(ab), newHalf(ba)
	done := &closer{c: make(chan struct{})}
	return &Pipe{in: y, out: x, done: done}, &Pipe{in: x, out: y, done: done}
}

func newHalf(f Faults) *half {
	if f.Queue <= 0 {
		f.Queue = highWater
	}
	return &half{f: f, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Send implements transport.Pipe.
func (p *Pipe) Send(ctx context.Context, frame []byte) error {
	h := p.out
	for {
		if err := p.done.over(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h.mu.Lock()
		if h.size == 0 || h.size+len(frame) <= h.f.Queue {
			break
		}
		h.mu.Unlock()
		select {
		case <-h.room:
		case <-ctx.Done():
		case <-p.done.c:
		}
	}
	defer h.mu.Unlock()
	h.n++
	if h.f.CutAt > 0 && h.n >= h.f.CutAt {
		p.done.close(ErrCut)
		return ErrCut
	}
	if h.n == h.f.DropAt || h.f.Loss > 0 && h.f.Rand.Float64() < h.f.Loss {
		return nil
	}
	var t timed
	if k := len(h.free); k > 0 {
		t.b, h.free = h.free[k-1], h.free[:k-1]
	}
	t.b = append(t.b[:0], frame...)
	if h.f.Delay > 0 || h.f.Rate > 0 {
		now := time.Now()
		if h.out.Before(now) {
			h.out = now
		}
		if h.f.Rate > 0 {
			h.out = h.out.Add(time.Duration(float64(len(frame)) / float64(h.f.Rate) * float64(time.Second)))
		}
		t.at = h.out.Add(h.f.Delay)
	}
	h.q = append(h.q, t)
	h.size += len(frame)
	if n := len(h.q); n > 1 && h.f.Reorder > 0 && h.f.Rand.Float64() < h.f.Reorder {
		h.q[n-1].b, h.q[n-2].b = h.q[n-2].b, h.q[n-1].b
	}
	notify(h.wake)
	return nil
}

// Recv implements transport.Pipe. Frames sent before the pipe ended still arrive.
func (p *Pipe) Recv(ctx context.Context) ([]byte, error) {
	h := p.in
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		over := p.done.over()
		var wait time.Duration
		h.mu.Lock()
		if p.last != nil {
			h.free = append(h.free, p.last)
			p.last = nil
		}
		if len(h.q) > 0 {
			t := h.q[0]
			if !t.at.IsZero() {
				wait = time.Until(t.at)
			}
			if wait <= 0 {
				h.q = append(h.q[:0], h.q[1:]...)
				h.size -= len(t.b)
				p.last = t.b
				h.mu.Unlock()
				notify(h.room)
				return t.b, nil
			}
		}
		h.mu.Unlock()
		if wait <= 0 && over != nil {
			return nil, over
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			continue
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
		case <-p.done.c:
		}
	}
}

// Queued implements transport.Queued.
func (p *Pipe) Queued() int {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return max(0, p.out.size-p.out.f.Unread)
}

// Close implements transport.Pipe.
func (p *Pipe) Close() error {
	p.done.close(errClosed)
	return nil
}
