package order

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// schedules makes each of them.
var schedules = map[string]func(*Sequence, int, int) Schedule{"sync": NewSync, "async": NewAsync}

// walkAll takes the actions of a stage until Done; before is asked for a mark before every
// update.
func walkAll(t *testing.T, s Schedule, before func(Action) Mark) []Action {
	t.Helper()
	var as []Action
	asked := map[uint64]bool{}
	for range 1 << 20 {
		a, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a.Kind == Forward && a.Item.First && before != nil && !asked[a.Item.Seq] {
			asked[a.Item.Seq] = true
			if m := before(a); m != Continue {
				if err := s.Mark(a, m); err != nil {
					t.Fatal(err)
				}
				continue
			}
		}
		if as = append(as, a); a.Kind == Done {
			return as
		}
	}
	t.Fatal("no end")
	return nil
}

// trace writes actions as "F0 F1 B0 U ...", numbered by batch.
func trace(as []Action) string {
	var b strings.Builder
	for _, a := range as {
		switch a.Kind {
		case Forward, Backward:
			fmt.Fprintf(&b, "%s%d ", strings.ToUpper(a.Kind.String()[:1]), a.Item.Step)
		case Done:
		default:
			b.WriteString(strings.ToUpper(a.Kind.String()[:1]) + " ")
		}
	}
	return strings.TrimSpace(b.String())
}

func TestOrderOfWork(t *testing.T) {
	for _, c := range []struct {
		schedule      string
		micro, update int
		stage, val    int
		want          string
	}{
		{"async", 1, 1, 0, 0, "F0 F1 F2 B0 U F3 B1 U B2 U B3 U K"},
		{"async", 1, 1, 1, 0, "F0 F1 B0 U F2 B1 U F3 B2 U B3 U K"},
		{"async", 1, 1, 2, 0, "F0 B0 U F1 B1 U F2 B2 U F3 B3 U K"},
		{"async", 1, 2, 0, 0, "F0 F1 F2 B0 F3 B1 U B2 B3 U K"},
		{"async", 1, 1, 0, 15, "F0 F1 F2 B0 U F3 B1 U B2 U B3 U E E R K"},
		{"sync", 1, 1, 0, 0, "F0 B0 U F1 B1 U F2 B2 U F3 B3 U K"},
		{"sync", 4, 1, 0, 0, "F0 F0 F0 B0 F0 B0 B0 B0 U F1 F1 F1 B1 F1 B1 B1 B1 U F2 F2 F2 B2 F2 B2 B2 B2 U F3 F3 F3 B3 F3 B3 B3 B3 U K"},
		{"sync", 1, 2, 1, 0, "F0 F1 B0 B1 U F2 F3 B2 B3 U K"},
	} {
		run := Run{Train: 40, Val: c.val, Epochs: 1, BatchSize: 10, MicroBatches: c.micro, UpdateFrequency: c.update, ValEvery: 1}
		got := trace(walkAll(t, schedules[c.schedule](sequence(t, run, Position{}), c.stage, 3), nil))
		if got != c.want {
			t.Errorf("%s, %d micro-batches, update every %d, stage %d:\n got %s\nwant %s", c.schedule, c.micro, c.update, c.stage, got, c.want)
		}
	}
}

// essence is what of an action counts for the state: slots may differ.
func essence(as []Action) []Action {
	as = slices.Clone(as)
	for i := range as {
		as[i].Slot = 0
	}
	return as
}

