package server

// The types by which a caller (the requester's program) starts a run and follows it. Most
// are those of package run.

import (
	"context"
	"errors"
	"io"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/run"
)

// Reasons why a run failed, for errors.Is on the error of Run. The messages
// around them name the provider and what is kept.
var (
	ErrBusy           = errors.New("a run is already in progress")
	ErrPlan           = run.ErrPlan
	ErrProviderLost   = run.ErrProviderLost
	ErrProviderFailed = run.ErrProviderFailed
	ErrDiverged       = run.ErrDiverged
	ErrTimeout        = run.ErrTimeout
	ErrStopped        = run.ErrStopped
	ErrStore          = run.ErrStore
	ErrDeposed        = run.ErrDeposed

	// ErrPool is wrapped by a planner's error if another provider would help. The host then
	// waits for one.
	ErrPool = errors.New("these providers are not enough")
	// ErrGone is wrapped by the error of an audit that comes too late: what it needs was deleted.
	ErrGone = errors.New("a newer checkpoint has come meanwhile")
)

// Ask is what a plan is made for.
type Ask = run.AskPlan

// Job is what the host needs to know about a training job. It never interprets Raw, the
// blobs or a plan. An empty ID stands for a random one, a Want of 0 for one provider for each
// of Names, or for one if there are none.
type Job struct {
	run.Job
	// Blobs holds the graph, data and weights that assignments refer to.
	Blobs Blobs
	// Shards are the bytes of the blobs that stages with data fetch in each epoch; 0: there are none.
	Shards int64
	// Plan places the job on ask.Pool, which is in the order of Names, or sorted by name if
	// there are none. If ask.Free is set, the providers' names do not matter. A plan for
	// an Auto job extends ask.Record, from ask.Step on. Plan runs in a
	// goroutine of its own and may take its time. When a provider leaves that cannot be spared,
	// ctx is cancelled and Plan is called again with the new pool. If its error wraps ErrPool,
	// the host waits for another provider; any other error ends the run.
	Plan func(ctx context.Context, ask Ask) ([]Assignment, error)
	// Worth tells whether training is expected to be faster with a pool that has grown. Like Plan
	// it runs in a goroutine of its own. nil: it always is.
	Worth func(pool []Member) bool
	// Verify computes again what was trained from one checkpoint, or nil, the start, to another, and
	// returns whose doing it is if that is not what the job makes. It runs in a goroutine of its own.
	// ErrGone says that what it needs is not there any more; any other error ends the run. nil: there
	// are no audits, and the job's AuditEvery must be 0.
	Verify func(ctx context.Context, from, to *snapshot.Manifest) ([]Culprit, error)
	// Inquire computes what an attempt did that has failed, and returns whose doing that is, or an error
	// that wraps ErrDiverged if it is the job's.
	Inquire func(ctx context.Context, ask run.AskAudit) ([]Culprit, error)
	// Stretch tells what it takes to compute it elsewhere; nil: the job has no AuditSpares. Its error,
	// which is told, leaves it to Verify.
	Stretch func(ctx context.Context, from, to *snapshot.Manifest) (run.Stretch, error)
	// Inspect checks that an upload is the state of the stage that was granted, and returns
	// its position and what it holds. nil: nothing is checked.
	Inspect func(g run.Grant, r io.Reader, size int64) (order.Position, []string, error)
	// Fresh starts from the beginning even if the store has an earlier run of the same job.
	Fresh bool
	// Stop takes a reason to stop the run gracefully, as [Server.Stop] does, which is of no use
	// before the run has begun. nil: nothing comes.
	Stop <-chan string
}

// Blobs finds a blob's bytes, or returns fs.ErrNotExist. It must be safe for concurrent use.
// What is an io.Closer, too, is closed after use.
type Blobs interface {
	Blob(sha256 string) (r io.ReaderAt, size int64, err error)
}

// Event is something that a run's caller is told. Events reach the callback of [Server.Run]
// in order, from one goroutine. A callback that blocks delays the events but not the run.
type Event = run.Report

// StandingBy is the phase of a host's status while another host leads the job.
const StandingBy = "standby"

// Types of package run, for users of the host.
type (
	Member     = run.Member
	Assignment = run.Assignment
	Placed     = run.Placed
	Culprit    = run.Culprit
	Result     = run.Result
	Status     = run.Status

	Joined       = run.Joined
	Left         = run.Left
	Returned     = run.Returned
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
	AuditPassed  = run.AuditPassed
	Stretch      = run.Stretch
	Condemned    = run.Condemned
	Resumed      = run.Resumed
	Warning      = run.Warning
	Done         = run.Done
	Failed       = run.Failed
)
