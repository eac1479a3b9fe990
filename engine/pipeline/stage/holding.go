// What outlives a run's interruption: weights, running statistics and the optimiser's state,
// as parts of a snapshot.

package stage

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
)

// Tensor describes one tensor of a part.
type Tensor struct {
	Name  string
	DType state.DType
	Shape []int
}

// bytes is the size that the tensor has in a part's file, its entry in the header included.
func (t Tensor) bytes() int {
	n := t.DType.Size()
	for _, d := range t.Shape {
		n *= d
	}
	return n + snapshot.Overhead(t.Name, len(t.Shape))
}

// Tensors are those of the part that a stage of job j in the cluster that p says keeps, in no
// order that counts.
func Tensors(j job.Spec, s *graph.Stage, p Placement) []Tensor {
	l := exec.NewLayout(s.Graph, s.First)
	return tensors(&l, j, p)
}

func tensors(l *exec.Layout, j job.Spec, p Placement) []Tensor {
	slots := p.Slots(j)
	var ts []Tensor
	for _, e := range l.Entries {
		t := Tensor{Name: e.Full, DType: state.F32, Shape: e.Shape}
		if e.Role == graph.Counter {
			t.DType = state.I64
		}
		ts = append(ts, t)
		if e.Role != graph.Trainable {
			continue
		}
		for _, slot := range slots {
			ts = append(ts, Tensor{Name: snapshot.Name(slot, e.Full), DType: state.F32, Shape: e.Shape})
		}
	}
	return ts
}

// Slots are the names of the optimiser's vectors in a snapshot, in order.
func Slots(j job.Spec) []string { return append(optim.Slots(j.Optimizer), extraSlots(j)...) }

// Slots are those of the parts of one cluster: where replicas keep their optimizers, it has its
// own replicas' only.
func (p Placement) Slots(j job.Spec) []string {
	if !p.several() || j.Averaging().Optimizer != job.KeepState {
		return Slots(j)
	}
	var names []string
	for _, k := range p.Clusters[p.Cluster].Replicas {
		for _, s := range optim.Slots(j.Optimizer) {
			if k > 0 {
				s = keptSlot(s, k)
			}
			names = append(names, s)
		}
	}
	if j.Averaging().Outer.Name != "none" {
		names = append(names, outerSlot)
	}
	return names
}

// Updates is the number of updates that a snapshot at a position of the run says.
func Updates(j job.Spec, run order.Run, at order.Position) int {
	if j.Averaging().Optimizer == job.ResetState && !j.Gradients() {
		if j.Replica() > 1 {
			return 0 // the optimiser begins anew with every round
		}
		if len(run.Periods) > 1 {
			return run.UpdatesSince(at.Step, 0) // and did with the last of several replicas
		}
	}
	return run.Updates(at.Step, 0)
}

// Holding is the memory of a model, or of a stage of it, that a snapshot is taken of.
type Holding struct {
	Layout    *exec.Layout
	State     exec.State
	Optimizer *optim.Optimizer
	Replica   int      // that the optimizer is kept by, where each keeps its own
	Extra     []Slot   // that a snapshot has beside the optimizer's
	Whole     []string // slots of a whole snapshot, of which some may be held elsewhere; nil: those here
}

// Slot is a vector with an element for each of the layout's trainable ones.
type Slot struct {
	Name   string
	Vector []float32
}

// slots are all vectors of a snapshot.
func (h *Holding) slots() []Slot {
	var all []Slot
	s := h.Optimizer.State()
	for k, name := range s.Slots {
		if h.Replica > 0 {
			name = keptSlot(name, h.Replica)
		}
		all = append(all, Slot{name, s.Vectors[k]})
	}
	return append(all, h.Extra...)
}

