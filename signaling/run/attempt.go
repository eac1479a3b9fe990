package run

// Attempts: gathering a pool, planning, connecting, training, and what happens when
// one of them ends too early.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

func (m *Machine) submit(now time.Time, e Submit) {
	m.Job, m.Phase, m.inOrder, m.wishes, m.absent = &e.Job, Gathering, nil, nil, nil
	m.Attempt, m.Interrupted, m.state.Saved, m.Prior = 0, false, nil, nil
	m.Strikes, m.Objects = map[string]*strike{}, map[string]bool{}
	m.Saves, m.Pending, m.Fault = nil, nil, nil
	m.Began, m.Lost, m.GraceUntil, m.Fruitless, m.LastLoss = false, time.Time{}, time.Time{}, 0, ""
	m.Used, m.Pooled, m.Record = 0, 0, nil
	m.Asking, m.Tried, m.Told = "", nil, ""
	m.Losses, m.Deep, m.Trained, m.Rescue = 0, 0, 0, nil
	m.SavedAt, m.BringCost, m.HoldCost = time.Time{}, 0, 0
	m.Stale = e.Stale
	if r := e.Earlier; r != nil {
		m.Attempt, m.state.Saved = r.Attempt, r.Checkpoint
		m.Began, m.GraceUntil = true, now.Add(restartGrace)
		ev := Resumed{Run: e.Job.ID}
		if c := r.Checkpoint; c != nil {
			for _, p := range c.Parts {
				m.Objects[p.Object] = true
			}
			ev.Run, ev.Step, ev.Epoch = c.Run, c.Position.Step, c.Position.Epoch
		}
		m.report(ev)
	}
	for _, x := range m.sorted() {
		if len(e.Job.Names) == 0 || e.Job.Spares || slices.Contains(e.Job.Names, x.Name) {
			m.report(Joined{Member: x.Member, Have: len(m.Members), Want: e.Job.Want})
			continue
		}
		err := unknownName(e.Job.Names, x.Name)
		m.send(x, err)
		m.act(HangUp{ID: x.ID, Reason: string(err.Code)})
		m.leave(now, x.ID, err.Message, true)
	}
	m.gather(now)
}

// say reports what the run is waiting for, unless that was the last thing reported.
func (m *Machine) say(reason string) {
	if m.Told != reason {
		m.Told = reason
		m.report(Waiting{Reason: reason})
	}
}

// enough is the number of providers with which a run that lost some goes on at once: as many as
// were wanted, or as the plan before needed where it kept some as spares.
func (m *Machine) enough() int {
	if m.Used > 0 {
		return min(m.Used, m.Job.Want)
	}
	return m.Job.Want
}

// gather asks for a plan once there are enough providers. A provider counts from its
// first pong on, so that the planner knows every RTT.
func (m *Machine) gather(now time.Time) {
	if m.Phase != Gathering || m.Rescue != nil {
		return
	}
	if m.Job.Auto != nil && len(m.Pending) > 0 {
		return // until it is known what the run goes on from, and with what record
	}
	if !m.Began && m.Lost.IsZero() && len(m.Members) < m.Job.Want {
		return // the first providers are on their way
	}
	var pool []Member
	var missing, out []string
	here := map[string]bool{}
	for _, x := range m.sorted() {
		switch {
		case !x.Met || x.Wish != "" || x.Away != "":
		case m.outOfPool(now, x.Name):
			out = append(out, x.Name)
		default:
			pool = append(pool, x.Member)
			here[x.Name] = true
		}
	}
	for _, n := range m.Job.Names {
		if !here[n] {
			missing = append(missing, n)
		}
	}
	whole := len(pool) >= m.Job.Want && (len(missing) == 0 || len(m.Job.Names)-len(missing) >= m.Job.Want)
	free := false
	if !whole {
		if !m.Began && m.Lost.IsZero() {
			return // the first providers are on their way
		}
		// Spares replace lost providers at once; going on with fewer takes a grace period.
		enough := len(pool) >= m.enough() && !m.Lost.IsZero()
		if !m.Job.Replan || len(pool) == 0 || !enough && now.Before(m.GraceUntil) {
			m.waitForMore(now, pool, missing, out)
			return
		}
		free = true
	}
	if m.grows() && m.Began && len(pool) > m.Job.Want {
		free = true // those beyond the names take part, too
	}
	key := poolKey(pool, free)
	if slices.Contains(m.Tried, key) && m.Job.Replan && (len(pool) > m.Job.Want || !m.Lost.IsZero()) {
		free = true
		key = poolKey(pool, free)
	}
	if slices.Contains(m.Tried, key) {
		return
	}
	m.Asking = key
	m.Phase = Planning
	m.PlanSeq++
	m.Shrunk = false
	m.Pooled = len(pool)
	if !free && len(m.Job.Names) > 0 {
		m.Pooled = m.Job.Want
	}
	step, record := m.past()
	m.act(AskPlan{Seq: m.PlanSeq, Run: m.attempt(m.Attempt + 1), Pool: pool, Free: free, Step: step, Record: record})
}

