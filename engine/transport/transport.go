// Package transport moves whole messages between two stages over a pipe of frames: an
// ordered, reliable channel such as a WebRTC data channel. A Link cuts messages into
// frames, keeps the receiver from being flooded by credits, and says why it ended.
package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ravnest/ravnest/engine/wire"
)

// Errors that end a link.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the link is closed")
	// ErrPeerGone is wrapped when the other side has left or can no longer be reached.
	ErrPeerGone = errors.New("the peer is gone")
)

// Pipe is an ordered, reliable channel of frames.
type Pipe interface {
	// Send sends a frame of at most wire.MaxFrame bytes and is done with it on return.
	// It blocks while too much is queued.
	Send(ctx context.Context, frame []byte) error
	// Recv returns the next frame, valid until the next call.
	Recv(ctx context.Context) ([]byte, error)
	// Close ends the pipe and makes Send and Recv return.
	Close() error
}

// Options of a link. Zero fields take the defaults.
type Options struct {
	Credit      int // bytes that the peer may have under way to us; 8 MiB
	MaxTransfer int // bytes of a message; wire.MaxTransfer
}

// Stats are running totals.
type Stats struct {
	SentPayload, ReceivedPayload int64 // of messages
	SentBytes, ReceivedBytes     int64 // of frames
	Sent, Received               int64 // messages
}

// Link carries messages over a pipe.
type Link struct {
	pipe   Pipe
	opt    Options
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	sendMu sync.Mutex // one message after the other
	id     uint32
	frame  []byte
	head   []byte

	pipeMu sync.Mutex // frames of both kinds share the pipe

	mu     sync.Mutex
	credit int // bytes that we may still send
	more   chan struct{}
	queue  []*wire.Message
	ready  chan struct{}
	asm    wire.Assembler
	held   int // bytes received and not yet released
	owed   int // bytes released and not yet granted again

	sp, rp, sb, rb, sn, rn atomic.Int64
}

// NewLink takes over the pipe.
func NewLink(p Pipe, opt Options) *Link {
	if opt.Credit <= 0 {
		opt.Credit = 8 << 20
	}
	if opt.MaxTransfer <= 0 {
		opt.MaxTransfer = wire.MaxTransfer
	}
	l := &Link{
		pipe: p, opt: opt, credit: opt.Credit, more: make(chan struct{}, 1), ready: make(chan struct{}, 1),
		frame: make([]byte, 0, wire.MaxFrame), asm: wire.Assembler{Max: opt.MaxTransfer},
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.wg.Go(l.read)
	return l
}

// Stats of the link so far.
func (l *Link) Stats() Stats {
	return Stats{l.sp.Load(), l.rp.Load(), l.sb.Load(), l.rb.Load(), l.sn.Load(), l.rn.Load()}
}

// end closes the link with a reason; the first one counts.
func (l *Link) end(err error) {
	l.cancel(err)
	_ = l.pipe.Close()
}

// cause is why the link has ended.
func (l *Link) cause() error { return context.Cause(l.ctx) }

// notify wakes a waiter; a token that is already there is enough.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push sends one frame.
func (l *Link) push(ctx context.Context, f *wire.Frame, buf []byte) ([]byte, error) {
	l.pipeMu.Lock()
	defer l.pipeMu.Unlock()
	buf = f.Append(buf[:0])
	if err := l.pipe.Send(ctx, buf); err != nil {
		return buf, err
	}
	l.sb.Add(int64(len(buf)))
	return buf, nil
}

// Send sends a message; Bytes and Sum of the header are set here. The payload is free
// again on return. If ctx ends in the middle the message is cancelled and the link
// lives on.
func (l *Link) Send(ctx context.Context, h wire.Header, payload []byte) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	total := wire.MessageHeader + len(payload)
	if total > l.opt.MaxTransfer {
		return fmt.Errorf("a message of %d bytes is over the limit of %d", total, l.opt.MaxTransfer)
	}
	if err := l.reserve(ctx, total); err != nil {
		return err
	}
	h.Seal(payload)
	l.head = h.Append(l.head[:0])
	l.id++
	n, at := wire.Chunks(total), 0
	const body = wire.MaxFrame - wire.FrameHeader
	for i := range n {
		f := wire.Frame{Type: wire.Data, ID: l.id, Index: uint32(i), Count: uint32(n), Total: uint32(total)}
		if i == 0 {
			at = min(len(payload), body-len(l.head))
			f.Body = append(l.frame[wire.FrameHeader:wire.FrameHeader], l.head...)
			f.Body = append(f.Body, payload[:at]...)
		} else {
			k := min(len(payload)-at, body)
			f.Body, at = payload[at:at+k], at+k
		}
		var err error
		if l.frame, err = l.push(ctx, &f, l.frame); err != nil {
			if l.ctx.Err() != nil {
				return l.cause()
			}
			if ctx.Err() != nil {
				if i > 0 {
					_, cerr := l.push(l.ctx, &wire.Frame{Type: wire.Cancel, ID: l.id}, nil)
					err = errors.Join(err, cerr)
				}
				return err
			}
			l.end(fmt.Errorf("%w: %w", ErrPeerGone, err))
			return l.cause()
		}
	}
	l.sp.Add(int64(len(payload)))
	l.sn.Add(1)
	return nil
}

