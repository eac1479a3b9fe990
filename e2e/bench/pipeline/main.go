// Command pipeline measures how full pipelines are and what a second cluster gains, where links
// are slow. Devices are emulated: a stage sleeps between its kernels, so that all stages take
// as long for a batch, whatever else this machine does; links are pipes in memory that carry
// so many bits a second and take so long. What is measured is the order of work and the rings,
// with real tensors, and every run must end with the same weights.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
)

// network is the links between stages.
type network struct {
	mbit  float64
	delay time.Duration
}

func (n network) String() string {
	if n.mbit == 0 {
		return "links that cost nothing"
	}
	return fmt.Sprintf("%v Mbit/s, %v", n.mbit, n.delay)
}

func (n network) faults() mem.Faults { return mem.Faults{Rate: int(n.mbit * 1e6 / 8), Delay: n.delay} }

// bench is the job, and what all runs have in common.
type bench struct {
	g       *graph.Graph
	job     job.Spec
	x, y    table
	each    time.Duration // of a batch in a stage
	weights string
	shares  []int // replicas of the last cluster, in turn
}

// run is one way to do the job.
type run struct {
	clusters, stages, inFlight int
	net                        network
	slows, moves               bool // the last cluster becomes half as fast; replicas may move
}

func (r run) String() string {
	s := fmt.Sprintf("%d cluster(s) of %d stages, %d in flight, %v", r.clusters, r.stages, r.inFlight, r.net)
	if r.slows {
		s += ", the last half as fast from the middle on, shares " + map[bool]string{true: "following", false: "fixed"}[r.moves]
	}
	return s
}

func main() {
	b := bench{g: zoo.GPT(zoo.GPTSorter)}
	flag.DurationVar(&b.each, "each", 60*time.Millisecond, "what a batch takes in a stage, both passes")
	replicas := flag.Int("replicas", 12, "of the job")
	rounds := flag.Int("rounds", 2, "of the job")
	slow := flag.Bool("slow", false, "only clusters of which one becomes half as fast")
	mbit := flag.Float64("mbit", 100, "of links, each way")
	delay := flag.Duration("delay", 20*time.Millisecond, "of links, each way")
	clip := flag.Float64("clip", 0, "clip_norm of the job; 0: none")
	tied := flag.Bool("tied", false, "the model's answer is a product with its embedding, as GPT-2's")
	flag.Parse()
	if *tied {
		b.g.Nodes[len(b.g.Nodes)-1].Names = map[string]string{"weight": "transformer.wte.weight"}
		if err := b.g.Check(); err != nil {
			fmt.Fprintln(os.Stderr, "pipeline:", err)
			os.Exit(1)
		}
	}
	j := job.Default()
	j.ClipNorm = *clip
	j.Loss, j.ValEvery, j.BatchSize, j.Epochs = "cross_entropy", 0, 4, *rounds
	j.Replicas, j.ReduceFactor = job.Count(*replicas), 8
	b.job = j
	n := j.BatchSize * j.Replica() * j.ReduceFactor
	b.x, b.y = numbers(n, 11, 3), numbers(n, 33, 2)
	far := network{*mbit, *delay}
	fmt.Printf("%v replicas, %d rounds of %d updates, a batch of %d takes a stage %v\n", j.Replicas, j.Epochs, j.ReduceFactor, j.BatchSize, b.each)
	runs := []run{
		{1, 4, 4, network{}, false, false},
		{1, 4, 4, far, false, false},
		{1, 4, 8, far, false, false},
		{1, 4, 12, far, false, false},
		{1, 3, 6, far, false, false},
		{2, 3, 6, far, false, false},
		{3, 3, 4, far, false, false},
	}
	if *slow {
		runs = []run{{2, 3, 6, far, true, false}, {2, 3, 6, far, true, true}, {3, 3, 6, far, true, false}, {3, 3, 6, far, true, true}}
	}
	for _, r := range runs {
		if err := b.measure(r); err != nil {
			fmt.Fprintln(os.Stderr, "pipeline:", err)
			os.Exit(1)
		}
	}
}

