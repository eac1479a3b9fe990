// Package stage runs one stage of a pipeline: root, stem or leaf. It walks the
// actions of its schedule, taking activations from the stages before it and gradients
// from those after it, and owns the weights of its piece of the model.
package stage

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/wire"
)

// ErrProtocol is wrapped by errors that say a neighbour sent something other than
// what the schedule makes it send.
var ErrProtocol = errors.New("unexpected message from a neighbour stage")

// ErrDiverged is wrapped by errors that say that a number is not finite, or too large for
// the wire: a loss, a tensor between two stages, a weight or the optimiser's state. A run
// does not get over it; a lower learning rate or a wire of more bits may keep it away.
var ErrDiverged = errors.New("training diverged")

// CheckLoss fails with ErrDiverged if the sum of a loss's terms is not finite.
func CheckLoss(sum float32) error {
	if sum-sum != 0 {
		return fmt.Errorf("%w: the loss is %v", ErrDiverged, sum)
	}
	return nil
}

// Config is what a stage needs besides its plans.
type Config struct {
	TrainRows, ValRows int
	// Inputs of the model (root) and targets (leaf): training and validation rows.
	TrainX, ValX, TrainY, ValY Rows
	// Visits is the order of the training rows; nil: Order fills dst with that of an epoch.
	Visits Visits
	Order  func(dst []int32, seed uint64, epoch int)
	// Weights are those that the run begins with, of this stage or of the whole model; nil:
	// drawn by the job's seed.
	Weights state.Dict

	Links map[int]Link  // by stage of the own cluster; Connect replaces them
	Rings map[Peer]Link // to stages of other clusters
	Team  *kernel.Team
	Now   func() time.Duration // a monotonic clock, for the busy share only
	// Between, if set, is called between the kernels of a pass, and now and then while New
	// draws weights. It may take its time.
	Between func()
	// Commits has digests computed for an Observer that is a Committer too.
	Commits bool
	// Probe is an open digest of another stage that did the same. Probed is told what it should be.
	Probe  *Digest
	Probed func(Digest)
	// Key is that of the digests, KeySize bytes that no other stage knows.
	Key   []byte
	Hooks Hooks
}

// Hooks are for tests of audits, which spoil what a stage computes. Each may be nil.
type Hooks struct {
	// Updated is called after every update with the replica's parameters, and Averaged with
	// those that an average with other clusters has made.
	Updated, Averaged func(step uint64, params []float32)
	// Summed is called with sums that a ring is about to send in a step.
	Summed func(round uint64, step int, sums []int64)
	// Sent is called with a tensor of a training batch that is about to be sent.
	Sent func(step uint64, x []float32)
	// Said is called with what the stage is about to commit itself to.
	Said func(d *Digest)
}

// scores are what a leaf makes of the model's answers.
type scores struct {
	loss    *loss.Sum
	sum     BatchLoss
	terms   loss.Terms // of the whole batch
	termsOf uint64     // the batch, plus one
	val     loss.Score // of the validation pass so far
}

// Stage is a stage with its weights.
type Stage struct {
	c     *Compiled
	cfg   Config
	run   order.Run
	sched order.Schedule
	wires *wiring

	reps     *Replicas
	versions []versions   // of the weights, by seat; splitting batches, all share the first
	late     []lateUpdate // updates that are put off, in order
	closed   int          // updates of the round whose last forward pass is over
	updates  int          // of the round that were put off

	train, eval *exec.Exec
	inputs      *Inputs
	first, last bool
	read        *reader
	scores      scores
	busy        meter

	mark   func() order.Mark // asked on the root
	wanted order.Mark        // what is asked for, at the next place where it can be done
	rings  *rings            // to other clusters; nil: there are none
	agreed order.Mark        // by all clusters, before the next round
	step   atomic.Uint64     // see Step
	shares shares            // of the clusters in the rounds
}

