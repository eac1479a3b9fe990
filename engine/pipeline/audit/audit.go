// Package audit finds who computed something else than the job says. Every stage commits
// itself to digests of what it received and sent, update by update, and with several clusters
// step by step of the rings that average (stage.Digest). Computed again in one process they say
// where the first wrong number came from: the stage that got the right ones and sent wrong ones.
// What it did to the others is no fault of theirs.
package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/wire"
)

// Fault is something that a stage said or saved, and the job does not make.
type Fault struct {
	Of   stage.Peer
	Step uint64 // number of the last batch of the update or round, or of those before the saved state
	What string // in words
	// Round tells that it is about the average of a round, Saved that it is about a saved state;
	// else it is about an update.
	Round, Saved bool
	// Or is another stage that may have done it in its place, where Either is set: what one says
	// that it sent is right, and what the other says that it got is not.
	Or     stage.Peer
	Either bool
}

// tampered is the digests of one record that are not what they should be.
type tampered struct {
	at      int // number of the record of its stage
	step    uint64
	round   bool // it is of a round's average
	in, out [stage.Ways]bool
	rings   []bool // by exchange
}

// compare returns what differs; nil: nothing. Something else than the exchanges of rings that
// there are is no right digest of any.
func compare(at int, said, true stage.Digest) *tampered {
	t := &tampered{at: at, step: true.Step, round: true.Round, rings: make([]bool, len(true.Rings))}
	any := len(said.Rings) != len(true.Rings) && len(true.Rings) == 0
	for w := range stage.Ways {
		t.in[w], t.out[w] = said.In[w] != true.In[w], said.Out[w] != true.Out[w]
		any = any || t.in[w] || t.out[w]
	}
	for i, s := range true.Rings {
		t.rings[i] = len(said.Rings) != len(true.Rings) || said.Rings[i] != s
		any = any || t.rings[i]
	}
	if !any {
		return nil
	}
	return t
}

// testimony is what a stage said.
type testimony struct {
	exchanges []stage.Exchange
	seen      int
	rounds    map[uint64]int // record of the average whose round ends with a batch
	unsaid    map[int]bool   // records that it did not say
	first     *tampered      // that is wrong
	saved     string         // what differs in its saved state
	step      uint64         // of the saved state
}

// Trail holds what the stages of all clusters said against the truth. Make it with
// Replay.Trail.
type Trail struct {
	aligned bool
	stages  []int // by cluster
	of      map[stage.Peer]*testimony
	missing int
}

// newTrail is for clusters of so many stages. Aligned tells that an update of all stages of a
// cluster is about the same batches, as it is but for the schedule async.
func newTrail(aligned bool, exchanges [][][]stage.Exchange) *Trail {
	t := &Trail{aligned: aligned, of: map[stage.Peer]*testimony{}}
	for c, all := range exchanges {
		t.stages = append(t.stages, len(all))
		for k, xs := range all {
			t.of[stage.Peer{Cluster: c, Stage: k}] = &testimony{exchanges: xs, rounds: map[uint64]int{}, unsaid: map[int]bool{}}
		}
	}
	return t
}

// Record compares what a stage said of an update, or of a round's average, with the truth; said
// is nil where it is not on record. Records of a stage come in order.
func (t *Trail) Record(p stage.Peer, said *stage.Digest, truth stage.Digest) {
	x := t.of[p]
	if truth.Round {
		x.rounds[truth.Step] = x.seen
	}
	if said == nil {
		x.unsaid[x.seen] = true
		t.missing++
	} else if x.first == nil {
		x.first = compare(x.seen, *said, truth)
	}
	x.seen++
}

// Open compares what a stage said of an update that it did not come to the end of; the truth comes before
// that of the whole update.
func (t *Trail) Open(p stage.Peer, said, truth stage.Digest) {
	if x := t.of[p]; x.first == nil {
		x.first = compare(x.seen, said, truth)
	}
}

// Saved notes that the state of a stage, saved before batch step, is not what it should be.
func (t *Trail) Saved(p stage.Peer, step uint64, what string) {
	t.of[p].saved, t.of[p].step = what, step
}

// Missing is how many digests were not on record.
func (t *Trail) Missing() int { return t.missing }

// places are all stages, by cluster.
func (t *Trail) places() []stage.Peer {
	return slices.SortedFunc(maps.Keys(t.of), func(a, b stage.Peer) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Stage, b.Stage))
	})
}

// Clean tells whether everything was right.
func (t *Trail) Clean() bool {
	for _, x := range t.of {
		if x.first != nil || x.saved != "" {
			return false
		}
	}
	return true
}

