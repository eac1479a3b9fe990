// Package client is a provider's side of signaling: it joins a host, exchanges
// the messages of package proto, answers heartbeats, fetches blobs, uploads
// trained stages and measures the bandwidth to the host. It compiles for native
// hosts and for js/wasm, where the browser's WebSocket and fetch are underneath.
//
// Errors say what to do next. Those that come from the host are *proto.Error
// inside: errors.Is(err, proto.ErrBadToken).
package client

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Errors beside those of the host.
var (
	// ErrAddress: not something that names a host.
	ErrAddress = errors.New("malformed host address")
	// ErrUnreachable: nothing, or something else, answers there.
	ErrUnreachable = errors.New("cannot reach the signaling host")
	// ErrLost: the host fell silent or the connection broke.
	ErrLost = errors.New("lost the signaling host")
	// ErrGoodbye: the host ended the session on purpose, such as after the run.
	// It is a kind of ErrLost.
	ErrGoodbye error = goodbye{}
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the connection to the signaling host is closed")
)

// goodbye is the type of ErrGoodbye.
type goodbye struct{}

func (goodbye) Error() string { return "the signaling host said goodbye" }

// Is makes it a kind of ErrLost.
func (goodbye) Is(target error) bool { return target == ErrLost }

// Options of Dial.
type Options struct {
	Token   string        // join token; it goes to the host in the hello and with every request
	Hello   proto.Hello   // who we are; its Token is set from the one above
	HTTP    *HTTP         // nil: the default client. Its Timeout should be 0
	Timeout time.Duration // for joining; 0: 10 s
	MaxBlob int64         // bytes of a blob that Blob takes; 0: 1 GiB
}

func (o *Options) fill() {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxBlob == 0 {
		o.MaxBlob = 1 << 30
	}
	o.Hello.Token = o.Token
}

// ParseURL reads a host's address as people give it: host:port, http:, https:,
// ws: or wss: URLs, with a path where a proxy has put the host below one. The result is an
// http or https URL whose path has no slash at its end.
func ParseURL(s string) (*url.URL, error) {
	example := "give it like http://192.0.2.1:8080"
	full := s
	if !strings.Contains(s, "://") {
		full = "http://" + s
	}
	u, err := url.Parse(full)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %s", ErrAddress, s, example)
	}
	switch u.Scheme {
	case "http", "https":
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("%w %q: the scheme %s is none of http, https, ws, wss: %s", ErrAddress, s, u.Scheme, example)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%w %q: it has no host name: %s", ErrAddress, s, example)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w %q: it has more than scheme, host, port and path: %s", ErrAddress, s, example)
	}
	u.Path, u.RawPath = strings.TrimRight(path.Clean("/"+u.Path), "/"), ""
	return u, nil
}

// Queue of received messages: what a host may send ahead of a provider that
// does not call Recv.
const (
	maxReceived      = 1024
	maxReceivedBytes = 16 << 20
)

// Conn is a session with a host. Its methods are safe for concurrent use.
type Conn struct {
	host    host
	ws      *socket
	welcome proto.Welcome
	silence time.Duration
	rtt     atomic.Int64

	cancel context.CancelFunc
	out    chan outgoing // to the writer
	gone   chan struct{} // reader and writer have ended; err is set

	mu      sync.Mutex
	queue   []proto.Message
	bytes   int
	sizes   []int
	wake    chan struct{} // a token while the queue may be non-empty
	closing bool
	last    *proto.Error // what the host said before it closed
	bye     string
	broken  error // of the writer
	err     error
}

