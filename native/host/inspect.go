// Checking uploads: a stage's state must have exactly the tensors that the model and the
// optimiser give it.

package host

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// maxPart returns the size limit of a stage's state as a file, in bytes.
func maxPart(j job.Spec, s *graph.Stage, p stage.Placement) int64 {
	n := int64(snapshot.HeadBytes)
	for _, t := range stage.Tensors(j, s, p) {
		n += tensorBytes(t) + int64(snapshot.Overhead(t.Name, len(t.Shape)))
	}
	return n
}

func tensorBytes(t stage.Tensor) int64 {
	n := int64(t.DType.Size())
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// inspect checks an upload for the server.
func (r *roster) inspect(g machine.Grant, in io.Reader, size int64) (order.Position, []string, error) {
	r.mu.Lock()
	at := r.attempt(g.Run)
	r.mu.Unlock()
	if g.Cluster >= len(at.stages) || g.Stage >= len(at.stages[g.Cluster]) {
		return order.Position{}, nil, fmt.Errorf("the plan of %s has no stage %d of a cluster %d", g.Run, g.Stage, g.Cluster)
	}
	b, err := io.ReadAll(io.LimitReader(in, size))
	if err != nil {
		return order.Position{}, nil, err
	}
	return checkPart(at.job, at.job.Order(r.p.Data.Train.Len(), r.p.Data.Val.Len()), at.stages[g.Cluster][g.Stage], stage.Placement{Cluster: g.Cluster, Clusters: at.clusters}, b)
}

// checkPart checks that a file is a valid state of a stage: it has all of the stage's tensors
// and no others, with the right types and shapes, and its position is one that the run has,
// with the right number of updates. So every file that passes can be joined with the other
// stages' parts.
func checkPart(j job.Spec, run order.Run, s *graph.Stage, place stage.Placement, file []byte) (order.Position, []string, error) {
	p, err := snapshot.Parse(bytes.Clone(file))
	if err == nil {
		err = run.CheckPosition(p.Position)
	}
	if err != nil {
		return order.Position{}, nil, err
	}
	want := map[string]stage.Tensor{}
	for _, t := range stage.Tensors(j, s, place) {
		want[t.Name] = t
	}
	check := func(name string, t state.Tensor) error {
		w, ok := want[name]
		dtype := state.F32
		if t.I64 != nil {
			dtype = state.I64
		}
		switch {
		case !ok:
			return fmt.Errorf("stage %d has no tensor %.80q, or the file has it twice", s.Index, name)
		case w.DType != dtype || !slices.Equal(w.Shape, t.Shape):
			return fmt.Errorf("tensor %.80q is %v %v, but the plan says %v %v", name, dtype, t.Shape, w.DType, w.Shape)
		}
		delete(want, name)
		return nil
	}
	holds := []string{snapshot.Weights}
	for _, t := range p.State {
		if err := check(t.Name, t); err != nil {
			return order.Position{}, nil, err
		}
	}
	for _, slot := range p.Optimizer.Slots {
		for _, t := range slot.Tensors {
			if err := check(snapshot.Name(slot.Name, t.Name), t); err != nil {
				return order.Position{}, nil, err
			}
		}
	}
	for name := range want {
		return order.Position{}, nil, fmt.Errorf("the tensor %.80q is missing", name)
	}
	o := p.Optimizer
	if o.Name != j.Optimizer.Name {
		return order.Position{}, nil, fmt.Errorf("it has the state of the optimiser %.40q, but the job says %q", o.Name, j.Optimizer.Name)
	}
	slots := place.Slots(j)
	if !slices.EqualFunc(o.Slots, slots, func(s snapshot.Slot, name string) bool { return s.Name == name }) {
		return order.Position{}, nil, fmt.Errorf("it has %d vectors of optimiser state, want %v in this order", len(o.Slots), slots)
	}
	if n := stage.Updates(j, run, p.Position); o.Updates != n {
		return order.Position{}, nil, fmt.Errorf("it says %d updates, but at step %d there are %d", o.Updates, p.Position.Step, n)
	}
	return p.Position, append(holds, snapshot.Optimiser), nil
}