func (m *Machine) waitForMore(now time.Time, pool []Member, missing, out []string) {
	var b strings.Builder
	if len(m.Job.Names) > 0 {
		fmt.Fprintf(&b, "waiting for %s", strings.Join(missing[:min(len(missing), 8)], ", "))
	} else {
		fmt.Fprintf(&b, "waiting for providers: %d of %d are here", len(pool), m.Job.Want)
	}
	if len(out) > 0 {
		fmt.Fprintf(&b, "; %s failed and may try again in a moment", strings.Join(out[:min(len(out), 8)], ", "))
	}
	if m.Job.Replan && len(pool) > 0 && now.Before(m.GraceUntil) {
		fmt.Fprintf(&b, "; in %.0f s the run goes on with those that are here", m.set.Grace.Seconds())
	}
	m.say(b.String())
}

// attempt is the id of attempt n.
func (m *Machine) attempt(n int) string { return m.Job.ID + "-" + strconv.Itoa(n) }

func poolKey(pool []Member, free bool) string {
	ids := []string{strconv.FormatBool(free)}
	for _, x := range pool {
		ids = append(ids, x.ID)
	}
	return strings.Join(ids, " ")
}

func (m *Machine) planned(now time.Time, e Plan) {
	if m.Phase != Planning || e.Seq != m.PlanSeq {
		return
	}
	err := e.Err
	if err == nil {
		err = m.checkPlan(e.Placed)
	}
	if err != nil && e.Wait {
		m.Phase = Gathering
		m.Tried = append(m.Tried[max(0, len(m.Tried)-15):], m.Asking)
		m.say("no plan for the providers that are here: " + err.Error() + "; waiting for another provider")
		m.gather(now) // the pool may have grown meanwhile
		return
	}
	if err != nil && m.Shrunk && m.hasLeft(e.Placed) {
		m.Phase = Gathering
		m.gather(now)
		return
	}
	if err != nil {
		m.end(fmt.Errorf("%w: %w", ErrPlan, err))
		return
	}
	m.Attempt++
	m.Record, m.Planned, m.More, m.Growing = e.Placed[0].Record, now, 0, false
	m.Run = m.attempt(m.Attempt)
	m.Clusters, m.placed = map[int]*cluster{}, nil
	m.Next, m.Ahead = 0, nil
	if c := m.state.Saved; c != nil {
		m.Next = int64(c.Position.Step)
	}
	for i := range e.Placed {
		a := &e.Placed[i]
		m.Members[a.MemberID].Place = a
		m.Clusters[a.Cluster] = &cluster{Stages: a.Stages}
	}
	ms := m.assigned()
	m.Used = len(ms)
	ev := Planned{Run: m.Run, Generation: m.Attempt}
	if m.state.Saved != nil {
		ev.Resume = m.state.Saved.Position.Step
	}
	msgs := make([]*proto.Assign, len(ms))
	for i, x := range ms {
		ev.Stages = append(ev.Stages, Placed{Member: x.Member, Assignment: *x.Place})
		msgs[i] = m.assignment(x, ms)
		// Messages that cannot be encoded must be found before any is sent.
		if _, err := proto.Encode(msgs[i]); err != nil {
			m.clearAttempt()
			m.end(fmt.Errorf("%w: %w", ErrPlan, err))
			return
		}
	}
	m.Phase = Connecting
	m.Asking, m.Tried, m.Told = "", nil, ""
	if len(m.Stale) > 0 {
		m.act(Discard{Objects: m.Stale})
		m.Stale = nil
	}
	m.act(Put{Object: m.Job.ID + "/job.json", Data: record(m.Run, now, m.Job, ev.Stages)})
	m.auditPlan(ev.Stages)
	m.report(ev)
	for i, x := range ms {
		x.ReadyBy = now.Add(m.set.ReadyTimeout)
		m.send(x, msgs[i])
		if x.Slow {
			x.Slow, x.Seen = false, now
			m.ping(now, x)
		}
	}
	m.persist()
}

