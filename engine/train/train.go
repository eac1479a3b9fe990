// Package train runs a job in one process: no stages, no schedule, no network. It is
// the yardstick that every pipeline is measured against, so it shares the sequence of
// batches with the stages and nothing of their order of work.
package train

import (
	"context"
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
)

// Config is a job with its model and data.
type Config struct {
	Job job.Spec
	// Record is that of the number of replicas, of a job that leaves it open. Run goes through
	// all its periods.
	Record                     []order.Period
	Graph                      *graph.Graph
	TrainX, ValX, TrainY, ValY stage.Rows
	// Visits is the order of the training rows; nil: Order fills dst with that of an epoch.
	Visits stage.Visits
	Order  func(dst []int32, seed uint64, epoch int)
	Team   *kernel.Team
}

// Trainer holds the model in training.
type Trainer struct {
	cfg         Config
	out         int
	train, eval *exec.Exec
	layout      *exec.Layout
	reps        *stage.Replicas
	run         order.Run
	at          order.Position // where Run begins
	job         job.Spec       // in the period that is trained
	period      int            // of the record
	loss        *loss.Sum
	inputs      *stage.Inputs
	batchRows   []int32 // of a training batch
	rows        []int32 // of a validation batch

	sum   stage.BatchLoss
	terms loss.Terms // of the whole batch
}

// New compiles the whole model and initialises it from the job's seed.
func New(cfg Config) (*Trainer, error) {
	if len(cfg.Record) > 0 { // all of it, before anything is trained
		j, err := cfg.Job.In(cfg.Record)
		if err == nil {
			err = j.Order(cfg.TrainX.Len(), cfg.ValX.Len()).Check()
		}
		if err != nil {
			return nil, err
		}
	}
	if cfg.Visits == nil {
		cfg.Visits = stage.AllRows(cfg.TrainX.Len(), cfg.Job.Seed, cfg.Order)
	}
	return newPeriod(cfg, 0)
}

// newPeriod is New for a period of the record.
func newPeriod(cfg Config, period int) (*Trainer, error) {
	j, err := cfg.Job.In(cfg.Record[:min(period+1, len(cfg.Record))])
	if err != nil {
		return nil, err
	}
	g := cfg.Graph
	if err := stage.CheckBatches(j, g, cfg.TrainX.Len()); err != nil {
		return nil, err
	}
	t := &Trainer{cfg: cfg, job: j, period: period, out: g.OutputValue(), run: j.Order(cfg.TrainX.Len(), cfg.ValX.Len())}
	plan, ev, err := plans(j, g)
	if err != nil {
		return nil, err
	}
	if t.loss, err = loss.NewSum(j, g.AnswerShapes(), j.BatchSize); err != nil {
		return nil, err
	}
	t.layout = &plan.Layout
	if t.reps, err = stage.NewReplicas(j, t.run, t.layout, optim.Delay{}); err != nil {
		return nil, err
	}
	if err := stage.Prepare(j, plan, ev, cfg.TrainX.Len(), cfg.ValX.Len()); err != nil {
		return nil, err
	}
	t.at = t.run.Start()
	t.train, t.eval = plan.New(cfg.Team), ev.New(cfg.Team)
	t.inputs = stage.NewInputs(g, j.MicroRows())
	t.batchRows, t.rows = make([]int32, j.BatchSize), make([]int32, j.MicroRows())
	return t, nil
}

// plans compiles the whole model for training and for evaluation.
func plans(j job.Spec, g *graph.Graph) (train, eval *exec.Plan, err error) {
	again, err := exec.ParseRecompute(j.Recompute)
	if err != nil {
		return nil, nil, err
	}
	precision, err := exec.ParsePrecision(j.Precision)
	if err != nil {
		return nil, nil, err
	}
	outs := []int{g.OutputValue()}
	if train, err = exec.Compile(g, 0, exec.Config{Rows: j.MicroRows(), Slots: 1, Train: true, Outputs: outs, Seeds: outs, Recompute: again, Precision: precision}); err != nil {
		return nil, nil, err
	}
	eval, err = exec.Compile(g, 0, exec.Config{Rows: j.MicroRows(), Outputs: outs, Precision: precision})
	return train, eval, err
}

// Bytes is the memory that training job j on the model g takes on one thread: both plans, the
// optimiser, the other replicas, the targets of a batch and the copy of the state that a save makes. The data
// set comes on top.
func Bytes(j job.Spec, g *graph.Graph) (int, error) {
	p, e, err := plans(j, g)
	if err != nil {
		return 0, err
	}
	l, err := loss.NewSum(j, g.AnswerShapes(), 0)
	if err != nil {
		return 0, err
	}
	m, ev := p.Memory(), e.Memory()
	return m.Total() + m.Params + ev.Run() + 2*optim.Bytes(j.Optimizer, p.Layout.Trainable) +
		stage.ReplicaBytes(j, &p.Layout, stage.Placement{}) + j.Shards.Inputs + j.Shards.Targets + l.Bytes(g.Shape(g.OutputValue()), j.BatchSize) + stage.InputBytes(g, j.MicroRows()), nil
}

