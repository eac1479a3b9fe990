package stage_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/engine/zoo"
)

// team is the clusters of a world.
type team struct {
	*world
	clusters []stage.Cluster
	micro    []int      // micro-batches by cluster; nil: the job's
	faults   mem.Faults // of links between clusters, from the lower to the higher
	back     mem.Faults // and the other way

	now    func() time.Duration
	clocks []*clock // of clusters, in place of now

	logs   [][]*log // by cluster and stage
	states []state.Dict
	rings  []stage.Averages // by stage, cluster after cluster
}

// shareOut gives the replicas of the world's job to clusters with these cuts, in turns from the
// last on, so that the first does not have the first.
func (w *world) shareOut(cuts ...[]int) *team {
	t := &team{world: w, clusters: make([]stage.Cluster, len(cuts))}
	for c, starts := range cuts {
		t.clusters[c].Starts = starts
	}
	for k := range w.job.Replica() {
		c := len(cuts) - 1 - k%len(cuts)
		t.clusters[c].Replicas = append(t.clusters[c].Replicas, k)
	}
	return t
}

// place is a stage's name in the whole team.
type place struct{ cluster, stage int }

// run trains the job on all clusters and merges what they report.
func (m *team) run(t testing.TB, mark func() order.Mark, parts []*snapshot.Part) (*log, error) {
	t.Helper()
	compiled := map[place]*stage.Compiled{}
	links, rings := map[place]map[int]stage.Link{}, map[place]map[stage.Peer]stage.Link{}
	for c, cl := range m.clusters {
		cut, err := m.g.Cut(cl.Starts)
		if err != nil {
			t.Fatal(err)
		}
		for k, s := range cut {
			at := place{c, k}
			j := m.job
			if m.micro != nil {
				j.MicroBatches = m.micro[c]
			}
			if compiled[at], err = stage.Compile(j, s, stage.Placement{Cluster: c, Clusters: m.clusters}); err != nil {
				t.Fatal(err)
			}
			links[at], rings[at] = map[int]stage.Link{}, map[stage.Peer]stage.Link{}
		}
	}
	var all []*transport.Link
	pair := func(a, b transport.Options, faults, back mem.Faults) (x, y *transport.Link) {
		p, q := mem.Pair(faults, back)
		x, y = transport.NewLink(p, a), transport.NewLink(q, b)
		all = append(all, x, y)
		return x, y
	}
	places := slices.SortedFunc(maps.Keys(compiled), func(a, b place) int { return cmp.Or(a.cluster-b.cluster, a.stage-b.stage) })
	for _, a := range places {
		for _, k := range compiled[a].Peers() {
			if b := (place{a.cluster, k}); k > a.stage {
				links[a][k], links[b][a.stage] = pair(compiled[a].Link(k), compiled[b].Link(a.stage), mem.Faults{}, mem.Faults{})
			}
		}
		for _, p := range compiled[a].Rings() {
			b := place{p.Cluster, p.Stage}
			me := stage.Peer{Cluster: a.cluster, Stage: a.stage}
			if !slices.Contains(compiled[b].Rings(), me) {
				t.Fatalf("%v is a neighbour of %v, but not the other way", p, me)
			}
			if p.Cluster > a.cluster {
				faults := m.faults
				if faults.Rand != nil {
					faults.Rand = newRand() // each link its own
				}
				rings[a][p], rings[b][me] = pair(compiled[a].RingLink(p), compiled[b].RingLink(me), faults, m.back)
			}
		}
	}
	defer func() {
		for _, l := range all {
			_ = l.Close()
		}
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var wg sync.WaitGroup
	m.logs, m.states = make([][]*log, len(m.clusters)), make([]state.Dict, len(m.clusters))
	m.rings, m.errs = make([]stage.Averages, len(places)), make([]error, len(places))
	stages := make([]*stage.Stage, len(places))
	for i, at := range places {
		cfg := m.timed(links[at], rings[at], at)
		s, err := stage.New(compiled[at], cfg)
		if err != nil {
			t.Fatal(err)
		}
		if parts != nil {
			if err := s.Load(parts...); err != nil {
				t.Fatal(err)
			}
		}
		l := &log{}
		m.logs[at.cluster], stages[i] = append(m.logs[at.cluster], l), s
		var obs stage.Observer = l
		if m.light {
			obs = &dropped{}
			m.stages, m.kept = append(m.stages, s), append(m.kept, obs)
		}
		var ask func() order.Mark
		if at.cluster == len(m.clusters)/2 { // one root is enough
			ask = mark
		}
		wg.Go(func() {
			if err := s.Run(ctx, ask, obs); err != nil {
				m.errs[i] = err
				cancel(fmt.Errorf("stage %d of cluster %d: %w", at.stage, at.cluster, err))
			}
		})
	}
	wg.Wait()
	for i, at := range places {
		if !m.light {
			m.states[at.cluster] = append(m.states[at.cluster], stages[i].State()...)
		}
		m.rings[i] = stages[i].Averages()
	}
	return m.merged(t), context.Cause(ctx)
}

// timed is what a stage is given, its clock included.
func (m *team) timed(links map[int]stage.Link, rings map[stage.Peer]stage.Link, at place) stage.Config {
	cfg := m.config(links)
	cfg.Rings, cfg.Now = rings, m.now
	if m.clocks != nil {
		cfg.Now = m.clocks[at.cluster].now
		if at.stage == 0 {
			cfg.Between = m.clocks[at.cluster].kernel
		}
	}
	return cfg
}

// merged is what the leaves have reported, in the order of batches.
func (m *team) merged(t testing.TB) *log {
	t.Helper()
	out := &log{}
	for c, stages := range m.logs {
		leaf := stages[len(stages)-1]
		out.losses = append(out.losses, leaf.losses...)
		if c == 0 {
			out.vals, out.saved = leaf.vals, leaf.saved
		} else if len(leaf.vals) > 0 {
			t.Error("another cluster than the first has validated")
		}
	}
	slices.SortFunc(out.losses, func(a, b stage.Loss) int { return cmp.Compare(a.Step, b.Step) })
	return out
}

// saved are the parts that the clusters kept last: of the first one, and of all where the
// optimizer is kept.
func (m *team) saved(t *testing.T) []*snapshot.Part {
	t.Helper()
	var ps []*snapshot.Part
	for c, logs := range m.logs {
		for _, l := range logs {
			if c == 0 || m.job.Averaging().Optimizer == job.KeepState {
				ps = append(ps, l.saved[len(l.saved)-1].Part)
			}
		}
	}
	return ps
}

// check holds a run against that of one process: losses, validations, and the trained bytes of
// every cluster.
func (m *team) check(t *testing.T, what string, got, want *log, dict state.Dict) {
	t.Helper()
	for c, d := range m.states {
		equal(t, fmt.Sprintf("%s, cluster %d", what, c), got, want, d, dict)
	}
}

// TestClustersAreOneProcess: replicas that are shared out to any number of clusters, cut alike
// or not, have every loss, validation and weight of one process.
func TestClustersAreOneProcess(t *testing.T) {
	for i, how := range slices.Sorted(maps.Keys(averages)) {
		for k, n := range []int{2, 4, 6} {
			t.Run(fmt.Sprintf("%s/%d", how, n), func(t *testing.T) {
				w := newWorld(replicated(n, how)) // 5 batches an epoch, the last one short
				if (i+k)%2 == 0 || how == "gradients" && n > 2 {
					w = small(replicated(n, how))
				}
				if k == 1 {
					w.job.ClipNorm = 0.05
				}
				want, dict := w.local(t)
				cuts := [][][]int{
					{w.starts(3), w.starts(3)},
					{w.starts(2), w.starts(3)},
					{w.starts(1), w.starts(5)},
					{w.starts(2), w.starts(1), w.starts(3)},
					{w.starts(1), w.starts(1), w.starts(1), w.starts(1)},
				}
				for c, cut := range cuts {
					if len(cut) > n {
						continue
					}
					w.job.InFlight = (i + k + c) % 3
					w.job.Schedule = []string{job.Sync, job.Sync, job.ZB}[(i+c)%3]
					m := w.shareOut(cut...)
					got, err := m.run(t, nil, nil)
					if err != nil {
						t.Fatalf("%v: %v", cut, err)
					}
					m.check(t, fmt.Sprint(cut), got, want, dict)
				}
			})
		}
	}
}

// TestRingOrder: in whichever order the clusters follow one another in their rings, and whoever
// has which replica, the bytes are those of one process.
func TestRingOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	for _, how := range []string{"gradients", "parameters"} {
		w := small(replicated(4, how))
		want, dict := w.local(t)
		cuts := [][]int{w.starts(1), w.starts(2), w.starts(3), w.starts(2)}
		for range 4 {
			m := w.shareOut(cuts...)
			got, err := m.run(t, nil, nil)
			if err != nil {
				t.Fatalf("%v: %v", cuts, err)
			}
			m.check(t, fmt.Sprint(how, cuts), got, want, dict)
			rng.Shuffle(len(cuts), func(a, b int) { cuts[a], cuts[b] = cuts[b], cuts[a] })
		}
	}
}

