package run

// Members whose connection to the host has ended. They go on computing, and return over
// another connection, to which what was said meanwhile is sent again: then nothing has
// happened. One that was killed does not return, and cannot be told from them at first.

import (
	"slices"
	"time"
)

// stillness is how long nothing of a cluster may move, after a stage's connection has ended,
// before the stage is given up: while the others move, it lives. To it come the round trips
// of another connection, and it is at least twice what the longest pause so far was.
const stillness = 600 * time.Millisecond

// away notes that a member has no connection.
func (m *Machine) away(now time.Time, e Away) {
	x := m.Members[e.ID]
	if x == nil || x.Away != "" {
		return
	}
	if m.set.Away < 0 {
		m.leave(now, x.ID, e.Reason, false)
		return
	}
	x.Away, x.AwayAt, x.Seen = e.Reason, now, now
	if x.Away == "" {
		x.Away = "its connection closed"
	}
	m.absent = m.with(m.absent, x)
}

// back notes that it has one again.
func (m *Machine) back(now time.Time, e Back) {
	x := m.Members[e.ID]
	if x == nil || x.Away == "" {
		return
	}
	after := now.Sub(x.AwayAt)
	x.Away, x.AwayAt, x.Seen = "", time.Time{}, now
	m.absent = without(m.absent, x)
	m.ping(now, x)
	m.report(Returned{Member: x.Member, After: after})
	m.gather(now)
}

// missing returns the members without a connection, in order.
func (m *Machine) missing() []*member {
	if m.absent == nil {
		m.absent = []*member{}
		for _, x := range m.Members {
			if x.Away != "" {
				m.absent = append(m.absent, x)
			}
		}
		slices.SortFunc(m.absent, m.before)
	}
	return m.absent
}

// lostFor tells whether a member without a connection is given up.
func (m *Machine) lostFor(now time.Time, x *member) bool {
	if now.Sub(x.AwayAt) >= m.set.Away {
		return true
	}
	if m.Phase != Running || x.Place == nil || x.Done || m.busyUploading() {
		return false
	}
	c := m.Clusters[x.Place.Cluster]
	since := x.AwayAt
	if c.Moved.After(since) {
		since = c.Moved
	}
	return now.Sub(since) >= max(stillness+4*x.RTT, 2*c.LongGap)
}
