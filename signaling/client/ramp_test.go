package client

import (
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// The link's bandwidth is measured with any clock and at any speed, by requests that proxies
// accept and in bounded time.
func TestRamp(t *testing.T) {
	for _, resolution := range []time.Duration{time.Nanosecond, time.Microsecond, 20 * time.Microsecond, time.Millisecond, 16667 * time.Microsecond, 100 * time.Millisecond} {
		for _, rate := range []float64{1e6, 20e6, 100e6, 1e9, 4e9} { // bits a second
			for _, rtt := range []time.Duration{100 * time.Microsecond, 40 * time.Millisecond, 300 * time.Millisecond} {
				at := time.Unix(1e9, 0)
				now := func() time.Time {
					at = at.Add(max(100*time.Nanosecond, resolution/1000))
					return at.Truncate(resolution)
				}
				begin, sent := at, 0
				got, err := ramp(now, rtt, func(n int) error {
					if n > proto.MaxChunk {
						t.Fatalf("a request of %d bytes", n)
					}
					sent += n
					at = at.Add(rtt + time.Duration(float64(n)*8/rate*1e9))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				// Probes are bounded in size, so a rate cannot be measured exactly if they take
				// less than a tick of the clock or a round trip.
				low, high := rate/3, rate*1.5
				if rtt > time.Millisecond {
					low = min(low, 1.6e10/1e3/float64(rtt.Milliseconds()))
				}
				if got < low || got > high {
					t.Errorf("clock of %v, %.0f Mbit/s, %v away: measured %.1f Mbit/s", resolution, rate/1e6, rtt, got/1e6)
				}
				if d := at.Sub(begin); d > 8*time.Second || sent > 200<<20 {
					t.Errorf("clock of %v, %.0f Mbit/s, %v away: %v and %d bytes", resolution, rate/1e6, rtt, d, sent)
				}
			}
		}
	}
}
