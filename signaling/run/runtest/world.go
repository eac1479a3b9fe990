// Package runtest simulates the world around a run machine: providers that have the same
// machine as real ones, links that break, a store, and a virtual clock. A whole run takes
// milliseconds, and the same script gives the same run. Tests use the defaults; a simulation
// sets times and sizes by a Nature.
//
// The providers train one number per node of the model. Every step adds a value of its own
// to it, so that a step that is lost or repeated shows in the result.
package runtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// Nodes is the number of nodes of the world's model, Batches that of batches per epoch.
const (
	Nodes   = 12
	Batches = 10
)

// Default times of a world.
const (
	latency = time.Millisecond
	step    = 10 * time.Millisecond
	upload  = 3 * time.Millisecond
	notice  = 30 * time.Millisecond // until a peer's death is noticed
	tick    = 50 * time.Millisecond
	again   = time.Second           // until a provider repeats an upload that the store did not take
	pongs   = 10 * time.Millisecond // pongs within it are delivered together, unless Before is set
)

// Nature says how long things take in a world. Zero fields take defaults for tests.
type Nature struct {
	// Tick is the time between two ticks of the machine.
	Tick time.Duration
	// Latency is the one-way delay between the host and a provider.
	Latency func(*Provider) time.Duration
	// Step is how long a cluster takes for one step; its members are in the order of their
	// stages.
	Step func(cluster []*Provider) time.Duration
	// State is the size of the state of these nodes in bytes; Upload and Fetch are how long
	// a provider takes to transfer as many.
	State         func(snapshot.Segment) int64
	Upload, Fetch func(p *Provider, bytes int64) time.Duration
	// Closed and Silent are how long peers take to notice that a link was closed, and that a
	// link has fallen silent. Silent 0: only the host notices.
	Closed, Silent time.Duration
	// Average is how long the end of a round takes of these clusters; nil: no time.
	Average func(clusters [][]*Provider) time.Duration
	// Wait is how often a cluster that waits for others looks whether they are there. 0: as
	// often as tests want; else it goes on at once when they are.
	Wait time.Duration
	// Place is the planner; nil: the first members of the pool get equal shares.
	Place func(pool []run.Member) ([]run.Assignment, error)
	// Report receives the reports to the requester; nil: they go to World.Reports.
	Report func(run.Report)
	// Event, unless nil, receives each event before the machine does.
	Event func(now time.Time, ev run.Event)
	// Forget drops providers that are gone, and the messages to all: for worlds with
	// thousands of providers.
	Forget bool
}

// World is a run machine with everything around it. Use New to make one.
type World struct {
	M     *run.Machine
	Now   time.Time
	Steps int // of the job
	// Stages is the largest number of stages in a cluster, Clusters the number of clusters
	// in a plan.
	Stages, Clusters int
	// Rounds is the job's order, where it has several replicas, which clusters share.
	Rounds *order.Run
	// Hold says that stages hold states in memory, and Copies that neighbours have copies of them.
	Hold, Copies bool
	// Auto gives every plan a replica for each of its members, up to four, with rounds of two
	// batches of each, and the record of it.
	Auto *order.Run
	// Slow is how much longer than anything else it takes to store a manifest.
	Slow time.Duration
	// Change, unless nil, changes the plans that are made.
	Change func(*run.Plan)
	// Worth tells whether a pool that has grown is worth another plan; nil: it always is.
	Worth func(pool []run.Member) bool
	// Before is called before message i, counted over both directions, is delivered between
	// the host and a provider; false drops the message.
	Before func(i int, id string, msg proto.Message) bool
	// Fail, unless nil, tells whether the host's store refuses write i: of an object, a state or
	// a manifest.
	Fail func(i int) error
	// Store is the host's store.
	Store map[string][]byte
	// Events are the machine's events and actions so far, if Record is set.
	Events []Told
	Record bool
	// Reports are the reports to the requester so far.
	Reports []run.Report
	// Results has one entry for each run that ended.
	Results []run.Finish
	// Traffic counts what went through the host.
	Traffic Traffic
	// Lies tells whether a provider computes something else behind a step; nil: none does.
	Lies func(p *Provider, step int) bool
	// Plans, unless nil, sees each plan.
	Plans func([]run.Assignment)
	// Doubt, unless nil, makes an audit's finding about a liar one about two of whom it may be either.
	Doubt func(c *run.Culprit)
	// Gone tells whether an audit does not find what it needs; nil: it does.
	Gone func(a run.AskAudit) bool
	// Auditing is how long an audit takes, of whoever makes it.
	Auditing time.Duration
	// Audited counts those that the host has made.
	Audited int
	// Denies tells whether a spare that has computed a stretch again says that something else comes of
	// it; nil: none does.
	Denies func(p *Provider) bool

	lied      []lie
	nature    Nature
	start     time.Time
	providers map[string]*Provider
	numbered  []*Provider // of them, those whose ID is p and a number
	joined    int
	queue     queue
	seq       int
	messages  int
	writes    int
	uploads   uint64
	waiting   map[uint64]func(run.Action)
	pongs     map[time.Duration][]pong
	teams     map[key]*team
	ticking   bool
	apart     bool // every cluster's stages save
	audit     bool // the job asks for digests
}