// State is a copy of the weights and running statistics.
func (t *Trainer) State() state.Dict { return t.layout.Export(t.reps.Of(0).State) }

// Load replaces the weights and running statistics.
func (t *Trainer) Load(d state.Dict) error { return t.reps.Import(d) }

// Resume makes Run go on from a snapshot: from parts that stages have kept, cut however
// they were, or from one of Run's own. Where the number of replicas changes there, it is taken for
// one of the first period that it can be of. After an error nothing has changed.
func (t *Trainer) Resume(parts ...*snapshot.Part) error {
	if len(t.cfg.Record) == 0 || len(parts) == 0 {
		at, err := t.reps.Load(parts...)
		if err == nil {
			t.at = at
		}
		return err
	}
	var err error
	record, step := t.cfg.Record, parts[0].Position.Step
	for i, p := range record {
		if i > 0 && p.Step > step || i+1 < len(record) && record[i+1].Step < step {
			continue
		}
		var next *Trainer
		if next, err = newPeriod(t.cfg, i); err != nil {
			return err
		}
		if next.at, err = next.reps.Load(parts...); err == nil {
			*t = *next
			return nil
		}
	}
	return err
}

// Run trains until the job's end or until mark says order.Stop before a round; either
// way the state is kept. At order.Checkpoint it is kept and training goes on.
func (t *Trainer) Run(ctx context.Context, mark func() order.Mark, obs stage.Observer) error {
	for {
		changes, err := t.walk(ctx, mark, obs)
		if err != nil || !changes {
			return err
		}
		if err := t.change(); err != nil {
			return fmt.Errorf("step %d: %w", t.at.Step, err)
		}
	}
}

// Left is how many batches come behind that of a step before Run can stop.
func (t *Trainer) Left(step uint64) int {
	_, to := t.run.Span(step)
	return int(to - step - 1)
}

// change goes on to the next period: what clusters do that load a snapshot in it.
func (t *Trainer) change() error {
	p, err := t.reps.Part(t.at)
	if err != nil {
		return err
	}
	b, err := p.Bytes()
	if err != nil {
		return err
	}
	cfg, period := t.cfg, t.period+1
	*t = Trainer{at: t.at} // its memory is free before the next's is taken
	next, err := newPeriod(cfg, period)
	if err != nil {
		return err
	}
	if p, err = snapshot.Parse(b); err != nil {
		return err
	}
	if next.at, err = next.reps.Load(p); err != nil {
		return err
	}
	*t = *next
	return nil
}

// walk is Run in the period at hand, up to the next: it tells whether there is one.
func (t *Trainer) walk(ctx context.Context, mark func() order.Mark, obs stage.Observer) (changes bool, err error) {
	seq, err := order.NewSequence(t.run, t.at)
	if err != nil {
		return false, err
	}
	until := uint64(math.MaxUint64)
	if t.period+1 < len(t.cfg.Record) {
		until = t.cfg.Record[t.period+1].Step
	}
	keep := func(it order.Item, at order.Position, final bool) error {
		p, err := t.reps.Part(at)
		if err != nil {
			return fmt.Errorf("keeping the state of step %d: %w", it.Step, err)
		}
		return obs.Keep(stage.Saved{Epoch: it.Epoch, Step: it.Step, Final: final, Part: p})
	}
	val := loss.Score{}
	for ctx.Err() == nil {
		it := seq.Next()
		switch it.Kind {
		case order.Train:
			if it.Opens && it.Step >= until {
				t.at = it.Position()
				return true, nil
			}
			if it.Opens && mark != nil {
				if m := mark(); m != order.Continue {
					if err := keep(it, it.Position(), m == order.Stop); err != nil || m == order.Stop {
						return false, err
					}
				}
			}
			if err := t.batch(ctx, it, obs); err != nil {
				return false, fmt.Errorf("step %d: %w", it.Step, err)
			}
		case order.Eval:
			if err := t.evaluate(ctx, &val, it); err != nil {
				return false, fmt.Errorf("step %d: %w", it.Step, err)
			}
		case order.EvalDone:
			v := stage.NewValidation(t.loss, val, t.cfg.ValY)
			v.Epoch, v.Step = it.Epoch, it.Step
			if v.Loss-v.Loss != 0 {
				return false, fmt.Errorf("step %d: %w: the validation loss is %v", it.Step, stage.ErrDiverged, v.Loss)
			}
			obs.Validated(v)
			val = loss.Score{}
		case order.Save:
			if err := keep(it, seq.Position(), seq.Ending()); err != nil {
				return false, err
			}
		case order.End:
			return false, nil
		default:
			return false, fmt.Errorf("%w: %s", order.ErrItem, it.Kind)
		}
	}
	return false, context.Cause(ctx)
}

