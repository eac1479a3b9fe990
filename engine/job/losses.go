// Several losses of one model.

package job

import (
	"fmt"
	"slices"
)

// MaxLosses is the largest number of losses that a job has.
const MaxLosses = 16

// LossPart is one of several losses of a job, which trains on the sum of their means, each
// times its weight.
type LossPart struct {
	// Output is the value of the model that the loss looks at, by its name in the graph.
	Output string `json:"output"`
	// Target is the field of the data set's targets that it is compared with. Left out: the data
	// have one.
	Target string `json:"target,omitempty"`
	// Loss is one of Losses, with settings of its own. Left out: the job's.
	Loss    string      `json:"loss,omitempty"`
	Options LossOptions `json:"loss_options,omitzero"`
	// Weight is the factor of the loss, above 0. Left out: 1.
	Weight *float64 `json:"weight,omitempty"`
}

// Factor is the weight of the loss.
func (p LossPart) Factor() float64 {
	if p.Weight == nil {
		return 1
	}
	return *p.Weight
}

// Several tells whether the job has losses of its own for outputs of the model.
func (s Spec) Several() bool { return len(s.Losses) > 0 }

// Part is the job as if its i-th loss were its only one. The metrics are those of the first.
func (s Spec) Part(i int) Spec {
	p := s.Losses[i]
	if p.Loss != "" {
		s.Loss, s.LossOptions = p.Loss, p.Options
	} else if !p.Options.IsZero() {
		s.LossOptions = p.Options
	}
	if s.Losses = nil; i > 0 {
		s.Metrics = nil
	}
	return s
}

// Outputs are the outputs that the losses look at, each once, in the order of the losses.
func (s Spec) Outputs() []string {
	var names []string
	for _, p := range s.Losses {
		if !slices.Contains(names, p.Output) {
			names = append(names, p.Output)
		}
	}
	return names
}

func (s Spec) checkLosses(f *faults) {
	if len(s.Losses) > MaxLosses {
		f.bad("losses has %d entries, at most %d are read", len(s.Losses), MaxLosses)
		return
	}
	targets := 0
	for i, p := range s.Losses {
		at := fmt.Sprintf("losses[%d]", i)
		if p.Output == "" || len(p.Output) > MaxText || len(p.Target) > MaxText {
			f.bad("%s: output of %d bytes is outside 1..%d, or target of %d is above it", at, len(p.Output), MaxText, len(p.Target))
		}
		if w := p.Factor(); !(w > 0 && w <= 1e6) {
			f.bad("%s weight %v is not above 0 and at most 1e+06: leave out a loss that does not count", at, w)
		}
		var own faults
		part := s.Part(i)
		part.checkLoss(&own)
		for _, err := range own.errs {
			f.errs = append(f.errs, fmt.Errorf("%s: %w", at, err))
		}
		if part.Loss != OutputLoss {
			targets++
		} else if p.Target != "" {
			f.bad("%s: the loss output looks at no target, but %.60q is named", at, p.Target)
		}
	}
	if s.Several() && targets == 0 {
		f.bad("losses: none of them has a target")
	}
}
