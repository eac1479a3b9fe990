package zoo_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/zoo"
)

// TestExamples: every example is a job that passes its own check and a graph that travels.
func TestExamples(t *testing.T) {
	params := map[string]int{ // as PyTorch counts them
		"cnn": 16426, "gpt-sorter": 85728, "char-gpt": 10768128, "resnet18": 11181642, "resnet50": 23528522, "bert": 109483778, "resnet50-tiny": 23917832, "inception_v3": 21806058, "bert-pretrain": 115332,
	}
	for _, name := range zoo.Names() {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Job.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if e.About == "" || e.Time == "" || !strings.Contains(zoo.List(), e.About) {
			t.Errorf("nothing is said about %s", name)
		}
		b, err := e.Graph.JSON()
		if err != nil {
			t.Fatal(err)
		}
		g, err := graph.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := g.ParamCount(0, len(g.Nodes)); n != params[name] {
			t.Errorf("%s has %d parameters, want %d", name, n, params[name])
		}
	}
	if _, err := zoo.Find("vgg"); err == nil || !strings.Contains(err.Error(), "gpt-sorter") {
		t.Errorf("an unknown example: got %v, want the list of known ones", err)
	}
}

// TestNames: names and shapes are those of torchvision's inception_v3 without its auxiliary head,
// whatever the size of the images, and of Hugging Face's BertForPreTraining as it is saved: a tied
// weight once.
func TestNames(t *testing.T) {
	inception := func(image int) *graph.Graph {
		return zoo.Inception(zoo.InceptionConfig{Name: "inception_v3", Image: image, Classes: 10})
	}
	for name, graphs := range map[string][]*graph.Graph{
		"inception_v3":  {inception(32), inception(64), inception(96)},
		"bert-pretrain": {zoo.PretrainingBERT(zoo.BERTSmall)},
	} {
		b, err := os.ReadFile("testdata/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.TrimSpace(string(b)), "\n")
		slices.Sort(want)
		for _, g := range graphs {
			var got []string
			for _, p := range g.Params() {
				s := p.Full + " " + strings.ReplaceAll(fmt.Sprint(p.Shape), " ", ", ")
				if !slices.Contains(got, s) {
					got = append(got, s)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s for %v: got\n%s\nwant\n%s", name, g.Shape(0), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// TestFit: an example takes the size and the classes of the images that somebody brings.
func TestFit(t *testing.T) {
	for _, name := range []string{"resnet18", "resnet50-tiny", "inception_v3"} {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		g := e.Fit([]int{3, 32, 32}, 7)
		if s := g.Shape(0).String() + g.Shape(g.OutputValue()).String(); s != "[N,3,32,32][N,7]" {
			t.Errorf("%s takes %s", name, s)
		}
		if g := e.Fit([]int{1, 28, 28}, 7); g != e.Graph {
			t.Errorf("%s takes images of one channel", name)
		}
	}
}

// TestReader: what fills a row up takes no part in the answer.
func TestReader(t *testing.T) {
	g := zoo.Reader(8, 3, 50, 7)
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	if out := g.Shape(g.OutputValue()); len(out) != 1 || out[0] != 3 {
		t.Errorf("the answer is %v", out)
	}
	for _, n := range g.Nodes {
		if m, ok := n.Op.(*graph.TokenMask); ok && m.Token != 7 {
			t.Errorf("token %d is left out, want 7", m.Token)
		}
	}
}