// TestClustersResume: clusters that are stopped between two rounds go on as another number of
// clusters with other cuts, as one pipeline and as one process; and a checkpoint on the way is
// what a stop there keeps, and changes no bit.
func TestClustersResume(t *testing.T) {
	for how := range averages {
		t.Run(how, func(t *testing.T) {
			change := func(j *job.Spec) {
				replicated(4, how)(j)
				if j.Epochs = 4; j.ReduceFactor > 0 {
					j.ReduceFactor = 1
				}
			}
			w := newWorld(change)
			if how == "gradients" { // batch norm needs two rows
				w = small(change)
			}
			want, dict := w.local(t)
			m := w.shareOut(w.starts(2), w.starts(3))
			got, err := m.run(t, at(1, order.Checkpoint), nil)
			if err != nil {
				t.Fatal(err)
			}
			m.check(t, "with a checkpoint", got, want, dict)
			// The mark is asked for at the end of the second round, and holds before the third.
			checkpoint := got.saved[0].Part.Position
			for i, cuts := range [][][]int{
				{w.starts(3), w.starts(2), w.starts(1)},
				{w.starts(1), w.starts(1), w.starts(2), w.starts(5)},
				{w.starts(2)},
			} {
				stop := 1 + i%2
				before, err := m.run(t, at(stop, order.Stop), nil)
				if err != nil {
					t.Fatal(err)
				}
				parts := m.saved(t)
				pos := parts[0].Position
				if len(before.losses) == 0 || pos.Step != uint64(len(before.losses)) || stop == 1 && pos != checkpoint {
					t.Fatalf("stopped at the end of round %d: %d losses, %+v, a checkpoint is at %+v", stop, len(before.losses), pos, checkpoint)
				}
				join := func(after *log) *log {
					return &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}
				}
				if len(cuts) == 1 {
					after, d, err := w.resume(t, cuts[0], mem.Faults{}, nil, parts)
					if err != nil {
						t.Fatal(err)
					}
					equal(t, "one pipeline", join(after), want, d, dict)
					alone, own := w.takeUp(t, parts)
					equal(t, "one process", join(alone), want, own, dict)
					continue
				}
				n := w.shareOut(cuts...)
				after, err := n.run(t, nil, parts)
				if err != nil {
					t.Fatal(err)
				}
				n.check(t, fmt.Sprint(cuts), join(after), want, dict)
			}
		})
	}
}