// Part is the state at a position. Its tensors are the memory itself: they are valid until
// training goes on. Its errors wrap ErrDiverged where a number is not finite.
func (h *Holding) Part(at order.Position) (*snapshot.Part, error) {
	s := h.Optimizer.State()
	p := &snapshot.Part{Position: at, State: h.Layout.View(h.State)}
	p.Optimizer = snapshot.Optimizer{Name: s.Name, Updates: s.Updates, Mu: s.Mu}
	for _, v := range h.slots() {
		slot := snapshot.Slot{Name: v.Name}
		for _, e := range h.Layout.Entries {
			if e.Role == graph.Trainable {
				slot.Tensors = append(slot.Tensors, state.Tensor{Name: e.Full, Shape: e.Shape, F32: v.Vector[e.Off:][:e.Elems()]})
			}
		}
		p.Optimizer.Slots = append(p.Optimizer.Slots, slot)
	}
	if err := finiteDict(p.State, ""); err != nil {
		return nil, err
	}
	for _, s := range p.Optimizer.Slots {
		if err := finiteDict(s.Tensors, "the optimizer's "+s.Name+" of "); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func finiteDict(d state.Dict, what string) error {
	for _, t := range d {
		if err := finite(t.F32); err != nil {
			return fmt.Errorf("%s%q: %w", what, t.Name, err)
		}
	}
	return nil
}

// Load takes from parts of one snapshot, cut however they are, what the layout has, and
// returns their position. Parts of other clusters may be among them. Tensors that the layout does not have are passed over. After an
// error nothing has changed.
func (h *Holding) Load(run order.Run, parts ...*snapshot.Part) (order.Position, error) {
	var at order.Position
	all, err := snapshot.Join(parts...)
	if err != nil {
		return at, err
	}
	if err := run.CheckPosition(all.Position); err != nil {
		return at, err
	}
	s := h.Optimizer.State()
	o := all.Optimizer
	slots := h.slots()
	whole := len(slots)
	if h.Whole != nil {
		whole = len(h.Whole)
	}
	if o.Name != s.Name || len(o.Slots) != whole {
		return at, fmt.Errorf("%w: the state of optimizer %s with %d slots, the job has %s with %d", snapshot.ErrFormat, o.Name, len(o.Slots), s.Name, whole)
	}
	byName := func(d state.Dict) map[string]state.Tensor {
		m := make(map[string]state.Tensor, len(d))
		for _, t := range d {
			m[t.Name] = t
		}
		return m
	}
	have := byName(all.State)
	mine := make(state.Dict, 0, len(h.Layout.Entries))
	for _, e := range h.Layout.Entries {
		if t, ok := have[e.Full]; ok {
			mine = append(mine, t)
		}
	}
	if err := h.Layout.Check(mine); err != nil {
		return at, fmt.Errorf("%w: %w", snapshot.ErrFormat, err)
	}
	type move struct{ dst, src []float32 }
	var moves []move
	for _, v := range slots {
		name := v.Name
		i := slices.IndexFunc(o.Slots, func(s snapshot.Slot) bool { return s.Name == name })
		if i < 0 {
			return at, fmt.Errorf("%w: no optimizer slot %q", snapshot.ErrFormat, name)
		}
		have := byName(o.Slots[i].Tensors)
		for _, e := range h.Layout.Entries {
			if e.Role != graph.Trainable {
				continue
			}
			t, ok := have[e.Full]
			if !ok || len(t.F32) != e.Elems() {
				return at, fmt.Errorf("%w: the optimizer's %s of %q has %d elements, want %d", snapshot.ErrFormat, name, e.Full, len(t.F32), e.Elems())
			}
			moves = append(moves, move{v.Vector[e.Off:][:e.Elems()], t.F32})
		}
	}
	if err := h.Layout.Import(h.State, mine); err != nil {
		return at, err
	}
	for _, m := range moves {
		copy(m.dst, m.src)
	}
	h.Optimizer.Resume(o.Updates, h.mu(parts))
	return all.Position, nil
}

// mu is the optimiser's product of momentum terms. Parts differ in it where the momentum
// depends on the stage: that of the first parameter's part is taken, which is the right one
// if the cut is the same.
func (h *Holding) mu(parts []*snapshot.Part) float64 {
	for _, e := range h.Layout.Entries {
		for _, p := range parts {
			if _, ok := p.State.Get(e.Full); ok {
				return p.Optimizer.Mu
			}
		}
	}
	return parts[0].Optimizer.Mu
}