// reserve waits until the receiver has room. A message larger than the whole credit
// may go when nothing else is under way.
func (l *Link) reserve(ctx context.Context, n int) error {
	for {
		if l.ctx.Err() != nil {
			return l.cause()
		}
		l.mu.Lock()
		ok := l.credit >= n || l.credit == l.opt.Credit
		if ok {
			l.credit -= n
		}
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-l.more:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.ctx.Done():
		}
	}
}

// read takes frames from the pipe until the link ends.
func (l *Link) read() {
	for {
		b, err := l.pipe.Recv(l.ctx)
		if err != nil {
			l.end(fmt.Errorf("%w: %w", ErrPeerGone, err))
			return
		}
		l.rb.Add(int64(len(b)))
		f, err := wire.ParseFrame(b)
		if err == nil {
			err = l.take(f)
		}
		if err != nil {
			l.end(err)
			return
		}
	}
}

func (l *Link) take(f wire.Frame) error {
	switch f.Type {
	case wire.Bye:
		return fmt.Errorf("%w: it said goodbye: %.256q", ErrPeerGone, f.Body)
	case wire.Credit:
		l.mu.Lock()
		l.credit += int(f.Total)
		over := l.credit > l.opt.Credit
		l.mu.Unlock()
		if over {
			return fmt.Errorf("%w: more credit than was used", wire.ErrProtocol)
		}
		notify(l.more)
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.asm.Add(f)
	if m == nil || err != nil {
		return err
	}
	if l.held > 0 && l.held+m.Size > l.opt.Credit {
		return fmt.Errorf("%w: the peer sends more than its credit of %d bytes", wire.ErrProtocol, l.opt.Credit)
	}
	l.held += m.Size
	l.queue = append(l.queue, m)
	l.rn.Add(1)
	l.rp.Add(int64(len(m.Payload)))
	notify(l.ready)
	return nil
}

// Message is a received message. Release gives its buffer and its credit back.
type Message struct {
	*wire.Message
	l *Link
}

// Recv returns the next message. Messages that have arrived are still handed out
// after the link has ended.
func (l *Link) Recv(ctx context.Context) (Message, error) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			m := l.queue[0]
			l.queue = append(l.queue[:0], l.queue[1:]...)
			if len(l.queue) > 0 {
				notify(l.ready)
			}
			l.mu.Unlock()
			return Message{m, l}, nil
		}
		l.mu.Unlock()
		select {
		case <-l.ready:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		case <-l.ctx.Done():
			l.mu.Lock()
			empty := len(l.queue) == 0
			l.mu.Unlock()
			if empty {
				return Message{}, l.cause()
			}
		}
	}
}

// Release must be called once for each message.
func (m Message) Release() {
	l := m.l
	l.mu.Lock()
	l.held -= m.Size
	l.owed += m.Size
	l.asm.Recycle(m.Message)
	grant := 0
	if l.owed >= l.opt.Credit/4 {
		grant, l.owed = l.owed, 0
	}
	l.mu.Unlock()
	if grant > 0 {
		_, err := l.push(l.ctx, &wire.Frame{Type: wire.Credit, Total: uint32(grant)}, nil)
		if err != nil && l.ctx.Err() == nil {
			l.end(fmt.Errorf("%w: %w", ErrPeerGone, err))
		}
	}
}

// Close says goodbye and ends the link; it waits for the link's goroutine.
func (l *Link) Close() error {
	if l.ctx.Err() == nil {
		_, _ = l.push(l.ctx, &wire.Frame{Type: wire.Bye, Body: []byte("closed")}, nil)
	}
	l.end(ErrClosed)
	l.wg.Wait()
	return nil
}