// Traffic counts messages between host and providers, and bytes of states.
type Traffic struct{ Messages, Uploaded, Fetched int64 }

// Told is an event with its time and the actions that followed.
type Told struct {
	At   time.Time
	Ev   run.Event
	Acts []string
}

// New returns a world without providers, in which a job with this many steps was submitted.
func New(set run.Settings, job run.Job, steps int) *World {
	return begin(set, job, steps, false)
}

// Recorded is New with events recorded from the first one on.
func Recorded(set run.Settings, job run.Job, steps int) *World {
	return begin(set, job, steps, true)
}

func begin(set run.Settings, job run.Job, steps int, record bool) *World {
	w := NewWorld(Nature{}, set)
	w.Record = record
	w.Submit(job, steps)
	return w
}

// NewWorld returns a world without providers and without a job.
func NewWorld(n Nature, set run.Settings) *World {
	n.fill()
	now := time.Unix(1_700_000_000, 0).UTC()
	return &World{
		M: run.New(set), Now: now, start: now, Stages: 2, Clusters: 1, Store: map[string][]byte{}, nature: n,
		providers: map[string]*Provider{}, waiting: map[uint64]func(run.Action){}, teams: map[key]*team{}, pongs: map[time.Duration][]pong{},
	}
}

func (n *Nature) fill() {
	if n.Tick == 0 {
		n.Tick = tick
	}
	if n.Latency == nil {
		n.Latency = func(*Provider) time.Duration { return latency }
	}
	if n.Step == nil {
		n.Step = func([]*Provider) time.Duration { return step }
	}
	if n.State == nil {
		n.State = func(snapshot.Segment) int64 { return 0 }
	}
	if n.Upload == nil {
		n.Upload = func(*Provider, int64) time.Duration { return upload }
	}
	if n.Fetch == nil {
		n.Fetch = func(*Provider, int64) time.Duration { return 0 }
	}
	if n.Closed == 0 {
		n.Closed = notice
	}
}

// Submit submits a job with this many steps.
func (w *World) Submit(job run.Job, steps int) {
	w.Steps, w.Rounds, w.apart, w.audit = steps, job.Rounds, job.Apart, job.Audit
	w.Step(run.Submit{Job: job})
}

// After calls do after d.
func (w *World) After(d time.Duration, do func()) { w.after(d, do) }

func (w *World) after(d time.Duration, do func()) {
	w.seq++
	w.queue.push(timed{at: w.Now.Sub(w.start) + d, seq: w.seq, do: do})
}

