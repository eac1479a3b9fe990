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
var schedules = map[string]func(*Sequence, int, int) Schedule{"sync": NewSync, "async": NewAsync, "zb": NewZeroBubble}

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
		if a.Item.Opens && (a.Kind == Forward || a.Kind == Begin) && before != nil && !asked[a.Item.Seq] {
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
		case BackwardInput, BackwardWeight:
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
		{"zb", 1, 1, 1, 0, "F0 I0 W0 U F1 I1 W1 U F2 I2 W2 U F3 I3 W3 U K"},
		{"zb", 1, 4, 0, 0, "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3 U K"},
		{"zb", 1, 4, 1, 0, "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3 U K"},
		{"zb", 1, 4, 2, 0, "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3 U K"},
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
			if name != "async" {
				run = replicated(r)
			}
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
						return Hold + Mark(a.Item.Step%2)
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
					case BackwardInput:
					case Backward, BackwardWeight:
						if held[a.Slot] != a.Item.Seq+1 {
							t.Fatalf("%s, %+v: slot %d does not hold item %d", name, run, a.Slot, a.Item.Seq)
						}
						held[a.Slot], open = 0, open-1
					case Update:
						updated++
					case Keep, Evaluate, Report, Done: // nothing is in flight
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
	seq.pending = []Item{{Kind: Close + 1}}
	if a, err := NewSync(seq, 0, 1).Next(); !errors.Is(err, ErrItem) {
		t.Errorf("%v, %v", a.Kind, err)
	}
}

// makespan is how long stages take for a run, where a forward pass, a first and a second half
// of a backward pass take one each and a whole backward pass two. A stage waits for the
// activation of the stage before and for the gradient of the one behind.
func makespan(t *testing.T, run Run, schedule func(*Sequence, int, int) Schedule, stages int) int {
	t.Helper()
	lists := make([][]Action, stages)
	for k := range stages {
		lists[k] = walkAll(t, schedule(sequence(t, run, Position{}), k, stages), nil)
	}
	type key struct {
		stage int
		seq   uint64
	}
	forward, backward := map[key]int{}, map[key]int{}
	at := make([]int, stages)
	for moved := true; moved; {
		moved = false
		for k := range stages {
			for len(lists[k]) > 0 {
				a := lists[k][0]
				ready, ok := 0, true
				switch a.Kind {
				case Forward:
					if k > 0 {
						ready, ok = forward[key{k - 1, a.Item.Seq}], forward[key{k - 1, a.Item.Seq}] > 0
					}
				case Backward, BackwardInput:
					if k+1 < stages {
						ready, ok = backward[key{k + 1, a.Item.Seq}], backward[key{k + 1, a.Item.Seq}] > 0
					}
				}
				if !ok {
					break
				}
				at[k] = max(at[k], ready)
				switch a.Kind {
				case Forward:
					at[k]++
					forward[key{k, a.Item.Seq}] = at[k]
				case Backward:
					at[k] += 2
					backward[key{k, a.Item.Seq}] = at[k]
				case BackwardInput:
					at[k]++
					backward[key{k, a.Item.Seq}] = at[k]
				case BackwardWeight:
					at[k]++
				}
				lists[k] = lists[k][1:]
				moved = true
			}
		}
	}
	for k := range stages {
		if len(lists[k]) > 0 {
			t.Fatalf("stage %d of %d waits for ever before %s of item %d", k, stages, lists[k][0].Kind, lists[k][0].Item.Seq)
		}
	}
	return slices.Max(at)
}

// TestBubble: with enough micro-batches 1F1B idles for 3(P-1) of the 3m that each stage
// computes, and ZB-H1 for P-1, as arXiv 2401.10241 has it, with no more micro-batches in
// flight than 1F1B's first stage has.
func TestBubble(t *testing.T) {
	for p := 1; p <= 8; p++ {
		for m := 1; m <= 4*p; m++ {
			run := Run{Train: m, Epochs: 1, BatchSize: m, MicroBatches: m, UpdateFrequency: 1}
			sync, zb := makespan(t, run, NewSync, p), makespan(t, run, NewZeroBubble, p)
			if m >= p && sync != 3*m+3*(p-1) {
				t.Errorf("1F1B, %d stages, %d micro-batches: %d", p, m, sync)
			}
			if m >= 2*p-1 && zb != 3*m+p-1 {
				t.Errorf("ZB-H1, %d stages, %d micro-batches: %d, want %d", p, m, zb, 3*m+p-1)
			}
			if zb > sync {
				t.Errorf("%d stages, %d micro-batches: ZB-H1 takes %d, 1F1B %d", p, m, zb, sync)
			}
		}
	}
}

// TestUpdatesMeet: where every update waits until all stages have come to it, as the gradients
// of tied parameters make it, synchronous schedules still come to their end.
func TestUpdatesMeet(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 0))
	for range 300 {
		run, stages := replicated(r), 2+r.IntN(5)
		for _, name := range []string{"sync", "zb"} {
			actions := make([][]Action, stages) // not done yet
			for k := range stages {
				actions[k] = walkAll(t, schedules[name](sequence(t, run, Position{}), k, stages), nil)
			}
			type tensor struct {
				kind  ActionKind
				stage int
				seq   uint64
			}
			sent := map[tensor]bool{}
			meets := func(a Action) bool { return a.Kind == Update || a.Kind == Average }
			for moved := true; moved; {
				moved = false
				for k := range stages {
					for len(actions[k]) > 0 {
						a := actions[k][0]
						if a.Kind == Forward && k > 0 && !sent[tensor{Forward, k - 1, a.Item.Seq}] {
							break
						}
						back := a.Kind == Backward || a.Kind == BackwardInput
						if back && k < stages-1 && !sent[tensor{Backward, k + 1, a.Item.Seq}] {
							break
						}
						if meets(a) && slices.ContainsFunc(actions, func(as []Action) bool {
							return slices.ContainsFunc(as, func(b Action) bool {
								return b.Kind == a.Kind && b.Item.Seq == a.Item.Seq
							}) && (as[0].Kind != a.Kind || as[0].Item.Seq != a.Item.Seq)
						}) {
							break
						}
						if a.Kind == Forward {
							sent[tensor{Forward, k, a.Item.Seq}] = true
						}
						if back {
							sent[tensor{Backward, k, a.Item.Seq}] = true
						}
						actions[k], moved = actions[k][1:], true
					}
				}
			}
			for k, as := range actions {
				if len(as) > 0 {
					t.Fatalf("%s, %d stages, %+v: stage %d stands still at the %s of item %d", name, stages, run, k, as[0].Kind, as[0].Item.Seq)
				}
			}
		}
	}
}