// TestCheckpoints: a checkpoint changes nothing of what comes after it, every stage keeps
// the same positions, and a run that is taken up at any of them does the rest.
func TestCheckpoints(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	for range 100 {
		run := random(r)
		for name, schedule := range schedules {
			stages := 1 + r.IntN(4)
			var asked map[uint64]bool // by the root
			for k := range stages {
				at := func(p Position) Schedule { return schedule(sequence(t, run, p), k, stages) }
				plain := essence(walkAll(t, at(Position{}), nil))
				root := k == 0
				if root {
					asked = map[uint64]bool{}
				}
				all := essence(walkAll(t, at(Position{}), func(a Action) Mark {
					if root && a.Drained && r.IntN(2) == 0 {
						asked[a.Item.Seq] = true
					}
					if asked[a.Item.Seq] {
						return Checkpoint
					}
					return Continue
				}))
				extra := 0
				for _, a := range all {
					if a.Kind != Keep {
						continue
					}
					if asked[a.At.Seq] && a.Item.Seq == a.At.Seq {
						extra++
					}
					want := slices.DeleteFunc(slices.Clone(plain), func(b Action) bool { return b.Item.Seq < a.At.Seq })
					if got := essence(walkAll(t, at(a.At), nil)); !slices.Equal(got, want) {
						t.Fatalf("%s, %+v: taken up at %+v:\n got %s\nwant %s", name, run, a.At, trace(got), trace(want))
					}
				}
				if extra != len(asked) {
					t.Fatalf("%s, %+v, stage %d: %d checkpoints, %d asked for", name, run, k, extra, len(asked))
				}
				all = slices.DeleteFunc(all, func(a Action) bool { return a.Kind == Keep && asked[a.At.Seq] && a.Item.Seq == a.At.Seq })
				if !slices.Equal(all, plain) {
					t.Fatalf("%s, %+v, stage %d of %d: a checkpoint changes the order:\n got %s\nwant %s", name, run, k, stages, trace(all), trace(plain))
				}
			}
		}
	}
}

// TestStop: a run that is stopped finishes what is in flight, keeps its state and ends;
// every slot is used by one micro-batch at a time.
func TestStop(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 0))
	for range 200 {
		run := random(r)
		for name, schedule := range schedules {
			stages, after := 1+r.IntN(4), r.IntN(6)
			for k := range stages {
				n := 0
				s := schedule(sequence(t, run, Position{}), k, stages)
				as := walkAll(t, s, func(Action) Mark {
					if n++; n > after {
						return Stop
					}
					return Continue
				})
				held := make([]uint64, s.Slots())
				open, updated := 0, 0
				for _, a := range as {
					switch a.Kind {
					case Forward:
						if held[a.Slot] != 0 {
							t.Fatalf("%s, %+v: slot %d is taken twice", name, run, a.Slot)
						}
						held[a.Slot], open = a.Item.Seq+1, open+1
					case Backward:
						if held[a.Slot] != a.Item.Seq+1 {
							t.Fatalf("%s, %+v: slot %d does not hold item %d", name, run, a.Slot, a.Item.Seq)
						}
						held[a.Slot], open = 0, open-1
					case Update:
						updated++
					case Keep, Evaluate, Report, Done:
						if open != 0 {
							t.Fatalf("%s, %+v: %s with %d in flight", name, run, a.Kind, open)
						}
					}
				}
				last := as[len(as)-2]
				if last.Kind != Keep || !last.Final || (updated != after && last.At.Step != uint64(run.Total())) {
					t.Fatalf("%s, %+v: stopped after %d updates, it did %d and ends with %+v", name, run, after, updated, last)
				}
			}
		}
	}
}

func TestMarksThatCannotBe(t *testing.T) {
	run := Run{Train: 40, Epochs: 1, BatchSize: 10, MicroBatches: 2, UpdateFrequency: 1}
	s := NewAsync(sequence(t, run, Position{}), 0, 3)
	next := func() Action {
		a, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	next()
	if err := s.Mark(next(), Stop); !errors.Is(err, ErrMark) {
		t.Errorf("inside an update: %v", err)
	}
	a := next()
	if err := s.Mark(a, Checkpoint); !errors.Is(err, ErrMark) {
		t.Errorf("a checkpoint while others are in flight: %v", err)
	}
	if err := s.Mark(a, Mark(9)); !errors.Is(err, ErrMark) {
		t.Errorf("an unknown mark: %v", err)
	}
	if err := s.Mark(a, Stop); err != nil {
		t.Error(err)
	}
	if err := s.Mark(a, Stop); !errors.Is(err, ErrMark) {
		t.Errorf("twice: %v", err)
	}
}

// TestUnknownItem: an item of a kind that a schedule does not know is an error, not a
// forward pass.
func TestUnknownItem(t *testing.T) {
	run := Run{Train: 10, Epochs: 1, BatchSize: 10, MicroBatches: 1, UpdateFrequency: 1}
	seq := sequence(t, run, Position{})
	seq.pending = []Item{{Kind: End + 1}}
	if a, err := NewSync(seq, 0, 1).Next(); !errors.Is(err, ErrItem) {
		t.Errorf("%v, %v", a.Kind, err)
	}
}
