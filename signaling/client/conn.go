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