func (m *Machine) assignment(x *member, ms []*member) *proto.Assign {
	a := x.Place
	msg := &proto.Assign{
		Run: m.Run, Cluster: a.Cluster, Stage: a.Stage, Stages: a.Stages, Name: x.Name, Job: m.Job.Raw,
		Graph: a.Graph, Data: a.Data, Weights: a.Weights, Plan: a.Plan, Generation: m.Attempt,
		Resume: m.resume(a),
	}
	if x.Slow {
		msg.Timeout = int(m.set.Timeout.Milliseconds())
	}
	for _, o := range ms {
		if o != x && linked(a, o.Place) {
			msg.Peers = append(msg.Peers, proto.Peer{
				Cluster: o.Place.Cluster, Stage: o.Place.Stage, ID: o.ID, Name: o.Name, Class: o.Hello.Class,
			})
		}
	}
	return msg
}

// linked tells whether two stages may have a link: they are of one cluster, or hold something
// in common, so that they can be neighbours in a ring.
func linked(a, b *Assignment) bool {
	return a.Cluster == b.Cluster || a.Segment.From < b.Segment.To && b.Segment.From < a.Segment.To
}

// resume returns the parts of the newest checkpoint that a stage needs.
func (m *Machine) resume(a *Assignment) *proto.Resume {
	c := m.state.Saved
	if c == nil {
		return nil
	}
	var from []snapshot.Entry
	if m.Job.Apart {
		for _, p := range c.Parts { // each has something that no other has
			if p.Segment.From < a.Segment.To && a.Segment.From < p.Segment.To {
				from = append(from, p)
			}
		}
	} else if from = c.Overlapping(a.Cluster, a.Segment); len(from) == 0 {
		from = c.Overlapping(c.Parts[0].Cluster, a.Segment) // clusters have one state
	}
	pos, err := json.Marshal(c.Position)
	if err != nil {
		panic(fmt.Sprintf("run: position: %v", err)) // integers
	}
	r := &proto.Resume{Position: pos}
	for _, p := range from {
		r.Parts = append(r.Parts, proto.Part{Ref: proto.Ref{SHA256: p.SHA256, Size: p.Size}, Start: p.Segment.From, End: p.Segment.To})
	}
	return r
}

