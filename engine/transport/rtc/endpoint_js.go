package rtc

// The browser's side. Peer connections exist on the page's main thread only, which makes and
// describes them on request; their data channels are transferred to the worker that this runs
// in. Messages to the page are {op, id, ...}:
//
//	open    ice, offers: make a connection    signal  signal: a Signal of the other side
//	close   drop the connection               move    look for another path, if it is open
//
// and those from the page
//
//	channel channel: the RTCDataChannel, or an object like it
//	signal  signal: one of ours, to be sent
//	refuse  why: the browser does not accept the other side's signal
//	gone    why: the connection has ended

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall/js"

	"github.com/ravnest/ravnest/engine/transport"
)

// Endpoint holds the connections of one tab.
type Endpoint struct {
	cfg  Config
	page js.Value // has post(message), and calls handler with its answers
	hear js.Func

	mu     sync.Mutex
	conns  map[int]*connecting
	closed bool
}

// lastID is the number of the last connection. It is global because the page's half outlives
// endpoints.
var lastID atomic.Int64

// NewEndpoint takes over the page's end that the worker's shell offers as
// ravnest.peers.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	page := js.Global().Get("ravnest").Get("peers")
	if page.IsUndefined() {
		return nil, errors.New("this worker has no page, which peer connections need")
	}
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	e := &Endpoint{cfg: cfg, page: page, conns: map[int]*connecting{}}
	e.hear = js.FuncOf(func(_ js.Value, args []js.Value) any {
		e.take(args[0])
		return nil
	})
	page.Set("handler", e.hear)
	return e, nil
}

// Close closes the connections that are still open.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	var open []*pipe
	for _, c := range e.conns {
		open = append(open, c.pipe)
	}
	e.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range open {
		wg.Go(func() { _ = p.Close() })
	}
	wg.Wait()
	if e.page.Get("handler").Equal(e.hear.Value) { // otherwise another endpoint has taken over
		e.page.Set("handler", js.Null())
	}
	e.hear.Release()
	return nil
}

// post sends a message to the page.
func (e *Endpoint) post(op string, id int, more map[string]any) {
	m := map[string]any{"op": op, "id": id}
	for k, v := range more {
		m[k] = v
	}
	e.page.Call("post", m)
}

// take handles a message from the page. It runs in the browser's event loop and must not block.
func (e *Endpoint) take(m js.Value) {
	e.mu.Lock()
	c := e.conns[m.Get("id").Int()]
	e.mu.Unlock()
	if c == nil {
		return
	}
	switch m.Get("op").String() {
	case "channel":
		c.pipe.open(m.Get("channel"), func() { close(c.opened) })
	case "signal":
		s, err := ParseSignal([]byte(m.Get("signal").String()))
		if err != nil {
			c.cancel(fmt.Errorf("our browser's %w", err))
			return
		}
		select {
		case c.ours <- s:
		default: // the peer would ignore so many candidates anyway
		}
	case "refuse":
		c.cancel(fmt.Errorf("%w: the browser says %q", ErrSignal, m.Get("why").String()))
	case "gone":
		err := fmt.Errorf("%w: %s", transport.ErrPeerGone, m.Get("why").String())
		c.cancel(err)
		c.pipe.end(err)
	}
}

// Here returns the first signal that this side sends to a peer.
func (e *Endpoint) Here() json.RawMessage {
	b, err := json.Marshal(Here{Kind: Hello, Loopback: e.cfg.Loopback})
	if err != nil {
		panic(err) // strings
	}
	return b
}

