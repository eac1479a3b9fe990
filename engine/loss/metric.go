// The figures of a validation pass besides its loss.

package loss

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Score accumulates how good answers are.
type Score struct {
	Sum   float32 // of the loss's terms
	Terms float64 // what the mean loss divides by
	// Correct counts the positions whose largest answer is the right one, Total all that count.
	// For a binary cross entropy they count outputs, which are correct on the right side of 0.
	// Both are 0 for a regression.
	Correct, Total int

	parts   []Score // of a job with several losses, whose mean is the sum of theirs
	weights []float64

	batch   float32 // sum of the terms of the batch so far
	top5    int
	plain   float64 // cross entropy without weights and smoothing, and its number of terms
	plainN  int
	apart   float64 // sum of absolute errors
	values  int
	byClass []tally
}

// tally counts the answers for one class.
type tally struct{ hit, wrong, missed int64 }

// Mean returns the mean loss.
func (s *Score) Mean() float32 {
	if s.parts == nil {
		return Mean(s.Sum, s.Terms)
	}
	sum := float32(0)
	for i := range s.parts {
		sum += float32(s.parts[i].Mean() * float32(s.weights[i]))
	}
	return sum
}

// Metric is a figure of a validation pass.
type Metric struct {
	Name  string // one of job.Metrics
	Value float64
}

// wanted returns the metrics for targets y: those that the job names, or the usual ones.
func (f *Func) wanted(y Targets) []string {
	switch {
	case f.metrics != nil:
		return f.metrics
	case f.name == job.CrossEntropy && f.per > 1 && labels(y) != nil:
		return []string{job.Accuracy, job.Perplexity}
	case f.name == job.BCE:
		return []string{job.Accuracy, job.F1}
	case f.name == job.CrossEntropy || f.answers(y):
		return []string{job.Accuracy}
	case f.name == job.OutputLoss:
		return nil
	}
	return []string{job.MAE}
}

// Names returns the names of the metrics that Metrics returns for targets y.
func (f *Func) Names(y Targets) []string {
	names := slices.Clone(f.wanted(y))
	return slices.DeleteFunc(names, func(n string) bool { return n == job.Accuracy })
}

// answers reports whether the model can be right or wrong about y.
func (f *Func) answers(y Targets) bool {
	a, ok := y.(Answers)
	return ok && f.cols > 1 && a.Answers(f.cols)
}

// Count compares the answers pred with the targets of rows, a part of a batch, and adds the
// result to s; ends says that the part is the last of its batch. The parts of a batch come in
// order; except for mse, the result does not depend on how the batch is split.
func (f *Func) Count(s *Score, pred []float32, y Targets, rows []int32, ends bool) {
	s.batch = f.Accumulate(s.batch, nil, pred, y, rows, 1)
	s.Terms += f.Terms(y, rows)
	n := len(rows) * f.per
	switch l := labels(y); {
	case f.name == job.OutputLoss:
	case f.name == job.BCE:
		f.countSides(s, pred, f.gather(y, rows))
	case f.cols < 2: // with one column there is nothing to choose
	case l != nil:
		f.countClasses(s, pred, f.gatherLabels(l, rows), y)
	case f.name == job.CrossEntropy || f.answers(y):
		t := f.gather(y, rows)
		if f.classes == nil {
			f.classes = make([]int32, f.rows*f.per)
		}
		c := f.classes[:n]
		for i := range c {
			c[i] = int32(kernel.Argmax(t[i*f.cols:][:f.cols]))
		}
		f.countClasses(s, pred, c, y)
	}
	if slices.Contains(f.wanted(y), job.MAE) {
		for i, t := range f.gather(y, rows) {
			s.apart += math.Abs(float64(pred[i]) - float64(t))
		}
		s.values += n * f.cols
	}
	if ends {
		s.Sum, s.batch = s.Sum+s.batch, 0
	}
}

// countClasses counts positions by their correct class.
func (f *Func) countClasses(s *Score, pred []float32, classes []int32, y Targets) {
	want := f.wanted(y)
	top5, f1, plain := slices.Contains(want, job.Top5), slices.Contains(want, job.F1), slices.Contains(want, job.Perplexity) && labels(y) != nil
	if f1 && s.byClass == nil {
		s.byClass = make([]tally, f.cols)
	}
	for i, c := range classes {
		if c == kernel.IgnoreIndex {
			continue
		}
		row := pred[i*f.cols:][:f.cols]
		best := int32(kernel.Argmax(row))
		if s.Total++; best == c {
			s.Correct++
		}
		if top5 && above(row, c) < 5 {
			s.top5++
		}
		if f1 && best == c {
			s.byClass[c].hit++
		} else if f1 {
			s.byClass[c].missed++
			s.byClass[best].wrong++
		}
		if plain {
			s.plain += float64(kernel.CrossEntropy(nil, row, classes[i:i+1], 1, f.cols, 1))
			s.plainN++
		}
	}
}

// above counts the elements of x that are greater than element c, or equal to it and before it.
func above(x []float32, c int32) int {
	n := 0
	for i, v := range x {
		if v > x[c] || v != v || v == x[c] && i < int(c) {
			n++
		}
	}
	return n
}

// countSides counts the outputs of a binary cross entropy, each of which is a class of its own:
// above 0 the model says yes.
func (f *Func) countSides(s *Score, pred, targets []float32) {
	if s.byClass == nil {
		s.byClass = make([]tally, f.cols)
	}
	for i, v := range pred[:len(targets)] {
		c, yes, is := &s.byClass[i%f.cols], v > 0, targets[i] > 0.5
		switch s.Total++; {
		case yes == is:
			s.Correct++
			if yes {
				c.hit++
			}
		case yes:
			c.wrong++
		default:
			c.missed++
		}
	}
}

// Metrics returns the figures of a pass over targets y with the score s, besides its loss and
// accuracy, in the order in which the job names them.
func (f *Func) Metrics(s *Score, y Targets) []Metric {
	var ms []Metric
	for _, name := range f.wanted(y) {
		m := Metric{Name: name}
		switch name {
		case job.Top5:
			m.Value = share(s.top5, s.Total)
		case job.Perplexity:
			loss := s.Mean()
			if s.plainN > 0 {
				loss = float32(s.plain / float64(s.plainN))
			}
			m.Value = math.Min(float64(kernel.Exp(loss)), math.MaxFloat32)
		case job.F1:
			m.Value = f1(s.byClass)
		case job.MAE:
			m.Value = s.apart / max(float64(s.values), 1)
		default:
			continue
		}
		ms = append(ms, m)
	}
	return ms
}

func share(n, of int) float64 { return float64(n) / max(float64(of), 1) }

// f1 returns the mean of the F1 scores of the classes that occur in targets or answers.
func f1(classes []tally) float64 {
	sum, n := 0.0, 0
	for _, c := range classes {
		if all := c.hit + c.wrong + c.missed; all > 0 {
			sum += float64(2*c.hit) / float64(2*c.hit+c.wrong+c.missed)
			n++
		}
	}
	return sum / max(float64(n), 1)
}