// Run runs the world for d, or until the run has ended.
func (w *World) Run(d time.Duration) {
	if !w.ticking {
		w.ticking = true
		w.tick()
	}
	w.until(w.Now.Add(d), true)
}

// Settle runs the world for d, so that messages still in flight arrive after the run's end.
func (w *World) Settle(d time.Duration) { w.until(w.Now.Add(d), false) }

func (w *World) until(end time.Time, running bool) {
	last := end.Sub(w.start)
	for len(w.queue) > 0 && !(running && len(w.Results) > 0) && w.queue[0].at <= last {
		x := w.queue.pop()
		w.Now = w.start.Add(x.at)
		x.do()
	}
	if !(running && len(w.Results) > 0) {
		w.Now = end
	}
}

func (w *World) tick() {
	w.Step(run.Tick{})
	w.after(w.nature.Tick, w.tick)
}

// Step gives the machine an event and carries out the actions that follow.
func (w *World) Step(ev run.Event) {
	if w.nature.Event != nil {
		w.nature.Event(w.Now, ev)
	}
	acts := w.M.Step(w.Now, ev)
	if w.Record {
		told := Told{At: w.Now, Ev: ev}
		for _, a := range acts {
			told.Acts = append(told.Acts, Describe(a))
		}
		w.Events = append(w.Events, told)
	}
	for _, a := range acts {
		w.do(a)
	}
}

func (w *World) do(a run.Action) {
	switch a := a.(type) {
	case run.Send:
		w.send(a)
	case run.HangUp:
		if p := w.providers[a.ID]; p != nil {
			w.after(2*w.nature.Latency(p), func() { p.hungUp(a.ID, a.Reason) })
		}
	case run.AskPlan:
		w.after(latency, func() { w.Step(w.plan(a)) })
	case run.AskWorth:
		w.after(latency, func() { w.Step(run.Worth{Seq: a.Seq, Better: w.Worth == nil || w.Worth(a.Pool)}) })
	case run.AskAudit:
		e := run.Audited{Seq: a.Seq, Gone: true, Err: errors.New("it is gone")}
		if w.Gone == nil || !w.Gone(a) {
			e = w.judge(a)
		}
		w.Audited++
		log := w.AuditIndex()
		w.after(latency+w.Auditing, func() {
			w.read(log) // what it reads while it goes on is there
			w.Step(e)
		})
	case run.AskStretch:
		w.after(latency, func() { w.Step(stretch(a)) })
	case run.Emit:
		if w.nature.Report != nil {
			w.nature.Report(a.Report)
		} else {
			w.Reports = append(w.Reports, a.Report)
		}
	case run.Put:
		if err := w.fail(); err != nil {
			w.after(latency, func() { w.Step(run.StoreFault{Object: a.Object, Err: err}) })
			return
		}
		w.Store[a.Object] = a.Data
	case run.PutManifest:
		w.after(latency+w.Slow, func() {
			c, err := snapshot.ParseManifest(a.Data)
			if err != nil {
				panic(err)
			}
			for _, e := range c.Parts {
				if w.Store[e.Object] == nil {
					panic("a manifest names an object that is not in the store: " + e.Object)
				}
			}
			err = w.fail()
			if err == nil {
				w.Store[a.Object] = a.Data
			}
			w.Step(run.Commit{Run: a.Run, Err: err})
		})
	case run.Discard:
		for _, o := range a.Objects {
			delete(w.Store, o)
		}
	case run.Grant:
		w.answer(a.Seq, a)
	case run.Denial:
		w.answer(a.Seq, a)
	case run.Finish:
		w.Results = append(w.Results, a)
	}
}

// fail counts a write and asks Fail.
func (w *World) fail() error {
	i := w.writes
	w.writes++
	if w.Fail == nil {
		return nil
	}
	return w.Fail(i)
}

// Writes returns the number of writes to the store.
func (w *World) Writes() int { return w.writes }

func (w *World) answer(seq uint64, a run.Action) {
	if f := w.waiting[seq]; f != nil {
		delete(w.waiting, seq)
		f(a)
	}
}

