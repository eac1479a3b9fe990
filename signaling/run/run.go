// Package run decides how a job's run goes: who joins, who gets which stage, when
// it starts, what is a checkpoint, and how it goes on when somebody is lost.
//
// A [Machine] has no clock, no socket and no store. Every [Event] comes with its
// time, and what follows from it comes back as [Action] values that the caller
// carries out; what the requester should know is a [Report] among them. The same
// events give the same actions, in tests, in a simulation and in life, and a
// machine restored from its snapshot goes on as the one that was stored.
//
// A run's life:
//
//	idle -> gathering -> planning -> connecting -> running -> draining -> idle
//	            ^            |           |            |           |
//	            +------------+-----------+------------+-----------+  somebody was lost
//
// One pass from planning on is an attempt; its number is the generation in every
// assignment. A loss ends the attempt, not the run: the others are told to stop
// and stay, and with whoever is there the machine plans anew and goes on from the
// newest checkpoint, or from the seed where there is none yet.
package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Reasons why a run failed, for errors.Is. The messages around them name the
// provider and what is kept.
var (
	ErrPlan           = errors.New("no plan for this pool")
	ErrProviderLost   = errors.New("a provider left")
	ErrProviderFailed = errors.New("a provider failed")
	ErrDiverged       = errors.New("the training diverged")
	ErrTimeout        = errors.New("timed out")
	ErrStopped        = errors.New("stopped by the requester")
	ErrStore          = errors.New("the trained stages could not be stored")
)

// Settings are what the machine decides by. They are not part of its snapshot.
type Settings struct {
	Heartbeat    time.Duration
	Timeout      time.Duration // silence after which a member is dead
	ReadyTimeout time.Duration // from assigned to ready, without a byte fetched
	DrainTimeout time.Duration // from the first done to all done, without a sign of life
	StopTimeout  time.Duration // the same after a graceful stop
	Grace        time.Duration // how long a lost provider is waited for before planning without it
	Checkpoint   time.Duration // least time between two checkpoints that the host asks for; negative: never
	Stall        time.Duration // least time without any progress before a stage counts as stuck
	MaxMembers   int
	Once         bool // say bye to all when the run is over
}

// Fill sets the fields that are 0 to their defaults.
func (s *Settings) Fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&s.Heartbeat, 1500*time.Millisecond)
	def(&s.Timeout, 3*s.Heartbeat)
	def(&s.ReadyTimeout, time.Minute)
	def(&s.DrainTimeout, time.Minute)
	def(&s.StopTimeout, 5*time.Second)
	def(&s.Grace, 15*time.Second)
	def(&s.Checkpoint, 10*time.Second)
	def(&s.Stall, 30*time.Second)
	if s.MaxMembers == 0 {
		s.MaxMembers = 1024
	}
}

// Limits that no setting changes.
const (
	maxSaves     = 16 // positions whose checkpoint is incomplete
	maxFruitless = 12 // attempts in a row without a new checkpoint
	maxStrikes   = 3  // failures in a row of one provider
	banned       = 10 * time.Minute
	restartGrace = time.Minute
)

// Job is what the machine needs of a training job. It never looks into Raw.
type Job struct {
	// ID begins the ids of the attempts: "ID-1" and so on.
	ID string
	// Raw goes to every provider.
	Raw json.RawMessage
	// Names are the only provider names allowed. Empty: any.
	Names []string
	// Spares lets providers in that have none of Names and ask for no name.
	Spares bool
	// Replan tells that a plan can be made for other members than those of Names, or
	// for fewer than Want.
	Replan bool
	// Want is how many providers to wait for before the first plan.
	Want int
	// Steps and Val bound what a leaf may report: the batches of the whole run and the
	// rows of a validation pass. 0: not known.
	Steps, Val int64
	// Span is the batches from one place where the run can stop or save to the next: a round
	// of replicas. 0: one.
	Span int64
}

// Member is a provider in the lobby.
type Member struct {
	ID    string
	Name  string
	Addr  string        // network address it joined from
	Hello proto.Hello   // what it said of itself, without the token
	RTT   time.Duration // to the host, by heartbeat
}

// Assignment gives a member a stage. A plan holds, for each cluster, one for
// every stage 0 <= Stage < Stages, whose segments follow one another.
type Assignment struct {
	MemberID  string
	Cluster   int
	Stage     int
	Stages    int
	Segment   snapshot.Segment // its nodes of the whole graph
	MaxUpload int64            // bytes that the stage's state can have; 0: the host's limit
	Graph     proto.Ref
	Data      map[string]proto.Ref // by kind
	Weights   map[string]proto.Ref // by kind; empty: the provider initialises by seed
	Plan      json.RawMessage      // opaque
}

