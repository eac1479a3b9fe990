package run

// What a machine knows, by how long it is true: as long as the host runs, for one run, until the next
// plan, for one attempt. Each is begun anew by assigning one value. The fields are stored side by side,
// whichever of them they belong to.

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// state is everything that a machine knows.
type state struct {
	Version int
	hostState
	runState
	planState
	attemptState
}

// hostState lasts as long as the host.
type hostState struct {
	Members map[string]*member
	Turns   uint64 // pings so far
	Ticked  time.Time
	Closed  bool

	// Numbers of what was asked last. Answers to older questions come too late.
	PlanSeq  int
	WorthSeq int `json:",omitempty"`
	Audits   int `json:",omitempty"`
}

// runState lasts from a job's submission to the end of its run.
type runState struct {
	Job         *Job // nil: there is none
	Phase       Phase
	Attempt     int  // number of the last one
	Began       bool // training has begun in some attempt
	Interrupted bool // it is being stopped

	history
	storage
	verdicts
}

// history is how the attempts so far went.
type history struct {
	Used       int // providers that the last plan gave stages to
	Pooled     int // providers that it was made for
	Lost       time.Time
	GraceUntil time.Time
	Fruitless  int
	LastLoss   string             // why the last attempt was lost
	Losses     int                `json:",omitempty"` // attempts that a loss ended while they trained
	Deep       int                `json:",omitempty"` // those of them after which the run went on from a checkpoint in the store
	Trained    time.Duration      `json:",omitempty"` // in all attempts before this one
	Disagreed  int                `json:",omitempty"` // attempts in a row that ended because clusters did not agree
	Strikes    map[string]*strike // by name
	Unlinked   []unlinked         `json:",omitempty"`
}

// storage is what the store has of the run, and what is on its way there.
type storage struct {
	Saved     *snapshot.Manifest
	Prior     *snapshot.Manifest `json:",omitempty"` // the one before it, where there are audits
	SavedAt   time.Time          // when the checkpoint's state was there, about
	Pending   []*pending
	Objects   map[string]bool // in the store, of all attempts
	Stale     []string        // objects of older runs, kept until the first plan
	Rescue    *rescue         `json:",omitempty"` // what is brought after a loss of what providers hold
	BringCost time.Duration   // of the slowest of the last uploads
	HoldCost  time.Duration   // of the last states that were held
	Fault     *fault          `json:",omitempty"` // the store takes nothing since then; nil: it does
}

// verdicts is what audits need and have found.
type verdicts struct {
	Trust
	Audit   *auditing `json:",omitempty"` // under way
	Inquest *inquest  `json:",omitempty"` // of the last attempt, which must end before the next begins
	Log     auditLog
}

// planState lasts until there is a plan.
type planState struct {
	Asking string   // the pool that is being planned for
	Tried  []string // pools for which the planner found no plan
	Told   string   // the last reason given for waiting
	Shrunk bool     `json:",omitempty"` // somebody left while the plan was being made
}

// attemptState lasts from a plan to the end of the attempt. What each member has of it is its part.
type attemptState struct {
	Run      string         // its id; "": there is none
	Record   []order.Period `json:",omitempty"` // of its replicas, where the job is Auto
	From     int64          `json:",omitempty"` // step that it goes on from
	Planned  time.Time
	Started  time.Time // all were ready
	Clusters map[int]*cluster
	Saves    []*saveSet // not yet complete, oldest first
	Doubt    *doubt     `json:",omitempty"`
	Loss     *proto.Loss
	Val      *proto.Val
	// The losses of several clusters arrive in no order: those of all steps before Next were
	// reported, those in Ahead wait for the steps in between.
	Next  int64
	Ahead map[int64]*Loss `json:",omitempty"`

	growth
	holding
	closing
}

// growth is about providers that are there beyond those the attempt was planned for.
type growth struct {
	More     int       `json:",omitempty"`
	MoreAt   time.Time // when the last of them came
	Growing  bool      `json:",omitempty"` // a checkpoint was asked for, to plan with them
	Weighing string    `json:",omitempty"` // the pool with them that was asked about
	Weighed  bool      `json:",omitempty"` // whether it is worth a plan is known: it is not
}

// holding is about the states in the memory of the attempt's members.
type holding struct {
	Held      []*heldSet `json:",omitempty"` // oldest first
	HoldLast  time.Time  // when the last ones were complete, or training started
	HoldAsked time.Time  // when the last mark for it was asked for; zero: none is under way
}

// closing is about the attempt's last steps.
type closing struct {
	Deadline time.Time
	StopBy   int64 // step beyond which no stage trains once it was told to stop
	Warned   time.Time
}

func newRun(job *Job) runState {
	r := runState{Job: job, Phase: Idle}
	if job != nil {
		r.Phase = Gathering
	}
	r.Strikes, r.Objects = map[string]*strike{}, map[string]bool{}
	return r
}

func newAttempt() attemptState { return attemptState{Clusters: map[int]*cluster{}} }

