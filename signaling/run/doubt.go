package run

// Who is to blame for broken links. A stage that fails, for whatever reason, closes its links, and
// its neighbours, which have their own connections to the host, may report that first. So nobody
// is blamed before it has been heard: it is pinged, and what it says of itself comes before its
// answer. Whoever reports a broken link itself has failed because of another, so the cause is
// with those who are accused and accuse nobody.

import (
	"slices"
	"time"
)

// doubt is the reports of broken links that have not been acted on yet.
type doubt struct {
	Reports []accusation
	Heard   []string // IDs of accused members that have answered since
	Until   time.Time
}

// accusation is a member's report that its link to another one broke.
type accusation struct {
	From, Peer string // IDs
	Why        string
}

// causes are the accused who accuse nobody, in the order in which they were accused. If there are
// none, the links between those who accuse each other broke, and all of them are.
func (d *doubt) causes() []string {
	var all, causes []string
	for _, r := range d.Reports {
		if slices.Contains(all, r.Peer) {
			continue
		}
		all = append(all, r.Peer)
		if !slices.ContainsFunc(d.Reports, func(o accusation) bool { return o.From == r.Peer }) {
			causes = append(causes, r.Peer)
		}
	}
	if len(causes) > 0 {
		return causes
	}
	return all
}

// answered notes that a member has answered its ping.
func (m *Machine) answered(now time.Time, x *member) {
	if d := m.Doubt; d != nil && slices.ContainsFunc(d.Reports, func(r accusation) bool { return r.Peer == x.ID }) {
		d.Heard = append(d.Heard, x.ID)
		m.hear(now)
	}
}

// hear judges once nothing more can be heard from the accused.
func (m *Machine) hear(now time.Time) {
	d := m.Doubt
	for _, r := range d.Reports {
		if p := m.Members[r.Peer]; p != nil && p.Place != nil && !p.Failed && p.ID != r.From && !slices.Contains(d.Heard, r.Peer) {
			return
		}
	}
	m.judge(now)
}

// judge ends the attempt because of broken links. To blame are the causes that have not answered;
// if all have, only the links broke, and one end of the first is blamed. Two that could not connect at
// all are placed apart instead, if they were not asked to be before.
func (m *Machine) judge(now time.Time) {
	d := m.Doubt
	m.Doubt = nil
	l := loss{sentinel: ErrProviderLost}
	why := func(peer string) {
		i := slices.IndexFunc(d.Reports, func(r accusation) bool { return r.Peer == peer })
		if l.why == "" {
			l.why = d.Reports[i].Why
		}
	}
	causes := d.causes()
	for _, id := range causes {
		p := m.Members[id]
		if p == nil || slices.Contains(d.Heard, id) || p.Failed {
			continue
		}
		why(id)
		l.blame = append(l.blame, p.Name)
		m.gone(p.who())
	}
	apart := false
	for _, r := range d.Reports {
		from, peer := m.Members[r.From], m.Members[r.Peer]
		if len(l.blame) == 0 && m.Phase == Connecting && m.Job.Replan && from != nil && peer != nil && from != peer && m.disconnected(now, from, peer) {
			why(r.Peer)
			apart = true
		}
	}
	for _, r := range d.Reports {
		from, peer := m.Members[r.From], m.Members[r.Peer]
		if len(l.blame) == 0 && !apart && r.Peer == causes[0] && from != nil && peer != nil {
			why(r.Peer)
			l.blame = []string{m.accused(from, peer)}
		}
	}
	if l.why == "" {
		l.why = d.Reports[0].Why
	}
	m.lose(now, l)
}

// gone clears those who have accused a provider that proves to be lost: they were right.
func (m *Machine) gone(w Who) {
	for _, s := range m.Strikes {
		s.Accusing = slices.DeleteFunc(s.Accusing, func(owner string) bool { return owner == w.owner() })
	}
}
