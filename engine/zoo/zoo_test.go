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

// TestInception: names and shapes are torchvision's inception_v3 without its auxiliary head, in
// its order, whatever the size of the images.
func TestInception(t *testing.T) {
	b, err := os.ReadFile("testdata/inception_v3.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, image := range []int{32, 64, 96} {
		g := zoo.Inception(zoo.InceptionConfig{Name: "inception_v3", Image: image, Classes: 10})
		var got []string
		for _, p := range g.Params() {
			got = append(got, p.Full+" "+strings.ReplaceAll(fmt.Sprint(p.Shape), " ", ", "))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("images of %d: %q, want %q", image, got[i], want[i])
				}
			}
			t.Fatalf("images of %d: %d tensors, want %d", image, len(got), len(want))
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