// Connect makes a pipe to a peer. The peer's Here is ignored, since the browser chooses the
// addresses. One side offers, the other answers. send and recv carry their signals (each a
// Signal as JSON) through the host until the channel is open, and after that if an address
// changes. send is called by one goroutine at a time, and never after the pipe is closed. The
// pipe's Send is for one goroutine at a time, and so is Recv.
func (e *Endpoint) Connect(ctx context.Context, offers bool, _ json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &connecting{talk: newTalk(offers, send, cancel), e: e, ours: make(chan Signal, MaxCandidates)}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, fmt.Errorf("connecting: %w", transport.ErrClosed)
	}
	c.id = int(lastID.Add(1))
	c.pipe = newPipe(func() { e.drop(c.id) })
	e.conns[c.id] = c
	e.mu.Unlock()

	var ice []any
	for _, s := range e.cfg.ICE {
		var urls []any
		for _, u := range s.URLs {
			urls = append(urls, u)
		}
		ice = append(ice, map[string]any{"urls": urls, "username": s.Username, "credential": s.Credential})
	}
	e.post("open", c.id, map[string]any{"ice": ice, "offers": offers, "label": Label, "channel": Channel})
	// Sending the browser's signals may wait for the host; the event loop must not wait.
	var telling sync.WaitGroup
	telling.Go(func() {
		for {
			select {
			case s := <-c.ours:
				c.tell(s)
			case <-c.opened:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	err := c.listen(ctx, recv, c)
	if err != nil {
		cancel(err)
	}
	telling.Wait()
	c.quiet()
	if err != nil {
		_ = c.pipe.Close()
		err = context.Cause(ctx)
		if c.both() {
			err = fmt.Errorf("%w: %s", err, hint)
		}
		return nil, fmt.Errorf("connecting: %w", err)
	}
	c.pipe.wg.Go(func() { c.roam(send, recv) })
	return c.pipe, nil
}

// Moved is told that this machine may have another address: a browser does not tell its pages,
// but ends their connections to hosts.
func (e *Endpoint) Moved() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.conns {
		e.post("move", id, nil)
	}
}

// drop drops a connection.
func (e *Endpoint) drop(id int) {
	e.mu.Lock()
	delete(e.conns, id)
	e.mu.Unlock()
	e.post("close", id, nil)
}

// connecting is a connection being set up.
type connecting struct {
	*talk
	e    *Endpoint
	id   int
	pipe *pipe
	ours chan Signal // the browser's signals to be sent
	cert string      // the fingerprints of the peer's certificate
}

// roam carries signals while the connection is open: as on the native side (roam.go) an offer
// moves it to other addresses. What is malformed, of another peer or from before changes
// nothing, and the page ends a connection that finds no path.
func (c *connecting) roam(send func(json.RawMessage) error, recv <-chan json.RawMessage) {
	moved, heard := false, 0
	for {
		select {
		case <-c.pipe.gone:
			return
		case s := <-c.ours:
			if moved = moved || s.Kind != Candidate; !moved {
				continue // others are of no use any more
			}
			if b, err := json.Marshal(s); err == nil {
				_ = send(b)
			}
		case b, ok := <-recv:
			if !ok {
				recv = nil
				continue
			}
			s, err := ParseSignal(b)
			switch {
			case err != nil:
			case s.Kind != Candidate && fingerprints(s.SDP) == c.cert:
				heard = 0
				_ = c.remote(s)
			case s.Kind == Candidate && heard < MaxCandidates && c.check(s.Candidate) == nil:
				heard++
				_ = c.candidate(s)
			}
		}
	}
}

// fingerprints returns those lines of a description.
func fingerprints(sdp string) string {
	var all []string
	for l := range strings.Lines(sdp) {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "a=fingerprint:") {
			all = append(all, strings.ToLower(l))
		}
	}
	return strings.Join(all, " ")
}

func (c *connecting) hand(s Signal) error {
	m := map[string]any{"kind": string(s.Kind), "sdp": s.SDP, "candidate": s.Candidate, "mid": nil, "line": nil}
	if s.Mid != nil {
		m["mid"] = *s.Mid
	}
	if s.Line != nil {
		m["line"] = int(*s.Line)
	}
	c.e.post("signal", c.id, map[string]any{"signal": m})
	return nil
}

func (c *connecting) remote(s Signal) error {
	if strings.Count(s.SDP, "\nm=") != 1 || !strings.Contains(s.SDP, "\nm=application ") {
		return fmt.Errorf("%w: the %s must describe a data channel and nothing else", ErrSignal, s.Kind)
	}
	c.cert = fingerprints(s.SDP)
	return c.hand(s)
}

func (c *connecting) candidate(s Signal) error {
	if s.Candidate == "" {
		return nil
	}
	return c.hand(s)
}

// check leaves the details to the browser.
func (*connecting) check(s string) error {
	if s != "" && !strings.HasPrefix(s, "candidate:") {
		return fmt.Errorf("%w: a candidate that begins with %.16q", ErrSignal, s)
	}
	return nil
}
