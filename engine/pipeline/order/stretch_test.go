package order

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// place is where a batch stands, found by dealing batches out one by one.
type place struct {
	replica, round int
	from, to       uint64 // the round
	update         int    // number among those of its replica
	last           uint64 // batch of the update
}

// marked tells whether a stretch of a run of several replicas ends with so many epochs.
func (r Run) marked(epochs int) bool {
	var every []int
	if r.Val > 0 && r.ValEvery > 0 {
		every = append(every, r.ValEvery)
	}
	if r.SaveEvery > 0 {
		every = append(every, r.SaveEvery)
	}
	for g := 64; g > 0 && every != nil; g-- {
		if !slices.ContainsFunc(every, func(n int) bool { return n%g != 0 }) {
			return epochs%g == 0
		}
	}
	return false
}

// longest is the updates of a full round of several replicas, in a stretch of so many batches.
func (r Run) longest(batches, replicas int) int {
	if !r.Even {
		return r.ReduceFactor
	}
	updates := 0
	for left := batches; left > 0; left -= replicas * r.UpdateFrequency {
		updates++
	}
	for rounds := 1; ; rounds++ { // the fewest that are not too long
		for n := 1; n <= r.ReduceFactor; n++ {
			if n*rounds >= updates {
				return n
			}
		}
	}
}

// dealt deals out the batches of a run period by period, round by round.
func dealt(r Run) []place {
	var all []place
	ps := r.Periods
	if len(ps) == 0 {
		ps = []Period{{0, r.replicas()}}
	}
	rounds, before := 0, 0 // updates of the first replica
	n := r.Batches(r.Train)
	for i, p := range ps {
		end, first := uint64(r.Total()), len(all)
		if i+1 < len(ps) {
			end = ps[i+1].Step
		}
		several, turns := p.Replicas > 1 && !r.Split, 1
		if several {
			turns = p.Replicas
		}
		done := make([]int, turns) // updates
		mark, full := p.Step, 0
		for step := p.Step; step < end; {
			if step == mark {
				for mark++; mark < uint64(r.Total()) && (mark%uint64(n) != 0 || several && !r.marked(int(mark)/n)); mark++ {
				}
				if full = r.UpdateFrequency; several {
					full = turns * r.UpdateFrequency * r.longest(int(mark-step), turns)
				}
			}
			to := min(step+uint64(full), mark)
			own := make([][]uint64, turns)
			for b := step; b < to; b++ {
				k := int(b-step) % turns
				own[k] = append(own[k], b)
			}
			round := make([]place, to-step)
			for k := range own {
				for u := range slices.Chunk(own[k], r.UpdateFrequency) {
					for _, b := range u {
						round[b-step] = place{k, rounds, step, to, before + done[k], u[len(u)-1]}
					}
					done[k]++
				}
			}
			all = append(all, round...)
			step, rounds = to, rounds+1
		}
		if len(all) > first {
			before += done[0]
		}
	}
	return all
}

// periodic is a random run with periods that change anywhere between two rounds, and its batches.
func periodic(r *rand.Rand) (Run, []place) {
	run := replicated(r)
	if run.Train = 1 + r.IntN(30); r.IntN(2) == 0 {
		run.ValEvery, run.SaveEvery = r.IntN(7), r.IntN(7)
	}
	run.Epochs = 1 + r.IntN(9)
	if run.Steps > 0 {
		run.Steps = 1 + r.IntN(run.Epochs*run.Batches(run.Train)+3)
	}
	run.Replicas = run.replicas()
	run.Periods = []Period{{0, run.Replicas}}
	all := dealt(run)
	for range r.IntN(4) {
		var opens []uint64
		for step := run.begin(); step < uint64(len(all)); step++ {
			if all[step].from == step {
				opens = append(opens, step)
			}
		}
		if len(opens) == 0 {
			break
		}
		run.Replicas = 1 + (run.Replicas+r.IntN(6))%7
		run.Periods = append(run.Periods, Period{opens[r.IntN(len(opens))], run.Replicas})
		all = dealt(run)
	}
	return run, all
}

