// Package provider is the volunteer's side of training on every platform. A provider joins
// a host, takes an assignment, fetches what it names, connects to the other stages, trains,
// uploads the result, and waits for the next. Package machine decides; Serve carries out.
// Whatever differs between a PC and a browser tab (sockets, peer connections, memory
// probes) is passed in through Config.
package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/signaling/outbox"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Errors that end a provider's part in a run.
var (
	// ErrStopped is returned when the host stops the run early.
	ErrStopped = errors.New("the run was stopped")
	// ErrMemory is returned when the assigned stage needs more than was offered.
	ErrMemory = errors.New("the stage does not fit into the memory offered")
)

// Host is a session with the signaling host. Until ctx ends, Send returns only once the
// message is sent or the session is over. The end of a ctx never ends the session.
type Host interface {
	Send(ctx context.Context, m proto.Message) error
	Recv(ctx context.Context) (proto.Message, error)
	// Blob fetches the blob r. It calls have, unless nil, from time to time with the number
	// of bytes received so far.
	Blob(ctx context.Context, r proto.Ref, have func(int64)) ([]byte, error)
	// BlobTo writes the blob r to w, however large it is. What was written is verified only if
	// there is no error.
	BlobTo(ctx context.Context, r proto.Ref, w io.Writer, have func(int64)) error
	Upload(ctx context.Context, run string, stage int, blob []byte) (proto.Ref, error)
	// Close says goodbye and ends the session.
	Close(reason string)
}

// Dialer connects to other providers. Both sides first send each other what Here returns;
// Connect is passed the peer's as here. The side with offer begins. send and recv carry
// session descriptions and candidates through the host.
type Dialer interface {
	Here() json.RawMessage
	Connect(ctx context.Context, offer bool, here json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error)
}

// Config is what a platform supplies.
type Config struct {
	// Join opens a session with the host, and a dialer configured as the host wishes.
	Join func(ctx context.Context) (Host, Dialer, error)
	// Judge says, for an error of Join or of a session, whether the host ended the session
	// on purpose, and whether joining again may help. nil: neither.
	Judge func(error) (goodbye, again bool)
	Team  *kernel.Team
	RAM   int64 // bytes it may use
	Now   func() time.Duration
	RSS   func() int64 // current memory use of the process
	// Event, unless nil, receives one line of text for each thing that happens.
	Event func(format string, a ...any)
	// Watch, unless nil, receives the provider's status whenever it changes and with every
	// report to the host.
	Watch func(Update)
	// Between, unless nil, is called between the kernels of a pass, and now and then in whatever
	// else takes long: drawing weights, writing and hashing a state. It may block: a browser
	// runs its event loop there, and pauses training by not returning for a while.
	Between func()
	// Hooks are the stage's.
	Hooks stage.Hooks
	// AtOnce, when closed, makes the provider leave without waiting for its state to be saved.
	AtOnce <-chan struct{}
	// Rules say when to leave and how long to wait.
	Rules machine.Rules
}

// Update is a provider's status.
type Update struct {
	State    machine.State  `json:"state"`
	Text     string         `json:"text,omitempty"` // the reason, if it is not obvious
	Stage    int            `json:"stage"`
	Stages   int            `json:"stages"` // 0: no assignment
	Role     string         `json:"role,omitempty"`
	Peak     int64          `json:"peak_bytes"` // upper bound on the stage's memory
	Have     int64          `json:"have_bytes"` // fetched so far
	Want     int64          `json:"want_bytes"`
	Progress proto.Progress `json:"progress"` // since the attempt's start
}

// Plan is the part of an assignment that the host does not interpret: the planner's
// decisions, the same for every stage of a cluster.
type Plan struct {
	Clusters []stage.Cluster `json:"clusters"` // of the attempt, with their cuts and replicas
	Train    int             `json:"train"`    // rows to train on
	Val      int             `json:"val"`      // rows to validate on
	// MicroBatches is the planner's choice if the job leaves the number open.
	MicroBatches int `json:"micro_batches,omitempty"`
	// InFlight is the planner's choice of how many replicas' units share the pipeline at
	// once, if the job leaves it open.
	InFlight int `json:"in_flight,omitempty"`
	// Halves is the planner's choice of backward passes in two halves, for a synchronous job: the
	// schedule zb, which has the same result.
	Halves bool `json:"halves,omitempty"`
	// Threads is with how many each of the cluster's stages computes, where others have the rest of its
	// machine's cores; 0, or none at all: with as many as are lent. It changes no bit.
	Threads []int `json:"threads,omitempty"`
	// Hold says that the stages hold their states in memory when the host asks for it, and
	// Copies which of the cluster's stages keep copies of others'.
	Hold   bool   `json:"hold,omitempty"`
	Copies []Copy `json:"copies,omitempty"`
	// Record says how many replicas there are from which step on, if the job leaves it open.
	Record []order.Period `json:"record,omitempty"`
}

