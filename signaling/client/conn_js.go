package client

// The browser's half uses the browser's own WebSocket and fetch. net/http would work, but
// would be two thirds of what a tab has to download.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall/js"
	"time"

	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/proto"
)

// HTTP knows the requests under way. A browser does not end those whose network has gone: they
// wait for minutes.
type HTTP struct {
	mu    sync.Mutex
	under map[int]context.CancelFunc
	last  int
}

// begin notes a request until done is called.
func (c *HTTP) begin(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	n := c.last
	c.under[n] = cancel
	return ctx, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.under, n)
	}
}

// cut ends the requests under way, which are made again: the connection to the host had to be
// made anew, so theirs may be dead.
func (h *host) cut() {
	h.http.mu.Lock()
	defer h.http.mu.Unlock()
	for _, cancel := range h.http.under {
		cancel()
	}
}

// maxAnswer is how many bytes of a blob are requested at once: an answer takes its size twice
// in memory.
const maxAnswer = 4 << 20

// most is the same within a limit: an answer comes as fast as the network brings it.
func (h *host) most() int64 {
	if l := h.limit.Down(); l > 0 {
		return min(maxAnswer, max(int64(l/8/4), 64<<10))
	}
	return maxAnswer
}

// paced has nothing to choose in a browser.
func paced(c *HTTP, _ *throttle.Limit) *HTTP { return c }

// staying leaves to the browser what happens to idle connections when an address changes.
func staying(*HTTP) *HTTP { return &HTTP{under: map[int]context.CancelFunc{}} }

var uint8Array = js.Global().Get("Uint8Array")

// socket is an open WebSocket. Its event handlers run in the browser's event loop and must
// not block.
type socket struct {
	ws     js.Value
	on     []js.Func
	opened chan struct{}
	came   chan struct{} // holds a token while messages may be waiting
	gone   chan struct{}

	mu      sync.Mutex
	waiting [][]byte
	bytes   int
	err     error
	drop    sync.Once
}

// maxWaiting bounds the bytes of messages that have arrived but were not read.
const maxWaiting = 2 * maxReceivedBytes

func dial(ctx context.Context, h *host) (*socket, error) {
	s := &socket{opened: make(chan struct{}), came: make(chan struct{}, 1), gone: make(chan struct{})}
	s.ws = js.Global().Get("WebSocket").New(h.join())
	s.hook("onopen", func(js.Value) { close(s.opened) })
	s.hook("onmessage", func(ev js.Value) { s.take(ev.Get("data")) })
	s.hook("onclose", func(ev js.Value) {
		s.end(fmt.Errorf("the connection was closed (code %d) %s", ev.Get("code").Int(), ev.Get("reason").String()))
	})
	select {
	case <-s.opened:
		return s, nil
	case <-s.gone:
	case <-ctx.Done():
	}
	s.abort()
	if cause := ctx.Err(); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, fmt.Errorf("join %s: %w", h.url, cause)
	}
	// A page is not told why a WebSocket failed to open.
	return nil, fmt.Errorf("%w at %s: check the network, and that the host still runs", ErrUnreachable, h.url)
}

func (s *socket) hook(event string, f func(ev js.Value)) {
	fn := js.FuncOf(func(_ js.Value, args []js.Value) any {
		f(args[0])
		return nil
	})
	s.on = append(s.on, fn)
	s.ws.Set(event, fn)
}

func (s *socket) take(data js.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []byte
	if data.Type() == js.TypeString {
		b = []byte(data.String())
	}
	if len(b) == 0 || len(b) > proto.MaxMessage || s.bytes+len(b) > maxWaiting {
		s.ended(errors.New("the host sent a message that is not text, or too many"))
		return
	}
	s.waiting = append(s.waiting, b)
	s.bytes += len(b)
	select {
	case s.came <- struct{}{}:
	default:
	}
}

func (s *socket) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended(err)
}

func (s *socket) ended(err error) {
	if s.err == nil {
		s.err = err
		close(s.gone)
	}
}

func (s *socket) next() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return nil, s.err
	}
	b := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.bytes -= len(b)
	return b, nil
}

func (s *socket) read(ctx context.Context) ([]byte, error) {
	for {
		if b, err := s.next(); b != nil || err != nil {
			return b, err
		}
		select {
		case <-s.came:
		case <-s.gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *socket) write(_ context.Context, b []byte) error {
	select {
	case <-s.gone:
		return s.err
	default:
	}
	const open = 1
	if s.ws.Get("readyState").Int() != open {
		return nil // closing: the event that ends the connection comes, and the message is kept until acknowledged
	}
	s.ws.Call("send", string(b)) // into the browser's queue
	return nil
}

// abort begins to close the connection. It does not wait for the browser, which may keep a
// dead connection for minutes.
func (s *socket) abort() {
	s.drop.Do(func() {
		for _, event := range []string{"onopen", "onmessage", "onclose"} {
			s.ws.Set(event, js.Null())
		}
		for _, f := range s.on {
			f.Release()
		}
		s.ws.Call("close")
		s.end(ErrClosed)
	})
}

const (
	// patient is how long an answer may take to begin, beside the time in which the slowest
	// network sends the request, before the request is made again: a browser may send one over a
	// connection of its own that was cut off long ago.
	patient = 10 * time.Second
	slowest = 8 << 10 // bytes per second
)

// send makes a request; a body has size bytes.
func (h *host) send(ctx context.Context, method, url string, header map[string]string, body io.Reader, size int) (*answer, error) {
	ctx, done := h.http.begin(ctx)
	defer done()
	late := time.AfterFunc(patient+time.Duration(size)*time.Second/slowest, done)
	defer late.Stop()
	abort := js.Global().Get("AbortController").New()
	init := map[string]any{"method": method, "credentials": "omit", "signal": abort.Get("signal"), "headers": map[string]any{}}
	for k, v := range header {
		init["headers"].(map[string]any)[k] = v
	}
	if body != nil {
		data := uint8Array.New(size)
		block := make([]byte, min(size, 1<<20))
		for at := 0; at < size; {
			n, err := io.ReadFull(body, block[:min(len(block), size-at)])
			if err != nil {
				return nil, err
			}
			js.CopyBytesToJS(data.Call("subarray", at), block[:n])
			at += n
		}
		init["body"] = data
	}
	defer context.AfterFunc(ctx, func() { abort.Call("abort") })()
	resp, err := await(js.Global().Call("fetch", url, init))
	if err != nil {
		return nil, err
	}
	late.Stop()
	buf, err := await(resp.Call("arrayBuffer"))
	if err != nil {
		return nil, err
	}
	b := make([]byte, buf.Get("byteLength").Int())
	js.CopyBytesToGo(b, uint8Array.New(buf))
	status := resp.Get("status").Int()
	after := ""
	if v := resp.Get("headers").Call("get", "Retry-After"); v.Type() == js.TypeString {
		after = v.String()
	}
	return &answer{status, fmt.Sprint(status, " ", resp.Get("statusText").String()), int64(len(b)), after, io.NopCloser(bytes.NewReader(b))}, nil
}

// await waits for a promise.
func await(promise js.Value) (v js.Value, err error) {
	done := make(chan struct{})
	ok := js.FuncOf(func(_ js.Value, args []js.Value) any {
		v = args[0]
		close(done)
		return nil
	})
	defer ok.Release()
	bad := js.FuncOf(func(_ js.Value, args []js.Value) any {
		err = errors.New(args[0].Call("toString").String())
		close(done)
		return nil
	})
	defer bad.Release()
	promise.Call("then", ok, bad)
	<-done
	return v, err
}
