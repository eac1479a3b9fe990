package server

// What the host tells its caller (the requester's program): a run's inputs,
// its events and its result. Most of it is the run machine's.

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/run"
)

// Reasons why a run failed, for errors.Is on what Run returns. The messages
// around them name the provider and what is kept.
var (
	ErrBusy           = errors.New("a run is in progress already")
	ErrPlan           = run.ErrPlan
	ErrProviderLost   = run.ErrProviderLost
	ErrProviderFailed = run.ErrProviderFailed
	ErrDiverged       = run.ErrDiverged
	ErrTimeout        = run.ErrTimeout
	ErrStopped        = run.ErrStopped
	ErrStore          = run.ErrStore

	// ErrPool is wrapped by a planner's error that another provider would mend. The host
	// then waits for one.
	ErrPool = errors.New("these providers are not enough")
)

// Job is what the host needs of a training job. It never looks into Raw, the
// blobs or a plan.
type Job struct {
	// ID begins the ids of the job's runs ("ID-1" and so on, one for each
	// attempt). "": a random one.
	ID string
	// Raw goes to every provider.
	Raw json.RawMessage
	// Blobs holds the graph, data and weights that assignments refer to.
	Blobs Blobs
	// Names are the only provider names that may be asked for. Empty: any.
	Names []string
	// Spares lets providers in that ask for no name, though all of Names are taken.
	Spares bool
	// Replan tells that Plan can place the job on other providers than those that Names
	// stand for, or on fewer than Want.
	Replan bool
	// Want is how many providers to wait for before planning. 0: one for each
	// name, or 1.
	Want int
	// Steps and Val bound what a leaf may report: batches of the run, and rows of a
	// validation pass. 0: not known.
	Steps, Val int64
	// Span is the batches from one place where the run can stop or save to the next. 0: one.
	Span int64
	// Plan places the job on the pool, which is in the order of Names, or
	// sorted by name; with free, whatever their names are. It may take its time, in a
	// goroutine of its own; it is asked again with another pool when a provider comes or
	// leaves (ctx is then cancelled). An error that wraps ErrPool has the host wait for
	// another provider; any other one ends the run.
	Plan func(ctx context.Context, pool []Member, free bool) ([]Assignment, error)
	// Inspect checks that what was uploaded is the state of the stage that was granted,
	// and says its position and what it holds. nil: nothing is checked.
	Inspect func(g run.Grant, r io.Reader, size int64) (order.Position, []string, error)
	// Fresh begins anew even where the store has an earlier run of the same job.
	Fresh bool
}

// Blobs finds a blob's bytes; fs.ErrNotExist where there is none. It must be
// safe for concurrent use.
type Blobs interface {
	Blob(sha256 string) (r io.ReaderAt, size int64, err error)
}

// Event is what a run's caller is told. Events reach the callback of [Server.Run] in
// order, from one goroutine; a callback that blocks delays the events but not the run.
type Event = run.Report

// The run machine's types, by which the host is used.
type (
	Member     = run.Member
	Assignment = run.Assignment
	Placed     = run.Placed
	Result     = run.Result
	Status     = run.Status

	Joined       = run.Joined
	Left         = run.Left
	Refused      = run.Refused
	Waiting      = run.Waiting
	Planned      = run.Planned
	Ready        = run.Ready
	Started      = run.Started
	Loss         = run.Loss
	Val          = run.Val
	Progress     = run.Progress
	Saved        = run.Saved
	Checkpointed = run.Checkpointed
	StageDone    = run.StageDone
	Recovering   = run.Recovering
	Resumed      = run.Resumed
	Warning      = run.Warning
	Done         = run.Done
	Failed       = run.Failed
)
