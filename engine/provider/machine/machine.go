// Package machine decides what a provider does: when it joins a host and tries again, which
// assignment it works on, which signals it takes from peers, how long it waits for whom, and
// how it leaves. It has no clock, no socket and no goroutine: an event goes in with its time,
// what follows from it comes out as actions in order. The same events give the same actions,
// and the state between two of them can be stored and restored.
package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Rules are what a Machine decides by. Zero durations take the defaults.
type Rules struct {
	// Once: leave when a run is over.
	Once bool `json:"once,omitempty"`
	// Stay: come back after a host has said goodbye, for its next job.
	Stay bool `json:"stay,omitempty"`
	// Wait is how long to be without a host before giving up; negative: for ever, 0: one try.
	Wait time.Duration `json:"wait"`
	// Connect is how long two peers that both try may take without getting any further; 30 s.
	Connect time.Duration `json:"connect"`
	// Leave bounds the wait for a goodbye that loses nothing; 10 s. While a stage is being
	// saved it is three times as long.
	Leave time.Duration `json:"leave"`
	// Over is how long Once waits for the host's word after its stage is done; 60 s.
	Over time.Duration `json:"over"`
	// Seed of the jitter in what lies between two tries to join.
	Seed uint64 `json:"seed"`
}

// Bounds of what a peer may signal before its link is up. What is beyond them, or comes
// after, is dropped.
const (
	MaxSignals     = 512
	MaxSignalBytes = 256 << 10
)

// Times between two tries to join: the first, doubled for every further one, and the most.
// Half of each is jitter, so that many providers do not come at once.
const (
	firstTry = 250 * time.Millisecond
	lastTry  = 15 * time.Second
	// steady is how long a session lasts that makes the next try a first one again.
	steady = 10 * time.Second
	// lostQuietly is how long tries after a loss fail without a further word.
	lostQuietly = 30 * time.Second
)

// fetchEvery is how often the host is told how far a download is.
const fetchEvery = time.Second

// Outcome is how something ended.
type Outcome string

// The outcomes.
const (
	None    Outcome = ""        // there was nothing
	Done    Outcome = "done"    // well
	Stopped Outcome = "stopped" // by the host
	Failed  Outcome = "failed"
)

// State is where a provider stands, as people are told.
type State string

// The states, in the order of a run.
const (
	Seeking    State = "seeking"    // no host answers
	Waiting    State = "waiting"    // for an assignment
	Fetching   State = "fetching"   // the model, data and what to go on from
	Connecting State = "connecting" // to peers, and until all of them are ready
	Training   State = "training"
	Leaving    State = "leaving" // its state is being saved
)

// Machine is a provider's state. The zero Machine is not valid: use New or Restore.
type Machine struct{ s state }

type state struct {
	Rules   Rules         `json:"rules"`
	Host    hostState     `json:"host"`
	Since   time.Duration `json:"since"` // in this state of the host
	Away    time.Duration `json:"away"`  // without a host since
	Tries   int           `json:"tries"` // to join that failed in a row
	Try     time.Duration `json:"try"`   // when the next one is due
	Told    []string      `json:"told,omitempty"`
	Missed  bool          `json:"missed,omitempty"` // the session before was lost
	Current *attempt      `json:"current,omitempty"`
	Next    *attempt      `json:"next,omitempty"` // assigned while Current winds down
	LastRun string        `json:"last_run,omitempty"`
	Last    Outcome       `json:"last,omitempty"` // of LastRun
	LastWhy string        `json:"last_why,omitempty"`
	OverBy  time.Duration `json:"over_by,omitempty"`
	Bye     string        `json:"bye,omitempty"` // it is leaving, with this reason
	ByeFrom time.Duration `json:"bye_from,omitempty"`
	Gone    bool          `json:"gone,omitempty"` // it has quit
}

type hostState string

const (
	joining hostState = "joining" // a try is under way
	joined  hostState = "joined"
	away    hostState = "away" // until Try
)

