package jetstream

// Who leads.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// lead is a term in which this host leads.
type lead struct {
	fence uint64
	ctx   context.Context // ends with the term
	stop  context.CancelFunc
	over  chan struct{} // closed when the term has ended
	once  sync.Once
	done  chan struct{} // closed when nothing of it runs any more

	mu    sync.Mutex
	queue []*op
	lines int  // bytes of lines in it that are in memory
	full  bool // lines were refused, and that was told
	wake  chan struct{}
	index map[string]entry
}

// Lead waits until this host leads, which is when no other one does, and returns with the
// small objects of the host before it in the cache. ErrOver, or an error that wraps it and says
// why the run has failed: nobody leads any more, and the cache has everything.
func (s *Store) Lead(ctx context.Context) error {
	c := &copier{s: s}
	defer c.stop()
	var sign uint64 // the last sign of life
	var seen time.Time
	for {
		t, fence, alive, err := s.look(ctx)
		s.reached(err == nil || ctx.Err() != nil)
		if err == nil && alive != sign && !seen.IsZero() && s.opt.Fresh && t.State == leads {
			return fmt.Errorf("the host at %s leads this job: stop it before beginning anew with --fresh", t.URL)
		}
		if err != nil || seen.IsZero() || alive != sign { // a silence counts while NATS answers
			sign, seen = alive, time.Now()
		}
		switch vacant := fence == 0 || t.State == free || t.State == over && s.opt.Fresh; {
		case err != nil:
		case t.State == over && !s.opt.Fresh:
			return s.isOver(ctx, c, t)
		case vacant, time.Since(seen) >= s.opt.Lease:
			c.stop()
			got, err := s.take(ctx, fence)
			if got || errors.Is(err, ErrOtherJob) {
				return err
			}
			seen = time.Time{}
		default:
			if at, _ := s.Leader(); at != t.URL {
				s.opt.Say("standing by: the host at %s leads the job", t.URL)
			}
			s.setLeader(t.URL)
			c.look(ctx)
		}
		select {
		case <-time.After(s.opt.Lease / 16):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isOver ends the wait of a host whose job's run is over.
func (s *Store) isOver(ctx context.Context, c *copier, t termMessage) error {
	c.stop()
	s.setLeader("")
	if err := s.Mirror(ctx, true); err != nil {
		return fmt.Errorf("the run is over, but its results cannot be read from NATS: %w", err)
	}
	if t.Why != "" {
		return fmt.Errorf("%w: %s", ErrOver, t.Why)
	}
	return ErrOver
}

// look reads who leads, and the last sign of life.
func (s *Store) look(ctx context.Context) (t termMessage, fence, alive uint64, err error) {
	ctx, stop := context.WithTimeout(ctx, oneTry)
	defer stop()
	if fence, err = s.last(ctx, "term", &t); err == nil {
		alive, err = s.last(ctx, "alive", new(termMessage))
	}
	return t, fence, alive, err
}

func (s *Store) setLeader(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = url
}

// take makes this host the leader if the term that it has seen is still the last.
func (s *Store) take(ctx context.Context, seen uint64) (got bool, err error) {
	mine := termMessage{Host: s.id, URL: s.opt.URL, State: leads}
	tctx, stop := context.WithTimeout(ctx, oneTry)
	fence, err := s.publish(tctx, "term", mine, js.WithExpectLastSequencePerSubject(seen))
	stop()
	if isSequence(err) {
		return false, nil // another was faster
	}
	if err != nil {
		// It may have been written all the same.
		t, at, _, lerr := s.look(ctx)
		if lerr != nil || t.Host != s.id || t.State != leads || at == seen {
			return false, err
		}
		fence = at
	}
	l := &lead{fence: fence, over: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1), index: map[string]entry{}}
	l.ctx, l.stop = context.WithCancel(s.life)
	s.mu.Lock()
	s.lead, s.leader = l, s.opt.URL
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { s.renew(l) })
	wg.Go(func() { s.work(l) })
	go func() {
		wg.Wait()
		close(l.done)
	}()
	if err := s.settle(ctx, l); err != nil {
		s.depose(l)
		<-l.done
		return false, err
	}
	return true, nil
}

// settle prepares a term: the cache becomes what NATS has, or with Fresh both are emptied.
func (s *Store) settle(ctx context.Context, l *lead) error {
	var m jobMessage
	if _, err := s.last(ctx, "job", &m); err != nil {
		return err
	}
	if s.run = m.Run; !s.opt.Fresh {
		if err := s.same(m.Identity); err != nil {
			return err
		}
	}
	index, err := s.entries(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.index = index
	l.mu.Unlock()
	if s.opt.Fresh {
		s.opt.Fresh = false // once
		if err := s.clear(ctx, l); err != nil {
			return err
		}
	}
	if err := s.sweep(ctx, l); err != nil {
		return err
	}
	return s.Mirror(ctx, false)
}

// clear forgets an earlier run.
func (s *Store) clear(ctx context.Context, l *lead) error {
	l.mu.Lock()
	var names []string
	for name := range l.index {
		names = append(names, name)
	}
	l.mu.Unlock()
	for _, name := range names {
		if err := s.remove(ctx, l, name); err != nil {
			return err
		}
	}
	// Only what is older than this term.
	if err := s.stream.Purge(ctx, js.WithPurgeSubject(s.base+".log.*"), js.WithPurgeSequence(l.fence)); err != nil {
		return err
	}
	s.run = random()
	_, err := s.fenced(ctx, l, "job", jobMessage{Identity: s.opt.Identity, Run: s.run})
	return err
}

// fenced replaces the last message of a subject, on the condition that this host still leads.
func (s *Store) fenced(ctx context.Context, l *lead, subject string, v any) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	m := nats.NewMsg(s.base + "." + subject)
	m.Data = data
	m.Header.Set(js.MsgRollup, js.MsgRollupSubject)
	return s.fencedMsg(ctx, l, m)
}

// fencedMsg publishes on the condition that this host still leads.
func (s *Store) fencedMsg(ctx context.Context, l *lead, m *nats.Msg) (uint64, error) {
	s.pub.Lock()
	defer s.pub.Unlock()
	for range 20 {
		if l.ctx.Err() != nil {
			return 0, ErrDeposed
		}
		tctx, stop := context.WithTimeout(ctx, oneTry)
		ack, err := s.js.PublishMsg(tctx, m, js.WithExpectLastSequenceForSubject(l.fence, s.base+".term"), js.WithRetryAttempts(0))
		stop()
		if err == nil {
			return ack.Sequence, nil
		}
		if !isSequence(err) {
			return 0, err
		}
		// In a cluster, a message that is still under way stops the next one, too.
		_, fence, _, err := s.look(ctx)
		switch {
		case err != nil:
			return 0, err
		case fence != l.fence:
			s.depose(l)
			return 0, ErrDeposed
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, errors.New("NATS refuses what the host that leads writes")
}

// renew gives signs of life until the term ends.
func (s *Store) renew(l *lead) {
	t := time.NewTicker(s.opt.Lease / 4)
	defer t.Stop()
	renewed := time.Now()
	for {
		began := time.Now()
		_, err := s.fenced(l.ctx, l, "alive", termMessage{Host: s.id, URL: s.opt.URL})
		if l.ctx.Err() != nil || errors.Is(err, ErrDeposed) {
			return
		}
		if err == nil {
			renewed = began
		}
		s.reached(err == nil || time.Since(renewed) < s.opt.Lease/2)
		if s.opt.Ask != nil && time.Since(renewed) > s.opt.Lease {
			for _, url := range s.Others() {
				if s.opt.Ask(l.ctx, url) {
					s.setLeader(url)
					s.depose(l)
					return
				}
			}
		}
		select {
		case <-t.C:
		case <-l.ctx.Done():
			return
		}
	}
}

// depose ends a term.
func (s *Store) depose(l *lead) {
	l.once.Do(func() {
		s.mu.Lock()
		if s.lead == l {
			s.lead = nil
			if s.leader == s.opt.URL {
				s.leader = ""
			}
		}
		s.mu.Unlock()
		l.stop()
		close(l.over)
	})
}

// Deposed returns a channel that is closed when this host does not lead any more.
func (s *Store) Deposed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead != nil {
		return s.lead.over
	}
	c := make(chan struct{})
	close(c)
	return c
}

// Resign lets another host lead. What was put before is safe then, if NATS answers before ctx
// ends.
func (s *Store) Resign(ctx context.Context) error { return s.leave(ctx, termMessage{State: free}) }

// End tells the other hosts that the run is over; why: that it has failed.
func (s *Store) End(ctx context.Context, why string) error {
	return s.leave(ctx, termMessage{State: over, Why: why})
}

func (s *Store) leave(ctx context.Context, t termMessage) error {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return ErrDeposed
	}
	safe := make(chan error, 1)
	s.push(l, &op{done: func(err error) { safe <- err }})
	var err error
	select {
	case err = <-safe:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	for err == nil {
		t.Host, t.URL = s.id, s.opt.URL
		if _, err = s.fenced(ctx, l, "term", t); err == nil || errors.Is(err, ErrDeposed) || ctx.Err() != nil {
			break
		}
		err = nil
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	s.depose(l)
	<-l.done
	return err
}