// Placed is an assignment together with the provider that got it.
type Placed struct {
	Member
	Assignment
}

// Result is how a run ended.
type Result struct {
	Run         string             // id of the last attempt; "" where none was planned
	Interrupted bool               // it was stopped gracefully before its end
	Checkpoint  *snapshot.Manifest // the last saved state; nil where there is none
}

// Phase is where a run stands.
type Phase string

// The phases.
const (
	Idle       Phase = "idle"
	Gathering  Phase = "gathering"
	Planning   Phase = "planning"
	Connecting Phase = "connecting"
	Running    Phase = "running"
	Draining   Phase = "draining"
)

// member is a provider and its part in the current attempt. Like everything in
// state it is stored as it is: fields are exported for JSON only.
type member struct {
	Member
	Seen    time.Time // when it was last heard
	Pinged  time.Time
	Turn    uint64 // number of that ping among all members'
	Seq     uint64 // of the ping under way
	Met     bool   // it has answered a ping since it joined or was last suspected
	Given   bool   // it asked for no name
	Wish    string // why it wants to leave
	LeaveBy time.Time

	Place    *Assignment
	Ready    bool
	ReadyBy  time.Time
	Fetched  int64
	Done     bool
	Failed   bool // it has left the attempt by itself
	Peak     int64
	Last     proto.Progress
	Heard    time.Time // of its last progress report
	MovedIn  time.Time // when Last.In last grew
	MovedOut time.Time
	Taking   time.Time // since when an upload is under way
	Upload   *saved    // uploaded, and not yet named by a saved message
	SavedAt  *position // its last state's
	gone     bool      // it is no member any more
}

// saved is a stage's state in the store.
type saved struct {
	snapshot.Entry
	Position *position
}

// strike is what a provider's failures have led to.
type strike struct {
	Count     int
	Until     time.Time // it gets no stage before
	Accusers  []string  // who said that it was its fault
	Accusing  []string  // whom it accused
	Forbidden bool      // until Until it may not even join
}

// pending is a manifest on its way to the store.
type pending struct {
	Manifest *snapshot.Manifest
	Asked    time.Time
}

// state is all that a machine knows.
type state struct {
	Version int
	Members map[string]*member
	Strikes map[string]*strike // by name
	Closed  bool
	Ticked  time.Time
	Turns   uint64 // pings so far

	Job         *Job
	Phase       Phase
	Run         string
	Attempt     int
	PlanSeq     int
	Asking      string   // the pool that is being planned for
	Tried       []string // pools that the planner found no plan for
	Told        string   // what was last said about waiting
	Started     time.Time
	Began       bool // training has begun in some attempt
	Lost        time.Time
	GraceUntil  time.Time
	Fruitless   int
	LastLoss    string // of an attempt
	Doubt       *doubt `json:",omitempty"`
	Interrupted bool
	Deadline    time.Time // of draining
	StopBy      int64     // step that no stage goes beyond once it was told to stop
	Warned      time.Time
	Loss        *proto.Loss
	Val         *proto.Val

	Clusters map[int]*cluster
	Objects  map[string]bool // in the store, of all attempts
	Stale    []string        // of older runs, until the first plan
	Saves    []*saveSet      // not yet complete, oldest first
	Pending  []*pending
	Saved    *snapshot.Manifest
	CommitOK bool // the last commit succeeded
	StoreErr string
}

// cluster is what is known of one cluster in the current attempt.
type cluster struct {
	Stages  int
	Over    *position     // of the leaf's last state, once the leaf is done
	Asked   time.Time     // for a checkpoint; zero: none is under way
	Last    time.Time     // when the last checkpoint was complete, or the start
	Cost    time.Duration // of the dearest upload so far
	Moved   time.Time     // when anything of it last moved
	LongGap time.Duration // the longest time in which nothing did
}

// Machine is a run's coordinator. It is not safe for concurrent use.
type Machine struct {
	set Settings
	state
	out []Action
	index
}

// New returns a machine in phase idle.
func New(set Settings) *Machine {
	set.Fill()
	return &Machine{set: set, state: state{
		Version: stateVersion, Members: map[string]*member{}, Strikes: map[string]*strike{}, Objects: map[string]bool{},
		Clusters: map[int]*cluster{}, Phase: Idle,
	}}
}

const stateVersion = 1

// Snapshot returns the machine's state.
func (m *Machine) Snapshot() ([]byte, error) {
	if len(m.out) > 0 {
		return nil, errors.New("run: a snapshot in the middle of a step")
	}
	return json.Marshal(&m.state)
}

