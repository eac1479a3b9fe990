package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/engine/zoo"
)

// tiedGPT is a decoder whose answer is a product with the embedding.
func tiedGPT() *graph.Graph {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 2, Heads: 2, Width: 8, Tokens: seqLen, Vocab: vocab})
	for i := range g.Nodes {
		if n := &g.Nodes[i]; n.Name == "lm_head" {
			n.Names = map[string]string{"weight": "transformer.wte.weight"}
		}
	}
	if err := g.Check(); err != nil {
		panic(err)
	}
	return g
}

// several are runs of several clusters.
func several() map[string]*world {
	replicas := func(n int, change func(*job.Spec)) *world {
		return newWorld(func(j *job.Spec) {
			// All clusters have something to do in every round.
			j.Replicas, j.ReduceFactor, j.ValEvery, j.BatchSize = job.Count(n), 2, 0, 12
			if change != nil {
				change(j)
			}
		})
	}
	tied := func(n int, of string) *world {
		w := replicas(n, func(j *job.Spec) {
			j.Loss, j.Average.Of = "cross_entropy", of
			if of == job.Gradients {
				j.ReduceFactor = 0
			}
		})
		w.g, w.tokens = tiedGPT(), true
		return w
	}
	micro := replicas(3, nil).shareOut(2, 1, 3)
	micro.micro = []int{1, 4, 2}
	return map[string]*world{
		"parameters": replicas(4, nil).shareOut(3, 2),
		"clipped":    replicas(4, func(j *job.Spec) { j.ClipNorm = 0.1 }).shareOut(3, 2),
		"three":      micro,
		"keep":       replicas(3, func(j *job.Spec) { j.Average.Optimizer = job.KeepState }).shareOut(2, 2),
		"8 bits":     replicas(4, func(j *job.Spec) { j.Average.Bits, j.UpdateFrequency = 8, 2 }).shareOut(1, 2),
		"gradients": replicas(3, func(j *job.Spec) {
			j.Average.Of, j.ReduceFactor, j.ClipNorm, j.MicroBatches = job.Gradients, 0, 0.1, 1
		}).shareOut(2, 3, 1),
		"zb":             replicas(2, func(j *job.Spec) { j.Schedule, j.Wire = job.ZB, "int8" }).shareOut(3, 3),
		"tied":           tied(3, "").shareOut(3, 2, 1),
		"tied gradients": tied(2, job.Gradients).shareOut(3, 2),
	}
}

// TestOneBitOfClusters: a stage of one of several clusters, in each role, flips one bit behind an
// update, of a sum that it sends in each step of a ring, of what an average has made, or of a
// state that it saves. It is named, and nobody else.
func TestOneBitOfClusters(t *testing.T) {
	for name, w := range several() {
		t.Run(name, func(t *testing.T) {
			truth := w.replay(t).record(t)
			w.honest(t, truth)
			blamed := func(who stage.Peer, what string, at uint64, spoil func(*stage.Hooks)) {
				t.Helper()
				r := w.replay(t)
				r.each = func(p stage.Peer, cfg *stage.Config) {
					if p == who {
						spoil(&cfg.Hooks)
					}
				}
				fs := r.record(t).against(r.Trail(), truth, true).Faults()
				if len(fs) != 1 || fs[0].Of != who || fs[0].Either || fs[0].Step < at {
					t.Errorf("%s of %s behind step %d: blamed are %v: %+v", what, who, at, names(fs), fs)
				}
			}
			for i, who := range w.places() {
				at := []uint64{0, 6}[i%2]
				blamed(who, "a parameter", at, func(h *stage.Hooks) { h.Updated = once(at) })
				blamed(who, "a mean", at, func(h *stage.Hooks) { h.Averaged = once(at) })
				for step := range 2 * (len(w.clusters) - 1) {
					blamed(who, fmt.Sprintf("a sum in step %d", step), 0, func(h *stage.Hooks) { h.Summed = onceIn(step) })
				}
				lie := truth.copied()
				for at, b := range lie.saved[who] {
					b = slices.Clone(b)
					b[len(b)-3] ^= 1
					lie.saved[who][at] = b
				}
				if fs := lie.against(w.replay(t).Trail(), truth, true).Faults(); len(fs) != 1 || fs[0].Of != who || fs[0].Either {
					t.Errorf("a saved state of %s: blamed are %v", who, names(fs))
				}
			}
		})
	}
}

// onceIn is a hook that flips the lowest bit of a sum, the first time that there is one in a step
// of a ring in the second round.
func onceIn(step int) func(round uint64, at int, sums []int64) {
	done := false
	return func(round uint64, at int, sums []int64) {
		if round >= 1 && at == step && len(sums) > 0 && !done {
			done = true
			sums[len(sums)/2] ^= 1
		}
	}
}

