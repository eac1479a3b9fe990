// Training a stretch of the run again, for the host to compare what comes of it.

package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/audit"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Replay plans to train again what the clusters of an attempt did, by their plans. It returns the job
// with what the first one's planner chose, and that plan.
func Replay(g *graph.Graph, spec job.Spec, plans []json.RawMessage) (*audit.Replay, job.Spec, Plan, error) {
	var jobs []job.Spec
	var first Plan
	fail := func(err error) (*audit.Replay, job.Spec, Plan, error) { return nil, job.Spec{}, Plan{}, err }
	for c, raw := range plans {
		var plan Plan
		if err := json.Unmarshal(raw, &plan); err != nil {
			return fail(err)
		}
		j, err := plan.In(spec)
		if err != nil {
			return fail(err)
		}
		if jobs = append(jobs, j); c == 0 {
			first = plan
		}
		if n := len(first.Clusters); n != len(plans) {
			return fail(fmt.Errorf("it is one of %d clusters, and says how %d of them worked", n, len(plans)))
		}
		if n := len(first.Clusters[c].Starts); n < 1 || n > proto.MaxStages {
			return fail(fmt.Errorf("its cluster %d has %d stages", c, n))
		}
		if len(plans) == 1 {
			break
		}
		if err := (stage.Placement{Cluster: c, Clusters: first.Clusters}).Check(j, len(g.Nodes)); err != nil {
			return fail(err)
		}
	}
	if len(jobs) == 0 {
		return fail(errors.New("it says nothing of any cluster"))
	}
	r, err := audit.NewReplay(g, first.Clusters, jobs)
	if err != nil {
		return fail(err)
	}
	return r, jobs[0], first, nil
}

// again is a stretch to train again.
type again struct {
	*audit.Replay
	from, until uint64
	apart       bool // clusters have states of their own
}