// right tells whether stages [from, to) of a cluster were right up to record at, in what they
// sent one way; or all the time, where records of a number are not about the same batches.
func (t *Trail) right(cluster, from, to, at int, way stage.Way) bool {
	for k := from; k < to; k++ {
		if x := t.of[stage.Peer{Cluster: cluster, Stage: k}].first; x != nil && (!t.aligned || x.at < at || x.at == at && x.out[way]) {
			return false
		}
	}
	return true
}

// told tells whether a stage was right up to what it sent to another in a step of the average
// that ends with a batch.
func (t *Trail) told(p stage.Peer, e stage.Exchange, step uint64) bool {
	x := t.of[p]
	if x.first == nil {
		return true
	}
	at, ok := x.rounds[step]
	i := slices.Index(x.exchanges, e)
	return ok && i >= 0 && (x.first.at > at || x.first.at == at && !x.first.rings[i])
}

// Faults names those who are to blame, none of whom was misled by another.
func (t *Trail) Faults() []Fault {
	var fs []Fault
	spoken, saved := false, 0
	for _, p := range t.places() {
		if f := t.fault(p); f != nil {
			fs = append(fs, *f)
		}
		spoken = spoken || t.of[p].first != nil
		if t.of[p].saved != "" {
			saved++
		}
	}
	// If all that was exchanged is right, each state is its own stage's doing; without
	// records only one that stands alone is.
	if spoken || t.missing > 0 && saved > 1 {
		return fs
	}
	for _, p := range t.places() {
		if x := t.of[p]; x.saved != "" {
			fs = append(fs, Fault{Of: p, Step: x.step, Saved: true, What: x.saved})
		}
	}
	return fs
}

// fault returns what a stage is to blame for, by the first thing that is wrong of what it said;
// nil: nothing.
func (t *Trail) fault(p stage.Peer) *Fault {
	x := t.of[p].first
	if x == nil {
		return nil
	}
	for w := range stage.TiedMeans {
		if x.in[w] || x.out[w] {
			return t.way(p, x, w)
		}
	}
	if i := slices.Index(x.rings, true); i >= 0 {
		return t.ring(p, x, i)
	}
	if w := stage.TiedMeans; x.in[w] || x.out[w] {
		return t.way(p, x, w)
	}
	return &Fault{Of: p, Step: x.step, Round: x.round, What: "it tells of rings that there are none of"}
}

// way is fault where what went one way in its cluster is the first that is wrong.
func (t *Trail) way(p stage.Peer, x *tampered, w stage.Way) *Fault {
	f := &Fault{Of: p, Step: x.step, Round: x.round}
	if !x.in[w] {
		f.What = fmt.Sprintf("the %s that it sent are not what the job makes of what it received", w)
		return f
	}
	// Misled, unless nobody that it hears from says so.
	from, to, with := 0, p.Stage, p.Stage-1
	if w.Later() {
		from, to, with = p.Stage+1, t.stages[p.Cluster], p.Stage+1
	}
	if from == to {
		f.What = fmt.Sprintf("it tells of %s that it received, and there is no stage that could have sent them", w)
		return f
	}
	if !t.right(p.Cluster, from, to, x.at, w) {
		return nil
	}
	f.Or, f.Either = stage.Peer{Cluster: p.Cluster, Stage: with}, true
	f.What = fmt.Sprintf("the %s that it received are not those that the stage they come from says that it sent", w)
	return f
}

// ring is fault where an exchange over rings is the first that is wrong.
func (t *Trail) ring(p stage.Peer, x *tampered, i int) *Fault {
	e := t.of[p].exchanges[i]
	f := &Fault{Of: p, Step: x.step, Round: x.round}
	what := "scales"
	if e.Kind == wire.Sum {
		what = "sums"
	}
	if e.Sent {
		f.What = fmt.Sprintf("the %s that it sent to %s, in step %d of the round's average, are not what the job makes of what it received", what, e.With, e.Step)
		return f
	}
	if !t.told(e.With, stage.Exchange{With: p, Kind: e.Kind, Step: e.Step, Sent: true}, x.step) {
		return nil
	}
	f.Or, f.Either = e.With, true
	f.What = fmt.Sprintf("the %s that it received from %s, in step %d of the round's average, are not those that that stage says that it sent", what, e.With, e.Step)
	if q := t.of[e.With]; q.unsaid[q.rounds[x.step]] {
		f.What = fmt.Sprintf("the %s that it received from %s, in step %d of the round's average, are not what the job makes, and that stage has not said what it sent", what, e.With, e.Step)
	}
	return f
}
