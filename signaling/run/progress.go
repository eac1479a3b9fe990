package run

// What stages report while they train: losses and results, how far each has come, and which of
// them holds up the others.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

func (m *Machine) progress(now time.Time, x *member, msg *proto.Progress) {
	if m.Phase != Running && m.Phase != Draining {
		return
	}
	if err := m.believable(x, msg); err != nil {
		m.violate(now, x, err)
		return
	}
	m.move(now, x, msg)
	x.Heard = now
	x.Last = *msg
	x.Last.Losses, x.Last.Vals = nil, nil
	for _, l := range msg.Losses {
		if err := m.lossOf(x, l); err != nil {
			m.violate(now, x, err)
			return
		}
	}
	for _, v := range msg.Vals {
		m.report(Val{Run: m.Run, Cluster: x.Place.Cluster, Stage: x.Place.Stage, Val: v})
		m.Val = &v
	}
	if len(msg.Digests) > 0 {
		x.Closed = x.Closed || slices.ContainsFunc(msg.Digests, proto.Digest.Last)
		if ds, top := m.plausible(x, msg.Digests); len(ds) > 0 {
			m.audit(AuditLine{Said: &AuditSaid{x.Place.Cluster, x.Place.Stage, ds}}, top)
		}
		told := *msg                   // an event is left as it is
		told.Digests, msg = nil, &told // they are in that log alone
	}
	line, err := json.Marshal(struct {
		T       int64  `json:"t_ms"` // since the attempt's start
		Cluster int    `json:"cluster"`
		Name    string `json:"name"`
		*proto.Progress
	}{now.Sub(m.Started).Milliseconds(), x.Place.Cluster, x.Name, msg})
	if err == nil { // it came as JSON, it goes as JSON
		m.act(AppendLine{Log: MetricsLog(m.Job.ID), Line: line})
	}
	m.report(Progress{Cluster: x.Place.Cluster, Name: x.Name, Progress: *msg})
	for _, l := range msg.Losses {
		if l.Loss-l.Loss != 0 { // NaN or infinite
			m.diverged(now, fmt.Errorf("%w: the loss of step %d is %g, reported by %s", ErrDiverged, l.Step, float64(l.Loss), m.where(x)), x, nil)
			return
		}
	}
	if len(m.Clusters) > 1 && len(msg.Losses) > 0 {
		m.commitWhole() // what waited for these losses
	}
}

// maxAhead bounds the losses that wait for those of another cluster.
const maxAhead = 1 << 18

// lossOf reports a batch's loss. Where several clusters train, batches are reported in the
// order of their numbers, whoever is first.
func (m *Machine) lossOf(x *member, l proto.Loss) error {
	loss := &Loss{Run: m.Run, Cluster: x.Place.Cluster, Stage: x.Place.Stage, Loss: l}
	if len(m.Clusters) == 1 {
		m.tellLoss(loss)
		return nil
	}
	if l.Step < m.Next || m.Ahead[l.Step] != nil {
		return nil // said again
	}
	if len(m.Ahead) >= maxAhead {
		return fmt.Errorf("it reports the loss of step %d, %d steps before the other clusters", l.Step, l.Step-m.Next)
	}
	if m.Ahead == nil {
		m.Ahead = map[int64]*Loss{}
	}
	m.Ahead[l.Step] = loss
	for ; m.Ahead[m.Next] != nil; m.Next++ {
		m.tellLoss(m.Ahead[m.Next])
		delete(m.Ahead, m.Next)
	}
	return nil
}

func (m *Machine) tellLoss(l *Loss) {
	m.report(*l)
	m.Loss = &l.Loss
}

// believable returns an error for losses and results that this stage cannot know or the
// job cannot have.
func (m *Machine) believable(x *member, msg *proto.Progress) error {
	if len(msg.Losses)+len(msg.Vals) > 0 && x.Place.Stage != x.Place.Stages-1 {
		return fmt.Errorf("it reports losses, but stage %d of %d computes none", x.Place.Stage, x.Place.Stages)
	}
	if len(msg.Digests) > 0 && !m.Job.Audit {
		return errors.New("it reports digests, and nobody asked for them")
	}
	if len(msg.Vals) > 0 && x.Place.Cluster != 0 {
		return fmt.Errorf("it reports a validation, which cluster %d does not do", x.Place.Cluster)
	}
	for _, l := range msg.Losses {
		if m.Job.Steps > 0 && l.Step >= m.Job.Steps {
			return fmt.Errorf("it reports a loss of step %d, but the run has %d steps", l.Step, m.Job.Steps)
		}
	}
	for _, v := range msg.Vals {
		if m.Job.Val > 0 && v.Total > m.Job.Val {
			return fmt.Errorf("it reports a validation over %d rows, but there are %d", v.Total, m.Job.Val)
		}
	}
	return nil
}

// move records the progress that a cluster made.
func (m *Machine) move(now time.Time, x *member, msg *proto.Progress) {
	c := m.Clusters[x.Place.Cluster]
	in, out := msg.In > x.Last.In, msg.Out > x.Last.Out
	if in {
		x.MovedIn = now
	}
	if out {
		x.MovedOut = now
	}
	if msg.Work > x.Last.Work {
		c.Worked = now
	}
	if in || out || msg.Step > x.Last.Step || msg.Samples > x.Last.Samples || len(msg.Losses)+len(msg.Vals) > 0 {
		c.LongGap = max(c.LongGap, now.Sub(c.Moved))
		c.Moved = now
		if m.Phase == Draining && m.Interrupted && msg.Step < m.StopBy {
			m.extend(now) // on its way to the end of a round
		}
	}
}

