package audit

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
)

// table is a data set in memory.
type table struct {
	v   []float32
	per int
}

func (t table) Len() int { return len(t.v) / t.per }

func (t table) Gather(dst []float32, rows []int32) {
	for i, r := range rows {
		copy(dst[i*t.per:], t.v[int(r)*t.per:][:t.per])
	}
}

// world is a run to be audited.
type world struct {
	job      job.Spec
	g        *graph.Graph
	clusters []stage.Cluster
	micro    []int // micro-batches by cluster; nil: the job's
	tokens   bool  // are what the model reads and answers
}

// Of the data set of tokens.
const seqLen, vocab = 7, 5

// tokens is n rows of them.
func tokens(n int, node uint32) table {
	t := table{make([]float32, n*seqLen), seqLen}
	s := kernel.NewStream(1, kernel.DomainTest, 2, node)
	for i := range t.v {
		t.v[i] = float32(s.Uint32(uint64(i)) % vocab)
	}
	return t
}

// newWorld is a run of one cluster of four stages.
func newWorld(change func(*job.Spec)) *world {
	w := &world{job: job.Default(), g: zoo.CNN()}
	w.job.Epochs, w.job.BatchSize, w.job.MicroBatches = 3, 16, 2
	if change != nil {
		change(&w.job)
	}
	w.clusters = []stage.Cluster{{Starts: w.cut(4)}}
	return w
}

// cut is into so many stages.
func (w *world) cut(n int) (starts []int) {
	us := w.g.Units()
	for k := range n {
		starts = append(starts, us[k*len(us)/n].From)
	}
	return starts
}

// shareOut gives the replicas to clusters of so many stages, in turns.
func (w *world) shareOut(stages ...int) *world {
	w.clusters = nil
	for c, n := range stages {
		w.clusters = append(w.clusters, stage.Cluster{Starts: w.cut(n)})
		for k := c; k < w.job.Replica(); k += len(stages) {
			w.clusters[c].Replicas = append(w.clusters[c].Replicas, k)
		}
	}
	return w
}

// places are all stages, by cluster.
func (w *world) places() (ps []stage.Peer) {
	for c, cl := range w.clusters {
		for k := range cl.Starts {
			ps = append(ps, stage.Peer{Cluster: c, Stage: k})
		}
	}
	return ps
}

func (w *world) replay(t testing.TB) *Replay {
	t.Helper()
	var jobs []job.Spec
	for c := range w.clusters {
		j := w.job
		if w.micro != nil {
			j.MicroBatches = w.micro[c]
		}
		jobs = append(jobs, j)
	}
	r, err := NewReplay(w.g, w.clusters, jobs)
	if err != nil {
		t.Fatal(err)
	}
	rows := func(n, per int, node uint32) table {
		v := make([]float32, n*per)
		kernel.Normal(v, kernel.NewStream(1, kernel.DomainTest, 0, node))
		return table{v, per}
	}
	classes := func(n int, node uint32) table {
		t := table{make([]float32, n*10), 10}
		for i := range n {
			s := kernel.NewStream(1, kernel.DomainTest, 1, node)
			t.v[i*10+int(s.Uint32(uint64(i))%10)] = 1
		}
		return t
	}
	r.Until, r.Config = math.MaxUint64, stage.Config{
		TrainRows: 70, ValRows: 21, TrainX: rows(70, 64, 1), TrainY: classes(70, 2), ValX: rows(21, 64, 3), ValY: classes(21, 4),
	}
	if w.tokens {
		r.Config = stage.Config{TrainRows: 70, ValRows: 21, TrainX: tokens(70, 1), TrainY: tokens(70, 2), ValX: tokens(21, 3), ValY: tokens(21, 4)}
	}
	r.Config.Order = func(dst []int32, seed uint64, epoch int) {
		kernel.Perm(dst, kernel.NewStream(seed, kernel.DomainShuffle, uint64(epoch), 0))
	}
	return r
}

