// Package loss compares a model's answers with the targets: the training loss with
// its gradient, and the count of right answers.
package loss

import (
	"fmt"

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

// Answers are Targets that can tell classes from values: a model is right or wrong about a
// class (a label or a one-hot vector), and only near or far from a value.
type Answers interface{ Answers() bool }

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
	values          []float32 // these two are made when targets of their kind come
	classes         []int32
}

// New finds a loss by its job name, mse or cross_entropy, for answers of the given shape
// and at most so many rows at once.
func New(name string, shape []int, rows int) (*Func, error) {
	switch name {
	case "mse", "cross_entropy":
	default:
		return nil, fmt.Errorf("unknown loss %q", name)
	}
	f := &Func{name: name, rows: rows, per: 1, cols: 1}
	for i, d := range shape {
		if i < len(shape)-1 {
			f.per *= d
		} else {
			f.cols = d
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

// Terms is the number of terms that the mean of a batch of rows is taken over: those of a
// mean squared error are the values, those of a cross entropy the positions that have a
// class.
func (f *Func) Terms(y Targets, rows []int32) int {
	n := len(rows) * f.per
	if f.name == "mse" {
		return n * f.cols
	}
	if l := labels(y); l != nil {
		return counted(f.gatherLabels(l, rows))
	}
	return n
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

// Eval returns the sum of the loss's terms over the rows of the answers pred, and writes
// the gradient of the batch's mean to grad; terms is the number of terms of the whole
// batch. A batch none of whose positions has a class has no terms, and no gradient.
func (f *Func) Eval(grad, pred []float32, y Targets, rows []int32, terms int) float32 {
	scale, n := 1/float32(max(terms, 1)), len(rows)*f.per
	if f.name == "mse" {
		return kernel.MSE(grad, pred, f.gather(y, rows), scale)
	}
	if l := labels(y); l != nil {
		return kernel.CrossEntropy(grad, pred, f.gatherLabels(l, rows), n, f.cols, scale)
	}
	return kernel.CrossEntropyProb(grad, pred, f.gather(y, rows), n, f.cols, scale)
}

// Accumulate is Eval of a part of a batch: it returns sum, the loss's terms of the rows
// before, with those of these rows added. A cross entropy adds row after row, so the batch's
// sum is the same to the bit in however many parts it comes.
func (f *Func) Accumulate(sum float32, grad, pred []float32, y Targets, rows []int32, terms int) float32 {
	if f.name == "mse" {
		return sum + f.Eval(grad, pred, y, rows, terms)
	}
	scale, n, c := 1/float32(max(terms, 1)), len(rows)*f.per, f.cols
	row := func(i int) []float32 {
		if grad == nil {
			return nil
		}
		return grad[i*c:][:c]
	}
	if l := labels(y); l != nil {
		t := f.gatherLabels(l, rows)
		for i := range n {
			sum += kernel.CrossEntropy(row(i), pred[i*c:][:c], t[i:i+1], 1, c, scale)
		}
		return sum
	}
	t := f.gather(y, rows)
	for i := range n {
		sum += kernel.CrossEntropyProb(row(i), pred[i*c:][:c], t[i*c:][:c], 1, c, scale)
	}
	return sum
}

// Splits tells whether the loss of a batch is the same to the bit however many parts it
// comes in.
func (f *Func) Splits() bool { return f.name != "mse" }

// Score is how good answers are.
type Score struct {
	Sum            float32 // of the loss's terms
	Terms          int
	Correct, Total int // positions whose greatest answer is the right one, and all that count; a regression has none

	batch float32 // sum of the terms of a batch of which more rows come
}

// Mean is the loss.
func (s *Score) Mean() float32 { return Mean(s.Sum, s.Terms) }

// Count compares the answers pred with the targets of rows, which are a part of a batch, and
// adds to s how good they are; ends tells that the part is the batch's last. The parts of a
// batch come in order, and a cross entropy is the same in however many it comes.
func (f *Func) Count(s *Score, pred []float32, y Targets, rows []int32, ends bool) {
	s.batch = f.Accumulate(s.batch, nil, pred, y, rows, 1)
	s.Terms += f.Terms(y, rows)
	switch l := labels(y); {
	case f.cols < 2: // the greatest of one is always the same
	case l != nil:
		c := f.gatherLabels(l, rows)
		s.Correct += kernel.CountCorrectClass(pred, c, len(c), f.cols)
		s.Total += counted(c)
	case f.name != "mse" || answers(y):
		n := len(rows) * f.per
		s.Total += n
		s.Correct += kernel.CountCorrect(pred, f.gather(y, rows), n, f.cols)
	}
	if ends {
		s.Sum, s.batch = s.Sum+s.batch, 0
	}
}

func answers(y Targets) bool {
	a, ok := y.(Answers)
	return ok && a.Answers()
}

// Mean is the loss of a batch whose sum of terms is sum: 0 where there are none.
func Mean(sum float32, terms int) float32 { return sum / float32(max(terms, 1)) }
