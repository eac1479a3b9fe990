// Package train runs a job in one process: no stages, no schedule, no network. It is
// the yardstick that every pipeline is measured against, so it shares the sequence of
// batches with the stages and nothing of their order of work.
package train

import (
	"context"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/stage"
	"github.com/ravnest/ravnest/engine/state"
)

// Config is a job with its model and data.
type Config struct {
	Job                        job.Spec
	Graph                      *graph.Graph
	TrainX, ValX, TrainY, ValY stage.Rows
	Order                      func(dst []int32, seed uint64, epoch int)
	Team                       *kernel.Team
}

// Trainer holds the model in training.
type Trainer struct {
	cfg         Config
	out, cols   int
	train, eval *exec.Exec
	plan        *exec.Plan
	st          exec.State
	grads       []float32
	opt         *optim.Optimizer
	loss        loss.Func
	y           []float32
	rows        []int32
}

// New compiles the whole model and initialises it from the job's seed.
func New(cfg Config) (*Trainer, error) {
	j, g := cfg.Job, cfg.Graph
	t := &Trainer{cfg: cfg, out: g.OutputValue()}
	t.cols = g.Shape(t.out).Elems()
	outs := []int{t.out}
	var err error
	if t.plan, err = exec.Compile(g, 0, exec.Config{Rows: j.MicroRows(), Slots: 1, Train: true, Outputs: outs, Seeds: outs}); err != nil {
		return nil, err
	}
	ev, err := exec.Compile(g, 0, exec.Config{Rows: j.BatchSize, Outputs: outs})
	if err != nil {
		return nil, err
	}
	if t.loss, err = loss.New(j.Loss); err != nil {
		return nil, err
	}
	if t.opt, err = optim.New(j.Optimizer, t.plan.Layout.Trainable, optim.Delay{}); err != nil {
		return nil, err
	}
	t.train, t.eval = t.plan.New(cfg.Team), ev.New(cfg.Team)
	t.st = t.plan.Layout.NewState()
	t.plan.Layout.Init(t.st, j.Seed)
	t.grads = make([]float32, t.plan.Layout.Trainable)
	t.y = make([]float32, j.BatchSize*t.cols)
	t.rows = make([]int32, max(cfg.TrainX.Len(), cfg.ValX.Len()))
	return t, nil
}

// State is a copy of the weights.
func (t *Trainer) State() state.Dict { return t.plan.Layout.Export(t.st) }

// Load replaces the weights.
func (t *Trainer) Load(d state.Dict) error { return t.plan.Layout.Import(t.st, d) }

// Run trains until the job's end or until stop says so before an update; either way
// the state is kept.
func (t *Trainer) Run(ctx context.Context, stop func() bool, obs stage.Observer) error {
	j := t.cfg.Job
	seq := stage.NewSequence(j, t.cfg.TrainX.Len(), t.cfg.ValX.Len())
	epoch, sum, val, valSum, valTerms := -1, float32(0), stage.Validation{}, float32(0), 0
	order := t.rows[:t.cfg.TrainX.Len()]
	for ctx.Err() == nil {
		it := seq.Next()
		switch it.Kind {
		case stage.Train:
			if it.First && stop != nil && stop() {
				return obs.Keep(stage.Saved{Epoch: it.Epoch, Step: it.Step, Final: true, State: t.State()})
			}
			if epoch != it.Epoch {
				t.cfg.Order(order, j.Seed, it.Epoch)
				epoch = it.Epoch
			}
			rows := order[it.Batch*j.BatchSize+it.Row0:][:it.Rows]
			t.cfg.TrainX.Gather(t.train.Value(0, 0, it.Rows), rows)
			t.train.Forward(0, exec.Batch{Seed: j.Seed, Step: it.Step, Row0: it.Row0, Rows: it.Rows}, t.st.Params, &t.st)
			y := t.y[:it.Rows*t.cols]
			t.cfg.TrainY.Gather(y, rows)
			if it.Row0 == 0 {
				sum = 0
			}
			terms := t.loss.Terms(it.Total, t.cols)
			sum += t.loss.Eval(t.train.Grad(0, t.out, it.Rows), t.train.Value(0, t.out, it.Rows), y, it.Rows, t.cols, terms)
			t.train.Backward(0, t.st.Params, t.grads, !it.First)
			if it.Ends {
				obs.Loss(stage.Loss{Epoch: it.Epoch, Step: it.Step, Value: loss.Mean(sum, terms)})
				obs.Batch(it.Total)
			}
			if it.Last {
				t.opt.Step(t.st.Params, t.grads, optim.Rate(j.LR, j.Optimizer.LR, it.Epoch))
			}
		case stage.Eval:
			c, s, n := t.evaluate(it.Batch*j.BatchSize, it.Rows)
			val.Correct, val.Total, valSum, valTerms = val.Correct+c, val.Total+it.Rows, valSum+s, valTerms+n
		case stage.EvalDone:
			val.Epoch, val.Step, val.Loss = it.Epoch, it.Step, loss.Mean(valSum, valTerms)
			obs.Validated(val)
			val, valSum, valTerms = stage.Validation{}, 0, 0
		case stage.Save:
			if err := obs.Keep(stage.Saved{Epoch: it.Epoch, Step: it.Step, Final: seq.Ending(), State: t.State()}); err != nil {
				return err
			}
		case stage.End:
			return nil
		}
	}
	return context.Cause(ctx)
}

// evaluate runs rows of the validation set from row0 on.
func (t *Trainer) evaluate(row0, rows int) (correct int, sum float32, terms int) {
	idx := make([]int32, rows)
	for i := range idx {
		idx[i] = int32(row0 + i)
	}
	t.cfg.ValX.Gather(t.eval.Value(0, 0, rows), idx)
	t.eval.Forward(0, exec.Batch{Rows: rows}, t.st.Params, &t.st)
	y, pred := t.y[:rows*t.cols], t.eval.Value(0, t.out, rows)
	t.cfg.ValY.Gather(y, idx)
	return loss.Correct(pred, y, rows, t.cols), t.loss.Eval(nil, pred, y, rows, t.cols, 1), t.loss.Terms(rows, t.cols)
}

// Evaluate runs the validation set through the model in evaluation mode.
func (t *Trainer) Evaluate(ctx context.Context) (stage.Validation, error) {
	var v stage.Validation
	var sum float32
	terms, b := 0, t.cfg.Job.BatchSize
	for r := 0; r < t.cfg.ValX.Len(); r += b {
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		n := min(b, t.cfg.ValX.Len()-r)
		c, s, k := t.evaluate(r, n)
		v.Correct, v.Total, sum, terms = v.Correct+c, v.Total+n, sum+s, terms+k
	}
	v.Loss = loss.Mean(sum, terms)
	return v, nil
}
