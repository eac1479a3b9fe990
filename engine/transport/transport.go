// Package transport carries messages between two stages over a pipe of frames: an ordered,
// reliable channel such as a WebRTC data channel. A Link splits messages into frames, uses
// credits so that the receiver is not flooded, and reports why it ended.
package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/wire"
)

// Errors that end a link. Violations of the protocol are wire.ErrProtocol.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the link is closed")
	// ErrPeerGone is wrapped when the other side has left or can no longer be reached.
	ErrPeerGone = errors.New("the peer is gone")
)

// Pipe is an ordered, reliable channel of frames. Send is for one goroutine at a time,
// and so is Recv; Close is for any.
type Pipe interface {
	// Send sends a frame of at most wire.MaxFrame bytes and does not keep it after
	// returning. It blocks while too much is queued. If it fails because of ctx, no part
	// of the frame was sent.
	Send(ctx context.Context, frame []byte) error
	// Recv returns the next frame, valid until the next call. After the pipe has ended on
	// either side, it still returns the frames that have arrived, and then fails.
	Recv(ctx context.Context) ([]byte, error)
	// Close ends the pipe and makes Send and Recv return. Frames sent before have a
	// bounded time to arrive.
	Close() error
}

// Timed is a pipe that measures how long a packet takes to the peer and back.
type Timed interface {
	// RTT is the round trip, without what either side takes to handle a message; 0: not known.
	RTT() time.Duration
}

// Queued is a pipe that knows how many of the bytes that it was given still wait to be sent.
type Queued interface {
	Queued() int
}

// Near is a pipe that may know that its peer is on this machine, where a byte costs less than what
// makes it fewer.
type Near interface {
	Near() bool
}

// Options of a link. Zero fields take the defaults. The two sides need not agree.
type Options struct {
	// Credit is the window: how many bytes sent by the peer may be waiting to be released.
	// Default: 8 MiB; at least wire.FirstWindow.
	Credit int
	// MaxTransfer is the size limit of messages from the peer, including the header.
	// Default: wire.MaxTransfer, which it cannot exceed.
	MaxTransfer int
	// Generation is in every frame, and both sides have the same. What a link of an older one has
	// left in the pipe is dropped.
	Generation uint32
	// Aside, if set, takes messages of kind wire.Copy in place of Recv. It is called from the
	// link's own goroutine, must not wait, and may use the payload until it returns.
	Aside func(h wire.Header, payload []byte)
}

// DefaultCredit is the default window in bytes: some tens of milliseconds of a fast link.
const DefaultCredit = 8 << 20

// farewell bounds the attempt to tell the peer why a link ends.
const farewell = 250 * time.Millisecond

// Stats are totals since the link was made.
type Stats struct {
	SentPayload, ReceivedPayload int64 // of messages
	SentBytes, ReceivedBytes     int64 // of frames
	Sent, Received               int64 // messages
}

// Link carries messages over a pipe, in order. Any number of goroutines may call its methods;
// concurrent senders or receivers are served one after the other.
type Link struct {
	pipe   Pipe
	aside  func(h wire.Header, payload []byte)
	gen    uint32
	ctx    context.Context // ends with the link; its cause says why
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	sending chan struct{} // held by the goroutine that is sending a message
	id      uint32        // of the last message
	head    []byte

	writing chan struct{} // held by the goroutine that is using the pipe
	number  uint16        // of the next frame to be sent
	frame   []byte

	mu    sync.Mutex
	ended bool
	freed bool // the pipe is no longer ours
	out   wire.Window
	in    *wire.Assembler
	queue []*wire.Message // complete messages, oldest first
	room  chan struct{}   // holds a token if the window may have room
	ready chan struct{}   // holds a token if the queue may have messages

	sp, rp, sb, rb, sn, rn atomic.Int64
}

// NewLink returns a link over the pipe, which it takes over.
func NewLink(p Pipe, opt Options) *Link {
	if opt.Credit <= 0 {
		opt.Credit = DefaultCredit
	}
	if opt.MaxTransfer <= 0 {
		opt.MaxTransfer = wire.MaxTransfer
	}
	l := &Link{
		pipe: p, aside: opt.Aside, gen: opt.Generation, in: wire.NewAssembler(opt.Credit, opt.MaxTransfer), room: make(chan struct{}, 1), ready: make(chan struct{}, 1),
		sending: make(chan struct{}, 1), writing: make(chan struct{}, 1), frame: make([]byte, 0, wire.MaxFrame),
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.writing <- struct{}{} // held until the hello is sent, which must be the first frame
	l.wg.Go(l.read)
	return l
}

// Stats returns the link's totals so far.
func (l *Link) Stats() Stats {
	return Stats{l.sp.Load(), l.rp.Load(), l.sb.Load(), l.rb.Load(), l.sn.Load(), l.rn.Load()}
}

// RTT is the round trip of the pipe, if it is Timed; 0: not known.
func (l *Link) RTT() time.Duration {
	if t, ok := l.pipe.(Timed); ok {
		return t.RTT()
	}
	return 0
}

// Near reports whether the pipe is Near and says so.
func (l *Link) Near() bool {
	n, ok := l.pipe.(Near)
	return ok && n.Near()
}

// Done returns a channel that is closed when the link has ended. Err then says why.
func (l *Link) Done() <-chan struct{} { return l.ctx.Done() }

// Err returns why the link has ended, or nil before that: ErrClosed, or an error that wraps
// ErrPeerGone or wire.ErrProtocol.
func (l *Link) Err() error { return context.Cause(l.ctx) }

// notify leaves a token for a waiter, unless there is one already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// acquire takes a lock that respects contexts.
func (l *Link) acquire(ctx context.Context, lock chan struct{}) error {
	select {
	case lock <- struct{}{}:
		return nil
	default:
	}
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.ctx.Done():
		return l.Err()
	}
}

