package run

// Joining, names, heartbeats and leaving.

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

func (m *Machine) join(now time.Time, e Join) {
	if x := m.names()[e.Hello.Name]; x != nil && x.Away != "" && e.Hello.Name != "" {
		// Started anew, rather than come back.
		m.act(HangUp{ID: x.ID, Reason: "another has come with its name", Abrupt: true})
		m.leave(now, x.ID, x.Away+", and another has come with its name", false)
	}
	if m.barred(e.Hello.Name, e.Hello.Key) {
		m.act(Send{ID: e.ID, Msg: errBarred})
		m.act(HangUp{ID: e.ID, Reason: string(errBarred.Code)})
		m.report(Refused{Name: e.Hello.Name, Addr: e.Addr, Err: errBarred})
		return
	}
	holder := m.yields(e.Hello.Name)
	if holder != nil {
		m.rename(now, holder, e.Hello.Name)
	}
	asked := e.Hello.Name
	if m.lent(asked) {
		asked = ""
	}
	name, err := m.name(now, asked)
	if err != nil {
		m.act(Send{ID: e.ID, Msg: err})
		m.act(HangUp{ID: e.ID, Reason: string(err.Code) + ": " + err.Message})
		m.report(Refused{Name: e.Hello.Name, Addr: e.Addr, Err: err})
		return
	}
	given := asked == ""
	e.Hello.Token, e.Hello.Name = "", name
	x := &member{Member: Member{ID: e.ID, Name: name, Addr: e.Addr, Hello: e.Hello}, Seen: now, Given: given, Slow: len(m.Members) >= manyWait}
	m.enter(x)
	m.send(x, &proto.Welcome{
		ID: x.ID, Name: name, Heartbeat: int(m.beat(x).Milliseconds()), Timeout: int(m.timeout(x).Milliseconds()),
		Keep: int(max(m.set.Away, 0).Milliseconds()),
	})
	m.ping(now, x)
	if m.Job != nil {
		m.report(Joined{Member: x.Member, Have: len(m.Members), Want: m.Job.Want})
	}
	if holder != nil && m.Phase == Connecting && holder.Place != nil {
		m.lose(now, loss{why: fmt.Sprintf("%s has joined and its stage had been given to %s", x.Name, holder.Name), polite: true})
	}
}

// lent reports whether a name is held by a spare that trains under it. Who asks for it then
// comes too late, and joins as a spare.
func (m *Machine) lent(asked string) bool {
	x := m.names()[asked]
	return asked != "" && x != nil && x.Given && x.Place != nil && m.Phase != Connecting && m.Job != nil && m.Job.Spares && m.Job.Replan
}

// yields returns the member that has to give up its name to a provider asking for it.
// Such a member asked for no name, was given one of the job's names, and is not training.
// So stages go to the providers they were planned for, whoever joins first.
func (m *Machine) yields(asked string) *member {
	if m.Closed || m.Job == nil || len(m.Members) >= m.set.MaxMembers || !slices.Contains(m.Job.Names, asked) {
		return nil
	}
	if x := m.names()[asked]; x != nil && x.Given && (x.Place == nil || m.Phase == Connecting) {
		return x
	}
	return nil
}

// rename gives a member a name other than asked, if one is free.
func (m *Machine) rename(now time.Time, x *member, asked string) {
	name, err := m.name(now, "")
	if err != nil {
		return // no other name is free: the newcomer is turned away
	}
	m.remove(x)
	x.Name, x.Hello.Name = name, name
	m.enter(x)
	m.say(fmt.Sprintf("%s has joined; the provider that had been given this name is now %s", asked, name))
	if m.Phase == Planning {
		m.Phase = Gathering
		m.PlanSeq++ // the plan being made is for other names
	}
}

