package stage_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// optimizers are those with different state.
var optimizers = map[string]job.Optimizer{
	"sgd":      {Name: "sgd", LR: 0.05},
	"momentum": {Name: "sgd", LR: 0.05, Momentum: 0.9, Dampening: 0.1},
	"adam":     job.Default().Optimizer,
	"nadam":    {Name: "nadam", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3},
}

// small is a GPT with dropout on random tokens.
func small(change func(*job.Spec)) *world {
	w := newWorld(func(j *job.Spec) {
		j.Loss, j.Epochs, j.BatchSize, j.MicroBatches = "cross_entropy", 2, 8, 2
		if change != nil {
			change(j)
		}
	})
	w.g = zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 8, Tokens: 7, Vocab: 5, Dropout: 0.2})
	w.tx, w.vx = integers(30, 7, 0, 5, 1), integers(9, 7, 0, 5, 3)
	w.ty, w.vy = labelled{integers(30, 7, 0, 5, 2)}, labelled{integers(9, 7, 0, 5, 4)}
	return w
}

// at stops, or asks for a checkpoint, before update n.
func at(n int, m order.Mark) func() order.Mark {
	asked := 0
	return func() order.Mark {
		if asked++; asked == n+1 {
			return m
		}
		return order.Continue
	}
}

// parts are what the stages of the last pipeline kept last, or the i-th time.
func (w *world) parts(i int) []*snapshot.Part {
	var ps []*snapshot.Part
	for _, l := range w.logs {
		if i < 0 {
			ps = append(ps, l.saved[len(l.saved)-1].Part)
		} else {
			ps = append(ps, l.saved[i].Part)
		}
	}
	return ps
}

// TestResume: a run that is stopped at any update and taken up by stages that are cut
// differently, or by one process, ends with the losses, validations, weights and statistics
// of the undisturbed run.
func TestResume(t *testing.T) {
	for name, opt := range optimizers {
		for _, w := range []*world{
			newWorld(func(j *job.Spec) { j.Optimizer, j.MicroBatches, j.LR = opt, 2, job.LR{Name: "exponential", Gamma: 0.5} }),
			small(func(j *job.Spec) { j.Optimizer = opt }),
		} {
			t.Run(name+"/"+w.g.Name, func(t *testing.T) {
				want, dict := w.local(t)
				updates := len(want.losses)
				cuts := []int{1, 2, 3, 5}
				for i, n := range cuts {
					stop := 1 + (i*3+2)%(updates-1)
					before, _, err := w.pipeline(t, w.starts(n), mem.Faults{}, at(stop, order.Stop))
					if err != nil {
						t.Fatal(err)
					}
					parts := w.parts(-1)
					if len(before.losses) != stop || parts[0].Position.Step != uint64(stop) {
						t.Fatalf("stopped at update %d: %d losses, %+v", stop, len(before.losses), parts[0].Position)
					}
					slices.Reverse(parts) // in no order
					other := cuts[(i+1)%len(cuts)]
					after, d, err := w.resume(t, w.starts(other), mem.Faults{}, nil, parts)
					if err != nil {
						t.Fatal(err)
					}
					joined := &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}
					equal(t, fmt.Sprintf("%d stages, stopped at %d, %d stages", n, stop, other), joined, want, d, dict)

					alone, own := w.takeUp(t, parts)
					joined = &log{losses: slices.Concat(before.losses, alone.losses), vals: slices.Concat(before.vals, alone.vals)}
					equal(t, fmt.Sprintf("%d stages, stopped at %d, one process", n, stop), joined, want, own, dict)
				}
			})
		}
	}
}

// TestResumeFromCheckpoint: what was kept in passing does as well, and the whole state at
// the end is the same as the undisturbed run's, the optimiser's included.
func TestResumeFromCheckpoint(t *testing.T) {
	w := small(nil)
	if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, at(3, order.Checkpoint)); err != nil {
		t.Fatal(err)
	}
	kept, want := w.parts(0), w.parts(-1)
	if kept[0].Position.Step != 3 {
		t.Fatalf("kept at %+v", kept[0].Position)
	}
	if _, _, err := w.resume(t, w.starts(3), mem.Faults{}, nil, kept); err != nil {
		t.Fatal(err)
	}
	for k, p := range w.parts(-1) {
		a, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		b, err := want[k].Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("stage %d ends with another state", k)
		}
	}
}

// TestResumeAsync: where updates overlap, a run goes on exactly from a place where the
// pipeline was drained, if the cut is the same.
func TestResumeAsync(t *testing.T) {
	w := small(func(j *job.Spec) {
		j.Schedule, j.SaveEvery = job.Async, 1
		j.Optimizer = job.Optimizer{Name: "nadam", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MomentumDecay: 4e-3, StageMomentum: true}
	})
	for _, n := range []int{2, 3, 5} {
		want, dict, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		parts := w.parts(0)
		step := int(parts[0].Position.Step)
		if step == 0 || step >= len(want.losses) {
			t.Fatalf("kept at step %d of %d", step, len(want.losses))
		}
		got, d, err := w.resume(t, w.starts(n), mem.Faults{}, nil, parts)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("%d stages", n), got, &log{losses: want.losses[step:], vals: want.vals[1:]}, d, dict)
	}
}

