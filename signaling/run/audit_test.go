package run_test

// What a later audit of a run finds in its log, whatever happened to the providers.

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// audited is a world whose job asks for digests, with one cluster or several, and with states that
// stages hold in memory or without.
func audited(kind string) *runtest.World {
	return auditedFor(kind, steps, run.Settings{Checkpoint: 60 * time.Millisecond})
}

func auditedFor(kind string, steps int, set run.Settings) *runtest.World {
	job := run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: int64(steps), Audit: true}
	if kind != "one" {
		job.Want, job.Rounds, job.Apart = 5, runtest.Rounds(2, 2, 1, steps), kind == "apart"
	}
	if kind == "held" {
		set.Checkpoint, set.Hold = -1, 20*time.Millisecond
	}
	w := runtest.New(set, job, steps)
	if kind != "one" {
		w.Stages, w.Clusters, w.Hold = 3, 2, kind == "held"
	}
	for i := range job.Want + 1 {
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	return w
}

// said is a digest in the log.
type said struct {
	run            string
	cluster, stage int
	step           int64
	round          bool
}

// trail checks that the log tells, for every step of the result, who trained it: there are plans
// and checkpoints from the start to the end, and every stage's digests up to its last one. Those
// of the stages whose states the checkpoints are made of are there to the end.
func trail(t *testing.T, w *runtest.World) {
	t.Helper()
	trailFrom(t, w, 0)
}

// trailFrom is trail from a step on.
func trailFrom(t *testing.T, w *runtest.World, from uint64) {
	t.Helper()
	plans, made := map[string]*run.AuditPlan{}, map[string]map[uint64]*snapshot.Manifest{}
	have := map[said]bool{}
	for _, l := range w.Audit() {
		switch {
		case l.Plan != nil && plans[l.Run] != nil: // repeated in another segment
			if !l.Plan.Again {
				t.Fatalf("the plan of %s is twice in the log", l.Run)
			}
		case l.Plan != nil:
			plans[l.Run], made[l.Run] = l.Plan, map[uint64]*snapshot.Manifest{}
			clusters := l.Plan.Stages[len(l.Plan.Stages)-1].Cluster + 1
			if len(l.Plan.Plan) == 0 || len(l.Plan.Others) != clusters-1 {
				t.Fatalf("the plan of %d clusters says how %d others work", clusters, len(l.Plan.Others))
			}
		case l.Said != nil:
			for _, d := range l.Said.Digests {
				have[said{l.Run, l.Said.Cluster, l.Said.Stage, d.Step, d.Round}] = true
			}
		case l.Checkpoint != nil && made[l.Checkpoint.Run] != nil:
			made[l.Checkpoint.Run][l.Checkpoint.Position.Step] = l.Checkpoint
		}
	}
	for c := w.Results[0].Result.Checkpoint; ; {
		p := plans[c.Run]
		if p == nil || made[c.Run][c.Position.Step] == nil {
			t.Fatalf("the log does not tell who made the checkpoint of step %d", c.Position.Step)
		}
		savers := map[[2]int]bool{}
		for _, e := range c.Parts {
			savers[[2]int{e.Cluster, e.Stage}] = true
		}
		clusters := p.Stages[len(p.Stages)-1].Cluster + 1
		for _, s := range p.Stages {
			gap := false
			for _, d := range due(w, max(p.From, from), c.Position.Step, s.Cluster, clusters) {
				d.run, d.cluster, d.stage = c.Run, s.Cluster, s.Stage
				if !have[d] && savers[[2]int{s.Cluster, s.Stage}] {
					t.Fatalf("%+v is not in the log, and the checkpoint of step %d has a part of that stage", d, c.Position.Step)
				}
				if gap = gap || !have[d]; gap && have[d] {
					t.Fatalf("%+v is in the log, and something before it is not", d)
				}
			}
		}
		if p.From <= from {
			return
		}
		c = nil
		for _, m := range made {
			if b := m[p.From]; b != nil {
				c = b
			}
		}
		if c == nil {
			t.Fatalf("the log has no checkpoint of step %d", p.From)
		}
	}
}

// due are the digests of a stage of a cluster between two steps.
func due(w *runtest.World, from, to uint64, cluster, clusters int) (ds []said) {
	for s := int64(from); s < int64(to); s++ {
		in := s % runtest.Batches
		if clusters == 1 || int(in)%w.Rounds.Replicas == cluster {
			ds = append(ds, said{step: s})
		}
		if clusters > 1 && ((in+1)%4 == 0 || in+1 == runtest.Batches || s+1 == int64(w.Steps)) {
			ds = append(ds, said{step: s, round: true})
		}
	}
	return ds
}

// TestAuditLogAfterEveryFault: whatever happens at any message, what an audit needs is in the log.
func TestAuditLogAfterEveryFault(t *testing.T) {
	stride := 3
	if testing.Short() {
		stride = 17
	}
	faults := map[string]func(w *runtest.World, p *runtest.Provider, id string, msg proto.Message) bool{
		"kill":   func(_ *runtest.World, p *runtest.Provider, _ string, _ proto.Message) bool { p.Kill(); return true },
		"freeze": func(_ *runtest.World, p *runtest.Provider, _ string, _ proto.Message) bool { p.Freeze(); return true },
		"leave":  func(_ *runtest.World, p *runtest.Provider, _ string, _ proto.Message) bool { p.Leave(); return true },
		"cut": func(_ *runtest.World, p *runtest.Provider, _ string, _ proto.Message) bool {
			p.Drop(200 * time.Millisecond)
			return true
		},
		"twice": func(w *runtest.World, _ *runtest.Provider, id string, msg proto.Message) bool {
			w.Repeat(0, id, msg)
			return true
		},
		"again, late": func(w *runtest.World, _ *runtest.Provider, id string, msg proto.Message) bool {
			w.Repeat(200*time.Millisecond, id, msg)
			return true
		},
	}
	for _, kind := range []string{"one", "clusters", "apart", "held"} {
		for name, fault := range faults {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				plain := audited(kind)
				plain.Run(time.Minute)
				whole(t, plain)
				trail(t, plain)
				for at := 0; at < plain.Messages(); at += stride {
					w := audited(kind)
					who := fmt.Sprintf("p%d", at/stride%3)
					w.Before = func(i int, id string, msg proto.Message) bool {
						if i == at {
							return fault(w, w.Provider(who), id, msg)
						}
						return true
					}
					w.Run(5 * time.Minute)
					whole(t, w)
					trail(t, w)
					if t.Failed() {
						t.Fatalf("%s of %s at message %d of %d", name, who, at, plain.Messages())
					}
				}
			})
		}
	}
}
