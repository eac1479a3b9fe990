// Package provider is a volunteer's side of a run, on every platform: take an
// assignment, fetch the graph and the data, connect to the other stages, train, and
// hand the trained stage back. What differs between a PC and a browser tab (sockets,
// peer connections, memory probes) comes in through the Config.
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Errors that end a provider's part in a run.
var (
	// ErrStopped is returned when the host ends the run before its end.
	ErrStopped = errors.New("the run was stopped")
	// ErrMemory is returned when the assigned stage needs more than was offered.
	ErrMemory = errors.New("the stage does not fit into the memory offered")
)

// Host is the connection to the signaling host.
type Host interface {
	Send(ctx context.Context, m proto.Message) error
	Recv(ctx context.Context) (proto.Message, error)
	Blob(ctx context.Context, r proto.Ref) ([]byte, error)
	Upload(ctx context.Context, run string, stage int, blob []byte) (proto.Ref, error)
}

// Dialer connects to another provider. offer tells which side begins; send and recv
// carry the descriptions and candidates through the host.
type Dialer interface {
	Dial(ctx context.Context, offer bool, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error)
}

// Config is what a provider brings.
type Config struct {
	Host   Host
	Dialer Dialer
	Team   *kernel.Team
	RAM    int64 // bytes it may use
	Now    func() time.Duration
	RSS    func() int64 // memory of the process now
	// Event is told in a line what happens; nil is silent.
	Event func(format string, a ...any)
	// Watch is told where a run stands, whenever that changes and with every report to
	// the host; nil is nobody.
	Watch func(Update)
	// Between is called between the kernels of a pass, if set. It may take its time: a
	// browser's event loop gets its turn there, and a pause is a call that does not return.
	Between func()
	// Once makes Serve return after one run.
	Once bool
	// ConnectTimeout bounds the time until all links are up; 0: 30 s.
	ConnectTimeout time.Duration
}

// State of a provider, as people are told.
type State string

// The states, in the order of a run.
const (
	Waiting    State = "waiting"    // for an assignment
	Connecting State = "connecting" // fetching, compiling and connecting
	Training   State = "training"
)

// Update is where a provider stands. Only State is set while it waits.
type Update struct {
	State    State          `json:"state"`
	Stage    int            `json:"stage"`
	Stages   int            `json:"stages"`
	Role     string         `json:"role,omitempty"`
	Peak     int64          `json:"peak_bytes"` // that the stage stays within
	Progress proto.Progress `json:"progress"`   // since the run's start
}

// Plan is the opaque part of an assignment: what the planner says to every stage.
type Plan struct {
	Starts []int `json:"starts"` // first graph node of each stage
	Train  int   `json:"train"`  // rows of the data set
	Val    int   `json:"val"`
	// MicroBatches is how many the planner chose, where the job leaves it open.
	MicroBatches int `json:"micro_batches,omitempty"`
}

// The kinds of data blobs.
const (
	TrainX = "train_x"
	ValX   = "val_x"
	TrainY = "train_y"
	ValY   = "val_y"
)

// maxRows bounds what a plan may announce.
const maxRows = 1 << 30

