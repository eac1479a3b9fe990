// Rounds and units: how the batches of a run are shared out to the replicas of a job. A
// unit is what one replica does in one round: a function of the state at the round's start
// and of the job, whoever computes it, and when.
//
// A run is cut into stretches, in each of which batches and rounds are counted anew. Batch b of
// a stretch belongs to replica b mod R, and a round is ReduceFactor updates of every replica: a
// run of batches. So batches come in the order of their numbers, and a Position between two
// rounds says what is done as it does with one replica. Where a stretch ends inside a round,
// that round is short: some replicas have fewer batches, or none, and weigh as much less. If
// ReduceFactor is the most, there are as few rounds as that allows, as long as one another but for
// what is left to the last.
//
// Several replicas whose parameters are averaged have as long stretches as can be: rounds run on
// through the ends of epochs, and so do a replica's updates of several batches. A stretch ends
// where the run validates or saves, since that sees the average, or could do so: at the multiples
// of the greatest common divisor of both intervals. With one replica, and where batches are split,
// a stretch is an epoch. A change of the number of replicas and the run's end cut stretches, too.

package order

// MaxReplicas is the most replicas that a run has.
const MaxReplicas = 64

// replicas is their number.
func (r Run) replicas() int { return max(r.Replicas, 1) }

// crosses tells whether rounds run on through the ends of epochs.
func (r Run) crosses() bool { return r.replicas() > 1 && !r.Split }

// cycle is the batches of a stretch that nothing cuts.
func (r Run) cycle() uint64 {
	epochs := 1
	if r.crosses() {
		epochs = r.SaveEvery
		if r.Val > 0 {
			for a := r.ValEvery; a != 0; {
				epochs, a = a, epochs%a
			}
		}
		if epochs == 0 || epochs > r.Epochs { // nothing comes before the end
			epochs = r.Epochs
		}
	}
	return uint64(max(epochs*r.Batches(r.Train), 1))
}

// stretch is the batches [from, to) of the stretch that a step of the period at hand is in.
func (r Run) stretch(step uint64) (from, to uint64) {
	c := r.cycle()
	from = step / c * c
	return max(from, r.begin()), min(from+c, uint64(r.Total()))
}

// Stretch is the most batches of a stretch.
func (r Run) Stretch() int { return min(int(r.cycle()), r.Total()) }

// updates is how many of each replica a full round has, in a stretch of so many batches.
func (r Run) updates(batches uint64) uint64 {
	switch {
	case !r.crosses():
		return 1
	case !r.Even:
		return uint64(r.ReduceFactor)
	}
	each := uint64(r.replicas() * r.UpdateFrequency)
	n, most := max((batches+each-1)/each, 1), uint64(r.ReduceFactor)
	rounds := (n + most - 1) / most
	return (n + rounds - 1) / rounds
}

// span is the batches of a full round in a stretch of so many: of an update, where there is one
// replica or every batch is split over all of them.
func (r Run) span(batches uint64) uint64 {
	n := uint64(1)
	if r.crosses() {
		n = uint64(r.replicas())
	}
	return n * r.updates(batches) * uint64(r.UpdateFrequency)
}

// Each is how many updates each replica does in a full round, as a rule.
func (r Run) Each() int { return int(r.updates(uint64(r.Stretch()))) }

// Opens tells whether a round begins before the batch of a step.
func (r Run) Opens(step uint64) bool {
	from, to := r.stretch(step)
	return (step-from)%r.span(to-from) == 0
}

// Full is the most batches of a round.
func (r Run) Full() int {
	r.Even = false
	return min(int(r.span(0)), r.Stretch())
}

// Short tells whether the round that a step is in has fewer batches than others.
func (r Run) Short(step uint64) bool {
	from, to := r.Span(step)
	begin, end := r.stretch(step)
	return to-from < min(r.span(end-begin), r.cycle())
}

// Splits tells whether the rows of each batch are split over several replicas.
func (r Run) Splits() bool { return r.Split && r.replicas() > 1 }

// share is the rows [from, to) that replica k of n has of a batch of total rows.
func share(total, k, n int) (from, to int) {
	return (total*k + n - 1) / n, (total*(k+1) + n - 1) / n
}

// MicroRows is the rows of a full micro-batch of a batch of total rows.
func (r Run) MicroRows(total int) int {
	if r.Splits() {
		_, total = share(total, 0, r.replicas())
	}
	return (total + r.MicroBatches - 1) / r.MicroBatches
}

// Parts are the rows of the micro-batches of a batch of total rows.
func (r Run) Parts(total int) []int {
	var rows []int
	n := 1
	if r.Splits() {
		n = r.replicas()
	}
	for k := range n {
		from, to := share(total, k, n)
		micro := (to - from + r.MicroBatches - 1) / r.MicroBatches
		for ; from < to; from += micro {
			rows = append(rows, min(micro, to-from))
		}
	}
	return rows
}

