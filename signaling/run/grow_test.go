package run_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// growing is a world whose plans have a replica for each member, in up to two clusters.
func growing(apart bool, providers int) *runtest.World {
	set := run.Settings{Checkpoint: 60 * time.Millisecond, Regroup: 40 * time.Millisecond}
	auto := order.Run{Train: runtest.Batches, BatchSize: 1, Epochs: steps / runtest.Batches, Steps: steps, MicroBatches: 1, UpdateFrequency: 1, ReduceFactor: 2}
	w := runtest.New(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: steps, Auto: &auto, Apart: apart}, steps)
	w.Stages, w.Clusters, w.Auto = 2, 2, &auto
	for i := range providers {
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	return w
}

// recorded checks that the record of every checkpoint extends that of the one before, and that
// the run can have gone by it.
func recorded(t *testing.T, w *runtest.World) (last []order.Period) {
	t.Helper()
	generation := 0
	for _, r := range w.Reports {
		if p, ok := r.(run.Planned); ok {
			generation = p.Generation
		}
		c, ok := r.(run.Checkpointed)
		if !ok {
			continue
		}
		// Else there would be losses of another number of replicas before it.
		if c.Manifest.Generation != generation {
			t.Fatalf("a checkpoint of attempt %d is stored in attempt %d", c.Manifest.Generation, generation)
		}
		now, at := c.Manifest.Record, c.Manifest.Position.Step
		if len(now) < len(last) || !slices.Equal(now[:len(last)], last) {
			t.Fatalf("the checkpoint of step %d has the record %v, the one before it %v", at, now, last)
		}
		o := *w.Auto
		o.Periods, o.Replicas = now, now[len(now)-1].Replicas
		if err := o.CheckPosition(o.At(at)); err != nil {
			t.Fatalf("the checkpoint of step %d with the record %v: %v", at, now, err)
		}
		last = now
	}
	return last
}

// More providers than a plan was made for take part from a checkpoint on; nothing of the run is
// lost, and its record has the change.
func TestMoreProviders(t *testing.T) {
	for _, apart := range []bool{false, true} {
		w := growing(apart, 2)
		w.Run(70 * time.Millisecond)
		w.Join("p2", "")
		w.Join("p3", "")
		w.Run(time.Minute)
		whole(t, w)
		inOrder(t, w)
		if got := recorded(t, w); len(got) != 2 || got[0] != (order.Period{Step: 0, Replicas: 2}) || got[1].Replicas != 4 {
			t.Errorf("apart %v: the record is %v", apart, got)
		}
		grew := 0
		for _, r := range w.Reports {
			if r, ok := r.(run.Recovering); ok {
				if !r.Grows || r.Reason != "2 more providers are here" {
					t.Errorf("apart %v: %+v", apart, r)
				}
				grew++
			}
		}
		if grew != 1 {
			t.Errorf("apart %v: it was planned anew %d times", apart, grew)
		}
	}
}

// Providers with whom training is no faster stop no run: neither is it planned anew, nor is a
// checkpoint asked for, and it is asked about each pool once.
func TestMoreProvidersForNothing(t *testing.T) {
	w := growing(false, 2)
	asked := map[int]int{}
	w.Worth = func(pool []run.Member) bool {
		asked[len(pool)]++
		return len(pool) > 3
	}
	w.Run(70 * time.Millisecond)
	w.Join("p2", "")
	w.Run(200 * time.Millisecond)
	if asked[3] != 1 {
		t.Fatalf("asked about three providers %d times", asked[3])
	}
	recovered := func() (n int) {
		for _, r := range w.Reports {
			if _, ok := r.(run.Recovering); ok {
				n++
			}
		}
		return n
	}
	if n := recovered(); n != 0 {
		t.Errorf("it was planned anew %d times for nothing", n)
	}
	w.Join("p3", "")
	w.Run(time.Minute)
	whole(t, w)
	inOrder(t, w)
	if n := recovered(); n != 1 || asked[4] != 1 {
		t.Errorf("with a fourth provider it was planned anew %d times, and asked %d times", n, asked[4])
	}
}

// Whatever comes and goes, the run ends as the undisturbed one does, and its record is one that
// a run can go by.
func TestAutoSurvives(t *testing.T) {
	changes := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 12))
		w := growing(seed%2 == 1, 2+int(seed%3))
		w.Slow = time.Duration(seed%5) * 15 * time.Millisecond
		comeAndGo(w, rng, 13, 3)
		w.Run(time.Hour)
		whole(t, w)
		inOrder(t, w)
		changes += len(recorded(t, w)) - 1
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if changes < 60 {
		t.Errorf("the number of replicas changed %d times only: the test proves little", changes)
	}
}

// A plan whose record is not the run's is none.
func TestPlansRecord(t *testing.T) {
	for name, change := range map[string]func([]order.Period) []order.Period{
		"none":   func([]order.Period) []order.Period { return nil },
		"longer": func(ps []order.Period) []order.Period { return append(ps, order.Period{Step: 4, Replicas: 9}) },
		"other":  func([]order.Period) []order.Period { return []order.Period{{Step: 2, Replicas: 3}} },
		"zero":   func([]order.Period) []order.Period { return []order.Period{{}} },
	} {
		w := growing(false, 2)
		w.Record = true
		w.Change = func(p *run.Plan) {
			for i := range p.Placed {
				p.Placed[i].Record = change(slices.Clone(p.Placed[i].Record))
			}
		}
		w.Run(time.Second)
		if len(w.Results) != 1 || w.Results[0].Err == nil {
			t.Errorf("%s: %+v", name, w.Results)
		}
	}
}

// TestMoreProvidersForFixedReplicas: newcomers share the replicas of a job that has so many, from a
// round's boundary on, and who stays a spare ends no further attempt.
func TestMoreProvidersForFixedReplicas(t *testing.T) {
	for _, grows := range []bool{false, true} {
		set := run.Settings{Checkpoint: time.Hour, Regroup: 40 * time.Millisecond}
		w := runtest.New(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: steps, Rounds: runtest.Rounds(2, 2, 1, steps), Grows: grows}, steps)
		w.Stages, w.Clusters = 2, 2
		w.Join("p0", "")
		w.Join("p1", "")
		w.Run(70 * time.Millisecond)
		for i := range 3 { // of which one is a spare
			w.Join(fmt.Sprintf("p%d", 2+i), "")
		}
		w.Run(time.Minute)
		whole(t, w)
		inOrder(t, w)
		grew, clusters := 0, 0
		for _, r := range w.Reports {
			switch r := r.(type) {
			case run.Recovering:
				if !r.Grows || r.Reason != "3 more providers are here" {
					t.Errorf("%+v", r)
				}
				grew++
			case run.Progress:
				clusters = max(clusters, r.Cluster+1)
			case run.Started:
				if grew > 0 && (r.Resume == 0 || r.Resume%4 != 0 && r.Resume%runtest.Batches%4 != 0) {
					t.Errorf("it goes on from step %d, where no round begins", r.Resume)
				}
			}
		}
		if want := map[bool]int{true: 1}[grows]; grew != want || clusters != 1+want {
			t.Errorf("grows %v: planned anew %d times, %d clusters", grows, grew, clusters)
		}
	}
}
