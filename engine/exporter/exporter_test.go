package exporter_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/exporter"
	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/zoo"
)

// answers runs a model in evaluation mode on rows of numbers.
func answers(t *testing.T, g *graph.Graph, d state.Dict, rows int, tokens int) []float32 {
	t.Helper()
	out := g.OutputValue()
	p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Outputs: []int{out}})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Layout.NewState()
	if err := p.Layout.Import(s, p.Layout.Select(d)); err != nil {
		t.Fatal(err)
	}
	e := p.New(nil)
	for i := range g.Inputs {
		x := e.Value(0, i, rows)
		kernel.Normal(x, kernel.NewStream(7, kernel.DomainTest, uint64(i), 0))
		if g.Inputs[i].Constant {
			for k, v := range x {
				x[k] = float32(int(1000*math.Abs(float64(v))) % tokens)
			}
		}
	}
	e.Forward(0, exec.Batch{Rows: rows}, s.Params, &s)
	return e.Value(0, out, rows)
}

// back writes a model as ONNX and imports that.
func back(t *testing.T, g *graph.Graph, d state.Dict) *importer.Model {
	t.Helper()
	m, err := exporter.ONNX(g, d)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	if m, err = onnx.Parse(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	again, err := importer.ImportONNX(m, nil, importer.Options{Name: g.Name})
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func same(t *testing.T, name string, g *graph.Graph, d state.Dict, tokens int) {
	t.Helper()
	m := back(t, g, d)
	want, got := answers(t, g, d, 3, tokens), answers(t, m.Graph, m.Weights, 3, tokens)
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", name, len(got), len(want))
	}
	worst, size := 0.0, 0.0
	for i := range want {
		if math.IsInf(float64(want[i]), 0) && got[i] == want[i] {
			continue
		}
		worst, size = max(worst, math.Abs(float64(got[i]-want[i]))), max(size, math.Abs(float64(want[i])))
	}
	if !(worst <= 1e-4*size) || math.IsInf(size, 0) {
		t.Errorf("%s: the answers differ by %.1e of %.1e", name, worst, size)
	}
}

// TestRoundTrip: what is written as ONNX answers the same when it is read again, for everything
// that the importer of PyTorch's archives is tested with.
func TestRoundTrip(t *testing.T) {
	files, err := filepath.Glob("../importer/testdata/*.pt2")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d archives, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".pt2")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			a, err := pt2.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			m, err := importer.Import(a, importer.Options{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := m.Graph.Compares(); ok { // its sizes would depend on the batch's
				if _, err := exporter.ONNX(m.Graph, m.Weights); err == nil || !strings.Contains(err.Error(), "compares the samples of a batch") {
					t.Error(err)
				}
				return
			}
			if name == "untracked" { // ONNX has no such layer
				if _, err := exporter.ONNX(m.Graph, m.Weights); err == nil || !strings.Contains(err.Error(), "by the batch's statistics in evaluation") {
					t.Error(err)
				}
				return
			}
			same(t, name, m.Graph, m.Weights, 11)
		})
	}
}

// TestZoo: so do the models that are built here.
func TestZoo(t *testing.T) {
	for _, g := range []*graph.Graph{
		zoo.CNN(),
		zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 8, Tokens: 7, Vocab: 5, Dropout: 0.2}),
		zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 2, Heads: 2, Width: 8, Inner: 12, Tokens: 6, Positions: 9, Vocab: 11, Classes: 3, Dropout: 0.1}),
		zoo.ResNet(zoo.ResNetConfig{Name: "resnet", Blocks: [4]int{1, 1, 1, 1}, Width: 4, Image: 64, Classes: 3}),
	} {
		l := exec.NewLayout(g, 0)
		s := l.NewState()
		l.Init(s, 3)
		same(t, g.Name, g, l.Export(s), 5)
	}
}
