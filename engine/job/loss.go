// What a job says about its loss and about the figures that validation reports.

package job

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/strict"
)

// Losses by PyTorch's functions of that name: mse_loss, binary_cross_entropy_with_logits,
// l1_loss, smooth_l1_loss, huber_loss. output is none: the model's answer is its loss.
const (
	MSE          = "mse"
	CrossEntropy = "cross_entropy"
	BCE          = "bce_with_logits"
	L1           = "l1"
	SmoothL1     = "smooth_l1"
	Huber        = "huber"
	OutputLoss   = "output"
)

// Metrics of a validation pass beside its loss.
const (
	Accuracy   = "accuracy"   // share of positions whose greatest answer is right
	Top5       = "top5"       // share of positions whose right answer is among the five greatest
	Perplexity = "perplexity" // e to the mean cross entropy
	F1         = "f1"         // mean over the classes of the harmonic mean of precision and recall
	MAE        = "mae"        // mean absolute error
)

// The names that the loss and the metrics of a Spec may take.
var (
	Losses  = []string{MSE, CrossEntropy, BCE, L1, SmoothL1, Huber, OutputLoss}
	Metrics = []string{Accuracy, Top5, Perplexity, F1, MAE}
)

// IgnoreIndex marks a position without a class where a job does not say otherwise, as in
// PyTorch.
const IgnoreIndex = -100

// maxClasses bounds the weights that a job lists.
const maxClasses = 4096

// LossOptions are a loss's settings, as PyTorch calls them. One that the loss does not have is
// left out.
type LossOptions struct {
	// IgnoreIndex is the class that does not count (cross_entropy). Left out: -100, which
	// never does.
	IgnoreIndex *int `json:"ignore_index,omitempty"`
	// LabelSmoothing is the part of the target that is spread over all classes, below 1
	// (cross_entropy).
	LabelSmoothing float64 `json:"label_smoothing,omitempty"`
	// ClassWeights are a weight for each class (cross_entropy: PyTorch's weight).
	ClassWeights []float64 `json:"class_weights,omitempty"`
	// PosWeight are the weights of positive answers: one for each output, or one for all
	// (bce_with_logits).
	PosWeight []float64 `json:"pos_weight,omitempty"`
	// Beta is where a smooth_l1 loss becomes linear. Left out: 1.
	Beta *float64 `json:"beta,omitempty"`
	// Delta is where a huber loss becomes linear. Left out: 1.
	Delta *float64 `json:"delta,omitempty"`
}

// IsZero tells that nothing is set.
func (o LossOptions) IsZero() bool {
	return o.IgnoreIndex == nil && o.LabelSmoothing == 0 && o.ClassWeights == nil && o.PosWeight == nil && o.Beta == nil && o.Delta == nil
}

// Ignore is the class that does not count.
func (o LossOptions) Ignore() int {
	if o.IgnoreIndex == nil {
		return IgnoreIndex
	}
	return *o.IgnoreIndex
}

// Width is beta or delta.
func (o LossOptions) Width() float64 {
	switch {
	case o.Beta != nil:
		return *o.Beta
	case o.Delta != nil:
		return *o.Delta
	}
	return 1
}

// Classifies tells whether the loss takes targets of an integer type as the numbers of
// classes; the others take them as values where there are as many as the model answers.
func (s Spec) Classifies() bool { return s.Loss == CrossEntropy }

// emptyLists refuses lists and numbers that say nothing.
func (s *Spec) emptyLists(has strict.Fields) error {
	o := s.LossOptions
	for path, empty := range map[string]bool{
		"loss_options.class_weights": len(o.ClassWeights) == 0, "loss_options.pos_weight": len(o.PosWeight) == 0, "metrics": len(s.Metrics) == 0, "losses": len(s.Losses) == 0, "freeze": len(s.Freeze) == 0, "lora.target": len(s.LoRA.Target) == 0, "lora.r": s.LoRA.R == 0, "lora.alpha": s.LoRA.Alpha == 0, "lora.dropout": s.LoRA.Dropout == 0, "lora.save": len(s.LoRA.Save) == 0,
		"optimizer.no_decay": len(s.Optimizer.NoDecay) == 0, "lr_schedule.milestones": len(s.LR.Milestones) == 0,
	} {
		if has[path] && empty {
			return fmt.Errorf("%s is empty: leave it out", path)
		}
	}
	return nil
}

