package server

// The lobby decides; it has no clock, no socket and no store. Every event comes
// with its time, and what follows from it comes back as actions that server.go
// carries out. The same events give the same actions, in tests and in life.
//
// A run's life:
//
//	idle -> gathering -> planning -> connecting -> running -> draining -> idle
//	            ^            |           |
//	            +------------+-----------+   a provider left before the start
//
// From running on, a provider that is lost ends the run (until the recovery
// work gives it a better answer): the others are told to stop, the requester is
// told who left, and the last checkpoint stays.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// settings are the parts of Config that the lobby decides by.
type settings struct {
	heartbeat    time.Duration
	timeout      time.Duration // silence after which a member is dead
	readyTimeout time.Duration // from assigned to all ready
	drainTimeout time.Duration // from the first done, or the stop, to all done
	maxMembers   int
	once         bool
	ice          []proto.ICEServer
}

// Events.
type (
	joined struct {
		id, secret, addr string
		hello            proto.Hello
	}
	refused struct { // at the door, before the lobby saw it
		name, addr string
		err        error
	}
	left struct {
		id, reason string
	}
	received struct {
		id  string
		msg proto.Message
	}
	violated struct { // the session broke the protocol
		id  string
		err error
	}
	uploaded struct {
		id, run string
		stage   int
		object  string
		blob    proto.Ref
	}
	uploadEnded struct{ id string } // well or not
	tick        struct{}
	planned     struct {
		seq    int
		placed []Assignment
		err    error
	}
	committed struct {
		run        string
		checkpoint *Checkpoint
		err        error
	}
	submitted struct {
		job *Job // valid, with its ID
	}
	stopAsked struct {
		mode   proto.Mode
		reason string
	}
	stored   struct{ err error } // a store's refusal outside of commits
	shutdown struct{ reason string }
)

// Actions.
type (
	sendTo struct {
		id  string
		msg proto.Message
	}
	// hangUp closes a session: after what was sent to it has gone out, or at
	// once where it is dead or cannot be trusted to read.
	hangUp struct {
		id     string
		reason string
		abrupt bool
	}
	askPlan struct {
		seq  int
		job  *Job
		pool []Member
	}
	emit struct{ ev Event }
	put  struct { // a record; a refusal comes back as stored
		object string
		data   []byte
	}
	commit struct { // a checkpoint's record; comes back as committed
		object     string
		data       []byte
		checkpoint *Checkpoint
	}
	discard struct{ objects []string }
	addLine struct {
		log  string
		line []byte
	}
	finish struct { // after all events
		result Result
		err    error
	}
)

type phase string

const (
	idle       phase = "idle"
	gathering  phase = "gathering"
	planning   phase = "planning"
	connecting phase = "connecting"
	running    phase = "running"
	draining   phase = "draining"
)

type member struct {
	Member
	secret string
	seen   time.Time // when it was last heard
	pinged time.Time
	seq    uint64 // of the ping under way
	met    bool   // its first pong came: RTT is known

	// In the current run.
	job    *Assignment
	ready  bool
	done   bool
	peak   int64
	last   proto.Progress
	taking bool        // an upload is under way
	upload *SavedStage // uploaded, and not yet named by a saved message
}

type place struct{ cluster, stage int }

type lobby struct {
	set     settings
	members map[string]*member
	closed  bool
	ticked  time.Time
	out     []any

	job         *Job
	phase       phase
	run         string
	attempt     int
	planSeq     int
	started     time.Time
	deadline    time.Time // of connecting and draining
	interrupted bool
	loss        *proto.Loss
	val         *proto.Val

	total     int                             // stages of all clusters
	objects   map[string]bool                 // every stage's object in the store, of this run
	saves     map[int64]map[place]*SavedStage // by step, not yet complete
	latest    map[place]*SavedStage
	saved     *Checkpoint   // committed
	pending   []*Checkpoint // commits under way, in order
	commitErr error
	final     bool // the last states were committed or tried
}

