package zoo_test

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/zoo"
)

// TestExamples: every example is a job that passes its own check and a graph that travels.
func TestExamples(t *testing.T) {
	params := map[string]int{ // as PyTorch counts them
		"cnn": 16426, "gpt-sorter": 85728, "char-gpt": 10768128, "resnet18": 11181642, "resnet50": 23528522, "bert": 109483778,
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
