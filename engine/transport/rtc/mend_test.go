//go:build !js

package rtc

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/sctp"
	"github.com/ravnest/ravnest/engine/transport/rtc/repair"
	"github.com/ravnest/ravnest/engine/wire"
)

// path is a network in one direction: packets queue for a rate, and are dropped by chance or
// when the queue is full. Packets have 65 bytes of headers below SCTP.
type path struct {
	rate  float64 // bytes per second
	delay time.Duration
	queue int // bytes
	loss  float64
}

// side is one end of two paths.
type side struct {
	net.Conn // only its type
	path     path
	other    *side
	in       chan []byte
	gone     chan struct{}
	once     sync.Once

	mu      sync.Mutex
	rng     *rand.Rand
	free    time.Time     // when the queue will be empty
	longest time.Duration // in the queue
	dropped int           // by chance
}

// sides returns the ends of two equal paths.
func sides(p path) (x, y *side) {
	end := func(seed uint64) *side {
		return &side{path: p, in: make(chan []byte, 1<<14), gone: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 1))}
	}
	x, y = end(1), end(2)
	x.other, y.other = y, x
	return x, y
}

func (s *side) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	queued := s.free.Sub(now)
	if queued.Seconds()*s.path.rate > float64(s.path.queue) {
		return len(b), nil
	}
	s.longest = max(s.longest, queued)
	s.free = s.free.Add(time.Duration(float64(len(b)+65) / s.path.rate * 1e9))
	if s.rng.Float64() < s.path.loss {
		s.dropped++
		return len(b), nil
	}
	c := append([]byte(nil), b...)
	time.AfterFunc(s.free.Add(s.path.delay).Sub(now), func() {
		select {
		case s.other.in <- c:
		case <-s.gone:
		}
	})
	return len(b), nil
}

func (s *side) Read(b []byte) (int, error) {
	select {
	case c := <-s.in:
		return copy(b, c), nil
	case <-s.gone:
		return 0, net.ErrClosed
	}
}

func (s *side) Close() error {
	s.once.Do(func() { close(s.gone) })
	return nil
}

func (*side) SetReadDeadline(time.Time) error  { return nil }
func (*side) SetWriteDeadline(time.Time) error { return nil }

// associate makes an SCTP association over a connection as establish does.
func associate(t *testing.T, c net.Conn, opts ...sctp.ClientOption) *sctp.Association {
	a, err := sctp.ClientWithOptions(append([]sctp.ClientOption{
		sctp.WithNetConn(c), sctp.WithLoggerFactory(quiet()), sctp.WithMTU(mtu), sctp.WithMaxMessageSize(wire.MaxFrame),
		sctp.WithMaxReceiveBufferSize(window), sctp.WithEnableZeroChecksum(true),
	}, opts...)...)
	if err != nil {
		t.Error(err)
	}
	return a
}

// TestLossy sends over bad networks, in virtual time: how long that takes and how much is
// repeated follow from the network, not from the machine.
func TestLossy(t *testing.T) {
	for _, c := range []struct {
		name   string
		path   path
		total  int
		within time.Duration // SCTP alone takes the time beside each case
		queue  time.Duration // the longest that a packet may wait, where the queue would hold more; 0: any
	}{
		{"LAN, 2 % lost", path{125e6, 250 * time.Microsecond, 1 << 20, 0.02}, 10 << 20, 700 * time.Millisecond, 0},                                        // 2.9 s
		{"100 Mbit, 20 ms, 2 % lost", path{12.5e6, 10 * time.Millisecond, 1 << 18, 0.02}, 5 << 20, 1400 * time.Millisecond, 0},                            // 11.5 s
		{"100 Mbit, 20 ms, 2 % lost, little room", path{12.5e6, 10 * time.Millisecond, 1 << 16, 0.02}, 5 << 20, 1600 * time.Millisecond, 0},               // 11.5 s
		{"100 Mbit, 20 ms, 10 % lost", path{12.5e6, 10 * time.Millisecond, 1 << 18, 0.1}, 2 << 20, 1400 * time.Millisecond, 0},                            // 62 s
		{"thin uplink, 2 % lost", path{.25e6, 20 * time.Millisecond, 1 << 17, 0.02}, 1 << 20, 5500 * time.Millisecond, 150 * time.Millisecond},            // 5.7 s
		{"thin uplink, none lost", path{.25e6, 20 * time.Millisecond, 1 << 17, 0}, 1 << 20, 5 * time.Second, 150 * time.Millisecond},                      // 5.3 s, and waits of 523 ms
		{"thin uplink, little room, none lost", path{.25e6, 20 * time.Millisecond, 12 << 10, 0}, 1 << 20, 5500 * time.Millisecond, 60 * time.Millisecond}, // 4.7 s
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := sides(c.path)
				mx, my := mend(x, mtu), mend(y, mtu)
				defer func() { _ = mx.Close(); _ = my.Close() }()
				var a, b *sctp.Association
				var wg sync.WaitGroup
				wg.Go(func() { a = associate(t, mx, sctp.WithMinCwnd(repair.Ceiling)) })
				wg.Go(func() { b = associate(t, my, sctp.WithMinCwnd(repair.Ceiling)) })
				wg.Wait()
				if t.Failed() {
					return
				}
				began := time.Now()
				took := flow(t, a, b, c.total)
				s := mx.path.Stats()
				t.Logf("%v, %.2f MB/s, %+v, %d dropped by chance, queued for %v at most", took, float64(c.total)/1e6/time.Since(began).Seconds(), s, x.dropped, x.longest)
				if took > c.within {
					t.Errorf("%d bytes took %v, want at most %v", c.total, took, c.within)
				}
				if c.queue > 0 && x.longest > c.queue {
					t.Errorf("a packet waited for %v in the uplink's queue, want at most %v", x.longest, c.queue)
				}
				if s.Useless > s.Sent/50 {
					t.Errorf("%d of %d packets were repeated in vain", s.Useless, s.Sent)
				}
				wg.Go(func() { _ = a.Close() })
				wg.Go(func() { _ = b.Close() })
				wg.Wait()
			})
		})
	}
}

// flow sends bytes from one association to the other and returns how long that takes.
func flow(t *testing.T, a, b *sctp.Association, total int) time.Duration {
	began := time.Now()
	out, err := a.OpenStream(Channel, sctp.PayloadTypeWebRTCBinary)
	if err != nil {
		t.Fatal(err)
	}
	low := make(chan struct{}, 1)
	out.SetBufferedAmountLowThreshold(lowWater)
	out.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	go func() {
		frame := make([]byte, wire.MaxFrame)
		for n := 0; n < total; n += len(frame) {
			for out.BufferedAmount() > highWater {
				<-low
			}
			if _, err := out.Write(frame); err != nil {
				return
			}
		}
	}()
	in, err := b.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, wire.MaxFrame)
	for got := 0; got < total; {
		n, err := in.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	return time.Since(began)
}
