package client

import (
	"context"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"golang.org/x/time/rate"
)

// The host ends a session that sends more than proto.Rate. How much a provider has to report
// depends on how fast it trains: a small model makes thousands of steps a second, and may be
// saved dozens of times.

// unit is the size of what a limiter, which has whole tokens, counts proto.Cost in.
const unit = 1 << 12

// newLimiter limits reports to a part of what the host takes, since messages may arrive in a
// bunch.
func newLimiter() *rate.Limiter {
	return rate.NewLimiter(proto.Rate*3/4*unit, proto.Burst/2*unit)
}

// pace waits with a report until it is within the rate: the next one holds more then. Other
// messages only count.
func (c *Conn) pace(ctx context.Context, m proto.Message, size int) error {
	r := c.limit.ReserveN(time.Now(), int(unit*proto.Cost(size)))
	if _, report := m.(*proto.Progress); !report || r.Delay() == 0 {
		return nil
	}
	t := time.NewTimer(r.Delay())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		return context.Cause(ctx)
	case <-c.gone:
		return c.err
	}
}
