// Carrying out one assignment: fetch, connect, train, save.

package provider

import (
	"context"
	"encoding/hex"
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
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/signaling/proto"
)

// peerError is an error for which a peer is to blame.
type peerError struct {
	id, name string
	err      error
}

func (e *peerError) Error() string { return e.err.Error() }
func (e *peerError) Unwrap() error { return e.err }

// errBlob is wrapped by errors about a blob of the assignment that cannot be fetched or
// decoded.
var errBlob = errors.New("the assignment cannot be fetched")

// attempt is an assignment being carried out.
type attempt struct {
	d       *driver
	cfg     *Config
	host    Host
	dialer  Dialer
	a       *proto.Assign
	ctx     context.Context
	cancel  context.CancelCauseFunc
	started chan struct{} // closed when training begins
	ended   chan struct{} // closed when do has returned
	news    chan struct{} // receives once, when the first batch is done
	marked  atomic.Uint32 // the order.Mark to set before the next update

	mu   sync.Mutex
	at   Update
	prog proto.Progress // since the last report

	stage     *stage.Stage
	team      *kernel.Team // of fewer threads than are lent; nil: those of Config
	linked    sync.Mutex   // guards the next three
	links     map[stage.Peer]*transport.Link
	conns     []*connection                   // that the links use
	mail      map[string]chan json.RawMessage // signals, by peer
	over      bool                            // the job is done
	parts     []*snapshot.Part                // of the checkpoint to resume from
	flopsEach float64
	flushing  sync.Mutex
	lastBusy  time.Duration // at the last report
	lastTime  time.Duration
	track     track
	paged     []*data.Paged
	visits    func() stage.Visits // of training rows in shards, for one stage; nil: they are in none
	states    []proto.State       // what a check has computed
	cached    int64               // bytes of shards beyond what the stage promises
	saves     sync.WaitGroup
	saveErr   error
	stale     func() // tells the newest save that it need not wait for room any longer
	hold      holding
	holds     int64 // bytes of the states that are held, beyond what the stage promises
}

func newAttempt(d *driver, a *proto.Assign) *attempt {
	r := &attempt{
		d: d, cfg: &d.cfg, host: d.host, dialer: d.dialer, a: a,
		started: make(chan struct{}), ended: make(chan struct{}), news: make(chan struct{}, 1),
		mail: map[string]chan json.RawMessage{}, links: map[stage.Peer]*transport.Link{},
		at: Update{Stage: a.Stage, Stages: a.Stages},
	}
	r.stale = func() {}
	r.ctx, r.cancel = context.WithCancelCause(d.ctx)
	for _, p := range a.Peers {
		r.mail[p.ID] = make(chan json.RawMessage, machine.MaxSignals)
	}
	return r
}

// post hands the machine an event.
func (r *attempt) post(ev machine.Event) { r.d.post(happening{ev: ev}) }

// update fills in the fields that the attempt knows.
func (r *attempt) update(u Update) Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.Stage, u.Stages, u.Role, u.Peak = r.at.Stage, r.at.Stages, r.at.Role, r.at.Peak
	return u
}

// do carries out the assignment. The links stay until unlink is called.
func (r *attempt) do() (machine.Ended, error) {
	defer r.cancel(nil)
	work := r.work
	if r.a.Check != nil {
		work = r.check
	}
	err := work()
	for _, p := range r.paged {
		p.Close()
	}
	r.stale()
	r.saves.Wait()
	r.hold.stop()
	r.team.Close()
	ended := machine.Ended{Run: r.a.Run, Outcome: machine.Done, Step: r.prog.Step, States: r.states}
	if err == nil {
		if r.over = true; r.a.Check == nil {
			r.d.kept = kept{} // the job is done
		}
		return ended, nil
	}
	if c := context.Cause(r.ctx); c != nil && !errors.Is(err, c) {
		err = c
	}
	err = r.blame(err)
	ended.Outcome, ended.Why, ended.Kind = machine.Failed, err.Error(), proto.FailedOther
	var pe *peerError
	switch {
	case errors.Is(err, ErrStopped):
		ended.Outcome, ended.Kind = machine.Stopped, ""
	case errors.Is(err, stage.ErrDiverged):
		if ended.Kind = proto.FailedDiverged; errors.As(err, &pe) {
			ended.Peer = pe.id
		}
	case errors.As(err, &pe):
		ended.Kind, ended.Peer = proto.FailedPeer, pe.id
	case errors.Is(err, ErrMemory):
		ended.Kind = proto.FailedMemory
	case errors.Is(err, stage.ErrRound):
		ended.Kind = proto.FailedRound
	case errors.Is(err, errBlob), errors.Is(err, stage.ErrData):
		ended.Kind = proto.FailedBlob
	}
	return ended, err
}

