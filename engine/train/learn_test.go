package train_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
)

// learned is a run's losses.
type learned struct{ losses []float32 }

func (l *learned) Loss(x stage.Loss)          { l.losses = append(l.losses, x.Value) }
func (*learned) Validated(v stage.Validation) {}
func (*learned) Batch(int)                    {}
func (*learned) Keep(stage.Saved) error       { return nil }

// given is a table of a golden file: values, or classes.
type given struct {
	t   state.Tensor
	per int
}

func (g given) Len() int       { return g.t.Shape[0] }
func (g given) Labelled() bool { return g.t.I64 != nil }

func (g given) Gather(dst []float32, rows []int32) {
	for i, r := range rows {
		copy(dst[i*g.per:][:g.per], g.t.F32[int(r)*g.per:])
	}
}

func (g given) Labels(dst, rows []int32) {
	for i, r := range rows {
		dst[i] = int32(g.t.I64[r])
	}
}

// TestGoldenLearning holds what a job may say about how it learns against PyTorch: clipping,
// frozen parameters, groups without weight decay, LAMB and schedules with warm-up.
func TestGoldenLearning(t *testing.T) {
	f := golden.MustOpen(t, "learn")
	n := func(name string, op graph.Op, in string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: []string{in}}
	}
	cases := slices.DeleteFunc(f.Cases(), func(name string) bool { return name == "data" })
	if len(cases) < 10 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, name := range cases {
		t.Run(name, func(t *testing.T) {
			var m map[string]any
			f.Describe(name, &m)
			m["version"], m["loss"], m["epochs"], m["batch_size"] = 1, "cross_entropy", 2, 8
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			j, err := job.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			g := &graph.Graph{Name: "learner", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{6}}}, Output: "b", Nodes: []graph.Node{
				n("a", &graph.Linear{In: 6, Out: 8, Bias: true}, "x"), n("n", &graph.LayerNorm{Shape: []int{8}, Eps: 1e-5, Affine: true}, "a"),
				n("r", &graph.ReLU{}, "n"), n("b", &graph.Linear{In: 8, Out: 3, Bias: true}, "r"),
			}}
			if err := g.Check(); err != nil {
				t.Fatal(err)
			}
			if j.Freeze != nil {
				if g, err = g.Freeze(j.Freeze); err != nil {
					t.Fatal(err)
				}
			}
			x, y := given{f.Tensor("data.x"), 6}, given{f.Tensor("data.y"), 1}
			inOrder := func(dst []int32, _ uint64, _ int) {
				for i := range dst {
					dst[i] = int32(i)
				}
			}
			tr, err := train.New(train.Config{Job: j, Graph: g, TrainX: x, TrainY: y, ValX: given{state.Tensor{Shape: []int{0}}, 6}, ValY: given{state.Tensor{Shape: []int{0}}, 1}, Order: inOrder})
			if err != nil {
				t.Fatal(err)
			}
			var begin state.Dict
			for _, w := range tr.State() {
				v := f.Tensor("data.init." + w.Name)
				v.Name = w.Name
				begin = append(begin, v)
			}
			if err := tr.Load(begin); err != nil {
				t.Fatal(err)
			}
			var l learned
			if err := tr.Run(t.Context(), nil, &l); err != nil {
				t.Fatal(err)
			}
			golden.Near(t, "losses", l.losses, f.F32(name+".losses"), 2e-6)
			for _, w := range tr.State() {
				golden.Near(t, w.Name, w.F32, f.F32(name+".after."+w.Name), 1e-5)
				for _, frozen := range j.Freeze {
					if before, _ := begin.Get(w.Name); frozen == w.Name && !slices.Equal(before.F32, w.F32) {
						t.Errorf("%s is frozen and has changed", w.Name)
					}
				}
			}
			if strings.HasPrefix(name, "frozen") && tr.State().Hash() == begin.Hash() {
				t.Error("nothing has changed")
			}
		})
	}
}
