package order

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// random is a small run, with every limit and interval that a job may set.
func random(r *rand.Rand) Run {
	run := Run{
		Train: 1 + r.IntN(60), Val: r.IntN(20), Epochs: 1 + r.IntN(4), BatchSize: 1 + r.IntN(12), MicroBatches: 1 + r.IntN(4),
		UpdateFrequency: 1 + r.IntN(4), ValEvery: r.IntN(3), SaveEvery: r.IntN(3),
	}
	if r.IntN(2) == 0 {
		run.Steps = 1 + r.IntN(12)
	}
	return run
}

func sequence(t *testing.T, run Run, at Position) *Sequence {
	t.Helper()
	s, err := NewSequence(run, at)
	if err != nil {
		t.Fatalf("%+v at %+v: %v", run, at, err)
	}
	return s
}

// rest is the items of a run from a position on.
func rest(t *testing.T, run Run, at Position) []Item {
	t.Helper()
	s := sequence(t, run, at)
	var items []Item
	for {
		it := s.Next()
		if items = append(items, it); it.Kind == End {
			return items
		}
	}
}

// TestSequence holds the items of random runs against what a run is: every row of every
// epoch once, micro-batches that make up their batches, and numbers without a gap.
func TestSequence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for range 500 {
		run := random(r)
		items := rest(t, run, Position{})
		rows, batches, open := 0, 0, false
		for i, it := range items {
			if it.Seq != uint64(i) {
				t.Fatalf("%+v: item %d has number %d", run, i, it.Seq)
			}
			if it.Kind != Train {
				if open {
					t.Fatalf("%+v: %s inside an update", run, it.Kind)
				}
				continue
			}
			if it.First == open || it.Rows < 1 {
				t.Fatalf("%+v: item %+v where an update is open: %v", run, it, open)
			}
			open = !it.Last
			rows += it.Rows
			if it.Ends {
				if want := run.Rows(run.Train, it.Batch); rows != want {
					t.Fatalf("%+v: %d rows in batch %d, want %d", run, rows, it.Batch, want)
				}
				rows, batches = 0, batches+1
			}
		}
		n := len(items)
		if batches != run.Total() || n < 2 || items[n-1].Kind != End || items[n-2].Kind != Save {
			t.Fatalf("%+v: %d batches of %d, ends with %v", run, batches, run.Total(), items[max(n-2, 0):])
		}
	}
}

// TestReturn: a run that is taken up at a stored Position has the items that are left, for
// every update and every save of random runs.
func TestReturn(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	for range 200 {
		run := random(r)
		all := rest(t, run, Position{})
		check := func(at Position, from int) {
			b, err := json.Marshal(at)
			if err != nil {
				t.Fatal(err)
			}
			var p Position
			if err := json.Unmarshal(b, &p); err != nil {
				t.Fatal(err)
			}
			if got := rest(t, run, p); !slices.Equal(got, all[from:]) {
				t.Fatalf("%+v at %s:\n got %+v\nwant %+v", run, b, got, all[from:])
			}
		}
		s := sequence(t, run, Position{})
		for i := range all {
			if all[i].First {
				check(all[i].Position(), i)
			}
			if it := s.Next(); it.Kind == Save {
				check(s.Position(), i+1)
			}
		}
	}
}

func TestPositionsThatARunDoesNotHave(t *testing.T) {
	run := Run{Train: 50, Epochs: 3, BatchSize: 10, MicroBatches: 2, UpdateFrequency: 2, Steps: 13}
	for _, p := range []Position{{}, {Epoch: 0, Batch: 4, Step: 4, Seq: 8}, {Epoch: 2, Batch: 3, Step: 13, Seq: 28}} {
		if err := run.CheckPosition(p); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, p := range []Position{
		{Epoch: -1},
		{Batch: 5, Step: 5, Seq: 10},
		{Batch: 1, Step: 1, Seq: 2},
		{Batch: 2, Step: 4, Seq: 8},
		{Epoch: 2, Batch: 4, Step: 14, Seq: 30},
		{Batch: 2, Step: 2, Seq: 1},
		{Epoch: 1 << 60},
		{Batch: -2},
		{Seq: 1 << 63},
	} {
		if _, err := NewSequence(run, p); !errors.Is(err, ErrPosition) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, r := range []Run{{}, {Train: 1, Epochs: 1, BatchSize: 1, MicroBatches: 0, UpdateFrequency: 1}, {Train: -1, Epochs: 1, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1}} {
		if _, err := NewSequence(r, Position{}); !errors.Is(err, ErrRun) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
