// The loss of a job: one, or the weighted sum of several that look at different outputs.

package loss

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Terms are what the means of a batch's losses divide by, in the order of the job.
type Terms [job.MaxLosses]float64

// Sum is the loss of a job. With several losses a row of answers is the outputs side by side,
// as graph.Outputs puts them, and a row of targets is their fields side by side, as Fields says.
type Sum struct {
	single *Func // of a job with one loss
	parts  []part
	answer int // elements of a row of answers
	target int // and of targets
	rows   int
	values []float32 // targets, allocated when they are first needed
	local  []int32   // 0, 1, 2, ...
}

// part is one of several losses.
type part struct {
	f       *Func
	from, n int // its elements of a row of answers
	weight  float64
	view    columns   // its targets
	told    string    // what its accuracy is called among the metrics; "": it is not told
	pred    []float32 // room for answers or gradients of its own, allocated when it is first needed
}

// Field is a part of a row of targets.
type Field struct {
	Name string
	// Shape is that of the output that it is compared with, without its last axis where the field
	// holds the numbers of classes.
	Shape []int
	// Classes is the number of classes, 0 where it holds values.
	Classes int
	// Ignore is a class that does not count.
	Ignore int
}

// Elems is the number of elements of a row.
func (f Field) Elems() int { return elems(f.Shape) }

func elems(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// NewSum returns the loss of job j for answers of the given shapes, which are those of the outputs
// that its losses name, and at most rows rows at once.
func NewSum(j job.Spec, shapes [][]int, rows int) (*Sum, error) {
	if !j.Several() {
		f, err := New(j, shapes[0], rows)
		return &Sum{single: f}, err
	}
	fields, err := Fields(j, shapes)
	if err != nil {
		return nil, err
	}
	s := &Sum{rows: rows, local: make([]int32, rows)}
	for i := range s.local {
		s.local[i] = int32(i)
	}
	at := make([]int, len(fields)) // of each field in a row
	for i, f := range fields {
		at[i], s.target = s.target, s.target+f.Elems()
	}
	outputs := j.Outputs()
	from := make([]int, len(outputs))
	for i, shape := range shapes {
		from[i], s.answer = s.answer, s.answer+elems(shape)
	}
	for i, l := range j.Losses {
		o := index(outputs, l.Output)
		p := part{from: from[o], n: elems(shapes[o]), weight: l.Factor()}
		if p.f, err = New(j.Part(i), shapes[o], rows); err != nil {
			return nil, fmt.Errorf("losses[%d]: %w", i, err)
		}
		for k, f := range fields {
			if f.Name == l.Target && j.Part(i).Loss != job.OutputLoss {
				p.view = columns{total: s.target, from: at[k], n: f.Elems(), count: f.Classes, ignore: p.f.ignore}
			}
		}
		if i > 0 && i <= maxTold && p.view.count > 0 && !looked(j.Losses[:i], l.Output) {
			p.told = s.figure(j.Losses, l)
		}
		s.parts = append(s.parts, p)
	}
	return s, nil
}

// maxTold is the number of losses behind the first whose accuracy is told: the figures of a pass
// are not many.
const maxTold = 8

// looked tells whether one of the losses looks at an output.
func looked(ls []job.LossPart, output string) bool {
	return slices.ContainsFunc(ls, func(l job.LossPart) bool { return l.Output == output })
}

// figure is what the accuracy of a loss is called, in letters and digits: after its target, or
// after its output where several losses have that target.
func (s *Sum) figure(ls []job.LossPart, l job.LossPart) string {
	name, same := l.Target, 0
	for _, o := range ls {
		if o.Target == l.Target {
			same++
		}
	}
	if name == "" || same > 1 {
		name = l.Output
	}
	name = "accuracy_" + strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name[:min(len(name), 32)])
	if slices.ContainsFunc(s.parts, func(p part) bool { return p.told == name }) {
		name = fmt.Sprintf("%s_%d", name, len(s.parts))
	}
	return name
}