// TestClustersHold: what is held in memory at a round's end is held by every cluster, is the same
// in all of them but for what replicas keep, and any cluster can go on from its own.
func TestClustersHold(t *testing.T) {
	w := small(func(j *job.Spec) { j.Replicas, j.ReduceFactor = 3, 1 })
	w.job.Epochs = 3
	want, dict := w.local(t)
	m := w.shareOut(w.starts(3), w.starts(1))
	got, err := m.run(t, at(1, order.Hold), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, "undisturbed", got, want, dict)
	var parts [][]*snapshot.Part
	for c, logs := range m.logs {
		parts = append(parts, nil)
		for k, l := range logs {
			if len(l.saved) != 2 || !l.saved[0].Held || l.saved[1].Held || !l.saved[1].Final {
				t.Fatalf("stage %d of cluster %d kept %d states", k, c, len(l.saved))
			}
			parts[c] = append(parts[c], l.saved[0].Part)
		}
	}
	all, err := snapshot.Join(parts[0]...)
	if err != nil {
		t.Fatal(err)
	}
	other := parts[1][0]
	if other.Position != all.Position || all.Position.Step == 0 {
		t.Fatalf("held at %+v and %+v", all.Position, other.Position)
	}
	for _, x := range all.State {
		if y, ok := other.State.Get(x.Name); !ok || !slices.Equal(x.F32, y.F32) {
			t.Errorf("%s differs between the clusters", x.Name)
		}
	}
	n := w.shareOut(w.starts(2), w.starts(3))
	after, err := n.run(t, nil, parts[1])
	if err != nil {
		t.Fatal(err)
	}
	from := int(all.Position.Step)
	after.losses = slices.Concat(got.losses[:from], after.losses)
	var vals []stage.Validation
	for _, v := range got.vals {
		if v.Step <= all.Position.Step {
			vals = append(vals, v)
		}
	}
	after.vals = slices.Concat(vals, after.vals)
	n.check(t, "gone on", after, want, dict)
}

