// Checking uploads: a stage's state must have exactly the tensors that the model and the
// optimiser give it.

package host

import (
	"fmt"
	"io"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
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
	return checkPart(at.job, at.job.Order(r.p.Data.Train.Len(), r.p.Data.Val.Len()), at.stages[g.Cluster][g.Stage], stage.Placement{Cluster: g.Cluster, Clusters: at.clusters}, in, size)
}

// checkPart checks that a file is a valid state of a stage: it has all of the stage's tensors
// and no others, with the right types and shapes, and its position is one that the run has,
// with the right number of updates. So every file that passes can be joined with the other
// stages' parts. All of that is in its header: the elements, of which there may be gigabytes, are
// counted and not held.
func checkPart(j job.Spec, run order.Run, s *graph.Stage, place stage.Placement, in io.Reader, size int64) (order.Position, []string, error) {
	p, err := snapshot.ReadOutline(in, size)
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
	for _, t := range p.Tensors {
		w, ok := want[t.Name]
		switch {
		case !ok:
			return order.Position{}, nil, fmt.Errorf("stage %d has no tensor %.80q", s.Index, t.Name)
		case w.DType != t.DType || !slices.Equal(w.Shape, t.Shape):
			return order.Position{}, nil, fmt.Errorf("tensor %.80q is %v %v, but the plan says %v %v", t.Name, t.DType, t.Shape, w.DType, w.Shape)
		}
		delete(want, t.Name)
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
	return p.Position, []string{snapshot.Weights, snapshot.Optimiser}, nil
}
