package order

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// shared is a random run of several replicas, and their sets by cluster.
func shared(r *rand.Rand) (Run, []Set) {
	run := replicated(r)
	run.Replicas = 2 + r.IntN(6)
	own := make([]Set, 1+r.IntN(run.Replicas))
	for i, k := range r.Perm(run.Replicas) {
		c := i
		if i >= len(own) {
			c = r.IntN(len(own))
		}
		own[c] |= 1 << k
	}
	return run, own
}

// of is the run as cluster c walks it.
func of(run Run, own []Set, c int) Run {
	run.Own, run.Unvalidated = own[c], c > 0
	return run
}

// TestShares: however replicas are shared out, each cluster has the items of its replicas, and
// the first those of the validation passes, with the numbers and in the order of the whole run,
// between an Open and a Close for every round. All can be taken up where a round opens.
func TestShares(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 0))
	for range 150 {
		run, own := shared(r)
		all := rest(t, run, Position{})
		var opens []Position
		for _, it := range all {
			if it.Opens {
				opens = append(opens, it.Position())
			}
		}
		for c := range own {
			mine := of(run, own, c)
			got := rest(t, mine, Position{})
			var want []Item
			for _, it := range all {
				if it.Kind == Train && own[c].Has(it.Replica) || (it.Kind == Eval || it.Kind == EvalDone) && c == 0 || it.Kind == Save || it.Kind == End {
					want = append(want, it)
				}
			}
			open, round, done := false, 0, 0
			for i, it := range got {
				switch it.Kind {
				case Open:
					if open || round == len(opens) || it.Position() != opens[round] {
						t.Fatalf("%+v, cluster %b: %+v opens round %d", run, own[c], it, round)
					}
					open, round = true, round+1
					if r.IntN(4) == 0 && !slices.Equal(rest(t, mine, it.Position()), got[i:]) {
						t.Fatalf("%+v, cluster %b: taken up at %+v the run is another", run, own[c], it.Position())
					}
					continue
				case Close:
					if !open {
						t.Fatalf("%+v, cluster %b: %+v closes no round", run, own[c], it)
					}
					open = false
					continue
				case Train:
					if !open || it.Opens || it.Closes {
						t.Fatalf("%+v, cluster %b: %+v in a round: %v", run, own[c], it, open)
					}
				default:
					if open {
						t.Fatalf("%+v, cluster %b: %+v inside a round", run, own[c], it)
					}
				}
				w := want[done]
				w.Opens, w.Closes = false, false
				if it.Kind == Train && run.Split {
					w.Last, w.Ends = false, it.Ends
				}
				if it != w {
					t.Fatalf("%+v, cluster %b: %+v, want %+v", run, own[c], it, w)
				}
				done++
			}
			if done != len(want) || round != len(opens) || open {
				t.Fatalf("%+v, cluster %b: %d of %d items, %d of %d rounds", run, own[c], done, len(want), round, len(opens))
			}
			ends(t, mine, got)
		}
	}
}

// ends checks that every batch that a cluster has rows of ends once, with OwnRows of them.
func ends(t *testing.T, run Run, items []Item) {
	t.Helper()
	rows := 0
	for i, it := range items {
		if it.Kind != Train {
			continue
		}
		rows += it.Rows
		last := i+1 == len(items) || items[i+1].Kind != Train || items[i+1].Step != it.Step
		if it.Ends != last || it.Ends && rows != run.OwnRows(it.Total) {
			t.Fatalf("%+v: %+v after %d of %d rows ends its batch, want %v", run, it, rows, run.OwnRows(it.Total), last)
		}
		if it.Ends {
			rows = 0
		}
	}
}

