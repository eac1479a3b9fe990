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
	// Join: a provider said hello and may come in.
	Join struct {
		ID, Addr string
		Hello    proto.Hello
	}
	// Refusal: somebody was turned away at the door.
	Refusal struct {
		Name, Addr string
		Err        error
	}
	// Leave: a session has ended.
	Leave struct{ ID, Reason string }
	// Message came from a provider.
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
	// Upload: a stage is in the store, and is what the plan says. Position and Holds
	// are what was found in it; nil where nobody looked.
	Upload struct {
		ID, Run  string
		Stage    int
		Object   string
		Blob     proto.Ref
		Position *order.Position
		Holds    []string
	}
	// UploadEnd: a granted upload has ended, well or not.
	UploadEnd struct{ ID string }
	// Tick comes several times a heartbeat.
	Tick struct{}
	// Plan answers an AskPlan. With Wait the error is about the pool: another provider
	// would help.
	Plan struct {
		Seq    int
		Placed []Assignment
		Err    error
		Wait   bool
	}
	// Commit: the oldest manifest on its way was stored, or could not be.
	Commit struct {
		Run string
		Err error
	}
	// Submit begins a job, or goes on with what an earlier host did of it.
	// Stale are objects of older runs, which go when this one has a plan.
	Submit struct {
		Job     Job
		Earlier *Earlier
		Stale   []string
	}
	// StopRequest is the requester's.
	StopRequest struct {
		Mode   proto.Mode
		Reason string
	}
	// StoreFault: the store refused something that was not a manifest. With Upload it was
	// a stage's state: no provider can mend that, and the run ends.
	StoreFault struct {
		Err    error
		Upload bool
	}
	// Shutdown: the host ends.
	Shutdown struct{ Reason string }
)

func (Join) event()          {}
func (Refusal) event()       {}
func (Leave) event()         {}
func (Message) event()       {}
func (Violation) event()     {}
func (UploadRequest) event() {}
func (Upload) event()        {}
func (UploadEnd) event()     {}
func (Tick) event()          {}
func (Plan) event()          {}
func (Commit) event()        {}
func (Submit) event()        {}
func (StopRequest) event()   {}
func (StoreFault) event()    {}
func (Shutdown) event()      {}

// Action is one of the types below.
type Action interface{ action() }

type (
	// Send a message. The machine leaves the session's secret and the ICE servers of a
	// welcome to the caller.
	Send struct {
		ID  string
		Msg proto.Message
	}
	// HangUp closes a session: after what was sent to it has gone out, or at once where
	// it is dead or cannot be trusted to read.
	HangUp struct {
		ID, Reason string
		Abrupt     bool
	}
	// AskPlan wants a Plan with the same Seq; an earlier one is of no use any more. Free
	// tells that the pool is not the one that the job's names stand for.
	AskPlan struct {
		Seq  int
		Pool []Member
		Free bool
	}
	// Emit tells the requester.
	Emit struct{ Report Report }
	// Put stores an object. A refusal comes back as StoreFault.
	Put struct {
		Object string
		Data   []byte
	}
	// PutManifest stores a checkpoint's manifest atomically; what came of it comes back as
	// Commit. Objects that it names are in the store, and stay until a later one is
	// committed.
	PutManifest struct {
		Run    string
		Object string
		Data   []byte
	}
	// Discard deletes objects that nothing needs.
	Discard struct{ Objects []string }
	// AppendLine adds a line to a log.
	AppendLine struct {
		Log  string
		Line []byte
	}
	// Grant lets an upload in.
	Grant struct {
		Seq     uint64
		ID      string
		Object  string
		Limit   int64 // bytes; 0: the host's
		Cluster int
		Stage   int
		Segment snapshot.Segment
	}
	// Denial refuses it.
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
	// Joined: a provider is in the lobby. Those that were there before the run are told
	// first.
	Joined struct {
		Member
		Have, Want int // providers in the lobby, and needed
	}
	// Left: a provider is gone. Run is set where that attempt was using it.
	Left struct {
		Member
		Reason string
		Run    string
	}
	// Refused: a provider was turned away.
	Refused struct {
		Name, Addr string
		Err        error
	}
	// Waiting: the run needs somebody or something before it goes on.
	Waiting struct{ Reason string }
	// Planned: the stages are placed and the providers connect. Resume is the step that
	// the attempt goes on from; 0: it begins with the seed.
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
	}
	// Started: all stages were told to train. After is the time since the loss that ended
	// the attempt before; 0: it is the first.
	Started struct {
		Run    string
		Resume uint64
		After  time.Duration
	}
	// Loss of a training batch. A step that is done again is told again.
	Loss struct {
		Run            string
		Cluster, Stage int
		proto.Loss
	}
	// Val is a validation pass's result.
	Val struct {
		Run            string
		Cluster, Stage int
		proto.Val
	}
	// Progress of a stage. Its losses and validation passes have been told before it as
	// Loss and Val.
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
	// Checkpointed: the states of all stages at one position are, and the manifest too.
	Checkpointed struct{ Manifest *snapshot.Manifest }
	// StageDone: a stage has nothing left to do.
	StageDone struct {
		Run            string
		Cluster, Stage int
		Name           string
		Step           int64
	}
	// Recovering: the attempt Run has ended before the job's end. Step is where the next
	// one goes on, Reached what had been reported.
	Recovering struct {
		Run           string
		Reason        string
		Step, Reached uint64
	}
	// Resumed: the host goes on with an earlier run.
	Resumed struct {
		Run   string
		Step  uint64
		Epoch int
	}
	// Warning: something is wrong that does not end the run, such as a store that refuses
	// (disk full).
	Warning struct{ Err error }
	// Done: the run ended well. The last report, like Failed.
	Done struct{ Result }
	// Failed: it did not. Result.Checkpoint is what is kept.
	Failed struct {
		Result
		Err error
	}
)

func (Joined) report()       {}
func (Left) report()         {}
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
func (Warning) report()      {}
func (Done) report()         {}
func (Failed) report()       {}
