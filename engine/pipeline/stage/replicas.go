// The replicas of a job: their states between two averages, and the average.

package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
)

// outerSlot is the name of the outer rule's momentum in a snapshot.
const outerSlot = "outer_momentum_buffer"

// keptSlot is the name in a snapshot of an optimizer slot that replica k > 0 keeps.
func keptSlot(slot string, k int) string { return fmt.Sprintf("%s_replica%d", slot, k) }

// extraSlots are the slots of a snapshot of job j that are not the optimizer's own.
func extraSlots(j job.Spec) []string {
	if j.Replica() == 1 {
		return nil
	}
	var names []string
	a := j.Averaging()
	if a.Optimizer == job.KeepState {
		for k := 1; k < j.Replica(); k++ {
			for _, s := range optim.Slots(j.Optimizer) {
				names = append(names, keptSlot(s, k))
			}
		}
	}
	if a.Outer.Name != "none" {
		names = append(names, outerSlot)
	}
	return names
}

// Replicas are the states of the replicas of a job, of the whole model or of one stage: of all
// replicas, or of those that a cluster has. All are equal between two rounds, but for what the
// job lets a replica keep.
type Replicas struct {
	job      job.Spec
	rule     job.Average
	run      order.Run
	layout   *exec.Layout
	own      []int   // the replicas that are here, ascending
	seats    []*seat // of which the first len(own) have their states
	numbers  []uint32
	of       []*seat   // by replica; nil: it is not here
	start    []float32 // parameters at the round's start
	counters []int64   // and counters
	outer    []float32 // momentum of the outer rule
	at       order.Position

	// tied brings the gradients of tied parameters together before an update, here and in the
	// other stages that hold them. seq names the update.
	tied func(ctx context.Context, seq uint64, grads []float32) error
	// norm adds up over all stages what each has: add takes the sum of the later ones.
	norm      func(ctx context.Context, seq uint64, add func(after float64) float64) (float64, error)
	elsewhere map[string]bool // tied parameters that an earlier stage counts in the norm

	vectors []vector
	shares  []share
	samples []int64
	scales  []float32 // of one share, where there are no rings
	sums    []int64   // of a group
}

// seat has the state of one replica. Between two rounds all states are equal, so that a seat can
// take another replica.
type seat struct {
	Holding
	number int
	grads  []float32 // the same ones where a replica's are used up before the next's come
}

// accumulate reports whether several replicas have gradients at the same time: where updates of
// several batches take turns, or where they are put off.
func accumulate(j job.Spec, late bool) bool { return j.Gradients() || j.UpdateFrequency > 1 || late }

// ReplicaBytes is what the replicas of job j that a cluster has take beside what one does, for
// a layout, and what averaging them takes beside messages.
func ReplicaBytes(j job.Spec, l *exec.Layout, p Placement) int {
	return replicaBytes(j, l, p, sharesOf(j, l, 0, nil, 1, nil), false)
}

func replicaBytes(j job.Spec, l *exec.Layout, p Placement, shares []share, late bool) int {
	if j.Replica() == 1 {
		return 0
	}
	n := j.Replica()
	if p.several() {
		n = p.Clusters[p.Cluster].room()
	}
	more := 4*l.Buffers + 8*l.Counters
	params, grads, once := 4*l.Trainable, 4*max(l.Trainable, l.Grads), 0
	frozen := 4 * (l.Params - l.Trainable)
	if accumulate(j, late) {
		more += grads
	}
	if !j.Gradients() {
		more += params + frozen + optim.Bytes(j.Optimizer, l.Trainable)
		once = params
	}
	if j.Averaging().Outer.Name != "none" {
		once += params
	}
	return (n-1)*more + once + 8*l.Counters + bytesOf(shares, p.several())
}

// NewReplicas allocates the replicas of job j that run has and initialises them from the job's
// seed.
func NewReplicas(j job.Spec, run order.Run, l *exec.Layout, d optim.Delay) (*Replicas, error) {
	return newReplicas(j, run, l, d, sharesOf(j, l, 0, nil, 1, nil), false, nil)
}

