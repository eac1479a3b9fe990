package run

// What comes in, and what follows from it.

import (
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

type position = order.Position

// Event is one of the types below.
type Event interface{ event() }

type (
	// Join: a provider said hello and passed the host's checks.
	Join struct {
		ID, Addr string
		Hello    proto.Hello
	}
	// Refusal: a provider was turned away before it could join.
	Refusal struct {
		Name, Addr string
		Err        error
	}
	// Leave: a session has ended.
	Leave struct{ ID, Reason string }
	// Away: a session's connection has ended. Its provider may return.
	Away struct{ ID, Reason string }
	// Back: it has. Nothing of what either side said is lost.
	Back struct{ ID string }
	// Message: a provider sent a message.
	Message struct {
		ID  string
		Msg proto.Message
	}
	// Violation: a provider broke the protocol.
	Violation struct {
		ID  string
		Err error
	}
	// UploadRequest asks whether a provider may upload a stage. It is answered by a
	// Grant or a Denial with the same Seq.
	UploadRequest struct {
		Seq     uint64
		ID, Run string
		Stage   int
		SHA256  string
	}
	// Upload: a stage's state is in the store and has the tensors that the plan says.
	// Position and Holds were read from it; nil if it was not read.
	Upload struct {
		ID, Run  string
		Stage    int
		Object   string
		Blob     proto.Ref
		Position *order.Position
		Holds    []string
	}
	// UploadEnd: a granted upload has ended, successfully or not.
	UploadEnd struct{ ID string }
	// Tick comes several times per heartbeat.
	Tick struct{}
	// Plan answers an AskPlan. Wait says that Err is about the pool: another provider
	// would help.
	Plan struct {
		Seq    int
		Placed []Assignment
		Err    error
		Wait   bool
	}
	// Worth answers an AskWorth. Better says that training is expected to be faster with its pool.
	Worth struct {
		Seq    int
		Better bool
	}
	// Commit: the oldest pending manifest was stored, or Err says why not.
	Commit struct {
		Run string
		Err error
	}
	// Audited answers an AskAudit: without Culprits, all is right. Gone says that what it needs is
	// not there any more, Err what is missing, or why it cannot be told whose doing it is.
	Audited struct {
		Seq      int
		Diverges bool // the attempt that failed does so also where the job alone is computed
		Culprits []Culprit
		Gone     bool
		Err      error
	}
	// Stretched answers an AskStretch. Err says why only the host can compute it again.
	Stretched struct {
		Seq int
		Stretch
		Err error
	}
	// Submit begins a job, or continues it from where an earlier host left off.
	// Stale are objects of older runs, deleted when this one has a plan.
	Submit struct {
		Job     Job
		Earlier *Earlier
		Stale   []string
	}
	// StopRequest: the requester wants the run to stop.
	StopRequest struct {
		Mode   proto.Mode
		Reason string
	}
	// StoreFault: the store failed to take something other than a manifest. Upload says that
	// it was a stage's state, from the member ID, which will try again. It comes before the
	// UploadEnd.
	StoreFault struct {
		ID     string
		Object string
		Err    error
		Upload bool
	}
	// Shutdown: the host is shutting down.
	Shutdown struct{ Reason string }
	// Deposed: another host leads the job now. Err says so to the providers.
	Deposed struct{ Err *proto.Error }
)

func (Join) event()          {}
func (Refusal) event()       {}
func (Leave) event()         {}
func (Away) event()          {}
func (Back) event()          {}
func (Message) event()       {}
func (Violation) event()     {}
func (UploadRequest) event() {}
func (Upload) event()        {}
func (UploadEnd) event()     {}
func (Tick) event()          {}
func (Plan) event()          {}
func (Worth) event()         {}
func (Commit) event()        {}
func (Audited) event()       {}
func (Stretched) event()     {}
func (Submit) event()        {}
func (StopRequest) event()   {}
func (StoreFault) event()    {}
func (Shutdown) event()      {}
func (Deposed) event()       {}

// Action is one of the types below.
type Action interface{ action() }

type (
	// Send sends a message. The caller fills in the session secret and the ICE servers
	// of a welcome.
	Send struct {
		ID  string
		Msg proto.Message
	}
	// HangUp closes a session: normally after everything sent to it has gone out; Abrupt
	// closes it at once, for a provider that is dead or may not be reading.
	HangUp struct {
		ID, Reason string
		Abrupt     bool
	}
	// AskPlan asks for a Plan with the same Seq and cancels any earlier request. Free says
	// that the pool is not the one that the job's names stand for. Apart are pairs of the pool that
	// must have no link. The plan goes
	// on from a step, up to which the record says how many replicas there were, where the job is Auto.
	AskPlan struct {
		Seq    int
		Run    string // id of the attempt that it becomes
		Pool   []Member
		Free   bool
		Apart  [][2]string
		Single bool // one cluster: several have not agreed about a round, again
		Step   uint64
		Record []order.Period
	}
	// AskWorth asks for a Worth with the same Seq: whether a pool with providers that have come
	// while the run trains is worth another plan.
	AskWorth struct {
		Seq  int
		Pool []Member
	}
	// AskAudit asks for an Audited with the same Seq: to compute again what was trained from one
	// checkpoint, or nil, the start, to another. All that the log has of it was appended before.
	// With Failed, it is what that attempt did from the checkpoint Last on, or nil, the start, and what
	// came before since From, up to a step at least.
	AskAudit struct {
		Seq      int
		From, To *snapshot.Manifest
		Failed   string
		Last     *snapshot.Manifest
		Until    uint64
	}
	// AskStretch asks for a Stretched with the same Seq: what it takes to do that elsewhere.
	AskStretch struct {
		Seq      int
		From, To *snapshot.Manifest
	}
	// Emit passes a report to the requester.
	Emit struct{ Report Report }
	// Put stores an object. A failure comes back as StoreFault.
	Put struct {
		Object string
		Data   []byte
	}
	// PutManifest stores a checkpoint's manifest atomically; the outcome comes back as
	// Commit. The objects that it names are in the store already, and are kept until a
	// later manifest is committed.
	PutManifest struct {
		Run    string
		Object string
		Data   []byte
	}
	// Discard deletes objects that are no longer needed.
	Discard struct{ Objects []string }
	// AppendLine adds a line to a log.
	AppendLine struct {
		Log  string
		Line []byte
	}
	// Grant accepts the upload asked for with the same Seq.
	Grant struct {
		Seq     uint64
		ID      string
		Run     string // the attempt
		Object  string
		Limit   int64 // bytes; 0: the host's limit
		Cluster int
		Stage   int
		Segment snapshot.Segment
	}
	// Denial refuses the upload asked for with the same Seq.
	Denial struct {
		Seq uint64
		Err *proto.Error
	}
	// Finish ends the run. It comes after all its reports.
	Finish struct {
		Result Result
		Err    error
	}
)

func (Send) action()        {}
func (HangUp) action()      {}
func (AskPlan) action()     {}
func (AskWorth) action()    {}
func (AskAudit) action()    {}
func (AskStretch) action()  {}
func (Emit) action()        {}
func (Put) action()         {}
func (PutManifest) action() {}
func (Discard) action()     {}
func (AppendLine) action()  {}
func (Grant) action()       {}
func (Denial) action()      {}
func (Finish) action()      {}

// Report is what the requester is told: one of the types below.
type Report interface{ report() }

type (
	// Joined: a provider is in the lobby. Those that were there before the run are
	// reported when it begins.
	Joined struct {
		Member
		Have, Want int // providers in the lobby, and needed
	}
	// Left: a provider is gone. Run is the attempt that was using it, if any.
	Left struct {
		Member
		Reason string
		Run    string
	}
	// Returned: a provider whose connection had ended has another one. Nothing is lost.
	Returned struct {
		Member
		After time.Duration
	}
	// Refused: a provider was turned away.
	Refused struct {
		Name, Addr string
		Err        error
	}
	// Waiting: the run cannot go on yet, for this reason.
	Waiting struct{ Reason string }
	// Planned: the stages are placed and the providers are connecting. Resume is the step
	// that the attempt resumes from; 0: it begins with the seed.
	Planned struct {
		Run        string
		Generation int
		Resume     uint64
		Stages     []Placed // by cluster, then stage
	}
	// Ready: a stage is connected and compiled.
	Ready struct {
		Run            string
		Cluster, Stage int
		Name           string
		Peak           int64 // bytes that it promises to stay within
		// RTT is the round trip to those of the other stages that it has measured, by name.
		RTT map[string]time.Duration
	}
	// Started: all stages were told to train. After is the time since the previous attempt
	// was lost; 0: this is the first.
	Started struct {
		Run    string
		Resume uint64
		After  time.Duration
	}
	// Loss: the loss of a training batch. A step that is repeated is reported again.
	Loss struct {
		Run            string
		Cluster, Stage int
		proto.Loss
	}
	// Val: the result of a validation pass.
	Val struct {
		Run            string
		Cluster, Stage int
		proto.Val
	}
	// Progress: a stage's progress report. Its losses and validation results have already
	// been reported as Loss and Val.
	Progress struct {
		Cluster int
		Name    string
		proto.Progress
	}
	// Saved: a stage's state is in the store.
	Saved struct {
		Run  string
		Step int64
		snapshot.Entry
	}
	// Checkpointed: the states of all stages at one position, and their manifest, are in
	// the store. After is how long the store took nothing before; 0: it has not failed.
	Checkpointed struct {
		Manifest *snapshot.Manifest
		After    time.Duration
	}
	// StageDone: a stage has nothing left to do.
	StageDone struct {
		Run            string
		Cluster, Stage int
		Name           string
		Step           int64
	}
	// Recovering: attempt Run ended before the job did. The next one resumes from Step;
	// Reached is the last step that had been reported.
	Recovering struct {
		Run           string
		Reason        string
		Step, Reached uint64
		Grows         bool // nothing is lost: more providers are there, and take part from now on
		Back          bool // it goes back behind what an audit found; Reason says to where
	}
	// Resumed: the host continues an earlier run.
	Resumed struct {
		Run   string
		Step  uint64
		Epoch int
	}
	// AuditPassed: what was trained between two steps was computed again, and is right. By is the name
	// of the spare who did; "": the host did.
	AuditPassed struct {
		From, To uint64
		By       string
	}
	// Condemned: an audit has found who computed something else. It is barred from the run.
	Condemned Culprit
	// Warning: something is wrong that does not end the run, such as a full disk.
	Warning struct{ Err error }
	// Done: the run succeeded. Done or Failed is the last report.
	Done struct{ Result }
	// Failed: the run failed. Result.Checkpoint is what is kept.
	Failed struct {
		Result
		Err error
	}
)

func (Joined) report()       {}
func (Left) report()         {}
func (Returned) report()     {}
func (Refused) report()      {}
func (Waiting) report()      {}
func (Planned) report()      {}
func (Ready) report()        {}
func (Started) report()      {}
func (Loss) report()         {}
func (Val) report()          {}
func (Progress) report()     {}
func (Saved) report()        {}
func (Checkpointed) report() {}
func (StageDone) report()    {}
func (Recovering) report()   {}
func (Resumed) report()      {}
func (AuditPassed) report()  {}
func (Condemned) report()    {}
func (Warning) report()      {}
func (Done) report()         {}
func (Failed) report()       {}
