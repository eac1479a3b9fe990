//go:build !js

// An open data channel as a pipe of frames.

package rtc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/webrtc/v4"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	highWater = 1 << 20 // bytes sent and not acknowledged at which Send waits
	lowWater  = 512 << 10
	// linger is how long Close waits for the peer to have everything.
	linger = time.Second
)

// pipe implements transport.Pipe.
type pipe struct {
	e   *Endpoint
	pc  *webrtc.PeerConnection
	d   *webrtc.DataChannel
	raw datachannel.ReadWriteCloserDeadliner
	low chan struct{} // the queue has drained to the low mark
	buf []byte

	// The context that Recv watches: registering it once, and not for every frame,
	// keeps Recv free of allocations.
	ctx     context.Context
	unwatch func() bool
	fired   chan struct{}

	mu     sync.Mutex // guards the end of the pipe against its opening
	gone   chan struct{}
	reason error

	down sync.Once
}

func (p *pipe) open(d *webrtc.DataChannel, raw datachannel.ReadWriteCloserDeadliner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.SetBufferedAmountLowThreshold(lowWater)
	d.OnBufferedAmountLow(func() {
		select {
		case p.low <- struct{}{}:
		default:
		}
	})
	p.d, p.raw = d, raw
	if p.reason != nil {
		p.interrupt()
	}
}

// end marks the pipe as over; the first reason counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason != nil {
		return
	}
	p.reason = err
	close(p.gone)
	if p.raw != nil {
		p.interrupt()
	}
}

// interrupt makes a waiting Recv return.
func (p *pipe) interrupt() { _ = p.raw.SetReadDeadline(time.Unix(1, 0)) }

// over is the reason of the end, nil before it.
func (p *pipe) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// Send implements transport.Pipe: it waits while more than a mebibyte is on its way.
func (p *pipe) Send(ctx context.Context, frame []byte) error {
	if len(frame) == 0 || len(frame) > wire.MaxFrame {
		return fmt.Errorf("a frame of %d bytes, want 1..%d", len(frame), wire.MaxFrame)
	}
	for {
		if err := p.over(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if p.d.BufferedAmount() <= highWater {
			break
		}
		select {
		case <-p.low:
		case <-ctx.Done():
		case <-p.gone:
		}
	}
	if _, err := p.raw.Write(frame); err != nil {
		p.end(fmt.Errorf("%w: %w", transport.ErrPeerGone, err))
		return p.over()
	}
	return nil
}

// Recv implements transport.Pipe: the frame is valid until the next call.
func (p *pipe) Recv(ctx context.Context) ([]byte, error) {
	p.watch(ctx)
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	n, text, err := p.raw.ReadDataChannel(p.buf)
	switch {
	case err == nil && !text && n <= wire.MaxFrame:
		return p.buf[:n], nil
	case err == nil || errors.Is(err, io.ErrShortBuffer):
		p.end(fmt.Errorf("%w: the peer sent a message that is no frame (text %v, %d bytes)", wire.ErrProtocol, text, n))
		return nil, p.over()
	}
	if over := p.over(); over != nil {
		return nil, over
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.end(fmt.Errorf("%w: the channel has ended: %w", transport.ErrPeerGone, err))
	return nil, p.over()
}

// watch interrupts Recv when ctx ends.
func (p *pipe) watch(ctx context.Context) {
	if ctx == p.ctx {
		return
	}
	if p.unwatch != nil && !p.unwatch() {
		<-p.fired // it is about to interrupt: let it, then undo it
		_ = p.raw.SetReadDeadline(time.Time{})
		if p.over() != nil {
			p.interrupt()
		}
	}
	p.ctx = ctx
	fired := make(chan struct{})
	p.fired = fired
	p.unwatch = context.AfterFunc(ctx, func() {
		p.interrupt()
		close(fired)
	})
}

// Close implements transport.Pipe: what was sent has a second to arrive, then the peer
// is told. It waits for everything that the connection runs.
func (p *pipe) Close() error {
	late := time.NewTimer(linger)
	defer late.Stop()
	p.d.SetBufferedAmountLowThreshold(0)
	for p.over() == nil && p.d.BufferedAmount() > 0 {
		select {
		case <-p.low:
			continue
		case <-p.gone:
		case <-late.C:
		}
		break
	}
	p.end(transport.ErrClosed)
	p.tearDown()
	return nil
}

// tearDown takes apart what there is, from the top down.
func (p *pipe) tearDown() {
	p.down.Do(func() {
		p.end(transport.ErrClosed)
		if p.raw != nil {
			_ = p.raw.Close()
		}
		_ = p.pc.GracefulClose()
		p.e.forget(p)
	})
}
