// Package machine decides what a provider does: when it joins a host and when it tries
// again, which assignment it works on, which signals it accepts from peers, how long it
// waits, and how it leaves. It has no clock, no socket and no goroutine: Step takes an event
// with its time and returns the actions that follow, in order. The same events give the same
// actions, and the state between two events can be stored and restored.
package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Rules are a Machine's settings. Durations that are 0 and have a default take it.
type Rules struct {
	// Once makes the provider leave when a run is over.
	Once bool `json:"once,omitempty"`
	// Stay makes the provider join again, for the next job, after a host said goodbye.
	Stay bool `json:"stay,omitempty"`
	// Wait is how long to be without a host before giving up. Negative: for ever; 0: one try.
	Wait time.Duration `json:"wait"`
	// Connect is how long two peers may take to connect without progress. Default: 30 s.
	Connect time.Duration `json:"connect"`
	// Leave bounds how long a leaving provider waits for the host to say that its state is
	// saved; three times as long while it is being uploaded. Default: 10 min, which is as long
	// as a host takes at most.
	Leave time.Duration `json:"leave"`
	// Over is how long, with Once, to wait for the host after the stage is done. Default: 60 s.
	Over time.Duration `json:"over"`
	// Seed of the random part of the delay between tries to join.
	Seed uint64 `json:"seed"`
}

// Bounds on what a peer may signal: to set up its link, and to move it when an address
// changes. Signals beyond them are dropped. After each forgotten it may send one more, so that a
// link can move as often as its run is long.
const (
	MaxSignals     = 512
	MaxSignalBytes = 256 << 10
	forgotten      = time.Second
)

// The delay between tries to join doubles from firstTry to lastTry. Half of it is random,
// so that many providers do not come at once.
const (
	firstTry = 250 * time.Millisecond
	lastTry  = 15 * time.Second
	// steady is how long a session must last for the delay to start from firstTry again.
	steady = 10 * time.Second
	// lostQuietly is how long failing to rejoin after a loss is not reported again.
	lostQuietly = 30 * time.Second
)

// fetchEvery is the interval at which the host is told the progress of a download.
const fetchEvery = time.Second

// Outcome is how something ended.
type Outcome string

// The outcomes.
const (
	None    Outcome = ""        // there was no run
	Done    Outcome = "done"    // successfully
	Stopped Outcome = "stopped" // by the host
	Failed  Outcome = "failed"
)

// State is a provider's state as shown to people.
type State string

// The states, in the order of a run.
const (
	Seeking    State = "seeking"    // no host answers
	Waiting    State = "waiting"    // for an assignment
	Fetching   State = "fetching"   // the model, the data and any checkpoint
	Connecting State = "connecting" // to peers, and until all of them are ready
	Training   State = "training"
	Leaving    State = "leaving" // its state is being saved
)

// Machine is a provider's state. The zero Machine is not valid: use New or Restore.
type Machine struct{ s state }

type state struct {
	Rules   Rules         `json:"rules"`
	Host    hostState     `json:"host"`
	Since   time.Duration `json:"since"` // when Host last changed
	Away    time.Duration `json:"away"`  // since when there has been no host
	Tries   int           `json:"tries"` // failed tries to join in a row
	Try     time.Duration `json:"try"`   // when the next one is due
	Told    []string      `json:"told,omitempty"`
	Missed  bool          `json:"missed,omitempty"` // the previous session was lost
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
	joining hostState = "joining" // a try is in progress
	joined  hostState = "joined"
	away    hostState = "away" // until Try
)

// attempt is one assignment.
type attempt struct {
	Assign *proto.Assign    `json:"assign"`
	State  State            `json:"state"`
	Ending bool             `json:"ending,omitempty"` // cancelled, but not yet ended
	Peers  map[string]*peer `json:"peers,omitempty"`
	Mail   []Deliver        `json:"mail,omitempty"`   // kept until the attempt begins
	Saving int              `json:"saving,omitempty"` // saves in progress
	Told   time.Duration    `json:"told,omitempty"`   // when the download was last reported
	Cause  *Cancel          `json:"cause,omitempty"`
}

type peer struct {
	Name    string        `json:"name"`
	Signals int           `json:"signals"` // without those that are forgotten; 0: none has come
	Bytes   int           `json:"bytes"`
	Since   time.Duration `json:"since"` // up to when they are forgotten
	Last    time.Duration `json:"last"`  // when it last signalled, if ever
	Linked  bool          `json:"linked,omitempty"`
}

// forget lets what a peer has signalled count less as time passes.
func (p *peer) forget(now time.Duration) {
	if p.Signals == 0 {
		p.Since = now
		return
	}
	n := int((now - p.Since) / forgotten)
	p.Since += time.Duration(n) * forgotten
	p.Signals = max(p.Signals-n, 1)
	p.Bytes = max(p.Bytes-min(n, MaxSignals)*(MaxSignalBytes/MaxSignals), 0)
}

// New returns the machine of a new provider. Its first event must be Start.
func New(r Rules) *Machine {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&r.Connect, 30*time.Second)
	def(&r.Leave, 10*time.Minute)
	def(&r.Over, 60*time.Second)
	return &Machine{state{Rules: r, Host: away}}
}

// Snapshot returns the machine's state as JSON, for Restore.
func (m *Machine) Snapshot() ([]byte, error) { return json.Marshal(m.s) }

