package order

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// told is what a stage has told others: a tensor, its sum of a tied parameter's gradients (Update),
// or the total (Average).
type told struct {
	kind  ActionKind
	stage int
	seq   uint64
}

// open is an update whose total a stage has still to take in.
type open struct {
	seq    uint64
	number int // in the round
}

// tiedWalk is a run of stages that all hold a tied parameter. An update waits for the sum of the later
// stages; where its replica goes on, or a stage would run too far ahead, the stage waits for the
// total of the stage before. With meet, stages stand still at each update until all have come to
// it instead. An exchange takes so long as link says.
type tiedWalk struct {
	stages, link, slots int
	meet                bool

	lists           [][]Action // not done yet
	at              []int      // the time of each stage
	done            map[told]int
	open            []map[int]open // by replica
	closed, updates []int          // in the round: updates whose last forward pass is over, and all
}

// tiedspan is makespan of such a run.
func tiedspan(t *testing.T, run Run, schedule func(*Sequence, int, int) Schedule, stages, link int, meet bool) int {
	t.Helper()
	w := &tiedWalk{stages: stages, link: link, meet: meet, at: make([]int, stages), done: map[told]int{}, closed: make([]int, stages), updates: make([]int, stages)}
	w.slots = schedule(sequence(t, run, Position{}), 0, stages).Slots()
	for k := range stages {
		w.lists = append(w.lists, walkAll(t, schedule(sequence(t, run, Position{}), k, stages), nil))
		w.open = append(w.open, map[int]open{})
	}
	for moved := true; moved; {
		moved = false
		for k := range stages {
			for len(w.lists[k]) > 0 && w.step(k, w.lists[k][0]) {
				w.lists[k], moved = w.lists[k][1:], true
			}
		}
	}
	for k, as := range w.lists {
		if len(as) > 0 {
			t.Fatalf("%d stages, %+v: stage %d waits for ever before %s of item %d", stages, run, k, as[0].Kind, as[0].Item.Seq)
		}
	}
	return slices.Max(w.at)
}

// wait lets stage k wait for what another has told; false: it has not yet.
func (w *tiedWalk) wait(k int, what told, link int) bool {
	when, ok := w.done[what]
	w.at[k] = max(w.at[k], when+link)
	return ok
}

// totals takes those in that an action of stage k needs; false: one has not been told yet.
func (w *tiedWalk) totals(k int, need func(replica int, u open) bool) bool {
	for r, u := range w.open[k] {
		if !need(r, u) {
			continue
		}
		if k > 0 && !w.wait(k, told{Average, k - 1, u.seq}, w.link) {
			return false
		}
		own := told{Average, k, u.seq}
		if _, ok := w.done[own]; !ok {
			w.done[own] = w.at[k]
		}
	}
	return true
}

// step lets stage k do what comes next; false: it has to wait.
func (w *tiedWalk) step(k int, a Action) bool {
	it := a.Item
	switch a.Kind {
	case Forward:
		late := func(r int, u open) bool { return r == it.Replica || u.number+w.slots <= w.closed[k]+1 }
		if !w.totals(k, late) || k > 0 && !w.wait(k, told{Forward, k - 1, it.Seq}, 0) {
			return false
		}
		if delete(w.open[k], it.Replica); it.Last {
			w.closed[k]++
		}
		w.at[k]++
		w.done[told{Forward, k, it.Seq}] = w.at[k]
	case Backward, BackwardInput:
		if k+1 < w.stages && !w.wait(k, told{Backward, k + 1, it.Seq}, 0) {
			return false
		}
		if w.at[k]++; a.Kind == Backward {
			w.at[k]++
		}
		w.done[told{Backward, k, it.Seq}] = w.at[k]
	case BackwardWeight:
		w.at[k]++
	case Update:
		return w.update(k, it)
	case Average:
		if !w.totals(k, func(int, open) bool { return true }) {
			return false
		}
		clear(w.open[k])
		w.closed[k], w.updates[k] = 0, 0
	default:
	}
	return true
}

func (w *tiedWalk) update(k int, it Item) bool {
	own := told{Update, k, it.Seq}
	if w.meet {
		for o, as := range w.lists {
			_, ok := w.done[told{Update, o, it.Seq}]
			if here := len(as) > 0 && as[0].Kind == Update && as[0].Item.Seq == it.Seq; !here && !ok {
				return false
			}
		}
		w.at[k] = slices.Max(w.at) + 2*w.link*(w.stages-1) // there and back
		w.done[own] = w.at[k]
		return true
	}
	if k+1 < w.stages && !w.wait(k, told{Update, k + 1, it.Seq}, w.link) {
		return false
	}
	w.updates[k]++
	w.open[k][it.Replica] = open{it.Seq, w.updates[k]}
	w.done[own] = w.at[k]
	if k == 0 {
		w.done[told{Average, 0, it.Seq}] = w.at[0]
	}
	return true
}

// TestTiedSumsFlow: while sums of tied parameters are on their way, other replicas are trained, so
// that they cost no time where links cost none, and little where there are more units in flight than stages.
// No run stands still, however the turns of replicas and updates fall.
func TestTiedSumsFlow(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 0))
	for range 300 {
		run, stages := replicated(r), 2+r.IntN(5)
		if run.Replicas < 2 || run.Split {
			continue
		}
		for _, name := range []string{"sync", "zb"} {
			// The later stages of zb put off the weights, so that their sums come later.
			if got, want := tiedspan(t, run, schedules[name], stages, 0, false), makespan(t, run, schedules[name], stages); name == "sync" && got != want || got > 2*want {
				t.Fatalf("%s, %d stages, %+v: %d, without tied parameters %d", name, stages, run, got, want)
			}
		}
	}
	run := Run{Train: 240, Epochs: 1, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: 12, ReduceFactor: 20, InFlight: 4}
	free := makespan(t, run, NewSync, 4)
	met := tiedspan(t, run, NewSync, 4, 0, true)
	run.InFlight = 8
	flown := tiedspan(t, run, NewSync, 4, 3, false)
	t.Logf("four stages, 12 replicas: %d, as stages met %d, eight in flight over links that take a batch's time %d", free, met, flown)
	if met < 3*free || flown > free*11/10 {
		t.Errorf("four stages: %d without tied parameters, %d where stages meet, %d over slow links with eight in flight", free, met, flown)
	}
}