// table is rows in memory.
type table struct {
	v   []float32
	per int
}

// numbers is n rows of whole numbers below most.
func numbers(n, per, most int) table {
	t := table{make([]float32, n*per), per}
	s := kernel.NewStream(1, kernel.DomainTest, 0, uint32(per))
	for i := range t.v {
		t.v[i] = float32(int(s.Uint32(uint64(i))) % most)
	}
	return t
}

func (t table) Len() int { return len(t.v) / t.per }

func (t table) Gather(dst []float32, rows []int32) {
	for i, r := range rows {
		copy(dst[i*t.per:], t.v[int(r)*t.per:][:t.per])
	}
}

// team is the stages of a run.
type team struct {
	compiled map[stage.Peer]*stage.Compiled
	links    map[stage.Peer]map[int]stage.Link
	rings    map[stage.Peer]map[stage.Peer]stage.Link
	ends     []*transport.Link
}

// measure does the job as r says and prints how it went.
func (b *bench) measure(r run) error {
	calls, _, err := b.train(r, network{}, nil) // how often each stage stops between kernels
	if err != nil {
		return err
	}
	sleep := map[stage.Peer]time.Duration{}
	batches := b.job.Epochs * b.job.ReduceFactor * b.job.Replica() / r.clusters
	for p, n := range calls {
		sleep[p] = b.each * time.Duration(batches) / time.Duration(n)
	}
	began := time.Now()
	b.shares = b.shares[:0]
	_, ss, err := b.train(r, r.net, sleep)
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("%v: %.1f samples/s", r, float64(b.x.Len()*b.job.Epochs)/took.Seconds())
	for c := range r.clusters {
		fmt.Print(", idle")
		for k := range r.stages {
			fmt.Printf(" %.0f %%", 100*(1-ss[stage.Peer{Cluster: c, Stage: k}].Busy().Seconds()/took.Seconds()))
		}
		if r.clusters > 1 {
			a := ss[stage.Peer{Cluster: c}].Averages()
			fmt.Printf(", waited %v a round for %.1f MB", (a.Waited / time.Duration(a.Rounds)).Round(time.Millisecond), float64(a.Sent)/float64(a.Rounds)/1e6)
		}
	}
	if r.moves {
		fmt.Printf(", the last cluster's replicas become %v", b.shares)
	}
	fmt.Println()
	return nil
}

