package order

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPeriods: a run whose number of replicas changes between any two rounds trains every batch
// once; its rounds have numbers that ascend, its replicas' updates are counted on, and each
// period can be taken up between any two of its rounds.
func TestPeriods(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 0))
	changed := 0
	for range 400 {
		run := replicated(r)
		run.Periods = []Period{{0, run.replicas()}}
		run.Replicas = run.replicas()
		step, updates, last := uint64(0), 0, -1
		for at := (Position{}); ; {
			items := rest(t, run, at)
			var opens []int
			for i, it := range items {
				if it.Opens {
					opens = append(opens, i)
				}
			}
			end := len(items)
			if len(opens) > 0 && len(run.Periods) < 6 && r.IntN(4) > 0 {
				end = opens[r.IntN(len(opens))] // where the next period begins; it may be here
			}
			done := make([]int, run.replicas())
			base := updates // of whoever trains in this period
			for i, it := range items[:end] {
				if it.Opens {
					p := it.Position()
					if n := int(run.Round(p.Step)); n != last+1 {
						t.Fatalf("%+v: round %d at %+v follows round %d", run, n, p, last)
					}
					last++
					for k, n := range done {
						if got := run.Updates(p.Step, k); got != base+n {
							t.Fatalf("%+v: replica %d has done %d updates at %+v, counted as %d", run, k, base+n, p, got)
						}
					}
					if r.IntN(6) == 0 && !slices.Equal(rest(t, run, p), items[i:]) {
						t.Fatalf("%+v: taken up at %+v the run is another", run, p)
					}
				}
				if it.Kind != Train {
					continue
				}
				if it.Step != step {
					t.Fatalf("%+v: batch %d, want %d", run, it.Step, step)
				}
				if !run.Splits() && it.Replica != run.Replica(it.Step) {
					t.Fatalf("%+v: batch %d of epoch %d is replica %d's", run, it.Batch, it.Epoch, it.Replica)
				}
				if it.Last {
					if got := run.Update(it.Step); got != base+done[it.Replica] && !run.Splits() {
						t.Fatalf("%+v: batch %d is in update %d, counted as %d", run, it.Step, base+done[it.Replica], got)
					}
					for k := range done {
						if run.Splits() || k == it.Replica {
							done[k]++
						}
					}
				}
				if it.Ends {
					step++
				}
			}
			updates += done[0]
			if end == len(items) {
				break
			}
			at = items[end].Position()
			run.Replicas = 1 + (run.Replicas+r.IntN(6))%7
			run.Periods = append(run.Periods, Period{at.Step, run.Replicas})
			changed++
		}
		if step != uint64(run.Total()) {
			t.Fatalf("%+v: %d batches of %d", run, step, run.Total())
		}
		if got := run.AllUpdates(); got != updates {
			t.Fatalf("%+v: %d updates in all, counted as %d", run, updates, got)
		}
	}
	if changed < 400 {
		t.Fatalf("the number of replicas changed %d times only", changed)
	}
}

// TestBadPeriods: periods that no run can have are refused.
func TestBadPeriods(t *testing.T) {
	good := Run{Train: 20, Val: 1, ValEvery: 1, Epochs: 2, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: 2, ReduceFactor: 3}
	good.Periods = []Period{{0, 3}, {9, 1}, {10, 2}, {20, 4}, {32, 2}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	if err := good.CheckPosition(good.At(38)); err != nil {
		t.Error(err)
	}
	if err := good.CheckPosition(good.At(31)); !errors.Is(err, ErrPosition) {
		t.Errorf("a position before the period: %v", err)
	}
	for name, ps := range map[string][]Period{
		"late":           {{1, 2}},
		"inside a round": {{0, 3}, {8, 2}},
		"back":           {{0, 3}, {18, 2}, {9, 2}},
		"no change":      {{0, 3}, {9, 3}, {18, 2}},
		"beyond":         {{0, 3}, {99, 2}},
		"none":           {{0, 0}, {9, 2}},
		"many":           {{0, 3}, {9, MaxReplicas + 1}, {20, 2}},
		"others":         {{0, 3}},
		"huge":           {{0, 3}, {1 << 63, 2}},
		"too many":       slices.Repeat([]Period{{0, 2}}, MaxPeriods+1),
	} {
		bad := good
		bad.Periods = ps
		if err := bad.Check(); !errors.Is(err, ErrRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