// parametersOf returns where the trainable parameters lie, padding included.
func parametersOf(j job.Spec, l *exec.Layout) []optim.Tensor {
	var ts []optim.Tensor
	for _, e := range l.Entries {
		if e.Role != graph.Trainable {
			continue
		}
		if n := len(ts); n > 0 {
			ts[n-1].To = e.Off
		}
		ts = append(ts, optim.Tensor{From: e.Off, To: l.Trainable, Decay: j.Optimizer.Decays(e.Full, e.Name, e.Kind)})
	}
	return ts
}

func newReplicas(j job.Spec, run order.Run, l *exec.Layout, d optim.Delay, shares []share, late bool, between func()) (*Replicas, error) {
	n := j.Replica()
	r := &Replicas{job: j, rule: j.Averaging(), run: run, layout: l, of: make([]*seat, n)}
	r.tied = func(_ context.Context, _ uint64, grads []float32) error {
		l.Fold(grads)
		return nil
	}
	r.norm = func(_ context.Context, _ uint64, add func(float64) float64) (float64, error) { return add(0), nil }
	r.elsewhere = map[string]bool{}
	for k := range n {
		if run.Own == 0 || run.Own.Has(k) {
			r.own = append(r.own, k)
		}
	}
	for i := range max(len(r.own), run.Room) {
		s := &seat{Holding: Holding{Layout: l}, number: i}
		r.seats = append(r.seats, s)
		first := r.seats[0]
		if i > 0 && j.Gradients() {
			s.State, s.Optimizer = l.NewStatistics(), first.Optimizer
			s.State.Params = first.State.Params
		} else {
			s.State = l.NewState()
			var err error
			if s.Optimizer, err = optim.New(j.Optimizer, l.Trainable, d, parametersOf(j, l)...); err != nil {
				return nil, err
			}
		}
		if s.grads = first.grads; i == 0 || accumulate(j, late) {
			s.grads = make([]float32, l.Grads)
		}
		if i < len(r.own) {
			s.Replica, r.of[r.own[i]] = r.own[i], s
		}
	}
	if n > 1 {
		r.numbers, r.samples, r.counters = l.Numbers(), make([]int64, n), make([]int64, l.Counters)
		r.vectors, r.shares = vectorsOf(j), shares
		if !j.Gradients() {
			r.start = make([]float32, l.Trainable)
		}
		if r.rule.Outer.Name != "none" {
			r.outer = make([]float32, l.Trainable)
		}
		r.extra()
	}
	l.InitBetween(r.lead().State, j.Seed, between)
	r.spread()
	return r, nil
}

// lead is the first replica of this cluster. It holds what all replicas have in common.
func (r *Replicas) lead() *Holding { return &r.seats[0].Holding }

// take makes own the replicas that are here, before a round in which they begin with the state that
// all have in common.
func (r *Replicas) take(own []int) {
	first, before := r.seats[0], len(r.own)
	clear(r.of)
	r.own = own
	for i, k := range own {
		s := r.seats[i]
		r.of[k] = s
		if i < before { // its state is that of the round's end
			continue
		}
		copy(s.State.Buffers, first.State.Buffers)
		copy(s.State.Counters, first.State.Counters)
		if r.job.Gradients() {
			continue
		}
		copy(s.State.Params, first.State.Params)
		o := first.Optimizer.State()
		for v, x := range s.Optimizer.State().Vectors {
			copy(x, o.Vectors[v])
		}
		s.Optimizer.Resume(o.Updates, o.Mu)
	}
}

// keeps reports whether each replica keeps an optimizer of its own.
func (r *Replicas) keeps() bool { return len(r.of) > 1 && r.rule.Optimizer == job.KeepState }

// extra adds the slots of extraSlots to the first replica's holding.
func (r *Replicas) extra() {
	h := r.lead()
	if r.keeps() {
		for _, k := range r.own[1:] {
			s := r.of[k].Optimizer.State()
			for i, name := range s.Slots {
				h.Extra = append(h.Extra, Slot{keptSlot(name, k), s.Vectors[i]})
			}
		}
	} else {
		h.Replica = 0 // one optimizer for all
	}
	if r.outer != nil {
		h.Extra = append(h.Extra, Slot{outerSlot, r.outer})
	}
	h.Whole = Slots(r.job)
}

// spread copies the weights and statistics of the first replica to the others.
func (r *Replicas) spread() {
	first := r.lead().State
	for _, k := range r.own[1:] {
		h := r.of[k]
		if !r.job.Gradients() {
			copy(h.State.Params, first.Params)
		}
		copy(h.State.Buffers, first.Buffers)
	}
	copy(r.start, first.Params)
	r.spreadCounters()
}

func (r *Replicas) spreadCounters() {
	first := r.lead().State
	for _, k := range r.own[1:] {
		copy(r.of[k].State.Counters, first.Counters)
	}
	copy(r.counters, first.Counters)
}

// Of returns the state of replica k.
func (r *Replicas) Of(k int) *Holding { return &r.of[k].Holding }

// Grads returns the buffer in which replica k adds up its gradients.
func (r *Replicas) Grads(k int) []float32 { return r.of[k].grads }

// Import replaces the weights and running statistics of all replicas.
func (r *Replicas) Import(d state.Dict) error {
	if err := r.layout.Import(r.lead().State, d); err != nil {
		return err
	}
	r.spread()
	return nil
}

// Part is the state between two rounds, as Holding.Part. Where replicas keep their optimizers
// it has those of the replicas that are here. Its position numbers items from its batch on: how
// many there were before depends on their micro-batches, which clusters choose for themselves.
func (r *Replicas) Part(at order.Position) (*snapshot.Part, error) {
	at.Seq = at.Step
	p, err := r.lead().Part(at)
	if err == nil && r.keeps() && r.own[0] > 0 {
		// All parts of a snapshot name the updates of the first replica.
		o, err := optim.New(r.job.Optimizer, 0, optim.Delay{})
		if err != nil {
			return nil, err
		}
		o.Rewind(r.run.Updates(at.Step, 0))
		p.Optimizer.Updates, p.Optimizer.Mu = o.State().Updates, o.State().Mu
	}
	return p, err
}

// Load makes all replicas go on from a snapshot, as Holding.Load. Where the period at hand
// begins, the snapshot may be of the one before.
func (r *Replicas) Load(parts ...*snapshot.Part) (order.Position, error) {
	parts, err := regroup(r.job, r.run, r.layout, parts)
	if err != nil {
		return order.Position{}, err
	}
	at, err := r.lead().Load(r.run, parts...)
	if err != nil {
		return at, err
	}
	r.spread()
	s := r.lead().Optimizer.State()
	for _, k := range r.own {
		if o := r.of[k].Optimizer; r.keeps() {
			o.Rewind(r.run.Updates(at.Step, k))
		} else if o != r.lead().Optimizer {
			for i, v := range o.State().Vectors {
				copy(v, s.Vectors[i])
			}
			o.Resume(s.Updates, s.Mu)
		}
	}
	return at, nil
}

// Open begins a round with item it.
func (r *Replicas) Open(it order.Item) { r.at = it.Position() }

// Gather completes the gradients of an update: what the holders of tied parameters have of
// them comes together, and their norm is clipped.
func (r *Replicas) Gather(ctx context.Context, it order.Item) error {
	grads := r.seats[0].grads
	if !r.job.Gradients() { // else Average has summed those of tied parameters
		grads = r.of[it.Replica].grads
		if err := r.tied(ctx, it.Seq, grads); err != nil {
			return err
		}
	}
	if r.job.ClipNorm == 0 {
		return nil
	}
	sum, err := r.norm(ctx, it.Seq, func(after float64) float64 { return r.squares(grads, after) })
	if err != nil {
		return err
	}
	return r.clip(grads, sum)
}

// rate returns the learning rate of the update that ends with item it.
func (r *Replicas) rate(it order.Item) float64 {
	at := optim.When{Epoch: it.Epoch, Update: r.run.Update(it.Step), Total: r.run.AllUpdates()}
	return optim.Rate(r.job.LR, r.job.Optimizer.LR, at)
}

// Update applies the gradients of the replica of item it, after Gather.
func (r *Replicas) Update(t *kernel.Team, it order.Item) {
	s := r.seats[0] // has the sum
	if !r.job.Gradients() {
		s = r.of[it.Replica]
	}
	s.Optimizer.Step(t, s.State.Params[:r.layout.Trainable], s.grads[:r.layout.Trainable], r.rate(it))
}

// Average ends a round: afterwards all replicas have the averaged state. Its errors wrap
// ErrDiverged if a number is not finite.
func (r *Replicas) Average(ctx context.Context) error { return r.average(ctx, nil) }

// average is Average where other clusters take part, over the rings.
func (r *Replicas) average(ctx context.Context, x *rings) error {
	w, err := r.weights()
	if err != nil {
		return err
	}
	if r.job.Gradients() {
		for _, k := range r.own {
			if w.samples[k] == 0 {
				continue
			}
			if err := r.tied(ctx, r.at.Seq, r.of[k].grads); err != nil {
				return err
			}
		}
	}
	if x != nil {
		err = x.average(ctx, r, &w)
	} else {
		err = r.alone(ctx, &w)
	}
	if errors.Is(err, average.ErrNotFinite) {
		err = fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	if err == nil {
		r.spreadCounters()
		r.restart()
	}
	return err
}

// weights returns what each replica weighs in the round that is over: its share of the samples.
func (r *Replicas) weights() (round, error) {
	r.run.Samples(r.samples, r.at.Step)
	w := round{number: r.run.Round(r.at.Step), samples: average.Reduced(r.samples), ones: make([]int64, len(r.samples))}
	for k, n := range w.samples {
		w.ones[k] = min(n, 1)
	}
	for _, v := range r.vectors {
		rule, weights, _ := r.arithmetic(v, &w)
		if err := rule.Check(sumOf(weights)); err != nil {
			return w, err
		}
	}
	return w, nil
}

// alone is Average where this cluster has all replicas.
func (r *Replicas) alone(ctx context.Context, w *round) error {
	for _, s := range r.shares {
		if r.sums == nil {
			r.sums, r.scales = make([]int64, s.largest), make([]float32, s.scales)
		}
		clear(r.scales)
		for i := range s.groups {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			g := &s.groups[i]
			sum := r.sums[:g.n]
			if err := r.scale(g, w, r.scales); err != nil {
				return err
			}
			if err := r.sum(g, w, r.scales, sum); err != nil {
				return err
			}
			r.apply(g, w, r.scales, sum, nil)
		}
	}
	for i := range r.counters {
		r.lead().State.Counters[i] = r.counters[i] + r.counted(i)
	}
	return nil
}

// counted returns by how much a counter of the cluster's replicas has risen. Where batches are
// split, every replica with rows counts the same batch, which is counted once.
func (r *Replicas) counted(i int) (up int64) {
	for _, k := range r.own {
		d := r.of[k].State.Counters[i] - r.counters[i]
		if r.job.Gradients() {
			up = max(up, d)
		} else {
			up += d
		}
	}
	return up
}

// restart sets the optimizers to the state that the job wants between two rounds.
func (r *Replicas) restart() {
	if r.job.Gradients() || r.keeps() {
		return
	}
	// The first replica of all has done no fewer updates than any other.
	n := 0
	if r.rule.Optimizer != job.ResetState {
		_, to := r.run.Span(r.at.Step)
		n = r.run.Updates(to, 0)
	}
	first := r.lead().Optimizer
	if first.State().Updates != n {
		first.Rewind(n)
	}
	s := first.State()
	for _, k := range r.own {
		o := r.of[k].Optimizer
		if r.rule.Optimizer == job.ResetState {
			for _, v := range o.State().Vectors {
				clear(v)
			}
		}
		o.Resume(s.Updates, s.Mu)
	}
}

// BatchLoss adds up the loss's terms of a batch: those of each replica's rows for themselves,
// in the order of rows, and then the replicas' sums in their order, so that whoever has a sum
// of some replicas can pass it on.
type BatchLoss struct {
	before, own float32
	step        uint64
	replica     int
	later       bool // before counts
}

// Before is what the terms of item it are to be added to.
func (b *BatchLoss) Before(it order.Item) float32 {
	if it.Row0 == 0 || it.Step != b.step {
		*b = BatchLoss{step: it.Step, replica: it.Replica}
	}
	if it.Replica != b.replica {
		*b = BatchLoss{before: b.Sum(), step: it.Step, replica: it.Replica, later: true}
	}
	return b.own
}

// After takes what Before has become.
func (b *BatchLoss) After(own float32) { b.own = own }

// Sum is that of the batch so far.
func (b *BatchLoss) Sum() float32 {
	if !b.later {
		return b.own
	}
	return b.before + b.own
}
