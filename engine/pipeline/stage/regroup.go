// What becomes of the state where the number of replicas changes. Weights and running statistics
// are one between two rounds. Optimizers that replicas keep for themselves become one, the mean
// of theirs, which all of the new ones begin with; it is taken element by element, so that no cut
// moves a bit. Optimizers that begin anew with every round of several replicas begin anew. The
// outer rule's momentum goes on; one replica has none, so that behind it there is none yet.

package stage

import (
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
)

// regroup returns parts with the slots of a run's replicas. They have those of the period
// before if it ends where they are; else they are returned as they are.
func regroup(j job.Spec, run order.Run, l *exec.Layout, parts []*snapshot.Part) ([]*snapshot.Part, error) {
	ps := run.Periods
	if len(ps) < 2 || len(parts) == 0 || parts[0].Position.Step != ps[len(ps)-1].Step {
		return parts, nil
	}
	before := j
	before.Replicas = job.Count(ps[len(ps)-2].Replicas)
	have := names(parts)
	anew := j.Averaging().Optimizer == job.ResetState && before.Replica() == 1
	if !alike(have, Slots(before)) || alike(have, Slots(j)) && !anew {
		return parts, nil // Load knows them, or says what is wrong
	}
	all, err := snapshot.Join(parts...)
	if err != nil {
		return nil, err
	}
	slots := map[string]state.Dict{}
	for _, s := range all.Optimizer.Slots {
		slots[s.Name] = s.Tensors
	}
	keeps := j.Averaging().Optimizer == job.KeepState
	all.Optimizer.Slots = nil
	if anew {
		o, err := optim.New(j.Optimizer, 0, optim.Delay{})
		if err != nil {
			return nil, err
		}
		all.Optimizer.Updates, all.Optimizer.Mu = 0, o.State().Mu
	}
	for _, name := range optim.Slots(j.Optimizer) {
		d := slots[name]
		if anew {
			d = zeros(l)
		}
		if keeps && before.Replica() > 1 {
			of := []state.Dict{d}
			for k := 1; k < before.Replica(); k++ {
				of = append(of, slots[keptSlot(name, k)])
			}
			if d, err = meanOf(of, name == rootedSlot); err != nil {
				return nil, fmt.Errorf("%w: the optimizer's %s: %w", snapshot.ErrFormat, name, err)
			}
		}
		all.Optimizer.Slots = append(all.Optimizer.Slots, snapshot.Slot{Name: name, Tensors: d})
		for k := 1; keeps && k < j.Replica(); k++ {
			all.Optimizer.Slots = append(all.Optimizer.Slots, snapshot.Slot{Name: keptSlot(name, k), Tensors: d})
		}
	}
	if j.Replica() > 1 && j.Averaging().Outer.Name != "none" {
		d, ok := slots[outerSlot]
		if !ok {
			d = zeros(l)
		}
		all.Optimizer.Slots = append(all.Optimizer.Slots, snapshot.Slot{Name: outerSlot, Tensors: d})
	}
	return []*snapshot.Part{all}, nil
}

// names are the slots of parts, each once.
func names(parts []*snapshot.Part) []string {
	var all []string
	for _, p := range parts {
		for _, s := range p.Optimizer.Slots {
			if !slices.Contains(all, s.Name) {
				all = append(all, s.Name)
			}
		}
	}
	return all
}

// alike tells whether two lists without repetitions have the same names.
func alike(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// meanOf is the mean of what replicas have of each tensor: the mean of the roots, squared, of
// second moments, as in an average. It is computed in float64, replica by replica, and rounded
// once, so that equal replicas have their own value as the mean wherever it can be told.
func meanOf(of []state.Dict, roots bool) (state.Dict, error) {
	mean := make(state.Dict, len(of[0]))
	for i, t := range of[0] {
		x := make([]float32, len(t.F32))
		others := make([][]float32, len(of))
		for k, d := range of {
			u, ok := d.Get(t.Name)
			if !ok || len(u.F32) != len(x) {
				return nil, fmt.Errorf("replica %d has %d elements of %q, replica 0 has %d", k, len(u.F32), t.Name, len(x))
			}
			others[k] = u.F32
		}
		for e := range x {
			sum := 0.0
			for _, o := range others {
				v := float64(o[e])
				if roots {
					v = math.Sqrt(v)
				}
				sum += v
			}
			sum /= float64(len(of))
			if roots {
				sum *= sum
			}
			x[e] = float32(sum)
		}
		t.F32 = x
		mean[i] = t
	}
	return mean, nil
}

// zeros is a slot of zeros for what a layout trains.
func zeros(l *exec.Layout) (d state.Dict) {
	for _, e := range l.Entries {
		if e.Role == graph.Trainable {
			d = append(d, state.Tensor{Name: e.Full, Shape: e.Shape, F32: make([]float32, e.Elems())})
		}
	}
	return d
}