// record returns the run's entry in the store: the job, and who got which stage.
func record(run string, now time.Time, job *Job, stages []Placed) []byte {
	type entry struct {
		Cluster  int         `json:"cluster"`
		Stage    int         `json:"stage"`
		Stages   int         `json:"stages"`
		Name     string      `json:"name"`
		Platform string      `json:"platform"`
		Class    string      `json:"class"`
		RAM      int64       `json:"ram_bytes"`
		Bench    proto.Bench `json:"bench"`
		Graph    proto.Ref   `json:"graph"`
	}
	rec := struct {
		Run    string          `json:"run"`
		Time   time.Time       `json:"time"`
		Job    json.RawMessage `json:"job"`
		Stages []entry         `json:"stages"`
	}{Run: run, Time: now.UTC(), Job: job.Raw}
	for _, p := range stages {
		rec.Stages = append(rec.Stages, entry{
			p.Cluster, p.Stage, p.Stages, p.Name, p.Hello.Platform, p.Hello.Class, p.Hello.RAM, p.Hello.Bench, p.Graph,
		})
	}
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("run: record: %v", err)) // numbers were checked on arrival, Raw on submission
	}
	return append(b, '\n')
}

// hasLeft tells whether the plan names somebody who left while it was being made.
func (m *Machine) hasLeft(as []Assignment) bool {
	return slices.ContainsFunc(as, func(a Assignment) bool { return m.Members[a.MemberID] == nil })
}

// place identifies a stage.
type place struct{ Cluster, Stage int }

// checkPlan verifies that every cluster has each of its stages once, that their
// segments follow one another, and that no member has more than one.
func (m *Machine) checkPlan(as []Assignment) error {
	if len(as) == 0 {
		return errors.New("the plan is empty")
	}
	if err := m.checkRecord(as[0].Record); err != nil {
		return err
	}
	used := map[string]bool{}
	stages := map[int]int{}
	have := map[place]snapshot.Segment{}
	nodes := 0
	for _, a := range as {
		x := m.Members[a.MemberID]
		if x == nil || !x.Met {
			return fmt.Errorf("the plan names the provider %.64q, which is not in the pool", a.MemberID)
		}
		if used[a.MemberID] {
			return fmt.Errorf("the plan gives %s two stages", x.Name)
		}
		used[a.MemberID] = true
		if n, ok := stages[a.Cluster]; ok && n != a.Stages {
			return fmt.Errorf("the plan gives cluster %d both %d and %d stages", a.Cluster, n, a.Stages)
		}
		stages[a.Cluster] = a.Stages
		p := place{a.Cluster, a.Stage}
		if _, twice := have[p]; a.Stage < 0 || a.Stage >= a.Stages || twice {
			return fmt.Errorf("the plan gives cluster %d stage %d of %d twice, or that stage is out of range", a.Cluster, a.Stage, a.Stages)
		}
		have[p] = a.Segment
		nodes = max(nodes, a.Segment.To)
	}
	for c, n := range stages {
		if c < 0 || c >= len(stages) {
			return fmt.Errorf("the plan has %d clusters, and one of number %d", len(stages), c)
		}
		at := 0
		for s := range min(n, proto.MaxStages) {
			seg, ok := have[place{c, s}]
			if !ok {
				return fmt.Errorf("the plan leaves stage %d of cluster %d without a provider", s, c)
			}
			if seg.From != at || seg.To <= at {
				return fmt.Errorf("the plan gives stage %d of cluster %d the nodes %d to %d, but the one before it ends at %d", s, c, seg.From, seg.To, at)
			}
			at = seg.To
		}
		if at != nodes {
			return fmt.Errorf("the plan's cluster %d ends at node %d of %d", c, at, nodes)
		}
	}
	return nil
}

func (m *Machine) readied(now time.Time, x *member, msg *proto.Ready) {
	x.Ready, x.Peak = true, msg.Peak
	ms := m.assigned()
	m.report(Ready{Run: m.Run, Cluster: x.Place.Cluster, Stage: x.Place.Stage, Name: x.Name, Peak: msg.Peak, RTT: trips(ms, msg.Links)})
	for _, o := range ms {
		if !o.Ready || o.Failed {
			return
		}
	}
	m.Phase = Running
	ev := Started{Run: m.Run}
	if m.state.Saved != nil {
		ev.Resume = m.state.Saved.Position.Step
	}
	if !m.Lost.IsZero() {
		ev.After = now.Sub(m.Lost)
	}
	m.Started, m.Began, m.Lost, m.GraceUntil = now, true, time.Time{}, time.Time{}
	m.HoldAsked, m.HoldLast = time.Time{}, now
	for _, c := range m.Clusters {
		c.Last, c.Moved = now, now
	}
	for _, o := range ms {
		o.Heard = now
		m.send(o, &proto.Start{Run: m.Run})
	}
	m.report(ev)
}