// maxSaves bounds the steps whose saved state is incomplete.
const maxSaves = 16

func newLobby(set settings) *lobby {
	return &lobby{set: set, members: map[string]*member{}, phase: idle}
}

// step takes one event in and returns what follows from it, in order.
func (l *lobby) step(now time.Time, ev any) []any {
	switch e := ev.(type) {
	case joined:
		l.join(now, e)
	case refused:
		l.emit(Refused{Name: e.name, Addr: e.addr, Err: e.err})
	case left:
		l.leave(now, e.id, e.reason)
	case received:
		if m := l.members[e.id]; m != nil {
			m.seen = now
			l.receive(now, m, e.msg)
		}
	case violated:
		if m := l.members[e.id]; m != nil {
			l.violate(now, m, e.err)
		}
	case uploaded:
		l.uploaded(e)
	case uploadEnded:
		if m := l.members[e.id]; m != nil {
			m.taking = false
		}
	case tick:
		l.tick(now)
	case planned:
		l.planned(now, e)
	case committed:
		l.committed(now, e)
	case submitted:
		l.submit(now, e.job)
	case stopAsked:
		l.stop(now, e)
	case stored:
		l.emit(Warning{Err: e.err})
	case shutdown:
		l.shutdown(now, e.reason)
	default:
		panic(fmt.Sprintf("lobby: unknown event %T", ev))
	}
	out := l.out
	l.out = nil
	return out
}

func (l *lobby) act(a any)                         { l.out = append(l.out, a) }
func (l *lobby) send(m *member, msg proto.Message) { l.act(sendTo{id: m.ID, msg: msg}) }

func (l *lobby) emit(ev Event) {
	if l.job != nil {
		l.act(emit{ev})
	}
}

