// Package run coordinates a job's run: who may join, who gets which stage, when
// training starts, what counts as a checkpoint, and how the run goes on after a
// provider is lost.
//
// A [Machine] has no clock, no socket and no store. Every [Event] comes with its
// time; Step returns [Action] values for the caller to carry out. What the requester
// should know is among them, as a [Report]. The same events give the same actions in
// tests, in a simulation and in production, and a machine restored from a snapshot
// behaves exactly like the one that was stored.
//
// The phases of a run:
//
//	idle -> gathering -> planning -> connecting -> running -> draining -> idle
//	            ^            |           |            |           |
//	            +------------+-----------+------------+-----------+  a provider was lost
//
// One pass from planning onwards is an attempt; its number is the generation in every
// assignment. A loss ends the attempt, not the run: the other providers stop training
// but stay joined, and the machine plans again with whoever is there. Training resumes
// from the newest checkpoint, or from the seed if there is none yet.
package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
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
	ErrDeposed        = errors.New("another host leads the job now")
)

// Settings are the machine's limits and intervals. They are not part of its snapshot.
type Settings struct {
	Heartbeat    time.Duration
	Timeout      time.Duration // silence after which a member is dead
	ReadyTimeout time.Duration // from assigned to ready; restarted by every byte fetched
	DrainTimeout time.Duration // from the first stage done to the last; restarted by progress
	StopTimeout  time.Duration // the same after a graceful stop
	Grace        time.Duration // how long to wait for a lost provider before planning without it
	Away         time.Duration // how long a member without a connection may take to return; negative: not at all
	Checkpoint   time.Duration // minimum time between checkpoints that the host asks for; negative: never
	Hold         time.Duration // the same for states that stages hold in memory
	Regroup      time.Duration // how long to wait for more newcomers before planning with them, where the job Grows
	Stall        time.Duration // minimum time without any progress before a stage counts as stuck
	Hang         time.Duration // minimum time in which a cluster does nothing before a stage of it that is busy counts as stuck
	AuditSegment int           // bytes after which a segment of the audit log is full
	AuditKeep    int64         // bytes of the audit log that are kept, beside what audits may still need
	MaxMembers   int
	Once         bool // say bye to all when the run is over
}

// Fill replaces zero fields with their defaults.
func (s *Settings) Fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&s.Heartbeat, 1500*time.Millisecond)
	def(&s.Timeout, 3*s.Heartbeat)
	def(&s.Away, s.Timeout)
	def(&s.ReadyTimeout, time.Minute)
	def(&s.DrainTimeout, time.Minute)
	def(&s.StopTimeout, 5*time.Second)
	def(&s.Grace, 15*time.Second)
	def(&s.Checkpoint, 10*time.Second)
	def(&s.Hold, time.Second)
	def(&s.Regroup, 5*time.Second)
	def(&s.Stall, 30*time.Second)
	def(&s.Hang, 5*time.Second)
	if s.AuditKeep == 0 {
		s.AuditKeep = 256 << 20
	}
	if s.AuditSegment == 0 {
		s.AuditSegment = int(min(1<<20, s.AuditKeep/4))
	}
	if s.MaxMembers == 0 {
		s.MaxMembers = 8192
	}
}

// Fixed limits.
const (
	maxUploads = 4 // of one stage that no message has named
	maxGoodbye = 10 * time.Minute
	maxSaves   = 16 // incomplete checkpoints
	// A run ends after so many attempts in a row without progress, or so many for each of its
	// providers. Any of them can spoil an attempt by leaving: with 192 who stay for an hour, 276
	// in a row were seen before one got further (ravnest simulate --providers 500 --replicas 24
	// --session 1 --hours 6).
	maxFruitless, spoilt = 12, 2

	// After so many attempts in a row in which clusters did not agree about a round, and nobody could be
	// told to be to blame, the next one has a single cluster.
	maxDisagreed = 2

	maxStrikes   = 3 // failures in a row of one provider
	banned       = 10 * time.Minute
	restartGrace = time.Minute
)

// Job is what the machine needs to know about a training job.
type Job struct {
	// ID is the prefix of the attempts' ids: "ID-1" and so on.
	ID string
	// Raw is sent to every provider. The machine never parses it.
	Raw json.RawMessage
	// Names are the only provider names allowed. Empty: any.
	Names []string
	// Spares admits providers beyond Names, if they ask for no particular name.
	Spares bool
	// Replan says that a plan can be made for members other than those of Names, or
	// for fewer than Want.
	Replan bool
	// Want is how many providers to wait for before the first plan.
	Want int
	// Steps and Val bound what a leaf may report: the number of batches in the whole run
	// and the number of rows in a validation pass. 0: unknown.
	Steps, Val int64
	// Rounds is the order of a job of several replicas whose parameters are averaged, and whose
	// number is the job's: it can stop or save between two rounds. nil: behind every update.
	Rounds *order.Run `json:",omitempty"`
	// Rows is how many rows a batch has; 0: not known.
	Rows int64
	// Strict ends the run when the store does not take a state. Else that is waited for.
	Strict bool `json:",omitempty"`
	// Audit keeps what an audit needs: a log of what the stages commit themselves to, and
	// the checkpoint before the newest.
	Audit bool
	// AuditEvery has what was trained before one in so many checkpoints computed again while the run
	// goes on; 1: everything, 0: nothing. Which ones follows from AuditSecret.
	AuditEvery  int    `json:",omitempty"`
	AuditSecret string `json:",omitempty"`
	// Sums tells that stages add up numbers along the pipeline before an update, of which no last digest
	// tells.
	Sums bool `json:",omitempty"`
	// AuditSpares has providers that wait compute it, where one of them can.
	AuditSpares bool `json:",omitempty"`
	// Auto is the order of a job whose number of replicas is chosen with every plan, without
	// the replicas; nil: the number is the job's. Each plan then says how many there are, and
	// when more providers are there than it was made for, another one is asked for.
	Auto *order.Run `json:",omitempty"`
	// Grows tells that a plan is made anew when more providers are there than the one at hand was
	// made for. With Auto it is, whatever this says.
	Grows bool `json:",omitempty"`
	// Apart tells that clusters do not have the same state after a round, since each keeps
	// something of its replicas: a checkpoint then needs the stages of all clusters. Else
	// those of the first cluster are enough.
	Apart bool
}