// TestResumeAtTheEnd: a run that is over has nothing left to do, and does not fail.
func TestResumeAtTheEnd(t *testing.T) {
	w := newWorld(func(j *job.Spec) { j.Steps = 7 })
	_, dict, err := w.pipeline(t, w.starts(2), mem.Faults{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, d, err := w.resume(t, w.starts(3), mem.Faults{}, nil, w.parts(-1))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.losses) != 0 || d.Hash() != dict.Hash() {
		t.Errorf("%d losses after the end", len(got.losses))
	}
}

// TestLoadRefuses: parts that do not make up the stage are refused, and nothing changes.
func TestLoadRefuses(t *testing.T) {
	w := newWorld(nil)
	if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, at(4, order.Stop)); err != nil {
		t.Fatal(err)
	}
	cut, err := w.g.Cut(w.starts(2)[:1])
	if err != nil {
		t.Fatal(err)
	}
	c, err := stage.Compile(w.job, cut[0], stage.Placement{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := stage.New(c, w.config(nil))
	if err != nil {
		t.Fatal(err)
	}
	before := s.State().Hash()
	edit := func(f func(ps []*snapshot.Part)) []*snapshot.Part {
		var ps []*snapshot.Part
		for _, p := range w.parts(-1) {
			b, err := p.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			q, err := snapshot.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			ps = append(ps, q)
		}
		f(ps)
		return ps
	}
	for name, f := range map[string]func(ps []*snapshot.Part){
		"another optimizer": func(ps []*snapshot.Part) {
			for _, p := range ps {
				p.Optimizer.Name = "adamw"
			}
		},
		"a slot of another name": func(ps []*snapshot.Part) {
			for _, p := range ps {
				p.Optimizer.Slots[0].Name = "momentum_buffer"
			}
		},
		"no slots": func(ps []*snapshot.Part) {
			for _, p := range ps {
				p.Optimizer.Slots = nil
			}
		},
		"a missing weight":    func(ps []*snapshot.Part) { ps[1].State = ps[1].State[1:] },
		"a missing moment":    func(ps []*snapshot.Part) { ps[1].Optimizer.Slots[1].Tensors = nil },
		"another shape":       func(ps []*snapshot.Part) { ps[0].State[0].F32 = ps[0].State[0].F32[1:] },
		"different positions": func(ps []*snapshot.Part) { ps[2].Position.Step++ },
		"no such position": func(ps []*snapshot.Part) {
			for _, p := range ps {
				p.Position = order.Position{Epoch: 1, Batch: 1, Step: 9, Seq: 20}
			}
		},
	} {
		if err := s.Load(edit(f)...); err == nil || !(errors.Is(err, snapshot.ErrFormat) || errors.Is(err, order.ErrPosition)) {
			t.Errorf("%s: %v", name, err)
		}
		if s.State().Hash() != before {
			t.Errorf("%s: the stage has changed", name)
		}
	}
	if err := s.Load(); err == nil {
		t.Error("no parts: no error")
	}
	if err := s.Load(w.parts(-1)[:2]...); err == nil {
		t.Error("a part is missing: no error")
	}
	if err := s.Load(w.parts(-1)...); err != nil || s.State().Hash() == before {
		t.Errorf("the right parts: %v", err)
	}
}

// TestTensors: what a stage keeps is what was said before.
func TestTensors(t *testing.T) {
	w := newWorld(nil)
	if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, at(1, order.Stop)); err != nil {
		t.Fatal(err)
	}
	cut, err := w.g.Cut(w.starts(3))
	if err != nil {
		t.Fatal(err)
	}
	for k, p := range w.parts(-1) {
		got := map[string][]int{}
		for _, e := range p.State {
			got[e.Name] = e.Shape
		}
		for _, s := range p.Optimizer.Slots {
			for _, e := range s.Tensors {
				got[snapshot.Name(s.Name, e.Name)] = e.Shape
			}
		}
		want := stage.Tensors(w.job, cut[k], stage.Placement{})
		if len(got) != len(want) {
			t.Errorf("stage %d keeps %d tensors, %d were announced", k, len(got), len(want))
		}
		for _, e := range want {
			if shape, ok := got[e.Name]; !ok || !slices.Equal(shape, e.Shape) {
				t.Errorf("stage %d: %s is %v, %v was announced", k, e.Name, shape, e.Shape)
			}
		}
	}
}

// trainer is the whole job in one process.
func (w *world) trainer(t *testing.T) *train.Trainer {
	t.Helper()
	tr, err := train.New(train.Config{Job: w.job, Record: w.record, Graph: w.g, TrainX: w.tx, TrainY: w.ty, ValX: w.vx, ValY: w.vy, Order: shuffle})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// takeUp is what one process makes of the rest of the job, from parts on.
func (w *world) takeUp(t *testing.T, parts []*snapshot.Part) (*log, state.Dict) {
	t.Helper()
	tr, l := w.trainer(t), &log{}
	if err := tr.Resume(parts...); err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(t.Context(), nil, l); err != nil {
		t.Fatal(err)
	}
	return l, tr.State()
}
