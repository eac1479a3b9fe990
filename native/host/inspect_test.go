package host

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// files collects the states of a run as bytes.
type files struct{ all [][]byte }

func (k *files) Loss(stage.Loss)            {}
func (k *files) Validated(stage.Validation) {}
func (k *files) Batch(int)                  {}

func (k *files) Keep(s stage.Saved) error {
	b, err := s.Part.Bytes()
	k.all = append(k.all, b)
	return err
}

// uploads returns the files that a run with one stage uploads, with the project and the stage
// to check them against.
func uploads(t testing.TB, change func(*job.Spec)) (*project.Project, *graph.Stage, [][]byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "job")
	err := project.Init(dir, "cnn", 2, func(j *job.Spec) {
		j.Epochs, j.Steps, j.ValEvery, j.SaveEvery = 2, 20, 0, 1
		change(j)
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	stages, err := p.Graph.Cut([]int{0})
	if err != nil {
		t.Fatal(err)
	}
	tr, end, err := p.Trainer(t.Context(), nil, nil)
	defer end()
	if err != nil {
		t.Fatal(err)
	}
	var k files
	if err := tr.Run(context.Background(), nil, &k); err != nil {
		t.Fatal(err)
	}
	return p, stages[0], k.all
}

func check(p *project.Project, s *graph.Stage, b []byte) (order.Position, []string, error) {
	return checkPart(p.Job, p.Job.Order(p.Data.Train.Len(), p.Data.Val.Len()), s, stage.Placement{}, bytes.NewReader(b), int64(len(b)))
}

// TestInspectTakes checks that a run's uploads are accepted, whatever state the optimiser has.
func TestInspectTakes(t *testing.T) {
	adam := func(*job.Spec) {}
	replicas := func(state, outer string) func(*job.Spec) {
		return func(j *job.Spec) {
			j.Replicas, j.ReduceFactor = 2, 3
			j.Average = job.Average{Optimizer: state, Outer: job.Outer{Name: outer}}
		}
	}
	for name, change := range map[string]func(*job.Spec){
		"adam":     adam,
		"sgd":      func(j *job.Spec) { j.Optimizer = job.Optimizer{Name: "sgd", LR: 0.1} },
		"momentum": func(j *job.Spec) { j.Optimizer = job.Optimizer{Name: "sgd", LR: 0.1, Momentum: 0.9} },
		"few":      func(j *job.Spec) { j.UpdateFrequency = 3 },
		"averaged": replicas(job.AverageState, ""), "kept": replicas(job.KeepState, "nesterov"), "reset": replicas(job.ResetState, ""),
		"gradients": func(j *job.Spec) { j.Replicas, j.Average.Of, j.UpdateFrequency = 2, job.Gradients, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			p, s, all := uploads(t, change)
			if len(all) < 2 {
				t.Fatalf("%d states", len(all))
			}
			for _, b := range all {
				at, holds, err := check(p, s, b)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(holds, []string{snapshot.Weights, snapshot.Optimiser}) || at.Step == 0 {
					t.Errorf("at %+v it holds %v", at, holds)
				}
				if most := maxPart(p.Job, s, stage.Placement{}); int64(len(b)) > most {
					t.Errorf("%d bytes, %d are allowed", len(b), most)
				}
			}
			if at, _, _ := check(p, s, all[len(all)-1]); at.Step != 20 {
				t.Errorf("the last state is of step %d", at.Step)
			}
		})
	}
}