// forger is a link that changes a bit of what is sent over it, once.
type forger struct {
	stage.Link
	kind wire.Kind
	step int
	done bool
}

func (f *forger) Send(ctx context.Context, h wire.Header, b []byte) error {
	if h.Kind == f.kind && h.Seq >= 1 && int(h.Rows&0xff) == f.step && len(b) > 8 && !f.done {
		f.done = true
		b = slices.Clone(b)
		b[len(b)/2] ^= 1
	}
	return f.Link.Send(ctx, h, b)
}

// TestForged: a stage that sends something else to another cluster than it says, or says that it
// got something else than it did, cannot be told from the other end of the link. The two are named
// and nobody else.
func TestForged(t *testing.T) {
	w := several()["three"]
	truth := w.replay(t).record(t)
	check := func(what string, r *record, a, b stage.Peer) {
		t.Helper()
		fs := r.against(w.replay(t).Trail(), truth, true).Faults()
		if len(fs) != 1 || !fs[0].Either || fs[0].Of != a || fs[0].Or != b {
			t.Errorf("%s: blamed are %v, want %s or %s", what, names(fs), a, b)
		}
	}
	for _, who := range w.places() {
		xs := w.replay(t).Trail().of[who].exchanges
		for i, e := range xs {
			if e.Sent {
				// A scale that rises is taken over by all; in the last steps one end refuses what is
				// less than its own.
				if e.Kind == wire.Scale {
					continue
				}
				r := w.replay(t)
				r.each = func(p stage.Peer, cfg *stage.Config) {
					if p == who {
						cfg.Rings[e.With] = &forger{Link: cfg.Rings[e.With], kind: e.Kind, step: e.Step}
					}
				}
				check(fmt.Sprintf("%s sends something else in step %d", who, e.Step), r.record(t), e.With, who)
				continue
			}
			r := truth.copied()
			ds := r.said[who]
			at := slices.IndexFunc(ds, func(d stage.Digest) bool { return d.Round })
			ds[at].Rings[i][0]++
			check(fmt.Sprintf("%s says that it got something else from %s in step %d", who, e.With, e.Step), r, who, e.With)
		}
	}
}

// TestForgedScales: a scale that is changed on its way over a ring either contradicts what its
// receivers know, and the round ends with an error, or it goes into the average: then the two ends of
// that link are named and nobody else. The error accuses the one end to the other, where nobody else
// can have done it, and else nobody.
func TestForgedScales(t *testing.T) {
	w := several()["three"]
	truth := w.replay(t).record(t)
	refused, accusing, named := 0, 0, 0
	for _, who := range w.places() {
		for _, e := range w.replay(t).Trail().of[who].exchanges {
			if !e.Sent || e.Kind != wire.Scale {
				continue
			}
			r := w.replay(t)
			r.each = func(p stage.Peer, cfg *stage.Config) {
				if p == who {
					cfg.Rings[e.With] = &forger{Link: cfg.Rings[e.With], kind: e.Kind, step: e.Step}
				}
			}
			x, err := r.told(t)
			if err != nil {
				var by *stage.PeerError
				switch accused := errors.As(err, &by); {
				case accused && by.From == who && strings.HasPrefix(err.Error(), e.With.String()):
					accusing++
				case !accused && errors.Is(err, stage.ErrRound):
					refused++
				default:
					t.Errorf("%s sends another scale to %s in step %d: %v", who, e.With, e.Step, err)
				}
				continue
			}
			named++
			if fs := x.against(w.replay(t).Trail(), truth, true).Faults(); len(fs) != 1 || !fs[0].Either || fs[0].Of != e.With || fs[0].Or != who {
				t.Errorf("%s sends another scale to %s in step %d: blamed are %v", who, e.With, e.Step, names(fs))
			}
		}
	}
	if refused == 0 || accusing == 0 || named == 0 {
		t.Errorf("%d were refused, %d of their senders accused, %d named: all were to be tried", refused, accusing, named)
	}
}

