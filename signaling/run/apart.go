package run

// Pairs of providers that get no link. Two that an audit has found in doubt: what one says that it sent
// is right, and what the other says that it got is not. One of them has computed or said something else
// than the job says; a provider that is in doubt with a second one is barred. And, for a time and where
// there is another plan, two that could not connect.

import (
	"fmt"
	"slices"
	"time"
)

// Pair is such a pair.
type Pair struct{ A, B Who }

// other is the one beside w; false: w is none of them.
func (p Pair) other(w Who) (Who, bool) {
	switch {
	case p.A.is(w):
		return p.B, true
	case p.B.is(w):
		return p.A, true
	}
	return Who{}, false
}

// inside tells whether both are one owner's. Such a pair is of these two providers only, and proves nothing
// against their owner: both may have got what is false from somebody else.
func (p Pair) inside() bool { return p.A.is(p.B) }

// same tells whether two pairs are of the same two.
func (p Pair) same(q Pair) bool {
	if p.inside() || q.inside() {
		return p.equal(q)
	}
	o, ok := q.other(p.A)
	return ok && o.is(p.B)
}

// equal tells whether two pairs are of the very same two.
func (p Pair) equal(q Pair) bool { return p == q || p == Pair{q.B, q.A} }

// maxInside bounds the pairs of one owner's providers. Whoever lends many could go on for ever otherwise,
// with one pair after the other, and under new names.
const maxInside = 3

// part notes a pair, and returns who is to be barred: who has been in doubt with another one before, or an
// owner of too many pairs.
func (m *Machine) part(p Pair) (proven []Who) {
	inside := 0
	for _, q := range m.Apart {
		if p.inside() && q.inside() && q.A.is(p.A) && !q.same(p) {
			inside++
		}
	}
	if inside >= maxInside {
		return []Who{p.A}
	}
	for _, w := range []Who{p.A, p.B} {
		with, _ := p.other(w)
		if !p.inside() && slices.ContainsFunc(m.Apart, func(q Pair) bool {
			o, ok := q.other(w)
			return ok && !q.inside() && !o.is(with)
		}) {
			proven = append(proven, w)
		}
	}
	if len(proven) == 2 {
		proven = nil // each has been in doubt with somebody else: it cannot be told which it is this time
	}
	if !slices.ContainsFunc(m.Apart, p.same) {
		m.Apart = append(m.Apart, p)
	}
	return proven
}

// cleared drops the pairs of somebody who is barred: the others have been right.
func (m *Machine) cleared(w Who) {
	m.Apart = slices.DeleteFunc(m.Apart, func(p Pair) bool { _, ok := p.other(w); return ok })
}

// unlinked is a pair that could not connect.
type unlinked struct {
	Pair
	Until time.Time
}

// disconnected notes that two could not connect, and tells whether that is news.
func (m *Machine) disconnected(now time.Time, a, b *member) bool {
	p := Pair{a.who(), b.who()}
	m.Unlinked = slices.DeleteFunc(m.Unlinked, func(u unlinked) bool { return !now.Before(u.Until) })
	for i := range m.Unlinked {
		if m.Unlinked[i].equal(p) { // others of the same owners are elsewhere in their networks
			m.Unlinked[i].Until = now.Add(banned)
			return false
		}
	}
	m.Unlinked = append(m.Unlinked[max(0, len(m.Unlinked)-maxUnlinked+1):], unlinked{p, now.Add(banned)})
	return true
}

const maxUnlinked = 64

// apart are the pairs of a pool that must have no link, by their IDs: everybody of the one's owner with
// everybody of the other's, but for two of one owner.
func (m *Machine) apart(pool []Member) (pairs [][2]string) {
	for _, p := range m.Apart {
		is := Who.is
		if p.inside() {
			is = equal
		}
		pairs = append(pairs, within(p, pool, is)...)
	}
	return pairs
}

// unlinked are those that had better have none: the very ones that could not connect.
func (m *Machine) unlinked(now time.Time, pool []Member) (pairs [][2]string) {
	for _, u := range m.Unlinked {
		if now.Before(u.Until) {
			pairs = append(pairs, within(u.Pair, pool, equal)...)
		}
	}
	return pairs
}

func equal(a, b Who) bool { return a == b }

// within are the members of a pool that are a pair, by their IDs.
func within(p Pair, pool []Member, is func(a, b Who) bool) (pairs [][2]string) {
	for _, a := range pool {
		if !is(p.A, a.who()) {
			continue
		}
		for _, b := range pool {
			if a.ID != b.ID && is(p.B, b.who()) {
				pairs = append(pairs, [2]string{a.ID, b.ID})
			}
		}
	}
	return pairs
}

// Together returns a pair that a plan links and must not; false: there is none.
func Together(as []Assignment, apart [][2]string) (pair [2]string, found bool) {
	place := map[string]*Assignment{}
	for i := range as {
		place[as[i].MemberID] = &as[i]
	}
	for _, p := range apart {
		if a, b := place[p[0]], place[p[1]]; a != nil && b != nil && linked(a, b) {
			return p, true
		}
	}
	return pair, false
}

// keepsApart is an error about a plan that links two who are in doubt.
func (m *Machine) keepsApart(as []Assignment) error {
	var pool []Member
	for _, a := range as {
		pool = append(pool, m.Members[a.MemberID].Member)
	}
	if p, found := Together(as, m.apart(pool)); found {
		return fmt.Errorf("it links %s and %s, one of whom has computed something else than the job says", m.Members[p[0]].Name, m.Members[p[1]].Name)
	}
	return nil
}