// trips are the measured round trips to other members, by their names.
func trips(ms []*member, links []proto.LinkTime) map[string]time.Duration {
	var by map[string]time.Duration
	for _, l := range links {
		for _, o := range ms {
			if o.ID == l.Peer {
				if by == nil {
					by = map[string]time.Duration{}
				}
				by[o.Name] = time.Duration(l.RTT)
			}
		}
	}
	return by
}

// late ends an attempt if a stage was not ready in time.
func (m *Machine) late(now time.Time) {
	var who, names []string
	for _, x := range m.assigned() {
		if !x.Ready && !now.Before(x.ReadyBy) {
			who, names = append(who, m.where(x)), append(names, x.Name)
		}
	}
	if len(who) > 0 {
		m.lose(now, loss{
			sentinel: ErrTimeout, why: fmt.Sprintf("not ready within %v: %s", m.set.ReadyTimeout, strings.Join(who, ", ")),
			blame: names,
		})
	}
}

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
		m.audit(AuditLine{Said: &AuditSaid{x.Place.Cluster, x.Place.Stage, msg.Digests}})
		msg.Digests = nil // they are in that log alone
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
			m.end(fmt.Errorf("%w: the loss of step %d is %g, reported by %s", ErrDiverged, l.Step, float64(l.Loss), m.where(x)))
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
		bound := max(m.set.Stall, 8*c.LongGap)
		if !behind[k] {
			c.Waited = now // and it has as long as ever once the others are there
			continue
		}
		if m.busyUploading() || now.Sub(c.Moved) < bound || now.Sub(c.Waited) < bound {
			continue
		}
		var who *member
		for _, x := range m.assigned() {
			if x.Place.Cluster != k || x.Done {
				continue
			}
			// Blame a stage that does not even report; failing that, the one that received
			// work last and has sent nothing since.
			if who == nil || silent(now, x, bound) && !silent(now, who, bound) ||
				silent(now, x, bound) == silent(now, who, bound) && x.MovedIn.Sub(x.MovedOut) > who.MovedIn.Sub(who.MovedOut) {
				who = x
			}
		}
		if who == nil {
			continue
		}
		m.suspect(now, who)
		m.lose(now, loss{
			sentinel: ErrTimeout, blame: []string{who.Name},
			why: fmt.Sprintf("%s is stuck: no progress for %v, the longest gap before was %v", m.where(who), now.Sub(c.Moved).Round(time.Second), c.LongGap.Round(100*time.Millisecond)),
		})
		return
	}
}

func silent(now time.Time, x *member, bound time.Duration) bool { return now.Sub(x.Heard) > bound/2 }

// suspect pings a member, which gets no stage again before it has answered.
func (m *Machine) suspect(now time.Time, x *member) {
	x.Met = false
	m.ping(now, x)
}

func (m *Machine) done(now time.Time, x *member, msg *proto.Done) {
	if m.Phase != Running && m.Phase != Draining {
		m.violate(now, x, errors.New("it reports that it is done, but training has not started"))
		return
	}
	x.Done = true
	if c := m.Clusters[x.Place.Cluster]; x.Place.Stage == c.Stages-1 {
		c.Over = x.SavedAt
	}
	m.report(StageDone{Run: m.Run, Cluster: x.Place.Cluster, Stage: x.Place.Stage, Name: x.Name, Step: msg.Step})
	if m.Phase == Running {
		m.Phase = Draining
	}
	m.extend(now)
	m.finishIfDone(now)
}