// record is what a run has said and saved.
type record struct {
	said  map[stage.Peer][]stage.Digest
	saved map[stage.Peer]map[uint64][]byte
}

func (r *Replay) record(t testing.TB) *record {
	t.Helper()
	x, err := r.told(t)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// told is record for a run that may end with an error.
func (r *Replay) told(t testing.TB) (*record, error) {
	t.Helper()
	x := &record{map[stage.Peer][]stage.Digest{}, map[stage.Peer]map[uint64][]byte{}}
	var mu sync.Mutex
	err := r.Run(t.Context(), &Watcher{
		Commit: func(p stage.Peer, d stage.Digest) {
			mu.Lock()
			defer mu.Unlock()
			x.said[p] = append(x.said[p], d)
		},
		Kept: func(p stage.Peer, s stage.Saved) error {
			b, err := s.Part.Bytes()
			mu.Lock()
			defer mu.Unlock()
			if x.saved[p] == nil {
				x.saved[p] = map[uint64][]byte{}
			}
			x.saved[p][s.Step] = b
			return err
		},
	})
	return x, err
}

// copied is a copy to tell lies in.
func (x *record) copied() *record {
	y := &record{map[stage.Peer][]stage.Digest{}, map[stage.Peer]map[uint64][]byte{}}
	for p, ds := range x.said {
		for _, d := range ds {
			d.Rings = slices.Clone(d.Rings)
			y.said[p] = append(y.said[p], d)
		}
		y.saved[p] = maps.Clone(x.saved[p])
	}
	return y
}

// against holds what was said against the truth.
func (x *record) against(t *Trail, truth *record, said bool) *Trail {
	for p := range truth.said {
		for i, d := range truth.said[p] {
			if said {
				t.Record(p, &x.said[p][i], d)
			} else {
				t.Record(p, nil, d)
			}
		}
		for step, b := range truth.saved[p] {
			if !bytes.Equal(b, x.saved[p][step]) {
				t.Saved(p, step, "its saved state")
			}
		}
	}
	return t
}

// last is the number of the run's last batch.
func (x *record) last() uint64 {
	ds := x.said[stage.Peer{}]
	return ds[len(ds)-1].Step
}

// honest checks that a run without a liar is clean.
func (w *world) honest(t *testing.T, truth *record) {
	t.Helper()
	clean := w.replay(t).record(t).against(w.replay(t).Trail(), truth, true)
	if !clean.Clean() || clean.Missing() > 0 || len(clean.Faults()) > 0 {
		t.Fatalf("an honest run is not clean: %+v", clean.Faults())
	}
}

// flip changes one bit of a number near the middle. One of zero would be lost in the next sum.
func flip(x []float32) {
	i := len(x) / 2
	for x[i] == 0 {
		i++
	}
	x[i] = math.Float32frombits(math.Float32bits(x[i]) ^ 1<<20)
}

// once is a hook that flips a bit at the first step from at on.
func once(at uint64) func(step uint64, params []float32) {
	done := false
	return func(step uint64, params []float32) {
		if step >= at && !done {
			done = true
			flip(params)
		}
	}
}

// TestOneBit: a stage, in each role, flips one bit of one parameter behind one update. It is
// named, and nobody else.
func TestOneBit(t *testing.T) {
	for name, change := range map[string]func(*job.Spec){
		"sync":     nil,
		"zb":       func(j *job.Spec) { j.Schedule = job.ZB },
		"async":    func(j *job.Spec) { j.Schedule, j.ValEvery = job.Async, 0 },
		"int8":     func(j *job.Spec) { j.Wire = "int8" },
		"replicas": func(j *job.Spec) { j.Replicas, j.ReduceFactor = 2, 2 },
		"groups":   func(j *job.Spec) { j.UpdateFrequency = 2 },
		"clipped":  func(j *job.Spec) { j.ClipNorm = 0.1 },
		"late":     func(j *job.Spec) { j.ClipNorm, j.Replicas, j.ReduceFactor = 0.1, 3, 2 },
		"tied": func(j *job.Spec) {
			j.Loss, j.Replicas, j.ReduceFactor, j.BatchSize = "cross_entropy", 3, 2, 12
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(change)
			if name == "tied" {
				w.g, w.tokens = tiedGPT(), true
			}
			truth := w.replay(t).record(t)
			w.honest(t, truth)
			for _, who := range w.places() {
				for _, at := range []uint64{0, 6, truth.last()} {
					r := w.replay(t)
					r.each = func(p stage.Peer, cfg *stage.Config) {
						if p == who {
							cfg.Hooks.Updated = once(at)
						}
					}
					fs := r.record(t).against(r.Trail(), truth, true).Faults()
					if len(fs) != 1 || fs[0].Of != who || fs[0].Either || fs[0].Step < at {
						t.Errorf("a bit of %s flips behind step %d: blamed are %+v", who, at, fs)
					}
				}
			}
		})
	}
}