// sorted returns the members in the order of the job's names, or by name with
// node_2 before node_10: the planner's result must not depend on who came first.
func (l *lobby) sorted() []*member {
	ms := make([]*member, 0, len(l.members))
	for _, m := range l.members {
		ms = append(ms, m)
	}
	rank := func(m *member) int {
		if l.job == nil {
			return 0
		}
		return slices.Index(l.job.Names, m.Name)
	}
	slices.SortFunc(ms, func(a, b *member) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return ms
}

// assigned returns the members of the current run by cluster and stage.
func (l *lobby) assigned() []*member {
	var ms []*member
	for _, m := range l.members {
		if m.job != nil {
			ms = append(ms, m)
		}
	}
	slices.SortFunc(ms, func(a, b *member) int {
		return cmp.Or(cmp.Compare(a.job.Cluster, b.job.Cluster), cmp.Compare(a.job.Stage, b.job.Stage))
	})
	return ms
}

// Joining and leaving.

func (l *lobby) join(now time.Time, e joined) {
	name, err := l.name(e.hello.Name)
	if err != nil {
		l.act(sendTo{id: e.id, msg: err})
		l.act(hangUp{id: e.id, reason: string(err.Code) + ": " + err.Message})
		l.emit(Refused{Name: e.hello.Name, Addr: e.addr, Err: err})
		return
	}
	e.hello.Token, e.hello.Name = "", name
	m := &member{Member: Member{ID: e.id, Name: name, Addr: e.addr, Hello: e.hello}, secret: e.secret, seen: now}
	l.members[e.id] = m
	l.send(m, &proto.Welcome{
		ID: m.ID, Name: name, Session: m.secret, ICE: l.set.ice,
		Heartbeat: int(l.set.heartbeat.Milliseconds()), Timeout: int(l.set.timeout.Milliseconds()),
	})
	l.ping(now, m)
	if l.job != nil {
		l.emit(Joined{Member: m.Member, Have: len(l.members), Want: l.job.Want})
	}
}

// name gives the provider that asks for this name the one it gets.
func (l *lobby) name(asked string) (string, *proto.Error) {
	if l.closed {
		return "", &proto.Error{Code: proto.Stopped, Message: "the signaling host is stopping", Hint: "join again when it is back"}
	}
	if len(l.members) >= l.set.maxMembers {
		return "", &proto.Error{Code: proto.Full, Message: fmt.Sprintf("the host has its %d providers", l.set.maxMembers), Hint: "try again later"}
	}
	taken := map[string]bool{}
	for _, m := range l.members {
		taken[m.Name] = true
	}
	var fixed []string
	if l.job != nil {
		fixed = l.job.Names
	}
	if asked == "" {
		if len(fixed) == 0 {
			for i := 0; ; i++ {
				if n := "node_" + strconv.Itoa(i); !taken[n] {
					return n, nil
				}
			}
		}
		for _, n := range fixed {
			if !taken[n] {
				return n, nil
			}
		}
		return "", &proto.Error{
			Code: proto.Full, Message: fmt.Sprintf("all %d places of the job are taken", len(fixed)),
			Hint: "join again if one of them leaves",
		}
	}
	if len(fixed) > 0 && !slices.Contains(fixed, asked) {
		return "", unknownName(fixed, asked)
	}
	if taken[asked] {
		return "", &proto.Error{
			Code: proto.NameTaken, Message: fmt.Sprintf("a provider named %q is here already", asked),
			Hint: fmt.Sprintf("use another name, or none to be given a free one; if that provider is dead its name is free %v after it fell silent", l.set.timeout),
		}
	}
	return asked, nil
}

func unknownName(fixed []string, asked string) *proto.Error {
	hint := strings.Join(fixed[:min(len(fixed), 16)], ", ")
	if len(fixed) > 16 {
		hint += ", ..."
	}
	return &proto.Error{
		Code: proto.NameUnknown, Message: fmt.Sprintf("the job has no provider named %q", asked),
		Hint: "use one of " + hint + ", or none to be given a free one",
	}
}

func (l *lobby) leave(now time.Time, id, reason string) {
	m := l.members[id]
	if m == nil {
		return // turned away, or told to go
	}
	delete(l.members, id)
	ev := Left{Member: m.Member, Reason: reason}
	if m.job != nil {
		ev.Run = l.run
	}
	l.emit(ev)
	switch {
	case l.phase == planning:
		l.phase = gathering
		l.planSeq++ // the plan under way is for a pool that is no more
		l.gather()
	case m.job == nil:
	case l.phase == connecting:
		why := fmt.Sprintf("provider %s left before the start: %s", m.Name, reason)
		for _, o := range l.assigned() {
			l.send(o, &proto.Stop{Run: l.run, Reason: why, Mode: proto.Now})
		}
		l.clearRun()
		l.phase = gathering
		l.gather()
	case !m.done: // running or draining
		l.end(fmt.Errorf("%w: %s (cluster %d, stage %d): %s", ErrProviderLost, m.Name, m.job.Cluster, m.job.Stage, reason))
	}
}

// violate sends a member away that broke the protocol.
func (l *lobby) violate(now time.Time, m *member, err error) {
	pe := &proto.Error{Code: proto.Protocol, Message: err.Error()}
	var v *proto.VersionError
	if errors.As(err, &v) {
		pe.Code = proto.BadVersion
	}
	l.send(m, pe)
	l.act(hangUp{id: m.ID, reason: string(pe.Code)})
	l.leave(now, m.ID, "it broke the protocol: "+err.Error())
}

// Heartbeats and deadlines.

func (l *lobby) ping(now time.Time, m *member) {
	m.seq++
	m.pinged = now
	l.send(m, &proto.Ping{Seq: m.seq, RTT: int64(m.RTT)})
}

func (l *lobby) tick(now time.Time) {
	// Where the host itself slept (a laptop's lid, a starved core), the members'
	// silence proves nothing.
	if gap := now.Sub(l.ticked); !l.ticked.IsZero() && gap > l.set.timeout/2 {
		for _, m := range l.members {
			m.seen = m.seen.Add(gap)
		}
	}
	l.ticked = now
	for _, m := range l.sorted() {
		if l.members[m.ID] == nil {
			continue
		}
		if silent := now.Sub(m.seen); silent >= l.set.timeout {
			l.act(hangUp{id: m.ID, reason: "no heartbeat", abrupt: true})
			l.leave(now, m.ID, fmt.Sprintf("no heartbeat for %v", silent.Round(100*time.Millisecond)))
		} else if now.Sub(m.pinged) >= l.set.heartbeat {
			l.ping(now, m)
		}
	}
	if l.deadline.IsZero() || now.Before(l.deadline) {
		return
	}
	var late []string
	for _, m := range l.assigned() {
		if (l.phase == connecting && !m.ready) || (l.phase == draining && !m.done) {
			late = append(late, fmt.Sprintf("%s (cluster %d, stage %d)", m.Name, m.job.Cluster, m.job.Stage))
		}
	}
	switch l.phase {
	case connecting:
		l.end(fmt.Errorf("%w: not ready within %v: %s", ErrTimeout, l.set.readyTimeout, strings.Join(late, ", ")))
	case draining:
		if len(late) == 0 {
			late = []string{"the store"}
		}
		l.end(fmt.Errorf("%w: not finished within %v: %s", ErrTimeout, l.set.drainTimeout, strings.Join(late, ", ")))
	}
}

// A run's life.

func (l *lobby) submit(now time.Time, job *Job) {
	l.job = job
	l.phase = gathering
	l.attempt, l.interrupted, l.saved = 0, false, nil
	for _, m := range l.sorted() {
		if len(job.Names) == 0 || slices.Contains(job.Names, m.Name) {
			l.emit(Joined{Member: m.Member, Have: len(l.members), Want: job.Want})
			continue
		}
		err := unknownName(job.Names, m.Name)
		l.send(m, err)
		l.act(hangUp{id: m.ID, reason: string(err.Code)})
		l.leave(now, m.ID, err.Message)
	}
	l.gather()
}

// gather asks for a plan once enough providers are here. One counts from its
// first pong on, so that the planner knows every RTT.
func (l *lobby) gather() {
	if l.phase != gathering {
		return
	}
	var pool []Member
	for _, m := range l.sorted() {
		if m.met {
			pool = append(pool, m.Member)
		}
	}
	if len(pool) < l.job.Want {
		return
	}
	l.phase = planning
	l.planSeq++
	l.act(askPlan{seq: l.planSeq, job: l.job, pool: pool})
}

func (l *lobby) planned(now time.Time, e planned) {
	if l.phase != planning || e.seq != l.planSeq {
		return
	}
	err := e.err
	if err == nil {
		err = l.checkPlan(e.placed)
	}
	if err != nil {
		l.end(fmt.Errorf("%w: %w", ErrPlan, err))
		return
	}
	l.attempt++
	l.run = l.job.ID + "-" + strconv.Itoa(l.attempt)
	l.total = len(e.placed)
	l.objects, l.saves, l.latest = map[string]bool{}, map[int64]map[place]*SavedStage{}, map[place]*SavedStage{}
	for i := range e.placed {
		l.members[e.placed[i].MemberID].job = &e.placed[i]
	}
	ms := l.assigned()
	ev := Planned{Run: l.run}
	msgs := make([]*proto.Assign, len(ms))
	for i, m := range ms {
		a := m.job
		ev.Stages = append(ev.Stages, Placed{Member: m.Member, Assignment: *a})
		msgs[i] = &proto.Assign{
			Run: l.run, Cluster: a.Cluster, Stage: a.Stage, Stages: a.Stages, Name: m.Name, Job: l.job.Raw,
			Graph: a.Graph, Data: a.Data, Weights: a.Weights, Plan: a.Plan,
		}
		for _, o := range ms {
			if o != m && o.job.Cluster == a.Cluster {
				msgs[i].Peers = append(msgs[i].Peers, proto.Peer{
					Cluster: o.job.Cluster, Stage: o.job.Stage, ID: o.ID, Name: o.Name, Class: o.Hello.Class,
				})
			}
		}
		// What cannot be said must be known before anyone is told anything.
		if _, err := proto.Encode(msgs[i]); err != nil {
			l.end(fmt.Errorf("%w: %w", ErrPlan, err))
			return
		}
	}
	l.phase = connecting
	l.deadline = now.Add(l.set.readyTimeout)
	l.act(put{object: l.run + "/job.json", data: record(l.run, now, l.job, ev.Stages)})
	l.emit(ev)
	for i, m := range ms {
		l.send(m, msgs[i])
	}
}

// record is the run's entry in the store: what was asked, and who got what.
func record(run string, now time.Time, job *Job, stages []Placed) []byte {
	type entry struct {
		Cluster  int         `json:"cluster"`
		Stage    int         `json:"stage"`
		Stages   int         `json:"stages"`
		Name     string      `json:"name"`
		Platform string      `json:"platform"`
		Class    string      `json:"class"`
		RAM      int64       `json:"ram_bytes"`
		Bench    proto.Bench `json:"bench"`
		Graph    proto.Ref   `json:"graph"`
	}
	rec := struct {
		Run    string          `json:"run"`
		Time   time.Time       `json:"time"`
		Job    json.RawMessage `json:"job"`
		Stages []entry         `json:"stages"`
	}{Run: run, Time: now.UTC(), Job: job.Raw}
	for _, p := range stages {
		rec.Stages = append(rec.Stages, entry{
			p.Cluster, p.Stage, p.Stages, p.Name, p.Hello.Platform, p.Hello.Class, p.Hello.RAM, p.Hello.Bench, p.Graph,
		})
	}
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("lobby: run record: %v", err)) // numbers were checked on arrival, Raw by Run
	}
	return append(b, '\n')
}