// New allocates a stage and initialises its weights, from the job's seed or as told. Unless Load is
// called the run begins at its start.
func New(c *Compiled, cfg Config) (*Stage, error) {
	gs, j := c.Stage, c.Job
	s := &Stage{
		c: c, cfg: cfg, run: c.Placement.run(j, cfg.TrainRows, cfg.ValRows), first: gs.Index == 0, last: gs.Last,
		mark: func() order.Mark { return order.Continue }, busy: meter{now: cfg.Now},
	}
	if s.first && (cfg.TrainX == nil || cfg.ValX == nil) || s.last && (cfg.TrainY == nil || cfg.ValY == nil) {
		return nil, errors.New("the root needs the inputs and the leaf the targets of the data set")
	}
	if err := s.goTo(s.run.Start()); err != nil {
		return nil, err
	}
	s.wires = newWiring(c, &s.busy)
	s.wires.spoil = cfg.Hooks.Sent
	s.rings = newRings(c, s.wires, &s.busy, cfg.Now, cfg.Hooks)
	if cfg.Commits {
		s.wires.tally = newTally(c, cfg.Key)
		s.wires.tally.before = Digest{Step: s.step.Load(), Round: true}
		if p := cfg.Probe; p != nil {
			q := *p
			for w := range Ways {
				q.In[w], q.Out[w] = emptySum(), emptySum()
			}
			s.wires.tally.probe, s.wires.tally.probed = &q, cfg.Probed
		}
	}
	if err := s.Connect(cfg.Links, cfg.Rings); err != nil {
		return nil, err
	}
	var err error
	if s.last {
		if s.scores.loss, err = loss.NewSum(j, gs.Graph.AnswerShapes(), j.BatchSize); err != nil {
			return nil, err
		}
	}
	delay := optim.Delay{}
	if j.Schedule == job.Async {
		delay = optim.Delay{Stage: gs.Index, Stages: gs.Of}
	}
	l := &c.train.Layout
	if s.reps, err = newReplicas(j, s.run, l, delay, c.shares, c.putsOff(), cfg.Between); err != nil {
		return nil, err
	}
	s.reps.tied = func(ctx context.Context, seq uint64, grads []float32) error {
		return s.wires.sum(ctx, seq, grads)
	}
	if c.clips() {
		s.reps.norm = func(ctx context.Context, seq uint64, add func(float64) float64) (float64, error) {
			return s.wires.norm(ctx, gs.Of, seq, add)
		}
		for _, t := range c.ties {
			s.reps.elsewhere[t.Name] = t.before >= 0
		}
	}
	if cfg.Weights != nil {
		if err := s.reps.Import(l.Select(cfg.Weights)); err != nil {
			return nil, fmt.Errorf("the weights to begin with: %w", err)
		}
		s.cfg.Weights = nil
	}
	if err := Prepare(j, c.train, c.eval, cfg.TrainRows, cfg.ValRows); err != nil {
		return nil, err
	}
	s.train, s.eval = c.train.New(cfg.Team), c.eval.New(cfg.Team)
	s.train.Between, s.eval.Between = cfg.Between, cfg.Between
	for _, x := range s.reps.seats {
		s.versions = append(s.versions, newVersions(x.State.Params, s.sched.Slots()))
	}
	s.share(c.Placement.sets())
	visits := cfg.Visits
	if visits == nil {
		visits = AllRows(cfg.TrainRows, j.Seed, cfg.Order)
	}
	s.read = newReader(visits, s.run.BatchSize, j.MicroRows())
	if s.first {
		s.inputs = NewInputs(gs.Graph, j.MicroRows())
	}
	return s, nil
}

// goTo makes the run go on at a position.
func (s *Stage) goTo(at order.Position) error {
	seq, err := order.NewSequence(s.run, at)
	if err != nil {
		return err
	}
	if s.wires != nil {
		s.wires.marked = 0 // items have new numbers
		if t := s.wires.tally; t != nil {
			t.before = Digest{Step: at.Step, Round: true}
		}
	}
	s.late, s.closed, s.updates = nil, 0, 0
	s.step.Store(at.Step)
	if s.reps != nil {
		s.share(s.c.Placement.sets())
	}
	s.sched, err = schedule(s.c.Job.Schedule, seq, s.c.Stage.Index, s.c.Stage.Of)
	return err
}

