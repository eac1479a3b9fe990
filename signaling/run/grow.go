package run

// When more providers are there than the attempt was planned for, the run is saved, and planned
// anew with all of them: in jobs whose number of replicas is chosen with every plan, and in those
// whose replicas more providers can share.

import (
	"errors"
	"fmt"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
)

// costly is how many times as long as it took to begin an attempt trains at least before it is
// ended for the sake of more providers.
const costly = 10

// order is the run's, with the replicas that the attempt has. known: it can stop or save between two
// rounds of theirs.
func (m *Machine) order() (r order.Run, known bool) {
	switch {
	case m.Job.Rounds != nil:
		return *m.Job.Rounds, true
	case m.Job.Auto == nil:
		return r, false
	}
	r = *m.Job.Auto
	if n := len(m.Record); n > 0 {
		r.Periods, r.Replicas = m.Record, m.Record[n-1].Replicas
	}
	return r, r.Full() > 1
}

// span is the most batches between two places where the run can stop or save; 0: one.
func (m *Machine) span() int64 {
	if r, known := m.order(); known {
		return int64(r.Full())
	}
	return 0
}

// past is the step that the next attempt goes on from, and the record up to there.
func (m *Machine) past() (uint64, []order.Period) {
	c := m.state.Saved
	if c == nil {
		return 0, nil
	}
	return c.Position.Step, c.Record
}

// checkRecord verifies that a plan says how many replicas there are, if that is for it to say:
// as before up to where it goes on from, and since then maybe others.
func (m *Machine) checkRecord(ps []order.Period) error {
	if (m.Job.Auto == nil) != (len(ps) == 0) {
		return errors.New("the plan does not fit whether the job says how many replicas there are")
	}
	if len(ps) == 0 {
		return nil
	}
	step, before := m.past()
	want := order.Extend(before, step, ps[len(ps)-1].Replicas)
	if len(ps) != len(want) {
		return fmt.Errorf("the plan's record of replicas has %d periods, want %d", len(ps), len(want))
	}
	for i := range ps {
		if ps[i] != want[i] {
			return fmt.Errorf("the plan says that there are %d replicas from step %d on, but it is %d from step %d on", ps[i].Replicas, ps[i].Step, want[i].Replicas, want[i].Step)
		}
	}
	return order.CheckRecord(ps)
}

// grows tells whether newcomers take part before somebody is lost.
func (m *Machine) grows() bool { return m.Job.Auto != nil || m.Job.Grows }

// grow asks whether more providers than the attempt was planned for are worth another plan. It
// waits until no more have come for a while, and until the attempt has trained long enough to be
// worth its beginning.
func (m *Machine) grow(now time.Time) {
	if !m.grows() {
		return
	}
	var pool []Member
	for _, x := range m.sorted() {
		if x.Met && x.Wish == "" && x.Away == "" && !m.outOfPool(now, x.Name) {
			pool = append(pool, x.Member)
		}
	}
	more := len(pool) - m.Pooled
	if more > m.More {
		m.MoreAt = now
	}
	m.More = max(more, 0)
	if m.Growing || m.More == 0 || now.Sub(m.MoreAt) < m.set.Regroup || now.Sub(m.Started) < max(m.set.Regroup, costly*m.Started.Sub(m.Planned)) {
		return
	}
	if key := poolKey(pool, true); key != m.Weighing {
		m.Weighing, m.Weighed = key, false
		m.WorthSeq++
		m.act(AskWorth{Seq: m.WorthSeq, Pool: pool})
	}
}

// worth asks for a checkpoint, from which the run is planned anew, where that is worth it.
func (m *Machine) worth(now time.Time, e Worth) {
	if m.Phase != Running || e.Seq != m.WorthSeq || m.Weighing == "" || m.Weighed || m.Growing {
		return // about an attempt that is over, or another pool
	}
	if m.Weighed = !e.Better; e.Better {
		m.Growing = true
		m.ask(now, true)
	}
}

// regroup ends the attempt at a checkpoint of its own, to plan with those who have come.
func (m *Machine) regroup(now time.Time, c *snapshot.Manifest) {
	if !m.Growing || m.Phase != Running || c.Generation != m.Attempt || c.Position.Step == uint64(m.Job.Steps) {
		return
	}
	if m.More == 0 {
		m.Growing = false // they have left again
		return
	}
	what := "1 more provider is here"
	if m.More > 1 {
		what = fmt.Sprintf("%d more providers are here", m.More)
	}
	m.lose(now, loss{why: what, polite: true, grows: true})
}
