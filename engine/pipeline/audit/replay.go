package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// Replay is a stretch of a run that clusters have trained. Make it with NewReplay and fill in
// the rest.
type Replay struct {
	Config stage.Config                // what all stages are given; rows, weights and links are filled in
	Rows   func(cfg *stage.Config)     // fills in rows for another cluster, if one's alone can read Config's; nil: all can
	Visits func() stage.Visits         // of the training rows, for each stage its own; nil: Config's Order
	Parts  []*snapshot.Part            // to go on from; nil: from the start
	From   uint64                      // batches before it
	Until  uint64                      // batches behind it
	Marks  map[uint64]bool             // batches before states that are kept in between
	Keys   map[stage.Peer][]byte       // of the stages' digests
	Open   map[stage.Peer]stage.Digest // open ones, which Watcher.Opened is told the truth of

	compiled [][]*stage.Compiled // by cluster
	each     func(p stage.Peer, cfg *stage.Config)
}

// NewReplay plans the stages of all clusters, cut as they were. jobs has the job by cluster, with
// what its planner chose. Where there are several clusters, they trained the replicas that
// clusters says.
func NewReplay(g *graph.Graph, clusters []stage.Cluster, jobs []job.Spec) (*Replay, error) {
	r := &Replay{}
	for c, cl := range clusters {
		cut, err := g.Cut(cl.Starts)
		if err != nil {
			return nil, err
		}
		p := stage.Placement{}
		if len(clusters) > 1 {
			p = stage.Placement{Cluster: c, Clusters: clusters}
		}
		r.compiled = append(r.compiled, nil)
		for _, s := range cut {
			x, err := stage.Compile(jobs[c], s, p)
			if err != nil {
				return nil, fmt.Errorf("cluster %d: %w", c, err)
			}
			r.compiled[c] = append(r.compiled[c], x)
		}
	}
	return r, nil
}

// Memory is what all stages take, in bytes.
func (r *Replay) Memory() (n int64) {
	for _, cs := range r.compiled {
		for _, c := range cs {
			n += int64(c.Memory().Total())
		}
	}
	return n
}

// Stages is how many there are.
func (r *Replay) Stages() (n int) {
	for _, cs := range r.compiled {
		n += len(cs)
	}
	return n
}

// Has tells whether a stage has a parameter of that name.
func (r *Replay) Has(name string) bool {
	return slices.ContainsFunc(slices.Concat(r.compiled...), func(c *stage.Compiled) bool { return c.Has(name) })
}

// Trail is for what the stages said.
func (r *Replay) Trail() *Trail {
	xs := make([][][]stage.Exchange, len(r.compiled))
	for c, cs := range r.compiled {
		for _, x := range cs {
			xs[c] = append(xs[c], x.Exchanges())
		}
	}
	return newTrail(r.compiled[0][0].Job.Schedule != job.Async, xs)
}

// Trains returns the cluster that trained a replica; nil: none did.
func (r *Replay) Trains(replica int) *int {
	for c, cs := range r.compiled {
		if own := cs[0].Placement.Own(); own.Has(replica) || own == 0 && replica < cs[0].Job.Replica() {
			return &c
		}
	}
	return nil
}

// Watcher is told what a replay makes. Calls come from several goroutines, but for one stage
// from one at a time.
type Watcher struct {
	Commit func(p stage.Peer, d stage.Digest) // nil: no digests are computed
	// Opened is what the open digest of a stage should be; with no sum at all of more tensors than
	// there are.
	Opened func(p stage.Peer, d stage.Digest)
	// Kept is a stage's state. Its tensors change when it returns. With several clusters all of
	// them keep theirs at a mark and at the end, and else the first alone does.
	Kept func(p stage.Peer, s stage.Saved) error
	Step func(done uint64) // of the first cluster's root
}

// observer is a stage's.
type observer struct {
	at   stage.Peer
	w    *Watcher
	done uint64 // batches that have been through the root
}

func (o *observer) Loss(stage.Loss)            {}
func (o *observer) Validated(stage.Validation) {}
func (o *observer) Commit(d stage.Digest) {
	if d.Open == nil { // the replay itself has failed
		o.w.Commit(o.at, d)
	}
}

func (o *observer) Keep(s stage.Saved) error { return o.w.Kept(o.at, s) }