// blame names the peer whose link failed, if that is what err comes from.
func (r *attempt) blame(err error) error {
	for _, p := range r.a.Peers {
		l := r.links[stage.Peer{Cluster: p.Cluster, Stage: p.Stage}]
		if l == nil {
			continue
		}
		if why := l.Err(); why != nil && errors.Is(err, why) {
			verb := "lost"
			if errors.Is(why, wire.ErrProtocol) {
				verb = "cannot understand"
			}
			return &peerError{p.ID, p.Name, fmt.Errorf("%s %s: %w", verb, p.Name, err)}
		}
	}
	var sent *stage.PeerError
	if errors.As(err, &sent) {
		for _, p := range r.a.Peers {
			if (stage.Peer{Cluster: p.Cluster, Stage: p.Stage}) == sent.From {
				if !errors.Is(err, stage.ErrDiverged) {
					err = fmt.Errorf("cannot use what %s sent: %w", p.Name, err)
				}
				return &peerError{p.ID, p.Name, err}
			}
		}
	}
	return err
}

func (r *attempt) work() error {
	c, cfg, err := r.prepare()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.at.Role = c.Stage.Role()
	r.mu.Unlock()
	r.post(machine.Prepared{Run: r.a.Run})
	if err := r.connect(c); err != nil {
		return err
	}
	cfg.Links, cfg.Rings = map[int]stage.Link{}, map[stage.Peer]stage.Link{}
	for p, l := range r.links {
		if p.Cluster == r.a.Cluster {
			cfg.Links[p.Stage] = l
		} else {
			cfg.Rings[p] = l
		}
	}
	if r.stage, err = stage.New(c, cfg); err != nil {
		return err
	}
	if err := r.resume(); err != nil {
		return err
	}
	peak := int64(r.stage.Memory()) + r.cached + r.holds
	r.mu.Lock()
	r.at.Peak = peak
	r.mu.Unlock()
	r.post(machine.Compiled{Run: r.a.Run, Peak: peak, Links: r.times()})
	select {
	case <-r.started:
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
	r.cfg.Event("training stage %d of %d (%s)", r.a.Stage, r.a.Stages, c.Stage.Role())
	stopReports := r.report()
	err = r.stage.Run(r.ctx, r.mark, r)
	if err != nil {
		r.stale()
	}
	r.saves.Wait()
	stopReports()
	if err == nil {
		err = r.saveErr
	}
	return err
}

// times are the round trips of the links that tell theirs.
func (r *attempt) times() []proto.LinkTime {
	var ts []proto.LinkTime
	r.linked.Lock()
	defer r.linked.Unlock()
	for _, p := range r.a.Peers {
		if l := r.links[stage.Peer{Cluster: p.Cluster, Stage: p.Stage}]; l != nil {
			if d := l.RTT(); d > 0 {
				ts = append(ts, proto.LinkTime{Peer: p.ID, RTT: int64(d)})
			}
		}
	}
	return ts
}

// resume loads the checkpoint that prepare fetched, if any, into the stage. What was held in
// memory for it is forgotten.
func (r *attempt) resume() error {
	defer r.d.stash.clear()
	if r.a.Resume == nil {
		return nil
	}
	if err := r.stage.Load(r.parts...); err != nil {
		return fmt.Errorf("resuming from the checkpoint: %w", err)
	}
	r.prog.Step = int64(r.parts[0].Position.Step)
	r.parts = nil
	return nil
}

// mark returns the mark to set before the next update; the root calls it before each. A
// request for a checkpoint, or to hold the state, applies once, a request to stop from then on.
func (r *attempt) mark() order.Mark {
	m := r.marked.Load()
	if m == uint32(order.Hold) || m == uint32(order.Checkpoint) {
		r.marked.CompareAndSwap(m, uint32(order.Continue))
	}
	return order.Mark(m)
}

// planned reads the assignment's job and plan, and returns the job with what the planner has chosen,
// and where the cluster's stages begin.
func (r *attempt) planned() (j job.Spec, plan Plan, starts []int, err error) {
	if j, err = job.Parse(r.a.Job); err != nil {
		return j, plan, nil, err
	}
	if err := json.Unmarshal(r.a.Plan, &plan); err != nil {
		return j, plan, nil, fmt.Errorf("the assignment's plan: %w", err)
	}
	if j, err = plan.In(j); err != nil {
		return j, plan, nil, err
	}
	if r.a.Cluster < len(plan.Clusters) {
		starts = plan.Clusters[r.a.Cluster].Starts
	}
	if len(starts) != r.a.Stages || r.a.Stage >= len(starts) || plan.Train < 1 || plan.Train > maxRows || plan.Val < 0 || plan.Val > maxRows {
		return j, plan, nil, fmt.Errorf("the assignment's plan has %d stages with %d training and %d validation rows, but the assignment has %d stages", len(starts), plan.Train, plan.Val, r.a.Stages)
	}
	return j, plan, starts, nil
}

// prepare fetches and checks what the assignment names.
func (r *attempt) prepare() (*stage.Compiled, stage.Config, error) {
	var cfg stage.Config
	j, plan, starts, err := r.planned()
	if err != nil {
		return nil, cfg, err
	}
	f := r.fetcher()
	b, err := f.get("the model", r.a.Graph, 0)
	if err != nil {
		return nil, cfg, err
	}
	g, err := graph.Parse(b)
	if err != nil {
		return nil, cfg, err
	}
	placement := stage.Placement{Cluster: r.a.Cluster, Clusters: plan.Clusters}
	if err := placement.Check(j, len(g.Nodes)); err != nil {
		return nil, cfg, err
	}
	stages, err := g.Cut(starts)
	if err != nil {
		return nil, cfg, err
	}
	s := stages[r.a.Stage]
	team, err := r.threads(&plan)
	if err != nil {
		return nil, cfg, err
	}
	c, err := stage.Compile(j, s, placement)
	if err != nil {
		return nil, cfg, err
	}
	if err := r.hold.plan(&plan, s.Index, r.a.Stages); err != nil {
		return nil, cfg, err
	}
	r.holds = plan.Holding(s.Index, int64(c.Memory().Save))
	need := int64(c.Memory().Total()) + r.holds
	if err := r.fits(need, s.Index, ""); err != nil {
		return nil, cfg, err
	}
	r.track = track{run: j.Order(plan.Train, plan.Val), own: placement.Own()}
	if err := r.track.run.Check(); err != nil {
		return nil, cfg, fmt.Errorf("the assignment's plan: %w", err)
	}
	if err := stage.CheckBatches(j, g, plan.Train); err != nil {
		return nil, cfg, fmt.Errorf("the assignment's plan: %w", err)
	}
	if j.Gradients() {
		r.track.own = 0 // every cluster has a part of every batch
	}
	cfg = stage.Config{
		TrainRows: plan.Train, ValRows: plan.Val,
		Order: data.Order, Team: team, Now: r.cfg.Now, Between: r.cfg.Between, Commits: j.Audit, Hooks: r.cfg.Hooks,
	}
	if cfg.Key, err = hex.DecodeString(r.a.DigestKey); err != nil {
		return nil, cfg, fmt.Errorf("the assignment's key of digests: %w", err)
	}
	if cfg.Weights, err = f.weights(c.Has); err != nil {
		return nil, cfg, err
	}
	r.flopsEach = s.Graph.Cost(0, len(s.Graph.Nodes)).Total()
	if err := r.rows(f, j, g, s, &cfg, need); err != nil {
		return nil, cfg, err
	}
	return c, cfg, r.fetchParts(f)
}

// threads is the team of threads that the plan has the stage compute with.
func (r *attempt) threads(plan *Plan) (*kernel.Team, error) {
	lent := r.cfg.Team.Threads()
	n, err := plan.threads(r.a.Stage, lent)
	if err != nil || n == lent {
		return r.cfg.Team, err
	}
	r.team = kernel.NewTeam(n)
	r.cfg.Event("computing on %d of %d threads: others of the run share this machine's cores", n, lent)
	return r.team, nil
}

// fetchParts fetches the checkpoint to resume from. A part made with other cuts may hold
// more than this stage's share; it stays in memory until the stage is loaded.
func (r *attempt) fetchParts(f *fetcher) error {
	if r.a.Resume == nil {
		return nil
	}
	for _, p := range r.a.Resume.Parts {
		b := r.d.stash.find(p.SHA256)
		if b == nil {
			var err error
			if b, err = f.get("the checkpoint", p.Ref, 0); err != nil {
				return err
			}
		}
		part, err := snapshot.Read(r.cfg.reader(b), int64(len(b)))
		if err != nil {
			return fmt.Errorf("%w: the checkpoint: %w", errBlob, err)
		}
		r.parts = append(r.parts, part)
	}
	return nil
}

// fits returns an error if need bytes exceed what is offered.
func (r *attempt) fits(need int64, index int, with string) error {
	if r.cfg.RAM > 0 && need > r.cfg.RAM {
		return fmt.Errorf("%w: stage %d%s needs %.1f MB, but only %.1f MB are offered", ErrMemory, index, with, float64(need)/1e6, float64(r.cfg.RAM)/1e6)
	}
	return nil
}

// fetcher downloads blobs and reports its progress.
type fetcher struct {
	r          *attempt
	done, want int64
	told       time.Duration
}

func (r *attempt) fetcher() *fetcher {
	f := &fetcher{r: r, want: r.a.Graph.Size, told: -time.Second}
	if r.a.Resume != nil {
		for _, p := range r.a.Resume.Parts {
			f.want += p.Size
		}
	} else if ref, ok := r.a.Weights[Weights]; ok {
		f.want += ref.Size
	}
	return f
}

// get fetches one blob. It is an error if the blob does not fit beside the used bytes.
func (f *fetcher) get(what string, ref proto.Ref, used int64) ([]byte, error) {
	if ram := f.r.cfg.RAM; ram > 0 && ref.Size > ram-used {
		return nil, fmt.Errorf("%w: %s takes %.1f MB, but only %.1f of %.1f MB are free", ErrMemory, what, float64(ref.Size)/1e6, float64(max(ram-used, 0))/1e6, float64(ram)/1e6)
	}
	b, err := f.r.host.Blob(f.r.ctx, ref, f.have())
	if err != nil {
		return nil, fmt.Errorf("%w: fetching %s: %w", errBlob, what, err)
	}
	f.done += int64(len(b))
	return b, nil
}

// have returns a function that reports how much of a blob has come.
func (f *fetcher) have() func(int64) {
	return func(n int64) {
		if now := f.r.cfg.Now(); now-f.told >= 250*time.Millisecond {
			f.told = now
			f.r.post(machine.Fetched{Run: f.r.a.Run, Have: min(f.done+n, f.want), Want: f.want})
		}
	}
}

// connect opens the links to all stages of its cluster that share a tensor with this one, and
// to its neighbours in the rings of its segments, concurrently. The earlier stage of each pair
// makes the offer.
func (r *attempt) connect(c *stage.Compiled) error {
	need := map[stage.Peer]transport.Options{}
	for _, k := range c.Peers() {
		need[stage.Peer{Cluster: r.a.Cluster, Stage: k}] = c.Link(k)
	}
	for _, p := range c.Rings() {
		need[p] = c.RingLink(p)
	}
	type end struct {
		proto.Peer
		opt transport.Options
	}
	var peers []end
	for _, p := range r.a.Peers {
		k := stage.Peer{Cluster: p.Cluster, Stage: p.Stage}
		if opt, ok := need[k]; ok {
			delete(need, k)
			peers = append(peers, end{p, opt})
		}
	}
	for k := range need {
		return fmt.Errorf("the assignment names no provider for %s", k)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	var wg sync.WaitGroup
	var once sync.Once
	var cause error // later errors are its consequences
	for _, p := range peers {
		wg.Go(func() {
			first := r.a.Cluster < p.Cluster || r.a.Cluster == p.Cluster && r.a.Stage < p.Stage
			l, err := r.dial(ctx, first, p.Peer)
			if err != nil {
				once.Do(func() {
					cause = err
					cancel()
				})
				return
			}
			l.gen, l.link = r.a.Generation, transport.NewLink(l.pipe, r.options(p.opt, p.Peer))
			r.linked.Lock()
			r.conns = append(r.conns, l)
			r.links[stage.Peer{Cluster: p.Cluster, Stage: p.Stage}] = l.link
			r.linked.Unlock()
			r.post(machine.Linked{Run: r.a.Run, Peer: p.ID})
		})
	}
	wg.Wait()
	return cause
}

// moveSend is how long a signal of a link that moves may wait for the host.
const moveSend = 3 * time.Second

// dial connects to one peer, unless there is a connection that both have kept. Both sides first
// announce that they have fetched everything. Only then does either begin to connect: the time
// limit of the connection starts there, and addresses do not expire while the other side is still
// downloading.
func (r *attempt) dial(ctx context.Context, offer bool, p proto.Peer) (*connection, error) {
	say := func(b json.RawMessage) error {
		ctx := ctx
		if ctx.Err() != nil { // the link is up, and moves to another address
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(r.ctx, moveSend)
			defer cancel()
		}
		return r.host.Send(ctx, &proto.Signal{Run: r.a.Run, To: p.ID, Body: b})
	}
	kept := r.d.conns.take(p.ID, r.a.Generation)
	theirs, err := r.greet(ctx, p, kept)
	switch {
	case kept == nil && err != nil:
		return nil, err
	case kept == nil:
	case err != nil:
		r.d.conns.put(kept)
		return nil, err
	case kept.made == theirs.Kept:
		r.adopt(kept, say)
		return kept, nil
	default:
		r.d.conns.close(kept)
	}
	l := &connection{peer: p.ID, made: r.a.Run, in: r.box(p.ID), say: say}
	if l.pipe, err = r.dialer.Connect(ctx, offer, theirs.Here, l.send, l.in); err != nil {
		return nil, &peerError{p.ID, p.Name, fmt.Errorf("connecting to stage %d (%s): %w", p.Stage, p.Name, err)}
	}
	return l, nil
}