// In is the job with what the plan has chosen where the job leaves it open.
func (p Plan) In(j job.Spec) (job.Spec, error) {
	j, err := j.In(p.Record)
	if err != nil {
		return j, fmt.Errorf("the assignment's plan: %w", err)
	}
	if j.MicroBatches == 0 {
		if j.MicroBatches = p.MicroBatches; j.MicroBatches < 0 || j.MicroBatches > j.BatchSize {
			return j, fmt.Errorf("the assignment's plan splits batches of %d rows into %d micro-batches", j.BatchSize, j.MicroBatches)
		}
	}
	if j.InFlight == 0 {
		if j.InFlight = p.InFlight; j.InFlight < 0 || j.InFlight > j.Replica() {
			return j, fmt.Errorf("the assignment's plan keeps %d units in flight, but there are %d replicas", j.InFlight, j.Replica())
		}
	}
	if p.Halves {
		if j.Schedule == job.Async {
			return j, fmt.Errorf("the assignment's plan has backward passes in two halves, but the job's schedule is %s", j.Schedule)
		}
		j.Schedule = job.ZB
	}
	return j, nil
}

// threads is with how many a stage computes whose provider lends so many.
func (p Plan) threads(stage, lent int) (int, error) {
	if len(p.Threads) == 0 {
		return lent, nil
	}
	if stage >= len(p.Threads) || p.Threads[stage] < 0 {
		return 0, fmt.Errorf("the assignment's plan has stages compute with %v threads, which says nothing of stage %d", p.Threads, stage)
	}
	return min(cmp.Or(p.Threads[stage], lent), lent), nil
}

// The kinds of data blobs.
const (
	TrainX = "train_x"
	ValX   = "val_x"
	TrainY = "train_y"
	ValY   = "val_y"
)

// maxRows bounds the rows that a plan may name.
const maxRows = 1 << 30

// driver carries out the machine's decisions.
type driver struct {
	cfg    Config
	m      *machine.Machine
	events chan happening
	over   chan struct{} // closed once no more events are taken
	wg     sync.WaitGroup
	ctx    context.Context // for everything that must end with Serve
	out    *outbox.Outbox
	stash  stash
	kept   kept
	conns  connections
	work   work

	host   Host
	dialer Dialer
	cur    *attempt
	shown  atomic.Value // the last machine.State shown
	errs   []error      // recent errors, latest last; the machine may quit with the text of one
	quit   *machine.Quit
}

// happening is an event together with values that the machine does not see.
type happening struct {
	ev     machine.Event
	host   Host
	dialer Dialer
	err    error
}

// Serve runs the provider until its rules or the end of ctx make it leave. If a stage is
// being trained when ctx ends, the host is given the time of the rules to save it first.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Event == nil {
		cfg.Event = func(string, ...any) {}
	}
	if cfg.Watch == nil {
		cfg.Watch = func(Update) {}
	}
	if cfg.Judge == nil {
		cfg.Judge = func(error) (bool, bool) { return false, false }
	}
	// Work in progress outlives ctx until the host knows that the provider leaves.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	d := &driver{cfg: cfg, m: machine.New(cfg.Rules), events: make(chan happening), out: outbox.New(), over: make(chan struct{}), ctx: life}
	d.conns.wg, d.cfg.Between = &d.wg, d.work.between(cfg.Between)
	d.loop(ctx)
	return d.finish(ctx, end)
}

// loop handles events until the machine quits.
func (d *driver) loop(ctx context.Context) {
	asked, atOnce := ctx.Done(), d.cfg.AtOnce
	d.step(machine.Start{})
	for d.quit == nil {
		var due <-chan time.Time
		var timer *time.Timer
		if at, ok := d.m.Deadline(); ok {
			timer = time.NewTimer(max(at-d.cfg.Now(), 0))
			due = timer.C
		}
		select {
		case h := <-d.events:
			d.take(h)
		case <-due:
			d.step(machine.Tick{})
		case <-asked:
			asked = nil
			d.step(machine.Leave{Reason: context.Cause(ctx).Error()})
		case <-atOnce:
			atOnce = nil
			d.step(machine.Leave{Reason: "leaving at once", AtOnce: true})
		}
		if timer != nil {
			timer.Stop()
		}
	}
	close(d.over)
}

