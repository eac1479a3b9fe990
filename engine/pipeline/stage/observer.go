// What a stage tells whoever runs it.

package stage

import (
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
)

// Loss is the training loss of one batch.
type Loss struct {
	Epoch int
	Step  uint64
	Value float32
}

// Validation is the outcome of one validation pass.
type Validation struct {
	Epoch          int
	Step           uint64
	Correct, Total int // answers: one a row, or one for every position that has a class
	Loss           float32
	Metrics        []loss.Metric // what else there is to say
}

// NewValidation is the outcome of a pass over the targets y whose answers f scored as s.
func NewValidation(f *loss.Sum, s loss.Score, y Rows) Validation {
	return Validation{Correct: s.Correct, Total: s.Total, Loss: s.Mean(), Metrics: f.Metrics(&s, y)}
}

// Saved is a stage's state at a point that all stages share.
type Saved struct {
	Epoch int
	Step  uint64
	Final bool // nothing comes after it
	Held  bool // it is kept only in case a stage is lost, and may be forgotten when two later ones are
	// Part is the state with the position where the run goes on from it. Its tensors are
	// the stage's own memory, which changes when Keep has returned.
	Part *snapshot.Part
}

// Observer is told what happens. With several clusters each leaf reports the losses of its
// replicas' batches, and the first cluster's those of batches that are split over replicas, and
// validation; and other clusters than the first keep the state only where it is Held, at the
// run's end, or where their replicas keep optimizers of their own. Its methods are called from Run's goroutine and
// must not block for long.
type Observer interface {
	Loss(Loss)            // leaf only
	Validated(Validation) // leaf only
	Batch(rows int)       // so many rows of a batch have been through this stage
	Keep(Saved) error
}
