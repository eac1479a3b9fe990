package train_test

import (
	"math"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/zoo"
)

// kept is an observer that keeps losses and states.
type kept struct {
	losses []stage.Loss
	states [][]byte
}

func (k *kept) Loss(l stage.Loss)          { k.losses = append(k.losses, l) }
func (k *kept) Validated(stage.Validation) {}
func (k *kept) Batch(int)                  {}
func (k *kept) Keep(s stage.Saved) error {
	b, err := s.Part.Bytes()
	k.states = append(k.states, b)
	return err
}

// example is a trainer of an example whose job is changed.
func example(t *testing.T, name string, change func(*job.Spec)) *train.Trainer {
	t.Helper()
	e, err := zoo.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := data.Builtin(e.Job.Data)
	if err != nil {
		t.Fatal(err)
	}
	j := e.Job
	j.ValEvery, j.SaveEvery = 0, 0
	change(&j)
	if err := j.Check(); err != nil {
		t.Fatal(err)
	}
	tr, err := train.New(train.Config{
		Job: j, Graph: e.Graph, Order: data.Order, Team: kernel.NewTeam(1),
		TrainX: d.Train.X(), TrainY: d.Train.Y(), ValX: d.Val.X(), ValY: d.Val.Y(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func run(t *testing.T, tr *train.Trainer, mark func() order.Mark) *kept {
	t.Helper()
	k := &kept{}
	if err := tr.Run(t.Context(), mark, k); err != nil {
		t.Fatal(err)
	}
	return k
}

// apart is the largest difference of two states' weights, over the largest weight.
func apart(a, b state.Dict) float64 {
	far, most := 0.0, 0.0
	for i, t := range a {
		for e, v := range t.F32 {
			far = max(far, math.Abs(float64(v)-float64(b[i].F32[e])))
			most = max(most, math.Abs(float64(v)))
		}
	}
	return far / most
}

// TestReplicasAreOneLargerBatch: the average of one plain SGD update of each of R replicas is
// the update of a batch R times as large, and so is the sum of the gradients of R parts of
// such a batch.
func TestReplicasAreOneLargerBatch(t *testing.T) {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 12, Tokens: 10, Vocab: 5}) // labels of a row do not depend on its place in a batch
	sgd := func(j *job.Spec) {
		j.Optimizer = job.DefaultOptimizer("sgd")
		j.Optimizer.LR = 0.1
	}
	for _, n := range []int{2, 4} {
		whole := newTrainer(t, g, 8*n, 6, 1, sgd)
		want := run(t, whole, nil)
		averaged := newTrainer(t, g, 8, 6*n, 1, func(j *job.Spec) { sgd(j); j.Replicas, j.ReduceFactor = job.Count(n), 1 })
		got := run(t, averaged, nil)
		if d := apart(averaged.State(), whole.State()); d > 2e-6 {
			t.Errorf("%d replicas' parameters are %g from those of the larger batch", n, d)
		}
		for i, l := range want.losses {
			mean := float32(0)
			for k := range n {
				mean += got.losses[i*n+k].Value / float32(n)
			}
			if math.Abs(float64(mean-l.Value)) > 1e-5*float64(l.Value) {
				t.Errorf("%d replicas: the mean loss of round %d is %v, that of the larger batch %v", n, i, mean, l.Value)
			}
		}
		split := newTrainer(t, g, 8*n, 6, 1, func(j *job.Spec) { sgd(j); j.Replicas, j.Average.Of = job.Count(n), job.Gradients })
		got = run(t, split, nil)
		if d := apart(split.State(), whole.State()); d > 2e-6 {
			t.Errorf("gradients of %d replicas: the parameters are %g from those of one", n, d)
		}
		for i, l := range want.losses {
			if math.Abs(float64(got.losses[i].Value-l.Value)) > 1e-5*float64(l.Value) {
				t.Errorf("gradients of %d replicas: loss %d is %v, of one %v", n, i, got.losses[i].Value, l.Value)
			}
		}
		if split.State().Hash() == whole.State().Hash() {
			t.Errorf("gradients of %d replicas: not one bit differs, so that nothing was split", n)
		}
	}
}

// ways are jobs that average in every way there is.
var ways = map[string]func(*job.Spec){
	"parameters":     func(*job.Spec) {},
	"keep":           func(j *job.Spec) { j.Average.Optimizer = job.KeepState },
	"keep, nadam":    func(j *job.Spec) { j.Average.Optimizer = job.KeepState; j.Optimizer = job.DefaultOptimizer("nadam") },
	"reset":          func(j *job.Spec) { j.Average.Optimizer = job.ResetState },
	"outer":          func(j *job.Spec) { j.Average.Outer.Name = "nesterov" },
	"4 bits, groups": func(j *job.Spec) { j.Average.Bits, j.UpdateFrequency = 4, 2 },
	"momentum": func(j *job.Spec) {
		j.Optimizer = job.DefaultOptimizer("sgd")
		j.Optimizer.Momentum = 0.9
	},
	"gradients":         func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 },
	"gradients, groups": func(j *job.Spec) { j.Average.Of, j.ReduceFactor, j.UpdateFrequency = job.Gradients, 0, 3 },
	"gradients, 8 bits": func(j *job.Spec) { j.Average.Of, j.ReduceFactor, j.Average.Bits = job.Gradients, 0, 8 },
}

// TestReplicasResume: a run of replicas has its losses in the order of batches, one for each,
// and ends with the same bytes when it is interrupted between any two rounds, also where the
// replicas do not divide an epoch's batches.
func TestReplicasResume(t *testing.T) {
	for name, way := range ways {
		for _, model := range []string{"cnn", "gpt-sorter"} {
			if model != "cnn" && name != "keep" && name != "gradients, groups" {
				continue
			}
			t.Run(name+"/"+model, func(t *testing.T) {
				change := func(j *job.Spec) {
					j.BatchSize, j.Epochs, j.Steps, j.Replicas, j.ReduceFactor = 200, 3, 19, 3, 2
					way(j)
				}
				asked := 0
				whole := example(t, model, change)
				all := run(t, whole, func() order.Mark {
					asked++
					return order.Checkpoint
				})
				if len(all.states) != asked+1 {
					t.Fatalf("%d states of %d rounds", len(all.states), asked)
				}
				for i, l := range all.losses {
					if l.Step != uint64(i) || l.Value-l.Value != 0 {
						t.Fatalf("loss %d is %v of step %d", i, l.Value, l.Step)
					}
				}
				want := whole.State().Hash()
				for i, b := range all.states[:asked] {
					if i != asked/2 && i != asked-1 {
						continue
					}
					p, err := snapshot.Parse(b)
					if err != nil {
						t.Fatal(err)
					}
					tr := example(t, model, change)
					if err := tr.Resume(p); err != nil {
						t.Fatal(err)
					}
					k := run(t, tr, nil)
					if !slices.Equal(k.losses, all.losses[p.Position.Step:]) || tr.State().Hash() != want {
						t.Errorf("taken up at %+v: other losses or bytes", p.Position)
					}
					if !slices.Equal(k.states[len(k.states)-1], all.states[asked]) {
						t.Errorf("taken up at %+v: the last state is another", p.Position)
					}
				}
			})
		}
	}
}

// TestReplicasAndMicroBatches: where micro-batches change no bit they change none of several
// replicas either.
func TestReplicasAndMicroBatches(t *testing.T) {
	for _, of := range job.AverageOf {
		var want [32]byte
		for _, m := range []int{1, 2, 5} {
			tr := example(t, "gpt-sorter", func(j *job.Spec) {
				j.BatchSize, j.Steps, j.Replicas, j.MicroBatches, j.Average.Of = 20, 7, 3, m, of
			})
			run(t, tr, nil)
			if h := tr.State().Hash(); m == 1 {
				want = h
			} else if h != want {
				t.Errorf("%s, %d micro-batches: other weights than in one", of, m)
			}
		}
	}
}

// TestEachWayCounts: every setting of an average makes a difference, and counters count the
// batches of all replicas.
func TestEachWayCounts(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, c := range []struct {
		name   string
		change func(*job.Spec)
	}{
		{"one", func(j *job.Spec) { j.Replicas = 1 }},
		{"two", func(*job.Spec) {}},
		{"three", func(j *job.Spec) { j.Replicas = 3 }},
		{"rounds of 1", func(j *job.Spec) { j.ReduceFactor = 1 }},
		{"keep", func(j *job.Spec) { j.Average.Optimizer = job.KeepState }},
		{"reset", func(j *job.Spec) { j.Average.Optimizer = job.ResetState }},
		{"8 bits", func(j *job.Spec) { j.Average.Bits = 8 }},
		{"outer", func(j *job.Spec) { j.Average.Outer.Name = "nesterov" }},
		{"outer lr", func(j *job.Spec) { j.Average.Outer = job.Outer{Name: "nesterov", LR: 0.5} }},
		{"gradients", func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 }},
	} {
		tr := example(t, "cnn", func(j *job.Spec) {
			j.BatchSize, j.Steps, j.Replicas, j.ReduceFactor = 30, 9, 2, 2
			c.change(j)
		})
		run(t, tr, nil)
		d := tr.State()
		if other, ok := seen[d.Hash()]; ok {
			t.Errorf("%s and %s end alike", c.name, other)
		}
		seen[d.Hash()] = c.name
		counters := 0
		for _, e := range d {
			if e.I64 != nil {
				if counters++; e.I64[0] != 9 {
					t.Errorf("%s: %s is %d after 9 batches", c.name, e.Name, e.I64[0])
				}
			}
		}
		if counters == 0 {
			t.Fatal("the model counts nothing")
		}
	}
}

// TestBitsOfAJob: a job takes the widths that the arithmetic has.
func TestBitsOfAJob(t *testing.T) {
	for bits := range 40 {
		j := job.Default()
		j.Replicas, j.Average.Bits = 2, bits
		if got, want := j.Check() == nil, bits == 0 || (average.Rule{Bits: bits}).Check(2) == nil; got != want {
			t.Errorf("%d bits: the job is accepted: %v, the rule: %v", bits, got, want)
		}
	}
}