// end ends the link. The first reason counts; if tell is set, the peer is told.
func (l *Link) end(err error, tell bool) {
	l.mu.Lock()
	first, freed := !l.ended, l.freed
	l.ended = true
	l.mu.Unlock()
	if first {
		if tell {
			l.bye(err)
		}
		l.cancel(err)
	}
	<-l.ctx.Done()
	if !freed {
		_ = l.pipe.Close()
	}
}

// Free ends the link at once and returns its pipe for one of a later generation; nil if the link
// had ended before. The peer is told nothing. Messages that are under way, in either direction,
// are lost. It waits for those that are just sending a frame.
func (l *Link) Free() Pipe {
	l.mu.Lock()
	freed := !l.ended
	l.ended, l.freed = true, l.freed || freed
	l.mu.Unlock()
	if !freed {
		return nil
	}
	l.cancel(ErrClosed)
	l.wg.Wait()
	l.writing <- struct{}{} // for ever
	return l.pipe
}

// bye tells the peer why the link ends, if that is possible soon.
func (l *Link) bye(err error) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	select {
	case l.writing <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-l.writing }()
	reason := err.Error()
	_ = l.put(ctx, wire.Frame{Type: wire.Bye, Body: []byte(reason[:min(len(reason), wire.MaxReason)])})
}

// put sends a frame. The caller holds writing.
func (l *Link) put(ctx context.Context, f wire.Frame) error {
	f.Number, f.Generation = l.number, l.gen
	l.frame = f.Append(l.frame[:0])
	return l.flush(ctx)
}

// flush sends l.frame. The caller holds writing.
func (l *Link) flush(ctx context.Context) error {
	if err := l.pipe.Send(ctx, l.frame); err != nil {
		return err
	}
	l.number++
	l.sb.Add(int64(len(l.frame)))
	return nil
}

// write sends a frame that is not part of a message's data.
func (l *Link) write(f wire.Frame) {
	if l.acquire(l.ctx, l.writing) != nil {
		return // ended
	}
	err := l.put(l.ctx, f)
	<-l.writing
	if err != nil {
		l.broken()
	}
}

// broken is called when the pipe does not accept a frame. The link ends after the reader has
// read what had arrived, since that often says why.
func (l *Link) broken() {
	if l.ctx.Err() == nil {
		_ = l.pipe.Close()
	}
}

// Send sends a message. It sets Bytes and Sum of the header, and does not keep the payload
// after returning. If ctx ends first, the message is cancelled, Send returns the cause, and
// the link stays usable.
func (l *Link) Send(ctx context.Context, h wire.Header, payload []byte) error {
	total := wire.MessageHeader + len(payload)
	if err := l.acquire(ctx, l.sending); err != nil {
		return err
	}
	sent, err := l.send(ctx, h, payload, total)
	if err == nil {
		l.sp.Add(int64(len(payload)))
		l.sn.Add(1)
		<-l.sending
		return nil
	}
	if l.ctx.Err() != nil {
		<-l.sending
		return l.Err()
	}
	if ctx.Err() == nil { // the pipe or the message is at fault
		<-l.sending
		if sent >= 0 {
			l.broken()
			<-l.ctx.Done()
			return l.Err()
		}
		return err
	}
	if sent <= 0 { // nothing was sent
		<-l.sending
		return context.Cause(ctx)
	}
	// The peer has received a part of the message. It is told of the cancellation before
	// anything else is sent, but the caller need not wait for that.
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		<-l.sending
		return context.Cause(ctx)
	}
	id := l.id
	l.wg.Go(func() {
		l.write(wire.Frame{Type: wire.Cancel, ID: id})
		<-l.sending
	})
	return context.Cause(ctx)
}

// send sends the frames of a message and returns how many; -1 means that it did not begin.
func (l *Link) send(ctx context.Context, h wire.Header, payload []byte, total int) (sent int, err error) {
	if err := l.reserve(ctx, total); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			l.mu.Lock()
			l.out.Return(total)
			l.mu.Unlock()
		}
	}()
	h.Seal(payload)
	l.head = h.Append(l.head[:0])
	l.id++
	for i := range wire.Chunks(total) {
		if err := l.acquire(ctx, l.writing); err != nil {
			return i, err
		}
		l.frame = wire.Frame{Number: l.number, Generation: l.gen, ID: l.id}.AppendChunk(l.frame[:0], i, l.head, payload)
		err := l.flush(ctx)
		<-l.writing
		if err != nil {
			return i, err
		}
	}
	return 0, nil
}

