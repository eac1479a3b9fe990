// Checking that a job, its model and its data fit together. Every command does so before it
// begins, so that a mismatch gives a clear error instead of a panic in a kernel.

package project

import (
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// Check checks that job, model and data fit together.
func (p *Project) Check() error { return CheckJob(p.Job, p.Graph, p.Data) }

// CheckJob checks that a job, its model and its data fit together: shapes, targets, the sizes
// of all batches and micro-batches, and tokens.
func CheckJob(j job.Spec, g *graph.Graph, d *data.Set) error {
	if err := checkInput(g, d.Train.InputShape(), fmt.Sprintf("a row of the data set %q", j.Data)); err != nil {
		return err
	}
	if err := data.CheckAugment(j.Augment, g.InputShapes()); err != nil {
		return err
	}
	if j.LoRA.On() && j.Weights == "" {
		return errors.New("lora trains adapters beside a model that has been trained, but the job has no weights: ravnest import WEIGHTS.safetensors DIR --lora r=8")
	}
	if err := checkTargets(j, g, d); err != nil {
		return err
	}
	if d.Train.Len() < 1 {
		return fmt.Errorf("the data set %q has no training rows", j.Data)
	}
	if err := j.Order(d.Train.Len(), d.Val.Len()).Check(); err != nil {
		return err
	}
	return errors.Join(stage.CheckBatches(j, g, d.Train.Len()), checkTokens(g, "training data", d.Train.X()), checkTokens(g, "validation data", d.Val.X()))
}

// CheckInputs returns an error unless the rows of x are valid inputs of the model.
func CheckInputs(g *graph.Graph, x *data.Table) error {
	if err := x.Check(); err != nil {
		return err
	}
	if err := checkInput(g, x.RowShape(), "a row"); err != nil {
		return err
	}
	return checkTokens(g, "data", x)
}

// checkTargets checks that the model's output and the loss fit the targets.
func checkTargets(j job.Spec, g *graph.Graph, d *data.Set) error {
	if j.Several() {
		return checkFields(j, g, d)
	}
	out, row, y := g.Shape(g.OutputValue()), graph.Shape(d.Train.TargetShape()), d.Train.Y()
	if j.Loss == job.OutputLoss {
		return nil // the targets are not looked at
	}
	if out.Elems() != row.Elems() {
		hint := ""
		if !y.Labelled() && len(out) > 0 && row.Elems() == out.Elems()/out[len(out)-1] {
			hint = ": targets of a floating type are values, the numbers of classes must be integers"
		}
		return fmt.Errorf("the model's output %q is %s, but a target of the data set %q is %s%s", g.Output, out, j.Data, row, hint)
	}
	last := 1
	if len(out) > 0 {
		last = out[len(out)-1]
	}
	// With classes, a target row has one label for each position of the output.
	if y.Labelled() && (y.Classes != last || y.Elems()/y.Classes != out.Elems()/last) {
		return fmt.Errorf("the model's output %q is %s, which is %d positions of %d classes, but a row of the data set %q has %d labels of %d classes: the output's last axis must be the classes",
			g.Output, out, out.Elems()/last, last, j.Data, y.Elems()/y.Classes, y.Classes)
	}
	if j.Loss == job.CrossEntropy && len(row) > 0 && row[len(row)-1] != last {
		return fmt.Errorf("loss cross_entropy compares the last axis of the model's output %q, which is %s, with that of a target, but the data set %q has %s: both need the same number of classes",
			g.Output, out, j.Data, row)
	}
	if classes := last > 1; j.Loss == job.CrossEntropy && !classes {
		return fmt.Errorf("loss cross_entropy over the model's output %q of %s: with a single class it is always 0; give the model an output for each class, or use bce_with_logits or mse", g.Output, out)
	}
	if err := j.CheckOutputs(last); err != nil {
		return fmt.Errorf("the model's output %q is %s: %w", g.Output, out, err)
	}
	if j.Loss == job.BCE {
		return errors.Join(checkShares("the training data", y, 0, y.Elems()), checkShares("the validation data", d.Val.Y(), 0, y.Elems()))
	}
	for _, m := range j.Metrics {
		if j.Loss != job.CrossEntropy && m != job.MAE && !y.Answers(last) {
			return fmt.Errorf("metrics %s asks whether answers are right, but the targets of the data set %q are values: with the loss %s that is known of classes and one-hot targets only", m, j.Data, j.Loss)
		}
	}
	return nil
}

// checkShares refuses targets that a binary cross entropy cannot have, among n elements of each row
// from one on. what names them. Of a table in shards it is known what all elements lie between.
func checkShares(what string, y *data.Table, from, n int) error {
	if y.Labelled() {
		return nil
	}
	if y.Index != nil {
		least, most, known := y.Index.Bounds()
		if known && n == y.Elems() && y.Rows > 0 && (least < 0 || most > 1) {
			return fmt.Errorf("loss bce_with_logits wants targets from 0 (no) to 1 (yes), but %s holds %v to %v", what, least, most)
		}
		return nil
	}
	v := make([]float32, y.Elems())
	for r := range y.Rows {
		y.Gather(v, []int32{int32(r)})
		for _, t := range v[from:][:n] {
			if !(t >= 0 && t <= 1) {
				return fmt.Errorf("loss bce_with_logits wants targets from 0 (no) to 1 (yes), but row %d of %s holds %v", r, what, t)
			}
		}
	}
	return nil
}

// checkTokens checks the elements of x that embeddings read, also through views. what names x
// in errors.
func checkTokens(g *graph.Graph, what string, x *data.Table) error {
	type span struct{ from, to int } // of a row's elements
	raw, at := map[int]span{}, 0
	for v, in := range g.Inputs {
		raw[v] = span{at, at + in.Shape.Elems()}
		at += in.Shape.Elems()
	}
	for i, nd := range g.Nodes {
		if len(g.Args(i)) == 0 {
			continue // a parameter
		}
		from, ok := raw[g.Args(i)[0]]
		if !ok {
			continue // computed, not read
		}
		switch op := nd.Op.(type) {
		case *graph.Flatten, *graph.Reshape:
			raw[g.Result(i)] = from
		case *graph.Select:
			n := g.Shape(g.Result(i)).Elems()
			raw[g.Result(i)] = span{from.from + op.Index*n, from.from + (op.Index+1)*n}
		case *graph.Embedding:
			if err := x.CheckTokens(op.Num, from.from, from.to); err != nil {
				return fmt.Errorf("node %q has %d embeddings: %s: %w", nd.Name, op.Num, what, err)
			}
		}
	}
	return nil
}