// train does the job and tells how often each stage has stopped between kernels, to sleep so
// long.
func (b *bench) train(r run, net network, sleep map[stage.Peer]time.Duration) (map[stage.Peer]int64, map[stage.Peer]*stage.Stage, error) {
	t, err := b.team(r, net)
	if err != nil {
		return nil, nil, err
	}
	defer t.close()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	calls, ss := map[stage.Peer]*atomic.Int64{}, map[stage.Peer]*stage.Stage{}
	began := time.Now()
	for p, c := range t.compiled {
		n := &atomic.Int64{}
		calls[p] = n
		cfg := stage.Config{
			TrainRows: b.x.Len(), ValRows: 1, TrainX: b.x, ValX: b.x, TrainY: b.y, ValY: b.y, Order: data.Order,
			Links: t.links[p], Rings: t.rings[p], Now: func() time.Duration { return time.Since(began) },
			Between: func() {
				n.Add(1)
				d := sleep[p]
				if r.slows && p.Cluster == r.clusters-1 && r.slowed(float64(n.Load())*d.Seconds(), b) {
					d *= 2
				}
				if d > 0 {
					time.Sleep(d)
				}
			},
		}
		if ss[p], err = stage.New(c, cfg); err != nil {
			return nil, nil, err
		}
	}
	var wg sync.WaitGroup
	for p, s := range ss {
		wg.Go(func() {
			var obs stage.Observer = silent{}
			if p == (stage.Peer{Cluster: r.clusters - 1}) {
				obs = watched{b: b}
			}
			if err := s.Run(ctx, nil, obs); err != nil {
				cancel(fmt.Errorf("%s: %w", p, err))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	counts := map[stage.Peer]int64{}
	for p, n := range calls {
		counts[p] = n.Load()
	}
	return counts, ss, b.same(r, ss)
}

// slowed tells whether a cluster is in the second half of what it would do if nothing slowed it,
// after so many seconds of work.
func (r run) slowed(done float64, b *bench) bool {
	batches := b.job.Epochs * b.job.ReduceFactor * b.job.Replica() / r.clusters
	return done > b.each.Seconds()*float64(batches)/2
}

// same fails if a cluster has not ended with the weights of all runs before.
func (b *bench) same(r run, ss map[stage.Peer]*stage.Stage) error {
	for c := range r.clusters {
		var d state.Dict
		for k := range r.stages {
			d = append(d, ss[stage.Peer{Cluster: c, Stage: k}].State()...)
		}
		if h := fmt.Sprintf("%x", d.Hash()); b.weights == "" {
			b.weights = h
		} else if h != b.weights {
			return fmt.Errorf("cluster %d of %d ends with other weights than the runs before", c, r.clusters)
		}
	}
	return nil
}

// silent is an observer that keeps nothing.
type silent struct{}

func (silent) Loss(stage.Loss)            {}
func (silent) Validated(stage.Validation) {}
func (silent) Batch(int)                  {}
func (silent) Keep(stage.Saved) error     { return nil }

// watched is an observer that notes how many replicas its cluster has, as often as that changes.
type watched struct {
	silent
	b *bench
}

func (w watched) Share(own order.Set) { w.b.shares = append(w.b.shares, own.Len()) }

// team compiles the stages of a run and links them.
func (b *bench) team(r run, net network) (*team, error) {
	t := &team{
		compiled: map[stage.Peer]*stage.Compiled{}, links: map[stage.Peer]map[int]stage.Link{}, rings: map[stage.Peer]map[stage.Peer]stage.Link{},
	}
	us := b.g.Units()
	var starts []int
	for k := range r.stages {
		starts = append(starts, us[k*len(us)/r.stages].From)
	}
	var place stage.Placement
	if r.clusters > 1 {
		place.Clusters = make([]stage.Cluster, r.clusters)
		for k := range b.job.Replica() {
			c := &place.Clusters[k%r.clusters]
			c.Starts, c.Replicas = starts, append(c.Replicas, k)
		}
		for c := range place.Clusters {
			if n := len(place.Clusters[c].Replicas); r.moves {
				place.Clusters[c].Room = n + n/2
			}
		}
	}
	j := b.job
	j.InFlight = r.inFlight
	for c := range r.clusters {
		place.Cluster = c
		cut, err := b.g.Cut(starts)
		if err != nil {
			return nil, err
		}
		for k, s := range cut {
			p := stage.Peer{Cluster: c, Stage: k}
			if t.compiled[p], err = stage.Compile(j, s, place); err != nil {
				return nil, err
			}
			t.links[p], t.rings[p] = map[int]stage.Link{}, map[stage.Peer]stage.Link{}
		}
	}
	t.connect(net)
	return t, nil
}

// connect makes all links.
func (t *team) connect(net network) {
	pair := func(a, b transport.Options) (x, y *transport.Link) {
		p, q := mem.Pair(net.faults(), net.faults())
		x, y = transport.NewLink(p, a), transport.NewLink(q, b)
		t.ends = append(t.ends, x, y)
		return x, y
	}
	for a, c := range t.compiled {
		for _, k := range c.Peers() {
			if b := (stage.Peer{Cluster: a.Cluster, Stage: k}); k > a.Stage {
				t.links[a][k], t.links[b][a.Stage] = pair(c.Link(k), t.compiled[b].Link(a.Stage))
			}
		}
		for _, b := range c.Rings() {
			if b.Cluster > a.Cluster {
				t.rings[a][b], t.rings[b][a] = pair(c.RingLink(b), t.compiled[b].RingLink(a))
			}
		}
	}
}

func (t *team) close() {
	for _, l := range t.ends {
		_ = l.Close()
	}
}
