package planner_test

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
)

// TestHalvesWhereTheyPay: a pipeline whose batches stay whole has backward passes in two halves, one
// that micro-batches fill has not, and none has them that the memory is not enough for.
func TestHalvesWhereTheyPay(t *testing.T) {
	plan := func(name, schedule string, replicas int, pool []ga.Node) *planner.Plan {
		e, err := zoo.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		j := e.Job
		j.Schedule, j.Replicas = schedule, job.Count(replicas)
		p, err := planner.Make(j, e.Graph, pool, ga.Options{MaxClusters: 1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	pool := measured(1, 1)
	for i := range pool {
		pool[i].Bandwidth = 10e9
	}
	p := plan("resnet18", job.Sync, 1, pool)
	c := p.Clusters[0]
	if zb := plan("resnet18", job.ZB, 1, pool); !c.Halves || c.Rate != zb.Rate || zb.Clusters[0].Halves || c.Stages[0].Memory != zb.Clusters[0].Stages[0].Memory {
		t.Errorf("resnet18: %+v, with the schedule zb %+v", c, zb.Clusters[0])
	}
	if alone := plan("resnet18", job.Sync, 1, pool[:1]); c.Rate <= alone.Rate {
		t.Errorf("resnet18: two providers %.1f samples/s, one %.1f", c.Rate, alone.Rate)
	}
	if !strings.Contains(p.String(), "two halves") {
		t.Errorf("nothing is said of halves:\n%s", p)
	}
	for _, q := range []*planner.Plan{plan("char-gpt", job.Sync, 1, pool), plan("resnet18", job.Sync, 2, pool), plan("resnet18", job.Async, 1, pool)} {
		if q.Clusters[0].Halves {
			t.Errorf("halves without need: %+v", q.Clusters[0])
		}
	}
	for i := range pool {
		pool[i].RAM = float64(max(c.Stages[0].Memory, c.Stages[1].Memory)) - 1
	}
	if small := plan("resnet18", job.Sync, 1, pool); small.Clusters[0].Halves {
		t.Errorf("halves without the memory for them: %+v", small.Clusters[0])
	}
}
