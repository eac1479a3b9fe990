package order

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// replicated is a random run of one or more replicas.
func replicated(r *rand.Rand) Run {
	run := random(r)
	run.Replicas, run.ReduceFactor, run.InFlight = r.IntN(7), 1+r.IntN(4), r.IntN(8)
	run.Split, run.Even = r.IntN(3) == 0, r.IntN(2) == 0
	return run
}

// unit is what a replica does in a round, as rows of the data set's order.
type unit struct {
	round   uint64
	replica int
}

// TestRounds: for any number of replicas, updates in a round, steps, update frequency and
// epochs every row of every batch is trained once, by the replica that it belongs to; marks,
// validation and saves stand between rounds; and a run that is taken up between two rounds, at
// a stored position, does the rest.
func TestRounds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 0))
	for range 600 {
		run := replicated(r)
		n := run.replicas()
		all := rest(t, run, Position{})
		samples, want := map[unit]int64{}, make([]int64, n)
		updates := make([]int, n)
		inUpdate, open := make([]bool, n), false
		var at Position
		step, row := uint64(0), 0
		var parts []int
		for i, it := range all {
			name := fmt.Sprintf("%+v: item %+v", run, it)
			if it.Kind != Train {
				if open {
					t.Fatalf("%s: inside a round", name)
				}
				continue
			}
			if it.Step != step || it.Row0 != row || it.Rows < 1 || it.Rows > run.MicroRows(run.BatchSize) {
				t.Fatalf("%s: want batch %d, row %d, at most %d rows", name, step, row, run.MicroRows(run.BatchSize))
			}
			if parts = append(parts, it.Rows); it.Ends {
				if want := run.Parts(it.Total); !slices.Equal(parts, want) {
					t.Fatalf("%s: its batch comes in parts of %v, Parts says %v", name, parts, want)
				}
				parts = parts[:0]
			}
			if row += it.Rows; it.Ends {
				step, row = step+1, 0
			}
			k := it.Replica
			if !run.Split && k != run.Replica(it.Step) {
				t.Fatalf("%s: batch %d is replica %d's", name, it.Batch, run.Replica(it.Step))
			}
			if it.Opens == open || it.Opens != (run.Opens(it.Step) && it.Row0 == 0) {
				t.Fatalf("%s: opens a round where one is open: %v", name, open)
			}
			if it.Opens {
				at = it.Position()
				for k := range n {
					if got := run.Updates(at.Step, k); got != updates[k] {
						t.Fatalf("%s: replica %d has done %d updates, counted as %d", name, k, updates[k], got)
					}
				}
				b, err := json.Marshal(at)
				if err != nil {
					t.Fatal(err)
				}
				var p Position
				if err := json.Unmarshal(b, &p); err != nil {
					t.Fatal(err)
				}
				if r.IntN(3) == 0 && !slices.Equal(rest(t, run, p), all[i:]) {
					t.Fatalf("%s: taken up there the run is another", name)
				}
				run.Samples(want, at.Step)
			} else if it.Row0 == 0 {
				if err := run.CheckPosition(it.Position()); err == nil {
					t.Fatalf("%s: a position inside a round", name)
				}
			}
			open = true
			if it.First == inUpdate[k] {
				t.Fatalf("%s: begins an update where one has begun: %v", name, inUpdate[k])
			}
			inUpdate[k] = true
			samples[unit{run.Round(at.Step), k}] += int64(it.Rows)
			if it.Last {
				for j := range n {
					if run.Split || j == k {
						inUpdate[j], updates[j] = false, updates[j]+1
					}
				}
			}
			if it.Closes {
				open = false
				for k := range n {
					if inUpdate[k] {
						t.Fatalf("%s: replica %d is inside an update", name, k)
					}
					if got := samples[unit{run.Round(at.Step), k}]; got != want[k] {
						t.Fatalf("%s: replica %d has %d samples in its round, Samples says %d", name, k, got, want[k])
					}
				}
			}
		}
		if step != uint64(run.Total()) || open {
			t.Fatalf("%+v: %d batches of %d", run, step, run.Total())
		}
	}
}

// TestOneReplica: with one replica whatever else is said about rounds changes nothing.
func TestOneReplica(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 0))
	for range 100 {
		plain := random(r)
		run := plain
		run.Replicas, run.ReduceFactor, run.Split, run.InFlight = r.IntN(2), r.IntN(9), r.IntN(2) == 0, r.IntN(3)
		a, b := rest(t, plain, Position{}), rest(t, run, Position{})
		if !slices.Equal(a, b) {
			t.Fatalf("%+v: other items", run)
		}
		for _, it := range a {
			if it.Kind == Train && (it.Opens != it.First || it.Closes != it.Last) {
				t.Fatalf("%+v: item %+v: a round is not an update", run, it)
			}
		}
	}
}