// member is a provider and its part in the current attempt. Like everything in state,
// it is stored as JSON, which is the only reason why its fields are exported.
type member struct {
	Member
	Seen   time.Time // when it was last heard from
	Pinged time.Time
	Turn   uint64 // number of that ping, counted over all members
	Seq    uint64 // of the ping not yet answered
	Met    bool   // it has answered a ping since it joined or was last suspected
	Slow   bool   `json:",omitempty"` // it is pinged more seldom: it only waits, as many do
	Given  bool   // it did not ask for a name
	Away   string // why its connection has ended; "": it has one
	AwayAt time.Time
	Wish   string    // why it wants to leave; "": it does not
	Taking time.Time // when the upload in progress began
	part
	gone bool // it is no longer a member
}

// part is a member's part in the attempt.
type part struct {
	Place    *Assignment // nil: it has none
	Ready    bool
	ReadyBy  time.Time
	Fetched  int64
	Done     bool
	Failed   bool // it has left the attempt on its own
	Peak     int64
	Last     proto.Progress
	Heard    time.Time // when its last progress report came
	MovedIn  time.Time // when Last.In last grew
	MovedOut time.Time
	Digests  int64     `json:",omitempty"` // that it has told
	Closed   bool      `json:",omitempty"` // and the last one, of what it has not come to the end of
	Uploads  []*saved  // uploaded, but not yet named by a saved message
	SavedAt  *position // position of its last saved state
	WishAt   time.Time // when it was told to stay until the next checkpoint
	LeaveBy  time.Time
}

// saved is a stage's state in the store.
type saved struct {
	snapshot.Entry
	Position *position
}

// strike records a provider's failures and their consequences.
type strike struct {
	Count     int
	Until     time.Time // it gets no stage before then
	Accusers  []string  // owners of providers that blamed it
	Accusing  []string  // owners of providers that it blamed
	Forbidden bool      // it may not even join before Until
}

// pending is a manifest that is being stored.
type pending struct {
	Manifest *snapshot.Manifest
	Void     bool `json:",omitempty"` // the run has gone back behind it
}

// cluster is what is known about one cluster in the current attempt.
type cluster struct {
	Stages  int
	Over    *position     // position of the leaf's last state, once the leaf is done
	Asked   time.Time     // when a checkpoint was asked for; zero: none is in progress
	Last    time.Time     // when the last checkpoint was complete, or training started
	Cost    time.Duration // of the slowest upload so far
	Moved   time.Time     // when any of its stages last made progress
	Worked  time.Time     // when any of its stages last did anything
	Waited  time.Time     // when it last was further than another
	LongGap time.Duration // longest time without progress so far
}

const stateVersion = 1

// Snapshot returns the machine's state as JSON, for Restore.
func (m *Machine) Snapshot() ([]byte, error) {
	if len(m.out) > 0 {
		return nil, errors.New("run: a snapshot in the middle of a step")
	}
	return json.Marshal(&m.state)
}

// Restore returns a machine in the state that Snapshot stored as b.
func Restore(set Settings, b []byte) (*Machine, error) {
	m := New(set)
	if err := json.Unmarshal(b, &m.state); err != nil {
		return nil, fmt.Errorf("run: state: %w", err)
	}
	if m.Version != stateVersion {
		return nil, fmt.Errorf("run: the state has version %d, this program reads version %d", m.Version, stateVersion)
	}
	for id, x := range m.Members {
		if x == nil || x.ID != id {
			return nil, fmt.Errorf("run: state: the entry of member %.64q is not about it", id)
		}
	}
	if m.state.Saved != nil {
		if err := m.state.Saved.Check(0); err != nil {
			return nil, fmt.Errorf("run: state: %w", err)
		}
	}
	for _, k := range m.Chain {
		if k == nil || k.Manifest == nil {
			return nil, errors.New("run: state: a checkpoint to go back to has no manifest")
		}
		if err := k.Manifest.Check(0); err != nil {
			return nil, fmt.Errorf("run: state: %w", err)
		}
	}
	for _, p := range m.Pending {
		if p == nil || p.Manifest == nil {
			return nil, errors.New("run: state: a pending commit has no manifest")
		}
	}
	if (m.state.Job == nil) != (m.state.Phase == Idle) {
		return nil, fmt.Errorf("run: state: phase %s does not fit whether there is a job", m.state.Phase)
	}
	return m, nil
}

// persist has the state stored, for the host to go on from after a restart.
func (m *Machine) persist() {
	if m.Job == nil {
		return
	}
	st := m.state
	st.Members = map[string]*member{} // no session outlives the host, and there may be thousands
	st.Log = auditLog{}               // its index is an object of its own
	b, err := json.Marshal(&st)
	if err != nil {
		m.report(Warning{Err: fmt.Errorf("%w: the run's state: %w", ErrStore, err)})
		return
	}
	m.act(Put{Object: StateObject(m.Job.ID), Data: b})
}