// attempt is one assignment.
type attempt struct {
	Assign *proto.Assign    `json:"assign"`
	State  State            `json:"state"`
	Ending bool             `json:"ending,omitempty"` // cancelled; its end is awaited
	Peers  map[string]*peer `json:"peers,omitempty"`
	Mail   []Deliver        `json:"mail,omitempty"` // of an attempt that has not begun
	Saving int              `json:"saving,omitempty"`
	Told   time.Duration    `json:"told,omitempty"` // how far the download is
	Cause  *Cancel          `json:"cause,omitempty"`
}

type peer struct {
	Name    string        `json:"name"`
	Signals int           `json:"signals"`
	Bytes   int           `json:"bytes"`
	Last    time.Duration `json:"last"` // when it last signalled, if it did
	Linked  bool          `json:"linked,omitempty"`
}

// New is a provider that has not begun. Start is its first event.
func New(r Rules) *Machine {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&r.Connect, 30*time.Second)
	def(&r.Leave, 10*time.Second)
	def(&r.Over, 60*time.Second)
	return &Machine{state{Rules: r, Host: away}}
}

// Snapshot is the machine's state as JSON.
func (m *Machine) Snapshot() ([]byte, error) { return json.Marshal(m.s) }

// Restore is the machine that Snapshot was taken of.
func Restore(b []byte) (*Machine, error) {
	m := new(Machine)
	if err := json.Unmarshal(b, &m.s); err != nil {
		return nil, fmt.Errorf("restoring a provider's state: %w", err)
	}
	return m, nil
}

// Deadline is when a Tick is due at the latest; false: nothing is waited for.
func (m *Machine) Deadline() (time.Duration, bool) {
	var at time.Duration
	found := false
	due := func(t time.Duration) {
		if !found || t < at {
			at, found = t, true
		}
	}
	s := &m.s
	if s.Gone {
		return 0, false
	}
	if s.Host == away {
		due(s.Try)
	}
	if s.OverBy > 0 {
		due(s.OverBy)
	}
	if s.Bye != "" {
		due(m.leaveBy())
	}
	if _, t := m.late(); t > 0 {
		due(t)
	}
	return at, found
}

// leaveBy is when the wait for a goodbye without loss is over.
func (m *Machine) leaveBy() time.Duration {
	d := m.s.Rules.Leave
	if c := m.s.Current; c != nil && c.Saving > 0 {
		d *= 3
	}
	return m.s.ByeFrom + d
}

// late is the peer whose connection is due first, and when; 0 where none is. A peer counts
// from its last signal: before the first it may be downloading, which the host watches.
func (m *Machine) late() (id string, at time.Duration) {
	c := m.s.Current
	if c == nil || c.Ending || c.State != Connecting {
		return "", 0
	}
	for k, p := range c.Peers {
		if t := p.Last + m.s.Rules.Connect; p.Signals > 0 && !p.Linked && (at == 0 || t < at || (t == at && k < id)) {
			id, at = k, t
		}
	}
	return id, at
}

// Step takes one event in and returns what follows from it, in order.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	if m.s.Gone {
		return nil
	}
	o := &out{m: m, s: &m.s, now: now}
	switch e := ev.(type) {
	case Start:
		o.s.Away = now
		o.join()
	case Joined:
		o.s.Host, o.s.Since, o.s.Told, o.s.Missed = joined, now, nil, false
		o.act(Show{State: Waiting})
	case JoinFailed:
		o.joinFailed(e)
	case Lost:
		o.lost(e)
	case Heard:
		o.heard(e.Msg)
	case Fetched, Prepared, Linked, Compiled, Saving:
		o.progress(ev)
	case Ended:
		o.ended(e)
	case Leave:
		o.leave(e)
	case Tick:
	default:
		panic(fmt.Sprintf("machine: unknown event %T", ev))
	}
	o.due()
	return o.acts
}

// out collects the actions of one step.
type out struct {
	m    *Machine
	s    *state
	now  time.Duration
	acts []Action
}