// TestReplicasInAPipeline: stages that interleave replicas never wait for one another for
// ever, and no update or average comes while what it needs or changes is in flight.
func TestReplicasInAPipeline(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 0))
	for range 300 {
		run, stages := replicated(r), 1+r.IntN(6)
		for _, name := range []string{"sync", "zb"} {
			makespan(t, run, schedules[name], stages)
			for k := range stages {
				s := schedules[name](sequence(t, run, Position{}), k, stages)
				flight := map[int]int{} // by replica
				most := 0
				for _, a := range walkAll(t, s, nil) {
					sum := 0
					switch a.Kind {
					case Forward:
						if a.Item.First && flight[a.Item.Replica] > 0 {
							t.Fatalf("%s, %+v: item %+v begins an update inside another", name, run, a.Item)
						}
						flight[a.Item.Replica]++
					case Backward, BackwardWeight:
						flight[a.Item.Replica]--
					}
					for _, n := range flight {
						sum += n
					}
					most = max(most, sum)
					switch {
					case a.Kind == Update && flight[a.Item.Replica] > 0,
						sum > 0 && (a.Kind == Average || a.Kind == Keep || a.Kind == Evaluate || a.Kind == Update && run.Split):
						t.Fatalf("%s, %+v: %s of item %+v with %v in flight", name, run, a.Kind, a.Item, flight)
					}
				}
				if most > s.Slots() {
					t.Fatalf("%s, %+v: %d in flight in %d slots", name, run, most, s.Slots())
				}
			}
		}
	}
}

// TestReplicasFillTheBubble: as many replicas as stages make a synchronous pipeline as fast as
// one that never drains, although every batch is whole; fewer fill their share of it.
func TestReplicasFillTheBubble(t *testing.T) {
	for p := 1; p <= 6; p++ {
		run := Run{Train: 60, Epochs: 1, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1}
		if got, want := makespan(t, run, NewSync, p), 60*3*p; got != want {
			t.Errorf("%d stages, one replica: %d, want %d", p, got, want)
		}
		run.Replicas, run.ReduceFactor = p, 60
		if got, want := makespan(t, run, NewSync, p), 60*3+3*(p-1); got != want {
			t.Errorf("%d stages, as many replicas: %d, want %d", p, got, want)
		}
	}
	// Fewer leave as much time as cannot be filled: an update of each replica takes as long as
	// its first micro-batch is on the way, and its other micro-batches behind it.
	for p := 2; p <= 6; p++ {
		for r := 2; r < p; r++ {
			for m := 1; r*m < p+m-1; m++ {
				run := Run{Train: 20 * r * m, Epochs: 1, BatchSize: m, MicroBatches: m, UpdateFrequency: 1, Replicas: r, ReduceFactor: 20}
				if got, want := makespan(t, run, NewSync, p), 3*(19*(p+m-1)+r*m-1+p); got != want {
					t.Errorf("%d stages, %d replicas, %d micro-batches: %d, want %d", p, r, m, got, want)
				}
			}
		}
	}
}

// TestUnitsBesideZeroBubble: units in flight fill a pipeline better than zb does with any number of
// micro-batches, and zb adds nothing to them. With one replica zb idles less than sync.
func TestUnitsBesideZeroBubble(t *testing.T) {
	idle := func(run Run, schedule func(*Sequence, int, int) Schedule, stages int) float64 {
		items := run.Train * run.MicroBatches / run.BatchSize
		return 100 * (1 - float64(3*items)/float64(makespan(t, run, schedule, stages)))
	}
	for p := 2; p <= 4; p++ {
		units := Run{Train: 240, Epochs: 1, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: p, ReduceFactor: 240 / p}
		sync, both := idle(units, NewSync, p), idle(units, NewZeroBubble, p)
		t.Logf("%d stages, as many units in flight: sync %.0f %%, zb %.0f %%", p, sync, both)
		if both < sync-1 {
			t.Errorf("%d stages: zb adds to units in flight: %.1f %% instead of %.1f", p, both, sync)
		}
		for _, m := range []int{1, 2, 4, 8, 16} {
			run := Run{Train: 16 * m, Epochs: 1, BatchSize: m, MicroBatches: m, UpdateFrequency: 1}
			plain, zb := idle(run, NewSync, p), idle(run, NewZeroBubble, p)
			t.Logf("%d stages, one replica, %d micro-batches: sync %.0f %%, zb %.0f %%", p, m, plain, zb)
			if zb > plain || zb < sync {
				t.Errorf("%d stages, %d micro-batches: sync %.1f %%, zb %.1f, units in flight %.1f", p, m, plain, zb, sync)
			}
		}
	}
}
