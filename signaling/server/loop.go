package server

// The loop: one goroutine feeds the run machine with events and carries out its actions, and waits
// for nobody.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// post hands an event to the loop. It returns false if the loop has ended. A run.Join comes
// with its session.
func (s *Server) post(ev run.Event, sess ...*session) bool {
	in := input{at: time.Now(), ev: ev}
	if len(sess) > 0 {
		in.sess = sess[0]
	}
	select {
	case s.in <- in:
		return true
	case <-s.dead:
		return false
	}
}

// call runs f in the loop and waits for it. It returns false if the loop has ended.
func (s *Server) call(f func(now time.Time)) bool {
	done := make(chan struct{})
	in := input{at: time.Now(), call: func(now time.Time) {
		defer close(done)
		f(now)
	}}
	select {
	case s.in <- in:
	case <-s.dead:
		return false
	}
	select {
	case <-done:
		return true
	case <-s.dead:
		return false
	}
}

func (s *Server) loop() {
	defer close(s.dead)
	defer s.flush()
	// Four ticks per heartbeat: silence is noticed at most a quarter of one late.
	t := time.NewTicker(max(s.cfg.Heartbeat/4, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			s.step(now, run.Tick{})
		case in := <-s.in:
			if in.call != nil {
				in.call(in.at)
				continue
			}
			switch ev := in.ev.(type) {
			case nil:
				return
			case run.Join:
				s.sessions[ev.ID] = in.sess
			case run.Leave:
				s.forget(s.sessions[ev.ID])
			}
			s.step(in.at, in.ev)
		}
	}
}

// forget drops a session that has ended.
func (s *Server) forget(sess *session) {
	if sess == nil {
		return
	}
	delete(s.sessions, sess.id)
	s.rations.forget(sess.secret)
	if sess.ice != nil {
		s.relay.Drop(sess.id)
	}
}

// step gives the machine an event and carries out the actions that follow, without blocking.
func (s *Server) step(now time.Time, ev run.Event) {
	// Wall time that advances by the monotonic clock, so that a trace has the same times.
	now = s.born.Add(now.Sub(s.born))
	actions := s.tell(now, ev)
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		if msg, ok := a.(run.Send); ok {
			if err := s.send(msg); err != nil {
				// Tell the machine now instead of when the reader notices.
				actions = append(actions, s.tell(now, run.Leave{ID: msg.ID, Reason: err.Error()})...)
			}
			continue
		}
		s.carryOut(now, a)
	}
	s.publish()
}

// tell gives the machine an event and records it in the trace.
func (s *Server) tell(now time.Time, ev run.Event) []run.Action {
	if s.trace != nil {
		s.trace.Event(now, ev)
		if _, tick := ev.(run.Tick); tick {
			s.flush()
		}
	}
	return s.machine.Step(now, ev)
}

// flush writes the trace out. After an error the trace ends.
func (s *Server) flush() {
	if s.trace == nil {
		return
	}
	if err := s.trace.Flush(); err != nil {
		s.trace = nil
		s.log.Warn("the trace ends here", "err", err)
	}
}

// publish makes checkpoints available to providers that go on from them.
func (s *Server) publish() {
	cs := s.machine.Wanted()
	if cs == s.published {
		return
	}
	s.published = cs
	parts := map[string]snapshot.Entry{}
	for _, c := range cs {
		if c != nil {
			for _, e := range c.Parts {
				parts[e.SHA256] = e
			}
		}
	}
	s.mu.Lock()
	s.parts = parts
	s.mu.Unlock()
}

