package planner_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// TestKeep: a plan that is kept is the plan but for those who are replaced, and is forecast by them.
func TestKeep(t *testing.T) {
	for _, replicas := range []job.Count{1, 4} {
		e, err := zoo.Find("char-gpt")
		if err != nil {
			t.Fatal(err)
		}
		e.Job.Replicas = replicas
		nodes := measured(100, 100, 100, 100, 100)
		opt := ga.Options{MaxClusters: int(replicas), MinClusters: min(int(replicas), 2)}
		old, err := planner.Make(e.Job, e.Graph, nodes[:4], opt, 1)
		if err != nil {
			t.Fatal(err)
		}
		keep := func(by int, nodes []ga.Node) (*planner.Plan, error) {
			return planner.Facts{}.Keep(e.Job, e.Graph, nodes, old, opt.MinClusters, func(name string) int {
				for i, n := range nodes[:4] {
					if n.Name == name && i != 2 {
						return i
					}
				}
				return by
			})
		}
		same, err := keep(2, nodes[:4])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(same.Clusters, old.Clusters) || same.Rate != old.Rate {
			t.Errorf("%d replicas: with nobody replaced the plan is\n%+v, %g, want\n%+v, %g", replicas, same.Clusters, same.Rate, old.Clusters, old.Rate)
		}
		heir, err := keep(4, nodes)
		if err != nil {
			t.Fatal(err)
		}
		moved := 0
		for c, cl := range heir.Clusters {
			for k, s := range cl.Stages {
				if was := old.Clusters[c].Stages[k]; s.Start != was.Start || s.Name != was.Name {
					moved++
					if s.Start != was.Start || was.Node != 2 || s.Node != 4 {
						t.Errorf("%d replicas: stage %d.%d was %+v and is %+v", replicas, c, k, was, s)
					}
				}
			}
		}
		if moved != 1 || heir.Rate != old.Rate || len(heir.GA.Spares) != 1 || heir.GA.Spares[0] != 2 {
			t.Errorf("%d replicas: %d stages have others; the rate is %g, was %g; spares %v", replicas, moved, heir.Rate, old.Rate, heir.GA.Spares)
		}
		nodes[4].Compute /= 10
		if slow, err := keep(4, nodes); err != nil || slow.Rate >= old.Rate {
			t.Errorf("%d replicas: with a slow heir: %v, %v", replicas, slow, err)
		}
		nodes[4].RAM = 1e6
		if _, err := keep(4, nodes); !errors.Is(err, ga.ErrRAM) {
			t.Errorf("%d replicas: an heir that lends too little: %v", replicas, err)
		}
		old.Clusters[0].Stages[len(old.Clusters[0].Stages)-1].Start = len(e.Graph.Nodes)
		if _, err := keep(2, nodes[:4]); !errors.Is(err, planner.ErrInvalid) {
			t.Errorf("%d replicas: a cut behind the end: %v", replicas, err)
		}
	}
}
