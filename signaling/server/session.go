package server

// A session is a provider's WebSocket. The HTTP handler's goroutine reads it; another one
// writes, from a bounded queue, so that the loop never waits for a peer.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

const (
	maxQueued      = 1024    // messages waiting to be sent to a session
	maxQueuedBytes = 4 << 20 // bytes of those
	closeWait      = 2 * time.Second
)

type session struct {
	id, secret string
	ice        []proto.ICEServer // the host's relay, with this session's credentials
	ws         *websocket.Conn
	ctx        context.Context // its end stops the reader and the writer at once
	cancel     context.CancelFunc

	mu     sync.Mutex
	queue  [][]byte
	count  int // queued or being written
	bytes  int
	bye    string // reason for closing once the queue is sent
	ending bool   // bye is set
	why    string // the first reason that this side found for ending the session
	wake   chan struct{}
}

// errSlow ends a session whose peer does not read what it is sent.
var errSlow = errors.New("it does not read its messages")

// push queues a message. It returns false if there is no room and the session must end.
func (s *session) push(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return true
	}
	if s.count >= maxQueued || s.bytes+len(b) > maxQueuedBytes {
		return false
	}
	s.queue = append(s.queue, b)
	s.count++
	s.bytes += len(b)
	s.poke()
	return true
}

// finish closes the session once its queue is sent.
func (s *session) finish(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.ending, s.bye = true, reason
		s.poke()
	}
}

// abort closes it at once.
func (s *session) abort(why string) {
	s.mu.Lock()
	if s.why == "" {
		s.why = why
	}
	s.mu.Unlock()
	s.cancel()
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends queued messages until the session ends.
func (s *session) write(timeout time.Duration) {
	for {
		s.mu.Lock()
		queue, ending, bye := s.queue, s.ending, s.bye
		s.queue = nil
		s.mu.Unlock()
		for _, b := range queue {
			ctx, cancel := context.WithTimeout(s.ctx, timeout)
			err := s.ws.Write(ctx, websocket.MessageText, b)
			cancel()
			if err != nil {
				if s.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
					s.abort(errSlow.Error())
				}
				s.cancel()
				return
			}
			s.mu.Lock()
			s.count--
			s.bytes -= len(b)
			s.mu.Unlock()
		}
		if ending {
			hangup(s.ws, s.cancel, bye)
			return
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
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

// sameToken compares tokens in constant time, whatever their lengths.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

var errBadToken = &proto.Error{
	Code: proto.BadToken, Message: "the join token is missing or wrong",
	Hint: "ask the requester for the token of this run and pass it with --token",
}

var errStopping = &proto.Error{Code: proto.Stopped, Message: "the host is stopping"}

// join serves a provider from its hello to its end.
func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Token == "" && !ownHost(r) {
		httpError(w, http.StatusForbidden, &proto.Error{Code: proto.Forbidden, Message: "this host only serves its own machine"})
		return
	}
	if !s.enter() {
		httpError(w, http.StatusServiceUnavailable, errStopping)
		return
	}
	defer s.wg.Done()
	// Accept refuses pages of another origin.
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled, OriginPatterns: s.origins(r)})
	if err != nil {
		s.log.Debug("join refused", "addr", r.RemoteAddr, "err", err)
		return // Accept has answered
	}
	ws.SetReadLimit(proto.MaxHello) // the peer may be anybody
	ctx, cancel := context.WithCancel(s.ctx)
	defer func() {
		cancel()
		_ = ws.CloseNow()
	}()
	hello, err := s.hello(ws)
	if err == nil && !s.admit() {
		err = &proto.Error{Code: proto.Full, Message: "the host has no room for another provider", Hint: "try again later"}
	} else if err == nil {
		defer s.release()
	}
	if err != nil {
		var pe *proto.Error
		if !errors.As(err, &pe) {
			s.log.Debug("join broken off", "addr", r.RemoteAddr, "err", err)
			return
		}
		name := ""
		if hello != nil {
			name = hello.Name
		}
		s.turnAway(name, s.from(r), pe)
		if b, err := proto.Encode(pe); err == nil {
			wctx, stop := context.WithTimeout(ctx, closeWait)
			err = ws.Write(wctx, websocket.MessageText, b)
			stop()
			if err == nil {
				// No other goroutine is reading, so the closing handshake reads by itself; closing
				// the connection bounds it.
				hangup(ws, func() { _ = ws.CloseNow() }, string(pe.Code)+": "+pe.Message)
			}
		}
		return
	}
	letIn(r)
	ws.SetReadLimit(proto.MaxMessage)
	sess := &session{
		id: "p" + hexBytes(8), secret: hexBytes(16), ws: ws, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1),
	}
	if sess.ice = s.ice(r, sess.id); sess.ice != nil {
		defer s.relay.Drop(sess.id)
	}
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		sess.write(s.cfg.WriteTimeout)
	}()
	if s.post(run.Join{ID: sess.id, Addr: s.from(r), Hello: *hello}, sess) {
		reason := s.read(sess)
		s.post(run.Leave{ID: sess.id, Reason: reason})
	}
	cancel()
	<-writer
}