// Connect replaces the links to the other stages, of the own cluster and of others. It is for
// before Run, or after it.
func (s *Stage) Connect(links map[int]Link, rings map[Peer]Link) error {
	for _, p := range s.c.Rings() {
		if rings[p] == nil {
			return fmt.Errorf("stage %d has no link to %s", s.c.Stage.Index, p)
		}
	}
	if s.rings != nil {
		s.rings.links = rings
	}
	return s.wires.connect(s.c.Peers(), links)
}

// Load makes the stage go on from a snapshot: weights, running statistics, the optimiser's
// state and the position come from parts that other stages may have kept, cut however they
// were. Whatever else the parts hold is passed over. It is for before Run; after an error
// nothing has changed.
func (s *Stage) Load(parts ...*snapshot.Part) error {
	at, err := s.reps.Load(parts...)
	if err != nil {
		return err
	}
	return s.goTo(at)
}

// Memory that was promised for this stage, in bytes.
func (s *Stage) Memory() int { return s.c.Memory().Total() }

// State is a copy of the weights and running statistics.
func (s *Stage) State() state.Dict { return s.c.train.Layout.Export(s.reps.lead().State) }

// Raw is how many bytes of plain float32 the tensors sent so far are. It is for the
// Observer's calls.
func (s *Stage) Raw() int64 { return s.wires.raw }

// Busy is the time spent computing so far, by Config.Now. Any goroutine may ask, during
// a pass too.
func (s *Stage) Busy() time.Duration { return s.busy.read() }

// Step is the batch of the run that the stage is at, and the first of the next round where its
// work of a round of several replicas is done. So with several clusters it tells who is behind:
// who waits for the others stands at the next round. Any goroutine may ask.
func (s *Stage) Step() uint64 { return s.step.Load() }

// Averages is what averaging with other clusters has come to so far. Any goroutine may ask.
func (s *Stage) Averages() Averages { return s.rings.stats() }

// Run walks the whole run. On the root, mark is asked before every round, which with one
// replica is an update; the other stages learn the answer from their neighbours. With several
// clusters their roots are asked at a round's end, and what the most urgent says holds for all
// before the next. At order.Stop what is in flight is
// finished, the state is kept and the run ends. At order.Hold and order.Checkpoint the state is
// kept and the run goes on: where updates overlap (async), at the next place where the pipeline is
// drained anyway, so that a checkpoint never changes the result.
//
// An error wraps ErrDiverged if a number left its range, and transport.ErrPeerGone if a
// neighbour did. What was kept before stays as it is.
func (s *Stage) Run(ctx context.Context, mark func() order.Mark, obs Observer) error {
	if mark != nil {
		s.mark = mark
	}
	err := s.carry(ctx, obs)
	if t := s.wires.tally; t != nil && err != nil {
		s.say(t.left(), obs)
	}
	return err
}

