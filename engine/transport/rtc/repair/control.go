package repair

// How much may be in flight.

import "time"

const (
	// first is the window at the beginning (RFC 6928).
	first = 14600
	// Ceiling is the largest window in bytes.
	Ceiling = 16 << 20
	// rounds is for how many round trips the highest rate counts, of those in which the window
	// was what limited it.
	rounds = 10
	// slack is the time for which bytes may queue beside those that the path itself holds: a
	// busy machine acknowledges late.
	slack = 5 * time.Millisecond
	// fresh is how long the shortest round trip counts. Then the window shrinks for a moment,
	// so that a queue of our own making does not pass for distance.
	fresh = 5 * time.Second
)

// control chooses the window. It knows the path by two figures: the highest rate at which bytes
// arrived lately, and the shortest round trip.
type control struct {
	mtu int

	minRTT    time.Duration
	minAt     time.Duration
	probing   time.Duration // the window is small until then; 0: it is not
	probedRTT time.Duration

	delivered           int64
	deliveredAt, oldest time.Duration // of the last delivery: when, and when it was sent
	full                time.Duration // when the window was last used up
	rates               [rounds]float64
	round               int
	roundEnd            int64 // the round ends when what is sent from here on is delivered
	steady              bool
	peak                float64 // the rate by which startup is measured
	flat                int     // rounds without growth

	// Losses of the round, and what they allow.
	lostBytes, sentBytes int
	limit                int
}

func newControl(mtu int) control {
	return control{mtu: mtu, limit: Ceiling}
}

// rate returns the highest rate of late, in bytes per second.
func (c *control) rate() float64 {
	var r float64
	for _, v := range c.rates {
		r = max(r, v)
	}
	return r
}

// window returns how many bytes may be in flight.
func (c *control) window() int {
	least := 4 * c.mtu
	r := c.rate()
	if r == 0 {
		return max(first, least)
	}
	held := r * c.minRTT.Seconds() // by the path itself
	gain := 1.25
	if !c.steady {
		gain = 2.5
	}
	w := gain*held + r*slack.Seconds()
	if c.probing > 0 {
		w = held / 2
	}
	return max(min(int(w), c.limit, Ceiling), least)
}

// measure takes a sample of the round trip.
func (c *control) measure(now, rtt time.Duration) {
	rtt = max(rtt, 1)
	switch {
	case c.probing > 0:
		if c.probedRTT == 0 || rtt < c.probedRTT {
			c.probedRTT = rtt
		}
		if now >= c.probing {
			c.minRTT, c.minAt, c.probing, c.probedRTT = c.probedRTT, now, 0, 0
		}
	case c.minRTT == 0 || rtt <= c.minRTT:
		c.minRTT, c.minAt = rtt, now
	case now-c.minAt > fresh:
		c.probing = now + 2*rtt
	}
}

// idle is called before something is sent while nothing is in flight.
func (c *control) idle(now time.Duration) { c.deliveredAt, c.oldest = now, now }

// sending is called when a packet is sent, with the bytes that are then in flight.
func (c *control) sending(now time.Duration, k *packet, inflight int) {
	k.delivered, k.deliveredAt, k.oldest = c.delivered, c.deliveredAt, c.oldest
	if inflight >= c.window()-2*c.mtu {
		c.full = now
	}
	c.sentBytes += k.size
}

// losing is called when a packet is found lost.
func (c *control) losing(_ time.Duration, k *packet) { c.lostBytes += k.size }

// sample takes a sample of the rate from the last packet that arrived.
func (c *control) sample(now time.Duration, k *packet) {
	span := max(k.sent-k.oldest, now-k.deliveredAt)
	got := c.delivered - k.delivered
	c.deliveredAt, c.oldest = now, k.sent
	if span <= 0 || span < c.minRTT {
		return // acknowledgements came compressed
	}
	r := float64(got) / span.Seconds()
	limited := c.full >= k.sent
	if k.delivered >= c.roundEnd {
		c.roundEnd = c.delivered
		c.turn(limited)
	}
	if limited || r > c.rate() {
		c.rates[c.round] = max(c.rates[c.round], r)
	}
}

// turn ends a round. A round counts for the rate if the window limited it.
func (c *control) turn(limited bool) {
	switch {
	case c.lostBytes > 8*c.mtu && c.lostBytes > c.sentBytes/8:
		// That many losses are no accident: the window overflows a queue on the way.
		c.limit = max(c.window()*4/5, 4*c.mtu)
		c.steady = true
	case c.limit < Ceiling:
		c.limit = min(c.limit+c.limit/8, Ceiling)
	}
	c.lostBytes, c.sentBytes = 0, 0
	if !limited {
		return
	}
	if r := c.rate(); r > 1.25*c.peak {
		c.peak, c.flat = r, 0
	} else if c.flat++; c.flat >= 3 {
		c.steady = true
	}
	c.round = (c.round + 1) % rounds
	c.rates[c.round] = 0
}
