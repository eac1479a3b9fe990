// Package loss compares a model's answers with the targets: the training loss with its
// gradient, and the metrics of a validation pass.
package loss

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Targets are the right answers of the rows of a data set, as values: [rows, shape...].
type Targets interface {
	Gather(dst []float32, rows []int32)
}

// Labels are Targets that are the numbers of classes where Labelled says so: one for
// every position of a row, kernel.IgnoreIndex where none counts.
type Labels interface {
	Labelled() bool
	Labels(dst, rows []int32)
}

// Answers are Targets that can tell classes from values: a model with so many classes on its
// last axis is right or wrong about a class (a label or a one-hot vector of that length), and
// only near or far from a value.
type Answers interface{ Answers(classes int) bool }

// labels gives y's labels, nil if it has none.
func labels(y Targets) Labels {
	if l, ok := y.(Labels); ok && l.Labelled() {
		return l
	}
	return nil
}

// Func is a loss over rows of answers of one shape. Its last axis are the classes, those
// before it the positions of a row.
type Func struct {
	name            string
	rows, per, cols int
	metrics         []string
	ignore          int32

	// Of a cross entropy with class weights or label smoothing, by class.
	shaped  bool
	weights []float32 // 1 where the job has none
	spread  []float32 // what smoothing adds to a class's target
	keep    float32   // what it leaves of the target

	pos   []float32 // of a binary cross entropy, by output; nil: 1
	width float32   // beta or delta

	values  []float32 // these are made when targets of their kind come
	classes []int32
	target  []float32 // of one position, by class
}

// New finds the loss of job j for answers of the given shape and at most so many rows at
// once.
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

// Bytes is the most that the loss of so many rows of answers of the given shape keeps of
// their targets: their values, where they do not come as classes.
func Bytes(shape []int, rows int) int {
	n := 4 * rows
	for _, d := range shape {
		n *= d
	}
	return n
}

// Terms is what the mean of a batch of rows divides by. It is the number of values, or, of a
// cross entropy, the number of positions that have a class, and where classes have weights
// the sum of those positions' weights.
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

// scale is the factor of the gradients of a batch whose mean divides by terms.
func scale(terms float64) float32 { return 1 / float32(orOne(terms)) }

// orOne lets the mean of no terms be 0.
func orOne(terms float64) float64 {
	if terms == 0 {
		return 1
	}
	return terms
}

// Eval returns the sum of the loss's terms over the rows of the answers pred, and writes
// the gradient of the batch's mean to grad; terms is what Terms says of the whole batch. A
// batch none of whose positions has a class has no terms, and no gradient.
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

// Accumulate is Eval of a part of a batch: it returns sum, the loss's terms of the rows
// before, with those of these rows added. All losses but mse add row after row, so the batch's
// sum is the same to the bit in however many parts it comes.
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

// value is the sum of the loss's terms of one position of a loss of values.
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

// shape is the target of one position, a class or probabilities, with smoothing and weights:
// w_c ((1-s) t_c + s/C). A cross entropy against it is PyTorch's.
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

// Splits tells whether the loss of a batch is the same to the bit however many parts it
// comes in.
func (f *Func) Splits() bool { return Splits(f.name) }

// Splits is Func.Splits of a loss by name.
func Splits(name string) bool { return name != job.MSE }

// Mean is the loss of a batch whose sum of terms is sum: 0 where there are none.
func Mean(sum float32, terms float64) float32 { return sum / float32(orOne(terms)) }
