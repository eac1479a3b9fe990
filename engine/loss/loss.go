// Package loss compares a model's answers with the targets: it computes the training loss and
// its gradient, and the metrics of a validation pass.
package loss

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Targets are the right answers for the rows of a data set, as values: [rows, shape...].
type Targets interface {
	Gather(dst []float32, rows []int32)
}

// Labels are Targets that, where Labelled says so, are numbers of classes: one for each
// position of a row, kernel.IgnoreIndex for positions that do not count.
type Labels interface {
	Labelled() bool
	Labels(dst, rows []int32)
}

// Answers are Targets that can tell classes from values. About a class, a label or a one-hot
// vector as long as the model's last axis, a model is right or wrong; to a value it is only near
// or far.
type Answers interface{ Answers(classes int) bool }

// labels returns y's labels, nil if it has none.
func labels(y Targets) Labels {
	if l, ok := y.(Labels); ok && l.Labelled() {
		return l
	}
	return nil
}

// Func is a loss over rows of answers of one shape, whose last axis is the classes. The axes
// before it are the positions of a row.
type Func struct {
	name            string
	rows, per, cols int
	metrics         []string
	ignore          int32

	// For a cross entropy with class weights or label smoothing, by class.
	shaped  bool
	weights []float32 // 1 if the job has none
	spread  []float32 // what smoothing adds to the target of a class
	keep    float32   // the factor of the target that it leaves

	pos   []float32 // weights of positives in a binary cross entropy, by output; nil: 1
	width float32   // beta of smooth L1, delta of Huber

	values  []float32 // this and the next are allocated when they are first needed
	classes []int32
	target  []float32 // of a position, by class
}

// New returns the loss of job j for answers of the given shape and at most rows rows at once.
func New(j job.Spec, shape []int, rows int) (*Func, error) {
	if !slices.Contains(job.Losses, j.Loss) {
		return nil, fmt.Errorf("unknown loss %q", j.Loss)
	}
	f := &Func{name: j.Loss, rows: rows, per: 1, cols: 1, metrics: j.Metrics}
	for i, d := range shape {
		if i < len(shape)-1 {
			f.per *= d
		} else {
			f.cols = d
		}
	}
	if err := j.CheckOutputs(f.cols); err != nil {
		return nil, err
	}
	o := j.LossOptions
	f.ignore, f.width = int32(o.Ignore()), float32(o.Width())
	if f.shaped = o.LabelSmoothing != 0 || o.ClassWeights != nil; f.shaped {
		f.weights, f.spread, f.keep = make([]float32, f.cols), make([]float32, f.cols), float32(1-o.LabelSmoothing)
		for c := range f.weights {
			f.weights[c] = 1
			if o.ClassWeights != nil {
				f.weights[c] = float32(o.ClassWeights[c])
			}
			f.spread[c] = float32(o.LabelSmoothing/float64(f.cols)) * f.weights[c]
		}
	}
	if o.PosWeight != nil {
		f.pos = make([]float32, f.cols)
		for c := range f.pos {
			f.pos[c] = float32(o.PosWeight[min(c, len(o.PosWeight)-1)])
		}
	}
	return f, nil
}

// Bytes is the most memory that the loss of rows rows of answers of the given shape needs for
// their targets: the values of those that are not labels.
func Bytes(shape []int, rows int) int {
	n := 4 * rows
	for _, d := range shape {
		n *= d
	}
	return n
}

// Terms returns what the mean over a batch of rows divides by: the number of values or, for a
// cross entropy, the number of positions that have a class or, with class weights, the sum of
// the weights of those positions.
func (f *Func) Terms(y Targets, rows []int32) float64 {
	n := len(rows) * f.per
	if f.name != job.CrossEntropy {
		return float64(n * f.cols)
	}
	l := labels(y)
	if l == nil {
		return float64(n)
	}
	classes := f.gatherLabels(l, rows)
	if f.weights == nil {
		return float64(counted(classes))
	}
	sum := 0.0
	for _, c := range classes {
		if c != kernel.IgnoreIndex {
			sum += float64(f.weights[c])
		}
	}
	return sum
}

func counted(classes []int32) int {
	n := 0
	for _, c := range classes {
		if c != kernel.IgnoreIndex {
			n++
		}
	}
	return n
}

func (f *Func) gatherLabels(l Labels, rows []int32) []int32 {
	if f.classes == nil {
		f.classes = make([]int32, f.rows*f.per)
	}
	c := f.classes[:len(rows)*f.per]
	l.Labels(c, rows)
	if f.ignore != kernel.IgnoreIndex {
		for i, v := range c {
			if v == f.ignore {
				c[i] = kernel.IgnoreIndex
			}
		}
	}
	return c
}

