package client

// Measuring the bandwidth to the host, and trying the network without joining.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// A bandwidth probe is a number of requests of a size that proxies accept. Probes grow until
// one takes longProbe, and longTicks of a coarse clock. The last size is then repeated until
// probeTime is over, and the fastest counts, since disturbances (first use, a busy core) can
// only slow a probe down. Probes have at most lastProbe bytes, which is enough for the
// transfer to dominate even on fast links.
const (
	firstProbe = 32 << 10
	lastProbe  = 8 << 20
	longProbe  = 20 * time.Millisecond
	longTicks  = 10
	coarse     = 100 * time.Microsecond
	probeTime  = 100 * time.Millisecond
	slowProbe  = 4 * time.Second  // probes do not grow if the next would take that long
	probeLimit = 15 * time.Second // limit of the whole measurement, for slow links
)

// MeasureBandwidth measures the bandwidth to (up) and from (down) the host in bits per
// second. It takes about 100 ms and at most a few MB for each. It needs no session, as the
// result is sent in the hello.
func MeasureBandwidth(ctx context.Context, addr string, opt Options) (up, down float64, err error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return 0, 0, err
	}
	h := opt.host(u)
	return h.measure(ctx)
}

// MeasureBandwidth is like the function MeasureBandwidth, for this session's host.
func (c *Conn) MeasureBandwidth(ctx context.Context) (up, down float64, err error) {
	return c.host.measure(ctx)
}

func (h *host) measure(ctx context.Context) (up, down float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*probeLimit)
	defer cancel()
	get := func(n int) error {
		resp, err := h.do(ctx, "GET", proto.SpeedPath, "bytes="+strconv.Itoa(n), nil, 0)
		if err != nil {
			return err
		}
		defer resp.body.Close()
		m, err := io.Copy(io.Discard, resp.body)
		if err == nil && m != int64(n) {
			err = fmt.Errorf("a probe of %d bytes transferred %d", n, m)
		}
		return err
	}
	block := noiseBlock()
	post := func(n int) error {
		resp, err := h.do(ctx, "POST", proto.SpeedPath, "", func() io.Reader { return &noise{block, n} }, n)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.body)
		_ = resp.body.Close()
		return err
	}
	// The first request opens the connection. The next ones measure the round trip, which
	// every request of a probe contains once.
	if err := get(0); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
	}
	rtt := time.Duration(math.MaxInt64)
	for range 3 {
		t := time.Now()
		if err := get(0); err != nil {
			return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
		}
		rtt = min(rtt, time.Since(t))
	}
	if down, err = ramp(time.Now, rtt, get); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth from the host: %w", err)
	}
	if up, err = ramp(time.Now, rtt, post); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth to the host: %w", err)
	}
	// What a bucket has saved up is faster than its rate.
	if l := h.limit.Up(); l > 0 {
		up = min(up, l)
	}
	if l := h.limit.Down(); l > 0 {
		down = min(down, l)
	}
	return up, down, nil
}

// tick returns the clock's resolution: the smallest of a few steps. In browsers it can be as
// coarse as 100 ms.
func tick(now func() time.Time) time.Duration {
	least := time.Second
	for range 3 {
		begin := now()
		d := time.Duration(0)
		for d <= 0 {
			d = now().Sub(begin)
		}
		least = min(least, d)
	}
	return least
}

// ramp probes with growing sizes and returns the bits per second of the fastest probe of the
// largest size.
func ramp(now func() time.Time, rtt time.Duration, probe func(n int) error) (float64, error) {
	res := tick(now)
	long, most := max(longProbe, longTicks*res), lastProbe
	if res > coarse {
		most = 8 * lastProbe
	}
	begin := now()
	best := time.Duration(math.MaxInt64)
	for n := firstProbe; ; {
		t := now()
		requests := 0
		for left := n; left > 0; requests++ {
			m := min(left, proto.MaxChunk)
			if err := probe(m); err != nil {
				return 0, err
			}
			left -= m
		}
		d := now().Sub(t)
		best = min(best, d)
		far := time.Duration(requests) * rtt
		elapsed := now().Sub(begin)
		switch {
		case d-far < long && n < most && elapsed+4*d < max(slowProbe, 5*long):
			n = min(4*n, most)
			best = math.MaxInt64
		case elapsed >= max(probeTime, 2*long) || n == most:
			best = max(best-far, best/4, time.Microsecond)
			return float64(n) * 8 / best.Seconds(), nil
		}
	}
}

// Try tests the network to the host without joining: it fetches the host's STUN and TURN
// servers, and opens a WebSocket. rtt is how long the host takes to answer.
func Try(ctx context.Context, addr string, opt Options) (t proto.Try, rtt time.Duration, err error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return t, 0, err
	}
	h := opt.host(u)
	for range 2 { // the first request opens the connection
		begin := time.Now()
		resp, err := h.do(ctx, "GET", proto.TryPath, "", nil, 0)
		if err != nil {
			return t, 0, err
		}
		err = json.NewDecoder(io.LimitReader(resp.body, proto.MaxMessage)).Decode(&t)
		_ = resp.body.Close()
		if err != nil {
			return t, 0, fmt.Errorf("what answers at %s is no ravnest host, or another release: %w", u, err)
		}
		if err := proto.CheckICE(t.ICE); err != nil {
			return t, 0, fmt.Errorf("the host at %s: %w", u, err)
		}
		rtt = time.Since(begin)
	}
	ws, err := dial(ctx, &h)
	if err != nil {
		return t, rtt, fmt.Errorf("%w: requests get through but WebSockets do not: the proxy in front of the host must pass the Upgrade header on", err)
	}
	ws.abort()
	return t, rtt, nil
}

// noise is the content of an upload probe: pseudo-random bytes, so that nothing on the way
// can compress them, repeated from a small block to save memory.
type noise struct {
	block []byte
	left  int
}

func noiseBlock() []byte {
	block := make([]byte, 0, firstProbe)
	for x := uint32(2463534242); len(block) < firstProbe; { // xorshift32
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		block = append(block, byte(x>>24))
	}
	return block
}

func (n *noise) Read(b []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	m := copy(b[:min(len(b), n.left)], n.block)
	n.left -= m
	return m, nil
}
