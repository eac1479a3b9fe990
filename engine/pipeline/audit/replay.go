package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// Replay is a stretch of a run that a pipeline has trained.
type Replay struct {
	Job    job.Spec // with what its planner chose
	Graph  *graph.Graph
	Starts []int               // first node of each stage
	Config stage.Config        // what all stages are given; rows, weights and links are filled in
	Visits func() stage.Visits // of the training rows, for each stage its own; nil: Config's Order
	Parts  []*snapshot.Part    // to go on from; nil: from the start
	From   uint64              // batches before it
	Until  uint64              // batches behind it
	Marks  map[uint64]bool     // batches before states that are kept in between

	each func(k int, cfg *stage.Config) // for tests
}

// Watcher is told what a replay makes. Calls come from several goroutines, but for one stage
// from one at a time.
type Watcher struct {
	Commit func(stage int, d stage.Digest)
	// Kept is a stage's state. Its tensors change when it returns.
	Kept func(stage int, s stage.Saved) error
	Step func(done uint64) // of the root
}

// observer is a stage's.
type observer struct {
	stage int
	w     *Watcher
	done  uint64 // batches that have been through the root
}

func (o *observer) Loss(stage.Loss)            {}
func (o *observer) Validated(stage.Validation) {}
func (o *observer) Commit(d stage.Digest)      { o.w.Commit(o.stage, d) }
func (o *observer) Keep(s stage.Saved) error   { return o.w.Kept(o.stage, s) }

func (o *observer) Batch(int) {
	o.done++
	if o.stage == 0 && o.w.Step != nil {
		o.w.Step(o.done)
	}
}

// Run trains the stretch again in this process, cut as it was.
func (r *Replay) Run(ctx context.Context, w *Watcher) error {
	cut, err := r.Graph.Cut(r.Starts)
	if err != nil {
		return err
	}
	compiled := make([]*stage.Compiled, len(cut))
	for k, s := range cut {
		if compiled[k], err = stage.Compile(r.Job, s, stage.Placement{}); err != nil {
			return err
		}
	}
	links, shut := connect(compiled)
	defer shut()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stages := make([]*stage.Stage, len(cut))
	for k, c := range compiled {
		cfg := r.Config
		cfg.Links, cfg.Commits = links[k], true
		if r.Visits != nil {
			cfg.Visits = r.Visits()
		}
		if r.each != nil {
			r.each(k, &cfg)
		}
		if stages[k], err = stage.New(c, cfg); err != nil {
			return err
		}
		if r.Parts != nil {
			if err := stages[k].Load(r.Parts...); err != nil {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for k, s := range stages {
		o := &observer{stage: k, w: w, done: r.From}
		wg.Go(func() {
			if err := s.Run(ctx, func() order.Mark { return r.mark(o.done) }, o); err != nil {
				once.Do(func() {
					first = fmt.Errorf("stage %d: %w", k, err)
					cancel(err)
				})
			}
		})
	}
	wg.Wait()
	if first != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Cause(ctx)
	}
	return first
}

// mark is what the root is told before a round, with so many batches done.
func (r *Replay) mark(done uint64) order.Mark {
	switch {
	case done >= r.Until:
		return order.Stop
	case done > r.From && r.Marks[done]:
		return order.Checkpoint
	}
	return order.Continue
}

// connect makes the links between the stages.
func connect(cs []*stage.Compiled) (links []map[int]stage.Link, shut func()) {
	var all []*transport.Link
	links = make([]map[int]stage.Link, len(cs))
	for k := range links {
		links[k] = map[int]stage.Link{}
	}
	for a, c := range cs {
		for _, b := range c.Peers() {
			if b < a {
				continue
			}
			pa, pb := mem.Pair(mem.Faults{}, mem.Faults{})
			la, lb := transport.NewLink(pa, c.Link(b)), transport.NewLink(pb, cs[b].Link(a))
			links[a][b], links[b][a] = la, lb
			all = append(all, la, lb)
		}
	}
	return links, func() {
		for _, l := range all {
			_ = l.Close()
		}
	}
}
