package server

// A session's message rate.

import "time"

// bucket is a token bucket without a clock of its own.
type bucket struct {
	rate, burst float64 // tokens added per second, and the most that it holds
	have        float64
	last        time.Time
}

func newBucket(now time.Time, rate, burst float64) *bucket {
	return &bucket{rate: rate, burst: burst, have: burst, last: now}
}

// take removes cost tokens and reports whether there were as many.
func (b *bucket) take(now time.Time, cost float64) bool {
	if d := now.Sub(b.last); d > 0 {
		b.have = max(b.have, min(b.burst, b.have+d.Seconds()*b.rate)) // it may have been given more
		b.last = now
	}
	if b.have < cost {
		return false
	}
	b.have -= cost
	return true
}