// Serve takes assignments until ctx ends, the host closes or, with Once, a run is over.
// On cancellation of ctx the current run is abandoned; Leave ends it cleanly.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Event == nil {
		cfg.Event = func(string, ...any) {}
	}
	if cfg.Watch == nil {
		cfg.Watch = func(Update) {}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 30 * time.Second
	}
	cfg.Watch(Update{State: Waiting})
	var cur *run
	ended := make(chan error, 1)
	defer func() {
		if cur != nil {
			cur.cancel(ErrStopped)
			<-ended
		}
	}()
	in := make(chan proto.Message)
	broken := make(chan error, 1)
	rctx, stopReading := context.WithCancel(context.WithoutCancel(ctx))
	var reading sync.WaitGroup
	defer reading.Wait()
	defer stopReading()
	reading.Go(func() {
		for {
			m, err := cfg.Host.Recv(rctx)
			if err != nil {
				broken <- err
				return
			}
			select {
			case in <- m:
			case <-rctx.Done():
				return
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			if cur != nil {
				leave(ctx, cfg.Host, in, broken)
			}
			return context.Cause(ctx)
		case err := <-broken:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if cur != nil {
				// A host that leaves after the last message of a run takes nothing with it.
				cur.cancel(err)
				err = <-ended
				cur = nil
			}
			return err
		case err := <-ended:
			cur = nil
			cfg.Watch(Update{State: Waiting})
			if cfg.Once || (err != nil && !errors.Is(err, ErrStopped)) {
				return err
			}
		case m := <-in:
			switch m := m.(type) {
			case *proto.Assign:
				if cur != nil {
					return fmt.Errorf("%w: assigned run %s while run %s goes on", proto.ErrProtocol, m.Run, cur.a.Run)
				}
				// The run outlives ctx until the host knows that we leave.
				cur = newRun(context.WithoutCancel(ctx), cfg, m)
				go func(r *run) { ended <- r.do() }(cur)
			case *proto.Signal:
				if cur != nil && m.Run == cur.a.Run {
					cur.signal(m)
				}
			case *proto.Start:
				if cur != nil && m.Run == cur.a.Run {
					cur.start()
				}
			case *proto.Stop:
				if cur != nil && m.Run == cur.a.Run {
					cfg.Event("stopping: %s", m.Reason)
					cur.stop(m)
				}
			case *proto.Error:
				return m
			}
		}
	}
}

// leave says goodbye in the middle of a run and gives the host a moment to hang up.
// Only then are the links cut: else the neighbours, who lose theirs, would be heard
// first, and taken for the ones that failed.
func leave(ctx context.Context, h Host, in <-chan proto.Message, gone <-chan error) {
	why := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if h.Send(ctx, &proto.Bye{Reason: proto.Text(why.Error())}) != nil {
		return
	}
	for {
		select {
		case <-in: // too late
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// run is one assignment.
type run struct {
	cfg     Config
	a       *proto.Assign
	ctx     context.Context
	cancel  context.CancelCauseFunc
	started chan struct{}
	once    sync.Once
	news    chan struct{} // the first batch is done
	ending  atomic.Bool
	mail    map[string]chan json.RawMessage // signals by peer

	mu   sync.Mutex
	prog proto.Progress // since the last report

	at        Update
	stage     *stage.Stage
	links     map[int]*transport.Link
	flopsEach float64
	lastBusy  time.Duration // at the last report
	lastTime  time.Duration
	saves     sync.WaitGroup
	saveErr   error
}

func newRun(ctx context.Context, cfg Config, a *proto.Assign) *run {
	r := &run{cfg: cfg, a: a, started: make(chan struct{}), news: make(chan struct{}, 1), mail: map[string]chan json.RawMessage{}, links: map[int]*transport.Link{}}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	for _, p := range a.Peers {
		r.mail[p.ID] = make(chan json.RawMessage, 64)
	}
	return r
}

// signal hands on what a peer sent; a peer that floods is cut off.
func (r *run) signal(m *proto.Signal) {
	ch, ok := r.mail[m.From]
	if !ok {
		return
	}
	select {
	case ch <- m.Body:
	default:
		r.cancel(fmt.Errorf("peer %s sent more than %d signals", m.From, cap(ch)))
	}
}

func (r *run) start() { r.once.Do(func() { close(r.started) }) }

func (r *run) stop(m *proto.Stop) {
	r.ending.Store(true)
	if m.Mode == proto.Now {
		r.cancel(fmt.Errorf("%w: %s", ErrStopped, m.Reason))
	}
}

// do runs the assignment and tells the host how it ended.
func (r *run) do() error {
	defer r.cancel(nil)
	// Cut last: what ended this stage reaches the host before what that does to others.
	defer func() {
		for _, l := range r.links {
			_ = l.Close()
		}
	}()
	err := r.work()
	if err != nil && r.ctx.Err() != nil {
		if c := context.Cause(r.ctx); c != nil {
			err = c
		}
	}
	if errors.Is(err, transport.ErrPeerGone) {
		err = r.name(err)
	}
	if err != nil && !errors.Is(err, ErrStopped) {
		// The run's context may be over; the host should still learn why.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 2*time.Second)
		defer cancel()
		_ = r.cfg.Host.Send(ctx, &proto.Failed{Run: r.a.Run, Stage: r.a.Stage, Error: proto.Text(err.Error())})
	}
	return err
}

// name says whose link is gone.
func (r *run) name(err error) error {
	for _, p := range r.a.Peers {
		if l := r.links[p.Stage]; p.Cluster == r.a.Cluster && l != nil && errors.Is(l.Err(), transport.ErrPeerGone) {
			return fmt.Errorf("lost %s: %w", p.Name, err)
		}
	}
	return err
}

func (r *run) work() error {
	r.at = Update{State: Connecting, Stage: r.a.Stage, Stages: r.a.Stages}
	r.cfg.Watch(r.at)
	c, cfg, err := r.prepare()
	if err != nil {
		return err
	}
	r.at.Role = c.Stage.Role()
	r.cfg.Watch(r.at)
	if err := r.connect(c); err != nil {
		return err
	}
	cfg.Links = map[int]stage.Link{}
	for k, l := range r.links {
		cfg.Links[k] = l
	}
	if r.stage, err = stage.New(c, cfg); err != nil {
		return err
	}
	if err := r.cfg.Host.Send(r.ctx, &proto.Ready{Run: r.a.Run, Peak: int64(r.stage.Memory())}); err != nil {
		return err
	}
	select {
	case <-r.started:
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
	r.at.State, r.at.Peak = Training, int64(r.stage.Memory())
	r.cfg.Watch(r.at)
	r.cfg.Event("training stage %d of %d (%s)", r.a.Stage, r.a.Stages, c.Stage.Role())

	stopReports := r.report()
	err = r.stage.Run(r.ctx, r.mark, r)
	r.saves.Wait()
	stopReports()
	if err == nil {
		err = r.saveErr
	}
	if err != nil {
		return err
	}
	return r.cfg.Host.Send(r.ctx, &proto.Done{Run: r.a.Run, Stage: r.a.Stage, Step: r.prog.Step})
}

// mark is asked before every update, on the root.
func (r *run) mark() order.Mark {
	if r.ending.Load() {
		return order.Stop
	}
	return order.Continue
}

// prepare fetches and checks what the assignment names.
func (r *run) prepare() (*stage.Compiled, stage.Config, error) {
	var cfg stage.Config
	j, err := job.Parse(r.a.Job)
	if err != nil {
		return nil, cfg, err
	}
	var plan Plan
	if err := json.Unmarshal(r.a.Plan, &plan); err != nil {
		return nil, cfg, fmt.Errorf("the assignment's plan: %w", err)
	}
	if len(plan.Starts) != r.a.Stages || r.a.Stage >= len(plan.Starts) || plan.Train < 1 || plan.Train > maxRows || plan.Val < 0 || plan.Val > maxRows {
		return nil, cfg, fmt.Errorf("the assignment's plan has %d stages over %d and %d rows, the assignment %d stages", len(plan.Starts), plan.Train, plan.Val, r.a.Stages)
	}
	if j.MicroBatches == 0 {
		if j.MicroBatches = plan.MicroBatches; j.MicroBatches < 0 || j.MicroBatches > j.BatchSize {
			return nil, cfg, fmt.Errorf("the assignment's plan splits batches of %d rows into %d micro-batches", j.BatchSize, j.MicroBatches)
		}
	}
	b, err := r.cfg.Host.Blob(r.ctx, r.a.Graph)
	if err != nil {
		return nil, cfg, fmt.Errorf("fetching the model: %w", err)
	}
	g, err := graph.Parse(b)
	if err != nil {
		return nil, cfg, err
	}
	stages, err := g.Cut(plan.Starts)
	if err != nil {
		return nil, cfg, err
	}
	s := stages[r.a.Stage]
	c, err := stage.Compile(j, s)
	if err != nil {
		return nil, cfg, err
	}
	need := c.Memory().Total()
	if r.cfg.RAM > 0 && int64(need) > r.cfg.RAM {
		return nil, cfg, fmt.Errorf("%w: stage %d needs %.1f MB, %.1f MB are offered", ErrMemory, s.Index, float64(need)/1e6, float64(r.cfg.RAM)/1e6)
	}
	cfg = stage.Config{
		TrainRows: plan.Train, ValRows: plan.Val,
		Order: data.Order, Team: r.cfg.Team, Now: r.cfg.Now, Between: r.cfg.Between,
	}
	if cfg.Weights, err = fetchWeights(r.ctx, r.cfg.Host.Blob, r.a, int64(need), r.cfg.RAM); err != nil {
		return nil, cfg, err
	}
	r.flopsEach = s.Graph.Cost(0, len(s.Graph.Nodes)).Total()
	want := map[string]*stage.Rows{}
	rows := map[string]int{TrainX: plan.Train, TrainY: plan.Train, ValX: plan.Val, ValY: plan.Val}
	if s.Index == 0 {
		want[TrainX], want[ValX] = &cfg.TrainX, &cfg.ValX
	}
	if s.Last {
		want[TrainY], want[ValY] = &cfg.TrainY, &cfg.ValY
	}
	for _, kind := range []string{TrainX, ValX, TrainY, ValY} {
		dst, ok := want[kind]
		if !ok {
			continue
		}
		ref, ok := r.a.Data[kind]
		if !ok {
			return nil, cfg, fmt.Errorf("the assignment has no %s", kind)
		}
		b, err := r.cfg.Host.Blob(r.ctx, ref)
		if err != nil {
			return nil, cfg, fmt.Errorf("fetching %s: %w", kind, err)
		}
		if _, n, err := data.Peek(b); err != nil {
			return nil, cfg, fmt.Errorf("%s: %w", kind, err)
		} else if need += n; r.cfg.RAM > 0 && int64(need) > r.cfg.RAM {
			return nil, cfg, fmt.Errorf("%w: stage %d with %s needs %.1f MB, %.1f MB are offered", ErrMemory, s.Index, kind, float64(need)/1e6, float64(r.cfg.RAM)/1e6)
		}
		half, err := data.Decode(b)
		if err != nil {
			return nil, cfg, fmt.Errorf("%s: %w", kind, err)
		}
		elems := g.Shape(g.OutputValue()).Elems()
		if dst == &cfg.TrainX || dst == &cfg.ValX {
			elems = g.Inputs[0].Shape.Elems()
		}
		if half.Len() != rows[kind] || half.Elems() != elems {
			return nil, cfg, fmt.Errorf("%s has %d rows of %d elements, the plan says %d of %d", kind, half.Len(), half.Elems(), rows[kind], elems)
		}
		*dst = half
	}
	return c, cfg, nil
}

// connect opens the links to every stage that shares a tensor with this one, all at
// once; the earlier stage of a pair begins.
func (r *run) connect(c *stage.Compiled) error {
	need := map[int]bool{}
	for _, p := range c.Peers() {
		need[p] = true
	}
	ctx, cancel := context.WithTimeoutCause(r.ctx, r.cfg.ConnectTimeout, fmt.Errorf("no connection to the other stages within %v", r.cfg.ConnectTimeout))
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, p := range r.a.Peers {
		if p.Cluster != r.a.Cluster || !need[p.Stage] {
			continue
		}
		delete(need, p.Stage)
		wg.Go(func() {
			send := func(b json.RawMessage) error {
				return r.cfg.Host.Send(ctx, &proto.Signal{Run: r.a.Run, To: p.ID, Body: b})
			}
			pipe, err := r.cfg.Dialer.Dial(ctx, c.Stage.Index < p.Stage, send, r.mail[p.ID])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("connecting to stage %d (%s): %w", p.Stage, p.Name, err))
				cancel()
				return
			}
			r.links[p.Stage] = transport.NewLink(pipe, c.Link(p.Stage))
		})
	}
	wg.Wait()
	for k := range need {
		errs = append(errs, fmt.Errorf("the assignment names no provider for stage %d", k))
	}
	return errors.Join(errs...)
}

// report sends what has happened four times a second until the returned function,
// which sends the rest, is called.
func (r *run) report() (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.lastTime = r.cfg.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(250 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.news: // the first batch is reported at once
			case <-t.C:
			}
			if err := r.flush(ctx); err != nil && ctx.Err() == nil {
				r.cancel(fmt.Errorf("telling the host: %w", err))
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		_ = r.flush(r.ctx)
	}
}

func (r *run) flush(ctx context.Context) error {
	var out, in int64
	for _, l := range r.links {
		s := l.Stats()
		out, in = out+s.SentPayload, in+s.ReceivedPayload
	}
	r.mu.Lock()
	p, busy, now := r.prog, r.stage.Busy(), r.cfg.Now()
	r.prog.Losses, r.prog.Vals = nil, nil
	r.mu.Unlock()
	if d := now - r.lastTime; d > 0 {
		p.Busy = min(max((busy-r.lastBusy).Seconds()/d.Seconds(), 0), 1)
	}
	r.lastBusy, r.lastTime = busy, now
	p.Run, p.Stage, p.Out, p.In = r.a.Run, r.a.Stage, out, in
	p.FLOPs = float64(p.Samples) * r.flopsEach
	if r.cfg.RSS != nil {
		p.RSS = r.cfg.RSS()
	}
	at := r.at
	at.Progress = p
	r.cfg.Watch(at)
	// A message holds a bounded number of losses.
	losses, vals := p.Losses, p.Vals
	for first := true; first || len(losses) > 0 || len(vals) > 0; first = false {
		n, k := min(len(losses), proto.MaxLosses), min(len(vals), proto.MaxVals)
		p.Losses, p.Vals, losses, vals = losses[:n], vals[:k], losses[n:], vals[k:]
		m := p
		if err := r.cfg.Host.Send(ctx, &m); err != nil {
			return err
		}
	}
	return nil
}

// Loss implements stage.Observer.
func (r *run) Loss(l stage.Loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog.Losses = append(r.prog.Losses, proto.Loss{Step: int64(l.Step), Epoch: l.Epoch, Loss: proto.Real(l.Value)})
}

// Validated implements stage.Observer.
func (r *run) Validated(v stage.Validation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog.Vals = append(r.prog.Vals, proto.Val{Step: int64(v.Step), Epoch: v.Epoch, Correct: int64(v.Correct), Total: int64(v.Total), Loss: proto.Real(v.Loss)})
}

// Batch implements stage.Observer.
func (r *run) Batch(rows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog.Samples += int64(rows)
	r.prog.Step++
	r.prog.Raw = r.stage.Raw()
	if r.prog.Step == 1 {
		r.news <- struct{}{}
	}
}

// Keep implements stage.Observer: the state is uploaded while training goes on; two
// uploads of a stage never overlap.
func (r *run) Keep(s stage.Saved) error {
	r.saves.Wait()
	if r.saveErr != nil {
		return r.saveErr
	}
	b, err := s.Part.Bytes() // the part's tensors change when this returns
	if err != nil {
		return err
	}
	at, err := json.Marshal(s.Part.Position)
	if err != nil {
		return err
	}
	r.saves.Go(func() {
		ref, err := r.cfg.Host.Upload(r.ctx, r.a.Run, r.a.Stage, b)
		if err == nil {
			err = r.cfg.Host.Send(r.ctx, &proto.Saved{Run: r.a.Run, Stage: r.a.Stage, Step: int64(s.Step), Epoch: s.Epoch, Blob: ref, Position: at})
		}
		if err != nil {
			r.saveErr = fmt.Errorf("saving stage %d after step %d: %w", r.a.Stage, s.Step, err)
		}
	})
	return nil
}