// name returns the name that a provider asking for this one gets.
func (m *Machine) name(now time.Time, asked string) (string, *proto.Error) {
	if m.Closed {
		return "", &proto.Error{Code: proto.Stopped, Message: "the signaling host is stopping", Hint: "join again when it is back"}
	}
	if len(m.Members) >= m.set.MaxMembers {
		return "", &proto.Error{Code: proto.Full, Message: fmt.Sprintf("the host already has %d providers, the most it takes", m.set.MaxMembers), Hint: "try again later"}
	}
	taken := func(n string) bool { return m.names()[n] != nil }
	var fixed []string
	spares := true
	if m.Job != nil && len(m.Job.Names) > 0 {
		fixed, spares = m.Job.Names, m.Job.Spares
	}
	if asked == "" {
		// While the others train, a lost provider's name is kept for it.
		if keep := spares && m.Job != nil && m.Job.Replan && (m.Phase == Running || m.Phase == Draining); !keep {
			for _, n := range fixed {
				if !taken(n) && !m.forbidden(now, n) && !m.barred(n, "") {
					return n, nil
				}
			}
		}
		if !spares {
			return "", &proto.Error{
				Code: proto.Full, Message: fmt.Sprintf("all %d places of the job are taken", len(fixed)),
				Hint: "join again if one of them leaves",
			}
		}
		n := m.freeNumber(func(n string) bool { return !slices.Contains(fixed, n) && !m.outOfPool(now, n) && !m.barred(n, "") })
		return "node_" + strconv.Itoa(n), nil
	}
	switch {
	case len(fixed) > 0 && !slices.Contains(fixed, asked):
		return "", unknownName(fixed, asked)
	case taken(asked):
		return "", &proto.Error{
			Code: proto.NameTaken, Message: fmt.Sprintf("a provider named %q has already joined", asked),
			Hint: fmt.Sprintf("use another name, or none to be given a free one; if that provider is dead, its name is free %v after it was last heard from", m.set.Timeout),
		}
	case m.forbidden(now, asked):
		return "", &proto.Error{
			Code: proto.Forbidden, Message: fmt.Sprintf("the provider %q failed %d times in a row", asked, m.Strikes[asked].Count),
			Hint: fmt.Sprintf("see its messages for the reason; it may join again in %v", m.Strikes[asked].Until.Sub(now).Round(time.Second)),
		}
	}
	return asked, nil
}

func unknownName(fixed []string, asked string) *proto.Error {
	hint := strings.Join(fixed[:min(len(fixed), 16)], ", ")
	if len(fixed) > 16 {
		hint += ", ..."
	}
	return &proto.Error{
		Code: proto.NameUnknown, Message: fmt.Sprintf("the job has no provider named %q", asked),
		Hint: "use one of " + hint + ", or none to be given a free one",
	}
}

// leave removes a member. A polite one has said goodbye and is not blamed.
func (m *Machine) leave(now time.Time, id, reason string, polite bool) {
	x := m.Members[id]
	if x == nil {
		return // turned away, or told to go
	}
	m.remove(x)
	if !polite {
		m.gone(x.who())
	}
	if m.Rescue != nil {
		defer func() {
			if m.Rescue != nil {
				m.unreachable(now, x.ID)
			}
		}()
	}
	ev := Left{Member: x.Member, Reason: reason}
	if x.Place != nil {
		ev.Run = m.Run
	}
	m.report(ev)
	if m.Phase == Planning && x.Place == nil {
		if len(m.Members) >= m.Job.Want {
			m.Shrunk = true
			return // the plan may do without it
		}
		m.Phase = Gathering
		m.PlanSeq++ // the plan being made is for a pool that no longer exists
		m.gather(now)
		return
	}
	if x.Place == nil || x.Failed || (m.Phase == Draining && x.Done) {
		return
	}
	if m.Phase == Running && x.Done {
		return
	}
	l := loss{sentinel: ErrProviderLost, why: m.where(x) + " left: " + reason, polite: polite}
	if !polite {
		l.blame = []string{x.Name}
	}
	m.lose(now, l)
}

// violate dismisses a member that broke the protocol.
func (m *Machine) violate(now time.Time, x *member, err error) {
	pe := &proto.Error{Code: proto.Protocol, Message: err.Error()}
	var v *proto.VersionError
	if errors.As(err, &v) {
		pe.Code = proto.BadVersion
	}
	m.send(x, pe)
	m.act(HangUp{ID: x.ID, Reason: string(pe.Code)})
	m.leave(now, x.ID, "it broke the protocol: "+err.Error(), false)
}

// letGo lets a member go that wants to leave.
func (m *Machine) letGo(now time.Time, x *member, why string) {
	m.send(x, &proto.Bye{Reason: why})
	m.act(HangUp{ID: x.ID, Reason: "bye"})
	m.leave(now, x.ID, wish(x.Wish), true)
}

func wish(reason string) string {
	if reason == "" {
		return "it said goodbye"
	}
	return "it said goodbye: " + reason
}

// A provider that fails several times in a row is kept out, for some seconds at first
// and then for minutes, so that one bad machine cannot keep a run from ending.

func (m *Machine) forbidden(now time.Time, name string) bool {
	s := m.Strikes[name]
	return s != nil && s.Forbidden && now.Before(s.Until)
}

// outOfPool reports whether a member is currently kept from getting a stage.
func (m *Machine) outOfPool(now time.Time, name string) bool {
	s := m.Strikes[name]
	return s != nil && now.Before(s.Until)
}

func (m *Machine) strikeOf(name string) *strike {
	s := m.Strikes[name]
	if s == nil {
		s = &strike{}
		m.Strikes[name] = s
	}
	return s
}