// checkPlan verifies that every cluster has each of its stages once, and no
// member more than one.
func (l *lobby) checkPlan(as []Assignment) error {
	if len(as) == 0 {
		return errors.New("the plan is empty")
	}
	used := map[string]bool{}
	stages := map[int]int{}
	have := map[place]bool{}
	for _, a := range as {
		m := l.members[a.MemberID]
		if m == nil || !m.met {
			return fmt.Errorf("the plan names the provider %.64q, which is not in the pool", a.MemberID)
		}
		if used[a.MemberID] {
			return fmt.Errorf("the plan gives %s two stages", m.Name)
		}
		used[a.MemberID] = true
		if n, ok := stages[a.Cluster]; ok && n != a.Stages {
			return fmt.Errorf("the plan gives cluster %d both %d and %d stages", a.Cluster, n, a.Stages)
		}
		stages[a.Cluster] = a.Stages
		p := place{a.Cluster, a.Stage}
		if a.Stage < 0 || a.Stage >= a.Stages || have[p] {
			return fmt.Errorf("the plan gives cluster %d the stage %d of %d twice or out of range", a.Cluster, a.Stage, a.Stages)
		}
		have[p] = true
	}
	for c, n := range stages {
		for s := range min(n, proto.MaxStages) {
			if !have[place{c, s}] {
				return fmt.Errorf("the plan leaves stage %d of cluster %d without a provider", s, c)
			}
		}
	}
	return nil
}

