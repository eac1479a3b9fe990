package server

// What one address may ask of the host. Who shows no token may be anybody, and a token may be
// tried or passed on, so requests, failed hellos and bytes are counted by address. The limits
// follow from the providers that the host expects: what each of them needs, as if all came
// from this one address, such as a school's. Whoever asks for more is told when to come
// again. Where a provider has joined, requests with a token are not counted.
//
// How many connections an address may hold is the gate's to say (gate.go).

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// good is a thing that is counted.
type good int

const (
	requests good = iota
	hellos        // that were not admitted, and other attempts at a token
	pages         // bytes of the site
	probes        // bytes of bandwidth measurements, and of downloads by who has no assignment
	goods
)

// needs is what one provider or visitor needs at once. As much comes back in the time.
var needs = [goods]struct {
	amount float64
	in     time.Duration
}{
	requests: {100, time.Minute},
	hellos:   {8, time.Minute},
	pages:    {8 << 20, time.Minute},
	probes:   {256 << 20, time.Minute},
}

const (
	// minGuests is how many providers may come from an address whatever the host expects.
	minGuests = 16
	// connsPerGuest is how many connections one of them may hold: a browser opens six.
	connsPerGuest = 8
	// maxGuests bounds the addresses that are remembered.
	maxGuests = 4096
)

// guests counts what addresses have asked for.
type guests struct {
	mu       sync.Mutex
	at       map[netip.Addr]*guest
	expected int
	refused  int64
}

// guest is an address. What it has used is a share of what it may use at once, so that limits
// can change.
type guest struct {
	used   [goods]float64
	last   time.Time // when used was reckoned
	joined int       // connections of providers
}

func newGuests() *guests {
	return &guests{at: map[netip.Addr]*guest{}, expected: minGuests}
}

// expect sets how many providers are expected.
func (g *guests) expect(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected = max(minGuests, n)
}

// most is how many connections an address may hold.
func (g *guests) most() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.expected * connsPerGuest
}

// of finds an address, or begins to count it. g.mu is held.
func (g *guests) of(now time.Time, a netip.Addr) *guest {
	c := g.at[a]
	if c == nil {
		if len(g.at) >= maxGuests {
			g.forget()
		}
		c = &guest{last: now}
		g.at[a] = c
	}
	if d := now.Sub(c.last); d > 0 {
		for i := range c.used {
			c.used[i] = max(0, c.used[i]-d.Seconds()/needs[i].in.Seconds())
		}
		c.last = now
	}
	return c
}

// forget makes room: what has not been seen for the longest goes, or is as good as new.
func (g *guests) forget() {
	var oldest netip.Addr
	var at time.Time
	for a, c := range g.at {
		if c.joined == 0 && (at.IsZero() || c.last.Before(at)) {
			oldest, at = a, c.last
		}
	}
	delete(g.at, oldest)
}

// take counts n of a good. If the address has used up its share, nothing is counted, and take
// returns after what time to try again. What is counted at once may exceed what is left.
func (g *guests) take(now time.Time, a netip.Addr, what good, n float64) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(now, a)
	need := needs[what]
	share := n / (need.amount * float64(g.expected+c.joined))
	if over := c.used[what] + min(share, 1) - 1; over > 0 && c.used[what] > 0 {
		g.refused++
		return max(time.Second, time.Duration(over*float64(need.in)))
	}
	c.used[what] += share
	return 0
}

// add counts what an address has got in any case; negative: what was counted without need.
func (g *guests) add(now time.Time, a netip.Addr, what good, n float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(now, a)
	c.used[what] = max(0, c.used[what]+n/(needs[what].amount*float64(g.expected+c.joined)))
}

// join counts a provider's connection until leave is called.
func (g *guests) join(now time.Time, a netip.Addr) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(now, a)
	c.joined++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		c.joined--
	}
}

// hosts reports whether a provider has joined from an address.
func (g *guests) hosts(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.at[a]
	return c != nil && c.joined > 0
}

// refuse counts a request that was refused for another reason.
func (g *guests) refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused++
}

func (g *guests) turnedAway() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// guestOf returns the address by which a request is counted.
func (s *Server) guestOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(s.from(r))
	if err != nil {
		return netip.Addr{}
	}
	return networkOf(ap.Addr())
}

// errOften answers who has used up a share.
var errOften = &proto.Error{Code: proto.Busy, Message: "too many requests come from this address", Hint: "try again later"}

// often answers a request of somebody who has used up a share.
func often(w http.ResponseWriter, wait time.Duration) { later(w, errOften, wait) }

// later answers that too much was asked for, and when to come again.
func later(w http.ResponseWriter, e *proto.Error, wait time.Duration) {
	seconds := int(math.Ceil(wait.Seconds()))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	httpError(w, http.StatusTooManyRequests, &proto.Error{Code: e.Code, Message: e.Message, Hint: fmt.Sprintf("try again in %d s", seconds)})
}

// shared lets an address ask for no more than its share. A host without a token serves its own
// machine alone and counts nothing.
func (s *Server) shared(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if transfer(r) {
			// Firefox heeds it, which would send a request over a connection of a network that it has
			// left. Transfers come in bursts.
			w.Header().Set("Keep-Alive", "timeout=2")
		}
		if s.cfg.Token == "" {
			next.ServeHTTP(w, r)
			return
		}
		from := s.guestOf(r)
		if f, ok := r.Context().Value(frontKey{}).(*front); ok && s.cfg.Proxy {
			f.g.belongs(f.gated, from)
		}
		if transfer(r) && s.rations.find(r) != nil || probe(r) && s.guests.hosts(from) && s.bearer(r) {
			next.ServeHTTP(w, r) // bytes are what counts
			return
		}
		if wait := s.guests.take(time.Now(), from, requests, 1); wait > 0 {
			often(w, wait)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// transfer reports whether a request is about a blob or a stage's state.
func transfer(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/v1/blob/") || strings.Contains(r.URL.Path, "/v1/upload/")
}

// probe reports whether a request measures bandwidth.
func probe(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, proto.SpeedPath) }

// metered counts the bytes that f answers with, before a request is answered and after it.
func (s *Server) metered(what good, f http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := s.guestOf(r)
		if s.cfg.Token == "" {
			f.ServeHTTP(w, r)
			return
		}
		if wait := s.guests.take(time.Now(), from, what, 1); wait > 0 {
			often(w, wait)
			return
		}
		m := &meter{ResponseWriter: w}
		f.ServeHTTP(m, r)
		s.guests.add(time.Now(), from, what, float64(m.n))
	})
}

// meter counts the bytes of an answer.
type meter struct {
	http.ResponseWriter
	n int64
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.ResponseWriter.Write(b)
	m.n += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }
