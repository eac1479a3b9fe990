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

// outerSlot is what a snapshot calls the momentum of the outer rule.
const outerSlot = "outer_momentum_buffer"

// keptSlot is what a snapshot calls a slot of the optimizer that replica k > 0 keeps.
func keptSlot(slot string, k int) string { return fmt.Sprintf("%s_replica%d", slot, k) }

// extraSlots are the slots that a snapshot of job j has beside the optimizer's.
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

// Replicas are the states of all replicas of a job, of the whole model or of one stage. All
// are equal between two rounds, but for what the job lets a replica keep.
type Replicas struct {
	job      job.Spec
	rule     job.Average
	run      order.Run
	layout   *exec.Layout
	numbers  []uint32
	of       []Holding
	grads    [][]float32 // by replica; the same one where a replica's are used up before the next's come
	start    []float32   // parameters at the round's start
	counters []int64     // and counters
	outer    []float32   // momentum of the outer rule
	at       order.Position

	// tied brings the gradients of tied parameters together before an update, here and in the
	// other stages that hold them. seq names the update.
	tied func(ctx context.Context, seq uint64, grads []float32) error

	reducer average.Reducer
	samples []int64
	terms   []average.Term
}

// accumulate tells whether gradients of several replicas are under way at once.
func accumulate(j job.Spec) bool { return j.Gradients() || j.UpdateFrequency > 1 }

// ReplicaBytes is what the replicas of job j take beside what one does, for a layout.
func ReplicaBytes(j job.Spec, l *exec.Layout) int {
	n := j.Replica()
	if n == 1 {
		return 0
	}
	more := 4*l.Buffers + 8*l.Counters
	params, grads, largest, once := 4*l.Trainable, 4*max(l.Trainable, l.Grads), 0, 0
	for _, e := range l.Entries {
		largest = max(largest, e.Elems())
	}
	if accumulate(j) {
		more += grads
	}
	if !j.Gradients() {
		more += params + optim.Bytes(j.Optimizer, l.Trainable)
		once = params
	}
	if j.Averaging().Outer.Name != "none" {
		once += params
	}
	return (n-1)*more + once + 8*l.Counters + average.ReducerBytes(largest)
}

// NewReplicas allocates the replicas of job j and initialises them from its seed.
func NewReplicas(j job.Spec, run order.Run, l *exec.Layout, d optim.Delay) (*Replicas, error) {
	n := j.Replica()
	r := &Replicas{job: j, rule: j.Averaging(), run: run, layout: l, reducer: average.Reducer{Exchange: average.Alone{}}}
	r.tied = func(_ context.Context, _ uint64, grads []float32) error {
		l.Fold(grads)
		return nil
	}
	for k := range n {
		h := Holding{Layout: l}
		if k > 0 && j.Gradients() {
			h.State, h.Optimizer = l.NewStatistics(), r.of[0].Optimizer
			h.State.Params = r.of[0].State.Params
		} else {
			h.State = l.NewState()
			var err error
			if h.Optimizer, err = optim.New(j.Optimizer, l.Trainable, d); err != nil {
				return nil, err
			}
		}
		r.of = append(r.of, h)
		if k == 0 || accumulate(j) {
			r.grads = append(r.grads, make([]float32, l.Grads))
		} else {
			r.grads = append(r.grads, r.grads[0])
		}
	}
	if n > 1 {
		r.numbers, r.samples, r.counters = l.Numbers(), make([]int64, n), make([]int64, l.Counters)
		if !j.Gradients() {
			r.start = make([]float32, l.Trainable)
		}
		if r.rule.Outer.Name != "none" {
			r.outer = make([]float32, l.Trainable)
		}
		r.extra()
	}
	l.Init(r.of[0].State, j.Seed)
	r.share()
	return r, nil
}

// extra tells the first replica's holding what a snapshot has beside its own.
func (r *Replicas) extra() {
	if r.rule.Optimizer == job.KeepState {
		for k := 1; k < len(r.of); k++ {
			s := r.of[k].Optimizer.State()
			for i, name := range s.Slots {
				r.of[0].Extra = append(r.of[0].Extra, Slot{keptSlot(name, k), s.Vectors[i]})
			}
		}
	}
	if r.outer != nil {
		r.of[0].Extra = append(r.of[0].Extra, Slot{outerSlot, r.outer})
	}
}

// share gives the weights and statistics of the first replica to all.
func (r *Replicas) share() {
	first := r.of[0].State
	for _, h := range r.of[1:] {
		if !r.job.Gradients() {
			copy(h.State.Params, first.Params)
		}
		copy(h.State.Buffers, first.Buffers)
		copy(h.State.Counters, first.Counters)
	}
	copy(r.start, first.Params)
	copy(r.counters, first.Counters)
}

// Of is the state of replica k.
func (r *Replicas) Of(k int) *Holding { return &r.of[k] }

// Grads is where replica k adds up its gradients.
func (r *Replicas) Grads(k int) []float32 { return r.grads[k] }

// Import replaces the weights and running statistics of all replicas.
func (r *Replicas) Import(d state.Dict) error {
	if err := r.layout.Import(r.of[0].State, d); err != nil {
		return err
	}
	r.share()
	return nil
}

// Part is the state between two rounds, as Holding.Part.
func (r *Replicas) Part(at order.Position) (*snapshot.Part, error) { return r.of[0].Part(at) }

// Load makes all replicas go on from a snapshot, as Holding.Load.
func (r *Replicas) Load(parts ...*snapshot.Part) (order.Position, error) {
	at, err := r.of[0].Load(r.run, parts...)
	if err != nil {
		return at, err
	}
	r.share()
	s := r.of[0].Optimizer.State()
	for k := 1; k < len(r.of) && !r.job.Gradients(); k++ {
		if o := r.of[k].Optimizer; r.rule.Optimizer == job.KeepState {
			o.Rewind(r.run.Updates(at, k))
		} else {
			for i, v := range o.State().Vectors {
				copy(v, s.Vectors[i])
			}
			o.Resume(s.Updates, s.Mu)
		}
	}
	return at, nil
}

// Open tells that a round begins with item it.
func (r *Replicas) Open(it order.Item) { r.at = it.Position() }

// Gather completes the gradients of an update: what the holders of tied parameters have of
// them comes together.
func (r *Replicas) Gather(ctx context.Context, it order.Item) error {
	if r.job.Gradients() {
		return nil // Average has
	}
	return r.tied(ctx, it.Seq, r.grads[it.Replica])
}

// Update applies the gradients of the replica that item it is of, which are gathered.
func (r *Replicas) Update(t *kernel.Team, it order.Item) {
	k := it.Replica
	if r.job.Gradients() {
		k = 0 // has the average
	}
	h := &r.of[k]
	h.Optimizer.Step(t, h.State.Params, r.grads[k][:r.layout.Trainable], optim.Rate(r.job.LR, r.job.Optimizer.LR, it.Epoch))
}

