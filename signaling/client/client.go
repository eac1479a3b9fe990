// Package client is a provider's side of signaling: it joins a host, exchanges
// the messages of package proto, answers heartbeats, fetches blobs, uploads
// trained stages and measures the bandwidth to the host. On js/wasm it uses the browser's
// WebSocket and fetch.
//
// Errors say what to do next. Those sent by the host wrap *proto.Error:
// errors.Is(err, proto.ErrBadToken).
package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/window"
	"golang.org/x/time/rate"
)

// Errors other than the host's.
var (
	// ErrAddress: the address is malformed.
	ErrAddress = errors.New("malformed host address")
	// ErrUnreachable: no host answers at the address.
	ErrUnreachable = errors.New("cannot reach the signaling host")
	// ErrLost: the host fell silent or the connection broke.
	ErrLost = errors.New("lost the signaling host")
	// ErrGoodbye: the host ended the session on purpose, for example after the run.
	// errors.Is reports that it is an ErrLost too.
	ErrGoodbye error = goodbye{}
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the connection to the signaling host is closed")
)

// goodbye is the type of ErrGoodbye.
type goodbye struct{}

func (goodbye) Error() string { return "the signaling host said goodbye" }

// Is reports that ErrGoodbye is an ErrLost.
func (goodbye) Is(target error) bool { return target == ErrLost }

// Options of Dial.
type Options struct {
	Token   string        // join token; it goes to the host in the hello and with every request
	Hello   proto.Hello   // who we are; its Token is set to Token
	HTTP    *HTTP         // its Timeout should be 0; nil: the default client
	Timeout time.Duration // for joining; 0: 10 s
	MaxBlob int64         // size limit of blobs in bytes; 0: 1 GiB
	// Identity proves who this provider is; nil: it has none.
	Identity Identity
	// Limit bounds what is sent to the host and received from it; nil: nothing does.
	Limit *throttle.Limit

	// Between, unless nil, is called now and then while a large upload is hashed.
	Between func()

	// Away is told that a connection has ended and another one is sought for the session,
	// Back that it has been found, and after how long. nil: nobody.
	Away func(why error)
	Back func(after time.Duration)
	// Others returns the addresses of the job's other hosts. If this one cannot be reached, one
	// of them may lead by now, and the session is over. nil: there are none.
	Others func() []string
}

