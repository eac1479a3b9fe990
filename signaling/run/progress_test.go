package run

// Losses, in the order of their steps.

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Losses and validation results must come from the leaf and be possible for the job.
func TestWhoseLosses(t *testing.T) {
	for name, e := range map[string]Message{
		"a loss of the root":         {"p0", &proto.Progress{Run: "j-1", Stage: 0, Losses: []proto.Loss{{Step: 1, Loss: -1e300}}}},
		"a validation of the stem":   {"p1", &proto.Progress{Run: "j-1", Stage: 1, Vals: []proto.Val{{Step: 1, Correct: 1, Total: 1}}}},
		"a step beyond the run":      {"p2", &proto.Progress{Run: "j-1", Stage: 2, Losses: []proto.Loss{{Step: 100}}}},
		"more rows than the job has": {"p2", &proto.Progress{Run: "j-1", Stage: 2, Vals: []proto.Val{{Correct: 1, Total: 51}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			j := *job("node_0", "node_1", "node_2")
			j.Steps, j.Val = 100, 50
			r.step(Submit{Job: j})
			for i := range 3 {
				r.join(fmt.Sprintf("p%d", i), "")
			}
			r.start("j-1", "p0", "p1", "p2")
			r.step(e)
			if _, ok := event[Loss](r); ok {
				t.Error("it was believed")
			}
			if _, ok := event[Val](r); ok {
				t.Error("it was believed")
			}
			r.recovering("protocol")
		})
	}
}

// Two clusters report losses: they are told in the order of batches, each once, and what a
// leaf cannot know is refused.
func TestLossesOfClusters(t *testing.T) {
	says := func(r *rig, id string, stage int, steps ...int64) {
		m := &proto.Progress{Run: "j-1", Stage: stage}
		for _, s := range steps {
			m.Losses = append(m.Losses, proto.Loss{Step: s, Loss: 1})
		}
		r.step(Message{ID: id, Msg: m})
	}
	r := clusters(t)
	says(r, "p2", 1, 1, 3, 5)
	says(r, "p0", 0, 0, 2)
	says(r, "p2", 1, 1, 5) // again
	says(r, "p0", 0, 4)
	var told []int64
	for _, e := range r.evs {
		if l, ok := e.(Loss); ok {
			if told = append(told, l.Step); l.Cluster != int(l.Step%2) {
				t.Errorf("the loss of step %d is of cluster %d", l.Step, l.Cluster)
			}
		}
	}
	if !slices.Equal(told, []int64{0, 1, 2, 3, 4, 5}) {
		t.Errorf("told %v", told)
	}
	says(r, "p1", 0, 7)
	r.recovering("computes none", "node_1")

	r = clusters(t)
	r.step(Message{ID: "p2", Msg: &proto.Progress{Run: "j-1", Stage: 1, Vals: []proto.Val{{Step: 2, Correct: 1, Total: 2}}}})
	r.recovering("cluster 1 does not do", "node_2")

	r = clusters(t)
	for at := int64(1); at < 3<<18 && r.l.Phase == Running; at += proto.MaxLosses {
		steps := make([]int64, proto.MaxLosses)
		for i := range steps {
			steps[i] = at + int64(i)
		}
		says(r, "p2", 1, steps...)
	}
	r.recovering("before the other clusters", "node_2")
}
