package server

// What the host tells its caller (the requester's program): a run's inputs,
// its events and its result.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Reasons why a run failed, for errors.Is on what Run returns. The messages
// around them name the provider and what is kept.
var (
	ErrBusy           = errors.New("a run is in progress already")
	ErrPlan           = errors.New("no plan for this pool")
	ErrProviderLost   = errors.New("a provider left")
	ErrProviderFailed = errors.New("a provider failed")
	ErrTimeout        = errors.New("timed out")
	ErrStopped        = errors.New("stopped by the requester")
	ErrStore          = errors.New("the trained stages could not be stored")
)

// Job is what the host needs of a training job. It never looks into Raw, the
// blobs or a plan.
type Job struct {
	// ID begins the ids of the job's runs ("ID-1" and so on, one for each
	// attempt to start). "": a random one.
	ID string
	// Raw goes to every provider.
	Raw json.RawMessage
	// Blobs holds the graph, data and weights that assignments refer to.
	Blobs Blobs
	// Names are the only provider names allowed. Empty: any.
	Names []string
	// Want is how many providers to wait for before planning. 0: one for each
	// name, or 1.
	Want int
	// Plan places the job on the pool, which is in the order of Names, or
	// sorted by name. It may take its time, in a goroutine of its own; it is
	// asked again with another pool when a provider leaves before the start
	// (ctx is then cancelled). Its error ends the run.
	Plan func(ctx context.Context, pool []Member) ([]Assignment, error)
}

// Blobs finds a blob's bytes; fs.ErrNotExist where there is none. It must be
// safe for concurrent use.
type Blobs interface {
	Blob(sha256 string) (r io.ReaderAt, size int64, err error)
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
// every stage 0 <= Stage < Stages.
type Assignment struct {
	MemberID string
	Cluster  int
	Stage    int
	Stages   int
	Graph    proto.Ref
	Data     map[string]proto.Ref // by kind
	Weights  map[string]proto.Ref // by kind; empty: the provider initialises by seed
	Plan     json.RawMessage      // opaque
}

// Placed is an assignment together with the provider that got it.
type Placed struct {
	Member
	Assignment
}

// SavedStage is a trained stage in the store.
type SavedStage struct {
	Cluster int    `json:"cluster"`
	Stage   int    `json:"stage"`
	Stages  int    `json:"stages"`
	Name    string `json:"name"`   // the provider's
	Object  string `json:"object"` // its name in the store
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Step    int64  `json:"step"`
	Epoch   int    `json:"epoch"`
}

// Checkpoint is a saved state of the whole run: one object for every stage of
// every cluster. It is stored as RUN/saved.json, which always names objects
// that exist: it is replaced only after all stages of a newer state are stored,
// and what it no longer names is deleted only after that.
type Checkpoint struct {
	Run    string       `json:"run"`
	Step   int64        `json:"step"`
	Epoch  int          `json:"epoch"`
	Stages []SavedStage `json:"stages"` // by cluster, then stage
}

// Result is how a run ended.
type Result struct {
	Run         string      // id of the last attempt; "" where none was planned
	Interrupted bool        // it was stopped gracefully before its end
	Checkpoint  *Checkpoint // the last saved state; nil where there is none
}

// Event is one of the types below. A run's events reach the callback of
// [Server.Run] in order, from one goroutine; a callback that blocks delays the
// events but not the run.
type Event interface{ event() }

type (
	// Joined: a provider is in the lobby. Those that were there before the run
	// are told first.
	Joined struct {
		Member
		Have, Want int // providers in the lobby, and needed
	}
	// Left: a provider is gone. Run is set where that run was using it.
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
	// Planned: the stages are placed and the providers connect.
	Planned struct {
		Run    string
		Stages []Placed // by cluster, then stage
	}
	// Ready: a stage is connected and compiled.
	Ready struct {
		Run            string
		Cluster, Stage int
		Name           string
		Peak           int64 // bytes that it promises to stay within
	}
	// Started: all stages were told to train.
	Started struct{ Run string }
	// Loss of a training batch.
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
	// Progress of a stage. Its losses and validation passes have been told
	// before it as Loss and Val.
	Progress struct {
		Cluster int
		Name    string
		proto.Progress
	}
	// Saved: a trained stage is in the store.
	Saved struct {
		Run string
		SavedStage
	}
	// Checkpointed: all stages of one step are, and saved.json says so.
	Checkpointed struct{ Checkpoint }
	// StageDone: a stage has nothing left to do.
	StageDone struct {
		Run            string
		Cluster, Stage int
		Name           string
		Step           int64
	}
	// Warning: something is wrong that does not end the run, such as a store
	// that refuses (disk full).
	Warning struct{ Err error }
	// Done: the run ended well. The last event, like Failed.
	Done struct{ Result }
	// Failed: it did not. Result.Checkpoint is what is kept.
	Failed struct {
		Result
		Err error
	}
)

func (Joined) event()       {}
func (Left) event()         {}
func (Refused) event()      {}
func (Planned) event()      {}
func (Ready) event()        {}
func (Started) event()      {}
func (Loss) event()         {}
func (Val) event()          {}
func (Progress) event()     {}
func (Saved) event()        {}
func (Checkpointed) event() {}
func (StageDone) event()    {}
func (Warning) event()      {}
func (Done) event()         {}
func (Failed) event()       {}