// Member is a provider in the lobby.
type Member struct {
	ID    string
	Name  string
	Addr  string        // network address it joined from
	Hello proto.Hello   // its own description, without the token
	RTT   time.Duration // to the host, measured by heartbeats
}

// who is a member to an audit.
func (x *Member) who() Who { return Who{x.Name, x.Hello.Key} }

// Assignment gives a member a stage. A plan holds one for every cluster and every
// stage 0 <= Stage < Stages of it; the segments of a cluster follow one another.
type Assignment struct {
	MemberID  string
	Cluster   int
	Stage     int
	Stages    int
	Segment   snapshot.Segment // its nodes in the whole graph
	MaxUpload int64            // most bytes that the stage's state can take; 0: the host's limit
	Graph     proto.Ref
	Data      map[string]proto.Ref // by kind
	Weights   map[string]proto.Ref // by kind; empty: the provider initialises from the seed
	Plan      json.RawMessage      // opaque
	// DigestKey is what only this member may know of those of the attempt: the key of its digests, in
	// hex, where the job asks for audits.
	DigestKey string `json:",omitempty"`
	// Hold says that the stage can hold states in memory beside what it promises to stay within
	// otherwise, and Copied that a neighbour keeps copies of them.
	Hold, Copied bool
	// Record says how many replicas the run has from which step on, the attempt's own included,
	// where the job is Auto. It is the same in all assignments of a plan.
	Record []order.Period
	// How many replicas the cluster trains, for people, and the samples a second that it is
	// expected to; 0: not known.
	Share    int
	Forecast float64
}

// Placed is an assignment together with the provider that holds it.
type Placed struct {
	Member
	Assignment
}

// Result is how a run ended.
type Result struct {
	Run         string             // id of the last attempt; "" if none was planned
	Interrupted bool               // it was stopped gracefully before its end
	Checkpoint  *snapshot.Manifest // the last saved state; nil if there is none
}

// Phase is the phase that a run is in.
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

// Machine is a run's coordinator. It is not safe for concurrent use.
type Machine struct {
	set Settings
	state
	out []Action
	index
}

// New returns an idle machine.
func New(set Settings) *Machine {
	set.Fill()
	return &Machine{set: set, state: state{
		Version: stateVersion, hostState: hostState{Members: map[string]*member{}}, runState: newRun(nil), attemptState: newAttempt(),
	}}
}

// Earlier is what a restarted host knows about a job's run so far.
type Earlier struct {
	Checkpoint *snapshot.Manifest // nil: none
	Attempt    int                // number of the last attempt
	Trust      Trust
	Log        AuditIndex // of the job's audits
}

// Earlier returns the machine's job and what a later host needs to continue it, or nils
// if there is no job.
func (m *Machine) Earlier() (*Job, *Earlier) {
	if m.Job == nil {
		return nil, nil
	}
	return m.Job, &Earlier{Checkpoint: m.state.Saved, Attempt: m.Attempt, Trust: m.Trust}
}

// Checkpointed returns the newest checkpoint, or nil. It must not be modified.
func (m *Machine) Checkpointed() *snapshot.Manifest { return m.state.Saved }

// Wanted are the checkpoints that members may be told to go on from: the newest one, and that from which
// an audit begins. Each may be nil, and none may be modified.
func (m *Machine) Wanted() (cs [2]*snapshot.Manifest) {
	if cs[0] = m.state.Saved; m.Audit != nil {
		cs[1] = m.Audit.From
	}
	return cs
}

// Step handles one event and returns the actions that follow from it, in order.
func (m *Machine) Step(now time.Time, ev Event) []Action {
	switch e := ev.(type) {
	case Join:
		m.join(now, e)
	case Refusal:
		m.report(Refused(e))
	case Leave:
		m.leave(now, e.ID, e.Reason, false)
	case Away:
		m.away(now, e)
	case Back:
		m.back(now, e)
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
			m.ended(now, x)
		}
	case Tick:
		m.tick(now)
	case Plan:
		m.planned(now, e)
	case Worth:
		m.worth(now, e)
	case Commit:
		m.committed(now, e)
	case Audited:
		m.audited(now, e)
	case Stretched:
		m.stretched(now, e)
	case Submit:
		m.submit(now, e)
	case StopRequest:
		m.stop(now, e)
	case StoreFault:
		m.storeFault(now, e)
	case Shutdown:
		m.shutdown(now, e.Reason)
	case Deposed:
		m.deposed(e.Err)
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