// Average ends a round: all replicas get the state that their averages make. Its errors wrap
// ErrDiverged where a number is not finite.
func (r *Replicas) Average(ctx context.Context) error {
	err := r.average(ctx)
	if errors.Is(err, average.ErrNotFinite) {
		return fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	return err
}

func (r *Replicas) average(ctx context.Context) error {
	r.run.Samples(r.samples, r.at)
	weights := average.Reduced(r.samples)
	exact := average.Rule{Bits: average.ExactBits}
	if r.job.Gradients() {
		for k, w := range weights {
			if w > 0 && (r.run.Own == 0 || r.run.Own&(1<<k) != 0) {
				if err := r.tied(ctx, r.at.Seq, r.grads[k]); err != nil {
					return err
				}
			}
		}
		// Each is of the batch's mean already: they are added up.
		ones := make([]int64, len(weights))
		for k, w := range weights {
			ones[k] = min(w, 1)
		}
		if err := r.reduce(ctx, average.Rule{Bits: r.rule.Bits}, graph.Trainable, ones, 1, func(k int) []float32 { return r.grads[k] }); err != nil {
			return fmt.Errorf("the sum of gradients: %w", err)
		}
	} else {
		if err := r.parameters(ctx, weights); err != nil {
			return fmt.Errorf("the average of parameters: %w", err)
		}
		if err := r.optimizers(ctx, exact, weights); err != nil {
			return err
		}
	}
	if err := r.reduce(ctx, exact, graph.Buffer, weights, 0, func(k int) []float32 { return r.of[k].State.Buffers }); err != nil {
		return fmt.Errorf("the average of running statistics: %w", err)
	}
	r.count()
	r.share()
	return nil
}

// reduce puts the sum of a vector's tensors over den in place of the first replica's; den 0
// stands for the sum of the weights. The first replica always has samples.
func (r *Replicas) reduce(ctx context.Context, rule average.Rule, role graph.Role, weights []int64, den int64, of func(k int) []float32) error {
	var total int64
	for _, w := range weights {
		total += w
	}
	if den == 0 {
		den = total
	}
	round := r.run.Round(r.at)
	for i, e := range r.layout.Entries {
		if e.Role != role {
			continue
		}
		r.terms = r.terms[:0]
		for k, w := range weights {
			if w == 0 {
				continue
			}
			r.terms = append(r.terms, average.Term{
				X: of(k)[e.Off:][:e.Elems()], Weight: w,
				Draws: kernel.NewStream(r.job.Seed, kernel.DomainAverage, round, uint32(k)<<24|r.numbers[i]),
			})
		}
		if err := r.reducer.Reduce(ctx, rule, of(0)[e.Off:][:e.Elems()], r.terms, total, den); err != nil {
			return fmt.Errorf("%q: %w", e.Full, err)
		}
	}
	return nil
}

// parameters applies the mean change to the parameters of the round's start, in r.of[0].
func (r *Replicas) parameters(ctx context.Context, weights []int64) error {
	for k, w := range weights {
		if w == 0 {
			continue
		}
		p := r.of[k].State.Params
		for i, v := range r.start {
			p[i] -= v
		}
	}
	if err := r.reduce(ctx, average.Rule{Bits: r.rule.Bits}, graph.Trainable, weights, 0, func(k int) []float32 { return r.of[k].State.Params }); err != nil {
		return err
	}
	p, o := r.of[0].State.Params, r.rule.Outer
	if o.Name == "nesterov" {
		for i, v := range p {
			p[i] = -v // a gradient points against the change
		}
		kernel.SGD(r.start, p, r.outer, kernel.SGDParams{
			LR: float32(o.LR), Momentum: float32(o.Momentum), OneMinusDampening: 1, Nesterov: true,
		})
		copy(p, r.start)
		return nil
	}
	for i, v := range r.start {
		p[i] += v
	}
	return nil
}

// optimizers does with the replicas' optimizers what the job says.
func (r *Replicas) optimizers(ctx context.Context, exact average.Rule, weights []int64) error {
	first := r.of[0].Optimizer.State()
	switch r.rule.Optimizer {
	case job.KeepState:
		return nil
	case job.ResetState:
		for _, h := range r.of {
			for _, v := range h.Optimizer.State().Vectors {
				clear(v)
			}
			h.Optimizer.Rewind(0)
		}
		return nil
	}
	for s, name := range first.Slots {
		of := func(k int) []float32 { return r.of[k].Optimizer.State().Vectors[s] }
		// Second moments span the square of what gradients do. Their roots have the range of
		// first moments, so that neither is rounded to zero where the other is not.
		root := name == "exp_avg_sq"
		for k := range r.of {
			if v := of(k); root {
				for i, x := range v {
					v[i] = kernel.Sqrt(x)
				}
			}
		}
		if err := r.reduce(ctx, exact, graph.Trainable, weights, 0, of); err != nil {
			return fmt.Errorf("the average of the optimizer's %s: %w", name, err)
		}
		if root {
			for i, x := range first.Vectors[s] {
				first.Vectors[s][i] = float32(x * x)
			}
		}
		for k := 1; k < len(r.of); k++ {
			copy(of(k), first.Vectors[s])
		}
	}
	for _, h := range r.of[1:] { // the first has done no fewer updates than any other
		h.Optimizer.Resume(first.Updates, first.Mu)
	}
	return nil
}

// BatchLoss adds up the loss's terms of a batch: those of each replica's rows for themselves,
// in the order of rows, and then the replicas' sums in their order, so that whoever has a sum
// of some replicas can pass it on.
type BatchLoss struct {
	before, own float32
	replica     int
	later       bool // before counts
}

// Before is what the terms of item it are to be added to.
func (b *BatchLoss) Before(it order.Item) float32 {
	if it.Row0 == 0 {
		*b = BatchLoss{replica: it.Replica}
	}
	if it.Replica != b.replica {
		*b = BatchLoss{before: b.Sum(), replica: it.Replica, later: true}
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

// count puts the sum of what the counters of all replicas went up by into the first's. Where
// batches are split each replica has counted every batch, and the first missed none.
func (r *Replicas) count() {
	if r.job.Gradients() {
		return
	}
	c := r.of[0].State.Counters
	for _, h := range r.of[1:] {
		for i, v := range h.State.Counters {
			c[i] += v - r.counters[i]
		}
	}
}