// TestInspectRefuses checks that files which cannot be joined with other stages are refused.
func TestInspectRefuses(t *testing.T) {
	p, s, all := uploads(t, func(*job.Spec) {})
	whole := all[0]
	for _, c := range []struct {
		name, says string
		change     func(*snapshot.Part)
	}{
		{"nothing", "", func(*snapshot.Part) {}},
		{"a tensor is missing", "missing", func(q *snapshot.Part) {
			q.State = slices.DeleteFunc(q.State, func(x state.Tensor) bool { return x.I64 != nil })
		}},
		{"a tensor too many", "no tensor", func(q *snapshot.Part) {
			q.State = append(q.State, state.Tensor{Name: "more", Shape: []int{1}, F32: []float32{1}})
		}},
		{"another shape", "the plan says", func(q *snapshot.Part) {
			for i := range q.State {
				if x := &q.State[i]; len(x.Shape) > 1 && len(q.Optimizer.Slots) > 0 {
					x.Shape = []int{len(x.F32)}
					for _, o := range q.Optimizer.Slots {
						for k := range o.Tensors {
							if o.Tensors[k].Name == x.Name {
								o.Tensors[k].Shape = x.Shape
							}
						}
					}
					return
				}
			}
		}},
		{"another type", "the plan says", func(q *snapshot.Part) {
			for i := range q.State {
				if x := &q.State[i]; x.I64 != nil {
					x.I64, x.F32 = nil, make([]float32, len(x.I64))
					return
				}
			}
		}},
		{"without the optimiser's state", "missing", func(q *snapshot.Part) { q.Optimizer.Slots[1].Tensors = nil }},
		{"a vector too many", "vectors of optimiser state", func(q *snapshot.Part) {
			q.Optimizer.Slots = append(q.Optimizer.Slots, snapshot.Slot{Name: "more"})
		}},
		{"vectors in another order", "vectors of optimiser state", func(q *snapshot.Part) { slices.Reverse(q.Optimizer.Slots) }},
		{"another optimiser", "sgd", func(q *snapshot.Part) { q.Optimizer.Name = "sgd" }},
		{"an update too many", "updates", func(q *snapshot.Part) { q.Optimizer.Updates++ }},
		{"a position that is none", "position", func(q *snapshot.Part) { q.Position.Step++ }},
		{"a position behind the end", "position", func(q *snapshot.Part) { q.Position.Epoch += 100; q.Position.Step += 1700 }},
	} {
		q, err := snapshot.Parse(slices.Clone(whole))
		if err != nil {
			t.Fatal(err)
		}
		c.change(q)
		b, err := q.Bytes()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, holds, err := check(p, s, b)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || holds != nil):
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
	for _, n := range []int{0, 1, 8, 100, len(whole) / 2, len(whole) - 1} {
		if _, _, err := check(p, s, whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(whole))
		}
	}
	if _, _, err := check(p, s, append(slices.Clone(whole), 0)); err == nil {
		t.Error("a byte too many is taken")
	}
}

// FuzzInspect checks that whatever passes has the stage's tensors and can be loaded with any
// cut, and that nothing else passes.
func FuzzInspect(f *testing.F) {
	p, s, all := uploads(f, func(j *job.Spec) { j.Steps = 1 }) // every worker of the fuzzer trains its own
	good := all[0]
	head := 8 + int(good[0]) + int(good[1])<<8
	f.Add(good[:head], uint64(0))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"), uint64(1))
	f.Add([]byte{}, uint64(2))
	names := map[string]bool{}
	for _, t := range stage.Tensors(p.Job, s, stage.Placement{}) {
		names[t.Name] = true
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		// The header is the fuzzer's, or a valid one with some bytes changed, followed by data
		// of the right length.
		rng := rand.New(rand.NewPCG(seed, 1))
		if seed%2 == 1 {
			h := slices.Clone(good[:head])
			for range 1 + rng.IntN(3) {
				h[rng.IntN(len(h))] = byte(rng.Uint32())
			}
			b = h
		}
		file := append(slices.Clone(b), good[head:]...)
		before := slices.Clone(file)
		at, _, err := check(p, s, file)
		if !slices.Equal(file, before) {
			t.Fatal("the file was changed")
		}
		if err != nil {
			return
		}
		part, err := snapshot.Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		n := len(part.State)
		for _, o := range part.Optimizer.Slots {
			n += len(o.Tensors)
		}
		if n != len(names) || part.Position != at {
			t.Fatalf("%d tensors of %d at %+v", n, len(names), at)
		}
		tr, end, err := p.Trainer(t.Context(), nil, nil)
		defer end()
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Resume(part); err != nil {
			t.Fatalf("an accepted file cannot be resumed from: %v", err)
		}
	})
}