// TestClustersDoNotWaitForEver: clusters of any number of stages, whose averages wait for one
// another, come to the run's end in all schedules, with the same states at the same positions.
func TestClustersDoNotWaitForEver(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 0))
	for range 80 {
		run, own := shared(r)
		for _, name := range []string{"sync", "zb"} {
			stop := r.IntN(6) // rounds; 5: none
			var lists [][][]Action
			for c := range own {
				stages := 1 + r.IntN(4)
				cluster := make([][]Action, stages)
				for k := range cluster {
					rounds := 0
					cluster[k] = walkAll(t, schedules[name](sequence(t, of(run, own, c), Position{}), k, stages), func(a Action) Mark {
						if rounds++; a.Kind != Begin {
							t.Fatalf("a mark before %+v", a)
						}
						if rounds > stop && stop < 5 {
							return Stop
						}
						if rounds%3 == 0 {
							return Checkpoint
						}
						return Continue
					})
					settled(t, run, cluster[k])
				}
				lists = append(lists, cluster)
			}
			var kept []Position
			for _, a := range lists[0][0] {
				if a.Kind == Keep {
					kept = append(kept, a.At)
				}
			}
			for c := range lists {
				for k, as := range lists[c] {
					var at []Position
					for _, a := range as {
						if a.Kind == Keep {
							at = append(at, a.At)
						}
					}
					if !slices.Equal(at, kept) {
						t.Fatalf("%s, %+v, %b: cluster %d, stage %d keeps %v, the first %v", name, run, own, c, k, at, kept)
					}
				}
			}
			together(t, lists)
		}
	}
}

// settled checks that nothing is in flight where a round begins or ends, and that every
// replica's gradients are applied before its state is averaged.
func settled(t *testing.T, run Run, as []Action) {
	t.Helper()
	flight, updates := 0, 0
	for i, a := range as {
		switch a.Kind {
		case Forward:
			flight++
		case Backward, BackwardWeight:
			flight--
		case Update:
			if updates++; run.Split && as[i-1].Kind != Average {
				t.Fatalf("%+v: an update of gradients that are not added up", run)
			}
		case Begin, Average, Keep, Evaluate:
			if flight > 0 {
				t.Fatalf("%+v: %s of %+v with %d in flight", run, a.Kind, a.Item, flight)
			}
		}
		if a.Kind == Average && run.Split && as[i+1].Kind != Update {
			t.Fatalf("%+v: no update with the sum of %+v", run, a.Item)
		}
	}
}

// together walks the actions of all stages of all clusters: a stage waits for its neighbours'
// tensors, and for all other stages where it averages.
func together(t *testing.T, lists [][][]Action) {
	t.Helper()
	type key struct {
		cluster, stage int
		seq            uint64
		back           bool
	}
	sent := map[key]bool{}
	for moved := true; moved; {
		moved = false
		waiting := 0
		all := 0
		for c := range lists {
			for k := range lists[c] {
				all++
				for len(lists[c][k]) > 0 {
					a := lists[c][k][0]
					if a.Kind == Average {
						waiting++
						break
					}
					if a.Kind == Forward && k > 0 && !sent[key{c, k - 1, a.Item.Seq, false}] ||
						(a.Kind == Backward || a.Kind == BackwardInput) && k+1 < len(lists[c]) && !sent[key{c, k + 1, a.Item.Seq, true}] {
						break
					}
					sent[key{c, k, a.Item.Seq, a.Kind != Forward}] = true
					lists[c][k] = lists[c][k][1:]
					moved = true
				}
			}
		}
		if waiting == all {
			for c := range lists {
				for k := range lists[c] {
					lists[c][k] = lists[c][k][1:]
				}
			}
			moved = true
		}
	}
	for c := range lists {
		for k := range lists[c] {
			if len(lists[c][k]) > 0 {
				t.Fatalf("stage %d of cluster %d waits for ever before %+v", k, c, lists[c][k][0])
			}
		}
	}
}

func TestSharesThatCannotBe(t *testing.T) {
	run := Run{Train: 10, Epochs: 1, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: 3, ReduceFactor: 1, Own: 1 << 3}
	if err := run.Check(); !errors.Is(err, ErrRun) {
		t.Errorf("replica 3 of 3: %v", err)
	}
	run.Own, run.Replicas = 1, 1
	if err := run.Check(); !errors.Is(err, ErrRun) {
		t.Errorf("a share of one replica: %v", err)
	}
}