func (m *Machine) failed(now time.Time, x *member, msg *proto.Failed) {
	x.Failed = true // it need not be told to stop
	why := m.where(x) + ": " + msg.Error
	if msg.Kind == proto.FailedDiverged {
		m.end(fmt.Errorf("%w: %s", ErrDiverged, why))
		return
	}
	l := loss{sentinel: ErrProviderFailed, why: why, blame: []string{x.Name}}
	switch msg.Kind {
	case proto.FailedPeer:
		peer := m.Members[msg.Peer]
		if peer == nil { // it has already left and been counted as lost
			l.blame = nil
			break
		}
		if m.Doubt == nil {
			m.Doubt = &doubt{Until: now.Add(m.set.Heartbeat)}
		}
		m.Doubt.Reports = append(m.Doubt.Reports, accusation{From: x.ID, Peer: peer.ID, Why: why})
		if !peer.Failed && peer != x && peer.Place != nil {
			m.suspect(now, peer)
		}
		m.hear(now)
		return
	case proto.FailedMemory:
		// Trying again would not give it more memory.
		s := m.strikeOf(x.Name)
		s.Count, s.Until = 0, now.Add(banned)
		l.blame = nil
	}
	m.lose(now, l)
}

// loss is the reason why an attempt ends early.
type loss struct {
	sentinel error
	why      string
	blame    []string // names
	polite   bool
	grows    bool // nobody is lost: there are more
}

// lose ends the attempt. The run goes on if it can.
func (m *Machine) lose(now time.Time, l loss) {
	if m.Phase == Draining && m.complete() {
		// The work is complete and saved.
		m.report(Warning{Err: fmt.Errorf("%w: %s; everything had been saved already", l.sentinel, l.why)})
		m.end(nil)
		return
	}
	began := m.Phase == Running || m.Phase == Draining
	if m.Interrupted {
		m.fallBack(fmt.Errorf("%w: %s", l.sentinel, l.why))
		return
	}
	if !l.polite {
		m.Fruitless++
		m.LastLoss = l.why
	}
	if began {
		m.Trained += now.Sub(m.Started)
		if !l.polite {
			m.Losses++
		}
	}
	ev := Recovering{Run: m.Run, Reason: l.why, Grows: l.grows}
	if c := m.state.Saved; c != nil {
		ev.Step = c.Position.Step
	}
	found := m.recall(now, l.blame)
	if found != nil {
		ev.Step = uint64(found.Step)
	} else if began && !l.polite {
		m.Deep++
	}
	if m.Loss != nil {
		ev.Reached = uint64(m.Loss.Step) + 1
	}
	m.stopAll(l.why)
	m.report(ev)
	m.clearAttempt()
	m.Phase = Gathering
	if m.Rescue = found; found != nil {
		m.bring()
	}
	if m.Lost.IsZero() && began {
		m.Lost = now
	}
	m.GraceUntil = now.Add(m.set.Grace)
	for _, name := range l.blame {
		m.blame(now, name)
	}
	m.sweep()
	if m.Fruitless >= max(maxFruitless, spoilt*m.Used) {
		m.end(fmt.Errorf("%w: %d attempts in a row reached no new checkpoint; the last one ended because: %s", l.sentinel, m.Fruitless, m.LastLoss))
		return
	}
	m.persist()
	m.gather(now)
}

// stopAll tells the stages of the attempt to abandon it.
func (m *Machine) stopAll(why string) {
	for _, x := range m.assigned() {
		if !x.Done && !x.Failed {
			m.send(x, &proto.Stop{Run: m.Run, Reason: why, Mode: proto.Now})
		}
	}
}