// Restore returns the machine whose Snapshot b is.
func Restore(set Settings, b []byte) (*Machine, error) {
	m := New(set)
	if err := json.Unmarshal(b, &m.state); err != nil {
		return nil, fmt.Errorf("run: state: %w", err)
	}
	if m.Version != stateVersion {
		return nil, fmt.Errorf("run: state of version %d, this program reads version %d", m.Version, stateVersion)
	}
	for id, x := range m.Members {
		if x == nil || x.ID != id {
			return nil, fmt.Errorf("run: state: member %.64q", id)
		}
	}
	if m.state.Saved != nil {
		if err := m.state.Saved.Check(0); err != nil {
			return nil, fmt.Errorf("run: state: %w", err)
		}
	}
	for _, p := range m.Pending {
		if p == nil || p.Manifest == nil {
			return nil, errors.New("run: state: a commit of nothing")
		}
	}
	if (m.state.Job == nil) != (m.state.Phase == Idle) {
		return nil, fmt.Errorf("run: state: phase %s", m.state.Phase)
	}
	return m, nil
}

// Earlier is what a host that was started anew knows of a job's run.
type Earlier struct {
	Checkpoint *snapshot.Manifest // nil: none
	Attempt    int                // the last one's number
}

// Earlier is what a later host needs to go on with the machine's job, and that job; nil
// where there is none.
func (m *Machine) Earlier() (*Job, *Earlier) {
	if m.Job == nil {
		return nil, nil
	}
	return m.Job, &Earlier{Checkpoint: m.state.Saved, Attempt: m.Attempt}
}

// Checkpointed is the newest checkpoint; nil: none. It must not be changed.
func (m *Machine) Checkpointed() *snapshot.Manifest { return m.state.Saved }

// Step takes one event in and returns what follows from it, in order.
func (m *Machine) Step(now time.Time, ev Event) []Action {
	switch e := ev.(type) {
	case Join:
		m.join(now, e)
	case Refusal:
		m.report(Refused(e))
	case Leave:
		m.leave(now, e.ID, e.Reason, false)
	case Message:
		if x := m.Members[e.ID]; x != nil {
			x.Seen = now
			m.receive(now, x, e.Msg)
		}
	case Violation:
		if x := m.Members[e.ID]; x != nil {
			m.violate(now, x, e.Err)
		}
	case UploadRequest:
		m.grant(now, e)
	case Upload:
		m.uploaded(now, e)
	case UploadEnd:
		if x := m.Members[e.ID]; x != nil {
			x.Taking = time.Time{}
		}
	case Tick:
		m.tick(now)
	case Plan:
		m.planned(now, e)
	case Commit:
		m.committed(now, e)
	case Submit:
		m.submit(now, e)
	case StopRequest:
		m.stop(now, e)
	case StoreFault:
		m.report(Warning{Err: e.Err})
		if e.Upload && m.Job != nil {
			m.end(e.Err)
		}
	case Shutdown:
		m.shutdown(now, e.Reason)
	default:
		panic(fmt.Sprintf("run: unknown event %T", ev))
	}
	out := m.out
	m.out = nil
	return out
}

func (m *Machine) act(a Action)                      { m.out = append(m.out, a) }
func (m *Machine) send(x *member, msg proto.Message) { m.act(Send{ID: x.ID, Msg: msg}) }
func (m *Machine) where(x *member) string {
	return fmt.Sprintf("%s (cluster %d, stage %d)", x.Name, x.Place.Cluster, x.Place.Stage)
}

func (m *Machine) report(r Report) {
	if m.Job != nil {
		m.act(Emit{r})
	}
}

// persist has the state stored, for the host to go on from after a restart.
func (m *Machine) persist() {
	if m.Job == nil {
		return
	}
	st := m.state
	st.Members = map[string]*member{} // no session outlives the host, and there may be thousands
	b, err := json.Marshal(&st)
	if err != nil {
		m.report(Warning{Err: fmt.Errorf("%w: the run's state: %w", ErrStore, err)})
		return
	}
	m.act(Put{Object: StateObject(m.Job.ID), Data: b})
}

// StateObject and ManifestObject are where the store has a job's run.
func StateObject(job string) string    { return job + "/state.json" }
func ManifestObject(job string) string { return job + "/manifest.json" }

// MetricsLog is the log of a job's figures.
func MetricsLog(job string) string { return job + "/metrics" }

// clusters returns the numbers of the current attempt's clusters, in order.
func (m *Machine) clusters() []int {
	var cs []int
	for c := range m.Clusters {
		cs = append(cs, c)
	}
	slices.Sort(cs)
	return cs
}