// reserve waits until the receiver has room. The caller holds sending.
func (l *Link) reserve(ctx context.Context, total int) error {
	for {
		if l.ctx.Err() != nil {
			return l.Err()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.mu.Lock()
		most, ok := l.out.Max(), false
		if total <= most {
			ok = l.out.Take(total)
		}
		l.mu.Unlock()
		if total > most {
			return fmt.Errorf("a message has %d bytes, but the peer takes at most %d", total, most)
		}
		if ok {
			return nil
		}
		select {
		case <-l.room:
		case <-ctx.Done():
		case <-l.ctx.Done():
		}
	}
}

// read sends hello and receives frames from the pipe until the link ends.
func (l *Link) read() {
	err := l.put(l.ctx, l.in.Hello())
	<-l.writing
	if err != nil {
		l.broken()
	}
	first := true
	for n := uint16(0); ; {
		b, err := l.pipe.Recv(l.ctx)
		if err != nil {
			if !errors.Is(err, ErrPeerGone) && !errors.Is(err, wire.ErrProtocol) {
				err = fmt.Errorf("%w: %w", ErrPeerGone, err)
			}
			l.end(err, false)
			return
		}
		f, err := wire.ParseFrame(b)
		if err == nil && first && f.Generation < l.gen {
			continue // left behind by an earlier link
		}
		l.rb.Add(int64(len(b)))
		if err == nil && f.Generation != l.gen {
			err = fmt.Errorf("%w: received a frame of generation %d in generation %d", wire.ErrProtocol, f.Generation, l.gen)
		}
		if err == nil && f.Number != n {
			err = fmt.Errorf("%w: received frame %d instead of %d: the pipe loses or reorders frames", wire.ErrProtocol, f.Number, n)
		}
		if err == nil && (f.Type == wire.Hello) != first {
			err = fmt.Errorf("%w: unexpected %s frame: hello must come first, and only once", wire.ErrProtocol, f.Type)
		}
		first = false
		n++
		if err == nil {
			err = l.handle(f)
		}
		if err != nil {
			l.end(err, errors.Is(err, wire.ErrProtocol))
			return
		}
	}
}

// handle handles a received frame.
func (l *Link) handle(f wire.Frame) error {
	if f.Type == wire.Bye {
		return fmt.Errorf("%w: it said %.300q", ErrPeerGone, f.Body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f.Type {
	case wire.Hello:
		notify(l.room)
		return l.out.Hello(f)
	case wire.Credit:
		notify(l.room)
		return l.out.Credit(f)
	}
	m, err := l.in.Add(f)
	if m == nil || err != nil {
		return err
	}
	l.rn.Add(1)
	l.rp.Add(int64(len(m.Payload)))
	if l.aside != nil && m.Header.Kind == wire.Copy {
		l.aside(m.Header, m.Payload)
		if f, due := l.in.Release(m); due && !l.ended {
			l.wg.Go(func() { l.write(f) }) // the reader must not wait for the pipe
		}
		return nil
	}
	l.queue = append(l.queue, m)
	notify(l.ready)
	return nil
}

// Message is a received message. Its payload is valid until Release, which returns the buffer
// and the credit and must be called once.
type Message struct {
	*wire.Message
	l *Link
}

// Recv returns the next message. After the link has ended, it still returns the messages that
// have arrived.
func (l *Link) Recv(ctx context.Context) (Message, error) {
	for {
		ended := l.ctx.Err() != nil // checked before the queue, so that messages from before the end are returned
		l.mu.Lock()
		if len(l.queue) > 0 {
			m := l.queue[0]
			l.queue = append(l.queue[:0], l.queue[1:]...)
			if len(l.queue) > 0 {
				notify(l.ready) // for another receiver
			}
			l.mu.Unlock()
			return Message{m, l}, nil
		}
		l.mu.Unlock()
		if ended {
			return Message{}, l.Err()
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		case <-l.ctx.Done():
		}
	}
}

// Release releases the message. Sometimes that sends a frame with credit, which may block on
// the pipe.
func (m Message) Release() {
	l := m.l
	l.mu.Lock()
	f, due := l.in.Release(m.Message)
	l.mu.Unlock()
	if due {
		l.write(f)
	}
}

// Close says goodbye, ends the link and the pipe, and waits for the link's goroutines. It may
// be called more than once.
func (l *Link) Close() error { return l.CloseFor(ErrClosed) }

// CloseFor is Close with a reason. The peer is sent its first wire.MaxReason bytes, and it
// becomes the link's error.
func (l *Link) CloseFor(reason error) error {
	l.end(reason, true)
	l.wg.Wait()
	return nil
}