// Restore returns a machine in the state that Snapshot stored as b.
func Restore(b []byte) (*Machine, error) {
	m := new(Machine)
	if err := json.Unmarshal(b, &m.s); err != nil {
		return nil, fmt.Errorf("restoring a provider's state: %w", err)
	}
	return m, nil
}

// Deadline returns when the next Tick is due at the latest, and false if none is.
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

// leaveBy returns when a leaving provider stops waiting for its state to be saved.
func (m *Machine) leaveBy() time.Duration {
	d := m.s.Rules.Leave
	if c := m.s.Current; c != nil && c.Saving > 0 {
		d *= 3
	}
	return m.s.ByeFrom + d
}

// late returns the peer whose connection times out first, and when; 0: none does. The time
// counts from the peer's last signal. Before the first one it may still be downloading,
// which is for the host to watch.
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

// Step handles one event and returns the actions that follow from it, in order.
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

// due acts on deadlines that have passed.
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
	// Report each reason once and not at every try. After a loss, which was itself
	// reported, stay quiet for a while.
	if fresh := o.s.Missed && waited < lostQuietly; !fresh && !slices.Contains(o.s.Told, e.Why) && len(o.s.Told) < 3 {
		o.s.Told = append(o.s.Told, e.Why)
		o.act(Show{State: Seeking, Text: e.Why})
		o.tell("%s", e.Why)
		if len(o.s.Told) == 1 {
			o.tell("trying again until it answers")
		}
	}
}

// delay returns the time before the n-th retry.
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

// Messages from the host.

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
			m := order.Checkpoint
			if e.Hold {
				m = order.Hold
			}
			o.act(SetMark{Run: e.Run, Mark: m})
		}
	case *proto.Bring:
		o.tell("a stage was lost: bringing the state of stage %d that is held here", e.Stage)
		o.act(Bring{Run: e.Run, Stage: e.Stage, Blob: e.Blob})
	case *proto.Stop:
		o.stop(e)
	case *proto.Bye:
		if s.Bye != "" {
			o.quit(None, s.Bye)
		}
	default:
		// An error from the host arrives again as the reason for the session's end.
	}
}

func (o *out) assign(a *proto.Assign) {
	s := o.s
	if s.Bye != "" {
		return // the host was told that this provider leaves
	}
	if c := s.Current; c != nil && c.Assign.Run == a.Run || s.Next != nil && s.Next.Assign.Run == a.Run {
		return // a duplicate
	}
	n := &attempt{Assign: a, State: Fetching, Peers: map[string]*peer{}}
	for _, p := range a.Peers {
		n.Peers[p.ID] = &peer{Name: p.Name}
	}
	s.OverBy = 0
	if s.Current == nil {
		o.begin(n)
		return
	}
	// The older one is cancelled; the new one begins when its memory is free.
	o.cancel(Cancel{Outcome: Stopped, Why: "another assignment has replaced it"})
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
	if p == nil {
		return // from a stranger
	}
	if p.forget(o.now); p.Signals >= MaxSignals || p.Bytes+len(g.Body) > MaxSignalBytes {
		return // too much
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
		s.Last, s.LastWhy, s.OverBy = Stopped, e.Reason, 0 // its result is not used
	case c == nil:
	case e.Mode == proto.Graceful && c.State == Training:
		o.tell("stopping: %s", e.Reason)
		o.act(SetMark{Run: e.Run, Mark: order.Stop})
	default:
		o.tell("stopping: %s", e.Reason)
		o.cancel(Cancel{Outcome: Stopped, Why: e.Reason})
	}
}

// cancel ends the current attempt. Ended follows.
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

// Events of the attempt.

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
					p.Last = o.now // now both sides try
				}
			}
			o.show(c)
		}
	case Linked:
		if c := o.running(e.Run); c != nil {
			if p := c.Peers[e.Peer]; p != nil {
				p.Linked = true
			}
			// A connection was made, so others are possible: restart their time limits.
			for _, p := range c.Peers {
				if p.Signals > 0 && !p.Linked {
					p.Last = o.now
				}
			}
		}
	case Compiled:
		if c := o.running(e.Run); c != nil {
			o.send(&proto.Ready{Run: e.Run, Peak: e.Peak, Links: e.Links})
		}
	case Saving:
		if c := o.s.Current; c != nil && c.Assign.Run == e.Run {
			if e.Begins {
				c.Saving++
			} else {
				c.Saving--
				// Allow the other stages and the host some more time to complete the checkpoint.
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
			o.send(&proto.Done{Run: e.Run, Stage: c.Assign.Stage, Step: e.Step, States: e.States})
		case Failed:
			o.send(&proto.Failed{Run: e.Run, Stage: c.Assign.Stage, Error: proto.Text(why), Kind: e.Kind, Peer: e.Peer})
		}
	}
	// Close the links only after that, so that the host learns what ended this stage before
	// it hears of the broken links.
	o.act(Unlink{Run: e.Run})
	check := c.Assign.Check != nil // nothing of the provider's own
	if !check && (s.Next == nil || how != Stopped) {
		s.LastRun, s.Last, s.LastWhy = e.Run, how, why
	}
	switch {
	case how == Failed && check:
		o.tell("what others did could not be computed again: %s", why)
	case how == Failed:
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
		if s.Rules.Once && how == Done && !check {
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
		o.tell("leaving once the trained state is saved, within %v; ask again to leave at once", s.Rules.Leave)
	}
}

// show shows the attempt's state.
func (o *out) show(c *attempt) {
	if o.s.Bye == "" {
		o.act(Show{State: c.State})
	}
}