// TestClustersThatLoseALink: where the link between two clusters breaks, or loses or reorders
// what it carries, every stage of both ends with an error; nothing hangs and nothing is guessed.
func TestClustersThatLoseALink(t *testing.T) {
	for name, f := range map[string]mem.Faults{
		"cut at once":  {CutAt: 1},
		"cut":          {CutAt: 9},
		"cut later":    {CutAt: 30},
		"loss":         {DropAt: 12},
		"reorder":      {Reorder: 1, Delay: 2e6, Rand: newRand()},
		"cut, delayed": {CutAt: 14, Delay: 1e6},
	} {
		w := newWorld(replicated(4, "parameters"))
		m := w.shareOut(w.starts(2), w.starts(3))
		m.faults = f
		_, err := m.run(t, nil, nil)
		if err == nil || !errors.Is(err, transport.ErrPeerGone) && !errors.Is(err, wire.ErrProtocol) && !strings.Contains(err.Error(), wire.ErrProtocol.Error()) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(fmt.Sprint(err), "of cluster 1: ") && !strings.Contains(fmt.Sprint(err), "of cluster 0: ") {
			t.Errorf("%s: nobody is named: %v", name, err)
		}
		for i, err := range m.errs {
			if err == nil {
				t.Errorf("%s: stage %d ends without an error", name, i)
			}
		}
	}
}

// TestTraffic: averaging sends at most a tenth more than a ring has to: 2(n-1)/n of what is
// averaged, times its bits.
func TestTraffic(t *testing.T) {
	for _, c := range []struct{ clusters, replicas, bits int }{{2, 2, 28}, {2, 4, 28}, {3, 3, 28}, {3, 6, 28}, {2, 2, 16}, {2, 2, 8}} {
		w := newWorld(func(j *job.Spec) {
			j.Loss, j.Epochs, j.BatchSize, j.Replicas, j.ReduceFactor, j.ValEvery = "cross_entropy", 1, 2, job.Count(c.replicas), 1, 0
			j.Average.Bits = c.bits
		})
		w.g = zoo.GPT(zoo.GPTSorter)
		w.tx, w.vx = integers(4*c.replicas, 11, 0, 3, 1), integers(2, 11, 0, 3, 2)
		w.ty, w.vy = integers(4*c.replicas, 33, 0, 2, 3), integers(2, 33, 0, 2, 4)
		var cuts [][]int
		for range c.clusters {
			cuts = append(cuts, w.starts(1))
		}
		m := w.shareOut(cuts...)
		if _, err := m.run(t, nil, nil); err != nil {
			t.Fatal(err)
		}
		l := exec.NewLayout(w.g, 0)
		bits := 0
		for _, e := range l.Entries {
			bits += e.Elems() * (c.bits + 2*28) // and two moments
		}
		var sent, rounds int64
		for i, a := range m.rings {
			if a.Rounds != 2 {
				t.Fatalf("%d rounds", a.Rounds)
			}
			sent, rounds = sent+a.Sent, rounds+int64(a.Rounds)
			if a.Received != m.rings[(i+1)%len(m.rings)].Sent && c.clusters == 2 {
				t.Errorf("%d bytes sent, %d received", m.rings[1-i].Sent, a.Received)
			}
		}
		least := float64(bits) / 8 * 2 * float64(c.clusters-1) / float64(c.clusters)
		got := float64(sent) / float64(rounds) / least
		t.Logf("%+v: %.3f of the least", c, got)
		if got > 1.1 || got < 1 {
			t.Errorf("%+v: %.3f of what a ring has to send", c, got)
		}
	}
}

// TestPromiseOfClusters: what stages that average with others have allocated is within what was
// promised, with room for more replicas than they have and without.
func TestPromiseOfClusters(t *testing.T) {
	for _, room := range []bool{false, true} {
		const perStage, pipes = 160 << 10, 4 << 20
		w := newWorld(func(j *job.Spec) {
			j.Loss, j.Epochs, j.BatchSize, j.Replicas, j.ClipNorm = "cross_entropy", 1, 64, 4, 1
		})
		w.light = true
		w.g = zoo.GPT(zoo.GPTSorter)
		w.tx, w.vx = integers(256, 11, 0, 3, 1), integers(128, 11, 0, 3, 2)
		w.ty, w.vy = integers(256, 33, 0, 2, 3), integers(128, 33, 0, 2, 4)
		m := w.shareOut(w.starts(2), w.starts(1))
		if room {
			m.moving()
		}
		rest := 3*(codecs()+perStage) + pipes
		before := heap()
		if _, err := m.run(t, nil, nil); err != nil {
			t.Fatal(err)
		}
		got, want := heap()-before, 0
		for _, s := range w.stages {
			want += s.Memory()
		}
		// Windows and buffers of messages are not all in use at the end.
		if got > want+rest || got < want/2 {
			t.Errorf("room %v: %d bytes in use, %d promised", room, got, want)
		}
		runtime.KeepAlive(w)
	}
}