// finish says goodbye and shuts everything down. The links are closed last: otherwise the
// neighbours might report the broken links first, and be blamed for them.
func (d *driver) finish(ctx context.Context, end func()) error {
	d.out.Close()
	select {
	case <-d.out.Done():
	case <-time.After(goodbye):
	}
	if d.host != nil {
		d.host.Close(proto.Text(d.quit.Why))
	}
	end()
	if d.cur != nil {
		d.cur.cancel(ErrStopped)
		<-d.cur.ended
		d.cur.unlink()
	}
	d.conns.only(nil)
	d.wg.Wait()
	<-d.out.Done()
	switch {
	case ctx.Err() != nil && d.quit.Outcome == machine.None:
		return context.Cause(ctx)
	case d.quit.Outcome == machine.None:
		return nil
	case d.quit.Why == "":
		return nil
	case d.quit.Outcome == machine.Stopped:
		return fmt.Errorf("%w: %s", ErrStopped, d.quit.Why)
	}
	for i := len(d.errs) - 1; i >= 0; i-- {
		if d.errs[i].Error() == d.quit.Why {
			return d.errs[i]
		}
	}
	return errors.New(d.quit.Why)
}

// goodbye bounds the time for sending the last messages when the provider leaves.
const goodbye = 2 * time.Second

// post hands an event to the loop, from any other goroutine.
func (d *driver) post(h happening) {
	select {
	case d.events <- h:
	case <-d.over:
		if h.host != nil && h.host != d.host {
			h.host.Close("leaving") // joined too late
		}
	}
}

func (d *driver) take(h happening) {
	if h.err != nil {
		d.errs = append(d.errs[max(0, len(d.errs)-8):], h.err)
	}
	switch h.ev.(type) {
	case machine.Joined:
		d.host, d.dialer = h.host, h.dialer
		d.wg.Go(func() { d.listen(h.host) })
	case machine.Lost:
		host := d.host
		d.wg.Go(func() { host.Close("") }) // the session is over; release its resources
		d.host, d.dialer = nil, nil
	}
	d.step(h.ev)
}

func (d *driver) step(ev machine.Event) {
	for _, a := range d.m.Step(d.cfg.Now(), ev) {
		d.do(a)
	}
}

// do carries out an action. It must not wait for anything that itself waits for the loop.
func (d *driver) do(a machine.Action) {
	switch a := a.(type) {
	case machine.Join:
		d.wg.Go(d.join)
	case machine.Send:
		if host := d.host; host != nil {
			d.out.Push(func() { _ = host.Send(d.ctx, a.Msg) }) // listen reports the end of the session
		}
	case machine.Begin:
		d.begin(a.Assign)
	case machine.Deliver:
		if d.cur != nil && d.cur.a.Run == a.Run {
			d.cur.deliver(a.Peer, a.Body)
		}
	case machine.Train:
		close(d.cur.started)
	case machine.SetMark:
		for m := d.cur.marked.Load(); uint32(a.Mark) > m && !d.cur.marked.CompareAndSwap(m, uint32(a.Mark)); m = d.cur.marked.Load() {
		}
	case machine.Cancel:
		err := errors.New(a.Why)
		if a.Outcome == machine.Stopped {
			err = fmt.Errorf("%w: %s", ErrStopped, a.Why)
		}
		d.cur.cancel(err)
	case machine.Unlink:
		r := d.cur
		d.cur = nil
		if !r.over && r.host == d.host {
			r.rest()
		}
		d.out.Push(r.unlink)
	case machine.Bring:
		d.bring(a)
	case machine.Tell:
		d.cfg.Event("%s", a.Text)
	case machine.Show:
		d.show(a)
	case machine.Quit:
		d.quit = &a
	}
}

func (d *driver) show(a machine.Show) {
	d.shown.Store(a.State)
	u := Update{State: a.State, Text: a.Text, Have: a.Have, Want: a.Want}
	if r := d.cur; r != nil && a.State != machine.Waiting && a.State != machine.Seeking {
		u = r.update(u)
	}
	d.cfg.Watch(u)
}

func (d *driver) join() {
	ctx, stop := context.WithCancel(d.ctx)
	defer stop()
	d.wg.Go(func() {
		select {
		case <-d.over:
			stop()
		case <-ctx.Done():
		}
	})
	host, dialer, err := d.cfg.Join(ctx)
	if err != nil {
		_, again := d.cfg.Judge(err)
		d.post(happening{ev: machine.JoinFailed{Why: err.Error(), Again: again}, err: err})
		return
	}
	d.post(happening{ev: machine.Joined{}, host: host, dialer: dialer})
}

// listen receives a session's messages until the session ends.
func (d *driver) listen(host Host) {
	for {
		m, err := host.Recv(d.ctx)
		if err != nil {
			bye, again := d.cfg.Judge(err)
			d.post(happening{ev: machine.Lost{Why: err.Error(), Goodbye: bye, Again: again}, err: err})
			return
		}
		d.post(happening{ev: machine.Heard{Msg: m}})
	}
}

func (d *driver) begin(a *proto.Assign) {
	r := newAttempt(d, a)
	d.cur = r
	d.conns.only(a.Peers)
	d.wg.Go(func() {
		ev, err := r.do()
		close(r.ended)
		d.post(happening{ev: ev, err: err})
	})
}
