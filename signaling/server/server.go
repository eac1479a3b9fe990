// Package server is the signaling host. It gathers providers, calls the caller's planner to
// place a job on them, relays their WebRTC signaling, serves the job's blobs, watches
// heartbeats, passes on progress and stores the trained stages. It never runs the model and
// knows nothing about it.
//
// The caller gives it a [Job]: opaque bytes for the providers, blobs by hash,
// and a function that turns the pool into assignments.
//
//	s, err := server.New(server.Config{Token: token, Store: st})
//	ln, err := server.Listen(addr, token)
//	go s.Serve(ln)
//	res, err := s.Run(ctx, job, func(ev server.Event) { ... })
//	s.Shutdown(ctx)
//
// Decisions are made by package run, a state machine without clock or socket. One goroutine,
// the loop, feeds it events and carries out its actions. Another, the outbox, writes to the
// store and calls the requester's callback.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/outbox"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
	"github.com/ravnest/ravnest/signaling/run"
)

// Server is a signaling host. It is created by New and ended by Shutdown.
type Server struct {
	cfg   Config
	log   *slog.Logger
	http  *http.Server
	store Store

	ctx     context.Context // for sessions and plans
	cancel  context.CancelFunc
	door    context.Context // for connections that have not said hello
	shut    context.CancelFunc
	in      chan input
	dead    chan struct{} // closed when the loop has ended
	out     *outbox.Outbox
	gate    *gate
	guests  *guests
	rations *rations
	relay   *relay.Relay // nil: none
	turned  turned
	ups     uploads

	watching   atomic.Int32  // dashboards
	watchEvery time.Duration // interval of their lines without news
	tries      atomic.Int32  // credentials given out by /v1/try

	wg sync.WaitGroup // sessions, transfers, plans, Serve's

	mu      sync.Mutex
	lns     []net.Listener
	conns   int // WebSockets, including those that have not said hello
	closing bool
	blobs   Blobs                     // of the current run
	parts   map[string]snapshot.Entry // that members may fetch, by digest
	inspect func(g run.Grant, r io.Reader, size int64) (order.Position, []string, error)

	// The following fields belong to the loop.
	machine   *run.Machine
	born      time.Time
	trace     *run.Trace // nil: none
	past      history
	sessions  map[string]*session
	run       *call
	wanted    int                   // providers that the last job waits for
	shards    int64                 // Job.Shards
	epoch     int                   // of the last loss
	asked     uint64                // number of upload requests so far
	answers   map[uint64]run.Action // to upload requests, until they are fetched
	planned   context.CancelFunc    // cancels the current planning
	published [2]*snapshot.Manifest // that parts are of
}

// call is a call of Run.
type call struct {
	plan    func(ctx context.Context, ask Ask) ([]Assignment, error)
	worth   func(pool []Member) bool
	verify  func(ctx context.Context, from, to *snapshot.Manifest) ([]Culprit, error)
	inquire func(ctx context.Context, ask run.AskAudit) ([]Culprit, error)
	stretch func(ctx context.Context, from, to *snapshot.Manifest) (run.Stretch, error)
	ctx     context.Context // for audits; ends with the run
	end     context.CancelFunc
	on      func(Event)
	result  Result
	err     error
	done    chan struct{}
}

// input is an event with its time, or a call, for the loop.
type input struct {
	at   time.Time
	ev   run.Event // nil: the loop must end
	sess *session  // with run.Join
	call func(now time.Time)
}

// New starts a host. It serves nothing until Serve is called or its Handler is used.
func New(cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, store: cfg.Store,
		in: make(chan input, 256), dead: make(chan struct{}), out: outbox.New(),
		machine:  run.New(cfg.settings()),
		answers:  map[uint64]run.Action{},
		sessions: map[string]*session{},
		guests:   newGuests(),
		rations:  newRations(),
		born:     time.Now(),

		watchEvery: watchEvery,
	}
	s.gate = newGate(cfg.MaxStrangers, s.guests.most, cfg.IdleTimeout)
	s.guests.expect(s.expected(0))
	if cfg.Trace != nil {
		s.trace = run.NewTrace(cfg.Trace, s.born, cfg.settings())
	}
	if cfg.RelayUDP != nil {
		var err error
		if s.relay, err = relay.New(cfg.Relay, cfg.RelayUDP); err != nil {
			s.out.Close()
			<-s.out.Done()
			return nil, fmt.Errorf("signaling: %w", err)
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.door, s.shut = context.WithCancel(s.ctx)
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withConn,
		// No HTTP/2: connections are counted, timed and closed one by one.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	go s.loop()
	return s, nil
}

// Serve accepts connections until Shutdown, and then returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	if s.cfg.Token == "" && !loopback(ln.Addr().String()) {
		_ = ln.Close()
		return fmt.Errorf("%w: %s", ErrOpen, ln.Addr())
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = ln.Close()
		return nil
	}
	s.wg.Add(1)
	s.lns = append(s.lns, ln)
	s.mu.Unlock()
	defer s.wg.Done()
	err := s.http.Serve(gateListener{ln, s})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	return fmt.Errorf("signaling: serve %s: %w", ln.Addr(), err)
}

