// Package order says in which order a run does its work: which items a run consists of,
// where in it a run can be stopped and taken up again, and what a stage of a pipeline
// does next. All of it is pure and follows from a few numbers of the job: no clock, no
// peer and no tensor has a part in it, so every stage derives the same order by itself.
package order

import (
	"errors"
	"fmt"
	"math/bits"
)

// Run is the numbers of a run that its order follows from.
type Run struct {
	Train, Val int // rows of the training and of the validation set

	Epochs          int
	Steps           int // end after so many batches; 0: after all epochs
	BatchSize       int
	MicroBatches    int // parts of a batch that flow one by one
	UpdateFrequency int // batches whose gradients one update adds up
	ValEvery        int // epochs between validation passes; 0: none
	SaveEvery       int // epochs between saves; the end always saves

	Replicas     int  // 0 or 1: one
	ReduceFactor int  // updates of each replica in a round, where there are several
	Even         bool // that is the most: the updates of a stretch are divided evenly
	Split        bool // the rows of each batch are split over the replicas, where there are several
	// Periods are those of a run whose number of replicas changes, up to the one at hand, which
	// has Replicas of them. The run is walked in it only. None: nothing changes.
	Periods  []Period
	InFlight int // replicas whose micro-batches are in flight at once; 0: as many as fill the pipeline

	// Where several clusters share the replicas out, each walks the run for itself: it gets the
	// items of its replicas, between an Open and a Close for every round. Items keep their
	// numbers in the whole run, so a Position is the same in all clusters.
	Own         Set  // replicas of this cluster, to begin with; 0: all, and there is only one
	Room        int  // replicas that it may have in a later round; 0: as many as in Own
	Unvalidated bool // validation passes are another cluster's
}

// Set is a set of replicas: bit k stands for replica k.
type Set uint64

// Has tells whether replica k is in the set.
func (s Set) Has(k int) bool { return s>>k&1 != 0 }

// Len is the number of replicas in the set.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// ErrRun is wrapped by errors about a Run that has no order, ErrPosition by errors about
// a Position that its run does not have.
var (
	ErrRun      = errors.New("invalid run")
	ErrPosition = errors.New("invalid position")
)

// Check tells whether the numbers make a run.
func (r Run) Check() error {
	for _, f := range []struct {
		name     string
		v, least int
	}{
		{"training rows", r.Train, 1},
		{"validation rows", r.Val, 0},
		{"epochs", r.Epochs, 1},
		{"steps", r.Steps, 0},
		{"batch size", r.BatchSize, 1},
		{"micro-batches", r.MicroBatches, 1},
		{"update frequency", r.UpdateFrequency, 1},
		{"epochs between validations", r.ValEvery, 0},
		{"epochs between saves", r.SaveEvery, 0},
		{"replicas", r.Replicas, 0},
		{"updates in a round", r.ReduceFactor, 0},
		{"units in flight", r.InFlight, 0},
		{"replicas that a cluster has room for", r.Room, 0},
	} {
		if f.v < f.least || f.v > 1<<40 {
			return fmt.Errorf("%w: %s %d, want at least %d", ErrRun, f.name, f.v, f.least)
		}
	}
	if r.Replicas > MaxReplicas || (r.Replicas > 1 || len(r.Periods) > 1) && !r.Split && r.ReduceFactor < 1 {
		return fmt.Errorf("%w: %d replicas with rounds of %d updates, want at most %d and at least 1", ErrRun, r.Replicas, r.ReduceFactor, MaxReplicas)
	}
	if r.Own != 0 && (r.Replicas < 2 || r.Own>>r.Replicas != 0) {
		return fmt.Errorf("%w: the share %b of %d replicas", ErrRun, r.Own, r.Replicas)
	}
	return r.checkPeriods()
}

// Batches is the number of batches that n rows make; the last may be short.
func (r Run) Batches(n int) int { return (n + r.BatchSize - 1) / r.BatchSize }

// Rows is the number of rows of batch b of n rows.
func (r Run) Rows(n, b int) int { return min(r.BatchSize, n-b*r.BatchSize) }

// roomy is the run of a cluster that has as many replicas as it may.
func (r Run) roomy() Run {
	if r.Own != 0 && r.Room > r.Own.Len() {
		r.Own = 1<<min(r.Room, r.replicas()) - 1
	}
	return r
}

// units is the most units in flight.
func (r Run) units() int {
	units := r.replicas()
	if r.Own != 0 {
		units = r.Own.Len()
	}
	if r.InFlight > 0 {
		units = min(units, r.InFlight)
	}
	return units
}

// group is the most micro-batches in flight: those of an update of each unit in flight.
func (r Run) group() int {
	return r.units() * r.UpdateFrequency * min(r.MicroBatches, r.BatchSize)
}

// Total is the number of training batches of the run.
func (r Run) Total() int {
	t := r.Epochs * r.Batches(r.Train)
	if r.Steps > 0 {
		t = min(t, r.Steps)
	}
	return t
}

// Position is a place between two rounds of a run; with one replica a round is an update. A
// run that goes on from a Position does the same as one that was never interrupted.
type Position struct {
	Epoch int    `json:"epoch"` // of the next batch
	Batch int    `json:"batch"` // number of the next batch in its epoch
	Step  uint64 `json:"step"`  // batches done
	Seq   uint64 `json:"seq"`   // items done
}

// Over tells whether nothing is left to do at p.
func (r Run) Over(p Position) bool { return p.Step >= uint64(r.Total()) }

// CheckPosition tells whether the run has p: whether a round can begin there. Its errors
// wrap ErrPosition.
func (r Run) CheckPosition(p Position) error {
	if err := r.Check(); err != nil {
		return err
	}
	n := r.Batches(r.Train)
	switch {
	case p.Epoch < 0 || p.Epoch > r.Epochs || p.Batch < 0 || p.Batch >= n || p.Step > uint64(r.Total()):
		return fmt.Errorf("%w: epoch %d, batch %d, step %d of a run of %d epochs of %d batches", ErrPosition, p.Epoch, p.Batch, p.Step, r.Epochs, n)
	case p.Step != uint64(p.Epoch)*uint64(n)+uint64(p.Batch):
		return fmt.Errorf("%w: step %d is not batch %d of epoch %d at %d batches an epoch", ErrPosition, p.Step, p.Batch, p.Epoch, n)
	case p.Step < r.begin():
		return fmt.Errorf("%w: step %d is before step %d, from which there are %d replicas", ErrPosition, p.Step, r.begin(), r.replicas())
	case !r.Opens(p.Step) && !r.Over(p):
		what := "an update"
		if r.replicas() > 1 {
			what = "a round"
		}
		return fmt.Errorf("%w: batch %d of epoch %d is inside %s of %d batches", ErrPosition, p.Batch, p.Epoch, what, r.around(p.Step))
	case p.Seq < p.Step || p.Seq > 1<<62:
		return fmt.Errorf("%w: %d items done after %d batches", ErrPosition, p.Seq, p.Step)
	}
	return nil
}