// turned counts refusals that have not been reported yet.
type turned struct {
	mu    sync.Mutex
	told  *bucket
	count int
	flush *time.Timer

	name, addr string // of the last one
	err        *proto.Error
}

const (
	turnedBurst = 5                // refusals that are reported one by one
	turnedEvery = 10 * time.Second // after that, one report for each interval
)

// turnAway reports a refusal to the run machine. Since anybody can provoke refusals without
// end, only the first few are reported one by one, and later ones together at intervals.
func (s *Server) turnAway(name, addr string, err *proto.Error) {
	t := &s.turned
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.told == nil {
		t.told = newBucket(now, 1/turnedEvery.Seconds(), turnedBurst)
	}
	if t.count == 0 && t.told.take(now, 1) {
		s.post(run.Refusal{Name: name, Addr: addr, Err: err})
		return
	}
	t.count++
	t.name, t.addr, t.err = name, addr, err
	if t.count > 1 {
		return
	}
	t.flush = time.AfterFunc(turnedEvery, func() {
		t.mu.Lock()
		name, addr, err, n := t.name, t.addr, *t.err, t.count
		t.count = 0
		t.mu.Unlock()
		if n > 1 {
			err.Message += fmt.Sprintf(" (the last of %d refusals in %v)", n, turnedEvery)
		}
		s.post(run.Refusal{Name: name, Addr: addr, Err: &err})
	})
}

// stop drops the refusals not yet reported.
func (t *turned) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flush != nil {
		t.flush.Stop()
	}
}

// hello waits for the first message and checks it. The hello is returned even with an error,
// if the message was one.
func (s *Server) hello(ws *websocket.Conn) (*proto.Hello, error) {
	ctx, cancel := context.WithTimeout(s.door, s.cfg.HelloTimeout)
	defer cancel()
	_, b, err := ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	msg, err := proto.Decode(b)
	var v *proto.VersionError
	if errors.As(err, &v) {
		return nil, &proto.Error{
			Code:    proto.BadVersion,
			Message: fmt.Sprintf("the provider speaks protocol version %d, but this host speaks version %d", v.Got, v.Want),
			Hint:    "update the older of the two",
		}
	}
	if err != nil {
		return nil, &proto.Error{Code: proto.Protocol, Message: err.Error()}
	}
	hello, ok := msg.(*proto.Hello)
	if !ok {
		return nil, &proto.Error{Code: proto.Protocol, Message: fmt.Sprintf("the first message must be hello, not %s", msg.Type())}
	}
	if s.cfg.Token != "" && !sameToken(hello.Token, s.cfg.Token) {
		return hello, errBadToken
	}
	return hello, nil
}

// read passes on messages until the session ends, and returns the reason for its end.
func (s *Server) read(sess *session) string {
	bucket := newBucket(time.Now(), s.cfg.Rate, s.cfg.Burst)
	for {
		_, b, err := sess.ws.Read(sess.ctx)
		if err != nil {
			sess.mu.Lock()
			why := sess.why
			sess.mu.Unlock()
			switch {
			case why != "":
			case errors.Is(err, websocket.ErrMessageTooBig):
				why = fmt.Sprintf("it sent a message larger than %d bytes", proto.MaxMessage)
			default:
				why = "its connection closed"
			}
			return why
		}
		now := time.Now()
		if !bucket.take(now, cost(len(b))) {
			err = fmt.Errorf("more than %g messages a second", s.cfg.Rate)
		}
		var msg proto.Message
		if err == nil {
			msg, err = proto.Decode(b)
		}
		if err != nil {
			s.post(run.Violation{ID: sess.id, Err: err})
			// The machine hangs up; until then, nothing more is accepted.
			s.drain(sess)
			return "it broke the protocol"
		}
		if !s.post(run.Message{ID: sess.id, Msg: msg}) {
			return "the host is stopping"
		}
	}
}

// drain reads and discards messages, so that the closing handshake can finish.
func (s *Server) drain(sess *session) {
	for {
		if _, _, err := sess.ws.Read(sess.ctx); err != nil {
			return
		}
	}
}
