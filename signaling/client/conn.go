//go:build !js

package client

// The native half of opening and dropping a WebSocket.

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/coder/websocket"
)

func dial(ctx context.Context, h *host) (*websocket.Conn, error) {
	ws, resp, err := websocket.Dial(ctx, h.join(), &websocket.DialOptions{HTTPClient: h.http})
	if err == nil {
		return ws, nil
	}
	if resp != nil && resp.StatusCode != 0 && resp.Body != nil {
		if pe := readError(resp.Body); pe != nil {
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

// abort drops the connection without a handshake.
func abort(ws *websocket.Conn) { _ = ws.CloseNow() }