// behind are the clusters that the others wait for at a round's end, or soon will: those
// whose slowest stage has come the least far.
func (m *Machine) behind() map[int]bool {
	at := map[int]int64{} // by cluster
	for _, x := range m.assigned() {
		if s, ok := at[x.Place.Cluster]; !x.Done && (!ok || x.Last.Step < s) {
			at[x.Place.Cluster] = x.Last.Step
		}
	}
	least := int64(math.MaxInt64)
	for _, s := range at {
		least = min(least, s)
	}
	maps.DeleteFunc(at, func(_ int, s int64) bool { return s > least })
	all := map[int]bool{}
	for k := range at {
		all[k] = true
	}
	return all
}

// stuck looks for a stage that holds up the run although its machine answers pings. A cluster
// that waits for another one stands still too, and is not to blame.
func (m *Machine) stuck(now time.Time) {
	if m.Fault != nil && m.trained() {
		return // what is left is to save, once the store takes it
	}
	behind := m.behind()
	for _, k := range m.clusters() {
		c := m.Clusters[k]
		if !behind[k] {
			c.Waited = now // and it has as long as ever once the others are there
			continue
		}
		if m.busyUploading() {
			continue
		}
		who, why := m.hung(now, k)
		if who == nil {
			who, why = m.idle(now, k)
		}
		if who == nil {
			continue
		}
		m.suspect(now, who)
		m.lose(now, loss{sentinel: ErrTimeout, blame: []string{who.Name}, why: m.where(who) + " is stuck: " + why})
		return
	}
}

// idle looks for the stage that holds up a cluster in which nothing has moved for long.
func (m *Machine) idle(now time.Time, k int) (who *member, why string) {
	c := m.Clusters[k]
	bound := max(m.set.Stall, 8*c.LongGap)
	if now.Sub(c.Moved) < bound || now.Sub(c.Waited) < bound {
		return nil, ""
	}
	for _, x := range m.assigned() {
		if x.Place.Cluster != k || x.Done {
			continue
		}
		if who == nil || holds(now, x, who, bound) > 0 {
			who = x
		}
	}
	return who, fmt.Sprintf("no progress for %v, the longest gap before was %v", now.Sub(c.Moved).Round(time.Second), c.LongGap.Round(100*time.Millisecond))
}

// holds compares who of two rather holds up the others: a stage that does not even report; failing
// that, one that computes; failing that, the one that received work last and has sent nothing since.
func holds(now time.Time, x, y *member, bound time.Duration) int {
	one := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return 1
		}
		return -1
	}
	return cmp.Or(
		one(silent(now, x, bound), silent(now, y, bound)), one(computes(x), computes(y)),
		cmp.Compare(x.MovedIn.Sub(x.MovedOut), y.MovedIn.Sub(y.MovedOut)),
	)
}

// computes tells whether a stage did more than wait before its last report.
func computes(x *member) bool { return x.Last.Busy > 0.5 }

// hangs is how many times as long as a batch was to take nothing may be done before a stage hangs.
const hangs = 4

// hung looks for a stage of a cluster that computes, so that it has what it needs, although nothing
// that it computes comes to an end, while the others wait. A machine that is merely slow, or busy with
// other things, ends a kernel now and then. Where reports do not tell, or do not come, it finds nobody.
func (m *Machine) hung(now time.Time, k int) (who *member, why string) {
	c := m.Clusters[k]
	unit := m.unit(k)
	bound := max(m.set.Hang, hangs*unit)
	since := c.Worked
	for _, t := range []time.Time{c.Moved, c.Waited} {
		if t.After(since) {
			since = t
		}
	}
	if unit == 0 || now.Sub(since) < bound {
		return nil, ""
	}
	for _, x := range m.assigned() {
		switch {
		case x.Place.Cluster != k || x.Done:
		case x.Last.Work == 0 || x.Away != "" || silent(now, x, bound):
			return nil, ""
		case computes(x) && (who == nil || x.Last.Busy > who.Last.Busy):
			who = x
		}
	}
	return who, fmt.Sprintf("it computes, and has come no further for %v; a batch takes %v", now.Sub(since).Round(100*time.Millisecond), unit.Round(time.Millisecond))
}

// unit is how long a cluster takes for a batch that passes all its stages: as forecast or, where they
// were slower, as they have been in this attempt. 0: not known.
func (m *Machine) unit(k int) time.Duration {
	c, each := m.Clusters[k], 0.0 // seconds for a row
	for _, x := range m.assigned() {
		if x.Place.Cluster != k {
			continue
		}
		if f := x.Place.Forecast; f > 0 {
			each = max(each, 1/f)
		}
		if n := x.Last.Samples; n > 0 {
			each = max(each, c.Moved.Sub(m.Started).Seconds()/float64(n))
		}
	}
	return time.Duration(float64(m.Job.Rows) * each * float64(c.Stages) * float64(time.Second))
}

func silent(now time.Time, x *member, bound time.Duration) bool { return now.Sub(x.Heard) > bound/2 }

// suspect pings a member, which gets no stage again before it has answered.
func (m *Machine) suspect(now time.Time, x *member) {
	x.Met = false
	m.ping(now, x)
}