func (l *lobby) stop(now time.Time, e stopAsked) {
	switch {
	case l.phase == idle:
	case l.phase == draining && e.mode == proto.Graceful: // under way
	case l.phase == running && e.mode == proto.Graceful:
		l.interrupted = true
		l.phase = draining
		l.deadline = now.Add(l.set.drainTimeout)
		for _, m := range l.assigned() {
			if !m.done {
				l.send(m, &proto.Stop{Run: l.run, Reason: e.reason, Mode: proto.Graceful})
			}
		}
	default:
		if e.reason == "" {
			l.end(ErrStopped)
		} else {
			l.end(fmt.Errorf("%w: %s", ErrStopped, e.reason))
		}
	}
}

// finishIfDone ends a run whose stages are all done and stored.
func (l *lobby) finishIfDone() {
	if l.phase != draining || len(l.pending) > 0 {
		return
	}
	for _, m := range l.members {
		if m.job != nil && !m.done {
			return
		}
	}
	// Where the stages' last states were not of one step, they are the result
	// all the same.
	if !l.final && len(l.latest) == l.total && !l.isSaved(l.latest) {
		l.final = true
		l.commit(l.latest)
		return
	}
	if l.commitErr != nil {
		l.end(fmt.Errorf("%w: %w", ErrStore, l.commitErr))
		return
	}
	if n := len(l.latest); n > 0 && n < l.total {
		l.emit(Warning{Err: fmt.Errorf("%w: only %d of %d stages saved their last state", ErrStore, n, l.total)})
	}
	l.end(nil)
}