// TestWithoutRecords: where nothing was said, only one whose state alone is wrong can be named.
func TestWithoutRecords(t *testing.T) {
	w := newWorld(nil)
	truth := w.replay(t).record(t)
	for _, c := range []struct {
		at   uint64
		want int
	}{{truth.last(), 1}, {0, 0}} {
		r := w.replay(t)
		r.each = func(p stage.Peer, cfg *stage.Config) {
			if p.Stage == 1 {
				cfg.Hooks.Updated = once(c.at)
			}
		}
		trail := r.record(t).against(r.Trail(), truth, false)
		if fs := trail.Faults(); trail.Clean() || len(fs) != c.want || c.want > 0 && fs[0].Of.Stage != 1 {
			t.Errorf("spoilt behind step %d: %+v", c.at, fs)
		}
	}
}

// names says who is blamed.
func names(fs []Fault) (all []string) {
	for _, f := range fs {
		s := fmt.Sprintf("%d.%d", f.Of.Cluster, f.Of.Stage)
		if f.Either {
			s += fmt.Sprintf(" or %d.%d", f.Or.Cluster, f.Or.Stage)
		}
		all = append(all, s)
	}
	return all
}

// TestLies: one that says other digests than those of what it did. The two sides of a link
// then differ, and both are named.
func TestLies(t *testing.T) {
	w := newWorld(nil)
	truth := w.replay(t).record(t)
	at := func(stage_ int) stage.Peer { return stage.Peer{Stage: stage_} }
	for _, c := range []struct {
		name string
		lie  func(r *record)
		want []string
	}{
		{"received", func(r *record) { r.said[at(2)][5].In[stage.Activations][0]++ }, []string{"0.2 or 0.1"}},
		{"received back", func(r *record) { r.said[at(1)][5].In[stage.Gradients][0]++ }, []string{"0.1 or 0.2"}},
		{"sent", func(r *record) { r.said[at(1)][5].Out[stage.Activations][0]++ }, []string{"0.1"}},
		{"sent back", func(r *record) { r.said[at(3)][5].Out[stage.Gradients][0]++ }, []string{"0.3"}},
		{"rings", func(r *record) { r.said[at(3)][5].Rings = []stage.Sum{{}} }, []string{"0.3"}},
	} {
		r := truth.copied()
		c.lie(r)
		if got := names(r.against(w.replay(t).Trail(), truth, true).Faults()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestStretches: a run that is replayed piece by piece, each with a cut of its own, from what
// the piece before has kept, ends as the whole.
func TestStretches(t *testing.T) {
	for name, replicas := range map[string]int{"one cluster": 1, "several": 3} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(func(j *job.Spec) {
				if replicas > 1 {
					j.Replicas, j.ReduceFactor = job.Count(replicas), 1
				}
			})
			ends := []uint64{uint64(3), 8, math.MaxUint64}
			truth := w.replay(t).record(t)
			join := func(x *record, step uint64) *snapshot.Part {
				var parts []*snapshot.Part
				for _, p := range w.places() {
					b := x.saved[p][step]
					if b == nil {
						t.Fatalf("%s keeps no state at step %d", p, step)
					}
					part, err := snapshot.Parse(b)
					if err != nil {
						t.Fatal(err)
					}
					parts = append(parts, part)
				}
				all, err := snapshot.Join(parts...)
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			want := join(truth, truth.last()+1)
			var got *snapshot.Part
			at := uint64(0)
			for i, until := range ends {
				if replicas > 1 {
					w.shareOut([][]int{{2, 3}, {1, 2, 1}, {3}}[i]...)
				} else {
					w.clusters[0].Starts = w.clusters[0].Starts[:4-i]
				}
				r := w.replay(t)
				if r.From, r.Until = at, until; got != nil {
					r.Parts = []*snapshot.Part{got}
				}
				x := r.record(t)
				if at = x.last() + 1; until != math.MaxUint64 && at != until {
					t.Fatalf("it ends at step %d, want %d", at, until)
				}
				got = join(x, at)
			}
			if got.State.Hash() != want.State.Hash() {
				t.Error("the pieces end with other weights than the whole")
			}
		})
	}
}

// TestKeys: every stage has a key of its own. What is said under it is compared under it, and says
// nothing under another one.
func TestKeys(t *testing.T) {
	w := newWorld(nil)
	keyed := func(of byte) *Replay {
		r := w.replay(t)
		r.Keys = map[stage.Peer][]byte{}
		for i, p := range w.places() {
			r.Keys[p] = bytes.Repeat([]byte{of + byte(i)}, stage.KeySize)
		}
		return r
	}
	truth := keyed(0).record(t)
	if fs := keyed(0).record(t).against(keyed(0).Trail(), truth, true).Faults(); len(fs) > 0 {
		t.Errorf("blamed under the same keys are %v", names(fs))
	}
	if keyed(100).record(t).against(keyed(0).Trail(), truth, true).Clean() {
		t.Error("digests under other keys are the same")
	}
	a, b := truth.said[stage.Peer{}][0], truth.said[stage.Peer{Stage: 1}][0]
	if a.Out[stage.Activations] == b.In[stage.Activations] {
		t.Error("both ends of a link have the same digest of what went over it, though their keys differ")
	}
}

// TestEmptyStretch: an attempt that only saves what it began with, cut in another way, is computed again.
func TestEmptyStretch(t *testing.T) {
	const at = 3
	w := newWorld(nil)
	r := w.replay(t)
	r.Until = at
	x := r.record(t)
	var parts []*snapshot.Part
	for _, p := range w.places() {
		part, err := snapshot.Parse(x.saved[p][at])
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	want, err := snapshot.Join(parts...)
	if err != nil {
		t.Fatal(err)
	}
	w.clusters[0].Starts = w.cut(1)
	r = w.replay(t)
	r.Parts, r.From, r.Until, r.Marks = parts, at, at, map[uint64]bool{at: true}
	got, err := snapshot.Parse(r.record(t).saved[stage.Peer{}][at])
	if err != nil {
		t.Fatalf("nothing is kept: %v", err)
	}
	if got.State.Hash() != want.State.Hash() || got.Position != want.Position {
		t.Error("the state has changed")
	}
}

// TestTeam: stages that compute at the same time do not share threads, which serve one at a time.
func TestTeam(t *testing.T) {
	team := kernel.NewTeam(2)
	defer team.Close()
	for _, n := range []int{1, 3} {
		w := newWorld(nil)
		w.clusters[0].Starts = w.cut(n)
		r := w.replay(t)
		r.Until, r.Config.Team = 1, team
		shared := 0
		r.each = func(_ stage.Peer, cfg *stage.Config) {
			if cfg.Team != nil {
				shared++
			}
		}
		if r.record(t); shared > 1 || n == 1 && shared == 0 {
			t.Errorf("%d of %d stages have the team", shared, n)
		}
	}
}
