package audit

import (
	"math"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// broken is what the stages of a run said that has failed.
type broken struct {
	said map[stage.Peer][]stage.Digest
	open map[stage.Peer]stage.Digest
	why  error
}

// fails runs until a stage fails.
func (w *world) fails(t *testing.T, each func(p stage.Peer, cfg *stage.Config)) broken {
	t.Helper()
	b := broken{said: map[stage.Peer][]stage.Digest{}, open: map[stage.Peer]stage.Digest{}}
	var mu sync.Mutex
	r := w.replay(t)
	r.each = func(p stage.Peer, cfg *stage.Config) {
		each(p, cfg)
		cfg.Hooks.Said = func(d *stage.Digest) {
			mu.Lock()
			defer mu.Unlock()
			if d.Open != nil {
				b.open[p] = *d
			} else {
				b.said[p] = append(b.said[p], *d)
			}
		}
	}
	if _, b.why = r.told(t); b.why == nil {
		t.Fatal("the run does not fail")
	}
	return b
}

// faults names who is to blame for the failure.
func (w *world) faults(t *testing.T, b broken) []Fault {
	t.Helper()
	r := w.replay(t)
	r.Open = b.open
	trail, truth := r.Trail(), map[stage.Peer]stage.Digest{}
	var mu sync.Mutex
	said := map[stage.Peer][]stage.Digest{}
	err := r.Run(t.Context(), &Watcher{
		Commit: func(p stage.Peer, d stage.Digest) {
			mu.Lock()
			defer mu.Unlock()
			said[p] = append(said[p], d)
			if k := len(said[p]); k <= len(b.said[p]) {
				trail.Record(p, &b.said[p][k-1], d)
			} else {
				trail.Record(p, nil, d)
			}
		},
		Opened: func(p stage.Peer, d stage.Digest) {
			mu.Lock()
			defer mu.Unlock()
			truth[p] = d
			if k := len(said[p]); k != len(b.said[p]) {
				t.Errorf("%s: the open digest is told behind %d digests, it was said behind %d", p, k, len(b.said[p]))
			}
			trail.Open(p, b.open[p], d)
		},
		Kept: func(stage.Peer, stage.Saved) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(truth) != len(b.open) || len(truth) != len(w.places()) {
		t.Errorf("%d of %d open digests are told", len(truth), len(b.open))
	}
	return trail.Faults()
}

// TestFailureHasACulprit: a stage, in each role, sends a number that is not finite, or one by which the
// next overflows. It is named, and nobody else, though no update is complete that shows it.
func TestFailureHasACulprit(t *testing.T) {
	for name, make := range map[string]func() *world{
		"sync":     func() *world { return newWorld(nil) },
		"zb":       func() *world { return newWorld(func(j *job.Spec) { j.Schedule = job.ZB }) },
		"replicas": func() *world { return newWorld(func(j *job.Spec) { j.Replicas, j.ReduceFactor = 2, 2 }) },
		"clusters": func() *world {
			return newWorld(func(j *job.Spec) { j.Replicas, j.ReduceFactor = 2, 2 }).shareOut(3, 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := make()
			for lie, with := range map[string]float32{"NaN": float32(math.NaN()), "huge": math.MaxFloat32} {
				for _, who := range w.places() {
					b := w.fails(t, func(p stage.Peer, cfg *stage.Config) {
						if p == who {
							cfg.Hooks.Sent = func(step uint64, x []float32) {
								for i := range x {
									if step >= 5 {
										x[i] = with
									}
								}
							}
						}
					})
					fs := w.faults(t, b)
					if len(fs) != 1 || fs[0].Of != who || fs[0].Either || fs[0].Step < 5 {
						t.Errorf("%s of %s: it ends with %v; blamed are %+v", lie, who, b.why, fs)
					}
				}
			}
		})
	}
}