// send delivers a message from the host to a provider.
func (w *World) send(a run.Send) {
	p := w.find(a.ID)
	if p == nil {
		return
	}
	d := p.latency()
	msg := a.Msg
	switch m := msg.(type) {
	case *proto.Ping:
		if w.Before == nil { // pings are most of the messages with thousands of providers
			w.gather(pong{p, m.Seq}, 2*d)
			return
		}
	case *proto.Welcome:
		c := *m
		c.Session = "secret"
		msg = &c
	}
	if _, err := proto.Encode(msg); err != nil {
		panic(fmt.Sprintf("the machine sends a message that cannot be encoded: %v", err))
	}
	w.after(d, func() { p.told(msg) })
}

// gather delivers a pong. Those within the same few milliseconds are delivered together.
func (w *World) gather(x pong, d time.Duration) {
	at := (w.Now.Sub(w.start) + d + pongs - 1) / pongs * pongs
	if w.pongs[at] == nil {
		w.after(at-w.Now.Sub(w.start), func() {
			all := w.pongs[at]
			delete(w.pongs, at)
			for _, x := range all {
				x.p.pong(x.seq)
			}
		})
	}
	w.pongs[at] = append(w.pongs[at], x)
}

// plan asks Nature.Place, or cuts the model evenly over the first members of the pool.
func (w *World) plan(a run.AskPlan) run.Plan {
	if w.nature.Place != nil {
		placed, err := w.nature.Place(a.Pool)
		return run.Plan{Seq: a.Seq, Placed: placed, Err: err, Wait: err != nil}
	}
	if len(a.Pool) == 0 {
		return run.Plan{Seq: a.Seq, Err: errors.New("nobody is here"), Wait: true}
	}
	for _, pair := range a.Apart { // the later of the two is a spare
		a.Pool = slices.DeleteFunc(slices.Clone(a.Pool), func(m run.Member) bool { return m.ID == pair[1] })
	}
	p := run.Plan{Seq: a.Seq}
	replicas := 0
	if w.Rounds != nil {
		replicas = w.Rounds.Replicas
	}
	var record []order.Period
	if w.Auto != nil {
		replicas = min(4, len(a.Pool), w.Clusters*w.Stages)
		record = order.Extend(a.Record, a.Step, replicas)
	}
	clusters := max(1, min(w.Clusters, replicas, (len(a.Pool)+w.Stages-1)/w.Stages))
	pool := a.Pool[:min(len(a.Pool), clusters*w.Stages)]
	for c := range clusters {
		ms := pool[len(pool)*c/clusters : len(pool)*(c+1)/clusters]
		pl := placement{Clusters: clusters, Record: record}
		for k := range replicas {
			if k%clusters == c {
				pl.Own = append(pl.Own, k)
			}
		}
		for i, n := 0, len(ms); i < n; i++ {
			pl.Segment = snapshot.Segment{From: Nodes * i / n, To: Nodes * (i + 1) / n}
			a := pl.assign(ms[i], c, i, n)
			if w.Hold && w.Copies {
				a = Held(a)
			}
			a.Hold = w.Hold
			p.Placed = append(p.Placed, a)
		}
	}
	if w.Change != nil {
		w.Change(&p)
	}
	if w.Plans != nil {
		w.Plans(p.Placed)
	}
	return p
}

// placement is the plan of an assignment.
type placement struct {
	snapshot.Segment
	Clusters int            `json:"clusters"`
	Own      []int          `json:"own,omitempty"` // replicas; none: all
	Record   []order.Period `json:"record,omitempty"`
	Copies   bool           `json:"copies,omitempty"`
}

func (p placement) raw() json.RawMessage {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return raw
}

// Share gives a member of the pool a stage of one of several clusters, which trains some of
// the replicas.
func Share(m run.Member, cluster, clusters int, replicas []int, stage, stages int, seg snapshot.Segment) run.Assignment {
	return placement{Segment: seg, Clusters: clusters, Own: replicas}.assign(m, cluster, stage, stages)
}