// Identity is a provider's Ed25519 key.
type Identity interface {
	// Key returns the public key in lower-case hex.
	Key() string
	// Sign returns the signature of a message.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

func (o *Options) fill() {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxBlob == 0 {
		o.MaxBlob = 1 << 30
	}
	o.Hello.Token = o.Token
	if o.Identity != nil {
		o.Hello.Key = o.Identity.Key()
	}
}

func (o *Options) host(u *url.URL) host {
	return host{url: u, token: o.Token, http: staying(paced(o.HTTP, o.Limit)), maxBlob: o.MaxBlob, limit: o.Limit, identity: o.Identity}
}

// ParseURL parses a host's address: host:port, or an http, https, ws or wss URL, which may
// have a path if the host is behind a proxy. The result is an http or https URL whose path
// does not end in a slash.
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
		return nil, fmt.Errorf("%w %q: the scheme %s is not one of http, https, ws and wss: %s", ErrAddress, s, u.Scheme, example)
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

// Limits on received messages that wait for Recv.
const (
	maxReceived      = 1024
	maxReceivedBytes = 16 << 20
)

// What the host has not acknowledged, with what waits to be sent: beyond it, Send waits.
const (
	maxKept      = 256
	maxKeptBytes = 2 << 20
)

// Conn is a session with a host. It outlives its connections: see session.go. Its methods
// are safe for concurrent use.
type Conn struct {
	host    host
	opt     Options
	welcome proto.Welcome
	limit   *rate.Limiter // of what is sent, in parts of a message: see pace
	silence atomic.Int64  // that counts as the host's death, in nanoseconds
	keep    time.Duration // how long the session outlives its connection
	rtt     atomic.Int64

	cancel context.CancelFunc
	gone   chan struct{} // nothing of the session runs any more; err is set

	mu      sync.Mutex
	out     window.Out
	in      window.In
	kick    chan struct{} // a token while there may be something to write
	moved   chan struct{} // closed, and made anew, when something was written or acknowledged
	queue   []proto.Message
	bytes   int
	sizes   []int
	wake    chan struct{} // holds a token while the queue may be non-empty
	closing bool
	last    *proto.Error // the host's error before it closed
	bye     string
	err     error
}

// Dial joins the host: it connects, sends the hello and waits for the welcome. The end of
// ctx after that has no effect.
func Dial(ctx context.Context, addr string, opt Options) (*Conn, error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return nil, err
	}
	opt.Hello.Address = u.String()
	hello, err := proto.Encode(&opt.Hello)
	if err != nil {
		return nil, fmt.Errorf("signaling: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, opt.Timeout)
	defer stop()
	h := opt.host(u)
	ws, welcome, err := enter(ctx, &h, hello)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	c := &Conn{
		host: h, opt: opt, welcome: *welcome, cancel: cancel, limit: newLimiter(),
		keep: time.Duration(welcome.Keep) * time.Millisecond,
		gone: make(chan struct{}), kick: make(chan struct{}, 1), moved: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	c.hears(welcome.Timeout)
	c.host.session = welcome.Session
	go c.serve(life, ws)
	return c, nil
}

// enter makes a connection and exchanges hello and welcome over it.
func enter(ctx context.Context, h *host, hello []byte) (*socket, *proto.Welcome, error) {
	ws, msg, err := greet(ctx, h, hello)
	if err != nil {
		return nil, nil, err
	}
	if w, ok := msg.(*proto.Welcome); ok {
		return ws, w, nil
	}
	ws.abort()
	return nil, nil, fmt.Errorf("join %s: the host answered with %s instead of a welcome: is it a ravnest host?", h.url, msg.Type())
}

// greet makes a connection, says hello and returns the host's answer that is no error.
func greet(ctx context.Context, h *host, hello []byte) (*socket, proto.Message, error) {
	ws, err := dial(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	msg, err := join(ctx, ws, h.identity, hello)
	if err != nil {
		ws.abort()
		if cause := ctx.Err(); cause != nil && errors.Is(err, cause) {
			return nil, nil, fmt.Errorf("%w at %s: it accepted the connection but did not answer: %w", ErrUnreachable, h.url, cause)
		}
		return nil, nil, fmt.Errorf("join %s: %w", h.url, err)
	}
	return ws, msg, nil
}

// join says hello, proves our key if the host asks for that, and returns the answer.
func join(ctx context.Context, ws *socket, id Identity, hello []byte) (proto.Message, error) {
	// A host that refuses at once may have closed before our hello is sent; its answer can
	// still be read.
	werr := ws.write(ctx, hello)
	for proved := false; ; proved = true {
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
		case *proto.Error:
			return nil, m
		case *proto.Challenge:
			if id == nil || proved {
				return nil, errors.New("the host asks for a proof out of turn")
			}
			sig, err := id.Sign(ctx, proto.Proven(m.Nonce, hello))
			if err != nil {
				return nil, fmt.Errorf("proving this provider's key: %w", err)
			}
			p, err := proto.Encode(&proto.Proof{Signature: hex.EncodeToString(sig)})
			if err != nil {
				return nil, err
			}
			werr = ws.write(ctx, p)
		default:
			return msg, nil
		}
	}
}

// AskPass asks the host for a pass: who is allowed or brings an invitation gets a token of its
// own, with which it can do what the join token allows. The error is the host's *proto.Error
// if it gives none.
func AskPass(ctx context.Context, addr string, opt Options) (string, error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return "", err
	}
	opt.Hello.Pass, opt.Hello.Address = true, u.String()
	hello, err := proto.Encode(&opt.Hello)
	if err != nil {
		return "", fmt.Errorf("signaling: %w", err)
	}
	ctx, stop := context.WithTimeout(ctx, opt.Timeout)
	defer stop()
	h := opt.host(u)
	ws, msg, err := greet(ctx, &h, hello)
	if err != nil {
		return "", err
	}
	ws.abort()
	if p, ok := msg.(*proto.Pass); ok {
		return p.Token, nil
	}
	return "", fmt.Errorf("the host at %s answered with %s instead of a pass: is it a ravnest host?", u, msg.Type())
}

// Welcome returns the host's welcome.
func (c *Conn) Welcome() proto.Welcome { return c.welcome }

// ID returns the ID by which peers address this provider.
func (c *Conn) ID() string { return c.welcome.ID }

// Name returns this provider's name, the one asked for or one given by the host.
func (c *Conn) Name() string { return c.welcome.Name }

// RTT returns the round-trip time to the host measured by the last heartbeat; 0 before the
// second.
func (c *Conn) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// Send sends a message: it waits until it is written. Over a session that outlives its
// connections the message then comes, whatever happens to them, unless the session ends. When
// ctx ends first, Send returns its cause, the message may still go out, and the session
// goes on.
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
	err = c.pace(ctx, m, len(b))
	if err == nil {
		err = c.put(ctx, b)
	}
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("signaling: send %s: %w", m.Type(), err)
		}
		return err
	}
	return nil
}

// Recv returns the host's next message. Heartbeats are answered internally and never
// returned. Once the connection has ended and all messages have been returned, Recv returns
// the reason: the host's *proto.Error, ErrGoodbye, ErrLost or ErrClosed.
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

// Close says bye with a reason, waits a moment for the host to hang up, and
// ends the session. It returns when all of the session's goroutines have ended.
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

// Done returns a channel that is closed when the session has ended. Recv then says why.
func (c *Conn) Done() <-chan struct{} { return c.gone }
