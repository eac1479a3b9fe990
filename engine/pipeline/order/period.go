// Periods: what follows from it that the number of replicas changes in the course of a run.
//
// It changes between two rounds only. The stretch in which it does is then cut in two: batches,
// and so rounds and whose turn it is, are counted from the change on. Later stretches begin where
// they do anyway.

package order

import (
	"fmt"
	"slices"
)

// MaxPeriods is the most periods that a run has.
const MaxPeriods = 1 << 12

// Period is the part of a run, from a batch on, that has one number of replicas.
type Period struct {
	Step     uint64 `json:"step"` // batches before it
	Replicas int    `json:"replicas"`
}

// CheckRecord tells whether periods are in order, whatever run they are of: the first begins with
// it, each has another number of replicas than the one before, and none begins before that. Two
// may begin at one step: the first of them is empty. The errors wrap ErrRun.
func CheckRecord(ps []Period) error {
	if len(ps) > MaxPeriods {
		return fmt.Errorf("%w: the number of replicas changes %d times, at most %d are possible", ErrRun, len(ps)-1, MaxPeriods-1)
	}
	for i, p := range ps {
		switch {
		case i == 0 && p.Step != 0:
			return fmt.Errorf("%w: nothing says how many replicas there are before step %d", ErrRun, p.Step)
		case p.Replicas < 1 || p.Replicas > MaxReplicas:
			return fmt.Errorf("%w: %d replicas from step %d on, want 1 to %d", ErrRun, p.Replicas, p.Step, MaxReplicas)
		case i > 0 && p.Replicas == ps[i-1].Replicas:
			return fmt.Errorf("%w: there are %d replicas from step %d on, and before it, too", ErrRun, p.Replicas, p.Step)
		case i > 0 && p.Step < ps[i-1].Step:
			return fmt.Errorf("%w: a change of replicas at step %d follows one at step %d", ErrRun, p.Step, ps[i-1].Step)
		}
	}
	return nil
}

// Extend is the record of a run that goes on from a step with so many replicas.
func Extend(record []Period, step uint64, replicas int) []Period {
	record = slices.Clone(record)
	if n := len(record); n > 0 && record[n-1].Replicas == replicas {
		return record
	}
	return append(record, Period{Step: step, Replicas: replicas})
}

// checkPeriods tells whether each period begins where a round of the one before it may end.
func (r Run) checkPeriods() error {
	ps := r.Periods
	if len(ps) == 0 {
		return nil
	}
	if err := CheckRecord(ps); err != nil {
		return err
	}
	if n := ps[len(ps)-1].Replicas; n != r.replicas() {
		return fmt.Errorf("%w: %d replicas, but %d from step %d on", ErrRun, r.replicas(), n, r.begin())
	}
	for i, p := range ps[1:] {
		before := r.period(i)
		switch {
		case p.Step > uint64(r.Total()):
			return fmt.Errorf("%w: the number of replicas changes at step %d of a run of %d", ErrRun, p.Step, r.Total())
		case p.Step < uint64(r.Total()) && !before.Opens(p.Step):
			return fmt.Errorf("%w: the number of replicas changes at step %d, inside a round of %d batches", ErrRun, p.Step, before.around(p.Step))
		}
	}
	return nil
}

// period is the run up to period i.
func (r Run) period(i int) Run {
	r.Periods, r.Own = r.Periods[:i+1], 0
	r.Replicas = r.Periods[i].Replicas
	return r
}

// Start is where the period at hand begins; the zero Position if the run is not valid.
func (r Run) Start() Position {
	if r.Check() != nil {
		return Position{}
	}
	return r.At(r.begin())
}

// begin is the step at which the period at hand begins.
func (r Run) begin() uint64 {
	if len(r.Periods) == 0 {
		return 0
	}
	return r.Periods[len(r.Periods)-1].Step
}

// At is the place of a step.
func (r Run) At(step uint64) Position {
	n := uint64(r.Batches(r.Train))
	return Position{Epoch: int(step / n), Batch: int(step % n), Step: step, Seq: step}
}

// alike is so many stretches of so many batches.
type alike struct{ times, batches uint64 }

// stretches are those that the period at hand has finished before a step, and the batches that it
// has done in the step's.
func (r Run) stretches(step uint64) (whole [2]alike, rest uint64) {
	c, begin := r.cycle(), r.begin()
	first := (begin/c + 1) * c // where the period's first one ends
	if step < first {
		return whole, step - begin
	}
	return [2]alike{{1, first - begin}, {(step - first) / c, c}}, step % c
}
