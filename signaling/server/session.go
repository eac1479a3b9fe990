package server

// A session is a provider's, from its hello to its end, over one WebSocket after the other. A
// WebSocket's reader is the HTTP handler's goroutine, its writer another one with a bounded
// queue between it and the loop, which never waits for a peer. Without a WebSocket the session
// waits for its provider to return; the machine decides for how long.

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/window"
)

const (
	maxQueued      = 1024    // messages waiting to be sent to a session, or to be acknowledged
	maxQueuedBytes = 4 << 20 // and their bytes
	closeWait      = 2 * time.Second
	// linkMessages is what setting up a link may cost at once beside the rate: a greeting, a
	// description, and a candidate for each of a machine's addresses.
	linkMessages = 80
)

type session struct {
	id, secret string
	key        string            // its provider's, proven; "": none
	ice        []proto.ICEServer // the host's relay, with this session's credentials
	keeps      bool              // it may outlive its connection
	bucket     *bucket           // the reader's
	links      atomic.Int64      // that it was assigned and the bucket does not know yet

	turn sync.Mutex // of those who return
	last *line      // its newest connection, which may have ended; guarded by turn

	mu     sync.Mutex
	line   *line // its connection; nil: none
	out    window.Out
	in     window.In
	bye    string // close with this reason once the queue is out
	ending bool   // bye is set
	over   bool   // it has ended, or does with its connection
	why    string // the first reason for the session's end that this side found

	welcome *proto.Welcome // nil: it has had none yet
}

// line is a connection of a session.
type line struct {
	ws     *websocket.Conn
	ctx    context.Context // ends the reader and the writer, abruptly
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{} // closed when nothing more comes from it
}

func newLine(ctx context.Context, cancel context.CancelFunc, ws *websocket.Conn) *line {
	return &line{ws: ws, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// errSlow ends a session whose peer does not read what it is sent.
var errSlow = errors.New("it does not read its messages")

// push queues a message. It returns false if there is no room and the session must end.
func (s *session) push(b []byte, plain bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.over || plain && s.line == nil {
		return true
	}
	if n, size := s.out.Held(); n >= maxQueued || size+len(b) > maxQueuedBytes {
		return false
	}
	s.out.Add(b, plain || !s.keeps)
	s.poke()
	return true
}

// finish closes the session once its queue is out. False: there is no connection that
// could carry it.
func (s *session) finish(reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if !s.ending {
		s.ending, s.bye = true, reason
		s.poke()
	}
	return s.line != nil
}

// abort closes it at once. False: it has no connection.
func (s *session) abort(why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.why == "" {
		s.why = why
	}
	if s.line == nil {
		return false
	}
	s.line.cancel()
	return true
}

// poke wakes the writer. s.mu is held.
func (s *session) poke() {
	if s.line == nil {
		return
	}
	select {
	case s.line.wake <- struct{}{}:
	default:
	}
}

// got notes what the provider has.
func (s *session) got(n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.keeps {
		return nil
	}
	return s.out.Ack(n)
}

// took counts a message that has come; acknowledging it now and then keeps the provider's
// window from filling up.
func (s *session) took(size int) error {
	s.mu.Lock()
	due := s.in.Take(size) && s.keeps
	n := uint64(0)
	if due {
		n = s.in.Ack()
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	b, err := proto.Encode(&proto.Ack{Got: n})
	if err != nil {
		return err
	}
	if !s.push(b, true) {
		return errSlow
	}
	return nil
}

// has is how many counted messages have come.
func (s *session) has() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.Ack()
}

// attach gives the session a connection, whose other side has got so many messages. It
// returns the welcome to it; nil: the session is over, or that cannot be.
func (s *session) attach(l *line, got uint64) *proto.Welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.welcome == nil || s.out.Resume(got) != nil {
		return nil
	}
	s.line = l
	w := *s.welcome
	w.Got = s.in.Ack()
	return &w
}

// detach takes the connection away that has ended.
func (s *session) detach(deliberate bool) (over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = nil
	s.over = s.over || deliberate || !s.keeps
	return s.over
}

// write sends the queue until the connection ends.
func (s *session) write(l *line, timeout time.Duration) {
	for {
		s.mu.Lock()
		it, b := s.out.Next()
		ending, bye := s.ending, s.bye
		s.mu.Unlock()
		switch {
		case it != nil:
			ctx, cancel := context.WithTimeout(l.ctx, timeout)
			err := l.ws.Write(ctx, websocket.MessageText, b)
			cancel()
			if err != nil {
				if l.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
					s.abort(errSlow.Error())
				}
				l.cancel()
				return
			}
			s.mu.Lock()
			s.out.Written(it)
			s.mu.Unlock()
		case ending:
			hangup(l.ws, l.cancel, bye)
			return
		default:
			select {
			case <-l.wake:
			case <-l.ctx.Done():
				return
			}
		}
	}
}

