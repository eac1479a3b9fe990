package server

// What a member may download. Its assignment says what that is: the model, its part of the data,
// initial weights or a checkpoint; where the data are in shards, those once in each epoch and
// validation pass. It may fetch several times as much at once, so that broken downloads and
// lost attempts cost it nothing, and more comes back with time. A session without an
// assignment needs nothing, and what it fetches counts as its address's (guest.go).

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

const (
	// rationFactor is how many times over a member may fetch what it needs.
	rationFactor = 4
	// rationIn is the time in which that comes back.
	rationIn = 10 * time.Minute
	// rationLeast is the least that a member may fetch at once, as small downloads harm nobody.
	rationLeast = 64 << 20
	// rationRequest is what a request costs besides its bytes.
	rationRequest = 4 << 10
)

// rations holds what each session with an assignment may fetch.
type rations struct {
	mu sync.Mutex
	of map[string]*ration // by the session's secret
}

type ration struct {
	once, again int64 // bytes that an assignment needs: at its beginning, and in each epoch
	bucket      *bucket
}

func newRations() *rations { return &rations{of: map[string]*ration{}} }

// ShardCost is what it costs a member to fetch n shards once that have so many bytes in all.
func ShardCost(n int, bytes int64) int64 { return bytes + int64(n)*rationRequest }

// assigned gives a session what an assignment needs. shards is what all shards cost.
func (r *rations) assigned(now time.Time, secret string, a *proto.Assign, shards int64) {
	x := &ration{once: a.Graph.Size}
	for _, ref := range a.Data {
		x.once += ref.Size
	}
	if len(a.Data) > 0 {
		x.again = shards
	}
	for _, ref := range a.Weights {
		x.once += ref.Size
	}
	if a.Resume != nil {
		for _, p := range a.Resume.Parts {
			x.once += p.Size
		}
	}
	most := float64(max(rationFactor*(x.once+x.again), rationLeast))
	x.bucket = newBucket(now, most/rationIn.Seconds(), most)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[secret] = x
}

// passed gives those who read shards what the next epoch, or validation pass, needs.
func (r *rations) passed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.of {
		x.bucket.have = min(x.bucket.burst, x.bucket.have+float64(rationFactor*x.again))
	}
}

// forget drops a session.
func (r *rations) forget(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, secret)
}

// find returns what a request's session may fetch; nil: it has none, or no assignment.
func (r *rations) find(q *http.Request) *ration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[q.Header.Get(proto.SessionHeader)]
}

// take takes n bytes, and returns after what time to try again if they are used up. What is taken
// at once may exceed what is left.
func (r *rations) take(now time.Time, x *ration, n int) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := x.bucket
	if !b.take(now, 0) || b.have == 0 {
		return max(time.Second, time.Duration((rationRequest-b.have)/b.rate*float64(time.Second)))
	}
	b.have -= float64(n)
	return 0
}

var (
	errRation = errors.New("the member has used up what it may fetch")
	// errFetched answers who fetches what it has fetched already, again and again.
	errFetched = &proto.Error{Code: proto.Busy, Message: "this provider has fetched what its part of the run needs several times over"}
)

// rationed lets a member fetch what its assignment needs, and others what their address's share
// allows.
func (s *Server) rationed(f http.Handler) http.Handler {
	guests := s.metered(probes, f)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := s.rations.find(r)
		if s.cfg.Token == "" || x == nil {
			guests.ServeHTTP(w, r)
			return
		}
		if wait := s.rations.take(time.Now(), x, rationRequest); wait > 0 {
			s.guests.refuse()
			later(w, errFetched, wait)
			return
		}
		f.ServeHTTP(&rationer{w, s.rations, x}, r)
	})
}

// rationer counts the bytes of an answer, and breaks it off where they are too many: who asks
// again is told when to come.
type rationer struct {
	http.ResponseWriter
	of *rations
	x  *ration
}

func (w *rationer) Write(b []byte) (int, error) {
	if w.of.take(time.Now(), w.x, len(b)) > 0 {
		return 0, errRation
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *rationer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
