// Periods: what follows from it that the number of replicas changes in the course of a run.
//
// It changes between two rounds only. The epoch in which it does is then cut in two: batches,
// and so rounds and whose turn it is, are counted from the change on. In later epochs they are
// counted from the epoch's first batch, as ever.

package order

import "fmt"

// MaxPeriods is the most periods that a run has.
const MaxPeriods = 1 << 12

// Period is the part of a run, from a batch on, that has one number of replicas.
type Period struct {
	Step     uint64 `json:"step"` // batches before it
	Replicas int    `json:"replicas"`
}

// checkPeriods tells whether each period begins where a round of the one before it may end. Two
// may begin at one step: the first is empty then.
func (r Run) checkPeriods() error {
	ps := r.Periods
	switch {
	case len(ps) == 0:
		return nil
	case len(ps) > MaxPeriods:
		return fmt.Errorf("%w: the number of replicas changes %d times, at most %d are possible", ErrRun, len(ps)-1, MaxPeriods-1)
	case ps[0].Step != 0:
		return fmt.Errorf("%w: nothing says how many replicas there are before step %d", ErrRun, ps[0].Step)
	case ps[len(ps)-1].Replicas != r.replicas():
		return fmt.Errorf("%w: %d replicas, but %d from step %d on", ErrRun, r.replicas(), ps[len(ps)-1].Replicas, r.begin())
	}
	for i, p := range ps {
		if p.Replicas < 1 || p.Replicas > MaxReplicas {
			return fmt.Errorf("%w: %d replicas from step %d on, want 1 to %d", ErrRun, p.Replicas, p.Step, MaxReplicas)
		}
		if i == 0 {
			continue
		}
		before := r.period(i - 1)
		at := r.at(p.Step)
		switch {
		case p.Replicas == before.Replicas:
			return fmt.Errorf("%w: there are %d replicas from step %d on, and before it, too", ErrRun, p.Replicas, p.Step)
		case p.Step < before.begin():
			return fmt.Errorf("%w: a change of replicas at step %d follows one at step %d", ErrRun, p.Step, before.begin())
		case p.Step > uint64(r.Total()):
			return fmt.Errorf("%w: the number of replicas changes at step %d of a run of %d", ErrRun, p.Step, r.Total())
		case p.Step < uint64(r.Total()) && (at.Batch-before.base(at.Epoch))%before.span() != 0:
			return fmt.Errorf("%w: the number of replicas changes at step %d, inside a round of %d batches", ErrRun, p.Step, before.span())
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
	return r.at(r.begin())
}

// begin is the step at which the period at hand begins.
func (r Run) begin() uint64 {
	if len(r.Periods) == 0 {
		return 0
	}
	return r.Periods[len(r.Periods)-1].Step
}

// at is the place of a step.
func (r Run) at(step uint64) Position {
	n := uint64(r.Batches(r.Train))
	return Position{Epoch: int(step / n), Batch: int(step % n), Step: step, Seq: step}
}

// base is the batch of an epoch from which the period at hand counts.
func (r Run) base(epoch int) int {
	if b := r.begin(); b > 0 {
		if at := r.at(b); at.Epoch == epoch {
			return at.Batch
		}
	}
	return 0
}

// stretch is so many epochs of which the period at hand has so many batches.
type stretch struct{ times, batches int }

// epochs are those that the period at hand has finished at p, and the batches that it has done
// in p's.
func (r Run) epochs(p Position) (whole [2]stretch, rest int) {
	n, first := r.Batches(r.Train), r.at(r.begin())
	if p.Epoch <= first.Epoch {
		return whole, p.Batch - first.Batch
	}
	return [2]stretch{{1, n - first.Batch}, {p.Epoch - first.Epoch - 1, n}}, p.Batch
}
