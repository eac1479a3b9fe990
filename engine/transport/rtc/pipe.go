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
	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/sctp"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	highWater = 1 << 20 // unacknowledged bytes at which Send waits
	lowWater  = 512 << 10
	// linger is how long Close waits for the peer to receive everything.
	linger = time.Second
)

// pipe implements transport.Pipe.
type pipe struct {
	e      *Endpoint
	agent  *ice.Agent
	secure *dtls.Conn
	mended *mended
	assoc  *sctp.Association
	d      *datachannel.DataChannel
	low    chan struct{} // signals that the queue has drained to the low mark
	buf    []byte
	theirs description
	near   bool // the peer is another process of this machine
	// What roam is told: that ICE has found a path, addresses of ours, and, by tests, to move.
	connected chan struct{}
	found     chan Signal
	uproot    chan struct{}

	wg    sync.WaitGroup // attend and roam
	ended chan struct{}  // closed when the association has ended

	// The context that Recv watches. It is registered once and not for every frame, so that
	// Recv does not allocate.
	ctx     context.Context
	unwatch func() bool
	fired   chan struct{}

	mu     sync.Mutex // serialises opening and ending the pipe
	gone   chan struct{}
	reason error

	down sync.Once
}

// open begins to use the data channel.
func (p *pipe) open(d *datachannel.DataChannel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.SetBufferedAmountLowThreshold(lowWater)
	d.OnBufferedAmountLow(func() {
		select {
		case p.low <- struct{}{}:
		default:
		}
	})
	p.d = d
	if p.reason != nil {
		p.interrupt()
	}
	p.wg.Go(p.attend)
}

// errClosing ends a pipe whose peer has closed the connection.
var errClosing = fmt.Errorf("%w: the connection closed", transport.ErrPeerGone)

// attend ends the pipe when the association ends, or when the peer opens other channels, which
// nobody would read.
func (p *pipe) attend() {
	defer close(p.ended)
	for {
		s, err := p.assoc.AcceptStream()
		if err != nil {
			p.end(errClosing)
			return
		}
		if s.StreamIdentifier() != Channel {
			p.end(fmt.Errorf("%w: the peer opened channel %d, want %d alone", wire.ErrProtocol, s.StreamIdentifier(), Channel))
		}
	}
}

// end ends the pipe. The first reason counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason != nil {
		return
	}
	p.reason = err
	close(p.gone)
	if p.d != nil {
		p.interrupt()
	}
}

// interrupt makes a waiting Recv return.
func (p *pipe) interrupt() { _ = p.d.SetReadDeadline(time.Unix(1, 0)) }

// over returns why the pipe has ended, or nil before that.
func (p *pipe) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// Send implements transport.Pipe. It waits while more than a mebibyte is in flight.
func (p *pipe) Send(ctx context.Context, frame []byte) error {
	if len(frame) == 0 || len(frame) > wire.MaxFrame {
		return fmt.Errorf("a frame has %d bytes, want 1..%d", len(frame), wire.MaxFrame)
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
	if _, err := p.d.Write(frame); err != nil {
		p.end(fmt.Errorf("%w: %w", transport.ErrPeerGone, err))
		return p.over()
	}
	return nil
}

// Recv implements transport.Pipe. The frame is valid until the next call.
func (p *pipe) Recv(ctx context.Context) ([]byte, error) {
	p.watch(ctx)
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	n, text, err := p.d.ReadDataChannel(p.buf)
	switch {
	case err == nil && !text && n <= wire.MaxFrame:
		return p.buf[:n], nil
	case err == nil || errors.Is(err, io.ErrShortBuffer):
		p.end(fmt.Errorf("%w: the peer sent a message that is not a frame (text %v, %d bytes)", wire.ErrProtocol, text, n))
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

// RTT implements transport.Timed, by the checks that ICE makes of the path.
func (p *pipe) RTT() time.Duration {
	st, ok := p.agent.GetSelectedCandidatePairStats()
	if !ok {
		return 0
	}
	s := st.CurrentRoundTripTime
	if st.ResponsesReceived > 0 {
		s = min(s, st.TotalRoundTripTime/float64(st.ResponsesReceived))
	}
	return time.Duration(s * float64(time.Second))
}

// Near implements transport.Near.
func (p *pipe) Near() bool { return p.near }

// Queued implements transport.Queued: bytes that the peer has not acknowledged count as well.
func (p *pipe) Queued() int { return int(p.d.BufferedAmount()) }

// watch interrupts Recv when ctx ends.
func (p *pipe) watch(ctx context.Context) {
	if ctx == p.ctx {
		return
	}
	if p.unwatch != nil && !p.unwatch() {
		<-p.fired // it is about to interrupt: wait for that and undo it
		_ = p.d.SetReadDeadline(time.Time{})
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

// Close implements transport.Pipe. Frames already sent have a second to arrive, then the peer
// is told. Close waits for the connection's goroutines.
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

// tearDown closes the connection's layers, from the top down.
func (p *pipe) tearDown() {
	p.down.Do(func() {
		p.end(transport.ErrClosed)
		if p.d != nil {
			_ = p.d.Close()
		}
		if p.assoc != nil {
			select {
			case <-p.ended: // nobody is left to be told
				_ = p.assoc.Close()
			default:
				p.assoc.Abort("")
			}
		}
		if p.secure != nil {
			_ = p.secure.Close()
		}
		_ = p.agent.GracefulClose()
		p.wg.Wait()
		p.e.forget(p)
	})
}