func (s Spec) checkLoss(f *faults) {
	f.in("loss", s.Loss, Losses)
	o := s.LossOptions
	for _, x := range []struct {
		field string
		set   bool
		of    string
	}{
		{"ignore_index", o.IgnoreIndex != nil, CrossEntropy},
		{"label_smoothing", o.LabelSmoothing != 0, CrossEntropy},
		{"class_weights", o.ClassWeights != nil, CrossEntropy},
		{"pos_weight", o.PosWeight != nil, BCE},
		{"beta", o.Beta != nil, SmoothL1},
		{"delta", o.Delta != nil, Huber},
	} {
		if x.set && s.Loss != x.of && slices.Contains(Losses, s.Loss) {
			f.bad("loss_options %s is for the loss %s, not for %s", x.field, x.of, s.Loss)
		}
	}
	f.num("loss_options ignore_index", o.Ignore(), -1<<31, 1<<31-1)
	f.real("loss_options label_smoothing", o.LabelSmoothing, 0, 1)
	if o.Beta != nil {
		f.real("loss_options beta", *o.Beta, 0, 1e6)
	}
	if o.Delta != nil && !(*o.Delta > 0 && *o.Delta <= 1e6) {
		f.bad("loss_options delta %v is not above 0 and at most 1e+06", *o.Delta)
	}
	for _, l := range []struct {
		field string
		v     []float64
	}{{"class_weights", o.ClassWeights}, {"pos_weight", o.PosWeight}} {
		if len(l.v) > maxClasses {
			f.bad("loss_options %s has %d weights, at most %d are read", l.field, len(l.v), maxClasses)
			continue
		}
		positive := false
		for i, w := range l.v {
			f.real(fmt.Sprintf("loss_options %s[%d]", l.field, i), w, 0, 1e6)
			positive = positive || w > 0
		}
		if l.v != nil && !positive {
			f.bad("loss_options %s: no weight is above 0", l.field)
		}
	}
	s.checkMetrics(f)
}

// checkMetrics refuses metrics that the loss has no answers for.
func (s Spec) checkMetrics(f *faults) {
	for i, m := range s.Metrics {
		f.in("metrics", m, Metrics)
		if slices.Contains(s.Metrics[:i], m) {
			f.bad("metrics has %q twice", m)
		}
		switch {
		case s.Loss == OutputLoss:
			f.bad("metrics %s: the loss %s has no targets to compare with", m, s.Loss)
		case m == Perplexity && s.Loss != CrossEntropy:
			f.bad("metrics perplexity is e to a cross entropy, the loss is %s", s.Loss)
		case m == MAE && (s.Loss == CrossEntropy || s.Loss == BCE):
			f.bad("metrics mae compares values, the loss %s has classes", s.Loss)
		case m == Top5 && s.Loss == BCE:
			f.bad("metrics top5 asks which class is the greatest, of the loss %s each output is a class for itself", s.Loss)
		}
	}
}

// CheckOutputs holds the loss's settings against the number of classes, or outputs, that the
// last axis of the model's answer has.
func (s Spec) CheckOutputs(outputs int) error {
	o := s.LossOptions
	var errs []error
	if n := len(o.ClassWeights); n > 0 && n != outputs {
		errs = append(errs, fmt.Errorf("loss_options class_weights has %d weights, the model has %d classes", n, outputs))
	}
	if n := len(o.PosWeight); n > 1 && n != outputs {
		errs = append(errs, fmt.Errorf("loss_options pos_weight has %d weights, the model has %d outputs: give one for each, or one for all", n, outputs))
	}
	if outputs <= 5 && slices.Contains(s.Metrics, Top5) {
		errs = append(errs, fmt.Errorf("metrics top5: the model has %d classes, the right one is always among the five greatest", outputs))
	}
	return errors.Join(errs...)
}
