// Package infer uses a job's model: it predicts rows and continues texts.
package infer

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
)

// Prediction is the model's answer to one row: a class and its probability, or several for an
// answer with several positions, or values.
type Prediction struct {
	Name          string   `json:"name,omitempty"`
	Class         *int     `json:"class,omitempty"`
	Label         string   `json:"label,omitempty"` // the class's name
	Probability   *Value   `json:"probability,omitempty"`
	Classes       []int    `json:"classes,omitempty"`
	Labels        []string `json:"labels,omitempty"`
	Probabilities []Value  `json:"probabilities,omitempty"`
	Values        []Value  `json:"values,omitempty"`

	// Output is the value of the model that this is the answer of, where the job's losses look at
	// several; Others are the answers of those behind the first.
	Output string       `json:"output,omitempty"`
	Others []Prediction `json:"others,omitempty"`
}

// Value is a float32 that is written to JSON as short as possible, and as null if it is not
// finite.
type Value float32

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) {
	if v-v != 0 {
		return []byte("null"), nil
	}
	return json.Marshal(float32(v))
}

// String returns the answer as text: classes and probabilities, or values.
func (a Prediction) String() string {
	var b strings.Builder
	sep := ""
	put := func(format string, v ...any) {
		fmt.Fprintf(&b, sep+format, v...)
		sep = " "
	}
	switch {
	case a.Label != "":
		put("%s\t%.4f", console.Cell(a.Label), *a.Probability)
	case a.Class != nil:
		put("%d\t%.4f", *a.Class, *a.Probability)
	}
	for i, c := range a.Classes {
		if a.Labels != nil {
			put("%s", console.Cell(a.Labels[i]))
		} else {
			put("%d", c)
		}
	}
	for _, v := range a.Values {
		put("%g", v)
	}
	return b.String()
}

// Predictor runs a job's model on rows.
type Predictor struct {
	p       *project.Project
	names   []string
	answers []answered
	batch   int // rows at once
	team    *kernel.Team
	e       *exec.Exec
	s       exec.State
	inputs  *stage.Inputs
	done    int // rows
}

// Rows is the number of rows that a predictor of p takes with good speed: whole batches of a few
// megabytes.
func Rows(p *project.Project) int {
	const most = 1 << 22 // numbers
	n := 0
	for _, in := range p.Graph.Inputs {
		n += in.Shape.Elems()
	}
	batch := max(p.Job.MicroRows(), 1)
	return batch * max(most/max(batch*n, 1), 1)
}

// NewPredictor prepares the model of p with the weights d for rows of which there are so many. The
// caller must close it.
func NewPredictor(p *project.Project, d state.Dict, rows, threads int) (*Predictor, error) {
	names, err := p.Classes()
	if err != nil {
		return nil, err
	}
	precision, err := exec.ParsePrecision(p.Job.Precision)
	if err != nil {
		return nil, err
	}
	g := p.Graph
	if node, ok := g.Compares(); ok {
		return nil, fmt.Errorf("node %q compares the samples of a batch with each other, so that no row has an answer of its own: export the part of the model that answers for each sample, and give that the weights", node)
	}
	batch := max(min(p.Job.MicroRows(), rows), 1)
	plan, err := exec.Compile(g, 0, exec.Config{Rows: batch, Outputs: []int{g.OutputValue()}, Precision: precision})
	if err != nil {
		return nil, err
	}
	m := plan.Memory()
	if err := native.Room(int64(m.Total()+m.Params), "this model"); err != nil {
		return nil, err
	}
	q := &Predictor{p: p, names: names, answers: answersOf(p), batch: batch, s: plan.Layout.NewState()}
	if err := plan.Layout.Import(q.s, d); err != nil {
		return nil, err
	}
	q.team = kernel.NewTeam(threads)
	q.e, q.inputs = plan.New(q.team), stage.NewInputs(g, batch)
	return q, nil
}

// Close ends the predictor's threads.
func (q *Predictor) Close() { q.team.Close() }

// Predict calls answer with the prediction for each row of x, in order. Rows are counted over all
// calls.
func (q *Predictor) Predict(ctx context.Context, x *data.Table, answer func(row int, a Prediction)) error {
	g := q.p.Graph
	if err := project.CheckInputs(g, x); err != nil {
		if q.done > 0 {
			err = fmt.Errorf("behind the first %d rows: %w", q.done, err)
		}
		return err
	}
	out := g.OutputValue()
	n := g.Shape(out).Elems()
	rows := data.Rows(x)
	if q.p.Job.Augment.On() {
		rows = data.NewAugmented(x, q.p.Job.Augment, g.InputShapes(), q.p.Job.Seed)
	}
	for row := 0; row < x.Rows; row += q.batch {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		idx := make([]int32, min(q.batch, x.Rows-row))
		for i := range idx {
			idx[i] = int32(row + i)
		}
		q.inputs.Feed(q.e, 0, rows, idx)
		q.e.Forward(0, exec.Batch{Rows: len(idx)}, q.s.Params, &q.s)
		y := q.e.Value(0, out, len(idx))
		for i := range idx {
			answer(q.done, q.answer(y[i*n:][:n]))
			q.done++
		}
	}
	return nil
}

// answer makes a prediction of the model's answer to a row.
func (q *Predictor) answer(y []float32) Prediction {
	var all []Prediction
	for _, o := range q.answers {
		a := predict(y[o.from:][:o.n], o.classes)
		a.Output = o.name
		if a.label(q.names); o.classes != q.answers[0].classes {
			a.Label, a.Labels = "", nil
		}
		all = append(all, a)
	}
	if len(all) > 1 {
		all[0].Others = all[1:]
	}
	return all[0]
}

// answered is one of the values that a model answers.
type answered struct {
	name    string // "": the only one
	from, n int    // its elements of a row
	classes int    // 0: they are values
}

// answersOf are the values that the model of p answers.
func answersOf(p *project.Project) []answered {
	shapes, names := p.Graph.AnswerShapes(), p.Job.Outputs()
	var as []answered
	at := 0
	for i, s := range shapes {
		a := answered{from: at, n: graph.Shape(s).Elems()}
		classifies := p.Job.Classifies()
		if p.Job.Several() {
			a.name, classifies = names[i], false
			for k, l := range p.Job.Losses {
				classifies = classifies || l.Output == names[i] && p.Job.Part(k).Classifies()
			}
		}
		if at += a.n; classifies && len(s) > 0 {
			a.classes = s[len(s)-1]
		}
		as = append(as, a)
	}
	return as
}

// label sets the names of the classes, if there is a name for each.
func (a *Prediction) label(names []string) {
	if a.Class != nil && *a.Class < len(names) {
		a.Label = names[*a.Class]
	}
	for _, c := range a.Classes {
		if c >= len(names) {
			a.Labels = nil
			return
		}
		a.Labels = append(a.Labels, names[c])
	}
}

func predict(y []float32, classes int) (a Prediction) {
	if classes == 0 {
		for _, v := range y {
			a.Values = append(a.Values, Value(v))
		}
		return a
	}
	for ; len(y) > 0; y = y[classes:] {
		best, sum := 0, 0.0
		for c, v := range y[:classes] {
			if v > y[best] {
				best = c
			}
		}
		for _, v := range y[:classes] {
			sum += math.Exp(float64(v) - float64(y[best]))
		}
		a.Classes, a.Probabilities = append(a.Classes, best), append(a.Probabilities, Value(1/sum))
	}
	if len(a.Classes) == 1 {
		return Prediction{Class: &a.Classes[0], Probability: &a.Probabilities[0]}
	}
	return a
}