func (o *observer) Batch(int) {
	o.done++
	if o.at == (stage.Peer{}) && o.w.Step != nil {
		o.w.Step(o.done)
	}
}

// Run trains the stretch again in this process.
func (r *Replay) Run(ctx context.Context, w *Watcher) error {
	net := r.connect()
	defer net.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stages []*stage.Stage
	var obs []*observer
	for c, cs := range r.compiled {
		cfg := r.Config
		if c > 0 && r.Rows != nil {
			r.Rows(&cfg)
		}
		for k, x := range cs {
			p := stage.Peer{Cluster: c, Stage: k}
			s, err := r.stage(p, x, cfg, net, w)
			if err != nil {
				return err
			}
			stages, obs = append(stages, s), append(obs, &observer{at: p, w: w, done: r.From})
		}
	}
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for i, s := range stages {
		o := obs[i]
		wg.Go(func() {
			if err := s.Run(ctx, func() order.Mark { return r.mark(o, s) }, o); err != nil {
				once.Do(func() {
					first = fmt.Errorf("%s: %w", o.at, err)
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

// stage makes a stage that is about to go on from the parts.
func (r *Replay) stage(p stage.Peer, c *stage.Compiled, cfg stage.Config, net *network, w *Watcher) (*stage.Stage, error) {
	cfg.Links, cfg.Rings, cfg.Commits = net.links[p], net.rings[p], w.Commit != nil
	cfg.Key = r.Keys[p]
	if r.Stages() > 1 {
		cfg.Team = nil // it serves one of them at a time
	}
	if d, ok := r.Open[p]; ok {
		cfg.Probe, cfg.Probed = &d, func(d stage.Digest) { w.Opened(p, d) }
	}
	if r.Visits != nil {
		cfg.Visits = r.Visits()
	}
	if r.each != nil {
		r.each(p, &cfg)
	}
	s, err := stage.New(c, cfg)
	if err == nil && r.Parts != nil {
		err = s.Load(r.Parts...)
	}
	return s, err
}

// mark is what a root is told before a round; with several clusters, at the end of the one before,
// when the first cluster's speaks for all.
func (r *Replay) mark(o *observer, s *stage.Stage) order.Mark {
	several := len(r.compiled) > 1
	done := o.done
	if several {
		if done = s.Step(); o.at.Cluster > 0 {
			return order.Continue
		}
	}
	switch {
	case done >= r.Until:
		return order.Stop
	case done > r.From && r.Marks[done] && several:
		return order.Hold // all clusters keep their states
	case done > r.From && r.Marks[done]:
		return order.Checkpoint
	}
	return order.Continue
}

// network is the links between the stages.
type network struct {
	links map[stage.Peer]map[int]stage.Link
	rings map[stage.Peer]map[stage.Peer]stage.Link
	all   []*transport.Link
}

func (n *network) close() {
	for _, l := range n.all {
		_ = l.Close()
	}
}

// pair makes the two ends of a link.
func (n *network) pair(a, b transport.Options) (x, y *transport.Link) {
	p, q := mem.Pair(mem.Faults{}, mem.Faults{})
	x, y = transport.NewLink(p, a), transport.NewLink(q, b)
	n.all = append(n.all, x, y)
	return x, y
}

// connect makes the links between the stages.
func (r *Replay) connect() *network {
	n := &network{links: map[stage.Peer]map[int]stage.Link{}, rings: map[stage.Peer]map[stage.Peer]stage.Link{}}
	for c, cs := range r.compiled {
		for k := range cs {
			p := stage.Peer{Cluster: c, Stage: k}
			n.links[p], n.rings[p] = map[int]stage.Link{}, map[stage.Peer]stage.Link{}
		}
	}
	for c, cs := range r.compiled {
		for k, x := range cs {
			a := stage.Peer{Cluster: c, Stage: k}
			for _, o := range x.Peers() {
				if o > k {
					b := stage.Peer{Cluster: c, Stage: o}
					n.links[a][o], n.links[b][k] = n.pair(x.Link(o), cs[o].Link(k))
				}
			}
			for _, b := range x.Rings() {
				if b.Cluster > c {
					n.rings[a][b], n.rings[b][a] = n.pair(x.RingLink(b), r.compiled[b.Cluster][b.Stage].RingLink(a))
				}
			}
		}
	}
	return n
}