// Round is the number of the round that a step is in.
func (r Run) Round(step uint64) uint64 {
	last := len(r.Periods) - 1
	if last > 0 && step < r.begin() {
		return r.period(last - 1).Round(step)
	}
	past := uint64(0)
	if last > 0 {
		past = r.period(last - 1).Round(r.begin())
	}
	whole, rest := r.stretches(step)
	for _, w := range whole {
		span := r.span(w.batches)
		past += w.times * ((w.batches + span - 1) / span)
	}
	from, to := r.stretch(step)
	return past + rest/r.span(to-from)
}

// Rounds is how many rounds are over after so many batches. The run's end ends one, too.
func (r Run) Rounds(batches uint64) uint64 {
	n := r.Round(batches)
	if batches == uint64(r.Total()) && !r.Opens(batches) {
		n++
	}
	return n
}

// Samples sets dst[k] to the number of rows that replica k trains in the round that a step is in.
// dst has an element for each replica.
func (r Run) Samples(dst []int64, step uint64) {
	clear(dst)
	n := r.replicas()
	from, to := r.Span(step)
	for b := from; b < to; b++ {
		rows := r.Rows(r.Train, r.At(b).Batch)
		if !r.Splits() {
			dst[r.Replica(b)] += int64(rows)
			continue
		}
		for k := range dst {
			from, to := share(rows, k, n)
			dst[k] += int64(to - from)
		}
	}
}

// OwnRows is how many rows of a batch of total rows the cluster trains that trains the batch or
// a part of it.
func (r Run) OwnRows(total int) int {
	if r.Own == 0 || !r.Splits() {
		return total
	}
	sum := 0
	for k := range r.replicas() {
		if r.Own.Has(k) {
			from, to := share(total, k, r.replicas())
			sum += to - from
		}
	}
	return sum
}

// Replica is the one that the whole batch of a step belongs to.
func (r Run) Replica(step uint64) int {
	from, _ := r.stretch(step)
	return int((step - from) % uint64(r.replicas()))
}

// Has tells whether replica k has rows of a batch of total rows that is split.
func (r Run) Has(total, k int) bool {
	from, to := share(total, k, r.replicas())
	return from < to
}

// Span is the batches [from, to) of the round that a step is in, as steps of the run.
func (r Run) Span(step uint64) (from, to uint64) {
	begin, end := r.stretch(step)
	span := r.span(end - begin)
	from = step - (step-begin)%span
	return from, min(from+span, end)
}

// around is the batches of the round that a step is in.
func (r Run) around(step uint64) uint64 {
	from, to := r.Span(step)
	return to - from
}

// Update is the number, from 0, of the update that the batch of a step is a part of, among those
// of the batch's replica.
func (r Run) Update(step uint64) int {
	k := 0
	if !r.Splits() {
		k = r.Replica(step)
	}
	return r.Updates(step+1, k) - 1
}

// Last is the step of the last batch of the update that the batch of a step is a part of.
func (r Run) Last(step uint64) uint64 {
	n, u := uint64(1), uint64(r.UpdateFrequency)
	if r.crosses() {
		n = uint64(r.replicas())
	}
	from, to := r.stretch(step)
	k, own := (step-from)%n, (step-from)/n
	return from + k + min(own/u*u+u-1, (to-from-k-1)/n)*n
}

// AllUpdates is the number of updates of the whole run, of the first replica, if the number of
// replicas stays what it is.
func (r Run) AllUpdates() int { return r.Updates(uint64(r.Total()), 0) }

// Updates is how many updates replica k has done before a step, since the run's start; one that it
// is in the middle of counts. What the first replica did before the number of replicas changed
// counts for all.
func (r Run) Updates(step uint64, k int) int {
	past := 0
	if last := len(r.Periods) - 1; last > 0 {
		past = r.period(last-1).Updates(r.begin(), 0)
	}
	return past + r.UpdatesSince(step, k)
}

// UpdatesSince is Updates since the number of replicas changed.
func (r Run) UpdatesSince(step uint64, k int) int {
	n, u, first := uint64(r.replicas()), uint64(r.UpdateFrequency), uint64(k)
	if r.Split {
		n, first = 1, 0
	}
	// of are the updates over the first b batches of a stretch.
	of := func(b uint64) uint64 {
		if b <= first {
			return 0
		}
		own := (b - first + n - 1) / n
		return (own + u - 1) / u
	}
	whole, rest := r.stretches(step)
	sum := of(rest)
	for _, w := range whole {
		sum += w.times * of(w.batches)
	}
	return int(sum)
}