func (s *Server) carryOut(now time.Time, a run.Action) {
	switch a := a.(type) {
	case run.HangUp:
		sess := s.sessions[a.ID]
		if sess == nil {
			return
		}
		end := sess.finish
		if a.Abrupt {
			end = sess.abort
		}
		if !end(a.Reason) {
			s.forget(sess) // there is no connection whose end would tell
		}
	case run.AskPlan:
		s.plan(a)
	case run.AskWorth:
		worth := s.run.worth
		s.wg.Go(func() { s.post(run.Worth{Seq: a.Seq, Better: worth == nil || worth(a.Pool)}) })
	case run.AskAudit:
		s.audit(func(r *call) run.Event {
			if a.Failed != "" {
				cs, err := r.inquire(r.ctx, a)
				e := run.Audited{Seq: a.Seq, Culprits: cs, Diverges: errors.Is(err, ErrDiverged)}
				if !e.Diverges {
					e.Err = err
				}
				return e
			}
			cs, err := r.verify(r.ctx, a.From, a.To)
			return run.Audited{Seq: a.Seq, Culprits: cs, Gone: errors.Is(err, ErrGone), Err: err}
		})
	case run.AskStretch:
		s.audit(func(r *call) run.Event {
			x, err := r.stretch(r.ctx, a.From, a.To)
			return run.Stretched{Seq: a.Seq, Stretch: x, Err: err}
		})
	case run.Emit:
		s.past.take(now, a.Report)
		s.passes(a.Report)
		on := s.run.on
		s.out.Push(func() { on(a.Report) })
	case run.Put:
		s.out.Push(func() {
			if err := s.store.Put(context.Background(), a.Object, bytes.NewReader(a.Data)); err != nil {
				s.post(run.StoreFault{Object: a.Object, Err: err})
			}
		})
	case run.PutManifest:
		s.out.Push(func() {
			s.store.Commit(context.Background(), a.Object, a.Data, func(err error) {
				s.post(run.Commit{Run: a.Run, Err: err})
			})
		})
	case run.Discard:
		s.out.Push(func() {
			for _, o := range a.Objects {
				if err := s.store.Delete(context.Background(), o); err != nil {
					s.post(run.StoreFault{Err: err})
				}
			}
		})
	case run.AppendLine:
		s.out.Push(func() {
			if err := s.store.Append(context.Background(), a.Log, a.Line); err != nil {
				s.log.Warn("metrics", "err", err)
			}
		})
	case run.Grant:
		s.answers[a.Seq] = a
	case run.Denial:
		s.answers[a.Seq] = a
	case run.Finish:
		s.finishRun(a)
	default:
		panic(fmt.Sprintf("server: unknown action %T", a))
	}
}

// passes notes that an epoch or a validation pass is over, so that shards are fetched again.
func (s *Server) passes(r run.Report) {
	switch r := r.(type) {
	case run.Loss:
		if r.Epoch != s.epoch {
			s.epoch = r.Epoch
			s.rations.passed()
		}
	case run.Val:
		s.rations.passed()
	}
}

func (s *Server) send(a run.Send) error {
	sess := s.sessions[a.ID]
	if sess == nil {
		return nil // gone; its Leave event follows
	}
	switch m := a.Msg.(type) {
	case *proto.Welcome:
		m.Agent = s.cfg.Agent
		m.Session, m.ICE = sess.secret, append(append([]proto.ICEServer{}, s.cfg.ICE...), sess.ice...)
		if s.cfg.Hosts != nil {
			m.Hosts = s.cfg.Hosts()
		}
		sess.mu.Lock()
		sess.welcome = m
		sess.mu.Unlock()
	case *proto.Assign:
		s.rations.assigned(time.Now(), sess.secret, m, s.shards)
		sess.links.Add(int64(len(m.Peers)))
	case *proto.Ping:
		m.Got = sess.has()
	}
	b, err := proto.Encode(a.Msg)
	if err != nil {
		s.log.Error("cannot say", "type", a.Msg.Type(), "err", err)
		err = fmt.Errorf("the host cannot encode %s: %w", a.Msg.Type(), err)
	} else if !sess.push(b, !proto.Counted(a.Msg)) {
		err = errSlow
	}
	if err != nil && !sess.abort(err.Error()) {
		s.forget(sess)
	}
	return err
}

func (s *Server) plan(a run.AskPlan) {
	if s.planned != nil {
		s.planned()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.planned = cancel
	plan := s.run.plan
	s.wg.Go(func() {
		defer cancel()
		placed, err := plan(ctx, a)
		s.post(run.Plan{Seq: a.Seq, Placed: placed, Err: err, Wait: errors.Is(err, ErrPool)})
	})
}

// audit does what a stretch is computed again by, once the store has all that it needs.
func (s *Server) audit(do func(*call) run.Event) {
	r := s.run
	s.wg.Add(1)
	s.out.Push(func() {
		go func() {
			defer s.wg.Done()
			if ev := do(r); r.ctx.Err() == nil {
				s.post(ev)
			}
		}()
	})
}

func (s *Server) finishRun(a run.Finish) {
	r := s.run
	r.end()
	s.run = nil
	if s.planned != nil {
		s.planned()
		s.planned = nil
	}
	s.mu.Lock()
	s.blobs, s.inspect = nil, nil
	s.mu.Unlock()
	s.out.Push(func() {
		r.result, r.err = a.Result, a.Err
		close(r.done)
	})
}