// blame counts a failure against the provider.
func (m *Machine) blame(now time.Time, name string) {
	s := m.strikeOf(name)
	if s.Forbidden && !now.Before(s.Until) {
		s.Forbidden, s.Count = false, maxStrikes-1 // it has served its time; one more failure and it is out again
	}
	s.Count++
	if s.Count < maxStrikes {
		s.Until = now.Add(time.Duration(s.Count*s.Count) * 2 * time.Second)
		return
	}
	s.Forbidden, s.Until = true, now.Add(banned)
	m.report(Warning{Err: fmt.Errorf("%s failed %d times in a row and gets no stage for %v", name, s.Count, banned)})
	for _, x := range m.sorted() {
		if x.Name == name && x.Place == nil {
			m.send(x, &proto.Error{Code: proto.Forbidden, Message: fmt.Sprintf("this provider failed %d times in a row", s.Count), Hint: "see its messages for the reason"})
			m.act(HangUp{ID: x.ID, Reason: string(proto.Forbidden)})
			m.leave(now, x.ID, "it failed too often", false)
		}
	}
}

// accused decides who is to blame when from reports that its link to peer broke: the
// peer, unless from has blamed others before and nobody else blames the peer. Those whom one owner lends
// from one machine are one: its network may be the cause of all that they say, and of what is said of them.
func (m *Machine) accused(from, peer *member) string {
	a, b := m.strikeOf(from.Name), m.strikeOf(peer.Name)
	if p := from.who().owner(); !slices.Contains(b.Accusers, p) {
		b.Accusers = append(b.Accusers, p)
	}
	if p := peer.who().owner(); !slices.Contains(a.Accusing, p) {
		a.Accusing = append(a.Accusing, p)
	}
	if len(a.Accusing) > 1 && len(b.Accusers) == 1 {
		return from.Name
	}
	return peer.Name
}

// Heartbeats and deadlines.

func (m *Machine) ping(now time.Time, x *member) {
	x.Seq++
	x.Pinged = now
	m.Turns++
	x.Turn = m.Turns
	if m.turns != nil {
		m.queue(turn{x, x.Turn})
	}
	m.send(x, &proto.Ping{Seq: x.Seq, RTT: int64(x.RTT)})
}

func (m *Machine) tick(now time.Time) {
	// If the host itself was asleep (a closed laptop, a starved core), the members'
	// silence proves nothing.
	if gap := now.Sub(m.Ticked); !m.Ticked.IsZero() && gap > m.set.Timeout/2 {
		m.slept(gap)
	}
	m.Ticked = now
	for _, x := range m.silent(now) {
		if !x.gone {
			m.act(HangUp{ID: x.ID, Reason: "no heartbeat", Abrupt: true})
			m.leave(now, x.ID, fmt.Sprintf("no heartbeat for %v", now.Sub(x.Seen).Round(100*time.Millisecond)), false)
		}
	}
	for x := m.due(now); x != nil; x = m.due(now) {
		m.ping(now, x)
	}
	for _, x := range m.missing() {
		if !x.gone && m.lostFor(now, x) {
			m.act(HangUp{ID: x.ID, Reason: x.Away, Abrupt: true})
			m.leave(now, x.ID, fmt.Sprintf("%s, and it did not return within %v", x.Away, now.Sub(x.AwayAt).Round(100*time.Millisecond)), false)
		}
	}
	for _, x := range m.wishing() {
		if !x.gone && !now.Before(x.LeaveBy) && !(m.saving() && now.Sub(x.WishAt) < maxGoodbye) {
			m.letGo(now, x, "the host could not save in time")
		}
	}
	if d := m.Doubt; d != nil && !now.Before(d.Until) {
		m.judge(now)
	}
	m.nameAgain(now)
	m.watchCheck(now)
	m.inquiring(now)
	switch m.Phase {
	case Gathering:
		if m.Rescue != nil {
			m.rescuing(now)
		}
		m.gather(now)
	case Connecting:
		m.late(now)
	case Running:
		if m.stuck(now); m.Phase == Running { // or the attempt is over
			m.grow(now)
			m.ask(now, false)
			m.askHold(now)
		}
	case Draining:
		m.drain(now)
	}
}