// BenchmarkRings is a round of one update of clusters whose links carry 100 Mbit/s and take
// 20 ms each way, against what the bytes alone take.
func BenchmarkRings(b *testing.B) {
	for _, n := range []int{2, 3} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				w := newWorld(func(j *job.Spec) {
					j.Loss, j.Epochs, j.BatchSize, j.Replicas, j.ReduceFactor, j.ValEvery = "cross_entropy", 4, 1, job.Count(n), 1, 0
				})
				w.g = zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 3, Heads: 4, Width: 96, Tokens: 11, Vocab: 3})
				w.tx, w.vx = integers(n, 11, 0, 3, 1), integers(2, 11, 0, 3, 2)
				w.ty, w.vy = integers(n, 33, 0, 2, 3), integers(2, 33, 0, 2, 4)
				var cuts [][]int
				for range n {
					cuts = append(cuts, w.starts(1))
				}
				m := w.shareOut(cuts...)
				m.faults = mem.Faults{Rate: 12.5e6, Delay: 20e6}
				began := time.Now()
				m.back, m.now = m.faults, func() time.Duration { return time.Since(began) }
				if _, err := m.run(b, nil, nil); err != nil {
					b.Fatal(err)
				}
				a := m.rings[0]
				b.ReportMetric(a.Waited.Seconds()/float64(a.Rounds)*1e3, "ms-waited/round")
				b.ReportMetric(float64(a.Sent)/float64(a.Rounds)/12.5e6*1e3, "ms-of-bytes/round")
			}
		})
	}
}

// TestClustersChooseMicroBatches: each cluster may take as many micro-batches as suits it. All
// that they keep is of one position, and other clusters go on from it.
func TestClustersChooseMicroBatches(t *testing.T) {
	w := small(replicated(4, "keep"))
	w.job.MicroBatches, w.job.ReduceFactor, w.job.Epochs, w.job.ClipNorm = 0, 1, 4, 0.1
	want, dict := w.local(t)
	m := w.shareOut(w.starts(2), w.starts(1), w.starts(3))
	m.micro = []int{1, 2, 4}
	got, err := m.run(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, "undisturbed", got, want, dict)
	before, err := m.run(t, at(1, order.Stop), nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := m.saved(t)
	n := w.shareOut(w.starts(3), w.starts(1))
	n.micro = []int{4, 1}
	after, err := n.run(t, nil, parts)
	if err != nil {
		t.Fatal(err)
	}
	n.check(t, "stopped", &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}, want, dict)
}

// TestTiedWeightsInClusters: a parameter that one cluster has in several stages, and another in
// one, is averaged to the bits of one process, whatever is averaged, and with stochastic
// rounding too.
func TestTiedWeightsInClusters(t *testing.T) {
	for how := range averages {
		t.Run(how, func(t *testing.T) {
			w := tiedWorld(replicated(4, how))
			if how != "gradients" {
				w.job.ReduceFactor = 1
			}
			w.job.ClipNorm = 0.1
			want, dict := w.local(t)
			for i, cuts := range [][][]int{
				{w.starts(1), w.starts(3)},
				{w.starts(5), w.starts(2), w.starts(1)},
				{w.starts(3), w.starts(5)},
			} {
				if w.job.Schedule = job.Sync; i == 2 {
					w.job.Schedule = job.ZB
				}
				m := w.shareOut(cuts...)
				got, err := m.run(t, nil, nil)
				if err != nil {
					t.Fatalf("%v: %v", cuts, err)
				}
				for c, d := range m.states {
					// Parameters of several stages come with each of them.
					seen := map[string]bool{}
					m.states[c] = slices.DeleteFunc(d, func(x state.Tensor) bool {
						again := seen[x.Name]
						seen[x.Name] = true
						return again
					})
				}
				m.check(t, fmt.Sprint(cuts), got, want, dict)
			}
		})
	}
}