func (m *Machine) stop(now time.Time, e StopRequest) {
	switch {
	case m.Phase == Idle:
	case m.Phase == Draining && m.Interrupted && e.Mode == proto.Graceful: // already stopping
	case (m.Phase == Running || m.Phase == Draining) && e.Mode == proto.Graceful:
		m.Interrupted = true
		m.Phase = Draining
		m.extend(now)
		m.StopBy = 0
		for _, x := range m.assigned() {
			m.StopBy = max(m.StopBy, x.Last.Step+m.span())
			if !x.Done {
				m.send(x, &proto.Stop{Run: m.Run, Reason: e.Reason, Mode: proto.Graceful})
			}
		}
	case m.Began && e.Mode == proto.Graceful && m.state.Saved != nil:
		// Between two attempts nothing newer than the checkpoint can be saved.
		m.Interrupted = true
		m.stopAll(e.Reason)
		m.end(nil)
	default:
		if e.Reason == "" {
			m.end(ErrStopped)
		} else {
			m.end(fmt.Errorf("%w: %s", ErrStopped, e.Reason))
		}
	}
}

// extend restarts the deadline of draining, after a sign of progress.
func (m *Machine) extend(now time.Time) {
	wait := m.set.DrainTimeout
	if m.Interrupted {
		wait = m.set.StopTimeout
	}
	for _, c := range m.Clusters {
		wait = max(wait, min(4*c.LongGap+2*c.Cost, 2*time.Minute))
	}
	m.Deadline = now.Add(wait)
}

// drain waits for the stages to finish, up to the deadline.
func (m *Machine) drain(now time.Time) {
	var late, names []string
	for _, x := range m.assigned() {
		if !x.Done {
			late, names = append(late, m.where(x)), append(names, x.Name)
		}
	}
	if m.busyUploading() {
		m.extend(now)
	}
	if now.Before(m.Deadline) {
		if m.Interrupted && len(late) > 0 && now.Sub(m.Warned) >= warnEvery {
			m.Warned = now
			m.report(Waiting{Reason: m.stopping(now, late)})
		}
		return
	}
	if len(late) == 0 { // only the store is late
		m.end(fmt.Errorf("%w: the store did not answer", ErrTimeout))
		return
	}
	m.lose(now, loss{sentinel: ErrTimeout, why: "not finished in time: " + strings.Join(late, ", "), blame: names})
}

// warnEvery is how often a run that is being stopped says what it waits for.
const warnEvery = 5 * time.Second

// stopping says what a run that is being stopped waits for.
func (m *Machine) stopping(now time.Time, late []string) string {
	if n := m.left(); n > 0 {
		return fmt.Sprintf("stopping at the end of this round, with %d batches to go: interrupt again to stop at once", n)
	}
	return fmt.Sprintf("stopping: waiting up to %v for %s to save", m.Deadline.Sub(now).Round(time.Second), strings.Join(late, ", "))
}

// left is the number of batches to the end of the round that a run with replicas is in, where
// it can stop. An epoch's last round may be short.
func (m *Machine) left() int64 {
	span := m.span()
	if span == 0 {
		return 0
	}
	begin := int64(0)
	if n := len(m.Record); n > 0 {
		begin = int64(m.Record[n-1].Step)
	}
	least, most := int64(math.MaxInt64), max(begin, 1)
	for _, x := range m.assigned() {
		least, most = min(least, x.Last.Step), max(most, x.Last.Step)
	}
	end := int64(math.MaxInt64)
	if n := m.Job.Batches; n > 0 {
		begin = max(begin, (most-1)/n*n)
		end = (most + n - 1) / n * n
	}
	end = min(end, begin+(most-begin+span-1)/span*span)
	return max(end-least, 0)
}

// fallBack ends an interrupted run whose last state could not be saved.
func (m *Machine) fallBack(err error) {
	if m.state.Saved == nil {
		m.end(err)
		return
	}
	m.report(Warning{Err: fmt.Errorf("%w; the state of step %d is kept", err, m.state.Saved.Position.Step)})
	m.stopAll(err.Error())
	m.end(nil)
}

// complete reports whether the last state of all stages is committed. By the time a leaf
// is done, its last state is saved and all losses up to it were reported.
func (m *Machine) complete() bool {
	c := m.state.Saved
	if c == nil || c.Generation != m.Attempt || len(m.Pending) > 0 || len(m.Clusters) == 0 {
		return false
	}
	for _, k := range m.Clusters {
		if k.Over == nil || *k.Over != c.Position {
			return false
		}
	}
	return true
}

