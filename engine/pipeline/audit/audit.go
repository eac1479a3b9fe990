// Package audit finds who computed something else than the job says. Every stage commits
// itself, update by update, to digests of the tensors that it received and sent (stage.Digest).
// Computed again in one process they say where the first wrong number came from: the stage
// that got the right ones and sent wrong ones. What it did to the others is no fault of theirs.
package audit

import (
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// Fault is something that a stage said or saved, and the job does not make.
type Fault struct {
	Stage int
	Step  uint64 // number of the batch, or of those before the saved state
	What  string // in words
	// With is another stage that may have done it in its place: what one says that it sent
	// is right, and what the other says that it got is not. -1: none.
	With int
}

// tampered is the digests of one update that are not what they should be.
type tampered struct {
	at      int // number of the update in its stage
	step    uint64
	in, out [stage.Ways]bool
}

// compare returns what differs; nil: nothing.
func compare(at int, said, true stage.Digest) *tampered {
	t := &tampered{at: at, step: true.Step}
	any := false
	for w := range stage.Ways {
		t.in[w], t.out[w] = said.In[w] != true.In[w], said.Out[w] != true.Out[w]
		any = any || t.in[w] || t.out[w]
	}
	if !any {
		return nil
	}
	return t
}

// Trail holds what the stages of one pipeline said against the truth. Make it with NewTrail.
type Trail struct {
	aligned bool
	seen    []int
	first   []*tampered // of each stage
	missing int
	saved   map[int]string // what differs in a stage's saved state
	step    uint64         // of the saved state
}

// NewTrail is for a pipeline of so many stages. Aligned tells that an update of all of them is
// about the same batches, as it is but for the schedule async.
func NewTrail(stages int, aligned bool) *Trail {
	return &Trail{aligned: aligned, seen: make([]int, stages), first: make([]*tampered, stages), saved: map[int]string{}}
}

// Update compares what a stage said of an update with the truth; said is nil where it is not
// on record. Updates of a stage come in order.
func (t *Trail) Update(s int, said *stage.Digest, true stage.Digest) {
	at := t.seen[s]
	t.seen[s]++
	if said == nil {
		t.missing++
		return
	}
	if t.first[s] == nil {
		t.first[s] = compare(at, *said, true)
	}
}

// Saved notes that the state of a stage, saved before batch step, is not what it should be.
func (t *Trail) Saved(s int, step uint64, what string) { t.saved[s], t.step = what, step }

// Missing is how many updates had no digest on record.
func (t *Trail) Missing() int { return t.missing }

// Clean tells whether everything was right.
func (t *Trail) Clean() bool {
	return len(t.saved) == 0 && !slices.ContainsFunc(t.first, func(x *tampered) bool { return x != nil })
}

// right tells whether stages [from, to) were right up to update at, in what they sent one way.
func (t *Trail) right(from, to, at int, way stage.Way) bool {
	for k := from; k < to; k++ {
		if x := t.first[k]; x != nil && (x.at < at || x.at == at && x.out[way]) {
			return false
		}
	}
	return true
}

// Faults names those who are to blame, none of whom was misled by another.
func (t *Trail) Faults() []Fault {
	var fs []Fault
	for s := range t.first {
		if f, ok := t.fault(s); ok {
			fs = append(fs, f)
		}
	}
	spoken := slices.ContainsFunc(t.first, func(x *tampered) bool { return x != nil })
	// If all that was exchanged is right, each state is its own stage's doing; without
	// records only one that stands alone is.
	if spoken || t.missing > 0 && len(t.saved) > 1 {
		return fs
	}
	for s := range t.first {
		if what, ok := t.saved[s]; ok {
			fs = append(fs, Fault{Stage: s, Step: t.step, With: -1, What: what})
		}
	}
	return fs
}

// fault tells whether a stage is to blame for the first thing that is wrong of what it said.
func (t *Trail) fault(s int) (f Fault, ok bool) {
	x := t.first[s]
	if x == nil {
		return f, false
	}
	for w := range stage.Ways {
		switch {
		case x.in[w]:
			// Misled, unless nobody that it hears from says so.
			from, to, with := 0, s, s-1
			if w.Later() {
				from, to, with = s+1, len(t.first), s+1
			}
			if !t.aligned || from == to || !t.right(from, to, x.at, w) {
				return f, false
			}
			return Fault{Stage: s, Step: x.step, With: with, What: fmt.Sprintf("the %s that it received are not those that the stage they come from says that it sent", w)}, true
		case x.out[w]:
			return Fault{Stage: s, Step: x.step, With: -1, What: fmt.Sprintf("the %s that it sent are not what the job makes of what it received", w)}, true
		}
	}
	return f, false
}