// Dial joins the host: it connects, sends the hello and waits for the welcome.
// ctx bounds that only.
func Dial(ctx context.Context, addr string, opt Options) (*Conn, error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return nil, err
	}
	hello, err := proto.Encode(&opt.Hello)
	if err != nil {
		return nil, fmt.Errorf("signaling: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, opt.Timeout)
	defer stop()
	h := host{url: u, token: opt.Token, http: opt.HTTP, maxBlob: opt.MaxBlob}
	ws, err := dial(ctx, &h)
	if err != nil {
		return nil, err
	}
	welcome, err := join(ctx, ws, hello)
	if err != nil {
		ws.abort()
		if cause := ctx.Err(); cause != nil && errors.Is(err, cause) {
			return nil, fmt.Errorf("%w at %s: it accepted the connection and did not answer: %w", ErrUnreachable, u, cause)
		}
		return nil, fmt.Errorf("join %s: %w", u, err)
	}
	life, cancel := context.WithCancel(context.Background())
	c := &Conn{
		host: h, ws: ws, welcome: *welcome, cancel: cancel,
		silence: time.Duration(welcome.Timeout) * time.Millisecond,
		out:     make(chan outgoing), gone: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	c.host.session = welcome.Session
	go c.read(life)
	return c, nil
}

// join exchanges hello and welcome.
func join(ctx context.Context, ws *socket, hello []byte) (*proto.Welcome, error) {
	// A host that refuses at once may have closed before our hello is out; what
	// it said is still there to read.
	werr := ws.write(ctx, hello)
	b, err := ws.read(ctx)
	if err != nil {
		if werr != nil {
			err = werr
		}
		return nil, fmt.Errorf("%w: the host closed the connection: %w", ErrLost, err)
	}
	msg, err := proto.Decode(b)
	if err != nil {
		return nil, err
	}
	switch m := msg.(type) {
	case *proto.Welcome:
		return m, nil
	case *proto.Error:
		return nil, m
	}
	return nil, fmt.Errorf("the host answered with %s in place of a welcome: is it a ravnest host?", msg.Type())
}

// Welcome is what the host said on joining.
func (c *Conn) Welcome() proto.Welcome { return c.welcome }

// ID is how peers address this provider.
func (c *Conn) ID() string { return c.welcome.ID }

// Name is this provider's name, asked for or given.
func (c *Conn) Name() string { return c.welcome.Name }

// RTT is the round trip to the host that the last heartbeat measured; 0 before
// the second.
func (c *Conn) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// outgoing is a message on its way to the writer.
type outgoing struct {
	b    []byte
	done chan error // buffered: nobody has to wait for it
}

// write sends messages until the session ends. A context that ends during a write would
// take the connection with it, so writes are bound to the session's life alone.
func (c *Conn) write(life context.Context) {
	for {
		select {
		case o := <-c.out:
			// A host that takes nothing for as long as it may be silent is as good as gone.
			ctx, cancel := context.WithTimeout(life, max(c.silence, time.Second))
			err := c.ws.write(ctx, o.b)
			cancel()
			o.done <- err
			if err != nil {
				c.mu.Lock()
				if c.broken == nil && life.Err() == nil {
					c.broken = err
				}
				c.mu.Unlock()
				// The host's last words, if there are any, have a moment to be read.
				time.AfterFunc(lastWords, c.cancel)
				return
			}
		case <-life.Done():
			return
		}
	}
}

// lastWords is how long the reader goes on where the writer can not.
const lastWords = time.Second

// put hands a message to the writer and waits until it is written. When ctx ends first,
// the message may still go out, whole; the session goes on.
func (c *Conn) put(ctx context.Context, b []byte) error {
	o := outgoing{b, make(chan error, 1)}
	select {
	case c.out <- o:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.gone:
		return c.err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.gone:
		return c.err
	}
}

// Send sends a message. When ctx ends first, Send returns its cause, the message may still
// go out, and the session goes on.
func (c *Conn) Send(ctx context.Context, m proto.Message) error {
	b, err := proto.Encode(m)
	if err != nil {
		return fmt.Errorf("signaling: %w", err)
	}
	select {
	case <-c.gone:
		return c.err
	default:
	}
	err = c.put(ctx, b)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("signaling: send %s: %w", m.Type(), context.Cause(ctx))
	}
	// The reader learns the reason.
	<-c.gone
	return c.err
}

// Recv returns the host's next message. Heartbeats are answered beneath it and
// never returned. Once the connection has ended and all messages are taken, it
// returns the reason: a *proto.Error or bye of the host, ErrLost or ErrClosed.
func (c *Conn) Recv(ctx context.Context) (proto.Message, error) {
	for {
		if m := c.take(); m != nil {
			return m, nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.gone:
			if m := c.take(); m != nil {
				return m, nil
			}
			return nil, c.err
		}
	}
}

func (c *Conn) take() proto.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil
	}
	m := c.queue[0]
	c.bytes -= c.sizes[0]
	c.queue, c.sizes = c.queue[1:], c.sizes[1:]
	if len(c.queue) > 0 {
		c.poke() // for another caller of Recv
	}
	return m
}

func (c *Conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// read takes messages in until the connection ends.
func (c *Conn) read(ctx context.Context) {
	// The host pings every heartbeat; a silence of its timeout is its death.
	var silent atomic.Bool
	dog := time.AfterFunc(c.silence, func() {
		silent.Store(true)
		c.cancel()
	})
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write(ctx)
	}()
	err := c.readAll(ctx, dog)
	dog.Stop()
	c.cancel()
	c.ws.abort()
	<-written
	c.mu.Lock()
	if c.broken != nil {
		err = c.broken
	}
	switch {
	case c.closing:
		c.err = ErrClosed
	case c.last != nil:
		c.err = c.last
	case c.bye != "":
		c.err = fmt.Errorf("%w: %s", ErrGoodbye, c.bye)
	case silent.Load():
		c.err = fmt.Errorf("%w: nothing heard for %v: check the network and that the host still runs, then join again", ErrLost, c.silence)
	default:
		c.err = fmt.Errorf("%w: %w: check that the host still runs, then join again", ErrLost, err)
	}
	c.mu.Unlock()
	close(c.gone)
}

func (c *Conn) readAll(ctx context.Context, dog *time.Timer) error {
	for {
		b, err := c.ws.read(ctx)
		if err != nil {
			return err
		}
		dog.Reset(c.silence)
		m, err := proto.Decode(b)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *proto.Ping:
			c.rtt.Store(m.RTT)
			pong, err := proto.Encode(&proto.Pong{Seq: m.Seq})
			if err != nil {
				return err
			}
			o := outgoing{pong, make(chan error, 1)}
			select {
			case c.out <- o:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case *proto.Error:
			c.mu.Lock()
			c.last = m
			c.mu.Unlock()
		case *proto.Bye:
			c.mu.Lock()
			c.bye = m.Reason
			if c.bye == "" {
				c.bye = "without a reason"
			}
			c.mu.Unlock()
		}
		c.mu.Lock()
		if len(c.queue) >= maxReceived || c.bytes+len(b) > maxReceivedBytes {
			c.mu.Unlock()
			return errors.New("the host sends more messages than this provider takes")
		}
		c.queue, c.sizes = append(c.queue, m), append(c.sizes, len(b))
		c.bytes += len(b)
		c.mu.Unlock()
		c.poke()
	}
}

// Close says bye with a reason, waits a moment for the host to hang up, and
// ends the session. It returns when nothing of the connection is left.
func (c *Conn) Close(reason string) {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	if b, err := proto.Encode(&proto.Bye{Reason: reason}); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if c.put(ctx, b) == nil {
			select {
			case <-c.gone:
			case <-ctx.Done():
			}
		}
		cancel()
	}
	c.cancel()
	<-c.gone
}

// Done is closed when the session has ended; Recv then says why.
func (c *Conn) Done() <-chan struct{} { return c.gone }