// Rounds is the order of a run of so many batches, in epochs of Batches, whose replicas do so many
// updates in a round. It validates every so many epochs, 0: never.
func Rounds(replicas, updates, validates, steps int) *order.Run {
	return &order.Run{
		Train: Batches, Val: 1, BatchSize: 1, Epochs: steps/Batches + 1, Steps: steps, MicroBatches: 1, UpdateFrequency: 1,
		Replicas: replicas, ReduceFactor: updates, ValEvery: validates,
	}
}

// epoch is the number of batches of an epoch.
func (w *World) epoch() int {
	if w.Rounds != nil {
		return w.Rounds.Train
	}
	return Batches
}

// Place gives a member of the pool a stage that a world's provider can train, of a run with
// one cluster.
func Place(m run.Member, cluster, stage, stages int, seg snapshot.Segment) run.Assignment {
	return placement{Segment: seg, Clusters: 1}.assign(m, cluster, stage, stages)
}

// Held has the stage hold its states, of which a neighbour keeps copies if there is one.
func Held(a run.Assignment) run.Assignment {
	var p placement
	if err := json.Unmarshal(a.Plan, &p); err != nil {
		panic(err)
	}
	a.Hold, a.Copied = true, a.Stages > 1
	p.Copies = a.Copied
	a.Plan = p.raw()
	return a
}

func (p placement) assign(m run.Member, cluster, stage, stages int) run.Assignment {
	return run.Assignment{
		MemberID: m.ID, Cluster: cluster, Stage: stage, Stages: stages, Segment: p.Segment, Plan: p.raw(), Record: p.Record,
		Graph: proto.Ref{SHA256: strings.Repeat("a", 64), Size: 1},
	}
}

// Messages returns the number of messages sent between the host and providers.
func (w *World) Messages() int { return w.messages }

// Provider returns the provider with this ID.
func (w *World) Provider(id string) *Provider { return w.providers[id] }

// Alive returns the IDs of the providers that should be members.
func (w *World) Alive() (ids []string) {
	var ps []*Provider
	for _, p := range w.providers {
		if p.here() && !p.frozen {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b *Provider) int { return a.number - b.number })
	for _, p := range ps {
		ids = append(ids, p.ID)
	}
	return ids
}

// deliver counts a message and reports whether Before lets it pass.
func (w *World) deliver(id string, msg proto.Message) bool {
	i := w.messages
	w.messages++
	w.Traffic.Messages++
	return w.Before == nil || w.Before(i, id, msg)
}

// Weights returns the weights in the checkpoint of a manifest.
func (w *World) Weights(c *snapshot.Manifest) (map[int]uint64, error) {
	all := map[int]uint64{}
	for _, e := range c.Parts {
		var x content
		if err := json.Unmarshal(w.Store[e.Object], &x); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Object, err)
		}
		if x.Step != int(c.Position.Step) {
			return nil, fmt.Errorf("%s has step %d, but its manifest has step %d", e.Object, x.Step, c.Position.Step)
		}
		for n, v := range x.Weights {
			if had, ok := all[n]; ok && had != v {
				return nil, fmt.Errorf("%s: cluster %d has node %d otherwise than the others", e.Object, e.Cluster, n)
			}
			all[n] = v
		}
	}
	return all, nil
}

// Undisturbed returns the weights after this many steps without any loss.
func Undisturbed(steps int) map[int]uint64 {
	all := map[int]uint64{}
	for n := range Nodes {
		all[n] = uint64(n)
	}
	learn(all, 0, steps)
	return all
}

// Leaked returns the stages' objects in the store that the manifest does not name, nor, where there
// are audits, the one before it, from which they begin.
func (w *World) Leaked(c *snapshot.Manifest) []string { return w.leaked(c, w.Audit()) }

