// The models of the zoo against PyTorch: logits, loss and every gradient of small ones,
// and the state dicts of the real ones.

package golden_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/zoo"
)

// The small models, by case.
var small = map[string]*graph.Graph{
	"gpt":               zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 16, Tokens: 11, Vocab: 3}),
	"gpt_long":          zoo.GPT(zoo.GPTConfig{Name: "gpt_long", Layers: 1, Heads: 2, Width: 12, Tokens: 70, Vocab: 5}),
	"resnet":            zoo.ResNet(zoo.ResNetConfig{Name: "resnet", Blocks: [4]int{1, 1, 1, 1}, Width: 8, Image: 64, Classes: 7}),
	"resnet_bottleneck": zoo.ResNet(zoo.ResNetConfig{Name: "resnet_bottleneck", Blocks: [4]int{1, 2, 1, 1}, Bottleneck: true, Width: 4, Image: 64, Classes: 5}),
	"bert":              zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 2, Heads: 2, Width: 16, Inner: 32, Tokens: 12, Positions: 20, Vocab: 40, Classes: 3}),
}

// noise is make_goldens.py's function of that name.
func noise(seed uint32, dst []float32) {
	for i := range dst {
		u := uint32(i)*2654435761 + seed*0x9E3779B1
		u = (u ^ u>>15) * 2246822519
		u = (u ^ u>>13) * 3266489917
		dst[i] = float32(u>>16)/32768 - 1
	}
}

// setWeights is make_goldens.py's weights.
func setWeights(p *exec.Plan, st exec.State) {
	for k, e := range p.Layout.Entries {
		if e.Role == graph.Counter {
			continue
		}
		v := st.Params
		if e.Role == graph.Buffer {
			v = st.Buffers
		}
		v = v[e.Off:][:e.Elems()]
		noise(uint32(k+1), v)
		scale, shift := float32(1)/8, float32(0)
		switch {
		case len(e.Shape) > 1:
			scale = float32(math.Ldexp(1, -int(math.RoundToEven(math.Log2(math.Sqrt(float64(e.Elems()/e.Shape[0])))))))
		case strings.HasSuffix(e.Full, "weight") || strings.HasSuffix(e.Full, "running_var"):
			scale, shift = 1.0/4, 1
		}
		for i, x := range v {
			v[i] = float32(x*scale) + shift
		}
	}
}

// sampled takes every n-th of many elements.
func sampled(x []float32) []float32 {
	const samples = 192
	var s []float32
	for i := 0; i < len(x); i += (len(x) + samples - 1) / samples {
		s = append(s, x[i])
	}
	return s
}

func norm(x []float32) float64 {
	s := 0.0
	for _, v := range x {
		s += float64(v) * float64(v)
	}
	return math.Sqrt(s)
}

// The tolerance of a whole model, relative to the largest number of a tensor: both sides
// round sums of hundreds of terms in other orders, through up to fifty operations and back;
// batch norm over a dozen values divides by small deviations. Some gradients nearly cancel
// (softmax does not see the bias of a key, a later batch norm hardly that of an earlier one):
// a hundredth of the model's largest is the least measure for them.
const deep = 2e-5

func TestModels(t *testing.T) {
	f := golden.MustOpen(t, "models")
	for name, g := range small {
		for _, c := range []struct {
			threads int
			split   bool
		}{{1, false}, {2, true}} {
			t.Run(fmt.Sprintf("%s,threads=%d,split=%v", name, c.threads, c.split), func(t *testing.T) {
				team := kernel.NewTeam(c.threads)
				defer team.Close()
				modelStep(t, f, name, g, c.split, team)
			})
		}
	}
}

func modelStep(t *testing.T, f *golden.File, name string, g *graph.Graph, split bool, team *kernel.Team) {
	out := g.OutputValue()
	logits := f.Tensor(name + ".logits")
	rows, cols := logits.Shape[0], logits.Shape[len(logits.Shape)-1]
	p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}, Split: split})
	if err != nil {
		t.Fatal(err)
	}
	e, st, grads := p.New(team), p.Layout.NewState(), make([]float32, p.Layout.Grads)
	setWeights(p, st)
	x := e.Value(0, 0, rows)
	if g.Inputs[0].Constant {
		for i, v := range f.I64(name + ".x") {
			x[i] = float32(v)
		}
	} else {
		noise(100, x)
	}
	var y []int32
	terms := 0 // of the loss: the rows that have a class
	for _, v := range f.I64(name + ".y") {
		y = append(y, int32(v))
		if v != kernel.IgnoreIndex {
			terms++
		}
	}
	e.Forward(0, exec.Batch{Rows: rows}, st.Params, &st)
	answer := e.Value(0, out, rows)
	golden.Near(t, "logits", answer, logits.F32, deep)
	sum := kernel.CrossEntropy(e.Grad(0, out, rows), answer, y, len(y), cols, 1/float32(terms))
	golden.Near(t, "loss", []float32{sum / float32(terms)}, f.F32(name+".loss"), deep)
	if split {
		e.BackwardInput(0, st.Params)
		e.BackwardWeight(0, st.Params, grads, false)
	} else {
		e.Backward(0, st.Params, grads, false)
	}
	var d struct {
		Gradients []string `json:"gradients"`
	}
	f.Describe(name, &d)
	norms := f.F32(name + ".norms")
	largest, compared := 0.0, 0
	for _, n := range norms {
		largest = max(largest, float64(n))
	}
	after := p.Layout.Export(st)
	for i, w := range p.Layout.Entries {
		switch w.Role {
		case graph.Buffer:
			golden.Near(t, w.Full, after[i].F32, f.F32(name+".after."+w.Full), deep)
		case graph.Trainable:
			if compared >= len(d.Gradients) || d.Gradients[compared] != w.Full {
				t.Fatalf("parameter %d is %s, PyTorch has %v", compared, w.Full, d.Gradients)
			}
			got, want := grads[w.Off:][:w.Elems()], float64(norms[compared])
			compared++
			if n := norm(got); math.Abs(n-want) > deep*max(want, largest/100) {
				t.Errorf("gradient of %s has the norm %g, PyTorch's %g", w.Full, n, want)
			}
			if diff := golden.Compare(sampled(got), f.F32(name+".grad."+w.Full)); !(diff.Rel() <= deep) && !(diff.Abs <= deep*largest/100) {
				t.Errorf("gradient of %s: %v", w.Full, diff)
			}
		}
	}
	if compared != len(d.Gradients) {
		t.Errorf("%d gradients, PyTorch has %d", compared, len(d.Gradients))
	}
}

// TestStateDicts: the examples have the names and shapes of the models that they are
// named after.
func TestStateDicts(t *testing.T) {
	f := golden.MustOpen(t, "models")
	for _, name := range zoo.Names() {
		switch name {
		case "cnn", "resnet50-tiny", "inception_v3", "bert-pretrain": // compared with its weights; resnet50 with more classes; in package zoo
			continue
		}
		want := map[string][]int{}
		f.Describe("names."+name, &want)
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range e.Graph.Params() {
			s, ok := want[p.Full]
			if !ok {
				t.Errorf("%s: PyTorch's has no %s", name, p.Full)
			} else if fmt.Sprint(s) != fmt.Sprint(p.Shape) {
				t.Errorf("%s: %s is %v, PyTorch's %v", name, p.Full, p.Shape, s)
			}
			delete(want, p.Full)
		}
		for n := range want {
			t.Errorf("%s has no %s", name, n)
		}
	}
}
