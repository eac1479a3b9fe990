package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TestPace: reports of a provider that always has something to say, beside other messages, stay
// well below what the host takes; other messages do not wait.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Conn{limit: newLimiter(), gone: make(chan struct{})}
		sent := 0.0
		say := func(m proto.Message, size int) {
			if err := c.pace(t.Context(), m, size); err != nil {
				t.Fatal(err)
			}
			sent += proto.Cost(size)
		}
		begin := time.Now()
		for time.Since(begin) < time.Minute {
			say(&proto.Progress{}, 12_000)
			now := time.Now()
			say(&proto.Saved{}, 260)
			if time.Since(now) > 0 {
				t.Fatal("a message that is no report waits")
			}
		}
		most := time.Since(begin).Seconds()*proto.Rate*3/4 + proto.Burst/2
		if sent > most+proto.Cost(12_000)+2 || sent < most/1.1 {
			t.Errorf("%.0f sent, want at most %.0f and nearly that", sent, most)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, why)
		defer cancel()
		if err := c.pace(ctx, &proto.Progress{}, proto.MaxMessage); !errors.Is(err, why) {
			t.Errorf("a context that ends: %v", err)
		}
		c.err = ErrLost
		close(c.gone)
		if err := c.pace(t.Context(), &proto.Progress{}, proto.MaxMessage); !errors.Is(err, ErrLost) {
			t.Errorf("a session that ends: %v", err)
		}
	})
}