// hangup performs the closing handshake, within closeWait.
func hangup(ws *websocket.Conn, cancel context.CancelFunc, reason string) {
	t := time.AfterFunc(closeWait, cancel)
	defer t.Stop()
	// The peer has been sent the error or bye already. The close frame repeats it, shortened
	// to the 123 bytes allowed.
	_ = ws.Close(websocket.StatusNormalClosure, reason[:min(len(reason), 100)])
	cancel()
}

func hexBytes(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// carry serves a session's connection from what the machine is told of it until its end.
func (s *Server) carry(sess *session, l *line, begin run.Event) {
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		sess.write(l, s.cfg.WriteTimeout)
	}()
	reason, deliberate := "the host is stopping", true
	if s.post(begin, sess) {
		reason, deliberate = s.read(sess, l)
	}
	l.cancel()
	<-writer
	if sess.detach(deliberate) {
		s.post(run.Leave{ID: sess.id, Reason: reason})
	} else {
		s.post(run.Away{ID: sess.id, Reason: reason})
	}
	close(l.done)
}

var errForgotten = &proto.Error{Code: proto.Forgotten, Message: "the host does not know this session any more"}

// comeBack goes on with a session over a new connection. An old one may still seem to be
// up; what has come by it is taken in, and its end is told, before the two sides compare what
// they have.
func (s *Server) comeBack(l *line, r *proto.Return) {
	sess := s.session(r.Session)
	if sess == nil {
		s.forgotten(l)
		return
	}
	sess.turn.Lock()
	sess.last.cancel()
	<-sess.last.done
	welcome := sess.attach(l, r.Got)
	if welcome != nil {
		sess.last = l
	}
	sess.turn.Unlock()
	if welcome == nil {
		s.forgotten(l)
		return
	}
	// Before all that is sent again: its writer has not begun.
	if b, err := proto.Encode(welcome); err == nil {
		ctx, stop := context.WithTimeout(l.ctx, s.cfg.WriteTimeout)
		_ = l.ws.Write(ctx, websocket.MessageText, b) // the reader notices
		stop()
	}
	s.carry(sess, l, run.Back{ID: sess.id})
}

// forgotten tells who wants to return to no session.
func (s *Server) forgotten(l *line) {
	if b, err := proto.Encode(errForgotten); err == nil {
		ctx, stop := context.WithTimeout(l.ctx, closeWait)
		err = l.ws.Write(ctx, websocket.MessageText, b)
		stop()
		if err == nil {
			hangup(l.ws, func() { _ = l.ws.CloseNow() }, errForgotten.Message)
		}
	}
}

// session finds the one with this secret; nil: there is none.
func (s *Server) session(secret string) (found *session) {
	s.call(func(time.Time) { found = s.bySecret(secret) })
	return found
}

// bySecret is session for the loop.
func (s *Server) bySecret(secret string) (found *session) {
	for _, sess := range s.sessions {
		if subtle.ConstantTimeCompare([]byte(sess.secret), []byte(secret)) == 1 {
			found = sess
		}
	}
	return found
}

// read takes in messages until the connection ends and says why it did, and whether that
// is the session's end too.
func (s *Server) read(sess *session, l *line) (reason string, deliberate bool) {
	for {
		_, b, err := l.ws.Read(l.ctx)
		if err != nil {
			sess.mu.Lock()
			why := sess.why
			sess.mu.Unlock()
			code := websocket.CloseStatus(err)
			switch {
			case why != "":
				return why, true
			case errors.Is(err, websocket.ErrMessageTooBig):
				return fmt.Sprintf("it sent a message larger than %d bytes", proto.MaxMessage), true
			}
			// A tab that is closed goes away; a program that hangs up says so.
			return "its connection closed", code == websocket.StatusGoingAway || code == websocket.StatusNormalClosure
		}
		now := time.Now()
		sess.bucket.have += linkMessages * float64(sess.links.Swap(0))
		if !sess.bucket.take(now, proto.Cost(len(b))) {
			err = fmt.Errorf("more than %g messages a second", s.cfg.Rate)
		}
		var msg proto.Message
		if err == nil {
			msg, err = proto.Decode(b)
		}
		if err == nil {
			err = sess.counts(msg, len(b))
		}
		if err != nil {
			s.post(run.Violation{ID: sess.id, Err: err})
			// The machine hangs up; until then, nothing more is accepted.
			s.drain(l)
			return "it broke the protocol", true
		}
		if _, ack := msg.(*proto.Ack); ack {
			continue
		}
		if !s.post(run.Message{ID: sess.id, Msg: msg}) {
			return "the host is stopping", true
		}
	}
}

// counts takes what a message says of the session's.
func (s *session) counts(msg proto.Message, size int) error {
	switch m := msg.(type) {
	case *proto.Pong:
		return s.got(m.Got)
	case *proto.Ack:
		return s.got(m.Got)
	}
	if proto.Counted(msg) {
		return s.took(size)
	}
	return nil
}

// drain reads and discards messages, so that the closing handshake can finish.
func (s *Server) drain(l *line) {
	for {
		if _, _, err := l.ws.Read(l.ctx); err != nil {
			return
		}
	}
}