func (f *Func) gather(y Targets, rows []int32) []float32 {
	if f.values == nil {
		f.values = make([]float32, f.rows*f.per*f.cols)
	}
	v := f.values[:len(rows)*f.per*f.cols]
	y.Gather(v, rows)
	return v
}

// scale returns the factor of the gradients of a batch whose mean divides by terms.
func scale(terms float64) float32 { return 1 / float32(orOne(terms)) }

// orOne makes the mean over no terms 0.
func orOne(terms float64) float64 {
	if terms == 0 {
		return 1
	}
	return terms
}

// Eval returns the sum of the loss's terms over the rows of the answers pred, and writes the
// gradient of the batch's mean to grad; terms is the result of Terms for the whole batch. A batch
// in which no position has a class has no terms, and its gradient is 0.
func (f *Func) Eval(grad, pred []float32, y Targets, rows []int32, terms float64) float32 {
	n := len(rows) * f.per
	switch {
	case f.name == job.MSE:
		return kernel.MSE(grad, pred, f.gather(y, rows), scale(terms))
	case f.name != job.CrossEntropy || f.shaped:
		return f.Accumulate(0, grad, pred, y, rows, terms)
	}
	if l := labels(y); l != nil {
		return kernel.CrossEntropy(grad, pred, f.gatherLabels(l, rows), n, f.cols, scale(terms))
	}
	return kernel.CrossEntropyProb(grad, pred, f.gather(y, rows), n, f.cols, scale(terms))
}

// Accumulate is Eval for a part of a batch: it adds the terms of these rows to sum, that of the
// rows before them. All losses but mse add row by row, so the sum of a batch is the same, bit for
// bit, however it is split.
func (f *Func) Accumulate(sum float32, grad, pred []float32, y Targets, rows []int32, terms float64) float32 {
	if f.name == job.MSE {
		return sum + f.Eval(grad, pred, y, rows, terms)
	}
	s, n, c := scale(terms), len(rows)*f.per, f.cols
	row := func(i int) []float32 {
		if grad == nil {
			return nil
		}
		return grad[i*c:][:c]
	}
	switch l := labels(y); {
	case f.name == job.OutputLoss:
		for i := range n {
			sum += kernel.Sum(pred[i*c:][:c])
		}
		if grad != nil {
			kernel.Fill(grad[:n*c], s)
		}
	case f.name != job.CrossEntropy:
		t := f.gather(y, rows)
		for i := range n {
			sum += f.value(row(i), pred[i*c:][:c], t[i*c:][:c], s)
		}
	case l != nil:
		t := f.gatherLabels(l, rows)
		for i := range n {
			if f.shaped && t[i] != kernel.IgnoreIndex {
				sum += kernel.CrossEntropyProb(row(i), pred[i*c:][:c], f.shape(t[i], nil), 1, c, s)
			} else {
				sum += kernel.CrossEntropy(row(i), pred[i*c:][:c], t[i:i+1], 1, c, s)
			}
		}
	default:
		t := f.gather(y, rows)
		for i := range n {
			own := t[i*c:][:c]
			if f.shaped {
				own = f.shape(-1, own)
			}
			sum += kernel.CrossEntropyProb(row(i), pred[i*c:][:c], own, 1, c, s)
		}
	}
	return sum
}

// value returns the sum of the terms of one position, for losses of values.
func (f *Func) value(grad, pred, t []float32, scale float32) float32 {
	switch f.name {
	case job.BCE:
		return kernel.BCE(grad, pred, t, f.pos, scale)
	case job.L1:
		return kernel.L1(grad, pred, t, scale)
	case job.SmoothL1:
		return kernel.SmoothL1(grad, pred, t, f.width, scale)
	}
	return kernel.Huber(grad, pred, t, f.width, scale)
}

// shape returns the target of one position, a class or probabilities, with smoothing and weights
// applied: w_c ((1-s) t_c + s/C). The cross entropy with this target is the one of PyTorch.
func (f *Func) shape(class int32, t []float32) []float32 {
	if f.target == nil {
		f.target = make([]float32, f.cols)
	}
	copy(f.target, f.spread)
	if t == nil {
		f.target[class] += float32(f.keep * f.weights[class])
		return f.target
	}
	for c, v := range t {
		f.target[c] += float32(float32(f.keep*v) * f.weights[c])
	}
	return f.target
}

// Splits reports whether the loss of a batch is the same, bit for bit, however it is split.
func (f *Func) Splits() bool { return Splits(f.name) }

// Splits is Func.Splits for a loss by its name.
func Splits(name string) bool { return name != job.MSE }

// Mean returns the loss of a batch whose terms add up to sum, 0 if it has no terms.
func Mean(sum float32, terms float64) float32 { return sum / float32(orOne(terms)) }