func (o *out) act(a Action)                 { o.acts = append(o.acts, a) }
func (o *out) tell(format string, a ...any) { o.act(Tell{fmt.Sprintf(format, a...)}) }
func (o *out) send(m proto.Message)         { o.act(Send{m}) }
func (o *out) quit(how Outcome, why string) { o.s.Gone = true; o.act(Quit{Outcome: how, Why: why}) }

func (o *out) running(run string) *attempt {
	if c := o.s.Current; c != nil && !c.Ending && c.Assign.Run == run {
		return c
	}
	return nil
}

// due does what the time asks for.
func (o *out) due() {
	s := o.s
	if s.Gone {
		return
	}
	if s.Bye != "" && o.now >= o.m.leaveBy() {
		o.quit(None, s.Bye)
		return
	}
	if s.OverBy > 0 && o.now >= s.OverBy {
		o.quit(s.Last, s.LastWhy)
		return
	}
	if id, at := o.m.late(); at > 0 && o.now >= at {
		p := s.Current.Peers[id]
		o.cancel(Cancel{Outcome: Failed, Why: fmt.Sprintf("no connection to %s within %v", p.Name, s.Rules.Connect), Kind: proto.FailedPeer, Peer: id})
	}
	if s.Host == away && o.now >= s.Try {
		o.join()
	}
}

// Joining.

func (o *out) join() {
	o.s.Host, o.s.Since = joining, o.now
	o.act(Join{})
}

func (o *out) joinFailed(e JoinFailed) {
	o.s.Tries++
	d := delay(o.s.Rules.Seed, o.s.Tries-1)
	waited := o.now - o.s.Away
	if !e.Again || (o.s.Rules.Wait >= 0 && waited+d > o.s.Rules.Wait) {
		o.quit(Failed, e.Why)
		return
	}
	o.s.Host, o.s.Since, o.s.Try = away, o.now, o.now+d
	// Told once, and not at every try; a host that has another reason now is news.
	// After a loss, of which the person knows, it takes a while until it is news at all.
	if fresh := o.s.Missed && waited < lostQuietly; !fresh && !slices.Contains(o.s.Told, e.Why) && len(o.s.Told) < 3 {
		o.s.Told = append(o.s.Told, e.Why)
		o.act(Show{State: Seeking, Text: e.Why})
		o.tell("%s", e.Why)
		if len(o.s.Told) == 1 {
			o.tell("trying again until it answers")
		}
	}
}

