// Rounds and units: how the batches of an epoch are shared out to the replicas of a job. A
// unit is what one replica does in one round: a function of the state at the round's start
// and of the job, whoever computes it, and when.
//
// Batch b of an epoch belongs to replica b mod R (counted from where R changed, in the epoch in
// which it did), and a round is ReduceFactor updates of
// every replica: a run of batches. So batches come in the order of their numbers, and a
// Position between two rounds says what is done as it does with one replica. Where an epoch
// or the run ends inside a round, that round is short: some replicas have fewer batches, or
// none, and weigh as much less.

package order

// MaxReplicas is the most replicas that a run has.
const MaxReplicas = 64

// replicas is their number.
func (r Run) replicas() int { return max(r.Replicas, 1) }

// span is the batches of a full round: of an update, where there is one replica or every
// batch is split over all of them.
func (r Run) span() int {
	if n := r.replicas(); n > 1 && !r.Split {
		return n * r.ReduceFactor * r.UpdateFrequency
	}
	return r.UpdateFrequency
}

// Opens tells whether a round begins before the batch at p.
func (r Run) Opens(p Position) bool { return (p.Batch-r.base(p.Epoch))%r.span() == 0 }

// Full is the batches of a full round.
func (r Run) Full() int { return r.span() }

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

// within is the number of batches of an epoch that the run comes to.
func (r Run) within(epoch int) int {
	n := r.Batches(r.Train)
	return min(n, r.Total()-epoch*n)
}

// Round is the number of the round that begins at p.
func (r Run) Round(p Position) uint64 {
	past := uint64(0)
	if last := len(r.Periods) - 1; last > 0 {
		past = r.period(last - 1).Round(r.At(r.begin()))
	}
	span := r.span()
	of := func(batches int) uint64 { return uint64((batches + span - 1) / span) }
	whole, rest := r.epochs(p)
	for _, w := range whole {
		past += uint64(w.times) * of(w.batches)
	}
	return past + uint64(rest/span)
}

// Samples sets dst[k] to the number of rows that replica k trains in the round that begins
// at p. dst has an element for each replica.
func (r Run) Samples(dst []int64, p Position) {
	clear(dst)
	n := r.replicas()
	from, to := r.Span(p)
	for b := from; b < to; b++ {
		rows := r.Rows(r.Train, b)
		if !r.Splits() {
			dst[r.Replica(p.Epoch, b)] += int64(rows)
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

// Replica is the one that a whole batch of an epoch belongs to.
func (r Run) Replica(epoch, batch int) int { return (batch - r.base(epoch)) % r.replicas() }

// Has tells whether replica k has rows of a batch of total rows that is split.
func (r Run) Has(total, k int) bool {
	from, to := share(total, k, r.replicas())
	return from < to
}

// Span is the batches of the round that begins at p, as numbers in its epoch.
func (r Run) Span(p Position) (from, to int) {
	return p.Batch, min(p.Batch+r.span(), r.within(p.Epoch))
}

// Update is the number, from 0, of the update that a batch is a part of, among those of the
// batch's replica.
func (r Run) Update(epoch, batch int) int {
	k := 0
	if !r.Splits() {
		k = r.Replica(epoch, batch)
	}
	return r.Updates(Position{Epoch: epoch, Batch: batch + 1}, k) - 1
}

// AllUpdates is the number of updates of the whole run, of the first replica, if the number of
// replicas stays what it is.
func (r Run) AllUpdates() int { return r.Updates(r.At(uint64(r.Total())), 0) }

// Updates is how many updates replica k has done at p, since the run's start. What the first
// replica did before the number of replicas changed counts for all.
func (r Run) Updates(p Position, k int) int {
	past := 0
	if last := len(r.Periods) - 1; last > 0 {
		past = r.period(last-1).Updates(r.At(r.begin()), 0)
	}
	return past + r.UpdatesSince(p, k)
}

// UpdatesSince is how many updates replica k has done at p since the number of replicas changed.
func (r Run) UpdatesSince(p Position, k int) int {
	n, u := r.replicas(), r.UpdateFrequency
	if r.Split {
		n, k = 1, 0
	}
	// of are the updates over the first b batches of an epoch.
	of := func(b int) int {
		own := (b - k + n - 1) / n
		return (max(own, 0) + u - 1) / u
	}
	whole, rest := r.epochs(p)
	sum := of(rest)
	for _, w := range whole {
		sum += w.times * of(w.batches)
	}
	return sum
}