// TestClosedForms holds what is computed of a step against a walk over all batches, for random runs
// with periods.
func TestClosedForms(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 0))
	crossed, within := 0, 0
	for range 1500 {
		run, all := periodic(r)
		if len(all) != run.Total() {
			t.Fatalf("%+v: %d batches of %d", run, len(all), run.Total())
		}
		for step, want := range all {
			if got := int(run.Round(uint64(step))); got != want.round {
				t.Fatalf("%+v: step %d is in round %d, want %d", run, step, got, want.round)
			}
		}
		updates := make([]int, run.Replicas) // done, of each replica
		base := run.Updates(run.begin(), 0)
		for step := run.begin(); step < uint64(len(all)); step++ {
			want := all[step]
			stands(t, run, all, step)
			for k := range updates {
				if got := run.Updates(step, k); got != base+updates[k] {
					t.Fatalf("%+v: replica %d has done %d updates before step %d, want %d", run, k, got, step, base+updates[k])
				}
				if got := run.UpdatesSince(step, k); got != updates[k] {
					t.Fatalf("%+v: replica %d has done %d updates before step %d since step %d, want %d", run, k, got, step, run.begin(), updates[k])
				}
				if run.Splits() || k == want.replica {
					updates[k] = want.update + 1 - base
				}
			}
			n := uint64(run.Batches(run.Train))
			if want.from/n != (want.to-1)/n {
				if crossed++; !run.crosses() {
					t.Fatalf("%+v: a round from step %d to %d crosses an epoch", run, want.from, want.to)
				}
			}
			if run.crosses() && want.to < uint64(run.Total()) && run.Short(step) {
				within++
			}
		}
		if got := run.AllUpdates(); got != base+updates[0] {
			t.Fatalf("%+v: %d updates in all, want %d", run, got, base+updates[0])
		}
		if got, want := run.Rounds(uint64(run.Total())), all[len(all)-1].round+1; run.begin() < uint64(run.Total()) && int(got) != want {
			t.Fatalf("%+v: %d rounds in all, want %d", run, got, want)
		}
		listed(t, run, all)
	}
	if crossed < 1000 || within < 300 {
		t.Fatalf("%d batches of rounds that cross an epoch, %d of short ones within the run: the test proves little", crossed, within)
	}
}

// stands checks where a batch stands.
func stands(t *testing.T, run Run, all []place, step uint64) {
	t.Helper()
	want := all[step]
	if got := run.Opens(step); got != (want.from == step) {
		t.Fatalf("%+v: a round opens at step %d: %v", run, step, got)
	}
	if err := run.CheckPosition(run.At(step)); (err == nil) != (want.from == step) {
		t.Fatalf("%+v: step %d of a round from %d on: %v", run, step, want.from, err)
	}
	from, to := run.Span(step)
	got := place{run.Replica(step), want.round, from, to, run.Update(step), run.Last(step)}
	if run.Splits() {
		got.replica = want.replica
	}
	if got != want {
		t.Fatalf("%+v: step %d is at %+v, want %+v", run, step, got, want)
	}
	if int(to-from) > run.Full() {
		t.Fatalf("%+v: the round of step %d has %d batches, at most %d are said", run, step, to-from, run.Full())
	}
	samples, rows := make([]int64, run.Replicas), make([]int64, run.Replicas)
	run.Samples(samples, step)
	for b := from; b < to; b++ {
		total := run.Rows(run.Train, run.At(b).Batch)
		for row := range total {
			k := all[b].replica
			if run.Splits() {
				k = row * run.Replicas / total
			}
			rows[k]++
		}
	}
	if !slices.Equal(samples, rows) {
		t.Fatalf("%+v: the round of step %d has %v rows, want %v", run, step, samples, rows)
	}
}

// listed checks the items of the period at hand.
func listed(t *testing.T, run Run, all []place) {
	t.Helper()
	for _, it := range rest(t, run, run.Start()) {
		if it.Kind != Train {
			continue
		}
		want := all[it.Step]
		if !run.Split && it.Replica != want.replica {
			t.Fatalf("%+v: %+v is of replica %d, want %d", run, it, it.Replica, want.replica)
		}
		if it.Opens != (it.Row0 == 0 && want.from == it.Step) || it.Closes != (it.Ends && want.to == it.Step+1) || it.Last != (it.Ends && want.last == it.Step) {
			t.Fatalf("%+v: %+v, want %+v", run, it, want)
		}
	}
}

// TestMarks: rounds of several replicas end where the run validates or saves, and where it could
// by the greatest common divisor of both intervals, and run on through all other epochs.
func TestMarks(t *testing.T) {
	base := Run{Train: 7, Val: 1, Epochs: 12, BatchSize: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: 2, ReduceFactor: 3}
	for _, c := range []struct {
		val, validates, saves int
		want                  []uint64 // where rounds open, up to the end of four epochs
	}{
		{1, 0, 0, []uint64{0, 6, 12, 18, 24}},
		{1, 1, 0, []uint64{0, 6, 7, 13, 14, 20, 21, 27}},
		{1, 2, 0, []uint64{0, 6, 12, 14, 20, 26}},
		{0, 2, 0, []uint64{0, 6, 12, 18, 24}}, // no rows to validate with
		{1, 4, 6, []uint64{0, 6, 12, 14, 20, 26}},
		{1, 0, 3, []uint64{0, 6, 12, 18, 21, 27}},
		{1, 99, 0, []uint64{0, 6, 12, 18, 24}},
	} {
		run := base
		run.Val, run.ValEvery, run.SaveEvery = c.val, c.validates, c.saves
		var got []uint64
		for step := range uint64(28) {
			if run.Opens(step) {
				got = append(got, step)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d rows, validated every %d and saved every %d epochs: rounds open at %v, want %v", c.val, c.validates, c.saves, got, c.want)
		}
	}
}