// slept shifts all times by which silence is measured, after the host was asleep.
func (m *Machine) slept(gap time.Duration) {
	for _, x := range m.Members {
		x.Seen = x.Seen.Add(gap)
		for _, t := range []*time.Time{&x.AwayAt, &x.Heard, &x.ReadyBy, &x.LeaveBy, &x.WishAt} {
			if !t.IsZero() {
				*t = t.Add(gap)
			}
		}
	}
	for _, c := range m.Clusters {
		c.Moved, c.Worked, c.Waited = c.Moved.Add(gap), c.Worked.Add(gap), c.Waited.Add(gap)
	}
	if !m.Deadline.IsZero() {
		m.Deadline = m.Deadline.Add(gap)
	}
	if m.Rescue != nil {
		m.Rescue.Until = m.Rescue.Until.Add(gap)
	}
	if m.Audit != nil && m.Audit.Check != nil {
		c := m.Audit.Check
		c.Until, c.Ends = c.Until.Add(gap), c.Ends.Add(gap)
	}
	if m.Inquest != nil {
		m.Inquest.Begins = m.Inquest.Begins.Add(gap)
	}
}

// Messages.

func (m *Machine) receive(now time.Time, x *member, msg proto.Message) {
	if m.checks(now, x, msg) {
		return
	}
	switch msg := msg.(type) {
	case *proto.Pong:
		if msg.Seq != x.Seq {
			return // late: the next ping has already been sent
		}
		x.RTT = max(now.Sub(x.Pinged), time.Nanosecond)
		if !x.Met {
			x.Met = true
			m.gather(now)
		}
		m.answered(now, x)
	case *proto.Bye:
		m.act(HangUp{ID: x.ID, Reason: "bye"})
		m.leave(now, x.ID, wish(msg.Reason), true)
	case *proto.Leaving:
		m.leaving(now, x, msg)
	case *proto.Signal:
		to := m.Members[msg.To]
		if !m.current(x, msg.Run) || to == nil || to.Place == nil || to == x || x.Failed {
			return // for an attempt that is over, or to a member that has just left
		}
		m.send(to, &proto.Signal{Run: msg.Run, From: x.ID, Body: msg.Body})
	case *proto.Fetching:
		if m.current(x, msg.Run) && m.Phase == Connecting && msg.Have > x.Fetched {
			x.Fetched, x.ReadyBy = msg.Have, now.Add(m.set.ReadyTimeout)
		}
	case *proto.Ready:
		if m.current(x, msg.Run) && m.Phase == Connecting && !x.Ready {
			m.readied(now, x, msg)
		}
	case *proto.Progress:
		if m.Inquest != nil {
			m.lastWords(x, msg)
		}
		if m.current(x, msg.Run) && m.rightStage(now, x, msg.Stage) {
			m.progress(now, x, msg)
		}
	case *proto.Saved:
		if m.current(x, msg.Run) && m.rightStage(now, x, msg.Stage) {
			m.save(now, x, msg)
		}
	case *proto.Held:
		if m.current(x, msg.Run) {
			m.held(now, x, msg)
		}
	case *proto.Done:
		if m.current(x, msg.Run) && m.rightStage(now, x, msg.Stage) && !x.Done {
			m.done(now, x, msg)
		}
	case *proto.Failed:
		if m.current(x, msg.Run) && m.rightStage(now, x, msg.Stage) && !x.Done {
			m.failed(now, x, msg)
		}
	default:
		m.violate(now, x, fmt.Errorf("a provider must not send %s", msg.Type()))
	}
}

// current reports whether a message of x about run concerns the current attempt. A
// message about an attempt that has just ended is not the sender's fault.
func (m *Machine) current(x *member, run string) bool {
	return x.Place != nil && !x.Failed && run == m.Run
}

func (m *Machine) rightStage(now time.Time, x *member, stage int) bool {
	if stage == x.Place.Stage {
		return true
	}
	m.violate(now, x, fmt.Errorf("it sent a message for stage %d but has stage %d", stage, x.Place.Stage))
	return false
}

// leaving answers a wish to leave: the member goes at once if nothing would be lost,
// otherwise after the next checkpoint.
func (m *Machine) leaving(now time.Time, x *member, msg *proto.Leaving) {
	if x.Wish == "" {
		m.wishes = m.with(m.wishes, x)
	}
	x.Wish = msg.Reason
	if x.Wish == "" {
		x.Wish = "no reason given"
	}
	if x.Place == nil || x.Done || x.Failed || (m.Phase != Running && m.Phase != Draining) {
		m.letGo(now, x, "nothing is lost")
		return
	}
	if !x.LeaveBy.IsZero() {
		return // it has asked before
	}
	// That is for the mark; while states are being brought, however slowly, it may take longer.
	var cost time.Duration
	for _, c := range m.Clusters { // the slowest ends the round
		cost = max(cost, 3*c.Cost+time.Duration(m.span())*c.LongGap)
	}
	x.WishAt, x.LeaveBy = now, now.Add(min(m.set.StopTimeout*2+cost, maxGoodbye))
	m.report(Waiting{Reason: fmt.Sprintf("%s wants to leave (%s): saving first", x.Name, x.Wish)})
	if m.Phase == Running {
		m.ask(now, true)
	}
}
