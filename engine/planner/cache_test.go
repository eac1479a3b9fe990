package planner

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
)

// TestCache: stages that are taken to be alike take the same memory.
func TestCache(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"cnn", "gpt-sorter", "char-gpt", "bert", "resnet18"} {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		units := e.Graph.Units()
		c, hits := newCache(e.Graph), 0
		for range 30 {
			starts := []int{0}
			for _, u := range rng.Perm(len(units) - 1)[:min(4, len(units)-1)] {
				starts = append(starts, units[u+1].From)
			}
			slices.Sort(starts)
			stages, err := c.cut(starts)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range stages {
				before := len(c.bytes)
				got, err := c.memory(e.Job, s, stage.Placement{})
				if err != nil {
					t.Fatal(err)
				}
				if len(c.bytes) > before {
					continue
				}
				hits++
				if want, err := stage.Bytes(e.Job, s, stage.Placement{}); err != nil || got != want {
					t.Errorf("%s: a stage of nodes %d to %d, %d of %d: %d bytes, want %d (%v)", name, s.First, s.First+len(s.Graph.Nodes), s.Index, s.Of, got, want, err)
				}
			}
		}
		if hits == 0 {
			t.Errorf("%s: no two stages are alike", name)
		}
		t.Logf("%s: %d stages were known", name, hits)
	}
}
