//go:build !js

package client

// The native half: WebSockets by coder/websocket, requests by net/http.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/proto"
)

// HTTP is what requests are made with.
type HTTP = http.Client

// most is how much of a blob is asked for at once: it streams.
func (*host) most() int64 { return math.MaxInt64 }

// paced is what a client with a limit makes requests with: the system buffers no more of an
// answer ahead than the limit lets through in a quarter of a second.
func paced(c *HTTP, l *throttle.Limit) *HTTP {
	if c != nil || l.Down() == 0 {
		return c
	}
	ahead := max(int(l.Down()/8/4), 32<<10)
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ForceAttemptHTTP2 = false
	d := net.Dialer{Timeout: 30 * time.Second}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(ahead)
		}
		return c, err
	}
	return &http.Client{Transport: t}
}

// lookout is how often a connection looks whether its own address is still there.
const lookout = 500 * time.Millisecond

// roaming is staying(nil), for all hosts.
var roaming = sync.OnceValue(func() *HTTP { return watchful(http.DefaultTransport.(*http.Transport), http.Client{}) })

// staying returns a client like c whose connections end when this machine loses their address.
// The system would not tell for minutes.
func staying(c *HTTP) *HTTP {
	if c == nil {
		return roaming()
	}
	switch t := c.Transport.(type) {
	case nil:
		return watchful(http.DefaultTransport.(*http.Transport), *c)
	case *http.Transport:
		return watchful(t, *c)
	}
	return c
}

// watchful returns a client with a transport like t whose connections watch their addresses.
func watchful(t *http.Transport, c http.Client) *HTTP {
	t = t.Clone()
	t.IdleConnTimeout = time.Second // requests come in bursts: between them there is nothing to watch
	dial := t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		k := &kept{Conn: c, closed: make(chan struct{}), addresses: net.InterfaceAddrs}
		go k.watch()
		return k, nil
	}
	c.Transport = t
	return &c
}

// kept is a connection that closes itself when its own address has gone.
type kept struct {
	net.Conn
	once      sync.Once
	closed    chan struct{}
	addresses func() ([]net.Addr, error) // of this machine
}

// Close implements net.Conn.
func (k *kept) Close() error {
	k.once.Do(func() { close(k.closed) })
	return k.Conn.Close()
}

// watch closes the connection when its address has gone, and ends when it is closed.
func (k *kept) watch() {
	own, ok := k.LocalAddr().(*net.TCPAddr)
	if !ok || own.IP.IsLoopback() {
		return
	}
	tick := time.NewTicker(lookout)
	defer tick.Stop()
	for {
		select {
		case <-k.closed:
			return
		case <-tick.C:
		}
		as, err := k.addresses()
		if err != nil || slices.ContainsFunc(as, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(own.IP)
		}) {
			continue
		}
		_ = k.Close()
	}
}

// cut has nothing to do: connections whose address has gone have ended themselves.
func (*host) cut() {}

// socket is an open WebSocket.
type socket struct{ ws *websocket.Conn }

func dial(ctx context.Context, h *host) (*socket, error) {
	ws, resp, err := websocket.Dial(ctx, h.join(), &websocket.DialOptions{HTTPClient: h.http})
	if err == nil {
		ws.SetReadLimit(proto.MaxMessage)
		return &socket{ws}, nil
	}
	if resp != nil && resp.StatusCode != 0 && resp.Body != nil {
		pe := readError(resp.Body)
		if resp.StatusCode == http.StatusTooManyRequests {
			return nil, fmt.Errorf("join %s: %w", h.url, &OftenError{retryAfter(resp.Header.Get("Retry-After")), pe})
		}
		if pe != nil {
			return nil, fmt.Errorf("join %s: %w", h.url, pe)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("%w at %s: something else answers there (HTTP status %s): check host and port", ErrUnreachable, h.url, resp.Status)
		}
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, fmt.Errorf("join %s: %w", h.url, cause)
	}
	return nil, fmt.Errorf("%w at %s: %w: check host and port, and that `ravnest serve` runs there", ErrUnreachable, h.url, err)
}

func (s *socket) read(ctx context.Context) ([]byte, error) {
	_, b, err := s.ws.Read(ctx)
	return b, err
}

func (s *socket) write(ctx context.Context, b []byte) error {
	return s.ws.Write(ctx, websocket.MessageText, b)
}

// abort drops the connection without a handshake.
func (s *socket) abort() { _ = s.ws.CloseNow() }

// send makes a request; a body has size bytes.
func (h *host) send(ctx context.Context, method, url string, header map[string]string, body io.Reader, size int) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(size)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := h.http
	if c == nil {
		c = http.DefaultClient
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	return &answer{resp.StatusCode, resp.Status, resp.ContentLength, resp.Header.Get("Retry-After"), resp.Body}, nil
}
