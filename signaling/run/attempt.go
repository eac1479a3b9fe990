package run

// Attempts: gathering a pool, planning, connecting, training, and what happens when
// one of them ends too early.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

func (m *Machine) submit(now time.Time, e Submit) {
	m.inOrder, m.wishes, m.absent = nil, nil, nil
	m.runState, m.planState = newRun(&e.Job), planState{}
	m.Stale = e.Stale
	if r := e.Earlier; r != nil {
		m.Attempt, m.state.Saved = r.Attempt, r.Checkpoint
		m.Began, m.GraceUntil = true, now.Add(restartGrace)
		m.Barred, m.Apart, m.Log.AuditIndex = r.Trust.Barred, r.Trust.Apart, r.Log
		ev := Resumed{Run: e.Job.ID}
		if c := r.Checkpoint; c != nil {
			for _, p := range c.Parts {
				m.Objects[p.Object] = true
			}
			if e.Job.AuditEvery > 0 {
				m.Trust = r.Trust
				m.link(c)
				for _, k := range m.Chain {
					for _, p := range k.Manifest.Parts {
						m.Objects[p.Object] = true
					}
				}
			}
			m.audit(AuditLine{Checkpoint: c}, c.Position.Step) // the line may have been lost with the host
			m.check(false)
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
	if m.Phase != Gathering || m.Rescue != nil || m.Inquest != nil {
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
	apart := m.apart(pool)
	free = free || (len(apart) > 0 || m.Disagreed >= maxDisagreed) && m.Job.Replan
	key := poolKey(pool, free)
	if more := m.unlinked(now, pool); len(more) > 0 && m.Job.Replan {
		if k := poolKey(pool, true) + " apart"; !slices.Contains(m.Tried, k) {
			free, key, apart = true, k, append(apart, more...)
		}
	}
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
	m.act(AskPlan{Seq: m.PlanSeq, Run: m.attempt(m.Attempt + 1), Pool: pool, Free: free, Apart: apart, Single: m.Disagreed >= maxDisagreed, Step: step, Record: record})
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
	if err == nil {
		err, e.Wait = m.keepsApart(e.Placed), true
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
	m.attemptState, m.placed = newAttempt(), nil
	m.Run, m.Record, m.Planned = m.attempt(m.Attempt), e.Placed[0].Record, now
	m.From = int64(stepOf(m.state.Saved))
	m.Next = m.From
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
	m.planState = planState{}
	if len(m.Stale) > 0 {
		m.act(Discard{Objects: m.Stale})
		m.Stale = nil
	}
	m.act(Put{Object: m.Job.ID + "/job.json", Data: record(m.Run, now, m.Job, ev.Stages)})
	m.auditPlan(ev.Stages)
	m.team(ev.Stages)
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
		Resume: m.resume(a), DigestKey: a.DigestKey,
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
	m.HoldLast = now
	for _, c := range m.Clusters {
		c.Last, c.Moved, c.Worked = now, now, now
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
		m.diverged(now, fmt.Errorf("%w: %s", ErrDiverged, why), x, m.Members[msg.Peer])
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
	case proto.FailedRound:
		l.blame = nil
		if m.Job.AuditEvery > 0 && !m.Interrupted {
			m.inquire(now, l, inquest{By: x.who(), ByID: x.ID, Err: why, Round: true})
			return
		}
		m.Disagreed++
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
	grows    bool     // nobody is lost: there are more
	back     bool     // what was trained is false, and the run has gone back
	inquest  *inquest // it is to be found out why; what providers hold is not believed
}

// lose ends the attempt. The run goes on if it can.
func (m *Machine) lose(now time.Time, l loss) {
	if m.Phase == Draining && m.complete() && !l.back {
		// The work is complete and saved.
		m.report(Warning{Err: fmt.Errorf("%w: %s; everything had been saved already", l.sentinel, l.why)})
		if m.Audit == nil || m.Interrupted {
			m.end(nil)
			return
		}
		for _, x := range m.assigned() { // it ends when it is known to be right
			x.Done = true
		}
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
	ev := Recovering{Run: m.Run, Reason: l.why, Grows: l.grows, Back: l.back}
	if c := m.state.Saved; c != nil {
		ev.Step = c.Position.Step
	}
	var found *rescue
	if !l.back && l.inquest == nil {
		found = m.recall(now, l.blame)
	}
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
	m.Inquest = l.inquest
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
