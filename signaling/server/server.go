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
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/outbox"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/store"
)

// Store keeps objects and logs. Objects are replaced as a whole or not at all; names are
// slash-separated paths. It must be safe for concurrent use. Package store has
// implementations.
type Store interface {
	// Put stores everything that r yields up to io.EOF. After an error, its own or r's, an
	// earlier object of that name is unchanged.
	Put(ctx context.Context, name string, r io.Reader) error
	// Commit puts a small object and calls done once it and all that was put before it are
	// safe, also for other hosts that share the store, or with the error that prevents it. done
	// may be called before Commit returns, or later from another goroutine. Commits are done in
	// the order of the calls.
	Commit(ctx context.Context, name string, data []byte, done func(error))
	// Get opens an object, or returns fs.ErrNotExist.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the names that start with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object if it exists.
	Delete(ctx context.Context, name string) error
	// Append adds a line to a log.
	Append(ctx context.Context, log string, line []byte) error
}

// Config configures a host. Every field's comment gives its default or the meaning of its
// zero value.
type Config struct {
	Token string // join token; "": none, for loopback only
	Agent string // the program and its release, told to providers; "": not told
	// Members admits providers by their keys, beside the token; nil: only the token counts.
	Members Members
	Site    http.Handler // serves all paths but /v1/; nil: a line of text
	Store   Store        // nil: in memory
	Once    bool         // say bye to the providers when a run is over
	// Standby says why this host takes no providers now: another one leads the job. nil, or a
	// nil result: it takes them.
	Standby func() *proto.Error
	// Hosts returns the addresses of all hosts that serve the job; nil: this is the only one.
	Hosts func() []string
	ICE   []proto.ICEServer

	TLS      *tls.Config    // nil: plain http
	Public   *url.URL       // address by which the host is known outside; nil: any
	Proxy    bool           // trust Forwarded and X-Forwarded-*, as only a proxy reaches the host
	RelayUDP net.PacketConn // socket of the relay for providers without a direct path; nil: no relay
	Relay    relay.Config

	Heartbeat    time.Duration // 1.5 s
	Timeout      time.Duration // silence after which a provider is dead, 3 heartbeats
	HelloTimeout time.Duration // for a connection's first message, 5 s
	WriteTimeout time.Duration // for sending a message, 5 s
	IdleTimeout  time.Duration // for a transfer that makes no progress, 30 s
	ReadyTimeout time.Duration // from assigned to ready; restarted by every byte fetched; 60 s
	DrainTimeout time.Duration // from the first stage done to the last; restarted by progress; 60 s
	StopTimeout  time.Duration // the same after a graceful stop, 5 s
	Grace        time.Duration // how long to wait for a lost provider, 15 s
	Away         time.Duration // how long a session outlives its connection, Timeout; negative: not at all
	Checkpoint   time.Duration // minimum time between checkpoints that the host asks for, 10 s; negative: none
	Stall        time.Duration // minimum time without progress before a stage counts as stuck, 30 s
	AuditKeep    int64         // bytes of the audit log that are kept beside what audits may still need, 256 MiB

	MaxSessions int // providers, 8192
	// MaxStrangers bounds the connections that are not providers'. Beyond it, a new one
	// replaces an idle one. 512
	MaxStrangers int
	MaxUpload    int64   // bytes of a trained stage, 4 GiB
	Rate, Burst  float64 // messages per second and session, per 4 KiB each; 100 and 600

	Log   *slog.Logger // for details below the level of events; nil: none
	Trace io.Writer    // records the run machine's events, for run.Replay; nil: not recorded
}

func (c *Config) fill() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Heartbeat, 1500*time.Millisecond)
	def(&c.Timeout, 3*c.Heartbeat)
	def(&c.Away, c.Timeout)
	def(&c.HelloTimeout, 5*time.Second)
	def(&c.WriteTimeout, 5*time.Second)
	def(&c.IdleTimeout, 30*time.Second)
	if c.Heartbeat < time.Millisecond || c.Timeout < c.Heartbeat {
		return fmt.Errorf("signaling: a heartbeat of %v with a timeout of %v: want at least 1ms, and the timeout not below the heartbeat", c.Heartbeat, c.Timeout)
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 8192
	}
	if c.MaxStrangers == 0 {
		c.MaxStrangers = 512
	}
	if c.MaxUpload == 0 {
		c.MaxUpload = 4 << 30
	}
	if c.Rate == 0 {
		c.Rate = proto.Rate
	}
	if c.Burst == 0 {
		c.Burst = proto.Burst / proto.Rate * c.Rate
	}
	if err := proto.CheckToken(c.Token); err != nil {
		return fmt.Errorf("signaling: %w", err)
	}
	if c.Store == nil {
		c.Store = &store.Mem{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

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
	parts   map[string]snapshot.Entry // of the newest checkpoint, by digest
	inspect func(g run.Grant, r io.Reader, size int64) (order.Position, []string, error)

	// The following fields belong to the loop.
	machine  *run.Machine
	born     time.Time
	trace    *run.Trace // nil: none
	past     history
	sessions map[string]*session
	run      *call
	wanted   int                   // providers that the last job waits for
	shards   int64                 // Job.Shards
	epoch    int                   // of the last loss
	asked    uint64                // number of upload requests so far
	answers  map[uint64]run.Action // to upload requests, until they are fetched
	planned  context.CancelFunc    // cancels the current planning
}

// call is a call of Run.
type call struct {
	plan   func(ctx context.Context, ask Ask) ([]Assignment, error)
	worth  func(pool []Member) bool
	verify func(ctx context.Context, from, to *snapshot.Manifest) ([]Culprit, error)
	ctx    context.Context // for audits; ends with the run
	end    context.CancelFunc
	on     func(Event)
	result Result
	err    error
	done   chan struct{}
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

func (c *Config) settings() run.Settings {
	return run.Settings{
		Heartbeat: c.Heartbeat, Timeout: c.Timeout, ReadyTimeout: c.ReadyTimeout, DrainTimeout: c.DrainTimeout,
		StopTimeout: c.StopTimeout, Grace: c.Grace, Away: c.Away, Checkpoint: c.Checkpoint, Stall: c.Stall, AuditKeep: c.AuditKeep,
		MaxMembers: c.MaxSessions, Once: c.Once,
	}
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
	r := &call{plan: job.Plan, worth: job.Worth, verify: job.Verify, on: on, done: make(chan struct{})}
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
	if job.AuditEvery < 0 || job.AuditEvery > 0 && (job.Verify == nil || !job.Audit) {
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

// The loop.

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

// publish makes the newest checkpoint available to providers that resume from it.
func (s *Server) publish() {
	var parts map[string]snapshot.Entry
	if c := s.machine.Checkpointed(); c != nil {
		parts = make(map[string]snapshot.Entry, len(c.Parts))
		for _, e := range c.Parts {
			parts[e.SHA256] = e
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
		s.audit(a)
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

// audit has a stretch computed again, once the store has all that it needs.
func (s *Server) audit(a run.AskAudit) {
	r := s.run
	s.wg.Add(1)
	s.out.Push(func() {
		go func() {
			defer s.wg.Done()
			cs, err := r.verify(r.ctx, a.From, a.To)
			if r.ctx.Err() == nil {
				s.post(run.Audited{Seq: a.Seq, Culprits: cs, Gone: errors.Is(err, ErrGone), Err: err})
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