// end ends the run, well where err is nil.
func (l *lobby) end(err error) {
	if err != nil {
		for _, m := range l.assigned() {
			if !m.done {
				l.send(m, &proto.Stop{Run: l.run, Reason: err.Error(), Mode: proto.Now})
			}
		}
		if l.saved != nil {
			err = fmt.Errorf("%w; the last saved state (step %d, epoch %d) is kept", err, l.saved.Step, l.saved.Epoch)
		} else if l.phase == running || l.phase == draining {
			err = fmt.Errorf("%w; nothing had been saved yet", err)
		}
	}
	res := Result{Run: l.run, Interrupted: l.interrupted, Checkpoint: l.saved}
	if err != nil {
		l.emit(Failed{Result: res, Err: err})
	} else {
		l.emit(Done{Result: res})
	}
	l.act(finish{result: res, err: err})
	l.clearRun()
	l.job, l.phase, l.saved = nil, idle, nil
	if !l.set.once {
		return
	}
	why := "the run is over"
	if err != nil {
		why = "the run failed: " + err.Error()
	}
	l.dismiss(proto.Text(why))
}

// clearRun forgets the current attempt.
func (l *lobby) clearRun() {
	for _, m := range l.members {
		m.job, m.ready, m.done, m.peak, m.last, m.upload = nil, false, false, 0, proto.Progress{}, nil
	}
	l.run, l.total, l.started, l.deadline = "", 0, time.Time{}, time.Time{}
	l.loss, l.val = nil, nil
	l.objects, l.saves, l.latest = nil, nil, nil
	l.pending, l.commitErr, l.final = nil, nil, false
}

func (l *lobby) dismiss(reason string) {
	for _, m := range l.sorted() {
		l.send(m, &proto.Bye{Reason: reason})
		l.act(hangUp{id: m.ID, reason: reason})
		delete(l.members, m.ID)
	}
}

func (l *lobby) shutdown(now time.Time, reason string) {
	l.closed = true
	if l.job != nil {
		l.stop(now, stopAsked{mode: proto.Now, reason: reason})
	}
	l.dismiss(reason)
}

// Messages.