// carry walks with the goroutines that a stage may need.
func (s *Stage) carry(ctx context.Context, obs Observer) error {
	if !s.c.flows() {
		return s.walk(ctx, obs)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.wires.hire(ctx, s.c, cancel)
	err := s.walk(ctx, obs)
	if err != nil {
		cancel(err)
	}
	s.wires.dismiss()
	return err
}

// walk does the actions of the schedule.
func (s *Stage) walk(ctx context.Context, obs Observer) error {
	for {
		a, err := s.sched.Next()
		if err != nil {
			return err
		}
		if err := s.do(ctx, a, obs); err != nil {
			return fmt.Errorf("%s of step %d: %w", a.Kind, a.Item.Step, err)
		}
		if a.Kind == order.Done {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
}

func (s *Stage) do(ctx context.Context, a order.Action, obs Observer) error {
	if err := s.catchUp(ctx, a, obs); err != nil {
		return err
	}
	switch a.Kind {
	case order.Forward:
		m, err := s.forward(ctx, a, obs)
		if err == nil && m != order.Continue {
			return s.sched.Mark(a, m)
		}
		if a.Item.Last {
			s.closed++
		}
		return err
	case order.Backward, order.BackwardInput:
		return s.backward(ctx, a)
	case order.BackwardWeight:
		s.overwrite(a.Item)
		done := s.busy.working()
		v := s.weights(a.Item)
		s.train.BackwardWeight(a.Slot, v.of(a.Slot), s.reps.Grads(a.Item.Replica), !a.Item.First)
		v.release(a.Slot)
		done()
	case order.Update:
		if s.c.late() {
			return s.putOff(ctx, a.Item)
		}
		if err := s.reps.Gather(ctx, a.Item); err != nil {
			return err
		}
		s.update(a.Item)
		s.commit(a.Item.Step, false, obs)
	case order.Begin:
		m, err := s.begin(ctx, a.Item, obs)
		if err == nil && m != order.Continue {
			err = s.sched.Mark(a, m)
		}
		return err
	case order.Average:
		_, end := s.run.Span(s.reps.at.Step)
		s.step.Store(end)
		if err := s.average(ctx, obs); err != nil {
			return err
		}
		if s.rings != nil {
			s.commit(end-1, true, obs)
			if f := s.cfg.Hooks.Averaged; f != nil {
				f(end-1, s.reps.lead().State.Params)
			}
		}
	case order.Evaluate:
		return s.evaluate(ctx, a.Item)
	case order.Report:
		return s.report(a.Item, obs)
	case order.Keep:
		if s.c.Placement.Cluster > 0 && !a.Final && !a.Held && !s.reps.keeps() {
			return nil // the first cluster's is the same
		}
		p, err := s.reps.Part(a.At)
		if err != nil {
			return err
		}
		return obs.Keep(Saved{Epoch: a.Item.Epoch, Step: a.Item.Step, Final: a.Final, Held: a.Held, Part: p})
	case order.Done:
	default:
		return fmt.Errorf("a stage cannot do %s", a.Kind)
	}
	return nil
}

// begin learns what comes before a round, and begins it if that is nothing. A round may have no
// item of this cluster, so that the mark is told even where it is order.Continue.
func (s *Stage) begin(ctx context.Context, it order.Item, obs Observer) (order.Mark, error) {
	w := s.wires
	m := order.Continue
	if w.marked != it.Seq+1 {
		if w.marked = it.Seq + 1; s.first {
			m, s.agreed = s.agreed, order.Continue
			s.deal()
		} else {
			var err error
			if m, err = w.firstMark(ctx, it); err != nil {
				return m, err
			}
			if err := s.takeShares(); err != nil {
				return m, err
			}
		}
		if err := w.sendMark(ctx, it, m); err != nil {
			return m, err
		}
		if !s.first {
			if err := w.receiveMark(ctx, it, m); err != nil {
				return m, err
			}
		}
	}
	if m == order.Continue {
		s.open(obs)
		s.reps.Open(it)
		for i := range s.rings.losses {
			s.rings.losses[i] = silent
		}
	}
	return m, nil
}

// average ends a round.
func (s *Stage) average(ctx context.Context, obs Observer) error {
	x := s.rings
	if x == nil {
		defer s.busy.working()()
		return s.reps.Average(ctx)
	}
	x.mark = order.Continue
	s.measure()
	if s.first {
		x.mark = s.mark()
	}
	if err := s.reps.average(ctx, x); err != nil {
		return err
	}
	s.agreed = x.mark
	if s.last && s.run.Splits() && s.c.Placement.Cluster == 0 {
		return s.losses(obs)
	}
	return nil
}

// losses reports those of a round of split batches, which all clusters have told.
func (s *Stage) losses(obs Observer) error {
	from, to := s.run.Span(s.reps.at.Step)
	for step := from; step < to; step++ {
		at := s.run.At(step)
		total := s.run.Rows(s.run.Train, at.Batch)
		it := order.Item{Epoch: at.Epoch, Step: step, Batch: at.Batch, Total: total}
		var sum BatchLoss
		for k, v := range s.rings.losses[int(step-from)*s.run.Replicas:][:s.run.Replicas] {
			if !s.run.Has(total, k) {
				continue
			}
			if v-v != 0 {
				return fmt.Errorf("%w: the loss of replica %d is %v", ErrRound, k, v)
			}
			it.Replica = k
			sum.Before(it)
			sum.After(v)
			it.Row0 = 1
		}
		obs.Loss(Loss{Epoch: it.Epoch, Step: it.Step, Value: s.scores.loss.Mean(sum.Sum(), s.scores.loss.Terms(s.cfg.TrainY, s.read.batch(it)))})
	}
	return nil
}

// ask is the mark before an update, on the root.
func (s *Stage) ask(a order.Action) order.Mark {
	m := s.mark()
	if m == order.Stop {
		return m
	}
	s.wanted = max(s.wanted, m)
	if !a.Drained {
		return order.Continue
	}
	m, s.wanted = s.wanted, order.Continue
	return m
}

// feed fills the inputs of a forward pass, unless a mark stands before it.
func (s *Stage) feed(ctx context.Context, e *exec.Exec, a order.Action, x Rows) (order.Mark, error) {
	it, w := a.Item, s.wires
	if s.first {
		if w.marks(it) {
			if m := s.ask(a); m != order.Continue {
				w.marked = it.Seq + 1
				return m, w.sendMark(ctx, it, m)
			}
		}
		rows := s.read.rows(it)
		if err := Hold(ctx, x, it, s.run.BatchSize, it.Row0, rows); err != nil {
			return order.Continue, err
		}
		s.inputs.Feed(e, a.Slot, x, rows)
		return order.Continue, nil
	}
	for k, d := range w.in {
		m, err := w.receive(ctx, d.from, wire.Activation, d, it, e.Value(a.Slot, d.local, it.Rows), k == 0)
		if err != nil {
			return m, err
		}
		if m != order.Continue {
			w.marked = it.Seq + 1
			if err := w.sendMark(ctx, it, m); err != nil {
				return m, err
			}
			return m, w.receiveMark(ctx, it, m)
		}
	}
	return order.Continue, nil
}

// emit sends what later stages read of a forward pass.
func (s *Stage) emit(ctx context.Context, e *exec.Exec, slot int, it order.Item) error {
	for _, d := range s.wires.out {
		if err := s.wires.send(ctx, d.to, wire.Activation, d, it, e.Value(slot, d.local, it.Rows)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stage) forward(ctx context.Context, a order.Action, obs Observer) (order.Mark, error) {
	it := a.Item
	if m, err := s.feed(ctx, s.train, a, s.cfg.TrainX); m != order.Continue || err != nil {
		return m, err
	}
	if s.last && it.Row0 == 0 {
		if err := Hold(ctx, s.cfg.TrainY, it, s.run.BatchSize, 0, s.read.batch(it)); err != nil {
			return order.Continue, err
		}
	}
	s.step.Store(it.Step)
	done := s.busy.working()
	if it.Opens {
		s.reps.Open(it)
	}
	h, params := s.reps.Of(it.Replica), s.weights(it).take(a.Slot)
	s.train.Forward(a.Slot, exec.Batch{Seed: s.c.Job.Seed, Step: it.Step, Row0: it.Row0, Rows: it.Rows}, params, &h.State)
	var err error
	if s.last {
		err = s.score(a, obs)
	}
	done()
	if err != nil {
		return order.Continue, err
	}
	if it.Ends {
		obs.Batch(s.run.OwnRows(it.Total))
	}
	return order.Continue, s.emit(ctx, s.train, a.Slot, it)
}

// score computes the loss of a micro-batch and the gradient of the model's answer.
func (s *Stage) score(a order.Action, obs Observer) error {
	it, out := a.Item, s.c.Stage.Graph.OutputValue()
	if s.scores.termsOf != it.Step+1 {
		s.scores.terms, s.scores.termsOf = s.scores.loss.Terms(s.cfg.TrainY, s.read.batch(it)), it.Step+1
	}
	sum := s.scores.sum.Before(it)
	sum = s.scores.loss.Accumulate(sum, s.train.Grad(a.Slot, out, it.Rows), s.train.Value(a.Slot, out, it.Rows), s.cfg.TrainY, s.read.rows(it), s.scores.terms)
	s.scores.sum.After(sum)
	if err := CheckLoss(sum); err != nil {
		return err
	}
	if s.rings != nil && s.run.Splits() {
		s.rings.losses[int(it.Step-s.reps.at.Step)*s.run.Replicas+it.Replica] = sum
		return nil // all clusters' come together at the round's end
	}
	if it.Ends {
		obs.Loss(Loss{Epoch: it.Epoch, Step: it.Step, Value: s.scores.loss.Mean(s.scores.sum.Sum(), s.scores.terms)})
	}
	return nil
}

// backward is a whole backward pass, or the half of it that other stages wait for.
func (s *Stage) backward(ctx context.Context, a order.Action) error {
	it, w := a.Item, s.wires
	for _, d := range w.due {
		if _, err := w.receive(ctx, d.after, wire.Gradient, d, it, s.train.Grad(a.Slot, d.local, it.Rows), false); err != nil {
			return err
		}
	}
	if a.Kind == order.Backward {
		s.overwrite(it)
	}
	done := s.busy.working()
	if v := s.weights(it); a.Kind == order.BackwardInput {
		s.train.BackwardInput(a.Slot, v.of(a.Slot))
	} else {
		s.train.Backward(a.Slot, v.of(a.Slot), s.reps.Grads(it.Replica), !it.First)
		v.release(a.Slot)
	}
	done()
	for _, d := range w.in {
		if d.before < 0 {
			continue // the model's input, or constant
		}
		if err := w.send(ctx, []int{d.before}, wire.Gradient, d, it, s.train.Grad(a.Slot, d.local, it.Rows)); err != nil {
			return err
		}
	}
	return nil
}

// weights are those of the replica that trains item it.
func (s *Stage) weights(it order.Item) *versions {
	if s.run.Splits() {
		return &s.versions[0]
	}
	return &s.versions[s.reps.of[it.Replica].number]
}

// update applies the gradients of a group of batches, which are complete.
func (s *Stage) update(it order.Item) {
	defer s.busy.working()()
	if s.run.Splits() {
		it.Replica = s.reps.own[0]
	}
	s.reps.Of(it.Replica).State.Params = s.weights(it).writable()
	s.reps.Update(s.cfg.Team, it)
	if s.cfg.Hooks.Updated != nil {
		s.cfg.Hooks.Updated(it.Step, s.reps.Of(it.Replica).State.Params)
	}
}

func (s *Stage) evaluate(ctx context.Context, it order.Item) error {
	if _, err := s.feed(ctx, s.eval, order.Action{Item: it}, s.cfg.ValX); err != nil {
		return err
	}
	if s.last {
		if err := Hold(ctx, s.cfg.ValY, it, s.run.BatchSize, it.Row0, s.read.rows(it)); err != nil {
			return err
		}
	}
	done := s.busy.working()
	h := s.reps.lead() // all are equal
	s.eval.Forward(0, exec.Batch{Rows: it.Rows}, h.State.Params, &h.State)
	if s.last {
		pred := s.eval.Value(0, s.c.Stage.Graph.OutputValue(), it.Rows)
		s.scores.loss.Count(&s.scores.val, pred, s.cfg.ValY, s.read.rows(it), it.Ends)
	}
	done()
	return s.emit(ctx, s.eval, 0, it)
}

// report tells how a validation pass went, on the leaf.
func (s *Stage) report(it order.Item, obs Observer) error {
	if !s.last {
		return nil
	}
	v := NewValidation(s.scores.loss, s.scores.val, s.cfg.ValY)
	if v.Epoch, v.Step = it.Epoch, it.Step; v.Loss-v.Loss != 0 {
		return fmt.Errorf("%w: the validation loss is %v", ErrDiverged, v.Loss)
	}
	s.scores.val = loss.Score{}
	obs.Validated(v)
	return nil
}
