// Connections to peers. They outlive attempts: two providers that have a link in the next one,
// too, make it over the connection that stands.

package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/signaling/proto"
)

// idleFor is how long a connection is kept without an assignment that needs it.
const idleFor = 2 * time.Minute

// hello is the first signal of both sides of a link: the sender has fetched everything.
type hello struct {
	// Kept is the run in which the connection was made that the sender still has to the receiver.
	// It is used again if both have the same.
	Kept string          `json:"kept,omitempty"`
	Here json.RawMessage `json:"here"` // the dialer's
}

// connection is what links to a peer are made over, one in each attempt that uses it.
type connection struct {
	peer string
	made string // the run in which it was made
	gen  int    // the newest generation of a link over it
	pipe transport.Pipe
	link *transport.Link             // the attempt's, nil: it is idle
	in   chan json.RawMessage        // the peer's signals
	say  func(json.RawMessage) error // our signals, by way of the attempt that uses it
	mu   sync.Mutex                  // guards say and late
	late []json.RawMessage           // our signals while no attempt uses it

	stop   context.CancelFunc // while it is idle: ends idle
	idle   chan struct{}      // closed when nobody receives from the idle connection any more
	broken bool               // found while it was idle; set before idle is closed
}

// send sends the peer a signal, as soon as there is an attempt.
func (l *connection) send(b json.RawMessage) error {
	l.mu.Lock()
	say := l.say
	if say == nil && len(l.late) < machine.MaxSignals {
		l.late = append(l.late, b)
	}
	l.mu.Unlock()
	if say == nil {
		return nil
	}
	return say(b)
}

// use has signals go by way of an attempt; nil: they wait for one.
func (l *connection) use(say func(json.RawMessage) error) {
	l.mu.Lock()
	l.say = say
	late := l.late
	if say != nil {
		l.late = nil
	}
	l.mu.Unlock()
	if say == nil {
		return
	}
	for _, b := range late {
		_ = say(b) // a connection that finds no other address ends by itself
	}
}

// connections are the idle ones. They are taken and put back by attempts, of which there is one at a time.
type connections struct {
	mu  sync.Mutex
	all []*connection
	wg  *sync.WaitGroup
}

// put keeps a connection until an attempt takes it. Meanwhile whatever arrives is dropped, so that the peer
// can send what makes the next link.
func (s *connections) put(l *connection) {
	var ctx context.Context
	ctx, l.stop = context.WithTimeout(context.Background(), idleFor)
	l.link, l.idle, l.broken = nil, make(chan struct{}), false
	l.use(nil)
	s.mu.Lock()
	s.all = append(s.all, l)
	s.mu.Unlock()
	s.wg.Go(func() {
		defer l.stop()
		var err error
		for err == nil {
			_, err = l.pipe.Recv(ctx)
		}
		l.broken = ctx.Err() == nil
		s.mu.Lock()
		i := slices.Index(s.all, l)
		if i >= 0 { // nobody takes it any more
			s.all = slices.Delete(s.all, i, i+1)
		}
		s.mu.Unlock()
		close(l.idle)
		if i >= 0 {
			_ = l.pipe.Close()
		}
	})
}

// drainFor is how long a backlog may take to be gone: less than another connection would take.
const drainFor = 500 * time.Millisecond

// drained waits until what a pipe was given has been sent, but for a frame. false: that takes too long.
func drained(p transport.Pipe) bool {
	q, ok := p.(transport.Queued)
	for began := time.Now(); ok && q.Queued() > wire.MaxFrame; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > drainFor {
			return false
		}
	}
	return true
}

// take returns the connection to a peer for a link of this generation, or nil if there is none that is of
// use: one with a backlog would hold the new link up.
func (s *connections) take(peer string, generation int) *connection {
	s.mu.Lock()
	i := slices.IndexFunc(s.all, func(l *connection) bool { return l.peer == peer && l.gen < generation })
	if i < 0 {
		s.mu.Unlock()
		return nil
	}
	l := s.all[i]
	s.all = slices.Delete(s.all, i, i+1)
	s.mu.Unlock()
	free := drained(l.pipe) // while what the peer has sent is still received
	l.stop()
	<-l.idle
	if l.broken || !free {
		s.close(l)
		return nil
	}
	return l
}

// close closes a connection that was taken.
func (s *connections) close(l *connection) { s.wg.Go(func() { _ = l.pipe.Close() }) }

// only closes the idle connections to all peers but these.
func (s *connections) only(peers []proto.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		if !slices.ContainsFunc(peers, func(p proto.Peer) bool { return p.ID == l.peer }) {
			l.stop()
		}
	}
}

// greet tells a peer that this side is ready to connect, with the connection that is kept, if any, and
// returns what the peer says.
func (r *attempt) greet(ctx context.Context, p proto.Peer, kept *connection) (theirs hello, err error) {
	ours := hello{Here: r.dialer.Here()}
	if kept != nil {
		ours.Kept = kept.made
	}
	b, err := json.Marshal(ours)
	if err == nil {
		err = r.host.Send(ctx, &proto.Signal{Run: r.a.Run, To: p.ID, Body: b})
	}
	if err != nil {
		return theirs, err
	}
	select {
	case b = <-r.box(p.ID):
	case <-ctx.Done():
		return theirs, context.Cause(ctx)
	}
	if err := json.Unmarshal(b, &theirs); err != nil {
		return theirs, &peerError{p.ID, p.Name, fmt.Errorf("connecting to stage %d (%s): its first signal: %w", p.Stage, p.Name, err)}
	}
	return theirs, nil
}

// adopt uses a connection that an earlier attempt has left.
func (r *attempt) adopt(l *connection, say func(json.RawMessage) error) {
	r.linked.Lock()
	for mail := r.mail[l.peer]; len(mail) > 0; {
		select {
		case l.in <- <-mail:
		default: // more than anybody has taken in is too much
		}
	}
	r.mail[l.peer] = l.in
	r.linked.Unlock()
	l.use(say)
}

// box returns where a peer's signals are delivered.
func (r *attempt) box(peer string) chan json.RawMessage {
	r.linked.Lock()
	defer r.linked.Unlock()
	return r.mail[peer]
}

// deliver hands a peer's signal to whoever waits for it.
func (r *attempt) deliver(peer string, b json.RawMessage) {
	r.linked.Lock()
	defer r.linked.Unlock()
	select {
	case r.mail[peer] <- b:
	default: // more than anybody has taken in is too much
	}
}

// rest ends the links that stand and keeps their connections for another attempt.
func (r *attempt) rest() {
	r.linked.Lock()
	defer r.linked.Unlock()
	r.conns = slices.DeleteFunc(r.conns, func(l *connection) bool {
		if l.link.Free() == nil {
			return false
		}
		r.d.conns.put(l)
		return true
	})
}

// unlink closes all links that are left at once.
func (r *attempt) unlink() {
	r.linked.Lock()
	defer r.linked.Unlock()
	for _, l := range r.conns {
		r.d.wg.Go(func() { _ = l.link.Close() })
	}
	r.conns = nil
	clear(r.links)
}