// finishIfDone ends a run whose stages are all done and stored.
func (m *Machine) finishIfDone(now time.Time) {
	if m.Phase != Draining || len(m.Pending) > 0 || m.Fault.waits() {
		return
	}
	for _, x := range m.assigned() {
		if !x.Done {
			return
		}
	}
	switch {
	case m.complete():
		m.end(nil)
	case m.Interrupted && m.state.Saved != nil:
		m.fallBack(fmt.Errorf("%w: the stages did not all save their last state at the same position", ErrStore))
	default:
		m.end(fmt.Errorf("%w: the stages are done but did not all save their last state at the same position", ErrStore))
	}
}

// end ends the run, successfully if err is nil.
func (m *Machine) end(err error) {
	c := m.state.Saved
	if err != nil {
		m.stopAll(err.Error())
		if c != nil {
			err = fmt.Errorf("%w; the last saved state (step %d, epoch %d) is kept", err, c.Position.Step, c.Position.Epoch)
		} else if m.Began {
			err = fmt.Errorf("%w; nothing had been saved yet", err)
		}
	}
	res := Result{Run: m.Run, Interrupted: m.Interrupted, Checkpoint: c}
	job := m.Job
	m.clearAttempt()
	m.Saves, m.Pending, m.Rescue = nil, nil, nil
	m.sweep()
	m.Phase = Gathering // the phase in which a restarted host would continue
	if err == nil && !res.Interrupted {
		m.act(Discard{Objects: []string{StateObject(job.ID)}})
	} else if m.Began {
		m.persist()
	}
	if err != nil {
		m.report(Failed{Result: res, Err: err})
	} else {
		m.report(Done{Result: res})
	}
	m.act(Finish{Result: res, Err: err})
	m.Job, m.Phase, m.state.Saved, m.Prior, m.inOrder = nil, Idle, nil, nil, nil
	m.Objects = map[string]bool{}
	if !m.set.Once {
		return
	}
	why := "the run is over"
	if err != nil {
		why = "the run failed: " + err.Error()
	}
	m.dismiss(proto.Text(why))
}

// deposed sends every provider to the host that leads now, and ends the run here.
func (m *Machine) deposed(err *proto.Error) {
	for _, x := range m.sorted() {
		m.send(x, err)
		m.act(HangUp{ID: x.ID, Reason: string(err.Code)})
		m.remove(x)
	}
	if m.Job != nil {
		m.end(ErrDeposed)
	}
}

// clearAttempt forgets the current attempt.
func (m *Machine) clearAttempt() {
	for _, x := range m.Members {
		x.Place, x.Ready, x.Done, x.Failed, x.Peak, x.Last = nil, false, false, false, 0, proto.Progress{}
		x.Uploads, x.SavedAt, x.Fetched = nil, nil, 0
		x.ReadyBy, x.Heard, x.MovedIn, x.MovedOut, x.LeaveBy = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
		x.WishAt = time.Time{}
	}
	m.placed = nil
	m.Doubt = nil
	m.Run, m.Started, m.Deadline, m.Warned = "", time.Time{}, time.Time{}, time.Time{}
	m.Clusters, m.Saves, m.Held = map[int]*cluster{}, nil, nil
	if m.Fault != nil {
		m.Fault.Manifest = nil
	}
	m.Loss, m.Val, m.Next, m.Ahead = nil, nil, 0, nil
}

func (m *Machine) dismiss(reason string) {
	for _, x := range m.sorted() {
		m.send(x, &proto.Bye{Reason: reason})
		m.act(HangUp{ID: x.ID, Reason: reason})
		m.remove(x)
	}
}

func (m *Machine) shutdown(now time.Time, reason string) {
	m.Closed = true
	if m.Job != nil {
		m.stop(now, StopRequest{Mode: proto.Now, Reason: reason})
	}
	m.dismiss(reason)
}