// TestFalseWord: a stage that did all that it should, and says of one thing that it got or sent something
// else, is named, alone or with the one at the other end, whatever that thing is; also where there is none.
func TestFalseWord(t *testing.T) {
	all := several()
	all["sync"] = newWorld(nil)
	all["async"] = newWorld(func(j *job.Spec) { j.Schedule, j.ValEvery = job.Async, 0 })
	for name, w := range all {
		truth := w.replay(t).record(t)
		for _, who := range w.places() {
			for at := range stage.Ways {
				for _, sent := range []bool{false, true} {
					r := truth.copied()
					d := &r.said[who][3]
					if sent {
						d.Out[at][0]++
					} else {
						d.In[at][0]++
					}
					fs := r.against(w.replay(t).Trail(), truth, true).Faults()
					if len(fs) != 1 || fs[0].Of != who {
						t.Errorf("%s: %s is wrong about %s, sent: %v: blamed are %v", name, who, at, sent, names(fs))
					}
				}
			}
		}
	}
}

// TestUntold: what a stage does not say, or says in another form, is no right digest of a ring.
func TestUntold(t *testing.T) {
	w := several()["parameters"]
	truth := w.replay(t).record(t)
	for _, who := range w.places() {
		r := truth.copied()
		ds := r.said[who]
		at := slices.IndexFunc(ds, func(d stage.Digest) bool { return d.Round })
		ds[at].Rings = ds[at].Rings[1:]
		fs := r.against(w.replay(t).Trail(), truth, true).Faults()
		if len(fs) != 1 || fs[0].Of != who || fs[0].Either {
			t.Errorf("%s leaves a digest out: blamed are %v", who, names(fs))
		}
	}
}

// TestUnsaid: a liar that is lost before it has said what it sent is not told from who was misled,
// and the audit says so.
func TestUnsaid(t *testing.T) {
	w := several()["parameters"]
	truth := w.replay(t).record(t)
	liar, r := stage.Peer{Cluster: 1}, w.replay(t)
	r.each = func(p stage.Peer, cfg *stage.Config) {
		if p == liar {
			cfg.Hooks.Summed = onceIn(0)
		}
	}
	lie, trail := r.record(t), r.Trail()
	for p := range truth.said {
		for i, d := range truth.said[p] {
			said := &lie.said[p][i]
			if p == liar && compare(0, *said, d) != nil {
				said = nil
			}
			trail.Record(p, said, d)
		}
	}
	fs := trail.Faults()
	if len(fs) != 1 || !fs[0].Either || fs[0].Or != liar || !strings.Contains(fs[0].What, "has not said") || trail.Missing() == 0 {
		t.Errorf("blamed are %v: %+v", names(fs), fs)
	}
}

// TestDigestText: what a stage has said is read as it was written.
func TestDigestText(t *testing.T) {
	for name, w := range several() {
		for p, ds := range w.replay(t).record(t).said {
			for _, d := range ds {
				ways, rings := d.Text()
				got, err := stage.ParseDigest(d.Step, d.Round, ways, rings)
				if err != nil {
					t.Fatalf("%s, %s: %v", name, p, err)
				}
				if compare(0, got, d) != nil || len(got.Rings) != len(d.Rings) || d.Round != (len(d.Rings) > 0) {
					t.Errorf("%s, %s: %+v is read as %+v", name, p, d, got)
				}
			}
		}
	}
	for _, bad := range [][2]string{{"", ""}, {"00", ""}, {"0123456789abcdef", ""}, {string(make([]byte, 64)), ""}} {
		if _, err := stage.ParseDigest(1, false, bad[0], bad[1]); err == nil {
			t.Errorf("%q is a digest", bad)
		}
	}
}

// held is rows that one reader at a time can read: what it has held.
type held struct {
	table
	mu    sync.Mutex
	rows  []int32
	other int // times that somebody else held others in between
	reads int
}

func (h *held) Hold(_ context.Context, _, _ int, rows []int32) error {
	h.mu.Lock()
	h.rows = slices.Clone(rows)
	h.mu.Unlock()
	runtime.Gosched()
	return nil
}

func (h *held) Gather(dst []float32, rows []int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reads++; !slices.Equal(rows, h.rows) {
		h.other++
	}
	h.table.Gather(dst, rows)
}

// TestRowsOfClusters: each cluster reads rows of its own. One that another has moved on would compute
// something else than who is audited.
func TestRowsOfClusters(t *testing.T) {
	w := newWorld(func(j *job.Spec) { j.Replicas, j.ReduceFactor = job.Count(2), 1 })
	w.shareOut(1, 1)
	r := w.replay(t)
	x := r.Config.TrainX.(table)
	all := []*held{{table: x}, {table: x}}
	r.Config.TrainX, r.Rows = all[0], func(cfg *stage.Config) { cfg.TrainX = all[1] }
	r.record(t)
	for c, h := range all {
		if h.reads == 0 || h.other > 0 {
			t.Errorf("cluster %d: %d of %d reads are of what another one held", c, h.other, h.reads)
		}
	}
}
