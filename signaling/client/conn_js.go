package client

// The browser's half of opening and dropping a WebSocket. A page learns nothing
// about why a WebSocket failed to open, and may close one with the codes 1000
// and 3000 to 4999 only (CloseNow's 1001 would throw).

import (
	"context"
	"errors"
	"fmt"

	"github.com/coder/websocket"
)

func dial(ctx context.Context, h *host) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(ctx, h.join(), nil)
	if err == nil {
		return ws, nil
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil, fmt.Errorf("join %s: %w", h.url, cause)
	}
	return nil, fmt.Errorf("%w at %s: %w: check host and port, and that `ravnest serve` runs there", ErrUnreachable, h.url, err)
}

// abort starts the closing. It does not wait for the browser, which may hold on
// to a dead connection for minutes: the goroutine ends when the browser lets go.
func abort(ws *websocket.Conn) {
	go func() { _ = ws.Close(websocket.StatusNormalClosure, "") }()
}
