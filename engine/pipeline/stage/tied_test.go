package stage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// tiedGPT is a decoder whose answer is a product with the embedding, as GPT-2's, and whose
// second layer is the first again, as ALBERT's.
func tiedGPT() *graph.Graph {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 3, Heads: 2, Width: 8, Tokens: 7, Vocab: 5, Dropout: 0.2})
	for i := range g.Nodes {
		n := &g.Nodes[i]
		names := map[string]string{}
		for _, s := range n.Op.Params() {
			full := n.Full(s.Name)
			switch {
			case n.Name == "lm_head" && s.Name == "weight":
				full = "transformer.wte.weight"
			case strings.Contains(n.Name, ".h.1."):
				full = strings.Replace(full, ".h.1.", ".h.0.", 1)
			default:
				continue
			}
			names[s.Name] = full
		}
		if len(names) > 0 {
			n.Names = names
		}
	}
	if err := g.Check(); err != nil {
		panic(err)
	}
	return g
}

func tiedWorld(change func(*job.Spec)) *world {
	w := newWorld(func(j *job.Spec) {
		j.Loss, j.Epochs, j.BatchSize, j.MicroBatches = "cross_entropy", 2, 12, 2
		if change != nil {
			change(j)
		}
	})
	w.g = tiedGPT()
	w.tx, w.vx = integers(60, 7, 0, 5, 1), integers(9, 7, 0, 5, 3)
	w.ty, w.vy = labelled{integers(60, 7, 0, 5, 2)}, labelled{integers(9, 7, 0, 5, 4)}
	return w
}

// TestTiedWeights: parameters that several stages hold train to the bits of one process under
// every schedule that sums their gradients, with replicas and split batches.
func TestTiedWeights(t *testing.T) {
	if n := len(tiedGPT().Ties()); n < 10 {
		t.Fatalf("%d ties", n)
	}
	for _, c := range []struct {
		name   string
		change func(*job.Spec)
	}{
		{"sync", nil},
		{"zb", func(j *job.Spec) { j.Schedule, j.MicroBatches = job.ZB, 3 }},
		{"update frequency", func(j *job.Spec) { j.UpdateFrequency = 2 }},
		{"recompute", func(j *job.Spec) { j.Recompute = "full" }},
		{"replicas", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.MicroBatches = 3, 2, 1 }},
		{"replicas of zb", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.Schedule = 2, 1, job.ZB }},
		{"split batches", func(j *job.Spec) { j.Replicas, j.Average = 3, job.Average{Of: job.Gradients} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := tiedWorld(c.change)
			want, dict := w.local(t)
			for _, n := range []int{1, 2, 3, 5} {
				got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%d stages", n), got, want, d, dict)
			}
		})
	}
}

// TestTiedResumes: a checkpoint of three stages goes on in two, and in one process.
func TestTiedResumes(t *testing.T) {
	w := tiedWorld(nil)
	want, dict := w.local(t)
	asked := 0
	stop := func() order.Mark {
		if asked++; asked == 4 {
			return order.Stop
		}
		return order.Continue
	}
	if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, stop); err != nil {
		t.Fatal(err)
	}
	var parts []*snapshot.Part
	for _, l := range w.logs {
		parts = append(parts, l.saved[len(l.saved)-1].Part)
	}
	for _, n := range []int{1, 2} {
		got, d, err := w.resume(t, w.starts(n), mem.Faults{}, nil, parts)
		if err != nil {
			t.Fatal(err)
		}
		if got.losses[len(got.losses)-1] != want.losses[len(want.losses)-1] || !d.Equal(dict) {
			t.Errorf("%d stages go on to other weights", n)
		}
	}
}

// TestTiedAsync: a schedule whose updates overlap refuses a cut between the holders.
func TestTiedAsync(t *testing.T) {
	w := tiedWorld(func(j *job.Spec) { j.Schedule = job.Async })
	cut, err := w.g.Cut(w.starts(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Compile(w.job, cut[0], stage.Placement{}); !errors.Is(err, stage.ErrTied) || !strings.Contains(err.Error(), "use sync or zb") {
		t.Errorf("got %v", err)
	}
	if us := w.g.JoinTied(w.g.Units()); len(us) != 1 && us[0].To < len(w.g.Nodes)-1 {
		t.Errorf("joined units %+v", us)
	}
}