func (w *World) leaked(c *snapshot.Manifest, log []run.AuditLine) (names []string) {
	need := map[string]bool{}
	if c != nil {
		for _, e := range c.Parts {
			need[e.Object] = true
		}
		for _, l := range slices.Backward(log) {
			if p := l.Checkpoint; p != nil && p.Position != c.Position {
				for _, e := range p.Parts {
					need[e.Object] = true
				}
				break
			}
		}
	}
	for o := range w.Store {
		if strings.Contains(o, "/cluster_") && !need[o] {
			names = append(names, o)
		}
	}
	slices.Sort(names)
	return names
}

// Losses returns the losses by step as the requester keeps them: a repeated step replaces
// the earlier one.
func (w *World) Losses() map[int64]float64 {
	all := map[int64]float64{}
	for _, r := range w.Reports {
		if l, ok := r.(run.Loss); ok {
			all[l.Step] = float64(l.Loss.Loss)
		}
	}
	return all
}

// Describe returns an action with all its fields as text.
func Describe(a run.Action) string {
	switch a := a.(type) {
	case run.Send:
		b, err := json.Marshal(a.Msg)
		return fmt.Sprintf("send %s %s %s %v", a.ID, a.Msg.Type(), b, err)
	case run.Emit:
		b, err := json.Marshal(a.Report)
		return fmt.Sprintf("emit %T %s %v %s", a.Report, b, err, errorOf(a.Report))
	case run.Denial:
		return fmt.Sprintf("deny %d %+v", a.Seq, *a.Err)
	case run.Finish:
		b, err := json.Marshal(a.Result)
		return fmt.Sprintf("finish %s %v %v", b, err, a.Err)
	case run.Put:
		return fmt.Sprintf("put %s %s", a.Object, a.Data)
	case run.PutManifest:
		return fmt.Sprintf("put manifest %s %s %s", a.Run, a.Object, a.Data)
	case run.AskAudit, run.AskStretch:
		b, err := json.Marshal(a)
		return fmt.Sprintf("%T %s %v", a, b, err)
	case run.AppendLine:
		return fmt.Sprintf("append %s %s", a.Log, a.Line)
	}
	return fmt.Sprintf("%T %+v", a, a)
}

func errorOf(r run.Report) string {
	switch r := r.(type) {
	case run.Refused:
		return fmt.Sprint(r.Err)
	case run.Warning:
		return fmt.Sprint(r.Err)
	case run.Failed:
		return fmt.Sprint(r.Err)
	}
	return ""
}

// Repeat delivers a message once more after d, in its direction.
func (w *World) Repeat(d time.Duration, id string, msg proto.Message) {
	w.after(d+latency, func() {
		p := w.providers[id]
		if p == nil || !p.here() {
			return
		}
		switch msg.(type) {
		case *proto.Pong, *proto.Ready, *proto.Progress, *proto.Saved, *proto.Done, *proto.Failed, *proto.Leaving, *proto.Fetching:
			w.Step(run.Message{ID: id, Msg: msg})
		case *proto.Welcome, *proto.Assign: // sent once, and a connection keeps the order
		default:
			p.hear(msg)
		}
	})
}

// Restart replaces the machine as a killed and restarted host does: the new one resumes from
// the state in the store, and all sessions are gone.
func (w *World) Restart(set run.Settings) error {
	for _, p := range w.providers {
		p.left = true
	}
	clear(w.teams)
	old, err := run.Restore(set, w.Store[run.StateObject("j")])
	if err != nil {
		return err
	}
	job, earlier := old.Earlier()
	earlier.Log = w.AuditIndex()
	w.queue, w.ticking, w.M = nil, false, run.New(set)
	var stale []string
	if c := earlier.Checkpoint; c != nil {
		stale = w.leaked(c, nil) // the one before is not known any more
	}
	w.Step(run.Submit{Job: *job, Earlier: earlier, Stale: stale})
	return nil
}
