// Several inputs and several losses: what their fields are, and whether data fit them.

package project

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
)

// InputFields are the inputs of a model that has several; nil: it has one.
func InputFields(g *graph.Graph) []data.Field {
	if len(g.Inputs) < 2 {
		return nil
	}
	var fs []data.Field
	for _, in := range g.Inputs {
		fs = append(fs, data.Field{Name: in.Name, Shape: in.Shape})
	}
	return fs
}

// TargetFields are the targets of a job with several losses; nil: it has one. The graph's answer
// is what the losses look at.
func TargetFields(j job.Spec, g *graph.Graph) ([]data.Field, error) {
	if !j.Several() {
		return nil, nil
	}
	ls, err := loss.Fields(j, g.AnswerShapes())
	var fs []data.Field
	for _, f := range ls {
		fs = append(fs, data.Field{Name: f.Name, Shape: f.Shape, Classes: f.Classes, Ignore: f.Ignore})
	}
	return fs, err
}

// inputShape is the shape of a row of inputs in the data set.
func inputShape(g *graph.Graph) graph.Shape {
	if len(g.Inputs) == 1 {
		return g.Inputs[0].Shape
	}
	return graph.Shape{g.InputElems()}
}

// want is what the model and its losses ask of the data.
func (p *Project) want() *data.Want {
	g := p.Graph
	w := &data.Want{Output: g.Shape(g.OutputValue()), Values: !p.Job.Classifies(), Ignore: p.Job.LossOptions.IgnoreIndex, Inputs: InputFields(g)}
	w.Targets, _ = TargetFields(p.Job, g) //nolint:errcheck // learn has asked
	return w
}

// gather makes the model's answer what the losses of the job look at.
func (p *Project) gather() error {
	if !p.Job.Several() {
		return nil
	}
	g, err := p.Graph.Gather(p.Job.Outputs())
	if err == nil {
		_, err = TargetFields(p.Job, g)
	}
	if err != nil {
		return fmt.Errorf("losses: %w", err)
	}
	p.Graph = g
	p.GraphJSON, err = g.JSON()
	return err
}

// checkInput says how a row of the data set does not fit the model's inputs; what names the row.
func checkInput(g *graph.Graph, row graph.Shape, what string) error {
	if slices.Equal(inputShape(g), row) {
		return nil
	}
	if len(g.Inputs) == 1 {
		return fmt.Errorf("the model's input %q is %s, but %s is %s", g.Inputs[0].Name, g.Inputs[0].Shape, what, row)
	}
	list := ""
	for i, in := range g.Inputs {
		if i > 0 {
			list += ", "
		}
		list += fmt.Sprintf("%s %s", in.Name, in.Shape)
	}
	return fmt.Errorf("the model has %d inputs (%s), together %d elements a row, but %s is %s", len(g.Inputs), list, g.InputElems(), what, row)
}

// checkFields is checkTargets for several losses: classes have been checked as the fields were
// joined.
func checkFields(j job.Spec, g *graph.Graph, d *data.Set) error {
	fields, err := TargetFields(j, g)
	if err != nil {
		return err
	}
	if want, row := data.FieldElems(fields), d.Train.Y().Elems(); want != row {
		return fmt.Errorf("the losses look at %d elements of targets, but a row of the data set %q has %d", want, j.Data, row)
	}
	shapes, outputs := g.AnswerShapes(), j.Outputs()
	errs := []error{d.Train.Y().CheckFields(fields), d.Val.Y().CheckFields(fields)}
	for i, l := range j.Losses {
		shape := shapes[slices.Index(outputs, l.Output)]
		last := 1
		if len(shape) > 0 {
			last = shape[len(shape)-1]
		}
		part := j.Part(i)
		if err := part.CheckOutputs(last); err != nil {
			errs = append(errs, fmt.Errorf("losses[%d]: the output %q is %s: %w", i, l.Output, graph.Shape(shape), err))
		}
		if part.Loss == job.BCE {
			for _, y := range []*data.Table{d.Train.Y(), d.Val.Y()} {
				errs = append(errs, checkField(fields, l.Target, y))
			}
		}
	}
	return errors.Join(errs...)
}

// checkField is checkShares of a field.
func checkField(fields []data.Field, name string, y *data.Table) error {
	from, n := 0, 0
	for _, f := range fields {
		if n = data.FieldElems([]data.Field{f}); f.Name == name {
			break
		}
		from += n
	}
	return checkShares(fmt.Sprintf("%q", name), y, from, n)
}