// batch trains a micro-batch and does what it closes: its batch, an update, a round.
func (t *Trainer) batch(ctx context.Context, it order.Item, obs stage.Observer) error {
	if it.Opens {
		t.reps.Open(it)
	}
	if err := t.step(ctx, it); err != nil {
		return err
	}
	if it.Ends {
		obs.Loss(stage.Loss{Epoch: it.Epoch, Step: it.Step, Value: t.loss.Mean(t.sum.Sum(), t.terms)})
		obs.Batch(it.Total)
	}
	many, split := t.job.Replica() > 1, t.job.Gradients()
	if it.Closes && split {
		if err := t.reps.Average(ctx); err != nil {
			return err
		}
	}
	if it.Last {
		if err := t.reps.Gather(ctx, it); err != nil {
			return err
		}
		t.reps.Update(t.cfg.Team, it)
	}
	if it.Closes && many && !split {
		return t.reps.Average(ctx)
	}
	return nil
}

// step runs a micro-batch forward and backward.
func (t *Trainer) step(ctx context.Context, it order.Item) error {
	j := t.job
	batch := t.batchRows[:it.Total]
	t.cfg.Visits.Rows(batch, it.Epoch, it.Batch*j.BatchSize)
	rows := batch[it.Row0:][:it.Rows]
	if err := stage.Hold(ctx, t.cfg.TrainX, it, j.BatchSize, it.Row0, rows); err != nil {
		return err
	}
	if it.Row0 == 0 {
		if err := stage.Hold(ctx, t.cfg.TrainY, it, j.BatchSize, 0, batch); err != nil {
			return err
		}
	}
	h := t.reps.Of(it.Replica)
	t.inputs.Feed(t.train, 0, t.cfg.TrainX, rows)
	t.train.Forward(0, exec.Batch{Seed: j.Seed, Step: it.Step, Row0: it.Row0, Rows: it.Rows}, h.State.Params, &h.State)
	if it.Row0 == 0 {
		t.terms = t.loss.Terms(t.cfg.TrainY, batch)
	}
	sum := t.sum.Before(it)
	sum = t.loss.Accumulate(sum, t.train.Grad(0, t.out, it.Rows), t.train.Value(0, t.out, it.Rows), t.cfg.TrainY, rows, t.terms)
	t.sum.After(sum)
	if err := stage.CheckLoss(sum); err != nil {
		return err
	}
	t.train.Backward(0, h.State.Params, t.reps.Grads(it.Replica), !it.First)
	return nil
}

// evaluate runs a micro-batch of the validation set, and adds how it did to val.
func (t *Trainer) evaluate(ctx context.Context, val *loss.Score, it order.Item) error {
	idx, rows := t.rows[:it.Rows], it.Rows
	for i := range idx {
		idx[i] = int32(it.Batch*t.run.BatchSize + it.Row0 + i)
	}
	for _, x := range []stage.Rows{t.cfg.ValX, t.cfg.ValY} {
		if err := stage.Hold(ctx, x, it, t.run.BatchSize, it.Row0, idx); err != nil {
			return err
		}
	}
	h := t.reps.Of(0) // all are equal
	t.inputs.Feed(t.eval, 0, t.cfg.ValX, idx)
	t.eval.Forward(0, exec.Batch{Rows: rows}, h.State.Params, &h.State)
	t.loss.Count(val, t.eval.Value(0, t.out, rows), t.cfg.ValY, idx, it.Ends)
	return nil
}

// Evaluate runs the validation set through the model in evaluation mode, in the batches and
// micro-batches of training.
func (t *Trainer) Evaluate(ctx context.Context) (stage.Validation, error) {
	var val loss.Score
	for b := range t.run.Batches(t.run.Val) {
		total := t.run.Rows(t.run.Val, b)
		micro := t.run.MicroRows(total)
		for row := 0; row < total; row += micro {
			if ctx.Err() != nil {
				return stage.Validation{}, context.Cause(ctx)
			}
			it := order.Item{Kind: order.Eval, Batch: b, Row0: row, Rows: min(micro, total-row), Total: total, Ends: row+micro >= total}
			if err := t.evaluate(ctx, &val, it); err != nil {
				return stage.Validation{}, err
			}
		}
	}
	return stage.NewValidation(t.loss, val, t.cfg.ValY), nil
}