// check trains what the assignment names again, and notes what the states are at its end.
func (r *attempt) check() error {
	spec, err := job.Parse(r.a.Job)
	if err != nil {
		return err
	}
	f := r.fetcher()
	b, err := f.get("the model", r.a.Graph, 0)
	if err != nil {
		return err
	}
	g, err := graph.Parse(b)
	if err != nil {
		return err
	}
	todo, j, plan, need, err := r.stretches(g, spec)
	if err != nil {
		return err
	}
	if err := r.fits(need, 0, " of all the run"); err != nil {
		return err
	}
	cfg := stage.Config{TrainRows: plan.Train, ValRows: plan.Val, Order: data.Order, Team: r.cfg.Team, Now: r.cfg.Now, Between: r.cfg.Between, Hooks: r.cfg.Hooks}
	if cfg.Weights, err = f.weights(todo[0].Has); err != nil {
		return err
	}
	whole, err := g.Cut([]int{0})
	if err != nil {
		return err
	}
	if err := r.rows(f, j, g, whole[0], &cfg, need); err != nil {
		return err
	}
	if err := r.fetchParts(f); err != nil {
		return err
	}
	if len(r.parts) > 0 && r.parts[0].Position.Step != todo[0].from {
		return fmt.Errorf("%w: the checkpoint is of step %d, the stretch begins with step %d", errBlob, r.parts[0].Position.Step, todo[0].from)
	}
	r.mu.Lock()
	r.at.Role, r.at.Peak, r.prog.Step = "checker", need+r.cached, int64(todo[0].from)
	r.mu.Unlock()
	r.post(machine.Prepared{Run: r.a.Run})
	r.post(machine.Compiled{Run: r.a.Run, Peak: need + r.cached})
	select {
	case <-r.started:
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
	r.cfg.Event("computing steps %d to %d of others again", todo[0].from, todo[len(todo)-1].until)
	stop := r.report()
	defer stop()
	for i, t := range todo {
		if err := r.replay(t, cfg, i+1 == len(todo)); err != nil {
			return err
		}
	}
	return nil
}

// stretches plans what is to be trained again, and returns the memory that it takes.
func (r *attempt) stretches(g *graph.Graph, spec job.Spec) (todo []again, j job.Spec, plan Plan, need int64, err error) {
	at := uint64(r.a.Check.From)
	for i, s := range r.a.Check.Stretches {
		p, jobs, first, err := Replay(g, spec, s.Plans)
		if err != nil {
			return nil, j, plan, 0, fmt.Errorf("the plan of stretch %d: %w", i, err)
		}
		if i == 0 {
			j, plan = jobs, first
		}
		if plan.Train < 1 || plan.Train > maxRows || plan.Val < 0 || plan.Val > maxRows || first.Train != plan.Train || first.Val != plan.Val {
			return nil, j, plan, 0, fmt.Errorf("the plan of stretch %d has %d training and %d validation rows, and the first one %d and %d", i, first.Train, first.Val, plan.Train, plan.Val)
		}
		run := jobs.Order(plan.Train, plan.Val)
		if err := run.Check(); err != nil {
			return nil, j, plan, 0, fmt.Errorf("the plan of stretch %d: %w", i, err)
		}
		if err := stage.CheckBatches(jobs, g, plan.Train); err != nil {
			return nil, j, plan, 0, fmt.Errorf("the plan of stretch %d: %w", i, err)
		}
		if total := uint64(run.Total()); uint64(s.Until) > total {
			return nil, j, plan, 0, fmt.Errorf("stretch %d ends with step %d, and the run has %d", i, s.Until, total)
		}
		if len(first.Clusters) > 1 && j.Shards.On() {
			return nil, j, plan, 0, errors.New("several clusters that read shards cannot be computed again by one provider")
		}
		todo = append(todo, again{p, at, uint64(s.Until), jobs.Averaging().Optimizer == job.KeepState})
		need, at = max(need, p.Memory()), uint64(s.Until)
	}
	return todo, j, plan, need, nil
}

// others has another cluster read rows that one alone can.
func others(cfg *stage.Config) {
	for _, x := range []*stage.Rows{&cfg.TrainX, &cfg.ValX} {
		if a, ok := (*x).(*data.Augmented); ok {
			*x = a.Another()
		}
	}
}

// replay trains one stretch again, from the parts at hand on. What its states are in the end are the
// parts of the next one, or, after the last, what the host is told.
func (r *attempt) replay(t again, cfg stage.Config, last bool) error {
	t.Config, t.Parts, t.From, t.Until, t.Visits, t.Rows = cfg, r.parts, t.from, t.until, r.visits, others
	r.parts = nil
	var mu sync.Mutex
	parts, states := map[stage.Peer]*snapshot.Part{}, map[stage.Peer]proto.State{}
	err := t.Run(r.ctx, &audit.Watcher{
		Step: func(done uint64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.prog.Step = int64(done)
		},
		Kept: func(p stage.Peer, s stage.Saved) error {
			if s.Part.Position.Step != t.until {
				return nil
			}
			var file bytes.Buffer
			if err := r.cfg.write(&file, s.Part); err != nil {
				return err
			}
			var part *snapshot.Part
			if !last {
				var err error
				if part, err = snapshot.Read(r.cfg.reader(file.Bytes()), int64(file.Len())); err != nil {
					return err
				}
			}
			sum := proto.RefOf(file.Bytes(), r.cfg.Between).SHA256
			mu.Lock()
			defer mu.Unlock()
			parts[p], states[p] = part, proto.State{Cluster: p.Cluster, Stage: p.Stage, SHA256: sum}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("training again from step %d: %w", t.from, err)
	}
	if len(states) != t.Stages() {
		return fmt.Errorf("training again from step %d did not end at step %d", t.from, t.until)
	}
	r.mu.Lock()
	r.prog.Step = int64(t.until)
	r.mu.Unlock()
	if last {
		r.states = slices.Collect(maps.Values(states))
		return nil
	}
	for p, q := range parts {
		if p.Cluster == 0 || t.apart {
			r.parts = append(r.parts, q)
		}
	}
	return nil
}