// delay is the time before the n-th further try.
func delay(seed uint64, n int) time.Duration {
	d := lastTry
	if n < 6 {
		d = min(firstTry<<n, lastTry)
	}
	// splitmix64
	x := seed + uint64(n+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return d/2 + time.Duration(float64(d/2)*float64(x>>11)/(1<<53))
}

func (o *out) lost(e Lost) {
	s := o.s
	if s.Current != nil {
		o.cancel(Cancel{Outcome: Stopped, Why: e.Why})
	}
	s.Next = nil
	held := o.now - s.Since
	s.Host, s.Since, s.Away, s.Missed = away, o.now, o.now, true
	if held >= steady {
		s.Tries = 0
	}
	over := s.Current == nil && s.Last == Done
	switch {
	case s.Bye != "":
		o.quit(None, s.Bye)
	case s.Rules.Once && over:
		o.quit(Done, "")
	case e.Goodbye && (s.Rules.Once || !s.Rules.Stay):
		switch {
		case s.Current != nil:
			o.quit(s.Current.Cause.Outcome, s.Current.Cause.Why)
		case s.Last == None || over:
			o.quit(Done, e.Why)
		default:
			o.quit(s.Last, s.LastWhy)
		}
	case !e.Again:
		o.quit(Failed, e.Why)
	case s.Rules.Wait == 0:
		o.quit(Failed, e.Why)
	default:
		s.Try = o.now + delay(s.Rules.Seed, s.Tries)
		s.Told = nil
		o.act(Show{State: Seeking, Text: e.Why})
		o.tell("%s", e.Why)
		if e.Goodbye {
			o.tell("waiting for its next job")
		} else {
			o.tell("joining again as soon as it answers")
		}
	}
}

// What the host says.

func (o *out) heard(msg proto.Message) {
	s := o.s
	switch e := msg.(type) {
	case *proto.Assign:
		o.assign(e)
	case *proto.Signal:
		o.signal(e)
	case *proto.Start:
		if c := o.running(e.Run); c != nil && c.State == Connecting {
			c.State = Training
			o.act(Train{Run: e.Run})
			o.show(c)
		}
	case *proto.Checkpoint:
		if c := o.running(e.Run); c != nil && c.State == Training && c.Assign.Stage == 0 {
			o.act(SetMark{Run: e.Run, Mark: order.Checkpoint})
		}
	case *proto.Stop:
		o.stop(e)
	case *proto.Bye:
		if s.Bye != "" {
			o.quit(None, s.Bye)
		}
	default:
		// An error of the host's comes back as the reason for which the connection ends.
	}
}

func (o *out) assign(a *proto.Assign) {
	s := o.s
	if s.Bye != "" {
		return // the host has heard of it
	}
	if c := s.Current; c != nil && c.Assign.Run == a.Run || s.Next != nil && s.Next.Assign.Run == a.Run {
		return // said twice
	}
	n := &attempt{Assign: a, State: Fetching, Peers: map[string]*peer{}}
	for _, p := range a.Peers {
		if p.Cluster == a.Cluster {
			n.Peers[p.ID] = &peer{Name: p.Name}
		}
	}
	s.OverBy = 0
	if s.Current == nil {
		o.begin(n)
		return
	}
	// The older one gives way; the new one begins when its memory is free.
	o.cancel(Cancel{Outcome: Stopped, Why: "another assignment has taken its place"})
	s.Next = n
}

func (o *out) begin(n *attempt) {
	o.s.Current = n
	o.act(Begin{Assign: n.Assign})
	for _, d := range n.Mail {
		o.act(d)
	}
	n.Mail = nil
	o.show(n)
}

func (o *out) signal(g *proto.Signal) {
	c, wait := o.s.Next, true
	if c == nil || c.Assign.Run != g.Run {
		c, wait = o.running(g.Run), false
	}
	if c == nil {
		return
	}
	p := c.Peers[g.From]
	if p == nil || p.Linked || p.Signals >= MaxSignals || p.Bytes+len(g.Body) > MaxSignalBytes {
		return // a stranger, too late or too much
	}
	p.Signals++
	p.Bytes += len(g.Body)
	p.Last = o.now
	d := Deliver{Run: g.Run, Peer: g.From, Body: g.Body}
	if wait {
		c.Mail = append(c.Mail, d)
	} else {
		o.act(d)
	}
}

func (o *out) stop(e *proto.Stop) {
	s := o.s
	if n := s.Next; n != nil && n.Assign.Run == e.Run {
		s.Next = nil
		return
	}
	c := o.running(e.Run)
	switch {
	case c == nil && s.LastRun == e.Run && e.Mode == proto.Now && s.Last == Done:
		s.Last, s.LastWhy, s.OverBy = Stopped, e.Reason, 0 // what it had done is of no use
	case c == nil:
	case e.Mode == proto.Graceful && c.State == Training:
		o.tell("stopping: %s", e.Reason)
		o.act(SetMark{Run: e.Run, Mark: order.Stop})
	default:
		o.tell("stopping: %s", e.Reason)
		o.cancel(Cancel{Outcome: Stopped, Why: e.Reason})
	}
}

// cancel ends the current attempt, whose end comes back as Ended.
func (o *out) cancel(c Cancel) {
	a := o.s.Current
	if a == nil || a.Ending {
		return
	}
	a.Ending = true
	c.Run = a.Assign.Run
	a.Cause = &c
	o.act(c)
}

// What the attempt says.

func (o *out) progress(ev Event) {
	switch e := ev.(type) {
	case Fetched:
		if c := o.running(e.Run); c != nil && c.State == Fetching && (c.Told == 0 || o.now-c.Told >= fetchEvery) {
			c.Told = max(o.now, 1)
			o.send(&proto.Fetching{Run: e.Run, Have: e.Have, Want: e.Want})
			o.act(Show{State: Fetching, Have: e.Have, Want: e.Want})
		}
	case Prepared:
		if c := o.running(e.Run); c != nil && c.State == Fetching {
			c.State = Connecting
			for _, p := range c.Peers {
				if p.Signals > 0 {
					p.Last = o.now // from now on both try
				}
			}
			o.show(c)
		}
	case Linked:
		if c := o.running(e.Run); c != nil {
			if p := c.Peers[e.Peer]; p != nil {
				p.Linked = true
			}
			// One that got through says that others can: they count from here.
			for _, p := range c.Peers {
				if p.Signals > 0 && !p.Linked {
					p.Last = o.now
				}
			}
		}
	case Compiled:
		if c := o.running(e.Run); c != nil {
			o.send(&proto.Ready{Run: e.Run, Peak: e.Peak})
		}
	case Saving:
		if c := o.s.Current; c != nil && c.Assign.Run == e.Run {
			if e.Begins {
				c.Saving++
			} else {
				c.Saving--
				// The others and the host get a little longer for theirs.
				o.s.ByeFrom = max(o.s.ByeFrom, o.now-o.s.Rules.Leave/2)
			}
		}
	}
}

func (o *out) ended(e Ended) {
	s := o.s
	c := s.Current
	if c == nil || c.Assign.Run != e.Run {
		return
	}
	s.Current = nil
	how, why := e.Outcome, e.Why
	if c.Cause != nil && how != Done {
		how = c.Cause.Outcome
		if why == "" || how == Stopped {
			why = c.Cause.Why
		}
		if how == Failed {
			e.Kind, e.Peer = c.Cause.Kind, c.Cause.Peer
		}
	}
	if s.Host == joined {
		switch how {
		case Done:
			o.send(&proto.Done{Run: e.Run, Stage: c.Assign.Stage, Step: e.Step})
		case Failed:
			o.send(&proto.Failed{Run: e.Run, Stage: c.Assign.Stage, Error: proto.Text(why), Kind: e.Kind, Peer: e.Peer})
		}
	}
	// Cut after that: what ended this stage reaches the host before what that does to others.
	o.act(Unlink{Run: e.Run})
	if s.Next == nil || how != Stopped {
		s.LastRun, s.Last, s.LastWhy = e.Run, how, why
	}
	if how == Failed {
		o.tell("this stage has failed: %s", why)
	}
	switch {
	case s.Bye != "":
		o.quit(None, s.Bye)
	case s.Next != nil && s.Host == joined:
		n := s.Next
		s.Next = nil
		o.begin(n)
	case s.Host == joined:
		o.act(Show{State: Waiting, Text: note(how, why)})
		if s.Rules.Once && how == Done {
			s.OverBy = o.now + s.Rules.Over
		}
	}
}

func note(how Outcome, why string) string {
	if how == Failed {
		return why
	}
	return ""
}

// Leaving.

func (o *out) leave(e Leave) {
	s := o.s
	c := s.Current
	switch {
	case e.AtOnce || s.Bye != "" || s.Host != joined || c == nil || c.Ending || c.State != Training:
		o.quit(None, e.Reason)
	default:
		s.Bye, s.ByeFrom, s.Next = e.Reason, o.now, nil
		o.send(&proto.Leaving{Reason: proto.Text(e.Reason)})
		o.act(Show{State: Leaving})
		o.tell("leaving as soon as what was trained is saved, %v at the most; asked once more, at once", s.Rules.Leave)
	}
}

// show tells where the attempt stands.
func (o *out) show(c *attempt) {
	if o.s.Bye == "" {
		o.act(Show{State: c.State})
	}
}
