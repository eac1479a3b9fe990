package audit

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

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

func world(change func(*job.Spec)) *Replay {
	j := job.Default()
	j.Epochs, j.BatchSize, j.MicroBatches = 3, 16, 2
	if change != nil {
		change(&j)
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
	g := zoo.CNN()
	us := g.Units()
	r := &Replay{Job: j, Graph: g, Until: math.MaxUint64, Config: stage.Config{
		TrainRows: 70, ValRows: 21, TrainX: rows(70, 64, 1), TrainY: classes(70, 2), ValX: rows(21, 64, 3), ValY: classes(21, 4),
		Order: func(dst []int32, seed uint64, epoch int) {
			kernel.Perm(dst, kernel.NewStream(seed, kernel.DomainShuffle, uint64(epoch), 0))
		},
	}}
	for k := range 4 {
		r.Starts = append(r.Starts, us[k*len(us)/4].From)
	}
	return r
}

// record is what a run has said and saved.
type record struct {
	said  [][]stage.Digest
	saved []map[uint64][]byte
}

func (r *Replay) record(t *testing.T) *record {
	t.Helper()
	x := &record{said: make([][]stage.Digest, len(r.Starts)), saved: make([]map[uint64][]byte, len(r.Starts))}
	err := r.Run(t.Context(), &Watcher{
		Commit: func(k int, d stage.Digest) { x.said[k] = append(x.said[k], d) },
		Kept: func(k int, s stage.Saved) error {
			if x.saved[k] == nil {
				x.saved[k] = map[uint64][]byte{}
			}
			b, err := s.Part.Bytes()
			x.saved[k][s.Step] = b
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// against holds what was said against the truth.
func (x *record) against(truth *record, said bool, aligned bool) *Trail {
	t := NewTrail(len(x.said), aligned)
	for k := range x.said {
		for i, d := range truth.said[k] {
			if said {
				t.Update(k, &x.said[k][i], d)
			} else {
				t.Update(k, nil, d)
			}
		}
		for step, b := range truth.saved[k] {
			if !bytes.Equal(b, x.saved[k][step]) {
				t.Saved(k, step, "its saved state")
			}
		}
	}
	return t
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
	} {
		t.Run(name, func(t *testing.T) {
			r := world(change)
			truth := r.record(t)
			clean := r.record(t).against(truth, true, name != "async")
			if !clean.Clean() || clean.Missing() > 0 || len(clean.Faults()) > 0 {
				t.Fatalf("an honest run is not clean: %+v", clean.Faults())
			}
			last := truth.said[0][len(truth.said[0])-1].Step
			for who := range r.Starts {
				for _, at := range []uint64{0, 6, last} {
					r := world(change)
					flipped := false
					r.each = func(k int, cfg *stage.Config) {
						if k == who {
							cfg.Updated = func(step uint64, params []float32) {
								if step >= at && !flipped {
									flipped = true
									i := len(params) / 2
									params[i] = math.Float32frombits(math.Float32bits(params[i]) ^ 1<<20)
								}
							}
						}
					}
					trail := r.record(t).against(truth, true, name != "async")
					fs := trail.Faults()
					if len(fs) != 1 || fs[0].Stage != who || fs[0].With != -1 || fs[0].Step < at {
						t.Errorf("a bit of stage %d flips behind step %d: blamed are %+v", who, at, fs)
					}
				}
			}
		})
	}
}

// TestWithoutRecords: where nothing was said, only one whose state alone is wrong can be named.
func TestWithoutRecords(t *testing.T) {
	r := world(nil)
	truth := r.record(t)
	last := truth.said[0][len(truth.said[0])-1].Step
	for _, c := range []struct {
		at   uint64
		want int
	}{{last, 1}, {0, 0}} {
		r := world(nil)
		r.each = func(k int, cfg *stage.Config) {
			if k == 1 {
				cfg.Updated = func(step uint64, params []float32) {
					if step == c.at {
						params[0] = math.Float32frombits(math.Float32bits(params[0]) ^ 1<<20)
					}
				}
			}
		}
		trail := r.record(t).against(truth, false, true)
		if fs := trail.Faults(); trail.Clean() || len(fs) != c.want || c.want > 0 && fs[0].Stage != 1 {
			t.Errorf("spoilt behind step %d: %+v", c.at, fs)
		}
	}
}

// TestLies: one that says other digests than those of what it did. The two sides of a link
// then differ, and both are named.
func TestLies(t *testing.T) {
	truth := world(nil).record(t)
	for _, c := range []struct {
		name string
		lie  func(r *record)
		want []string
	}{
		{"received", func(r *record) { r.said[2][5].In[stage.Activations][0]++ }, []string{"2 with 1"}},
		{"received back", func(r *record) { r.said[1][5].In[stage.Gradients][0]++ }, []string{"1 with 2"}},
		{"sent", func(r *record) { r.said[1][5].Out[stage.Activations][0]++ }, []string{"1 with -1"}},
		{"sent back", func(r *record) { r.said[3][5].Out[stage.Gradients][0]++ }, []string{"3 with -1"}},
	} {
		r := &record{saved: truth.saved}
		for _, s := range truth.said {
			r.said = append(r.said, slices.Clone(s))
		}
		c.lie(r)
		var got []string
		for _, f := range r.against(truth, true, true).Faults() {
			got = append(got, fmt.Sprintf("%d with %d", f.Stage, f.With))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestStretches: a run that is replayed piece by piece, each with a cut of its own, from what
// the piece before has kept, ends as the whole.
func TestStretches(t *testing.T) {
	whole := world(nil)
	truth := whole.record(t)
	var parts []*snapshot.Part
	at := uint64(0)
	for i, until := range []uint64{4, 7, math.MaxUint64} {
		r := world(nil)
		r.From, r.Until, r.Parts = at, until, parts
		r.Starts = r.Starts[:4-i]
		x := r.record(t)
		parts = nil
		for k := range x.saved {
			last := uint64(0)
			for s := range x.saved[k] {
				last = max(last, s)
			}
			if at = last; until != math.MaxUint64 && last != until {
				t.Fatalf("it ends at step %d, want %d", last, until)
			}
			p, err := snapshot.Parse(x.saved[k][last])
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, p)
		}
	}
	var want []*snapshot.Part
	for k := range truth.saved {
		p, err := snapshot.Parse(truth.saved[k][at])
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, p)
	}
	got, err := snapshot.Join(parts...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := snapshot.Join(want...)
	if err != nil {
		t.Fatal(err)
	}
	if got.State.Hash() != all.State.Hash() {
		t.Error("the pieces end with other weights than the whole")
	}
}

// BenchmarkCommits is a pipeline with digests and without.
func BenchmarkCommits(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprint(on), func(b *testing.B) {
			for range b.N {
				r := world(func(j *job.Spec) { j.Epochs, j.BatchSize = 20, 64 })
				r.each = func(_ int, cfg *stage.Config) { cfg.Commits = on }
				err := r.Run(b.Context(), &Watcher{Commit: func(int, stage.Digest) {}, Kept: func(int, stage.Saved) error { return nil }})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