func (l *lobby) receive(now time.Time, m *member, msg proto.Message) {
	switch msg := msg.(type) {
	case *proto.Pong:
		if msg.Seq != m.seq {
			return // late: the ping after it is under way
		}
		m.RTT = max(now.Sub(m.pinged), time.Nanosecond)
		if !m.met {
			m.met = true
			l.gather()
		}
	case *proto.Bye:
		l.act(hangUp{id: m.ID, reason: "bye"})
		reason := "it said goodbye"
		if msg.Reason != "" {
			reason += ": " + msg.Reason
		}
		l.leave(now, m.ID, reason)
	case *proto.Signal:
		to := l.members[msg.To]
		if !l.current(m, msg.Run) || to == nil || to.job == nil || to == m {
			return // of an attempt that is over, or to one that has just left
		}
		l.send(to, &proto.Signal{Run: msg.Run, From: m.ID, Body: msg.Body})
	case *proto.Ready:
		if l.current(m, msg.Run) && l.phase == connecting && !m.ready {
			l.readied(now, m, msg)
		}
	case *proto.Progress:
		if l.current(m, msg.Run) && l.rightStage(now, m, msg.Stage) {
			l.progress(now, m, msg)
		}
	case *proto.Saved:
		if l.current(m, msg.Run) && l.rightStage(now, m, msg.Stage) {
			l.save(now, m, msg)
		}
	case *proto.Done:
		if l.current(m, msg.Run) && l.rightStage(now, m, msg.Stage) && !m.done {
			l.done(now, m, msg)
		}
	case *proto.Failed:
		if l.current(m, msg.Run) && l.rightStage(now, m, msg.Stage) {
			m.done = true // it needs no stop
			l.end(fmt.Errorf("%w: %s (cluster %d, stage %d): %s", ErrProviderFailed, m.Name, m.job.Cluster, m.job.Stage, msg.Error))
		}
	default:
		l.violate(now, m, fmt.Errorf("a provider does not send %s here", msg.Type()))
	}
}

// current reports whether a message about run from m is about now. One about an
// attempt that has just ended is no fault of the sender.
func (l *lobby) current(m *member, run string) bool {
	return m.job != nil && run == l.run
}

func (l *lobby) rightStage(now time.Time, m *member, stage int) bool {
	if stage == m.job.Stage {
		return true
	}
	l.violate(now, m, fmt.Errorf("it speaks for stage %d and has stage %d", stage, m.job.Stage))
	return false
}

func (l *lobby) readied(now time.Time, m *member, msg *proto.Ready) {
	m.ready, m.peak = true, msg.Peak
	l.emit(Ready{Run: l.run, Cluster: m.job.Cluster, Stage: m.job.Stage, Name: m.Name, Peak: msg.Peak})
	ms := l.assigned()
	for _, o := range ms {
		if !o.ready {
			return
		}
	}
	l.phase = running
	l.started, l.deadline = now, time.Time{}
	for _, o := range ms {
		l.send(o, &proto.Start{Run: l.run})
	}
	l.emit(Started{Run: l.run})
}

func (l *lobby) progress(now time.Time, m *member, msg *proto.Progress) {
	if l.phase != running && l.phase != draining {
		return
	}
	m.last = *msg
	m.last.Losses, m.last.Vals = nil, nil
	for _, x := range msg.Losses {
		l.emit(Loss{Run: l.run, Cluster: m.job.Cluster, Stage: m.job.Stage, Loss: x})
		l.loss = &x
	}
	for _, x := range msg.Vals {
		l.emit(Val{Run: l.run, Cluster: m.job.Cluster, Stage: m.job.Stage, Val: x})
		l.val = &x
	}
	line, err := json.Marshal(struct {
		T       int64  `json:"t_ms"` // since the start
		Cluster int    `json:"cluster"`
		Name    string `json:"name"`
		*proto.Progress
	}{now.Sub(l.started).Milliseconds(), m.job.Cluster, m.Name, msg})
	if err == nil { // it came as JSON, it goes as JSON
		l.act(addLine{log: l.run + "/metrics", line: line})
	}
	l.emit(Progress{Cluster: m.job.Cluster, Name: m.Name, Progress: *msg})
}

func (l *lobby) done(now time.Time, m *member, msg *proto.Done) {
	if l.phase != running && l.phase != draining {
		l.violate(now, m, errors.New("it is done before the start"))
		return
	}
	m.done = true
	l.emit(StageDone{Run: l.run, Cluster: m.job.Cluster, Stage: m.job.Stage, Name: m.Name, Step: msg.Step})
	if l.phase == running {
		l.phase = draining
		l.deadline = now.Add(l.set.drainTimeout)
	}
	l.finishIfDone()
}