func index(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// Fields are the parts of a row of targets that several losses are compared with, in order. A
// cross entropy takes the numbers of classes, all others take values.
func Fields(j job.Spec, shapes [][]int) ([]Field, error) {
	outputs := j.Outputs()
	if len(shapes) != len(outputs) {
		return nil, fmt.Errorf("losses of %d outputs, but the model answers %d", len(outputs), len(shapes))
	}
	var fields []Field
	for i, l := range j.Losses {
		p := j.Part(i)
		if p.Loss == job.OutputLoss {
			continue
		}
		f := Field{Name: l.Target, Shape: shapes[index(outputs, l.Output)], Ignore: job.IgnoreIndex}
		if p.Loss == job.CrossEntropy {
			if len(f.Shape) == 0 || f.Shape[len(f.Shape)-1] < 2 {
				return nil, fmt.Errorf("losses[%d]: the last axis of the output %q, whose rows are %v, must be two classes or more", i, l.Output, f.Shape)
			}
			f.Classes, f.Shape, f.Ignore = f.Shape[len(f.Shape)-1], f.Shape[:len(f.Shape)-1], p.LossOptions.Ignore()
		}
		known := false
		for _, o := range fields {
			if o.Name != f.Name {
				continue
			}
			if o.Elems() != f.Elems() || o.Classes != f.Classes || o.Ignore != f.Ignore {
				return nil, fmt.Errorf("losses[%d]: the target %q has %d elements of %d classes here and %d of %d in an earlier loss: give it a field of its own", i, l.Target, f.Elems(), f.Classes, o.Elems(), o.Classes)
			}
			known = true
		}
		if !known {
			fields = append(fields, f)
		}
	}
	return fields, nil
}

// Bytes is the most memory that the loss of rows rows needs beside the answers and their
// gradient. shape is that of all answers of a row.
func (s *Sum) Bytes(shape []int, rows int) int {
	if s.single != nil {
		return Bytes(shape, rows)
	}
	n := s.target + 1
	for _, p := range s.parts {
		n += p.n + 2*p.view.n
	}
	return 4 * rows * n
}

// columns are the elements of some columns of rows of targets.
type columns struct {
	v       []float32
	total   int
	from, n int
	count   int // of classes; 0: they are values
	ignore  int32
}

func (c *columns) Labelled() bool { return c.count > 0 }

// Labels leaves out what is no class of the model: nobody's data make a kernel read elsewhere.
func (c *columns) Labels(dst, rows []int32) {
	for i, r := range rows {
		for k, v := range c.v[int(r)*c.total+c.from:][:c.n] {
			d := c.class(v)
			if v == float32(c.ignore) {
				d = c.ignore
			}
			dst[i*c.n+k] = d
		}
	}
}

// class is the class that a value names, kernel.IgnoreIndex if none.
func (c *columns) class(v float32) int32 {
	if v >= 0 && v < float32(c.count) && v == float32(int32(v)) {
		return int32(v)
	}
	return kernel.IgnoreIndex
}

func (c *columns) Gather(dst []float32, rows []int32) {
	if c.count > 0 { // as one-hot vectors
		clear(dst)
		for i, r := range rows {
			for k, v := range c.v[int(r)*c.total+c.from:][:c.n] {
				if x := c.class(v); x >= 0 {
					dst[(i*c.n+k)*c.count+int(x)] = 1
				}
			}
		}
		return
	}
	for i, r := range rows {
		copy(dst[i*c.n:][:c.n], c.v[int(r)*c.total+c.from:])
	}
}

// of are the targets of a part among gathered rows, until the next call.
func (p *part) of(v []float32) *columns {
	p.view.v = v
	return &p.view
}

func (s *Sum) gather(y Targets, rows []int32) []float32 {
	if s.values == nil {
		s.values = make([]float32, s.rows*s.target)
	}
	v := s.values[:len(rows)*s.target]
	y.Gather(v, rows)
	return v
}

// Terms returns what the means of the losses over a batch of rows divide by.
func (s *Sum) Terms(y Targets, rows []int32) (t Terms) {
	if s.single != nil {
		t[0] = s.single.Terms(y, rows)
		return t
	}
	v := s.gather(y, rows)
	for i := range s.parts {
		p := &s.parts[i]
		t[i] = p.f.Terms(p.of(v), s.local[:len(rows)])
	}
	return t
}

// Accumulate is Func.Accumulate: it adds what these rows of a batch have to sum, that of the
// rows before them, and writes the gradient of the batch's loss. With several losses it adds row
// by row what each adds to the loss, so the sum is the same however a batch is split.
func (s *Sum) Accumulate(sum float32, grad, pred []float32, y Targets, rows []int32, t Terms) float32 {
	if s.single != nil {
		return s.single.Accumulate(sum, grad, pred, y, rows, t[0])
	}
	if clear(grad); len(rows) == 0 {
		return sum
	}
	v := s.gather(y, rows)
	for r := range rows {
		at := r * s.answer
		for i := range s.parts {
			p := &s.parts[i]
			// The gradient of a mean over terms/weight is that of the mean, times the weight.
			terms := orOne(t[i]) / p.weight
			own := p.f.Accumulate(0, p.scratch(grad != nil), pred[at+p.from:][:p.n], p.of(v), s.local[r:r+1], terms)
			sum += float32(own * scale(terms))
			if grad != nil {
				g := grad[at+p.from:][:p.n]
				kernel.Add(g, g, p.pred[:p.n])
			}
		}
	}
	return sum
}

// scratch is room for the gradient of a row, which another loss may look at too.
func (p *part) scratch(want bool) []float32 {
	if !want {
		return nil
	}
	if len(p.pred) < p.n {
		p.pred = make([]float32, p.n)
	}
	return p.pred[:p.n]
}

// Mean returns the loss of a batch that Accumulate has summed up.
func (s *Sum) Mean(sum float32, t Terms) float32 {
	if s.single != nil {
		return Mean(sum, t[0])
	}
	return sum
}

// Count is Func.Count of each loss; what is right or wrong is the first's.
func (s *Sum) Count(to *Score, pred []float32, y Targets, rows []int32, ends bool) {
	if s.single != nil {
		s.single.Count(to, pred, y, rows, ends)
		return
	}
	if to.parts == nil {
		to.parts, to.weights = make([]Score, len(s.parts)), make([]float64, len(s.parts))
	}
	v := s.gather(y, rows)
	for i := range s.parts {
		p := &s.parts[i]
		if len(p.pred) < s.rows*p.n {
			p.pred = make([]float32, s.rows*p.n)
		}
		for r := range rows {
			copy(p.pred[r*p.n:][:p.n], pred[r*s.answer+p.from:])
		}
		p.f.Count(&to.parts[i], p.pred[:len(rows)*p.n], p.of(v), s.local[:len(rows)], ends)
		to.weights[i] = p.weight
	}
	to.Correct, to.Total = to.parts[0].Correct, to.parts[0].Total
}

// Names returns the names of the metrics that Metrics returns for targets y.
func (s *Sum) Names(y Targets) []string {
	if s.single != nil {
		return s.single.Names(y)
	}
	names := s.parts[0].f.Names(s.parts[0].of(nil))
	for i := range s.parts {
		if n := s.parts[i].told; n != "" {
			names = append(names, n)
		}
	}
	return names
}

// Metrics is Func.Metrics of the first loss, and the accuracy of the other outputs.
func (s *Sum) Metrics(to *Score, y Targets) []Metric {
	if s.single != nil {
		return s.single.Metrics(to, y)
	}
	if to.parts == nil {
		to = &Score{parts: make([]Score, len(s.parts))}
	}
	ms := s.parts[0].f.Metrics(&to.parts[0], s.parts[0].of(nil))
	for i := range s.parts {
		if n := s.parts[i].told; n != "" {
			ms = append(ms, Metric{Name: n, Value: share(to.parts[i].Correct, to.parts[i].Total)})
		}
	}
	return ms
}

// SplitsOf is Splits for the loss of a job.
func SplitsOf(j job.Spec) bool { return j.Several() || Splits(j.Loss) }