// Run runs a job: it waits for providers, plans, and has them train. Events are passed to
// on, unless nil, from one goroutine and none after Run has returned. on may call Stop and
// Status, but not Run or Shutdown, which would wait for it. Cancelling ctx stops the run at
// once; Stop stops it gracefully. If a run is in progress already, Run returns ErrBusy. The
// error of a failed run says what is kept; Result.Checkpoint is set in that case too.
func (s *Server) Run(ctx context.Context, job Job, on func(Event)) (Result, error) {
	if err := checkJob(&job); err != nil {
		return Result{}, err
	}
	if on == nil {
		on = func(Event) {}
	}
	earlier, stale, err := s.earlier(ctx, &job)
	if err != nil {
		return Result{}, err
	}
	r := &call{plan: job.Plan, worth: job.Worth, verify: job.Verify, inquire: job.Inquire, stretch: job.Stretch, on: on, done: make(chan struct{})}
	r.ctx, r.end = context.WithCancel(s.ctx)
	defer r.end()
	busy := false
	alive := s.call(func(now time.Time) {
		if busy = s.run != nil; busy {
			return
		}
		s.run = r
		s.mu.Lock()
		s.blobs, s.inspect = job.Blobs, job.Inspect
		s.mu.Unlock()
		s.wanted, s.shards = job.Want, job.Shards
		s.guests.expect(s.expected(job.Want))
		s.step(now, run.Submit{Job: job.Job, Earlier: earlier, Stale: stale})
	})
	if !alive {
		return Result{}, fmt.Errorf("%w: the host has been shut down", ErrStopped)
	}
	if busy {
		return Result{}, ErrBusy
	}
	for {
		select {
		case <-r.done:
			return r.result, r.err
		case reason := <-job.Stop:
			s.Stop(reason)
		case <-ctx.Done():
			reason := ""
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				reason = cause.Error()
			}
			s.post(run.StopRequest{Mode: proto.Now, Reason: reason})
			<-r.done
			return r.result, r.err
		}
	}
}

// expected is how many providers may come: those that a run wants, and those invited.
func (s *Server) expected(want int) int {
	if s.cfg.Members != nil {
		want = max(want, s.cfg.Members.Expected())
	}
	return want
}

// Stop ends the run gracefully: batches in flight are finished and the state is saved. Run
// then returns with Result.Interrupted. A run that has not started training ends at once.
func (s *Server) Stop(reason string) {
	s.post(run.StopRequest{Mode: proto.Graceful, Reason: reason})
}

// Depose ends the run, since another host leads the job now. Every provider is told so, and
// nothing is saved. Run returns an error that wraps ErrDeposed.
func (s *Server) Depose(e *proto.Error) { s.post(run.Deposed{Err: e}) }

// Status returns the host's current status.
func (s *Server) Status() Status {
	var st Status
	s.call(func(now time.Time) { st = s.statusNow(now) })
	return st
}

// standby is why this host takes no providers now; nil: it takes them.
func (s *Server) standby() *proto.Error {
	if s.cfg.Standby == nil {
		return nil
	}
	return s.cfg.Standby()
}

// statusNow is Status for the loop.
func (s *Server) statusNow(now time.Time) Status {
	st := s.machine.Status(now)
	if e := s.standby(); e != nil {
		st.Phase, st.Waiting = StandingBy, e.Message
	}
	return st
}

func checkJob(job *Job) error {
	if job.ID == "" {
		job.ID = "run_" + hexBytes(4)
	}
	if err := proto.CheckName(job.ID); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	if len(job.ID) > proto.MaxName-8 {
		return fmt.Errorf("job: the id %q is too long, the limit is %d", job.ID, proto.MaxName-8)
	}
	if !json.Valid(job.Raw) {
		return errors.New("job: Raw is not JSON")
	}
	if job.AuditEvery < 0 || job.AuditEvery > 0 && (job.Verify == nil || job.Inquire == nil || !job.Audit) || job.AuditSpares && (job.AuditEvery == 0 || job.Stretch == nil) {
		return errors.New("job: it wants audits while it runs, and has not what they need")
	}
	if job.Plan == nil {
		return errors.New("job: it has no planner")
	}
	seen := map[string]bool{}
	for _, n := range job.Names {
		if err := proto.CheckName(n); err != nil {
			return fmt.Errorf("job: provider %w", err)
		}
		if seen[n] {
			return fmt.Errorf("job: the provider name %q is given twice", n)
		}
		seen[n] = true
	}
	if job.Want == 0 {
		job.Want = max(1, len(job.Names))
	}
	if job.Want < 0 || len(job.Names) > 0 && job.Want > len(job.Names) {
		return fmt.Errorf("job: it waits for %d providers but names %d", job.Want, len(job.Names))
	}
	return nil
}

// Counting sessions.

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Beside the members there may be some that are being turned away or leaving.
	if s.closing || s.conns >= s.cfg.MaxSessions+64 {
		return false
	}
	s.conns++
	s.wg.Add(1)
	return true
}

// enter admits a request, whose end must call s.wg.Done. It returns false once the host is
// shutting down.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	return true
}

func (s *Server) release() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
	s.wg.Done()
}

// Shutdown stops the run at once, says bye to all providers and waits for every goroutine.
// If ctx ends first, connections are cut and its error is returned; a planner or a store
// that does not return is still waited for, as it uses what the caller passed in. Further
// calls return nil.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	lns := s.lns
	s.mu.Unlock()
	s.shut()
	for _, ln := range lns {
		_ = ln.Close()
	}

	s.call(func(now time.Time) {
		s.step(now, run.Shutdown{Reason: "the host is shutting down"})
		if s.planned != nil {
			s.planned()
		}
	})
	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
		// Answers may still be being sent. Not longer, since this also waits for connections on
		// which nothing was ever asked.
		flush, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		_ = s.http.Shutdown(flush)
		cancel()
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	s.turned.stop()
	if s.relay != nil {
		_ = s.relay.Close()
	}
	_ = s.http.Close()
	<-gone
	s.post(nil)
	<-s.dead
	s.out.Close()
	<-s.out.Done()
	if err != nil {
		return fmt.Errorf("signaling: shutdown: %w", err)
	}
	return nil
}
