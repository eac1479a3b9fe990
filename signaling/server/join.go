package server

// Who comes: a connection from its first message to its session, or to being turned away.

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

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
	from := s.guestOf(r)
	if s.cfg.Token != "" && !s.guests.hosts(from) {
		if wait := s.guests.take(time.Now(), from, hellos, 1); wait > 0 {
			s.turnAway("", s.from(r), errOften)
			often(w, wait)
			return
		}
	}
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
	if err == nil && hello.Pass {
		s.givePass(ctx, ws, hello)
		return
	}
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
	s.guests.add(time.Now(), from, hellos, -1)
	defer s.guests.join(time.Now(), from)()
	ws.SetReadLimit(proto.MaxMessage)
	l := newLine(ctx, cancel, ws)
	if hello.Return != nil {
		s.comeBack(l, hello.Return)
		return
	}
	sess := &session{
		id: "p" + hexBytes(8), secret: hexBytes(16), key: hello.Key, keeps: s.cfg.Away > 0, line: l, last: l,
		bucket: newBucket(time.Now(), s.cfg.Rate, s.cfg.Burst),
	}
	sess.ice = s.ice(r, sess.id, hello.Platform == "js/wasm")
	s.carry(sess, l, run.Join{ID: sess.id, Addr: s.from(r), Hello: *hello})
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

// hello waits for the first message, checks it, and has the provider prove its key. The hello
// is returned even with an error, if the message was one.
func (s *Server) hello(ws *websocket.Conn) (*proto.Hello, error) {
	ctx, cancel := context.WithTimeout(s.door, s.cfg.HelloTimeout)
	defer cancel()
	raw, msg, err := s.receive(ctx, ws)
	if err != nil {
		return nil, err
	}
	hello, ok := msg.(*proto.Hello)
	if !ok {
		return nil, &proto.Error{Code: proto.Protocol, Message: fmt.Sprintf("the first message must be hello, not %s", msg.Type())}
	}
	if e := s.standby(); e != nil {
		return hello, e
	}
	if hello.Return != nil { // its session's secret says who it is
		if !s.shows(hello.Token) {
			return hello, errBadToken
		}
		return hello, nil
	}
	if hello.Key != "" {
		if err := s.prove(ctx, ws, hello.Key, raw); err != nil {
			return hello, err
		}
	}
	return hello, s.mayJoin(hello)
}

// receive reads a message of somebody who has not joined.
func (s *Server) receive(ctx context.Context, ws *websocket.Conn) ([]byte, proto.Message, error) {
	_, b, err := ws.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	msg, err := proto.Decode(b)
	var v *proto.VersionError
	if errors.As(err, &v) {
		return nil, nil, s.otherVersion(v)
	}
	if err != nil {
		return nil, nil, &proto.Error{Code: proto.Protocol, Message: err.Error()}
	}
	return b, msg, nil
}

// otherVersion tells who speaks another version of the protocol what to do.
func (s *Server) otherVersion(v *proto.VersionError) *proto.Error {
	release := s.cfg.Agent
	if release == "" {
		release = "ravnest"
	}
	e := &proto.Error{
		Code:    proto.BadVersion,
		Message: fmt.Sprintf("the provider speaks protocol version %d, but this host (%s) speaks version %d", v.Got, release, v.Want),
		Hint:    "the provider is older: get the release that the host runs; for a tab, reload the page",
	}
	if v.Got > v.Want {
		e.Hint = "the host is older: ask its requester to update it, or lend with the release that it runs"
	}
	return e
}
