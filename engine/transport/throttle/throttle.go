// Package throttle keeps what a provider sends and receives within the rates that its owner
// allows: token buckets shared by its links to peers and its requests to the host.
package throttle

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// Least is the lowest rate in bits per second. Below it, heartbeats and a stage's upload
// would no longer get through in time.
const Least = 0.5e6

// most is the highest: what lies above is no limit.
const most = 1e12

// Limit bounds both directions. A nil Limit bounds nothing. Its methods are safe for
// concurrent use.
type Limit struct {
	up, down *rate.Limiter // bytes; nil: unbounded
}

// New returns a limit of so many bits per second to and from this machine; 0 is no limit.
func New(up, down float64) (*Limit, error) {
	l := &Limit{}
	for _, d := range []struct {
		name string
		bps  float64
		to   **rate.Limiter
	}{{"up", up, &l.up}, {"down", down, &l.down}} {
		switch {
		case d.bps == 0:
		case !(d.bps >= Least && d.bps <= most):
			return nil, fmt.Errorf("a limit of %g Mbit/s %s: want %g or more, or 0 for none", d.bps/1e6, d.name, Least/1e6)
		default:
			// A quarter of a second, and at least a frame: what is saved up while idle.
			*d.to = rate.NewLimiter(rate.Limit(d.bps/8), max(int(d.bps/8/4), frame(wire.MaxFrame)))
		}
	}
	return l, nil
}

// Up is the limit of what is sent in bits per second; 0: none.
func (l *Limit) Up() float64 { return l.of(true) }

// Down is the limit of what is received in bits per second; 0: none.
func (l *Limit) Down() float64 { return l.of(false) }

func (l *Limit) of(up bool) float64 {
	b := l.bucket(up)
	if b == nil {
		return 0
	}
	return float64(b.Limit()) * 8
}

func (l *Limit) bucket(up bool) *rate.Limiter {
	switch {
	case l == nil:
		return nil
	case up:
		return l.up
	}
	return l.down
}

// frame is what a frame of n bytes takes on the network: it travels in packets of about
// 1200 bytes with headers of UDP, DTLS and SCTP.
func frame(n int) int { return n + n/12 + 64 }

// stream is the same for bytes of a TLS connection.
func stream(n int) int { return n + n/20 }

// wait takes n bytes from a bucket and returns when they may pass.
func (l *Limit) wait(ctx context.Context, up bool, n int) error {
	b := l.bucket(up)
	if b == nil {
		return nil
	}
	for n > 0 {
		m := min(n, b.Burst())
		if err := b.WaitN(ctx, m); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
		}
		n -= m
	}
	return nil
}

// Note counts a short message of n bytes that cannot wait, such as an answer to a
// heartbeat: what comes after it pays.
func (l *Limit) Note(up bool, n int) {
	b := l.bucket(up)
	if b == nil {
		return
	}
	for n = stream(n); n > 0; n -= b.Burst() {
		_ = b.ReserveN(time.Now(), min(n, b.Burst()))
	}
}

// Pipe bounds a pipe's frames. What waits to be received fills the peer's window, so that
// the peer sends no faster.
func (l *Limit) Pipe(p transport.Pipe) transport.Pipe {
	if l == nil || l.up == nil && l.down == nil {
		return p
	}
	return &pipe{Pipe: p, l: l}
}

type pipe struct {
	transport.Pipe
	l    *Limit
	owed int // bytes that the last frame took
}

func (p *pipe) Send(ctx context.Context, b []byte) error {
	if err := p.l.wait(ctx, true, frame(len(b))); err != nil {
		return err
	}
	return p.Pipe.Send(ctx, b)
}

func (p *pipe) Recv(ctx context.Context) ([]byte, error) {
	// The last frame is paid for before the next is taken, so that none is lost with ctx.
	if err := p.l.wait(ctx, false, p.owed); err != nil {
		return nil, err
	}
	p.owed = 0
	b, err := p.Pipe.Recv(ctx)
	if err == nil {
		p.owed = frame(len(b))
	}
	return b, err
}

// Sent bounds the body of a request, which is read as it is sent.
func (l *Limit) Sent(ctx context.Context, r io.Reader) io.Reader { return l.reader(ctx, r, true) }

// Received bounds the body of an answer.
func (l *Limit) Received(ctx context.Context, r io.ReadCloser) io.ReadCloser {
	if l.bucket(false) == nil {
		return r
	}
	return struct {
		io.Reader
		io.Closer
	}{l.reader(ctx, r, false), r}
}

func (l *Limit) reader(ctx context.Context, r io.Reader, up bool) io.Reader {
	if r == nil || l.bucket(up) == nil {
		return r
	}
	return &reader{ctx, r, l, up}
}

type reader struct {
	ctx context.Context
	r   io.Reader
	l   *Limit
	up  bool
}

// piece is what a reader takes at once, so that links get their turn.
const piece = 16 << 10

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b[:min(len(b), piece)])
	if n > 0 {
		if err := r.l.wait(r.ctx, r.up, stream(n)); err != nil {
			return 0, err
		}
	}
	return n, err
}

// RTT implements transport.Timed.
func (p *pipe) RTT() time.Duration {
	if t, ok := p.Pipe.(transport.Timed); ok {
		return t.RTT()
	}
	return 0
}

// Queued implements transport.Queued.
func (p *pipe) Queued() int {
	if q, ok := p.Pipe.(transport.Queued); ok {
		return q.Queued()
	}
	return 0
}
